//! Exclusive subscriptions: one consumer at a time, in the topic's order.

use super::Harness;
use super::fixture::{
    ACK_CUMULATIVE, FREELY, Fixture, LONG, PLENTY, attempts, begin, envelope, messages, nack, nack_for, next,
    next_n, offsets, soon, subscription,
};
use crate::engine::{Credit, Error};
use crate::model::Mode;

/// Nothing, on an engine without exclusive subscriptions.
async fn exclusive(harness: &impl Harness) -> Option<Fixture> {
    if !harness.engine().capabilities().exclusive {
        return None;
    }
    Some(Fixture::subscribed_with(harness, |settings| settings.mode = Mode::Exclusive).await)
}

pub(crate) async fn the_oldest_consumer_gets_everything(harness: impl Harness) {
    let Some(engine) = exclusive(&harness).await else { return };
    let (mut oldest, mut standby) = (engine.consumer(FREELY).await, engine.consumer(FREELY).await);
    let standing_by = begin(&mut *standby);
    for round in 0..5 {
        engine.publish(4).await;
        let delivered = next_n(&mut *oldest, 4).await;
        assert_eq!(offsets(&delivered), (round * 4 + 1..=round * 4 + 4).collect::<Vec<_>>());
        engine.settle_all(&delivered[3..], ACK_CUMULATIVE).await;
    }
    drop(oldest);
    engine.publish(1).await;
    assert_eq!(attempts(&soon(standing_by).await.unwrap()), [(21, 1)]);
}

pub(crate) async fn a_standby_takes_over_in_order(harness: impl Harness) {
    let Some(engine) = exclusive(&harness).await else { return };
    let (mut oldest, mut standby) = (engine.consumer(messages(4)).await, engine.consumer(FREELY).await);
    let mut last = engine.consumer(FREELY).await;
    engine.publish(6).await;
    let held = next_n(&mut *oldest, 4).await;
    engine.ack(&held[1..2]).await;
    let waiting = begin(&mut *last);
    drop(oldest);
    let taken = next_n(&mut *standby, 5).await;
    assert_eq!(attempts(&taken), [(1, 2), (3, 2), (4, 2), (5, 1), (6, 1)]);
    engine.settle_all(&taken[2..3], ACK_CUMULATIVE).await;
    drop(standby);
    let mut rest = soon(waiting).await.unwrap();
    if rest.len() < 2 {
        rest.extend(next(&mut *last).await);
    }
    assert_eq!(attempts(&rest), [(5, 2), (6, 2)]);
}

pub(crate) async fn a_message_without_room_does_not_go_to_a_standby(harness: impl Harness) {
    let Some(engine) = exclusive(&harness).await else { return };
    let mut oldest = engine.consumer(Credit { messages: 10, bytes: 10 }).await;
    let mut standby = engine.consumer(FREELY).await;
    engine.publish_all(vec![envelope("12345678"), envelope("12345678"), envelope("1")]).await;
    let first = next(&mut *oldest).await;
    assert_eq!(offsets(&first), [1], "the third would fit, but it is not its turn");
    let waiting = begin(&mut *oldest);
    drop(begin(&mut *standby));
    engine.ack(&first).await;
    assert_eq!(attempts(&soon(waiting).await.unwrap()), [(2, 1), (3, 1)]);
}

pub(crate) async fn redelivery_holds_up_what_follows(harness: impl Harness) {
    let Some(engine) = exclusive(&harness).await else { return };
    engine.publish(3).await;
    let mut consumer = engine.consumer(messages(2)).await;
    let held = next_n(&mut *consumer, 2).await;
    engine.settle_all(&held, nack()).await;
    let again = next_n(&mut *consumer, 2).await;
    assert_eq!(attempts(&again), [(1, 2), (2, 2)], "they come again in order, before the third");
    engine.ack(&again).await;
    assert_eq!(attempts(&next(&mut *consumer).await), [(3, 1)]);
}

pub(crate) async fn a_delay_holds_up_what_follows(harness: impl Harness) {
    let Some(engine) = exclusive(&harness).await else { return };
    engine.publish(3).await;
    let mut consumer = engine.consumer(messages(2)).await;
    let held = next_n(&mut *consumer, 2).await;
    engine.settle_all(&held[..1], nack_for(LONG)).await;
    engine.settle_all(&held[1..], nack()).await;
    let waiting = begin(&mut *consumer);
    // The id counts until the message is handed out again: the delay ends here.
    engine.settle_all(&held[..1], nack()).await;
    let mut again = soon(waiting).await.unwrap();
    if again.len() < 2 {
        again.extend(next(&mut *consumer).await);
    }
    assert_eq!(attempts(&again), [(1, 2), (2, 2)]);
    engine.ack(&again).await;
    assert_eq!(attempts(&next(&mut *consumer).await), [(3, 1)]);
}

pub(crate) async fn a_held_subscription_cannot_be_pulled(harness: impl Harness) {
    let Some(engine) = exclusive(&harness).await else { return };
    engine.publish(2).await;
    let pulled = engine.pull_n(1).await;
    let mut consumer = engine.consumer(FREELY).await;
    let error = soon(engine.pull(&subscription(), PLENTY, LONG)).await.unwrap_err();
    assert_eq!(error, Error::Held(subscription()));
    engine.ack(&pulled).await;
    assert_eq!(offsets(&next(&mut *consumer).await), [2]);
    drop(consumer);
    assert_eq!(attempts(&engine.pull_next(10).await), [(2, 2)]);
}

pub(crate) async fn what_was_pulled_holds_up_streams(harness: impl Harness) {
    let Some(engine) = exclusive(&harness).await else { return };
    engine.publish(6).await;
    let pulled = engine.pull_n(2).await;
    assert_eq!(offsets(&engine.pull_n(1).await), [3], "who pulls, pulls on");
    let mut consumer = engine.consumer(FREELY).await;
    let waiting = begin(&mut *consumer);
    engine.ack(&pulled).await;
    engine.seek(&subscription(), crate::model::Start::Offset(3)).await.unwrap();
    assert_eq!(offsets(&soon(waiting).await.unwrap()), [3, 4, 5, 6]);
}
