//! Several consumers of one shared subscription.

use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::mpsc;

use super::Harness;
use super::fixture::{ACK, FREELY, Fixture, begin, ids, messages, next, next_n, offsets, soon, subscription};

pub(crate) async fn every_message_goes_to_one_consumer(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(10).await;
    let (mut first, mut second) = (engine.consumer(messages(4)).await, engine.consumer(messages(6)).await);
    let mut delivered = offsets(&next_n(&mut *first, 4).await);
    delivered.extend(offsets(&next_n(&mut *second, 6).await));
    delivered.sort_unstable();
    assert_eq!(delivered, (1..=10).collect::<Vec<_>>());
}

pub(crate) async fn who_waits_gets_a_fair_share(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let (mut first, mut second) = (engine.consumer(FREELY).await, engine.consumer(FREELY).await);
    let mut third = engine.consumer(FREELY).await;
    let waiting = [begin(&mut *first), begin(&mut *second), begin(&mut *third)];
    engine.publish(10).await;
    let batches = soon(join_all(waiting)).await;
    let sizes: Vec<_> = batches.iter().map(|batch| batch.as_ref().unwrap().len()).collect();
    assert!(sizes.iter().all(|size| (1..=4).contains(size)), "10 messages went out as {sizes:?}");
}

pub(crate) async fn a_consumer_without_credit_holds_up_no_other(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let (mut slow, mut quick) = (engine.consumer(messages(1)).await, engine.consumer(FREELY).await);
    let held = next(&mut *slow).await;
    let waiting = begin(&mut *slow);
    engine.publish(10).await;
    assert_eq!(offsets(&next_n(&mut *quick, 10).await), (2..=11).collect::<Vec<_>>());
    engine.publish(1).await;
    engine.ack(&held).await;
    drop(quick);
    assert_eq!(soon(waiting).await.unwrap().len(), 1);
}

/// Consumers come with different credit, settle what they get, and publishers go on meanwhile.
pub(crate) async fn everything_arrives_once_under_load(harness: impl Harness) {
    const REQUESTS: usize = 60;
    const PER_REQUEST: usize = 10;
    let fixture = Fixture::subscribed(&harness).await;
    let fixture = Arc::new(fixture);
    let (seen, mut arrived) = mpsc::channel(REQUESTS * PER_REQUEST);
    let consumers = [1, 3, 50, 1_000].map(|credit| {
        let (fixture, seen) = (Arc::clone(&fixture), seen.clone());
        tokio::spawn(async move {
            let mut consumer = fixture.consumer(messages(credit)).await;
            loop {
                let deliveries = consumer.next().await.unwrap();
                assert!(deliveries.len() <= credit as usize);
                let settled = fixture.settle(&subscription(), ids(&deliveries), ACK).await.unwrap();
                assert_eq!(settled.failures, []);
                for delivery in deliveries {
                    seen.send((delivery.message.offset, delivery.attempt)).await.unwrap();
                }
            }
        })
    });
    let publishers = (0..2).map(|_| {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move {
            for _ in 0..REQUESTS / 2 {
                fixture.publish(PER_REQUEST).await;
            }
        })
    });
    for publisher in soon(join_all(publishers)).await {
        publisher.unwrap();
    }

    let mut all = Vec::new();
    while all.len() < REQUESTS * PER_REQUEST {
        all.push(soon(arrived.recv()).await.unwrap());
    }
    all.sort_unstable();
    let expected: Vec<_> = (1..=(REQUESTS * PER_REQUEST) as u64).map(|offset| (offset, 1)).collect();
    assert_eq!(all, expected);
    for consumer in consumers {
        consumer.abort();
        assert!(consumer.await.unwrap_err().is_cancelled());
    }
    let stats = fixture.progress().await;
    assert_eq!((stats.backlog_messages, stats.committed_offset), (0, expected.len() as u64));
    assert_eq!((stats.redelivered, stats.consumers), (0, 0));
}
