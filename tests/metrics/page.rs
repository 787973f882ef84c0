//! The page as a whole: every metric is described, and docs/metrics.md has the same.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use columba::embedded::{EmbeddedEngine, Options as EngineOptions};
use columba::engine::Engine;
use columba::server::Options;
use columba::server::metrics::FAMILIES;

use crate::Server;
use crate::common::TestServer;
use crate::scrape::{Scrape, get};

/// What stands around the table in docs/metrics.md.
const MARKS: [&str; 2] = ["<!-- metrics -->\n", "<!-- end of metrics -->\n"];

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_described_as_the_list_has_it() {
    let server = Server::start().await;
    let scrape = server.scrape().await;
    assert_eq!(scrape.families.len(), FAMILIES.len());
    for (told, listed) in scrape.families.iter().zip(FAMILIES) {
        let name = listed.full_name();
        assert!(name.starts_with("columba_"), "{name}");
        assert!(name.starts_with(&told.name), "{name} is told as {}", told.name);
        assert_eq!((&*told.kind, &*told.unit), (listed.kind(), listed.unit()), "{name}");
        assert_eq!(told.help, listed.help, "{name}");
        assert!(told.help.len() > 10 && told.help.ends_with('.'), "{name}: {}", told.help);
        for labels in &told.labels {
            assert_eq!(labels, listed.labels, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_labels_are_few() {
    // Whatever a client makes up must not become a label.
    let allowed = ["topic", "subscription", "method", "code", "outcome", "version", "engine"];
    for family in FAMILIES {
        assert!(family.labels.iter().all(|label| allowed.contains(label)), "{}", family.full_name());
    }
}

#[test]
fn the_docs_have_the_same_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).expect("the table has its marks");
    let (_, after) = rest.split_once(MARKS[1]).expect("the table has its marks");
    let right = [before, MARKS[0], &table(), MARKS[1], after].concat();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, right).unwrap();
    } else {
        assert!(text == right, "docs/metrics.md is old: UPDATE_DOCS=1 cargo test --test metrics docs");
    }
}

fn table() -> String {
    let mut table = "| name | type | unit | labels | tells |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for family in FAMILIES {
        let (name, labels) = (family.full_name(), family.labels.join(", "));
        let row =
            format!("| `{name}` | {} | {} | {labels} | {} |", family.kind(), family.unit(), family.help);
        writeln!(table, "{row}").unwrap();
    }
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_none_once_the_engine_is_closed() {
    let data = tempfile::tempdir().unwrap();
    let engine = EmbeddedEngine::open(data.path(), EngineOptions::default()).await.unwrap();
    let server = TestServer::start_on(Arc::new(engine.clone()), Options::default()).await;
    Scrape::take(server.admin).await;
    engine.close().await;
    let admin = server.admin;
    let (head, body) = tokio::task::spawn_blocking(move || get(admin, "/metrics")).await.unwrap();
    assert!(head.starts_with("HTTP/1.0 503"), "{head}");
    assert!(body.starts_with("no metrics: "), "{body}");
}
