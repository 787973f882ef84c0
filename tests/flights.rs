//! The demonstration on a slice of its data: published, consumed, killed twice, and compared.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/demo.rs"]
mod demo;

use std::fs;
use std::path::{Path, PathBuf};

fn slice() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.csv")
}

#[test]
fn what_is_consumed_equals_the_csv_through_two_kills() {
    let output = demo::run("flights", &slice());
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
    let output = demo::run("flights", &cut);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("error"), "{output:?}");
}
