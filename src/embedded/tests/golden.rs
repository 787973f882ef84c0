//! Data directories that earlier versions wrote must stay readable: `tests/data/README.md` says what
//! is in them.

use std::fs;
use std::path::Path;

use super::{ALL, ack, deliveries, name, publish};
use crate::embedded::{EmbeddedEngine, Options};
use crate::engine::{Engine, Error};
use crate::model::{Offset, Start};

const SEGMENT: &str = "log/00000000000000000001.seg";

/// A copy of a committed data directory: opening one writes to it.
fn copy(version: &str) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(version);
    let to = tempfile::tempdir().unwrap();
    fs::create_dir(to.path().join("log")).unwrap();
    for file in ["columba.meta", SEGMENT] {
        fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    to
}

#[tokio::test]
async fn format_1_is_read_and_written_on() {
    let dir = copy("format-1");
    let before = fs::read(dir.path().join(SEGMENT)).unwrap();
    let options = || Options { disk_reserve_bytes: 0, ..Options::default() };
    let engine = EmbeddedEngine::open(dir.path(), options()).await.unwrap();

    let orders = name("orders.created");
    let messages = engine.read(&orders, Start::Earliest, ALL).await.unwrap();
    let offsets: Vec<Offset> = messages.iter().map(|message| message.offset).collect();
    assert_eq!(offsets, [1, 2, 3, 4, 5]);
    // A `columba.v1.Message` whose field 1, the data, is "one".
    assert_eq!(messages[0].envelope.0, b"\x0a\x03one".as_slice());
    assert_eq!(messages[0].publish_time.0, 1_795_488_846_939_055);
    assert!(matches!(engine.topic(&name("gone")).await, Err(Error::TopicNotFound(_))));
    let stats = engine.stats(&name("billing")).await.unwrap();
    assert_eq!((stats.committed_offset, stats.backlog_messages), (2, 3));

    assert_eq!(publish(&engine, "orders.created", &[b"six"]).await.unwrap().first, 6);
    let rest = deliveries(&engine, "billing").await;
    assert_eq!(ack(&engine, "billing", &rest).await, 6);
    engine.close().await;

    // What was there stays as it was, byte for byte.
    let after = fs::read(dir.path().join(SEGMENT)).unwrap();
    assert_eq!(after[..before.len()], before);
    let engine = EmbeddedEngine::open(dir.path(), options()).await.unwrap();
    assert_eq!(engine.stats(&name("billing")).await.unwrap().committed_offset, 6);
}
