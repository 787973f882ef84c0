//! The protos are linted, and every element of them is documented.

use std::path::Path;
use std::process::Command;

use prost::Message as _;
use prost_types::FileDescriptorSet;

#[test]
fn buf_lint_is_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let buf = root.join(".tools/buf/node_modules/.bin/buf");
    if !buf.exists() {
        let why = "skipped: buf is not in .tools; `make test` fetches it";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let lint = Command::new(buf).arg("lint").current_dir(root).output().expect("buf runs");
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
}

#[test]
fn every_element_has_a_comment() {
    let set = FileDescriptorSet::decode(columba::proto::FILE_DESCRIPTOR_SET).expect("made by the build");
    let mut checked = 0;
    for file in set.file.iter().filter(|file| file.package().starts_with("columba.")) {
        for location in &file.source_code_info.as_ref().expect("kept by the build").location {
            // Paths of messages (4), enums (5) and services (6), their fields, values, methods and
            // oneofs, but not of the parts of each.
            let path = &location.path;
            let element = matches!(path.first(), Some(4..=6))
                && (path.len() == 2 || (path.len() == 4 && matches!(path[2], 2 | 8)));
            if element && !(path.len() == 4 && path[0] == 6 && path[2] != 2) {
                checked += 1;
                assert!(!location.leading_comments().trim().is_empty(), "{} {path:?}", file.name());
            }
        }
    }
    assert!(checked > 200, "looked at everything: {checked}");
}
