//! Messages that are for one subscription only.

use super::Harness;
use super::fixture::{FREELY, Fixture, PLENTY, envelope, name, next_n, offsets, soon, subscription, topic};
use crate::engine::Target;
use crate::model::{Name, Start, redrive};

fn audit() -> Name {
    name("audit")
}

/// Publishes one message for [`subscription`] only.
async fn publish_directed(engine: &Fixture) {
    engine.publish_all(vec![redrive::only_for(&envelope(""), &subscription())]).await;
}

/// With a second subscription, and of four messages the second and the last for the first one only.
async fn fixture(harness: &impl Harness) -> Fixture {
    let fixture = Fixture::subscribed(harness).await;
    fixture.add_subscription(&audit(), Start::Earliest).await;
    fixture.publish(1).await;
    publish_directed(&fixture).await;
    fixture.publish(1).await;
    publish_directed(&fixture).await;
    fixture
}

pub(crate) async fn others_skip_what_is_for_one(harness: impl Harness) {
    let engine = fixture(&harness).await;
    assert_eq!(offsets(&engine.pull_n(4).await), [1, 2, 3, 4]);
    let mut consumer = engine.subscribe(Target::Durable(audit()), FREELY).await.unwrap();
    let delivered = next_n(&mut *consumer, 2).await;
    assert_eq!(offsets(&delivered), [1, 3]);
    assert!(delivered.iter().all(|delivery| delivery.attempt == 1));
    let ids = delivered.into_iter().map(|delivery| delivery.ack_id).collect();
    soon(engine.settle(&audit(), ids, super::fixture::ACK)).await.unwrap();
    // The last one was settled without an ack.
    let stats = engine.stats(&audit()).await.unwrap();
    assert_eq!((stats.committed_offset, stats.backlog_messages, stats.redelivered), (4, 0, 0));
}

pub(crate) async fn what_is_skipped_holds_up_nothing(harness: impl Harness) {
    let engine = fixture(&harness).await;
    let mut consumer = engine.subscribe(Target::Durable(audit()), FREELY).await.unwrap();
    next_n(&mut *consumer, 2).await;
    for _ in 0..20 {
        publish_directed(&engine).await;
    }
    let last = engine.publish(1).await.last;
    assert_eq!(offsets(&next_n(&mut *consumer, 1).await), [last]);
}

pub(crate) async fn a_seek_back_skips_again(harness: impl Harness) {
    let engine = fixture(&harness).await;
    let pull = async || soon(engine.pull(&audit(), PLENTY, super::fixture::LONG)).await.unwrap();
    assert_eq!(offsets(&pull().await), [1, 3]);
    engine.seek(&audit(), Start::Earliest).await.unwrap();
    assert_eq!(offsets(&pull().await), [1, 3]);
}

pub(crate) async fn ephemeral_consumers_see_everything(harness: impl Harness) {
    let engine = fixture(&harness).await;
    let mut consumer = engine.ephemeral(Start::Earliest, FREELY).await;
    assert_eq!(offsets(&next_n(&mut *consumer, 4).await), [1, 2, 3, 4]);
    assert_eq!(engine.read(&topic(), Start::Earliest, PLENTY).await.unwrap().len(), 4);
}
