//! Messages that are not delivered before some time, or not after it.

use std::time::Duration;

use super::Harness;
use super::fixture::{
    END_LEASE, FREELY, Fixture, LONG, PATIENCE, attempts, begin, envelope, give_up, messages, nack_for, next,
    next_n, offsets, soon, subscription, timed,
};
use crate::engine::{Intent, SubscriptionChange};
use crate::model::{Mode, Offset, RetryPolicy, Start, Timestamp};

/// A time that comes within a test, but not at once.
const SOON: Duration = Duration::from_millis(300);

fn from_now(span: Duration) -> Timestamp {
    Timestamp::now().after(span)
}

/// Waits until the floor is there.
async fn settled_up_to(engine: &Fixture, floor: Offset) {
    let began = tokio::time::Instant::now();
    while engine.progress().await.committed_offset != floor {
        assert!(began.elapsed() < PATIENCE, "{:?}", engine.progress().await);
        tokio::task::yield_now().await;
    }
}

/// Waits until the wall clock is there.
async fn at(time: Timestamp) {
    while Timestamp::now() < time {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn a_message_waits_for_its_time_and_holds_up_no_other(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish_all(vec![timed(Some(from_now(LONG)), None), envelope("")]).await;
    let delivered = engine.pull_now(10).await;
    assert_eq!(attempts(&delivered), [(2, 1)]);
    engine.ack(&delivered).await;
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.in_flight, stats.scheduled), (1, 0, 1));
    assert_eq!(stats.committed_offset, 0);
}

pub(crate) async fn a_message_comes_at_its_time(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut consumer = engine.consumer(FREELY).await;
    let waiting = begin(&mut *consumer);
    let times = [(1, from_now(SOON * 2)), (2, from_now(SOON)), (3, Timestamp(0))];
    engine.publish_all(times.map(|(_, time)| timed(Some(time), None)).to_vec()).await;
    let mut delivered = soon(waiting).await.unwrap();
    assert_eq!(offsets(&delivered), [3], "a time in the past is now");
    while delivered.len() < 3 {
        let batch = next(&mut *consumer).await;
        for (offset, time) in times {
            assert!(!offsets(&batch).contains(&offset) || Timestamp::now() >= time, "{offset} comes early");
        }
        delivered.extend(batch);
    }
    delivered.sort_by_key(|delivery| delivery.message.offset);
    assert_eq!(attempts(&delivered), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(engine.ack(&delivered).await, 3);
    assert_eq!(engine.progress().await.scheduled, 0);
}

pub(crate) async fn what_waits_for_its_time_is_not_in_flight(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.max_in_flight = 1).await;
    engine.publish_all(vec![timed(Some(from_now(LONG)), None); 100]).await;
    engine.publish(2).await;
    let delivered = engine.pull_n(1).await;
    assert_eq!(offsets(&delivered), [101]);
    assert_eq!(engine.pull_now(10).await, []);
    engine.ack(&delivered).await;
    assert_eq!(offsets(&engine.pull_n(1).await), [102]);
    assert_eq!(engine.progress().await.scheduled, 100);
}

pub(crate) async fn a_seek_forgets_the_schedule(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish_all(vec![timed(Some(from_now(LONG)), None), envelope(""), envelope("")]).await;
    assert_eq!(offsets(&engine.pull_n(2).await), [2, 3]);
    engine.seek(&subscription(), Start::Offset(2)).await.unwrap();
    assert_eq!(engine.progress().await.scheduled, 0);
    let delivered = engine.pull_n(2).await;
    assert_eq!(engine.ack(&delivered).await, 3);
}

pub(crate) async fn an_exclusive_order_leaves_out_what_is_not_due(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.mode = Mode::Exclusive).await;
    engine.publish_all(vec![timed(Some(from_now(SOON)), None), envelope("")]).await;
    let mut consumer = engine.consumer(FREELY).await;
    assert_eq!(offsets(&next(&mut *consumer).await), [2]);
    assert_eq!(attempts(&next(&mut *consumer).await), [(1, 1)]);
}

pub(crate) async fn a_message_takes_its_place_among_its_key_in_time(harness: impl Harness) {
    if !harness.engine().capabilities().key_ordered {
        return;
    }
    let engine = Fixture::subscribed_with(&harness, |settings| settings.mode = Mode::KeyOrdered).await;
    let time = from_now(SOON);
    engine.publish_all(vec![timed(Some(time), None), envelope(""), envelope("")]).await;
    engine.publish_all(["a"; 3].map(super::fixture::keyed).to_vec()).await;
    engine.publish_all(vec![super::fixture::keyed_at("a", time), super::fixture::keyed("a")]).await;
    let mut consumer = engine.consumer(messages(5)).await;
    let held = next_n(&mut *consumer, 5).await;
    assert_eq!(offsets(&held), [2, 3, 4, 5, 6]);
    let waiting = begin(&mut *consumer);
    at(time).await;
    engine.ack(&held).await;
    let mut rest = soon(waiting).await.unwrap();
    while rest.len() < 3 {
        rest.extend(next(&mut *consumer).await);
    }
    rest.retain(|delivery| delivery.message.offset != 1);
    assert_eq!(attempts(&rest), [(7, 1), (8, 1)], "its time has come before the eighth was delivered");
}

pub(crate) async fn an_expired_message_counts_as_settled(harness: impl Harness) {
    for mode in [Mode::Shared, Mode::Exclusive, Mode::KeyOrdered] {
        let engine = Fixture::subscribed_with(&harness, |settings| settings.mode = mode).await;
        engine.publish_all(vec![timed(None, Some(Timestamp(1))), envelope("")]).await;
        let delivered = engine.pull_next(10).await;
        assert_eq!(attempts(&delivered), [(2, 1)]);
        settled_up_to(&engine, 1).await;
        let stats = engine.progress().await;
        assert_eq!((stats.backlog_messages, stats.dead_lettered, stats.scheduled), (1, 0, 0));
        engine.delete_subscription(&subscription(), None).await.unwrap();
        engine.delete_topic(&super::fixture::topic(), None).await.unwrap();
    }
}

pub(crate) async fn a_message_expires_while_it_waits_to_come_again(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.mode = Mode::Exclusive).await;
    engine.publish_all(vec![timed(None, Some(from_now(SOON))), envelope("")]).await;
    let held = engine.pull_n(1).await;
    engine.settle_all(&held, nack_for(LONG)).await;
    let mut consumer = engine.consumer(FREELY).await;
    assert_eq!(attempts(&next(&mut *consumer).await), [(2, 1)], "it held up the other no longer");
    settled_up_to(&engine, 1).await;
}

pub(crate) async fn what_expires_in_flight_may_be_acknowledged(harness: impl Harness) {
    let letters = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    let engine = Fixture::subscribed_with(&harness, |settings| settings.retry = letters).await;
    let time = from_now(SOON);
    engine.publish_all(vec![timed(None, Some(time)); 3]).await;
    let held = engine.pull_n(3).await;
    at(time).await;
    assert_eq!(engine.progress().await.in_flight, 3);
    assert_eq!(engine.ack(&held[..1]).await, 1);
    engine.settle_all(&held[1..2], END_LEASE).await;
    engine.settle_all(&held[2..], give_up("too late")).await;
    settled_up_to(&engine, 3).await;
    assert_eq!(engine.progress().await.dead_lettered, 0, "what has expired is not given up");
}

pub(crate) async fn readers_see_what_is_scheduled_and_ephemeral_ones_not_what_expired(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let mut consumer = engine.ephemeral(Start::Earliest, messages(2)).await;
    let waiting = begin(&mut *consumer);
    let (later, expired) = (timed(Some(from_now(LONG)), None), timed(None, Some(Timestamp(1))));
    engine.publish_all(vec![expired.clone(), expired.clone(), expired, later]).await;
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [4]);
    assert_eq!(engine.read_all().await.len(), 4);
    engine.publish(1).await;
    assert_eq!(offsets(&next(&mut *consumer).await), [5]);
}

pub(crate) async fn both_outlast_a_restart(mut harness: impl Harness) {
    if !harness.engine().capabilities().persistent {
        return;
    }
    let once = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
    let engine = Fixture::subscribed_with(&harness, |settings| settings.retry = once).await;
    let time = from_now(SOON);
    let times =
        [(Some(time), None), (None, None), (None, Some(time)), (Some(from_now(LONG)), None), (None, None)];
    engine.publish_all(times.map(|(deliver, expire)| timed(deliver, expire)).to_vec()).await;
    let held = engine.pull_n(3).await;
    assert_eq!(offsets(&held), [2, 3, 5]);
    engine.ack(&held[2..]).await;
    drop(engine);
    harness.reopen().await;
    at(time).await;
    let engine = Fixture::as_is(&harness);
    let mut delivered = engine.pull_n(2).await;
    delivered.sort_by_key(|delivery| delivery.message.offset);
    assert_eq!(attempts(&delivered), [(1, 1), (2, 2)], "what was not delivered has no attempts");
    assert_eq!(engine.pull_now(10).await, []);
    engine.ack(&delivered).await;
    settled_up_to(&engine, 3).await;
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.scheduled, stats.dead_lettered), (1, 1, 0));
    let change = SubscriptionChange { paused: Some(true), ..SubscriptionChange::default() };
    engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    drop(engine);
    harness.reopen().await;
    assert_eq!(Fixture::as_is(&harness).progress().await.committed_offset, 3);
}
