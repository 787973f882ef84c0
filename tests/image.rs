//! The Dockerfile, as far as it can be checked without a container engine. What it builds is run by
//! `scripts/static-binary.sh check`.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

use std::fs;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The arguments of each of an instruction, its continued lines joined.
fn instructions(name: &str) -> Vec<String> {
    let dockerfile = read("Dockerfile").replace("\\\n", " ");
    let found = dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map(str::to_owned).collect()
}

/// What is copied from the sources.
fn copied() -> Vec<String> {
    let copies = instructions("COPY").into_iter().filter(|copy| !copy.starts_with("--from"));
    let words = copies.map(|copy| copy.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    words.flat_map(|mut words| words.drain(..words.len() - 1).collect::<Vec<_>>()).collect()
}

#[test]
fn hadolint_is_clean() {
    let hadolint = root().join(".tools/hadolint/bin/hadolint");
    if !hadolint.exists() {
        let why = "skipped: hadolint is not in .tools; `make test` fetches it";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let lint = Command::new(hadolint).arg(root().join("Dockerfile")).output().unwrap();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
}

#[test]
fn what_is_copied_is_there_and_is_all_that_cargo_wants() {
    let let_through = read(".dockerignore");
    let let_through: Vec<_> = let_through.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(copied(), let_through, "COPY and .dockerignore name the same, in the same order");

    let context = tempfile::tempdir().unwrap();
    for path in copied() {
        let to = context.path().join(&path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-r").arg(root().join(&path)).arg(to).status().unwrap();
        assert!(copied.success(), "{path} is there");
    }
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version=1"]).current_dir(&context);
    let metadata = metadata.output().unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
}

/// Sources that a build reads by a path of their own would be missing in the image's.
#[test]
fn sources_include_nothing_from_elsewhere() {
    let grep = ["-rnE", r"include_(str|bytes)!|CARGO_MANIFEST_DIR", "src", "build.rs"];
    let found = Command::new("grep").args(grep).current_dir(root()).output().unwrap();
    assert!(found.status.code().is_some_and(|code| code < 2), "grep works");
    let found = String::from_utf8(found.stdout).unwrap();
    let elsewhere: Vec<_> = found.lines().filter(|line| line.contains("../")).collect();
    assert_eq!(elsewhere, Vec::<&str>::new());
}

#[test]
fn it_is_as_the_chart_and_the_manifest_say() {
    let values = read("helm/columba/values.yaml");
    let [user] = &instructions("USER")[..] else { panic!("one USER") };
    for key in ["runAsUser", "runAsGroup"] {
        let id = user.split(':').next().unwrap();
        assert!(values.contains(&format!("{key}: {id}\n")), "{key} is {id}");
    }
    assert_eq!(instructions("EXPOSE"), ["7171 7172"]);
    assert_eq!(instructions("VOLUME"), ["/var/lib/columba"]);
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert_eq!(instructions("FROM"), [format!("rust:{rust}-bookworm AS build"), "scratch".into()]);
    let tag = concat!("docker build -t columba:", env!("CARGO_PKG_VERSION"));
    assert!(read("Dockerfile").contains(tag), "the version of the example");
}
