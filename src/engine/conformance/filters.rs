//! Filters: what subscriptions and readers want, and what becomes of the rest.

use std::time::Duration;

use super::Harness;
use super::fixture::{
    FREELY, Fixture, LONG, PLENTY, begin, envelope, messages, nack, next, next_error, next_n, offsets, soon,
    subscription, topic,
};
use crate::engine::{Error, Intent, SubscriptionChange, Target};
use crate::model::{Delivery, Envelope, Filter, Mode, Offset, Receipt, Start, SubscriptionSettings};

/// A message with nothing but a key.
fn keyed(key: char) -> Envelope {
    envelope(format!("\x12\x01{key}"))
}

async fn publish(engine: &Fixture, keys: &str) -> Receipt {
    engine.publish_all(keys.chars().map(keyed).collect()).await
}

/// What wants the messages with this key.
fn key_is(key: char) -> Filter {
    Filter::parse(&format!("message.key == '{key}'")).unwrap()
}

async fn filtered(harness: &impl Harness, filter: Filter) -> Fixture {
    Fixture::subscribed_with(harness, |settings| settings.filter = filter).await
}

async fn set_filter(engine: &Fixture, filter: Filter) {
    let change = SubscriptionChange { filter: Some(filter.clone()), ..SubscriptionChange::default() };
    let changed = engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    assert_eq!(changed.settings.filter, filter);
}

/// Waits until everything up to an offset is settled on disk.
async fn committed(engine: &Fixture, offset: Offset) {
    let reached = async {
        while engine.progress().await.committed_offset < offset {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(reached).await;
}

fn unreadable() -> (Filter, Error) {
    let filter = Filter::stored("message.key == (");
    let problem = filter.error().unwrap().clone();
    (filter, Error::UnreadableFilter { subscription: subscription(), problem })
}

pub(crate) async fn only_what_is_wanted_is_delivered(harness: impl Harness) {
    let engine = filtered(&harness, key_is('a')).await;
    publish(&engine, "abba").await;
    let mut consumer = engine.consumer(FREELY).await;
    let delivered = next_n(&mut *consumer, 2).await;
    assert_eq!(offsets(&delivered), [1, 4]);
    let waiting = begin(&mut *consumer);
    publish(&engine, "bb").await;
    publish(&engine, "ba").await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [8]);
    assert_eq!(engine.ack(&delivered).await, 7, "what is not wanted is settled");
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.in_flight), (1, 1));
}

pub(crate) async fn what_nobody_wants_is_settled(harness: impl Harness) {
    let engine = filtered(&harness, key_is('a')).await;
    publish(&engine, "bbb").await;
    assert_eq!(engine.progress().await.backlog_messages, 3, "until somebody reads");
    assert_eq!(engine.pull_now(10).await, []);
    committed(&engine, 3).await;
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.oldest_unacked, stats.redelivered), (0, None, 0));
}

pub(crate) async fn a_filter_that_fails_does_not_want(harness: impl Harness) {
    let filter = Filter::parse("message.attributes.region == 'eu' || message.key == 'a'").unwrap();
    let engine = filtered(&harness, filter).await;
    publish(&engine, "bab").await;
    assert_eq!(offsets(&engine.pull_n(1).await), [2]);
    committed(&engine, 1).await;
}

pub(crate) async fn an_update_is_for_what_is_still_to_come(harness: impl Harness) {
    let engine = filtered(&harness, key_is('a')).await;
    publish(&engine, "aab").await;
    let mut consumer = engine.consumer(messages(1)).await;
    let held = next_n(&mut *consumer, 1).await;
    assert_eq!(offsets(&held), [1]);
    set_filter(&engine, key_is('b')).await;
    publish(&engine, "ab").await;
    engine.ack(&held).await;
    let mut later: Vec<Delivery> = Vec::new();
    while later.last().is_none_or(|delivery| delivery.message.offset < 5) {
        let delivered = next(&mut *consumer).await;
        engine.ack(&delivered).await;
        later.extend(delivered);
    }
    let later = offsets(&later);
    // Whether the first filter got to see 3 is not said.
    assert!(later == [3, 5] || later == [5], "{later:?}");
    committed(&engine, 5).await;
}

pub(crate) async fn an_update_is_for_what_comes_back(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    publish(&engine, "ab").await;
    let held = engine.pull_n(2).await;
    set_filter(&engine, key_is('b')).await;
    engine.settle_all(&held, nack()).await;
    let again = engine.pull_n(1).await;
    assert_eq!(offsets(&again), [2]);
    assert_eq!(engine.ack(&again).await, 2);
    assert_eq!(engine.pull_now(10).await, []);
}

pub(crate) async fn a_filter_sees_the_attempt(harness: impl Harness) {
    let engine = filtered(&harness, Filter::parse("attempt < 3").unwrap()).await;
    engine.publish(1).await;
    for attempt in 1..3 {
        let delivered = engine.pull_next(1).await;
        assert_eq!(delivered[0].attempt, attempt);
        engine.settle_all(&delivered, nack()).await;
    }
    assert_eq!(engine.pull_now(1).await, []);
    committed(&engine, 1).await;
}

pub(crate) async fn only_a_seek_brings_back_what_was_not_wanted(harness: impl Harness) {
    let engine = filtered(&harness, key_is('a')).await;
    publish(&engine, "bb").await;
    assert_eq!(engine.pull_now(10).await, []);
    committed(&engine, 2).await;
    set_filter(&engine, Filter::default()).await;
    assert_eq!(engine.pull_now(10).await, []);
    engine.seek(&subscription(), Start::Earliest).await.unwrap();
    assert_eq!(offsets(&engine.pull_n(2).await), [1, 2]);
}

pub(crate) async fn what_is_not_wanted_needs_no_room(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| {
        settings.filter = key_is('a');
        settings.max_in_flight = 1;
    })
    .await;
    publish(&engine, "bbabba").await;
    let first = engine.pull_n(1).await;
    assert_eq!(offsets(&first), [3]);
    assert_eq!(engine.pull_now(10).await, [], "one is in flight");
    engine.ack(&first).await;
    assert_eq!(offsets(&engine.pull_n(1).await), [6]);
    committed(&engine, 5).await;
}

pub(crate) async fn the_order_stays(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| {
        settings.filter = key_is('a');
        settings.mode = Mode::Exclusive;
    })
    .await;
    publish(&engine, "baabaaab").await;
    let mut consumer = engine.consumer(messages(2)).await;
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let delivered = next(&mut *consumer).await;
        seen.extend(offsets(&delivered));
        engine.ack(&delivered).await;
    }
    assert_eq!(seen, [2, 3, 5, 6, 7]);
}

pub(crate) async fn a_long_way_to_what_is_wanted(harness: impl Harness) {
    let engine = filtered(&harness, key_is('a')).await;
    for _ in 0..3 {
        publish(&engine, &"b".repeat(1_000)).await;
    }
    publish(&engine, "a").await;
    let mut consumer = engine.consumer(FREELY).await;
    let delivered = next_n(&mut *consumer, 1).await;
    assert_eq!(offsets(&delivered), [3_001]);
    assert_eq!(engine.ack(&delivered).await, 3_001);
}

pub(crate) async fn one_that_cannot_be_read_delivers_nothing(harness: impl Harness) {
    let (filter, error) = unreadable();
    let engine = filtered(&harness, filter.clone()).await;
    publish(&engine, "ab").await;
    let pulled = soon(engine.pull(&subscription(), PLENTY, LONG)).await;
    assert_eq!(pulled, Err(error.clone()));
    assert_eq!(engine.subscribe(Target::Durable(subscription()), FREELY).await.err(), Some(error.clone()));
    assert_eq!(engine.progress().await.backlog_messages, 2);

    set_filter(&engine, key_is('b')).await;
    let mut consumer = engine.consumer(messages(1)).await;
    let delivered = next_n(&mut *consumer, 1).await;
    assert_eq!(offsets(&delivered), [2]);
    set_filter(&engine, filter).await;
    assert_eq!(next_error(&mut *consumer).await, error);
}

pub(crate) async fn an_ephemeral_reader_leaves_out_the_rest(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    publish(&engine, "abba").await;
    let target = Target::Ephemeral { topic: topic().into(), start: Start::Earliest, filter: key_is('a') };
    let mut consumer = engine.subscribe(target, messages(1)).await.unwrap();
    assert_eq!(offsets(&next(&mut *consumer).await), [1]);
    assert_eq!(offsets(&next(&mut *consumer).await), [4]);
    let waiting = begin(&mut *consumer);
    publish(&engine, "bb").await;
    publish(&engine, "a").await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [7]);
}

pub(crate) async fn an_ephemeral_reader_goes_a_long_way(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    for _ in 0..3 {
        publish(&engine, &"b".repeat(1_000)).await;
    }
    publish(&engine, "a").await;
    let target = Target::Ephemeral { topic: topic().into(), start: Start::Earliest, filter: key_is('a') };
    let mut consumer = engine.subscribe(target, FREELY).await.unwrap();
    assert_eq!(offsets(&next(&mut *consumer).await), [3_001]);
}

pub(crate) async fn stays_across_a_restart(mut harness: impl Harness) {
    if !harness.engine().capabilities().persistent {
        return;
    }
    let engine = filtered(&harness, key_is('a')).await;
    let (filter, _) = unreadable();
    let settings = SubscriptionSettings { filter, ..SubscriptionSettings::new(topic()) };
    engine.create_subscription(super::fixture::name("other"), settings, Intent::Apply).await.unwrap();
    publish(&engine, "bbab").await;
    assert_eq!(offsets(&engine.pull_n(1).await), [3]);
    committed(&engine, 2).await;
    let before = engine.subscriptions(super::fixture::EVERYTHING, None).await.unwrap();
    drop(engine);
    harness.reopen().await;
    let engine = Fixture::as_is(&harness);
    assert_eq!(engine.subscriptions(super::fixture::EVERYTHING, None).await.unwrap(), before);
    assert_eq!(engine.progress().await.committed_offset, 2);
    let delivered = engine.pull_n(1).await;
    assert_eq!(offsets(&delivered), [3]);
    assert_eq!(engine.ack(&delivered).await, 4);
}
