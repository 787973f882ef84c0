//! An example program, run as its readers would run it.

#![allow(unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Longer than it takes on any machine.
const PATIENCE: Duration = Duration::from_mins(10);

/// Runs an example on the program under test and a file, to its end.
pub fn run(example: &str, csv: &Path) -> Output {
    // Through cargo, which builds examples only when all tests are built.
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--locked", "--example", example, "--", "--csv"]).arg(csv);
    command.arg("--columba").arg(env!("CARGO_BIN_EXE_columba"));
    // A group of its own: what is killed in the end is all that it has started, which would else keep its output
    // open.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let group = format!("-{}", child.id());
    let (ended, is_over) = channel::<()>();
    let watchdog = thread::spawn(move || {
        if is_over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            Command::new("kill").args(["-KILL", "--", &group]).status().unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watchdog.join().unwrap();
    output
}
