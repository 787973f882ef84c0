//! Space is freed, and nothing else goes with it: not what topics keep, nor what subscriptions know.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::log::segments;
use super::*;
use crate::embedded::checkpoint;
use crate::embedded::log::fs::Fs as _;
use crate::embedded::log::fs_sim::Faults;
use crate::engine::{Error, Page, TopicChange};
use crate::model::{Filter, Retention};

const EVERYTHING: Page = Page { after: None, limit: 1_000, pattern: None };

/// What is in the log directory.
fn segments_of(fs: &SimFs) -> Vec<u64> {
    segments::list(fs).unwrap()
}

/// Waits until at most so many segments are left.
async fn shrinks_to(fs: &SimFs, count: usize) {
    let shrinks = async {
        while segments_of(fs).len() > count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let shrank = tokio::time::timeout(Duration::from_secs(30), shrinks).await;
    shrank.unwrap_or_else(|_| panic!("{} segments stay: {:?}", segments_of(fs).len(), segments_of(fs)));
}

fn payload(n: usize) -> Vec<u8> {
    format!("{n}:").repeat(50).into_bytes()
}

/// A disk on which only the segments tell of the past.
fn only_segments(fs: &SimFs) -> SimFs {
    let fs = fs.copy();
    for (dir, ending) in [(checkpoint::DIR, ".ckp"), (segments::DIR, ".idx")] {
        for name in fs.list(dir).unwrap().iter().filter(|name| name.ends_with(ending)) {
            fs.remove(&format!("{dir}/{name}")).unwrap();
        }
    }
    fs
}

/// All that an engine knows: the first offset of each topic, and offset, time and checksum of its messages;
/// the floor and the backlog of each subscription.
type Known = (BTreeMap<Name, (Offset, Vec<(Offset, u64, u32)>)>, BTreeMap<Name, (Offset, u64)>);

async fn known(engine: &EmbeddedEngine) -> Known {
    let mut topics = BTreeMap::new();
    for topic in engine.topics(EVERYTHING).await.unwrap() {
        let (messages, damaged) = read_all(engine, topic.name.as_str()).await;
        assert_eq!(damaged, [], "in {}", topic.name);
        let summary = |message: StoredMessage| {
            (message.offset, message.publish_time.0, crc32c::crc32c(&message.envelope.0))
        };
        let messages = messages.into_iter().map(summary).collect();
        topics.insert(topic.name, (topic.first_offset, messages));
    }
    let mut subscriptions = BTreeMap::new();
    for subscription in engine.subscriptions(EVERYTHING, None).await.unwrap() {
        let stats = engine.stats(&subscription.name).await.unwrap();
        subscriptions.insert(subscription.name, (stats.committed_offset, stats.backlog_messages));
    }
    (topics, subscriptions)
}

/// What is known after a start from this disk.
async fn known_on(fs: &SimFs) -> Known {
    let engine = open(fs).await.unwrap();
    let known = known(&engine).await;
    engine.close().await;
    known
}

async fn purge(engine: &EmbeddedEngine, topic: &str) {
    engine.purge(&name(topic), Start::Latest, Intent::Apply).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_frees_the_space() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "bulk").await;
    for n in 0..500 {
        publish(&engine, "bulk", &[&payload(n)]).await.unwrap();
    }
    let before = segments_of(&fs).len();
    assert!(before >= 5, "{before}");
    purge(&engine, "bulk").await;
    shrinks_to(&fs, 1).await;
    assert_eq!(publish(&engine, "bulk", &[b"next"]).await.unwrap().first, 501);
    let expected = known(&engine).await;
    engine.close().await;
    assert_eq!(known_on(&fs.copy()).await, expected);
    assert_eq!(known_on(&only_segments(&fs)).await, expected);
}

/// A log in which little is left of each segment: every tenth message, in `kept`, and what happened to
/// subscriptions long ago.
async fn mostly_dead(fs: &SimFs) -> EmbeddedEngine {
    let engine = open(fs).await.unwrap();
    for topic in ["bulk", "kept", "gone"] {
        create_topic(&engine, topic).await;
    }
    create_subscription(&engine, "worker", "kept").await;
    create_subscription(&engine, "gone", "gone").await;
    for n in 0..500 {
        publish(&engine, if n % 10 == 0 { "kept" } else { "bulk" }, &[&payload(n)]).await.unwrap();
        if n == 100 {
            let leased = deliveries(&engine, "worker").await;
            ack(&engine, "worker", &leased[..3]).await;
            ack(&engine, "worker", &leased[5..7]).await;
            engine.delete_subscription(&name("gone"), None).await.unwrap();
            engine.delete_topic(&name("gone"), None).await.unwrap();
        }
    }
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_mostly_dead_segments_is_moved() {
    let fs = SimFs::new();
    let engine = mostly_dead(&fs).await;
    let mut expected = known(&engine).await;
    let before = segments_of(&fs).len();
    purge(&engine, "bulk").await;
    expected.0.insert(name("bulk"), (451, Vec::new()));
    shrinks_to(&fs, before / 2).await;
    assert_eq!(known(&engine).await, expected);
    // Again: what was moved is moved once more.
    for n in 0..300 {
        publish(&engine, "bulk", &[&payload(n)]).await.unwrap();
    }
    purge(&engine, "bulk").await;
    expected.0.insert(name("bulk"), (751, Vec::new()));
    shrinks_to(&fs, before / 2).await;
    assert_eq!(known(&engine).await, expected);
    engine.close().await;
    assert_eq!(known_on(&fs.copy()).await, expected);
    assert_eq!(known_on(&only_segments(&fs)).await, expected);
    // A topic that was deleted does not come back, and its number is not given again.
    let engine = open(&only_segments(&fs)).await.unwrap();
    create_topic(&engine, "gone").await;
    assert_eq!(engine.topic(&name("gone")).await.unwrap().last_offset, 0);
    let left = deliveries(&engine, "worker").await;
    let settled = [1, 2, 3, 6, 7];
    let expected: Vec<_> = (1..=50).filter(|offset| !settled.contains(offset)).collect();
    assert_eq!(left.iter().map(|delivery| delivery.message.offset).collect::<Vec<_>>(), expected);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_while_cleaning_loses_nothing_that_is_kept() {
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..12 {
        let fs = SimFs::new();
        let engine = mostly_dead(&fs).await;
        let mut expected = known(&engine).await;
        purge(&engine, "bulk").await;
        expected.0.insert(name("bulk"), (451, Vec::new()));
        // Cut at another moment each time: after so many segments went.
        let left = segments_of(&fs).len().saturating_sub(round);
        shrinks_to(&fs, left.max(4)).await;
        let cut = fs.after_power_cut(&mut random);
        engine.close().await;
        for disk in [cut.copy(), only_segments(&cut)] {
            assert_eq!(known_on(&disk).await, expected, "round {round}");
        }
        // Cleaning goes on, and so does everything else.
        let engine = open(&cut).await.unwrap();
        shrinks_to(&cut, 4).await;
        publish(&engine, "kept", &[b"more"]).await.unwrap();
        let now = known(&engine).await;
        assert_eq!(now.0[&name("kept")].1[..50], expected.0[&name("kept")].1[..]);
        engine.close().await;
        assert_eq!(known_on(&cut).await, now);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_a_limit_stays_small_and_its_readers_go_on() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "bulk").await;
    create_subscription(&engine, "slow", "bulk").await;
    let retention = Retention { max_bytes: Some(20_000), ..Retention::default() };
    let change =
        TopicChange { retention: Some(retention), max_message_bytes: Some(1_000), ..TopicChange::default() };
    engine.update_topic(&name("bulk"), change, None, Intent::Apply).await.unwrap();
    let mut follower = engine
        .subscribe(
            Target::Ephemeral {
                topic: name("bulk").into(),
                start: Start::Earliest,
                filter: Filter::default(),
            },
            CREDIT,
        )
        .await
        .unwrap();
    let reader = tokio::spawn(async move {
        let mut last = 0;
        while last < 3_000 {
            for delivery in follower.next().await.unwrap() {
                assert!(delivery.message.offset > last);
                last = delivery.message.offset;
            }
        }
    });
    for n in 0..3_000 {
        publish(&engine, "bulk", &[&payload(n)]).await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(30), reader).await.unwrap().unwrap();
    // The limit, in segments, and two more.
    shrinks_to(&fs, 4).await;
    let is_small = async {
        while engine.topic(&name("bulk")).await.unwrap().stored_bytes > 20_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_small).await.unwrap();
    let topic = engine.topic(&name("bulk")).await.unwrap();
    assert!(topic.stored_bytes > 15_000, "only {} bytes are kept", topic.stored_bytes);
    let first = deliveries(&engine, "slow").await[0].message.offset;
    assert!(first >= topic.first_offset);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_with_damage_is_kept_for_whoever_can_mend_it() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "bulk").await;
    for n in 0..200 {
        publish(&engine, "bulk", &[&payload(n)]).await.unwrap();
    }
    engine.close().await;
    let first = segments::path(segments_of(&fs)[0]);
    let fs = only_segments(&fs);
    let mut bytes = fs.bytes(&first);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs.set_bytes(&first, bytes);

    let engine = open(&fs).await.unwrap();
    purge(&engine, "bulk").await;
    shrinks_to(&fs, 2).await;
    assert!(fs.exists(&first).unwrap());
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_the_log_has_filled_is_freed_by_a_purge() {
    let fs = SimFs::new();
    let options = || Options { disk_reserve_bytes: 60_000, ..OPTIONS };
    let open = async |fs: &SimFs| {
        EmbeddedEngine::open_on(Arc::new(fs.clone()), "simulated", options()).await.unwrap()
    };
    let engine = open(&fs).await;
    create_topic(&engine, "bulk").await;
    create_topic(&engine, "kept").await;
    create_subscription(&engine, "worker", "bulk").await;
    publish(&engine, "kept", &[b"kept"]).await.unwrap();
    fs.set_faults(Faults { capacity: Some(400_000), ..Faults::default() });
    let (mut count, mut kept) = (0, 1);
    let full = loop {
        match publish(&engine, "bulk", &[&payload(count)]).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        // No segment will be quite dead.
        if count % 20 == 0 && publish(&engine, "kept", &[b"kept"]).await.is_ok() {
            kept += 1;
        }
    };
    assert!(matches!(full, Error::DiskFull { .. }), "{full:?}");
    let leased = deliveries(&engine, "worker").await;
    assert_eq!(leased.len(), count);
    ack(&engine, "worker", &leased[..10]).await;
    engine.close().await;

    let engine = open(&fs).await;
    publish(&engine, "bulk", &[b"more"]).await.unwrap_err();
    assert_eq!(deliveries(&engine, "worker").await.len(), count - 10);
    purge(&engine, "bulk").await;
    let goes_on = async {
        while publish(&engine, "bulk", &[b"more"]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), goes_on).await.unwrap();
    let (messages, damaged) = read_all(&engine, "kept").await;
    assert_eq!((messages.len(), damaged), (kept, Vec::new()));
    assert!(messages.iter().all(|message| message.envelope.0 == b"kept".as_slice()));
    engine.close().await;
}

/// Times of publishes one after the other, in microseconds, the slowest last.
async fn publish_times(retention: Retention) -> Vec<u128> {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 32 << 20, disk_reserve_bytes: 0, ..Options::default() };
    let engine = EmbeddedEngine::open(dir.path(), options).await.unwrap();
    let settings = TopicSettings { retention, ..TopicSettings::default() };
    engine.create_topic(name("bulk"), settings, Intent::Apply).await.unwrap();
    let messages = vec![Envelope(Bytes::from(vec![7; 64 << 10])); 4];
    let mut times = Vec::new();
    for _ in 0..2_000 {
        let start = std::time::Instant::now();
        let pending =
            engine.submit(&name("bulk"), messages.clone(), Durability::Fsynced.into()).await.unwrap();
        pending.await.unwrap();
        times.push(start.elapsed().as_micros());
    }
    let on_disk: u64 = std::fs::read_dir(dir.path().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    println!("{} MiB on disk after 500 MiB", on_disk >> 20);
    engine.close().await;
    times.sort_unstable();
    times
}

/// Measures, so that it asserts nothing: `cargo test --release -- cleaning_and_publishing --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn cleaning_and_publishing() {
    for round in 0..3 {
        for (what, retention) in [
            ("all kept", Retention::default()),
            ("50 MiB kept", Retention { max_bytes: Some(50 << 20), ..Retention::default() }),
        ] {
            let times = publish_times(retention).await;
            let at = |percent: usize| times[(times.len() - 1) * percent / 100];
            println!("{round}: {what}: p50 {} µs, p99 {} µs, max {} µs", at(50), at(99), at(100));
        }
    }
}
