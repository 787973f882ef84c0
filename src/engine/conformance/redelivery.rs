//! What is not settled comes again.

use super::Harness;
use super::fixture::{
    END_LEASE, FREELY, Fixture, LONG, SHORT, attempts, begin, ids, nack, nack_for, next, next_n, offsets,
    soon, subscription,
};
use crate::engine::{Intent, SubscriptionChange};

pub(crate) async fn at_the_deadline(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.ack_deadline = SHORT).await;
    engine.publish(1).await;
    let mut consumer = engine.consumer(FREELY).await;
    let first = next(&mut *consumer).await;
    let second = next(&mut *consumer).await;
    assert_eq!((attempts(&first), attempts(&second)), (vec![(1, 1)], vec![(1, 2)]));
    assert_ne!(ids(&first), ids(&second));
    assert_eq!(first[0].message, second[0].message);
}

pub(crate) async fn at_the_deadline_to_who_waits(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.ack_deadline = SHORT).await;
    engine.publish(1).await;
    let mut slow = engine.consumer(FREELY).await;
    assert_eq!(attempts(&next(&mut *slow).await), [(1, 1)]);
    let mut other = engine.consumer(FREELY).await;
    assert_eq!(attempts(&next(&mut *other).await), [(1, 2)]);
}

pub(crate) async fn after_a_nack(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 2).await;
    let waiting = begin(&mut *consumer);
    engine.settle_all(&held[1..], nack()).await;
    assert_eq!(attempts(&soon(waiting).await.unwrap()), [(2, 2)]);
}

pub(crate) async fn after_a_nacks_delay(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let held = engine.pull_n(1).await;
    engine.settle_all(&held, nack_for(LONG)).await;
    assert_eq!(engine.pull_now(1).await, []);
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.in_flight), (1, 0));
    // The id counts until the message is handed out again, so the delay can be changed.
    engine.settle_all(&held, nack_for(SHORT)).await;
    assert_eq!(attempts(&engine.pull_next(1).await), [(1, 2)]);
}

pub(crate) async fn a_delayed_message_holds_up_no_other(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let held = engine.pull_n(2).await;
    engine.settle_all(&held[..1], nack_for(LONG)).await;
    engine.settle_all(&held[1..], nack()).await;
    assert_eq!(attempts(&engine.pull_n(2).await), [(2, 2), (3, 1)]);
}

pub(crate) async fn after_the_consumer_left(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let mut leaving = engine.consumer(FREELY).await;
    let held = next_n(&mut *leaving, 3).await;
    engine.ack(&held[1..2]).await;
    let mut staying = engine.consumer(FREELY).await;
    let waiting = begin(&mut *staying);
    drop(leaving);
    let mut delivered = soon(waiting).await.unwrap();
    if delivered.len() < 2 {
        delivered.extend(next(&mut *staying).await);
    }
    assert_eq!(attempts(&delivered), [(1, 2), (3, 2)]);
}

pub(crate) async fn a_pulled_message_outlives_the_call(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let pulled = engine.pull_n(1).await;
    let mut consumer = engine.consumer(FREELY).await;
    assert_eq!(offsets(&next(&mut *consumer).await), [2]);
    drop(consumer);
    assert_eq!(attempts(&engine.pull_next(10).await), [(2, 2)], "only the consumer's lease is over");
    assert_eq!(engine.ack(&pulled).await, 1);
}

pub(crate) async fn attempts_are_counted(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let mut delivered = engine.pull_n(2).await;
    for attempt in 2..=5 {
        let settlement = if attempt % 2 == 0 { nack() } else { END_LEASE };
        engine.settle_all(&delivered[..1], settlement).await;
        delivered = engine.pull_n(1).await;
        assert_eq!(attempts(&delivered), [(1, attempt)]);
    }
    assert_eq!(engine.progress().await.redelivered, 4);
}

pub(crate) async fn goes_before_new_messages(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let held = engine.pull_n(2).await;
    engine.settle_all(&held[1..], nack()).await;
    assert_eq!(attempts(&engine.pull_n(2).await), [(2, 2), (3, 1)]);
}

pub(crate) async fn a_new_deadline_is_for_new_deliveries(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let first = engine.pull_n(1).await;
    let change = SubscriptionChange { ack_deadline: Some(SHORT), ..SubscriptionChange::default() };
    engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    let second = engine.pull_n(1).await;
    let again = engine.pull_next(2).await;
    assert_eq!(attempts(&again), [(2, 2)]);
    assert_eq!(engine.progress().await.backlog_messages, 2);
    engine.ack(&again).await;
    assert_eq!(engine.pull_now(10).await, []);
    assert_eq!(engine.ack(&first).await, 2);
    assert_ne!(ids(&second), ids(&again));
}
