//! What operators hear of damage, a full disk and slow consumers.

use futures::StreamExt;

use super::super::log::fs_sim::Faults;
use super::super::log::segments;
use super::*;
use crate::engine::{TopicChange, Watch, Watched};
use crate::model::{Advisory, Filter, Notice, Pattern, Retention};

/// The next thing that a watcher hears.
async fn heard(watch: &mut Watch<Advisory>) -> Notice {
    match tokio::time::timeout(Duration::from_secs(60), watch.next()).await {
        Ok(Some(Watched::Item(advisory))) => advisory.notice,
        other => panic!("something else: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_is_met_is_announced() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    for _ in 0..60 {
        publish(&engine, "orders", &[&[b'x'; 1_000]]).await.unwrap();
    }
    engine.close().await;
    let left = fs.copy();
    let segment = segments::path(segments::list(&left).unwrap()[1]);
    let mut bytes = left.bytes(&segment);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    left.set_bytes(&segment, bytes);

    let engine = open(&left).await.unwrap();
    let mut watch = engine.advisories().unwrap();
    let (_, damaged) = read_all(&engine, "orders").await;
    let [(first, last)] = damaged[..] else { panic!("{damaged:?}") };
    let notice = Notice::Damaged { topic: name("orders"), first, last };
    assert_eq!(heard(&mut watch).await, notice, "by a reader");
    deliveries(&engine, "worker").await;
    assert_eq!(heard(&mut watch).await, notice, "by a subscription");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_one_topic_does_not_end_a_reader_of_several() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders.eu").await;
    create_topic(&engine, "orders.us").await;
    for _ in 0..60 {
        publish(&engine, "orders.eu", &[&[b'x'; 1_000]]).await.unwrap();
    }
    engine.close().await;
    let left = fs.copy();
    let segment = segments::path(segments::list(&left).unwrap()[1]);
    let mut bytes = left.bytes(&segment);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    left.set_bytes(&segment, bytes);

    let engine = open(&left).await.unwrap();
    publish(&engine, "orders.us", &[b"y"]).await.unwrap();
    let mut watch = engine.advisories().unwrap();
    let (whole, damaged) = read_all(&engine, "orders.eu").await;
    let [(first, last)] = damaged[..] else { panic!("{damaged:?}") };
    let notice = Notice::Damaged { topic: name("orders.eu"), first, last };
    assert_eq!(heard(&mut watch).await, notice);
    let topic = Pattern::parse("orders.*").unwrap();
    let target = Target::Ephemeral { topic, start: Start::Earliest, filter: Filter::default() };
    let mut reader = engine.subscribe(target, CREDIT).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < whole.len() + 1 {
        let next = tokio::time::timeout(Duration::from_secs(60), reader.next()).await.unwrap();
        seen.extend(next.unwrap().into_iter().map(|it| (it.message.topic, it.message.offset)));
    }
    seen.sort();
    let mut all: Vec<_> = whole.iter().map(|it| (name("orders.eu"), it.offset)).collect();
    all.push((name("orders.us"), 1));
    assert_eq!(seen, all);
    assert_eq!(heard(&mut watch).await, notice, "by the reader, too");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_takes_from_a_subscription_is_announced() {
    let engine = open(&SimFs::new()).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    publish(&engine, "orders", &[b"1", b"2", b"3", b"4"]).await.unwrap();
    let leased = deliveries(&engine, "worker").await;
    ack(&engine, "worker", &leased[..1]).await;
    let mut watch = engine.advisories().unwrap();
    let retention = Some(Retention { max_messages: Some(1), ..Retention::default() });
    let change = TopicChange { retention, ..TopicChange::default() };
    engine.update_topic(&name("orders"), change, None, Intent::Apply).await.unwrap();
    let lost =
        Notice::RetentionLoss { subscription: name("worker"), topic: name("orders"), first: 2, last: 3 };
    assert_eq!(heard(&mut watch).await, lost);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_announced_once_and_so_is_its_end() {
    let fs = SimFs::new();
    let options = Options { disk_reserve_bytes: 20_000, ..OPTIONS };
    let engine = EmbeddedEngine::open_on(Arc::new(fs.clone()), "simulated", options).await.unwrap();
    create_topic(&engine, "orders").await;
    let mut watch = engine.advisories().unwrap();
    for _ in 0..2 {
        fs.set_faults(Faults { capacity: Some(60_000), ..Faults::default() });
        while publish(&engine, "orders", &[&[b'x'; 1000]]).await.is_ok() {}
        publish(&engine, "orders", &[b"x"]).await.unwrap_err();
        fs.set_faults(Faults::default());
        for _ in 0..2 {
            publish(&engine, "orders", &[b"x"]).await.unwrap();
        }
        let low = heard(&mut watch).await;
        let Notice::DiskLow { available, reserve: 20_000 } = low else { panic!("{low:?}") };
        assert!(available < 20_000);
        assert_eq!(heard(&mut watch).await, Notice::DiskOk);
    }
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_stands_still_is_announced() {
    let engine = open(&SimFs::new()).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    let mut watch = engine.advisories().unwrap();
    let credit = Credit { messages: 2, ..CREDIT };
    let target = Target::Durable(name("worker"));
    let mut consumer = engine.subscribe_as(target, credit, "sleepy").await.unwrap();
    publish(&engine, "orders", &[b"1", b"2", b"3"]).await.unwrap();
    while consumer.next().await.unwrap().last().unwrap().message.offset < 2 {}
    let slow = Notice::SlowConsumer {
        subscription: name("worker"),
        consumer: consumer.id().to_owned(),
        name: "sleepy".into(),
        outstanding: 2,
    };
    assert_eq!(heard(&mut watch).await, slow);
    engine.close().await;
}
