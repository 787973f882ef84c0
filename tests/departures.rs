//! The story of the four patterns on a slice of its data, with a handler killed on the way.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/demo.rs"]
mod demo;

use std::fs;
use std::path::Path;

/// Rows of the slice that are sent: a debug build takes its time.
const ROWS: usize = 1_200;

#[test]
fn what_the_queries_say_equals_the_csv_although_a_handler_is_killed() {
    let slice = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.csv");
    let text = fs::read_to_string(slice).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let csv = directory.path().join("flights.csv");
    let lines: Vec<_> = text.lines().take(ROWS + 1).collect();
    fs::write(&csv, lines.join("\n")).unwrap();

    let output = demo::run("departures", &csv);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.matches("killed with SIGKILL").count(), 1, "{stdout}");
    assert!(stdout.contains(&format!("{ROWS} commands")), "{stdout}");
    assert!(stdout.ends_with("\nequal\n"), "{stdout}");
}
