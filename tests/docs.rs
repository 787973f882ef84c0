//! The pages under docs/patterns, and those on queries, key-values and security: their commands work and print
//! what they are said to print.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

use std::path::Path;
use std::process::Command;

/// Runs a page as a reader would, with `scripts/try-docs.sh`.
fn works(page: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let grpcurl = root.join(".tools/grpcurl-1.9.4/grpcurl");
    if !grpcurl.exists() {
        let why = "skipped: grpcurl 1.9.4 is not in .tools; `make test` fetches it";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let mut command = Command::new(root.join("scripts/try-docs.sh"));
    command.arg(root.join("docs").join(page));
    command.env("COLUMBA", env!("CARGO_BIN_EXE_columba")).env("GRPCURL", grpcurl);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn queue() {
    works("patterns/queue.md");
}

#[test]
fn publish_subscribe() {
    works("patterns/publish-subscribe.md");
}

#[test]
fn reliable_messaging() {
    works("patterns/reliable-messaging.md");
}

#[test]
fn command_query() {
    works("patterns/command-query.md");
}

#[test]
fn queries() {
    works("queries.md");
}

#[test]
fn key_values() {
    works("key-values.md");
}

#[test]
fn security() {
    works("security.md");
}
