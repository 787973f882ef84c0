//! Subscriptions that hand nothing out for a while.

use std::time::Duration;

use super::Harness;
use super::fixture::{FREELY, Fixture, PLENTY, begin, next_n, offsets, soon, subscription};
use crate::engine::{Error, Intent, SubscriptionChange, Target};

pub(super) async fn set_paused(engine: &Fixture, paused: bool) {
    let change = SubscriptionChange { paused: Some(paused), ..SubscriptionChange::default() };
    let changed = engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    assert_eq!(changed.settings.paused, paused);
}

async fn assert_paused(engine: &Fixture) {
    let paused = Error::Paused(subscription());
    let pulled = soon(engine.pull(&subscription(), PLENTY, Duration::ZERO)).await;
    assert_eq!(pulled, Err(paused.clone()));
    let opened = engine.subscribe(Target::Durable(subscription()), FREELY).await;
    assert_eq!(opened.err(), Some(paused));
}

pub(crate) async fn nothing_is_delivered_until_resumed(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    set_paused(&engine, true).await;
    assert_paused(&engine).await;
    assert_eq!(engine.progress().await.backlog_messages, 2);
    set_paused(&engine, false).await;
    let mut consumer = engine.consumer(FREELY).await;
    assert_eq!(offsets(&next_n(&mut *consumer, 2).await), [1, 2]);
}

pub(crate) async fn ends_consumers_and_waiting_pulls(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut consumer = engine.consumer(FREELY).await;
    let waiting = begin(&mut *consumer);
    let puller = engine.engine();
    let pull =
        tokio::spawn(async move { puller.pull(&subscription(), PLENTY, Duration::from_hours(1)).await });
    set_paused(&engine, true).await;
    assert_eq!(soon(waiting).await, Err(Error::Paused(subscription())));
    assert_eq!(soon(pull).await.unwrap(), Err(Error::Paused(subscription())));
}

pub(crate) async fn acks_still_count(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 2).await;
    set_paused(&engine, true).await;
    assert_eq!(soon(consumer.next()).await, Err(Error::Paused(subscription())));
    drop(consumer);
    assert_eq!(engine.ack(&held[..1]).await, 1);
    set_paused(&engine, false).await;
    assert_eq!(engine.pull_now(10).await, [], "the other is still theirs");
    assert_eq!(engine.ack(&held[1..]).await, 2);
}

pub(crate) async fn a_paused_subscription_can_be_created(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.paused = true).await;
    engine.publish(1).await;
    assert_paused(&engine).await;
    set_paused(&engine, false).await;
    assert_eq!(offsets(&engine.pull_next(10).await), [1]);
}
