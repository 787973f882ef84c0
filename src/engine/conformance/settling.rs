//! Acks and extensions: what they do, which ids count, and what becomes of those that do not.

use bytes::Bytes;

use super::Harness;
use super::fixture::{
    ACK, ACK_CUMULATIVE, END_LEASE, FREELY, Fixture, LONG, PLENTY, SHORT, attempts, give_up, ids, nack,
    nack_for, name, next_n, offsets, soon, subscription,
};
use crate::engine::{Failure, Intent, Settlement, SubscriptionChange};
use crate::model::Start;

const EXTEND: Settlement = Settlement::Extend { deadline: Some(LONG) };
const EXTEND_BY_DEFAULT: Settlement = Settlement::Extend { deadline: None };

pub(crate) async fn acked_messages_never_return(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 3).await;
    engine.ack(&held[..2]).await;
    drop(consumer);
    assert_eq!(attempts(&engine.pull_next(10).await), [(3, 2)]);
    assert_eq!(engine.progress().await.backlog_messages, 1);
}

pub(crate) async fn the_floor_waits_for_the_oldest(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(5).await;
    let held = engine.pull_n(5).await;
    for (settled, floor) in [(1, 0), (3, 0), (0, 2), (2, 4), (4, 5)] {
        assert_eq!(engine.ack(&held[settled..=settled]).await, floor);
        assert_eq!(engine.progress().await.committed_offset, floor);
    }
    assert_eq!(engine.settle_ids(vec![], ACK).await.committed_offset, 5);
}

pub(crate) async fn an_ack_counts_once(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let held = engine.pull_n(2).await;
    engine.ack(&held[1..]).await;
    for settlement in [ACK, ACK_CUMULATIVE, nack(), EXTEND] {
        assert_eq!(engine.failure(&held[1], settlement).await, Failure::AlreadySettled);
    }
    let id = &held[0].ack_id;
    let twice = engine.settle_ids(vec![id.clone(), id.clone()], ACK).await;
    assert_eq!(twice.failures, [(id.clone(), Failure::AlreadySettled)]);
    assert_eq!(twice.committed_offset, 2);
    assert_eq!(engine.pull_now(10).await, []);
}

pub(crate) async fn a_late_ack_counts(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let held = engine.pull_n(1).await;
    engine.settle_all(&held, END_LEASE).await;
    assert_eq!(engine.progress().await.in_flight, 0);
    assert_eq!(engine.ack(&held).await, 1);
    assert_eq!(engine.pull_now(1).await, []);
}

pub(crate) async fn an_ack_counts_after_the_consumer_left(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 2).await;
    drop(consumer);
    assert_eq!(engine.ack(&held[..1]).await, 1);
    assert_eq!(attempts(&engine.pull_next(10).await), [(2, 2)]);
}

pub(crate) async fn an_ack_counts_after_a_nack(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let held = engine.pull_n(1).await;
    engine.settle_all(&held, nack()).await;
    assert_eq!(engine.ack(&held).await, 1);
    assert_eq!(engine.pull_now(1).await, []);
}

pub(crate) async fn an_id_expires_when_its_message_is_handed_out_again(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let first = engine.pull_n(1).await;
    engine.settle_all(&first, END_LEASE).await;
    let second = engine.pull_n(1).await;
    for settlement in [ACK, ACK_CUMULATIVE, nack(), EXTEND, END_LEASE] {
        assert_eq!(engine.failure(&first[0], settlement).await, Failure::Expired);
    }
    let stats = engine.progress().await;
    assert_eq!((stats.in_flight, stats.committed_offset), (1, 0), "the second delivery is untouched");
    assert_eq!(engine.ack(&second).await, 1);
    assert_eq!(engine.failure(&first[0], ACK).await, Failure::AlreadySettled);
}

pub(crate) async fn garbage_is_unknown(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let held = engine.pull_n(1).await;
    let id = &held[0].ack_id;
    let mut garbage: Vec<_> = (0..id.len()).map(|length| id.slice(..length)).collect();
    garbage.push([id, &b"\0"[..]].concat().into());
    garbage.push([&id[..], &id[..]].concat().into());
    garbage.extend([0, 1, 0xff].map(|byte| Bytes::from(vec![byte; id.len()])));
    garbage.push(Bytes::from(vec![b'x'; 4_096]));
    for settlement in [ACK, ACK_CUMULATIVE, nack(), EXTEND] {
        let settled = engine.settle_ids(garbage.clone(), settlement).await;
        let unknown: Vec<_> = garbage.iter().map(|id| (id.clone(), Failure::Unknown)).collect();
        assert_eq!(settled.failures, unknown);
        assert_eq!(settled.committed_offset, 0);
    }
    assert_eq!(engine.ack(&held).await, 1);
}

pub(crate) async fn a_changed_id_is_unknown(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let held = engine.pull_n(3).await;
    let mut forged = Vec::new();
    for bit in 0..held[0].ack_id.len() * 8 {
        let mut id = held[0].ack_id.to_vec();
        id[bit / 8] ^= 1 << (bit % 8);
        forged.push(Bytes::from(id));
    }
    let settled = engine.settle_ids(forged.clone(), ACK_CUMULATIVE).await;
    let unknown: Vec<_> = forged.into_iter().map(|id| (id, Failure::Unknown)).collect();
    assert_eq!(settled.failures, unknown);
    assert_eq!(engine.progress().await.backlog_messages, 3);
}

pub(crate) async fn a_foreign_id_has_no_effect(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.add_subscription(&name("other"), Start::Earliest).await;
    engine.publish(1).await;
    let held = engine.pull_n(1).await;
    for settlement in [ACK, ACK_CUMULATIVE, nack(), EXTEND] {
        let settled = engine.settle(&name("other"), ids(&held), settlement).await.unwrap();
        assert_eq!(settled.failures, [(held[0].ack_id.clone(), Failure::WrongSubscription)]);
        assert_eq!(settled.committed_offset, 0);
    }
    assert_eq!(engine.progress().await.in_flight, 1);
    assert_eq!(engine.ack(&held).await, 1);
    assert_eq!(engine.stats(&name("other")).await.unwrap().backlog_messages, 1);
}

/// Stale, foreign, changed and made-up ids, in turn.
pub(crate) async fn a_hundred_thousand_bad_ids_have_no_effect(harness: impl Harness) {
    const AT_ONCE: usize = 10_000;
    let engine = Fixture::subscribed(&harness).await;
    engine.add_subscription(&name("other"), Start::Earliest).await;
    engine.publish(30).await;
    let stale = engine.pull_n(30).await;
    engine.settle_all(&stale, nack()).await;
    let held = engine.pull_n(30).await;
    let foreign = soon(engine.pull(&name("other"), PLENTY, LONG)).await.unwrap();
    let before = engine.progress().await;

    let settlements = [
        ACK,
        ACK_CUMULATIVE,
        nack(),
        give_up("forged"),
        EXTEND,
        END_LEASE,
        nack_for(LONG),
        EXTEND_BY_DEFAULT,
    ];
    for round in 0..10 {
        let bad = |number: usize| {
            let mut id = held[number % held.len()].ack_id.to_vec();
            match number % 4 {
                0 => return stale[number % stale.len()].ack_id.clone(),
                1 => return foreign[number % foreign.len()].ack_id.clone(),
                2 => id[number / 4 % held[0].ack_id.len()] ^= rand::random_range(1..=u8::MAX),
                _ => rand::fill(&mut id[..]),
            }
            Bytes::from(id)
        };
        let ids: Vec<_> = (0..AT_ONCE).map(|number| bad(round * AT_ONCE + number)).collect();
        let settlement = settlements[round % settlements.len()].clone();
        let settled = engine.settle_ids(ids.clone(), settlement).await;
        let failed: Vec<_> = settled.failures.into_iter().map(|(id, _)| id).collect();
        assert!(failed == ids, "{} of {AT_ONCE} ids counted", AT_ONCE - failed.len());
        assert_eq!(engine.progress().await, before);
    }
    assert_eq!(engine.pull_now(10).await, []);
    assert_eq!(engine.ack(&held).await, 30);
    assert_eq!(engine.stats(&name("other")).await.unwrap().in_flight, 30);
}

pub(crate) async fn one_bad_id_harms_no_other(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(4).await;
    let held = engine.pull_n(4).await;
    engine.ack(&held[..1]).await;
    engine.settle_all(&held[1..2], nack()).await;
    engine.pull_n(1).await;
    let garbage = Bytes::from_static(b"garbage");
    let [settled, expired, good, other] = [0, 1, 2, 3].map(|n| held[n].ack_id.clone());
    let given = vec![garbage.clone(), good, settled.clone(), other, expired.clone()];
    let outcome = engine.settle_ids(given, ACK).await;
    let failures =
        [(garbage, Failure::Unknown), (settled, Failure::AlreadySettled), (expired, Failure::Expired)];
    assert_eq!(outcome.failures, failures, "in the order given");
    assert_eq!((outcome.committed_offset, engine.progress().await.backlog_messages), (1, 1));
}

pub(crate) async fn cumulative_settles_what_came_before(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(6).await;
    let held = engine.pull_n(5).await;
    engine.settle_all(&held[..1], nack_for(LONG)).await;
    engine.settle_all(&held[1..2], nack()).await;
    assert_eq!(engine.settle_all(&held[3..4], ACK_CUMULATIVE).await, 4);
    for delivery in &held[..4] {
        assert_eq!(engine.failure(delivery, ACK).await, Failure::AlreadySettled);
    }
    assert_eq!(offsets(&engine.pull_now(10).await), [6], "the fifth is still out, the others are done");
    assert_eq!(engine.ack(&held[4..]).await, 5);
}

pub(crate) async fn cumulative_closes_holes(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(8).await;
    let held = engine.pull_n(8).await;
    engine.ack(&held[1..2]).await;
    engine.ack(&held[5..6]).await;
    assert_eq!(engine.settle_all(&held[3..4], ACK_CUMULATIVE).await, 4);
    assert_eq!(engine.progress().await.backlog_messages, 3);
    assert_eq!(engine.ack(&held[4..5]).await, 6);
    assert_eq!(engine.settle_all(&held[7..], ACK_CUMULATIVE).await, 8);
    assert_eq!(engine.progress().await.backlog_messages, 0);
}

pub(crate) async fn an_extension_makes_it_longer(harness: impl Harness) {
    let engine = Fixture::subscribed_with(&harness, |settings| settings.ack_deadline = SHORT).await;
    engine.publish(2).await;
    let held = engine.pull_n(2).await;
    engine.settle_all(&held[..1], EXTEND).await;
    // Both were leased together: were the first not extended, it would be due as well.
    let again = engine.pull_next(10).await;
    assert_eq!(attempts(&again), [(2, 2)]);
    engine.ack(&again).await;
    assert_eq!(engine.pull_now(10).await, []);
    assert_eq!(engine.progress().await.in_flight, 1);
    assert_eq!(engine.ack(&held[..1]).await, 2);
}

pub(crate) async fn an_extension_makes_it_shorter(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let held = engine.pull_n(1).await;
    engine.settle_all(&held, Settlement::Extend { deadline: Some(SHORT) }).await;
    assert_eq!(attempts(&engine.pull_next(1).await), [(1, 2)]);
}

pub(crate) async fn an_extension_goes_by_the_subscription(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let held = engine.pull_n(1).await;
    let change = SubscriptionChange { ack_deadline: Some(SHORT), ..SubscriptionChange::default() };
    engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    engine.settle_all(&held, EXTEND_BY_DEFAULT).await;
    assert_eq!(attempts(&engine.pull_next(1).await), [(1, 2)]);
}

pub(crate) async fn a_late_extension_counts(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    let held = engine.pull_n(1).await;
    engine.settle_all(&held, END_LEASE).await;
    engine.settle_all(&held, EXTEND).await;
    assert_eq!(offsets(&engine.pull_now(10).await), [2], "the first is leased again");
    assert_eq!(soon(engine.ack(&held)).await, 1);
}
