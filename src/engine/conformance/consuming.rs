//! Consumers and pulls: what is handed to whom, when, and in what pieces.

use std::time::Duration;

use futures::FutureExt;
use futures::future::select_all;

use super::Harness;
use super::fixture::{
    FREELY, Fixture, LONG, PLENTY, at_most, attempts, begin, envelope, name, next, next_n, offsets, soon,
    subscription, topic,
};
use crate::engine::{Error, Intent, ReadLimit, Target, TopicChange};
use crate::model::limits::{
    MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, MAX_CONSUMERS, MAX_CONSUMERS_PER_SUBSCRIPTION, MAX_MESSAGE_BYTES,
    MAX_WAITING_PULLS,
};
use crate::model::{Delivery, Filter, Start};

pub(crate) async fn messages_come_in_order(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut consumer = engine.consumer(FREELY).await;
    engine.publish(20).await;
    engine.publish(20).await;
    let delivered = next_n(&mut *consumer, 40).await;
    let stored: Vec<_> = delivered.iter().map(|delivery| delivery.message.clone()).collect();
    assert_eq!(stored, engine.read_all().await);
    assert!(delivered.iter().all(|delivery| delivery.attempt == 1 && !delivery.ack_id.is_empty()));
    engine.ack(&delivered).await;
    engine.publish(1).await;
    assert_eq!(attempts(&next(&mut *consumer).await), [(41, 1)]);
}

pub(crate) async fn waiting_consumers_are_woken(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut consumer = engine.consumer(FREELY).await;
    for offset in 1..=3 {
        let waiting = begin(&mut *consumer);
        engine.publish(1).await;
        assert_eq!(offsets(&soon(waiting).await.unwrap()), [offset]);
    }
}

pub(crate) async fn next_may_be_dropped_and_called_again(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut consumer = engine.consumer(FREELY).await;
    drop(begin(&mut *consumer));
    engine.publish(1).await;
    assert_eq!(attempts(&next(&mut *consumer).await), [(1, 1)]);

    let waiting = begin(&mut *consumer);
    engine.publish(2).await;
    drop(waiting);
    assert_eq!(attempts(&next_n(&mut *consumer, 2).await), [(2, 1), (3, 1)]);

    for offset in 4..20 {
        engine.publish(1).await;
        // Gives up as soon as there is nothing at hand, again and again.
        let delivered = soon(async {
            loop {
                if let Some(delivered) = consumer.next().now_or_never() {
                    return delivered.unwrap();
                }
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(attempts(&delivered.await), [(offset, 1)]);
    }
}

pub(crate) async fn batches_are_bounded_in_messages(harness: impl Harness) {
    let count = MAX_BATCH_MESSAGES * 2 + 500;
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(count).await;
    let mut consumer = engine.consumer(FREELY).await;
    let mut delivered = Vec::new();
    while delivered.len() < count {
        let batch = next(&mut *consumer).await;
        assert!(batch.len() <= MAX_BATCH_MESSAGES, "{} messages in one batch", batch.len());
        delivered.extend(offsets(&batch));
    }
    assert_eq!(delivered, (1..=count as u64).collect::<Vec<_>>());
}

pub(crate) async fn batches_are_bounded_in_bytes(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let change = TopicChange { max_message_bytes: Some(MAX_MESSAGE_BYTES), ..TopicChange::default() };
    engine.update_topic(&topic(), change, None, Intent::Apply).await.unwrap();
    let sizes = [MAX_BATCH_BYTES / 2, MAX_BATCH_BYTES / 2, 1, 2 * MAX_BATCH_BYTES, 1, MAX_BATCH_BYTES];
    engine.publish_all(sizes.iter().map(|&size| envelope(vec![b'x'; size])).collect()).await;
    let mut consumer = engine.consumer(FREELY).await;
    let mut delivered = Vec::new();
    while delivered.len() < sizes.len() {
        let batch = next(&mut *consumer).await;
        let bytes: usize = batch.iter().map(|delivery| delivery.message.envelope.len()).sum();
        assert!(bytes <= MAX_BATCH_BYTES || batch.len() == 1, "{} messages of {bytes} bytes", batch.len());
        delivered.extend(batch);
    }
    assert_eq!(offsets(&delivered), [1, 2, 3, 4, 5, 6]);
}

pub(crate) async fn subscriptions_progress_on_their_own(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.add_subscription(&name("other"), Start::Earliest).await;
    engine.publish(3).await;
    assert_eq!(engine.ack(&engine.pull_n(3).await).await, 3);
    let mut other = engine.subscribe(Target::Durable(name("other")), FREELY).await.unwrap();
    assert_eq!(attempts(&next_n(&mut *other, 3).await), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(engine.stats(&name("other")).await.unwrap().committed_offset, 0);
    assert_eq!(engine.progress().await.committed_offset, 3);
}

pub(crate) async fn consumers_are_told_apart(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let consumers = [
        engine.consumer(FREELY).await,
        engine.consumer(FREELY).await,
        engine.ephemeral(Start::Latest, FREELY).await,
    ];
    let mut ids: Vec<_> = consumers.iter().map(|consumer| consumer.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert!(!ids[0].is_empty());
    assert_eq!(engine.progress().await.consumers, 2);
}

pub(crate) async fn consumers_of_a_subscription_are_limited(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut consumers = Vec::new();
    for _ in 0..MAX_CONSUMERS_PER_SUBSCRIPTION {
        consumers.push(engine.consumer(FREELY).await);
    }
    let error = engine.subscribe(Target::Durable(subscription()), FREELY).await.err().unwrap();
    let limited = matches!(error, Error::TooMany { limit: MAX_CONSUMERS_PER_SUBSCRIPTION, .. });
    assert!(limited, "{error:?}");
    consumers.pop();
    consumers.push(engine.consumer(FREELY).await);
    drop(consumers);
    engine.publish(1).await;
    assert_eq!(offsets(&next(&mut *engine.consumer(FREELY).await).await), [1]);
}

pub(crate) async fn consumers_are_limited(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut consumers = vec![engine.consumer(FREELY).await];
    while consumers.len() < MAX_CONSUMERS {
        consumers.push(engine.ephemeral(Start::Latest, FREELY).await);
    }
    let ephemeral =
        Target::Ephemeral { topic: topic().into(), start: Start::Latest, filter: Filter::default() };
    for target in [Target::Durable(subscription()), ephemeral] {
        let error = engine.subscribe(target, FREELY).await.err().unwrap();
        assert!(matches!(error, Error::TooMany { limit: MAX_CONSUMERS, .. }), "{error:?}");
    }
    consumers.pop();
    engine.consumer(FREELY).await;
}

pub(crate) async fn a_pull_does_not_wait_unless_asked(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    assert_eq!(engine.pull_now(10).await, []);
    engine.publish(1).await;
    assert_eq!(offsets(&engine.pull_now(10).await), [1], "a receipt means that the message can be had");
    assert_eq!(engine.pull_now(10).await, []);
}

pub(crate) async fn a_pull_waits_for_the_first_message(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let name = subscription();
    let mut pull = engine.pull(&name, PLENTY, LONG);
    assert!(futures::poll!(pull.as_mut()).is_pending());
    engine.publish(1).await;
    assert_eq!(offsets(&soon(pull).await.unwrap()), [1]);

    let brief = soon(engine.pull(&name, PLENTY, Duration::from_millis(20))).await;
    assert_eq!(brief.unwrap(), [], "a wait that ends is no error");
}

pub(crate) async fn waiting_pulls_are_limited(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    // Consumers that wait do not count.
    let _consumer = engine.consumer(FREELY).await;
    let name = subscription();
    let pulls = (0..=MAX_WAITING_PULLS).map(|_| engine.pull(&name, PLENTY, LONG));
    let (refused, _, waiting) = soon(select_all(pulls)).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, Error::TooMany { limit: MAX_WAITING_PULLS, .. }), "{error:?}");
    drop(waiting);
    let mut pull = engine.pull(&name, PLENTY, LONG);
    assert!(futures::poll!(pull.as_mut()).is_pending());
    engine.publish(1).await;
    assert_eq!(offsets(&soon(pull).await.unwrap()), [1]);
}

pub(crate) async fn a_pull_stops_at_its_limits(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let large = envelope(vec![b'x'; 1_000]);
    let small = envelope("1234");
    engine.publish_all(vec![small.clone(), small.clone(), small.clone(), large, small]).await;
    let pull =
        async |limit| -> Vec<Delivery> { soon(engine.pull(&subscription(), limit, LONG)).await.unwrap() };
    assert_eq!(offsets(&pull(at_most(1)).await), [1]);
    let tight = ReadLimit { messages: 10, bytes: 10 };
    assert_eq!(offsets(&pull(tight).await), [2, 3]);
    assert_eq!(offsets(&pull(tight).await), [4], "one message is always allowed");
    assert_eq!(offsets(&pull(tight).await), [5]);
}
