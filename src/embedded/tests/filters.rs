//! Filters on a lot of messages, and across power cuts.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::engine::Consumer;
use crate::model::Filter;

/// A message with nothing but a key, `a` or `b`.
fn keyed(is_wanted: bool) -> &'static [u8] {
    if is_wanted { b"\x12\x01a" } else { b"\x12\x01b" }
}

async fn filtered(engine: &EmbeddedEngine) {
    create_topic(engine, "orders").await;
    let settings = SubscriptionSettings {
        filter: Filter::parse("message.key == 'a'").unwrap(),
        ack_deadline: Duration::from_secs(600),
        ..SubscriptionSettings::new(name("orders"))
    };
    engine.create_subscription(name("worker"), settings, Intent::Apply).await.unwrap();
}

async fn consumer(engine: &EmbeddedEngine) -> Box<dyn Consumer> {
    engine.subscribe(Target::Durable(name("worker")), CREDIT).await.unwrap()
}

/// On one thread, and with everything in memory, so that whoever does not yield lets nobody else run.
#[tokio::test]
async fn many_that_are_not_wanted_are_settled_in_few_records_and_leave_time_for_others() {
    const MESSAGES: usize = 50_000;
    let fs = SimFs::new();
    let options = Options { segment_bytes: 64 << 20, tail_cache_bytes: 64 << 20, ..OPTIONS };
    let engine = EmbeddedEngine::open_on(Arc::new(fs.clone()), "simulated", options).await.unwrap();
    filtered(&engine).await;
    for _ in 0..MESSAGES / 10_000 {
        publish(&engine, "orders", &vec![keyed(false); 10_000]).await.unwrap();
    }
    publish(&engine, "orders", &[keyed(true)]).await.unwrap();
    let mut consumer = consumer(&engine).await;
    let mut delivered = tokio::spawn(async move { (consumer.next().await.unwrap(), consumer) });
    let mut turns = 0;
    let (wanted, consumer) = loop {
        tokio::select! {
            biased;
            delivered = &mut delivered => break delivered.unwrap(),
            () = tokio::task::yield_now() => turns += 1,
        }
    };
    // Filters take microseconds, and a turn milliseconds.
    assert!(turns > 5, "others had {turns} turns");
    assert_eq!(wanted.iter().map(|it| it.message.offset).collect::<Vec<_>>(), [MESSAGES as u64 + 1]);
    assert_eq!(ack(&engine, "worker", &wanted).await, MESSAGES as u64 + 1);
    drop(consumer);
    engine.close().await;
    let segment = fs.bytes("log/00000000000000000001.seg");
    let length = segment.iter().rposition(|&byte| byte != 0).unwrap();
    // Each message takes 4 bytes for its length and 3 for itself.
    assert!(length < 7 * MESSAGES + 20_000, "{length} bytes for {MESSAGES} messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_power_cut_nothing_wanted_is_missing_and_nothing_acked_comes_back() {
    const MESSAGES: u64 = 60;
    let mut random = StdRng::seed_from_u64(11);
    let mut partly = 0;
    for round in 0..40 {
        let fs = SimFs::new();
        let engine = open(&fs).await.unwrap();
        filtered(&engine).await;
        let mut wanted = BTreeSet::new();
        let mut consumer = consumer(&engine).await;
        let mut acked = BTreeSet::new();
        for offset in 1..=MESSAGES {
            let is_wanted = random.random_ratio(1, 3);
            publish(&engine, "orders", &[keyed(is_wanted)]).await.unwrap();
            if is_wanted {
                wanted.insert(offset);
                let deliveries = consumer.next().await.unwrap();
                if random.random_ratio(1, 2) {
                    ack(&engine, "worker", &deliveries).await;
                    acked.extend(deliveries.iter().map(|it| it.message.offset));
                }
            }
        }
        let left = fs.after_power_cut(&mut random);
        drop(consumer);
        engine.close().await;

        let engine = open(&left).await.unwrap();
        let stats = engine.stats(&name("worker")).await.unwrap();
        let deliveries = deliveries(&engine, "worker").await;
        let delivered: BTreeSet<_> = deliveries.iter().map(|it| it.message.offset).collect();
        assert_eq!(delivered, wanted.difference(&acked).copied().collect(), "round {round}");
        partly += usize::from(stats.backlog_messages > delivered.len() as u64);
        if !deliveries.is_empty() {
            ack(&engine, "worker", &deliveries).await;
        }
        engine.close().await;
    }
    assert!(partly > 0, "no cut came before what was not wanted was settled");
}
