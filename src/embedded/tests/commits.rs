//! Commits on a disk that fails: all of one or nothing.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::log::fs_sim::Faults;
use super::*;
use crate::engine::{Error, Operation, Outcome, Terms};

const MESSAGES: u64 = 40;
/// Where a worker's results go: one message to each, for every message that it takes.
const RESULTS: [&str; 2] = ["invoices", "shipments"];

async fn prepare(engine: &EmbeddedEngine) {
    create_topic(engine, "orders").await;
    for topic in RESULTS {
        create_topic(engine, topic).await;
    }
    create_subscription(engine, "worker", "orders").await;
    create_subscription(engine, "auditor", "orders").await;
    for n in 0..MESSAGES {
        publish(engine, "orders", &[n.to_string().as_bytes()]).await.unwrap();
    }
}

/// A result of the message with this offset for each topic, and the acks of two subscriptions.
fn operations(deliveries: [&Delivery; 2]) -> Vec<Operation> {
    let offset = deliveries[0].message.offset;
    let result = |topic| Operation::Publish {
        topic: name(topic),
        messages: vec![Envelope(Bytes::from(format!("{offset}/{}", "x".repeat(500))))],
        terms: Terms::default(),
    };
    let ack = |subscription, delivery: &Delivery| Operation::Ack {
        subscription: name(subscription),
        ids: vec![delivery.ack_id.clone()],
    };
    let [worker, auditor] = deliveries;
    vec![result(RESULTS[0]), ack("worker", worker), ack("auditor", auditor), result(RESULTS[1])]
}

/// The offsets whose results are in a topic, each of which must be there once.
async fn done(engine: &EmbeddedEngine, topic: &str) -> BTreeSet<Offset> {
    let (messages, damaged) = read_all(engine, topic).await;
    assert_eq!(damaged, []);
    let offset = |message: &StoredMessage| {
        String::from_utf8_lossy(&message.envelope.0).split('/').next().unwrap().parse::<Offset>().unwrap()
    };
    let offsets: Vec<_> = messages.iter().map(offset).collect();
    let distinct: BTreeSet<_> = offsets.iter().copied().collect();
    assert_eq!(distinct.len(), offsets.len(), "{topic} has a result twice");
    distinct
}

/// Takes messages, commits their results and acks, and stops when the engine does. Some commits are made
/// to fail.
async fn work(engine: EmbeddedEngine, mut random: StdRng) {
    let auditor: BTreeMap<_, _> = deliveries(&engine, "auditor")
        .await
        .into_iter()
        .map(|delivery| (delivery.message.offset, delivery))
        .collect();
    let mut commits = tokio::task::JoinSet::new();
    for delivery in deliveries(&engine, "worker").await {
        let mut operations = operations([&delivery, &auditor[&delivery.message.offset]]);
        if random.random_ratio(1, 5) {
            let terms = Terms { expected_last: Some(1 << 40), ..Terms::default() };
            let messages = vec![Envelope(Bytes::from_static(b"0/"))];
            operations.push(Operation::Publish { topic: name(RESULTS[0]), messages, terms });
        }
        let engine = engine.clone();
        commits.spawn(async move { engine.commit(operations).await });
        if random.random_ratio(1, 3) {
            let _ = commits.join_next().await;
        }
    }
    commits.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_leaves_all_of_a_commit_or_nothing() {
    let mut between = 0;
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let fs = SimFs::new();
        let engine = open(&fs).await.unwrap();
        prepare(&engine).await;
        let wanted = random.random_range(0..MESSAGES / 2);
        let worker = tokio::spawn(work(engine.clone(), StdRng::seed_from_u64(!seed)));
        while engine.topic(&name(RESULTS[0])).await.unwrap().last_offset < wanted {
            tokio::task::yield_now().await;
        }
        let confirmed = done(&engine, RESULTS[1]).await;
        let left = fs.after_power_cut(&mut random);
        worker.await.unwrap();
        engine.close().await;

        let engine = open(&left).await.unwrap();
        let results = [done(&engine, RESULTS[0]).await, done(&engine, RESULTS[1]).await];
        assert_eq!(results[0], results[1], "seed {seed}");
        assert!(results[0].is_superset(&confirmed), "seed {seed}: what was seen is there");
        for subscription in ["worker", "auditor"] {
            let again = deliveries(&engine, subscription).await;
            let again: BTreeSet<_> = again.iter().map(|delivery| delivery.message.offset).collect();
            let expected: BTreeSet<_> = (1..=MESSAGES).filter(|it| !results[0].contains(it)).collect();
            assert_eq!(again, expected, "seed {seed}: {subscription} gets what has no result");
        }
        between += usize::from(!results[0].is_empty() && (results[0].len() as u64) < MESSAGES);
        engine.close().await;
    }
    assert!(between > 20, "only {between} cuts came between the first and the last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_leaves_deliveries_as_they_were_and_acks_alone_still_work() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    prepare(&engine).await;
    engine.close().await;
    let options = Options { disk_reserve_bytes: 1 << 50, ..OPTIONS };
    let engine = EmbeddedEngine::open_on(Arc::new(fs), "simulated", options).await.unwrap();
    let worker = deliveries(&engine, "worker").await;
    let auditor = deliveries(&engine, "auditor").await;
    let refused = engine.commit(operations([&worker[0], &auditor[0]])).await;
    assert!(matches!(&refused, Err(Error::DiskFull { .. })), "{refused:?}");
    let stats = engine.stats(&name("worker")).await.unwrap();
    assert_eq!((stats.in_flight, stats.backlog_messages), (MESSAGES, MESSAGES));
    let acks: Vec<_> = operations([&worker[0], &auditor[0]])
        .into_iter()
        .filter(|operation| matches!(operation, Operation::Ack { .. }))
        .collect();
    assert_eq!(engine.commit(acks).await.unwrap(), [Outcome::Acked(1), Outcome::Acked(1)]);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_is_not_confirmed_before_its_original_is_safe() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    fs.set_faults(Faults { syncs_before_error: Some(0), ..Faults::default() });
    // Field 4 is the id.
    let messages = || vec![Envelope(Bytes::from_static(b"\x22\x01a"))];
    let first = engine.submit(&name("orders"), messages(), Durability::Buffered.into()).await.unwrap();
    let second = engine.submit(&name("orders"), messages(), Durability::Fsynced.into()).await.unwrap();
    // The first may have been written.
    let _ = first.await;
    let second = second.await;
    assert!(matches!(second, Err(Error::Failed(_))), "{second:?}");
    engine.close().await;
}
