//! The table is whole, and the docs have the same one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::Rpc;
use super::table::TABLE;
use crate::proto::FILE_DESCRIPTOR_SET;

#[test]
fn every_rpc_has_an_entry() {
    let descriptors = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut declared = BTreeMap::new();
    for file in descriptors.file.iter().filter(|file| file.package().starts_with("columba.")) {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                declared.insert(name, method.server_streaming());
            }
        }
    }
    let entries: BTreeMap<_, _> =
        TABLE.iter().map(|rpc| (format!("{}/{}", rpc.service, rpc.method), rpc.streams)).collect();
    assert_eq!(entries, declared, "src/api/access/table.rs has every RPC, with `stream` where it stays open");
    assert_eq!(TABLE.len(), declared.len(), "and each once");
}

/// A row of the table in docs/security.md.
fn row(rpc: &Rpc) -> String {
    let mut row = format!("| `{}.{}` | ", rpc.service.rsplit('.').next().unwrap(), rpc.method);
    if rpc.asks.is_empty() {
        row.push_str("nothing");
    }
    for (index, (verb, fields)) in rpc.asks.iter().enumerate() {
        let _ = write!(row, "{}`{verb}`: {fields}", if index == 0 { "" } else { "; " });
    }
    row + " |"
}

#[test]
fn the_docs_have_the_same_table() {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).unwrap();
    let rows: Vec<_> = TABLE.iter().map(|rpc| row(rpc)).collect();
    let documented: Vec<_> =
        docs.lines().filter(|line| line.starts_with("| `") && line.contains("Service.")).collect();
    assert!(rows == documented, "docs/security.md should have these rows:\n{}", rows.join("\n"));
}
