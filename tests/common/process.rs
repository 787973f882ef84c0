//! A server in a process of its own, that can be killed and started again.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The program under test, without settings from the environment.
pub fn columba(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_columba"));
    command.args(arguments).env_remove("COLUMBA_CONFIG").env_remove("COLUMBA_SERVER");
    command
}

/// A server process. Killed when it goes out of scope; its data stays.
pub struct ServerProcess {
    child: Child,
    /// What starts it: a program and its arguments, before its own.
    through: Vec<String>,
    data_dir: PathBuf,
    /// Where the API is served; the same after a restart.
    pub address: String,
}

impl ServerProcess {
    /// Starts a server on a free port and waits until it serves.
    pub fn start(data_dir: &Path) -> Self {
        Self::start_through(&[], data_dir)
    }

    /// Starts it by another program, such as `env`, which becomes the server.
    pub fn start_through(through: &[&str], data_dir: &Path) -> Self {
        let through: Vec<_> = through.iter().map(|&word| word.to_owned()).collect();
        let (child, address) = serve(&through, "127.0.0.1:0", data_dir);
        Self { child, through, data_dir: data_dir.to_owned(), address }
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts a server again where the killed one was, and kills it so soon that it may not serve yet.
    pub async fn start_and_kill(&mut self, after: Duration) {
        let mut child = spawn(&self.through, &self.address, &self.data_dir);
        tokio::time::sleep(after).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a server again where the killed one was, and waits until it serves.
    pub fn restart(&mut self) {
        (self.child, self.address) = serve_again(&self.through, &self.address, &self.data_dir);
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(through: &[String], listen: &str, data_dir: &Path) -> Child {
    let mut command = match through {
        [] => columba(&[]),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(env!("CARGO_BIN_EXE_columba"));
            command.env_remove("COLUMBA_CONFIG").env_remove("COLUMBA_SERVER");
            command
        }
    };
    command.args(["serve", "--listen", listen, "--admin-listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(data_dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn serve(through: &[String], listen: &str, data_dir: &Path) -> (Child, String) {
    try_serve(through, listen, data_dir).expect("it serves")
}

/// On a port that was free for a moment: somebody else's connection may have taken it meanwhile.
fn serve_again(through: &[String], listen: &str, data_dir: &Path) -> (Child, String) {
    const TRIES: usize = 50;
    (0..TRIES).find_map(|_| try_serve(through, listen, data_dir)).expect("it serves again")
}

fn try_serve(through: &[String], listen: &str, data_dir: &Path) -> Option<(Child, String)> {
    let mut child = spawn(through, listen, data_dir);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Some(address) = line.split("gRPC on ").nth(1).and_then(|rest| rest.split(',').next()) else {
        child.wait().unwrap();
        return None;
    };
    let address = address.to_owned();
    Some((child, address))
}
