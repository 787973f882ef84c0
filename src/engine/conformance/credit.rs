//! How much a consumer, and all consumers of a subscription together, may hold unsettled.
//!
//! That a consumer gets no more is shown by a pull that gets it instead.

use super::Harness;
use super::fixture::{
    END_LEASE, FREELY, Fixture, begin, envelope, messages, nack, next_n, offsets, soon, subscription,
};
use crate::engine::{Credit, Intent, SubscriptionChange};

pub(crate) async fn messages_are_respected(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let mut consumer = engine.consumer(messages(2)).await;
    let held = next_n(&mut *consumer, 2).await;
    let waiting = begin(&mut *consumer);
    assert_eq!(offsets(&engine.pull_now(10).await), [3]);
    engine.publish(2).await;
    engine.ack(&held[..1]).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [4]);
    assert_eq!(offsets(&engine.pull_now(10).await), [5]);
}

pub(crate) async fn bytes_are_respected(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish_all(vec![envelope("12345678"); 5]).await;
    let mut consumer = engine.consumer(Credit { messages: 100, bytes: 20 }).await;
    let held = next_n(&mut *consumer, 2).await;
    let waiting = begin(&mut *consumer);
    assert_eq!(offsets(&engine.pull_now(1).await), [3]);
    engine.ack(&held[1..]).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [4]);
    assert_eq!(offsets(&engine.pull_now(10).await), [5]);
}

pub(crate) async fn one_message_is_always_allowed(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish_all(vec![envelope("far more than ten bytes"); 3]).await;
    let mut consumer = engine.consumer(Credit { messages: 100, bytes: 10 }).await;
    let held = next_n(&mut *consumer, 1).await;
    let waiting = begin(&mut *consumer);
    assert_eq!(offsets(&engine.pull_now(1).await), [2]);
    engine.ack(&held).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [3]);
}

pub(crate) async fn none_stops_and_more_resumes(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let mut consumer = engine.consumer(messages(0)).await;
    drop(begin(&mut *consumer));
    assert_eq!(offsets(&engine.pull_now(1).await), [1]);
    consumer.set_credit(messages(5)).await;
    assert_eq!(offsets(&next_n(&mut *consumer, 1).await), [2]);
    consumer.set_credit(messages(0)).await;
    engine.publish(1).await;
    drop(begin(&mut *consumer));
    assert_eq!(offsets(&engine.pull_now(1).await), [3]);
}

pub(crate) async fn less_than_held_stops(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let mut consumer = engine.consumer(messages(3)).await;
    let held = next_n(&mut *consumer, 3).await;
    consumer.set_credit(messages(2)).await;
    engine.publish(2).await;
    engine.ack(&held[..1]).await;
    let waiting = begin(&mut *consumer);
    assert_eq!(offsets(&engine.pull_now(1).await), [4], "two are held, and two are allowed");
    engine.ack(&held[1..2]).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [5]);
}

pub(crate) async fn what_is_given_back_frees_it(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let mut consumer = engine.consumer(messages(1)).await;
    let first = next_n(&mut *consumer, 1).await;
    engine.settle_all(&first, nack()).await;
    assert_eq!(offsets(&engine.pull_now(1).await), [1]);
    let second = next_n(&mut *consumer, 1).await;
    assert_eq!(offsets(&second), [2]);
    engine.settle_all(&second, END_LEASE).await;
    assert_eq!(offsets(&engine.pull_now(1).await), [2]);
    engine.publish(1).await;
    assert_eq!(offsets(&next_n(&mut *consumer, 1).await), [3]);
}

pub(crate) async fn in_flight_messages_are_limited(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.max_in_flight = 3).await;
    engine.publish(5).await;
    let mut consumer = engine.consumer(messages(2)).await;
    let held = next_n(&mut *consumer, 2).await;
    assert_eq!(offsets(&engine.pull_now(10).await), [3], "over all consumers");
    let mut other = engine.consumer(FREELY).await;
    let waiting = begin(&mut *other);
    assert_eq!(engine.pull_now(10).await, []);
    engine.ack(&held[1..]).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [4]);
    assert_eq!(engine.pull_now(10).await, []);
    engine.ack(&held[..1]).await;
    assert_eq!(offsets(&engine.pull_now(10).await), [5]);
}

pub(crate) async fn the_limit_in_flight_can_be_raised(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.max_in_flight = 1).await;
    engine.publish(4).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 1).await;
    let waiting = begin(&mut *consumer);
    let change = async |limit| {
        let change = SubscriptionChange { max_in_flight: Some(limit), ..SubscriptionChange::default() };
        engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    };
    change(3).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [2, 3]);
    change(2).await;
    engine.ack(&held).await;
    assert_eq!(engine.pull_now(10).await, [], "a lower limit takes effect as deliveries are settled");
}
