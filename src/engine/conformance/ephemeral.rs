//! Ephemeral consumers: readers that live with their stream.

use super::Harness;
use super::fixture::{
    FREELY, Fixture, attempts, begin, messages, next, next_error, next_n, offsets, soon, topic,
};
use crate::engine::{Error, Intent};
use crate::model::{Offset, Start, SubscriptionStats, Timestamp, TopicSettings};

pub(crate) async fn starts_where_asked(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(3).await;
    let starts: [(_, &[Offset]); 5] = [
        (Start::Earliest, &[1, 2, 3, 4]),
        (Start::Latest, &[4]),
        (Start::Offset(2), &[2, 3, 4]),
        (Start::Offset(4), &[4]),
        (Start::Time(Timestamp(0)), &[1, 2, 3, 4]),
    ];
    let mut consumers = Vec::new();
    for (start, _) in starts {
        consumers.push(engine.ephemeral(start, FREELY).await);
    }
    engine.publish(1).await;
    for (consumer, (start, expected)) in consumers.iter_mut().zip(starts) {
        let delivered = next_n(&mut **consumer, expected.len()).await;
        assert_eq!(offsets(&delivered), expected, "from {start:?}");
    }
}

pub(crate) async fn waits_at_an_offset_past_the_end(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(1).await;
    let mut consumer = engine.ephemeral(Start::Offset(4), FREELY).await;
    let waiting = begin(&mut *consumer);
    engine.publish(1).await;
    engine.publish(2).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [4]);
}

pub(crate) async fn leases_nothing(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let mut consumer = engine.ephemeral(Start::Earliest, messages(2)).await;
    let delivered = next_n(&mut *consumer, 3).await;
    assert!(delivered.iter().all(|delivery| delivery.ack_id.is_empty() && delivery.attempt == 1));
    let stored: Vec<_> = delivered.into_iter().map(|delivery| delivery.message).collect();
    assert_eq!(stored, engine.read_all().await);
    let untouched = SubscriptionStats {
        backlog_messages: 3,
        oldest_unacked: Some(stored[0].publish_time),
        ..SubscriptionStats::default()
    };
    assert_eq!(engine.progress().await, untouched);
}

pub(crate) async fn readers_do_not_share(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let mut first = engine.ephemeral(Start::Latest, FREELY).await;
    let mut second = engine.ephemeral(Start::Latest, FREELY).await;
    let waiting = (begin(&mut *first), begin(&mut *second));
    engine.publish(2).await;
    assert_eq!(attempts(&soon(waiting.0).await.unwrap()), [(1, 1), (2, 1)]);
    assert_eq!(attempts(&soon(waiting.1).await.unwrap()), [(1, 1), (2, 1)]);
}

pub(crate) async fn responses_are_bounded_by_credit(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(7).await;
    let mut consumer = engine.ephemeral(Start::Earliest, messages(3)).await;
    let mut delivered = Vec::new();
    while delivered.len() < 7 {
        let batch = next(&mut *consumer).await;
        assert!(batch.len() <= 3, "{} messages in one response", batch.len());
        delivered.extend(offsets(&batch));
    }
    assert_eq!(delivered, [1, 2, 3, 4, 5, 6, 7]);
}

pub(crate) async fn none_stops_and_more_resumes(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(1).await;
    let mut consumer = engine.ephemeral(Start::Earliest, messages(0)).await;
    drop(begin(&mut *consumer));
    consumer.set_credit(messages(1)).await;
    assert_eq!(offsets(&next(&mut *consumer).await), [1]);
}

pub(crate) async fn next_may_be_dropped_and_called_again(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let mut consumer = engine.ephemeral(Start::Latest, FREELY).await;
    for offset in 1..5 {
        let waiting = begin(&mut *consumer);
        engine.publish(1).await;
        drop(waiting);
        assert_eq!(offsets(&next(&mut *consumer).await), [offset]);
    }
}

pub(crate) async fn ends_with_its_topic(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let mut waiting = engine.ephemeral(Start::Latest, FREELY).await;
    let mut idle = engine.ephemeral(Start::Latest, FREELY).await;
    let next = begin(&mut *waiting);
    engine.delete_topic(&topic(), None).await.unwrap();
    let deleted = Error::TopicDeleted(topic());
    assert_eq!(soon(next).await.unwrap_err(), deleted);

    engine.create_topic(topic(), TopicSettings::default(), Intent::Apply).await.unwrap();
    engine.publish(1).await;
    assert_eq!(next_error(&mut *idle).await, deleted, "a namesake must not revive a consumer");
    assert_eq!(next_error(&mut *waiting).await, deleted);
}
