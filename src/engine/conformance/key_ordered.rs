//! Key-ordered subscriptions: several consumers, and the order of each key.

use std::collections::BTreeMap;

use rand::RngExt as _;

use super::Harness;
use super::fixture::{
    ACK, ACK_CUMULATIVE, END_LEASE, FREELY, Fixture, LONG, PLENTY, SHORT, at_most, attempts, begin, give_up,
    keyed, messages, nack, nack_for, name, next, next_n, offsets, soon, subscription,
};
use super::pausing::set_paused;
use crate::engine::{Error, Failure};
use crate::model::{Delivery, Mode, Offset, Start, SubscriptionSettings};

/// Nothing, on an engine without key-ordered subscriptions.
async fn key_ordered(harness: &impl Harness) -> Option<Fixture> {
    key_ordered_with(harness, |_| {}).await
}

async fn key_ordered_with(
    harness: &impl Harness,
    change: impl FnOnce(&mut SubscriptionSettings),
) -> Option<Fixture> {
    if !harness.engine().capabilities().key_ordered {
        return None;
    }
    let change = |settings: &mut SubscriptionSettings| {
        settings.mode = Mode::KeyOrdered;
        change(settings);
    };
    Some(Fixture::subscribed_with(harness, change).await)
}

/// Publishes a message for each of these keys, in order.
async fn publish(engine: &Fixture, keys: &[&str]) {
    engine.publish_all(keys.iter().map(|key| keyed(key)).collect()).await;
}

pub(crate) async fn a_key_stays_with_its_consumer(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "a", "b", "a", "b"]).await;
    let mut first = engine.consumer(messages(1)).await;
    let held = next(&mut *first).await;
    assert_eq!(offsets(&held), [1]);
    let mut second = engine.consumer(FREELY).await;
    assert_eq!(offsets(&next_n(&mut *second, 2).await), [3, 5], "the other key, in order");
    let waiting = begin(&mut *second);
    engine.ack(&held).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap())[0], 2, "the key is free, and the second waits");
}

pub(crate) async fn a_consumer_may_hold_several_of_a_key(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "b", "a", "a"]).await;
    let mut consumer = engine.consumer(FREELY).await;
    assert_eq!(attempts(&next_n(&mut *consumer, 4).await), [(1, 1), (2, 1), (3, 1), (4, 1)]);
    publish(&engine, &["a"]).await;
    assert_eq!(offsets(&next(&mut *consumer).await), [5]);
}

pub(crate) async fn messages_without_a_key_have_no_order(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["", "", ""]).await;
    let mut first = engine.consumer(messages(1)).await;
    let held = next(&mut *first).await;
    let mut second = engine.consumer(FREELY).await;
    let others = next_n(&mut *second, 2).await;
    assert_eq!((offsets(&held), offsets(&others)), (vec![1], vec![2, 3]));
    engine.settle_all(&held, nack_for(LONG)).await;
    engine.ack(&others).await;
}

pub(crate) async fn what_follows_a_failed_message_comes_again_after_it(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "a", "a", "b"]).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 4).await;
    engine.settle_all(&held[1..2], nack()).await;
    for settlement in [ACK, ACK_CUMULATIVE, nack(), END_LEASE] {
        assert_eq!(engine.failure(&held[2], settlement).await, Failure::Expired, "the second failed");
    }
    engine.ack(&held[3..]).await;
    let again = next(&mut *consumer).await;
    assert_eq!(attempts(&again), [(2, 2)], "alone");
    assert_eq!(engine.ack(&held[..1]).await, 1);
    engine.ack(&again).await;
    assert_eq!(attempts(&next(&mut *consumer).await), [(3, 1)], "it did not fail");
}

pub(crate) async fn what_was_taken_back_counts_when_it_is_first(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "a", "a"]).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 3).await;
    drop(consumer);
    assert_eq!(engine.failure(&held[1], ACK).await, Failure::Expired);
    // As whoever lost its stream would do.
    assert_eq!(engine.ack(&held).await, 3);
}

pub(crate) async fn a_failing_key_holds_up_no_other(harness: impl Harness) {
    let Some(engine) = key_ordered_with(&harness, |settings| settings.max_in_flight = 3).await else {
        return;
    };
    publish(&engine, &["bad"]).await;
    let first = engine.pull_n(1).await;
    engine.settle_all(&first, nack()).await;
    publish(&engine, &["bad", "a", "b"].repeat(50)).await;
    let mut consumer = engine.consumer(FREELY).await;
    let mut good = Vec::new();
    let mut failures = 0;
    while good.len() < 100 {
        for delivery in next(&mut *consumer).await {
            if delivery.message.envelope.header().key == "bad" {
                assert_eq!(delivery.message.offset, 1, "the others of its key wait");
                failures += 1;
                engine.settle_all(&[delivery], nack()).await;
            } else {
                good.push(delivery.message.offset);
                engine.ack(&[delivery]).await;
            }
        }
    }
    assert!(failures > 1);
    assert!(good.is_sorted(), "{good:?}");
    assert_eq!(engine.progress().await.backlog_messages, 51);
}

pub(crate) async fn a_key_waits_for_its_backoff(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "a", "b"]).await;
    let held = engine.pull_n(1).await;
    engine.settle_all(&held, nack_for(LONG)).await;
    assert_eq!(offsets(&engine.pull_n(1).await), [3]);
    assert_eq!(engine.pull_now(10).await, []);
    // The id counts until the message is handed out again: the delay ends here.
    engine.settle_all(&held, nack_for(SHORT)).await;
    let again = engine.pull_next(10).await;
    assert_eq!(attempts(&again), [(1, 2)]);
    engine.ack(&again).await;
    assert_eq!(attempts(&engine.pull_n(1).await), [(2, 1)]);
}

pub(crate) async fn giving_up_frees_the_key(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "a"]).await;
    let mut consumer = engine.consumer(messages(1)).await;
    let held = next(&mut *consumer).await;
    engine.settle_all(&held, give_up("no good")).await;
    assert_eq!(attempts(&next(&mut *consumer).await), [(2, 1)]);
    assert_eq!(engine.progress().await.dead_lettered, 1);
}

pub(crate) async fn pulls_are_apart(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "a", "a", "b", "b"]).await;
    let first = engine.pull_n(2).await;
    assert_eq!(offsets(&first), [1, 2], "one pull may have several");
    assert_eq!(offsets(&engine.pull_n(1).await), [4]);
    assert_eq!(engine.pull_now(10).await, [], "both keys are with others");
    engine.ack(&first).await;
    assert_eq!(offsets(&engine.pull_now(10).await), [3]);
}

pub(crate) async fn what_a_consumer_left_comes_in_order(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "b", "a", "b"]).await;
    let mut leaving = engine.consumer(FREELY).await;
    let held = next_n(&mut *leaving, 4).await;
    drop(leaving);
    for expected in [[1, 2], [3, 4]] {
        let mut taken = engine.pull_n(2).await;
        assert_eq!(engine.pull_now(10).await, []);
        taken.sort_by_key(|delivery| delivery.message.offset);
        assert_eq!(offsets(&taken), expected);
        engine.ack(&taken).await;
    }
    assert_eq!(engine.failure(&held[0], ACK).await, Failure::AlreadySettled);
}

pub(crate) async fn a_pause_keeps_keys_with_their_holder(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "a", "b"]).await;
    let mut consumer = engine.consumer(messages(1)).await;
    let held = next(&mut *consumer).await;
    set_paused(&engine, true).await;
    assert_eq!(soon(consumer.next()).await, Err(Error::Paused(subscription())));
    drop(consumer);
    set_paused(&engine, false).await;
    assert_eq!(offsets(&engine.pull_now(10).await), [3]);
    engine.ack(&held).await;
    assert_eq!(offsets(&engine.pull_now(10).await), [2]);
}

pub(crate) async fn a_cumulative_ack_and_a_seek_free_keys(harness: impl Harness) {
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "b", "a", "b"]).await;
    let held = engine.pull_n(2).await;
    assert_eq!(engine.settle_all(&held[1..], ACK_CUMULATIVE).await, 2);
    assert_eq!(offsets(&engine.pull_now(10).await), [3, 4]);
    engine.seek(&subscription(), Start::Earliest).await.unwrap();
    assert_eq!(attempts(&engine.pull_now(10).await), [(1, 1), (2, 1), (3, 1), (4, 1)]);
}

/// What came of one key, by two consumers that fail at random.
#[derive(Default)]
struct Story {
    settled: Vec<Offset>,
    failed: Option<Offset>,
}

/// Every delivery is the first of its key that is not settled, or follows one that the same consumer has.
pub(crate) async fn the_order_is_exact_whatever_fails(harness: impl Harness) {
    const KEYS: usize = 1_000;
    const ROUNDS: usize = 4;
    let Some(engine) = key_ordered(&harness).await else { return };
    let keys: Vec<_> = (0..KEYS).map(|key| format!("key-{key}")).collect();
    for _ in 0..ROUNDS {
        publish(&engine, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let mut stories = BTreeMap::<String, Story>::new();
    let mut consumers = [engine.consumer(messages(1_500)).await, engine.consumer(messages(700)).await];
    let mut settled = 0;
    for turn in 0.. {
        if settled == KEYS * ROUNDS {
            break;
        }
        let consumer = &mut consumers[turn % 2];
        let Some(delivered) = futures::FutureExt::now_or_never(consumer.next()) else {
            tokio::task::yield_now().await;
            continue;
        };
        for delivery in delivered.unwrap() {
            let offset = delivery.message.offset;
            let story = stories.entry(delivery.message.envelope.header().key.to_owned()).or_default();
            assert!(story.settled.last().is_none_or(|&last| last < offset), "{offset} comes too late");
            if story.failed.is_some_and(|failed| failed < offset) {
                // It was on its way before the one before it failed.
                assert_eq!(engine.failure(&delivery, ACK).await, Failure::Expired);
            } else if rand::rng().random_bool(0.2) {
                engine.settle_all(&[delivery], nack()).await;
                story.failed = Some(offset);
            } else {
                engine.ack(&[delivery]).await;
                story.settled.push(offset);
                story.failed = None;
                settled += 1;
            }
        }
    }
    for (number, key) in (1..).zip(&keys) {
        let expected: Vec<_> = (0..ROUNDS as Offset).map(|round| round * KEYS as Offset + number).collect();
        assert_eq!(stories[key].settled, expected, "{key}");
    }
    assert_eq!(engine.progress().await.backlog_messages, 0);
}

pub(crate) async fn the_order_outlasts_a_restart(mut harness: impl Harness) {
    if !harness.engine().capabilities().persistent {
        return;
    }
    let Some(engine) = key_ordered(&harness).await else { return };
    publish(&engine, &["a", "a", "b", "a"]).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 4).await;
    drop((consumer, engine));
    harness.reopen().await;
    let engine = Fixture::as_is(&harness);
    assert_eq!(engine.subscription(&subscription()).await.unwrap().settings.mode, Mode::KeyOrdered);
    for settlement in [nack(), END_LEASE] {
        assert_eq!(engine.failure(&held[0], settlement).await, Failure::Expired);
    }
    engine.ack(&held[1..2]).await;
    let first: Vec<Delivery> = soon(engine.pull(&subscription(), at_most(100), LONG)).await.unwrap();
    assert_eq!(attempts(&first), [(1, 2), (3, 2)], "those that may have failed go alone");
    engine.ack(&first).await;
    assert_eq!(attempts(&engine.pull_next(100).await), [(4, 2)]);
    let other =
        SubscriptionSettings { mode: Mode::Shared, ..SubscriptionSettings::new(super::fixture::topic()) };
    engine.create_subscription(name("other"), other, crate::engine::Intent::Apply).await.unwrap();
    assert_eq!(soon(engine.pull(&name("other"), PLENTY, LONG)).await.unwrap().len(), 4);
}
