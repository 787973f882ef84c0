//! The README and the pages of docs with commands: they work and print what they are said to print.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use process::ServerProcess;

/// How long an example may take, building it included.
const PATIENCE: Duration = Duration::from_secs(600);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a page as a reader would, with `scripts/try-docs.sh`.
fn works(page: &str) {
    works_with(page, "1.9.4");
}

/// The same with another release of grpcurl.
fn works_with(page: &str, grpcurl: &str) {
    let program = root().join(format!(".tools/grpcurl-{grpcurl}/grpcurl"));
    if !program.exists() {
        let why = format!("skipped: grpcurl {grpcurl} is not in .tools; `make test` fetches it");
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let mut command = Command::new(root().join("scripts/try-docs.sh"));
    command.arg(root().join(page));
    command.env("COLUMBA", env!("CARGO_BIN_EXE_columba")).env("GRPCURL", program);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn readme() {
    works("README.md");
}

/// It knows reflection v1alpha only.
#[test]
fn readme_with_an_old_grpcurl() {
    works_with("README.md", "1.8.6");
}

#[test]
fn the_example_prints_what_the_readme_says() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let told = readme.split("--example put_and_top` prints\n\n```text\n").nth(1).unwrap();
    let told = told.split("```").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(directory.path());
    let mut command = assert_cmd::Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--locked", "--example", "put_and_top", "--"]);
    command.arg(format!("http://{}", server.address));
    let output = command.timeout(PATIENCE).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, told, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn queue() {
    works("docs/patterns/queue.md");
}

#[test]
fn publish_subscribe() {
    works("docs/patterns/publish-subscribe.md");
}

#[test]
fn reliable_messaging() {
    works("docs/patterns/reliable-messaging.md");
}

#[test]
fn command_query() {
    works("docs/patterns/command-query.md");
}

#[test]
fn queries() {
    works("docs/queries.md");
}

#[test]
fn key_values() {
    works("docs/key-values.md");
}

#[test]
fn security() {
    works("docs/security.md");
}

/// The pages with commands are run, or are known not to be.
#[test]
fn every_page_with_commands_is_tried() {
    let me = fs::read_to_string(root().join("tests/docs.rs")).unwrap();
    let script = fs::read_to_string(root().join("scripts/try-docs.sh")).unwrap();
    // tests/helm runs the first.
    let others = ["docs/kubernetes.md"];
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        if !text.contains("\n```sh\n") || others.contains(&&*page) {
            continue;
        }
        assert!(
            me.contains(&format!("works(\"{page}\")")),
            "{page} has commands and no test in tests/docs.rs"
        );
        let name = page.rsplit('/').next().unwrap().trim_end_matches(".md");
        let tried = page.starts_with("docs/patterns/") || script.contains(name);
        assert!(tried, "{page} is not among the pages that scripts/try-docs.sh tries by itself");
    }
}

/// The README and all pages of docs, from the root.
fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for directory in ["docs", "docs/patterns"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                pages.push(format!("{directory}/{name}"));
            }
        }
    }
    pages
}

/// What the server takes, from what it says of a key that it does not know.
#[test]
fn the_page_of_settings_has_every_setting() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("columba.toml");
    fs::write(&config, "nothing = 1\n").unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_columba"))
        .env_clear()
        .args([PathBuf::from("serve"), "--config".into(), config])
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    let keys = said.split("the keys are ").nth(1).expect("it tells its keys").trim().split(", ");
    let known: BTreeSet<_> = keys
        .map(|key| (key.to_owned(), format!("COLUMBA_{}", key.replace('.', "_").to_uppercase())))
        .collect();

    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"));
    let told = rows.filter_map(|(key, rest)| Some((key.to_owned(), rest.split_once('`')?.0.to_owned())));
    assert_eq!(told.collect::<BTreeSet<_>>(), known);
}
