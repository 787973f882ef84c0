//! The demonstration on a slice of its data: published, consumed, killed twice, and compared.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// Longer than it takes on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn slice() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.csv")
}

fn demonstrate(csv: &Path) -> Output {
    // Through cargo, which builds examples only when all tests are built.
    let mut command = assert_cmd::Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--locked", "--example", "flights", "--", "--csv"]).arg(csv);
    command.arg("--columba").arg(env!("CARGO_BIN_EXE_columba"));
    command.timeout(PATIENCE).output().unwrap()
}

#[test]
fn what_is_consumed_equals_the_csv_through_two_kills() {
    let output = demonstrate(&slice());
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.matches("killed with SIGKILL").count(), 2, "{stdout}");
    assert!(stdout.contains("10206"), "{stdout}");
    assert!(stdout.ends_with("\nequal\n"), "{stdout}");
}

#[test]
fn a_damaged_csv_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(slice()).unwrap();
    // Cut in the middle of a row.
    let cut = dir.path().join("cut.csv");
    fs::write(&cut, &text[..text.len() / 2]).unwrap();
    let output = demonstrate(&cut);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("error"), "{output:?}");
}
