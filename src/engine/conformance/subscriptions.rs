//! Durable subscriptions: created, found, listed, changed, deleted; where they start and stand.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Harness;
use super::fixture::{
    ACK, EVERYTHING, FREELY, Fixture, LONG, PLENTY, attempts, begin, nack, name, next, next_error, next_n,
    offsets, soon, subscription, topic,
};
use crate::engine::{Error, Failure, Intent, Page, SubscriptionChange, Target};
use crate::model::{
    Backoff, Filter, Mode, Offset, Pattern, RetryPolicy, Start, SubscriptionSettings, SubscriptionStats,
    Timestamp, TopicSettings,
};

/// Settings that differ from the defaults in everything.
fn unusual() -> SubscriptionSettings {
    SubscriptionSettings {
        topic: topic().into(),
        mode: Mode::Exclusive,
        start: Start::Latest,
        ack_deadline: Duration::from_millis(1_500),
        max_in_flight: 7,
        retry: RetryPolicy {
            backoff: Backoff { min: Duration::from_millis(20), max: Duration::from_secs(3) },
            max_attempts: 9,
            dead_letter_topic: None,
        },
        filter: Filter::parse("message.key != ''").unwrap(),
        idle_expiry: LONG,
        paused: true,
        labels: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
    }
}

fn no_change() -> SubscriptionChange {
    SubscriptionChange::default()
}

pub(crate) async fn create_returns_the_subscription(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let created = engine.create_subscription(subscription(), unusual(), Intent::Apply).await.unwrap();
    assert_eq!((&created.name, &created.settings, created.revision), (&subscription(), &unusual(), 1));
    assert!(created.create_time.0 > 0);
    assert_eq!(engine.subscription(&subscription()).await.unwrap(), created);
}

pub(crate) async fn create_again_changes_nothing(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let created = engine.create_subscription(subscription(), unusual(), Intent::Apply).await.unwrap();
    engine.publish(2).await;
    let again = engine.create_subscription(subscription(), unusual(), Intent::Apply).await.unwrap();
    assert_eq!(again, created);
    assert_eq!(engine.progress().await.backlog_messages, 2, "its start must not have moved");

    let settings = SubscriptionSettings { max_in_flight: 8, ..unusual() };
    let error = engine.create_subscription(subscription(), settings, Intent::Apply).await.unwrap_err();
    assert_eq!(error, Error::SubscriptionExists(subscription()));
    assert_eq!(engine.subscription(&subscription()).await.unwrap(), created);
}

pub(crate) async fn validate_creates_nothing(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let shown = engine.create_subscription(subscription(), unusual(), Intent::Validate).await.unwrap();
    assert_eq!((shown.settings, shown.revision), (unusual(), 1));
    let found = engine.subscription(&subscription()).await;
    assert_eq!(found.unwrap_err(), Error::SubscriptionNotFound(subscription()));
    engine.delete_topic(&topic(), None).await.unwrap();
    let error = engine.create_subscription(subscription(), unusual(), Intent::Validate).await.unwrap_err();
    assert_eq!(error, Error::TopicNotFound(topic()));
}

pub(crate) async fn unknown_subscriptions_are_not_found(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let unknown = subscription();
    let errors = [
        engine.subscription(&unknown).await.err(),
        engine.update_subscription(&unknown, no_change(), None, Intent::Apply).await.err(),
        engine.delete_subscription(&unknown, None).await.err(),
        engine.stats(&unknown).await.err(),
        engine.subscribe(Target::Durable(unknown.clone()), FREELY).await.err(),
        engine.pull(&unknown, PLENTY, LONG).await.err(),
        engine.settle(&unknown, vec![], ACK).await.err(),
    ];
    for error in errors {
        assert_eq!(error, Some(Error::SubscriptionNotFound(subscription())));
    }
}

pub(crate) async fn lists_are_sorted_paged_and_filtered(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.create_topic(name("other"), TopicSettings::default(), Intent::Apply).await.unwrap();
    for (text, topic) in [("b.y", topic()), ("a", name("other")), ("b.x", name("other")), ("c", topic())] {
        let settings = SubscriptionSettings::new(topic);
        engine.create_subscription(name(text), settings, Intent::Apply).await.unwrap();
    }
    let list = async |after: Option<&str>, limit, pattern: Option<&str>, topic| {
        let pattern = pattern.map(|pattern| Pattern::parse(pattern).unwrap());
        let page = Page { after: after.map(name), limit, pattern };
        let found = engine.subscriptions(page, topic).await.unwrap();
        found.iter().map(|subscription| subscription.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(None, 10, None, None).await, "a b.x b.y c");
    assert_eq!(list(Some("a"), 2, None, None).await, "b.x b.y");
    assert_eq!(list(None, 10, Some("b.>"), None).await, "b.x b.y");
    assert_eq!(list(None, 10, None, Some(topic())).await, "b.y c");
    assert_eq!(list(Some("b.x"), 1, Some("*"), Some(topic())).await, "c");
    assert_eq!(list(Some("b.x"), 10, None, Some(name("other"))).await, "");
}

pub(crate) async fn update_replaces_what_it_names(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let mut expected = engine.create_subscription(subscription(), unusual(), Intent::Apply).await.unwrap();
    let update = async |change| {
        let changed = engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap();
        assert_eq!(engine.subscription(&subscription()).await.unwrap(), changed);
        changed
    };
    expected.revision = 2;
    expected.settings.ack_deadline = LONG;
    assert_eq!(update(SubscriptionChange { ack_deadline: Some(LONG), ..no_change() }).await, expected);
    expected.revision = 3;
    expected.settings.max_in_flight = 99;
    assert_eq!(update(SubscriptionChange { max_in_flight: Some(99), ..no_change() }).await, expected);
    expected.revision = 4;
    expected.settings.labels.clear();
    assert_eq!(update(SubscriptionChange { labels: Some(BTreeMap::new()), ..no_change() }).await, expected);
    expected.revision = 5;
    expected.settings.filter = Filter::default();
    assert_eq!(update(SubscriptionChange { filter: Some(Filter::default()), ..no_change() }).await, expected);
    expected.revision = 6;
    expected.settings.idle_expiry = Duration::ZERO;
    let change = SubscriptionChange { idle_expiry: Some(Duration::ZERO), ..no_change() };
    assert_eq!(update(change).await, expected);
}

pub(crate) async fn update_checks_the_revision(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let change = |limit| SubscriptionChange { max_in_flight: Some(limit), ..no_change() };
    let update = async |limit, expected| {
        engine.update_subscription(&subscription(), change(limit), expected, Intent::Apply).await
    };
    let first = update(5, Some(1)).await.unwrap();
    let stale = update(6, Some(1)).await.unwrap_err();
    assert_eq!(stale, Error::Changed { name: subscription(), expected: 1, actual: first.revision });
    assert_eq!(engine.subscription(&subscription()).await.unwrap(), first);
}

pub(crate) async fn validate_updates_nothing(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let before = engine.subscription(&subscription()).await.unwrap();
    let change = SubscriptionChange { max_in_flight: Some(1), ..no_change() };
    let shown = engine.update_subscription(&subscription(), change, Some(1), Intent::Validate).await.unwrap();
    assert_eq!((shown.settings.max_in_flight, shown.revision), (1, 2));
    assert_eq!(engine.subscription(&subscription()).await.unwrap(), before);
    engine.publish(2).await;
    assert_eq!(engine.pull_n(2).await.len(), 2, "the limit shown must not be in force");
}

pub(crate) async fn starts_where_asked(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(3).await;
    let starts: [(_, Offset, &[Offset]); 5] = [
        (Start::Earliest, 0, &[1, 2, 3, 4]),
        (Start::Latest, 3, &[4]),
        (Start::Offset(1), 0, &[1, 2, 3, 4]),
        (Start::Offset(3), 2, &[3, 4]),
        (Start::Time(Timestamp(0)), 0, &[1, 2, 3, 4]),
    ];
    for (number, (start, committed, _)) in starts.iter().enumerate() {
        let name = name(&format!("from-{number}"));
        engine.add_subscription(&name, *start).await;
        assert_eq!(engine.stats(&name).await.unwrap().committed_offset, *committed, "from {start:?}");
    }
    engine.publish(1).await;
    for (number, (start, _, expected)) in starts.iter().enumerate() {
        let target = Target::Durable(name(&format!("from-{number}")));
        let mut consumer = engine.subscribe(target, FREELY).await.unwrap();
        let delivered = next_n(&mut *consumer, expected.len()).await;
        assert_eq!(offsets(&delivered), *expected, "from {start:?}");
    }
}

pub(crate) async fn a_start_is_taken_at_creation(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(2).await;
    engine.add_subscription(&subscription(), Start::Latest).await;
    engine.publish(2).await;
    // Published before anybody consumed, but after the subscription began.
    assert_eq!(offsets(&engine.pull_n(2).await), [3, 4]);
    let created = engine.subscription(&subscription()).await.unwrap();
    assert_eq!(created.settings.start, Start::Latest, "what was asked for is what is shown");
}

pub(crate) async fn a_start_past_the_end_waits_there(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(1).await;
    engine.add_subscription(&subscription(), Start::Offset(4)).await;
    let stats = engine.progress().await;
    assert_eq!((stats.committed_offset, stats.backlog_messages, stats.oldest_unacked), (3, 0, None));
    let mut consumer = engine.consumer(FREELY).await;
    engine.publish(2).await;
    engine.publish(1).await;
    assert_eq!(offsets(&next(&mut *consumer).await), [4]);
}

pub(crate) async fn a_start_by_time_is_the_first_message_since(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    for _ in 0..5 {
        engine.publish(1).await;
    }
    let all = engine.read_all().await;
    let time = all[3].publish_time;
    let first = all.iter().find(|message| message.publish_time >= time).unwrap().offset;
    engine.add_subscription(&subscription(), Start::Time(time)).await;
    assert_eq!(engine.progress().await.committed_offset, first - 1);
    assert_eq!(engine.pull_n(1).await[0].message.offset, first);
}

pub(crate) async fn stats_tell_the_progress(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    assert_eq!(engine.progress().await, SubscriptionStats::default());
    engine.publish(3).await;
    engine.publish(2).await;
    let times: Vec<_> = engine.read_all().await.iter().map(|message| message.publish_time).collect();
    let consumer = engine.consumer(FREELY).await;
    let mut expected = SubscriptionStats {
        backlog_messages: 5,
        oldest_unacked: Some(times[0]),
        consumers: 1,
        ..SubscriptionStats::default()
    };
    assert_eq!(engine.progress().await, expected);

    let pulled = engine.pull_n(4).await;
    engine.ack(&pulled[1..2]).await;
    expected = SubscriptionStats { backlog_messages: 4, in_flight: 3, ..expected };
    assert_eq!(engine.progress().await, expected, "the second is settled, the first is not");

    engine.ack(&pulled[..1]).await;
    engine.settle_all(&pulled[2..3], nack()).await;
    expected.oldest_unacked = Some(times[2]);
    expected = SubscriptionStats { backlog_messages: 3, in_flight: 1, committed_offset: 2, ..expected };
    assert_eq!(engine.progress().await, expected, "the third waits to be handed out again");

    assert_eq!(attempts(&engine.pull_n(1).await), [(3, 2)]);
    drop(consumer);
    expected = SubscriptionStats { in_flight: 2, redelivered: 1, consumers: 0, ..expected };
    assert_eq!(engine.progress().await, expected);
}

pub(crate) async fn delete_checks_the_revision(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let stale = engine.delete_subscription(&subscription(), Some(2)).await.unwrap_err();
    assert_eq!(stale, Error::Changed { name: subscription(), expected: 2, actual: 1 });
    engine.delete_subscription(&subscription(), Some(1)).await.unwrap();
    assert_eq!(engine.subscriptions(EVERYTHING, None).await.unwrap(), []);
    let again = engine.delete_subscription(&subscription(), None).await.unwrap_err();
    assert_eq!(again, Error::SubscriptionNotFound(subscription()));
}

pub(crate) async fn delete_ends_its_consumers(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let (mut waiting, mut idle) = (engine.consumer(FREELY).await, engine.consumer(FREELY).await);
    let next = begin(&mut *waiting);
    engine.delete_subscription(&subscription(), None).await.unwrap();
    let deleted = Error::SubscriptionDeleted(subscription());
    assert_eq!(soon(next).await.unwrap_err(), deleted);
    assert_eq!(next_error(&mut *idle).await, deleted);

    engine.add_subscription(&subscription(), Start::Earliest).await;
    engine.publish(1).await;
    assert_eq!(next_error(&mut *waiting).await, deleted, "a namesake must not revive a consumer");
    idle.set_credit(FREELY).await;
    assert_eq!(next_error(&mut *idle).await, deleted);
    assert_eq!(offsets(&engine.pull_n(1).await), [1]);
}

pub(crate) async fn delete_ends_a_waiting_pull(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let name = subscription();
    let mut pull = engine.pull(&name, PLENTY, LONG);
    assert!(futures::poll!(pull.as_mut()).is_pending());
    engine.delete_subscription(&subscription(), None).await.unwrap();
    assert_eq!(soon(pull).await.unwrap_err(), Error::SubscriptionDeleted(subscription()));
}

pub(crate) async fn a_recreated_subscription_starts_over(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let before = engine.pull_n(3).await;
    engine.ack(&before[..1]).await;
    engine.delete_subscription(&subscription(), None).await.unwrap();

    engine.add_subscription(&subscription(), Start::Earliest).await;
    assert_eq!(engine.progress().await.committed_offset, 0);
    assert_eq!(engine.failure(&before[1], ACK).await, Failure::WrongSubscription);
    let after = engine.pull_n(3).await;
    assert_eq!(attempts(&after), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(engine.failure(&before[2], ACK).await, Failure::WrongSubscription);
    assert_eq!(engine.ack(&after).await, 3);
}
