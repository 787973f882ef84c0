//! Messages that nobody could handle, and the waits before they are given up.

use std::time::Duration;

use super::Harness;
use super::fixture::{
    ACK, ACK_CUMULATIVE, END_LEASE, FREELY, Fixture, LONG, PATIENCE, PLENTY, SHORT, attempts, envelope, fail,
    give_up, nack, name, next_n, offsets, subscription, topic,
};
use crate::engine::{Engine, Error, Failure, Intent, SubscriptionChange};
use crate::model::{Backoff, Name, RetryPolicy, Start, StoredMessage, SubscriptionSettings, TopicSettings};

fn letters_topic() -> Name {
    name("dead-letters")
}

/// Three attempts at once, then to the dead letters.
fn policy() -> RetryPolicy {
    RetryPolicy { max_attempts: 3, dead_letter_topic: Some(letters_topic()), ..RetryPolicy::default() }
}

/// With a topic for dead letters, and a subscription with this policy.
async fn fixture(harness: &impl Harness, policy: RetryPolicy) -> Fixture {
    let fixture = Fixture::new(harness).await;
    fixture.create_topic(letters_topic(), TopicSettings::default(), Intent::Apply).await.unwrap();
    let settings =
        SubscriptionSettings { ack_deadline: LONG, retry: policy, ..SubscriptionSettings::new(topic()) };
    fixture.create_subscription(subscription(), settings, Intent::Apply).await.unwrap();
    fixture
}

/// So many dead letters, which must come.
async fn letters(engine: &dyn Engine, count: usize) -> Vec<StoredMessage> {
    let began = tokio::time::Instant::now();
    loop {
        let letters = engine.read(&letters_topic(), Start::Earliest, PLENTY).await.unwrap();
        if letters.len() >= count {
            assert_eq!(letters.len(), count);
            return letters;
        }
        assert!(began.elapsed() < PATIENCE, "{} dead letters of {count}", letters.len());
        tokio::task::yield_now().await;
    }
}

/// Waits until so many messages are given up and settled.
async fn given_up(engine: &Fixture, count: u64) {
    let began = tokio::time::Instant::now();
    while engine.progress().await.dead_lettered < count {
        assert!(began.elapsed() < PATIENCE, "{:?}", engine.progress().await);
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.progress().await.dead_lettered, count);
}

pub(crate) async fn a_message_is_given_up_after_its_last_attempt(harness: impl Harness) {
    let engine = fixture(&harness, policy()).await;
    engine.publish(2).await;
    for attempt in 1..=3 {
        let delivered = engine.pull_n(1).await;
        assert_eq!(attempts(&delivered), [(1, attempt)]);
        engine.settle_all(&delivered, nack()).await;
    }
    given_up(&engine, 1).await;
    assert_eq!(letters(&*engine.engine(), 1).await[0].offset, 1);
    assert_eq!(attempts(&engine.pull_next(10).await), [(2, 1)]);
    assert_eq!(engine.progress().await.committed_offset, 1);
}

pub(crate) async fn a_message_is_given_up_at_once_on_request(harness: impl Harness) {
    let engine = fixture(&harness, RetryPolicy { max_attempts: 0, ..policy() }).await;
    engine.publish(3).await;
    let delivered = engine.pull_n(3).await;
    engine.settle_all(&delivered[..2], give_up("")).await;
    given_up(&engine, 2).await;
    letters(&*engine.engine(), 2).await;
    assert_eq!(engine.ack(&delivered[2..]).await, 3);
    assert_eq!(engine.progress().await.backlog_messages, 0);
}

pub(crate) async fn a_letter_tells_the_whole_story(harness: impl Harness) {
    let engine = fixture(&harness, policy()).await;
    let original = envelope(&b"\x0a\x05hello"[..]);
    engine.publish_all(vec![envelope(""), original.clone()]).await;
    let delivered = engine.pull_n(2).await;
    engine.settle_all(&delivered[1..], give_up("no such customer")).await;
    let letter = &letters(&*engine.engine(), 1).await[0];
    assert_eq!(letter.topic, letters_topic());
    assert!(letter.envelope.0.starts_with(&original.0), "the message itself is as it was");
    let text = String::from_utf8_lossy(&letter.envelope.0).into_owned();
    for part in ["no such customer", "subscription", "topic", "columba-dead-letter-offset\x12\x012"] {
        assert!(text.contains(part), "{part} in {text:?}");
    }
}

pub(crate) async fn whoever_lets_go_of_the_last_attempt(harness: impl Harness) {
    let engine = fixture(&harness, RetryPolicy { max_attempts: 1, ..policy() }).await;
    engine.publish(3).await;
    // A nack with a delay of its own, a deadline that passes, and a consumer that leaves.
    let delivered = engine.pull_n(2).await;
    engine.settle_all(&delivered[..1], nack()).await;
    engine.settle_all(&delivered[1..], END_LEASE).await;
    let mut consumer = engine.consumer(FREELY).await;
    assert_eq!(offsets(&next_n(&mut *consumer, 1).await), [3]);
    drop(consumer);
    given_up(&engine, 3).await;
    let letters = letters(&*engine.engine(), 3).await;
    let reasons = ["its consumer failed", "its deadline passed", "its consumer left"];
    for (letter, reason) in letters.iter().zip(reasons) {
        let text = String::from_utf8_lossy(&letter.envelope.0).into_owned();
        assert!(text.contains(reason), "{reason} in {text:?}");
    }
    assert_eq!(engine.pull_now(10).await, []);
}

pub(crate) async fn without_a_topic_messages_are_dropped(harness: impl Harness) {
    let engine = fixture(&harness, RetryPolicy { dead_letter_topic: None, ..policy() }).await;
    engine.publish(2).await;
    let delivered = engine.pull_n(2).await;
    engine.settle_all(&delivered, give_up("")).await;
    given_up(&engine, 2).await;
    assert_eq!(engine.pull_now(10).await, []);
    assert!(letters(&*engine.engine(), 0).await.is_empty());
}

pub(crate) async fn what_is_given_up_holds_up_no_other(harness: impl Harness) {
    let engine = fixture(&harness, policy()).await;
    engine.publish(100).await;
    let delivered = engine.pull_n(100).await;
    let (odd, even): (Vec<_>, Vec<_>) =
        delivered.into_iter().partition(|delivery| delivery.message.offset % 2 == 1);
    engine.settle_all(&odd, give_up("")).await;
    engine.ack(&even).await;
    given_up(&engine, 50).await;
    letters(&*engine.engine(), 50).await;
    let stats = engine.progress().await;
    assert_eq!((stats.committed_offset, stats.backlog_messages, stats.in_flight), (100, 0, 0));
}

pub(crate) async fn a_given_up_delivery_cannot_be_settled(harness: impl Harness) {
    let engine = fixture(&harness, policy()).await;
    engine.publish(1).await;
    let delivered = engine.pull_n(1).await;
    engine.settle_all(&delivered, give_up("")).await;
    for settlement in [ACK, ACK_CUMULATIVE, nack(), END_LEASE] {
        let failure = engine.failure(&delivered[0], settlement).await;
        assert!(matches!(failure, Failure::Expired | Failure::AlreadySettled), "{failure:?}");
    }
    given_up(&engine, 1).await;
    letters(&*engine.engine(), 1).await;
}

pub(crate) async fn the_topic_must_exist_and_be_another(harness: impl Harness) {
    let engine = fixture(&harness, policy()).await;
    let with = |topic: Name| RetryPolicy { dead_letter_topic: Some(topic), ..policy() };
    let settings = |retry| SubscriptionSettings { retry, ..SubscriptionSettings::new(topic()) };
    let change = |retry| SubscriptionChange { retry: Some(retry), ..SubscriptionChange::default() };
    let cases =
        [(name("unknown"), Error::TopicNotFound(name("unknown"))), (topic(), Error::DeadLetterLoop(topic()))];
    for (bad, error) in cases {
        for intent in [Intent::Validate, Intent::Apply] {
            let made = engine.create_subscription(name("other"), settings(with(bad.clone())), intent).await;
            assert_eq!(made, Err(error.clone()));
            let changed =
                engine.update_subscription(&subscription(), change(with(bad.clone())), None, intent).await;
            assert_eq!(changed, Err(error.clone()));
        }
    }
    assert_eq!(engine.subscription(&subscription()).await.unwrap().settings.retry, policy());
}

pub(crate) async fn a_topic_that_takes_letters_stays(harness: impl Harness) {
    let engine = fixture(&harness, policy()).await;
    let refused = engine.delete_topic(&letters_topic(), None).await;
    assert_eq!(refused, Err(Error::TopicInUse { topic: letters_topic(), subscription: subscription() }));
    engine.delete_subscription(&subscription(), None).await.unwrap();
    engine.delete_topic(&letters_topic(), None).await.unwrap();
}

pub(crate) async fn failures_wait_as_the_policy_says(harness: impl Harness) {
    let long = RetryPolicy { backoff: Backoff { min: LONG, max: LONG }, ..RetryPolicy::default() };
    let engine = fixture(&harness, long).await;
    engine.publish(4).await;
    let delivered = engine.pull_n(3).await;
    engine.settle_all(&delivered[..1], fail("")).await;
    engine.settle_all(&delivered[1..2], END_LEASE).await;
    assert_eq!(attempts(&engine.pull_n(1).await), [(4, 1)]);
    assert_eq!(engine.pull_now(10).await, [], "two wait for long");
    engine.settle_all(&delivered[2..], nack()).await;
    assert_eq!(attempts(&engine.pull_n(1).await), [(3, 2)], "its own delay counts");

    let short = RetryPolicy { backoff: Backoff { min: SHORT, max: SHORT }, ..RetryPolicy::default() };
    let change = SubscriptionChange { retry: Some(short), ..SubscriptionChange::default() };
    engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    engine.publish(1).await;
    let delivered = engine.pull_n(1).await;
    engine.settle_all(&delivered, fail("")).await;
    assert_eq!(attempts(&engine.pull_next(10).await), [(5, 2)]);
}

pub(crate) async fn the_policy_can_be_changed(harness: impl Harness) {
    let engine = fixture(&harness, RetryPolicy::default()).await;
    engine.publish(1).await;
    for attempt in 1..=5 {
        let delivered = engine.pull_n(1).await;
        assert_eq!(attempts(&delivered), [(1, attempt)]);
        engine.settle_all(&delivered, fail("")).await;
    }
    let change = SubscriptionChange { retry: Some(policy()), ..SubscriptionChange::default() };
    let changed = engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    assert_eq!(changed.settings.retry, policy());
    // It has had more attempts than it may have now.
    let pulled = engine.pull(&subscription(), PLENTY, Duration::ZERO).await.unwrap();
    assert_eq!(pulled, []);
    given_up(&engine, 1).await;
    letters(&*engine.engine(), 1).await;
}

pub(crate) async fn a_pause_gives_nothing_up(harness: impl Harness) {
    let engine = fixture(&harness, RetryPolicy { max_attempts: 1, ..policy() }).await;
    engine.publish(2).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 2).await;
    let change = SubscriptionChange { paused: Some(true), ..SubscriptionChange::default() };
    engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
    drop(consumer);
    assert_eq!(engine.ack(&held).await, 2);
    assert_eq!(engine.progress().await.dead_lettered, 0);
}
