//! Subscriptions moved back and forth.

use super::Harness;
use super::fixture::{
    ACK, ACK_CUMULATIVE, END_LEASE, FREELY, Fixture, begin, nack, name, next_n, offsets, soon, subscription,
};
use crate::engine::{Error, Failure};
use crate::model::{Offset, Start, Timestamp};

async fn seek(engine: &Fixture, start: Start) -> Offset {
    engine.seek(&subscription(), start).await.unwrap()
}

pub(crate) async fn back_delivers_again(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(5).await;
    let delivered = engine.pull_n(5).await;
    assert_eq!(engine.ack(&delivered).await, 5);
    assert_eq!(seek(&engine, Start::Offset(3)).await, 2);
    let stats = engine.progress().await;
    assert_eq!((stats.committed_offset, stats.backlog_messages, stats.in_flight), (2, 3, 0));
    let again = engine.pull_n(3).await;
    assert_eq!(offsets(&again), [3, 4, 5]);
    assert_eq!(engine.ack(&again).await, 5);
}

pub(crate) async fn forward_skips(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(5).await;
    assert_eq!(seek(&engine, Start::Offset(4)).await, 3);
    let delivered = engine.pull_n(2).await;
    assert_eq!(offsets(&delivered), [4, 5]);
    assert_eq!(engine.ack(&delivered).await, 5);
    assert_eq!(engine.progress().await.backlog_messages, 0);
}

pub(crate) async fn by_time_and_to_the_ends(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    assert_eq!(seek(&engine, Start::Latest).await, 3);
    assert!(engine.pull_now(10).await.is_empty());
    assert_eq!(seek(&engine, Start::Earliest).await, 0);
    assert_eq!(seek(&engine, Start::Offset(4)).await, 3, "the end is not past the end");
    let published = engine.read_all().await[0].publish_time;
    assert_eq!(seek(&engine, Start::Time(published)).await, 0);
    assert_eq!(seek(&engine, Start::Time(Timestamp(u64::MAX))).await, 3);
}

pub(crate) async fn past_the_end_is_refused(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let refused = engine.seek(&subscription(), Start::Offset(5)).await;
    assert!(matches!(refused, Err(Error::BeyondEnd { offset: 5, last: 3, .. })), "{refused:?}");
    assert_eq!(engine.progress().await.backlog_messages, 3);
    let unknown = engine.seek(&name("unknown"), Start::Earliest).await;
    assert_eq!(unknown, Err(Error::SubscriptionNotFound(name("unknown"))));
}

pub(crate) async fn what_was_delivered_before_has_no_effect(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let before = engine.pull_n(3).await;
    engine.ack(&before[..1]).await;
    seek(&engine, Start::Earliest).await;
    for settlement in [ACK, ACK_CUMULATIVE, nack(), END_LEASE] {
        for delivery in &before {
            assert_eq!(
                engine.failure(delivery, settlement.clone()).await,
                Failure::Expired,
                "{settlement:?}"
            );
        }
    }
    assert_eq!(engine.progress().await.backlog_messages, 3);
    assert_eq!(offsets(&engine.pull_n(3).await), [1, 2, 3]);
}

pub(crate) async fn what_was_held_is_free_again(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.max_in_flight = 2).await;
    engine.publish(4).await;
    let mut consumer = engine.consumer(FREELY).await;
    assert_eq!(offsets(&next_n(&mut *consumer, 2).await), [1, 2]);
    seek(&engine, Start::Offset(3)).await;
    assert_eq!(engine.progress().await.in_flight, 0);
    assert_eq!(offsets(&next_n(&mut *consumer, 2).await), [3, 4]);
}

pub(crate) async fn a_waiting_consumer_gets_what_is_there_now(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let mut consumer = engine.consumer(FREELY).await;
    let delivered = next_n(&mut *consumer, 2).await;
    engine.ack(&delivered).await;
    let waiting = begin(&mut *consumer);
    seek(&engine, Start::Offset(2)).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [2]);
}
