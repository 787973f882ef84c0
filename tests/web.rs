//! A page in a real browser that calls the server by gRPC-Web; see tests/web.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

#[test]
fn a_page_publishes_subscribes_and_acks_and_one_of_another_origin_does_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (tools, buf) = (root.join(".tools/web"), root.join(".tools/buf/node_modules/.bin/buf"));
    if !tools.join("installed").exists() || !buf.exists() {
        let why = "skipped: the browser and its libraries are not in .tools; `make test` fetches them for 64-bit \
                   Linux with npm";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let mut command = Command::new("node");
    command.arg(root.join("tests/web/run.mjs")).arg(env!("CARGO_BIN_EXE_columba")).arg(buf).arg(tools);
    let output = command.arg(work.path()).env_remove("COLUMBA_CONFIG").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let own = json!({
        "lastOffset": 3,
        "texts": ["one", "two", "three"],
        "backlog": 0,
        "code": "NotFound",
        "details": 2,
    });
    assert_eq!(said["own"], own);
    let foreign = said["foreign"]["error"].as_str().unwrap();
    assert!(foreign.contains("Failed to fetch"), "{foreign}");
}
