//! What a topic keeps, and what a purge drops.

use std::time::Duration;

use super::Harness;
use super::fixture::*;
use crate::engine::{Error, Failure, Intent, Purged, TopicChange};
use crate::model::{Offset, Retention, Start, Timestamp};

async fn keep(engine: &Fixture, retention: Retention) {
    let change = TopicChange { retention: Some(retention), ..TopicChange::default() };
    engine.update_topic(&topic(), change, None, Intent::Apply).await.unwrap();
}

/// Waits until the topic begins at this offset.
async fn begins_at(engine: &Fixture, offset: Offset) {
    let begins = async {
        while engine.topic(&topic()).await.unwrap().first_offset != offset {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(begins).await;
}

fn read_offsets(messages: &[crate::model::StoredMessage]) -> Vec<Offset> {
    messages.iter().map(|message| message.offset).collect()
}

pub(crate) async fn a_purge_drops_what_came_before(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(5).await;
    let before = engine.topic(&topic()).await.unwrap().stored_bytes;
    let purged = engine.purge(&topic(), Start::Offset(4), Intent::Apply).await.unwrap();
    assert_eq!(purged, Purged { first: 4, messages: 3 });
    let shown = engine.topic(&topic()).await.unwrap();
    assert_eq!((shown.first_offset, shown.last_offset), (4, 5));
    assert!(shown.stored_bytes < before, "{} of {before} bytes are left", shown.stored_bytes);
    assert_eq!(read_offsets(&engine.read_all().await), [4, 5]);
    let from_gone = engine.read(&topic(), Start::Offset(2), PLENTY).await.unwrap();
    assert_eq!(read_offsets(&from_gone), [4, 5]);
    let again = engine.purge(&topic(), Start::Earliest, Intent::Apply).await.unwrap();
    assert_eq!(again, Purged { first: 4, messages: 0 });
}

pub(crate) async fn a_purge_of_everything_keeps_the_offsets(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(3).await;
    let shown = engine.purge(&topic(), Start::Latest, Intent::Validate).await.unwrap();
    assert_eq!(shown, Purged { first: 4, messages: 3 });
    assert_eq!(engine.read_all().await.len(), 3, "it was only asked");
    assert_eq!(engine.purge(&topic(), Start::Latest, Intent::Apply).await.unwrap(), shown);
    let shown = engine.topic(&topic()).await.unwrap();
    assert_eq!((shown.first_offset, shown.last_offset, shown.stored_bytes), (4, 3, 0));
    assert_eq!(engine.read_all().await, []);
    assert_eq!(engine.publish(1).await.first, 4);
    assert_eq!(read_offsets(&engine.read_all().await), [4]);
}

pub(crate) async fn a_purge_by_time_keeps_what_came_since(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(1).await;
    engine.publish(1).await;
    let time = engine.read_all().await[1].publish_time;
    let purged = engine.purge(&topic(), Start::Time(time), Intent::Apply).await.unwrap();
    assert!(purged.first <= 2, "the second message is kept: {purged:?}");
    let all = engine.purge(&topic(), Start::Time(Timestamp(u64::MAX / 2)), Intent::Apply).await.unwrap();
    assert_eq!(all.first, 3);
}

pub(crate) async fn a_purge_past_the_end_is_refused(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(2).await;
    let error = engine.purge(&topic(), Start::Offset(4), Intent::Apply).await.unwrap_err();
    assert_eq!(error, Error::BeyondEnd { topic: topic(), offset: 4, last: 2 });
    engine.purge(&topic(), Start::Offset(3), Intent::Apply).await.unwrap();
    let unknown = engine.purge(&name("other"), Start::Latest, Intent::Apply).await.unwrap_err();
    assert_eq!(unknown, Error::TopicNotFound(name("other")));
}

pub(crate) async fn subscriptions_pass_over_what_is_gone(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(6).await;
    let held = engine.pull_n(3).await;
    engine.purge(&topic(), Start::Offset(5), Intent::Apply).await.unwrap();
    let progress = engine.progress().await;
    assert_eq!((progress.committed_offset, progress.backlog_messages, progress.in_flight), (4, 2, 0));
    assert_eq!(engine.failure(&held[0], ACK).await, Failure::AlreadySettled);
    assert_eq!(engine.failure(&held[2], nack()).await, Failure::AlreadySettled);
    let left = engine.pull_n(2).await;
    assert_eq!(attempts(&left), [(5, 1), (6, 1)]);
    assert_eq!(engine.ack(&left).await, 6);
}

pub(crate) async fn waiting_consumers_go_on_after_a_purge(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    engine.purge(&topic(), Start::Latest, Intent::Apply).await.unwrap();
    let mut consumer = engine.consumer(FREELY).await;
    let mut ephemeral = engine.ephemeral(Start::Earliest, FREELY).await;
    let (waits, waits_too) = (begin(&mut *consumer), begin(&mut *ephemeral));
    engine.publish(1).await;
    assert_eq!(offsets(&soon(waits).await.unwrap()), [4]);
    assert_eq!(offsets(&soon(waits_too).await.unwrap()), [4]);
}

pub(crate) async fn a_subscription_starts_at_what_is_left(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(4).await;
    engine.purge(&topic(), Start::Offset(3), Intent::Apply).await.unwrap();
    for (subscription, start) in [("earliest", Start::Earliest), ("gone", Start::Offset(1))] {
        engine.add_subscription(&name(subscription), start).await;
        let pulled = engine.pull(&name(subscription), PLENTY, Duration::ZERO).await.unwrap();
        assert_eq!(offsets(&pulled), [3, 4], "{subscription}");
        assert_eq!(engine.seek(&name(subscription), Start::Earliest).await.unwrap(), 2);
    }
}

pub(crate) async fn the_newest_messages_are_kept(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    keep(&engine, Retention { max_messages: Some(2), ..Retention::default() }).await;
    engine.publish(5).await;
    begins_at(&engine, 4).await;
    engine.publish(1).await;
    begins_at(&engine, 5).await;
    assert_eq!(read_offsets(&engine.read_all().await), [5, 6]);
}

pub(crate) async fn a_size_is_kept_to(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let change = TopicChange {
        retention: Some(Retention { max_bytes: Some(2_500), ..Retention::default() }),
        max_message_bytes: Some(1_000),
        ..TopicChange::default()
    };
    engine.update_topic(&topic(), change, None, Intent::Apply).await.unwrap();
    for _ in 0..4 {
        engine.publish_all(vec![envelope(vec![7; 1_000])]).await;
    }
    begins_at(&engine, 3).await;
    assert_eq!(engine.topic(&topic()).await.unwrap().stored_bytes, 2_000);
}

pub(crate) async fn old_messages_go(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(2).await;
    keep(&engine, Retention { max_age: Some(Duration::from_millis(1)), ..Retention::default() }).await;
    begins_at(&engine, 3).await;
    keep(&engine, Retention { max_age: Some(LONG), ..Retention::default() }).await;
    engine.publish(1).await;
    keep(&engine, Retention { max_age: Some(LONG), max_messages: Some(1), ..Retention::default() }).await;
    engine.publish(1).await;
    begins_at(&engine, 4).await;
}

pub(crate) async fn what_every_subscription_has_settled_goes(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.add_subscription(&name("other"), Start::Earliest).await;
    keep(&engine, Retention { delete_acked: true, ..Retention::default() }).await;
    engine.publish(3).await;
    let all = engine.pull_n(3).await;
    engine.ack(&all).await;
    let others = engine.pull(&name("other"), at_most(2), Duration::ZERO).await.unwrap();
    engine.settle(&name("other"), ids(&others), ACK).await.unwrap();
    begins_at(&engine, 3).await;
    assert_eq!(read_offsets(&engine.read_all().await), [3]);
}

pub(crate) async fn contradictory_settings_are_refused(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let before = engine.topic(&topic()).await.unwrap();
    let retention = Retention { max_bytes: Some(9), ..Retention::default() };
    let change = TopicChange { retention: Some(retention), ..TopicChange::default() };
    let error = engine.update_topic(&topic(), change, None, Intent::Apply).await.unwrap_err();
    assert!(matches!(error, Error::Contradiction { .. }), "{error:?}");
    assert_eq!(engine.topic(&topic()).await.unwrap(), before);
}

pub(crate) async fn what_is_gone_stays_gone(mut harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    if !engine.capabilities().persistent {
        return;
    }
    engine.publish(4).await;
    engine.purge(&topic(), Start::Offset(4), Intent::Apply).await.unwrap();
    let before = engine.topic(&topic()).await.unwrap();
    drop(engine);
    harness.reopen().await;
    let engine = Fixture::as_is(&harness);
    assert_eq!(engine.topic(&topic()).await.unwrap(), before);
    assert_eq!(read_offsets(&engine.read_all().await), [4]);
    assert_eq!(offsets(&engine.pull_n(1).await), [4]);
    assert_eq!(engine.progress().await.committed_offset, 3);
    assert_eq!(engine.publish(1).await.first, 5);
}
