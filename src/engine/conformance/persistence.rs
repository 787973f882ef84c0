//! What an engine that claims to persist finds again when it is opened again.

use super::Harness;
use super::fixture::{
    ACK, EVERYTHING, FREELY, Fixture, LONG, PLENTY, attempts, envelope, nack, name, next_n, offsets,
    persistent, reopened, subscription, topic,
};
use super::pausing::set_paused;
use crate::engine::{Error, Failure, Intent, SubscriptionChange, TopicChange};
use crate::model::{Mode, RetryPolicy, Start, SubscriptionSettings, TopicSettings};

pub(crate) async fn topics_and_messages_stay(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let mut engine = Fixture::new(&harness).await;
    let change = TopicChange { max_message_bytes: Some(5_000), ..TopicChange::default() };
    engine.update_topic(&topic(), change, None, Intent::Apply).await.unwrap();
    let mut expected = 0;
    for round in 0..3 {
        engine.publish_all(vec![envelope(""), envelope(format!("round {round}"))]).await;
        engine.publish(100).await;
        expected += 102;
        let before = (engine.topics(EVERYTHING).await.unwrap(), engine.read_all().await);
        engine = reopened(&mut harness, engine).await;
        assert_eq!(before.1.len(), expected);
        assert_eq!((engine.topics(EVERYTHING).await.unwrap(), engine.read_all().await), before);
    }
    assert_eq!(engine.publish(1).await.first, expected as u64 + 1);
    let times: Vec<_> = engine.read_all().await.iter().map(|message| message.publish_time).collect();
    assert!(times.is_sorted());
}

pub(crate) async fn subscriptions_and_progress_stay(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(10).await;
    let settings = SubscriptionSettings {
        mode: Mode::Exclusive,
        start: Start::Latest,
        ..SubscriptionSettings::new(topic())
    };
    engine.create_subscription(name("latest"), settings, Intent::Apply).await.unwrap();
    let change = SubscriptionChange { max_in_flight: Some(9), ..SubscriptionChange::default() };
    engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    let held = engine.pull_n(8).await;
    engine.ack(&held[..3]).await;
    engine.ack(&held[4..6]).await;

    let (before, stats) = (engine.subscriptions(EVERYTHING, None).await.unwrap(), engine.progress().await);
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.subscriptions(EVERYTHING, None).await.unwrap(), before);
    let after = engine.progress().await;
    assert_eq!((after.committed_offset, after.backlog_messages), (3, 5), "{stats:?} became {after:?}");
    assert_eq!((after.in_flight, after.oldest_unacked), (0, stats.oldest_unacked));
    let latest = engine.stats(&name("latest")).await.unwrap();
    assert_eq!((latest.committed_offset, latest.backlog_messages), (10, 0));
}

pub(crate) async fn deleted_things_stay_deleted(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let held = engine.pull_n(3).await;
    engine.ack(&held[..2]).await;
    engine.delete_subscription(&subscription(), None).await.unwrap();
    engine.delete_topic(&topic(), None).await.unwrap();
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.topic(&topic()).await.unwrap_err(), Error::TopicNotFound(topic()));
    assert_eq!(engine.subscriptions(EVERYTHING, None).await.unwrap(), []);

    drop(engine);
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.read_all().await.len(), 1, "a namesake must not inherit messages");
    assert_eq!(engine.progress().await.committed_offset, 0, "nor progress");
    assert_eq!(engine.failure(&held[2], ACK).await, Failure::WrongSubscription);
}

pub(crate) async fn unsettled_messages_return_and_settled_ones_do_not(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(6).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 6).await;
    for settled in [0, 2, 4] {
        engine.ack(&held[settled..=settled]).await;
    }
    drop(consumer);
    let engine = reopened(&mut harness, engine).await;
    let mut returned = engine.pull_n(3).await;
    returned.sort_by_key(|delivery| delivery.message.offset);
    assert_eq!(offsets(&returned), [2, 4, 6]);
    assert_eq!(engine.pull_now(10).await, []);
    assert_eq!(engine.ack(&returned).await, 6);
}

pub(crate) async fn an_ack_from_before_counts(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let held = engine.pull_n(3).await;
    engine.ack(&held[1..2]).await;
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.failure(&held[1], ACK).await, Failure::AlreadySettled);
    assert_eq!(engine.ack(&held[..1]).await, 2);
    assert_eq!(offsets(&engine.pull_next(10).await), [3]);
}

pub(crate) async fn an_id_from_before_expires_when_handed_out_again(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let before = engine.pull_n(1).await;
    let engine = reopened(&mut harness, engine).await;
    let again = engine.pull_n(1).await;
    assert_eq!(attempts(&again), [(1, 2)]);
    assert_eq!(engine.failure(&before[0], ACK).await, Failure::Expired);
    assert_eq!(engine.ack(&again).await, 1);
}

pub(crate) async fn a_seek_and_a_pause_stay(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(5).await;
    let before = engine.pull_n(5).await;
    engine.ack(&before[..4]).await;
    engine.seek(&subscription(), Start::Offset(2)).await.unwrap();
    set_paused(&engine, true).await;
    let engine = reopened(&mut harness, engine).await;
    assert!(engine.subscription(&subscription()).await.unwrap().settings.paused);
    let stats = engine.progress().await;
    assert_eq!((stats.committed_offset, stats.backlog_messages), (1, 4));
    set_paused(&engine, false).await;
    assert_eq!(engine.failure(&before[4], ACK).await, Failure::Expired, "it is of before the seek");
    assert_eq!(offsets(&engine.pull_n(4).await), [2, 3, 4, 5]);
}

pub(crate) async fn attempts_are_counted_on(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let mut engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let held = engine.pull_n(2).await;
    engine.settle_all(&held[..1], nack()).await;
    assert_eq!(attempts(&engine.pull_n(1).await), [(1, 2)]);
    for lives in 1..4 {
        engine = reopened(&mut harness, engine).await;
        let mut again = attempts(&engine.pull_n(2).await);
        again.sort_unstable();
        assert_eq!(again, [(1, 2 + lives), (2, 1 + lives)]);
    }
    assert_eq!(attempts(&engine.pull_n(1).await), [(3, 1)], "never handed out before");
}

pub(crate) async fn attempts_used_up_before_stay_used_up(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let letters = name("dead-letters");
    let engine = Fixture::new(&harness).await;
    engine.create_topic(letters.clone(), TopicSettings::default(), Intent::Apply).await.unwrap();
    let retry =
        RetryPolicy { max_attempts: 1, dead_letter_topic: Some(letters.clone()), ..RetryPolicy::default() };
    let settings = SubscriptionSettings { ack_deadline: LONG, retry, ..SubscriptionSettings::new(topic()) };
    let made = engine.create_subscription(subscription(), settings, Intent::Apply).await.unwrap();
    engine.publish(2).await;
    engine.pull_n(1).await;
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.subscription(&subscription()).await.unwrap(), made);
    assert_eq!(attempts(&engine.pull_next(10).await), [(2, 1)]);
    while engine.progress().await.dead_lettered == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.read(&letters, Start::Earliest, PLENTY).await.unwrap().len(), 1);
}

pub(crate) async fn only_the_last_id_from_before_counts(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let first = engine.pull_n(1).await;
    engine.settle_all(&first, nack()).await;
    let second = engine.pull_n(1).await;
    assert_eq!(engine.failure(&first[0], ACK).await, Failure::Expired);
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.failure(&first[0], ACK).await, Failure::Expired);
    assert_eq!(engine.ack(&second).await, 1);
}

pub(crate) async fn moved_and_discarded_messages_stay_so(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = Fixture::subscribed(&harness).await;
    engine.create_topic(name("other"), TopicSettings::default(), Intent::Apply).await.unwrap();
    engine.publish(5).await;
    engine.move_message(&subscription(), 2, &name("other"), envelope("moved")).await.unwrap();
    engine.discard(&subscription(), vec![4]).await.unwrap();
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.read(&name("other"), Start::Earliest, PLENTY).await.unwrap().len(), 1);
    assert_eq!(engine.browse(&subscription(), 1, PLENTY).await.unwrap().len(), 3);
    let again = engine.move_message(&subscription(), 2, &name("other"), envelope("moved")).await;
    assert_eq!(again, Err(Error::AlreadySettled { subscription: subscription(), offset: 2 }));
    assert_eq!(offsets(&engine.pull_n(3).await), [1, 3, 5]);
}
