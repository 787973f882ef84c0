//! Topics: created, found, listed, changed, deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Harness;
use super::fixture::{Fixture, PLENTY, envelope, name, subscription, topic};
use crate::engine::{Credit, Error, Intent, Page, Target, Terms, TopicChange};
use crate::model::{Durability, Filter, Pattern, Retention, Start, SubscriptionSettings, TopicSettings};

fn labels(value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("team".to_owned(), value.to_owned())])
}

/// Settings that differ from the defaults in everything.
fn unusual() -> TopicSettings {
    TopicSettings {
        labels: labels("blue"),
        durability: Durability::Buffered,
        max_message_bytes: 1_000,
        retention: Retention { max_messages: Some(1_000), ..Retention::default() },
        dedupe_window: Duration::from_secs(7),
        key_index: true,
        compacted: false,
    }
}

pub(crate) async fn create_returns_the_topic(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    let created = engine.create_topic(topic(), unusual(), Intent::Apply).await.unwrap();
    assert_eq!((&created.name, &created.settings, created.revision), (&topic(), &unusual(), 1));
    assert_eq!((created.first_offset, created.last_offset, created.stored_bytes), (1, 0, 0));
    assert!(created.create_time.0 > 0);
    assert_eq!(engine.topic(&topic()).await.unwrap(), created);
}

pub(crate) async fn create_again_changes_nothing(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(2).await;
    let before = engine.topic(&topic()).await.unwrap();
    let again = engine.create_topic(topic(), TopicSettings::default(), Intent::Apply).await.unwrap();
    assert_eq!(again, before);
    let error = engine.create_topic(topic(), unusual(), Intent::Apply).await.unwrap_err();
    assert_eq!(error, Error::TopicExists(topic()));
    assert_eq!(engine.topic(&topic()).await.unwrap(), before);
}

pub(crate) async fn validate_creates_nothing(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    let shown = engine.create_topic(topic(), unusual(), Intent::Validate).await.unwrap();
    assert_eq!((shown.settings, shown.revision, shown.first_offset), (unusual(), 1, 1));
    assert_eq!(engine.topic(&topic()).await.unwrap_err(), Error::TopicNotFound(topic()));

    engine.create_topic(topic(), unusual(), Intent::Apply).await.unwrap();
    let error = engine.create_topic(topic(), TopicSettings::default(), Intent::Validate).await.unwrap_err();
    assert_eq!(error, Error::TopicExists(topic()));
}

pub(crate) async fn unknown_topics_are_not_found(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    let credit = Credit { messages: 1, bytes: 1 };
    let target = Target::Ephemeral { topic: topic().into(), start: Start::Latest, filter: Filter::default() };
    let settings = SubscriptionSettings::new(topic());
    let errors = [
        engine.topic(&topic()).await.err(),
        engine.update_topic(&topic(), TopicChange::default(), None, Intent::Apply).await.err(),
        engine.delete_topic(&topic(), None).await.err(),
        engine.submit(&topic(), vec![envelope("lost")], Terms::default()).await.err(),
        engine.read(&topic(), Start::Earliest, PLENTY).await.err(),
        engine.create_subscription(subscription(), settings, Intent::Apply).await.err(),
        engine.subscribe(target, credit).await.err(),
    ];
    for error in errors {
        assert_eq!(error, Some(Error::TopicNotFound(topic())));
    }
    let of_topic = Page { after: None, limit: 10, pattern: None };
    assert_eq!(engine.subscriptions(of_topic, Some(topic())).await.unwrap(), []);
}

pub(crate) async fn lists_are_sorted_paged_and_filtered(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    for text in ["b.y", "a", "b.x.z", "c", "b.x"] {
        engine.create_topic(name(text), TopicSettings::default(), Intent::Apply).await.unwrap();
    }
    let list = async |after: Option<&str>, limit, pattern: Option<&str>| {
        let pattern = pattern.map(|pattern| Pattern::parse(pattern).unwrap());
        let page = Page { after: after.map(name), limit, pattern };
        let topics = engine.topics(page).await.unwrap();
        topics.iter().map(|topic| topic.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(None, 10, None).await, "a b.x b.x.z b.y c");
    assert_eq!(list(None, 2, None).await, "a b.x");
    assert_eq!(list(Some("b.x"), 2, None).await, "b.x.z b.y");
    assert_eq!(list(Some("b.xx"), 10, None).await, "b.y c", "a page may begin after a name that is gone");
    assert_eq!(list(Some("c"), 10, None).await, "");
    assert_eq!(list(None, 10, Some("b.*")).await, "b.x b.y");
    assert_eq!(list(Some("b.x"), 1, Some("b.>")).await, "b.x.z");
    assert_eq!(list(None, 1, Some("c")).await, "c", "the limit counts matches only");
}

pub(crate) async fn update_replaces_what_it_names(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let before = engine.topic(&topic()).await.unwrap();
    let kept = Retention { max_bytes: Some(9_000), delete_acked: true, ..Retention::default() };
    let all = [
        TopicChange { labels: Some(labels("red")), ..TopicChange::default() },
        TopicChange { durability: Some(Durability::Buffered), ..TopicChange::default() },
        TopicChange { max_message_bytes: Some(77), ..TopicChange::default() },
        TopicChange { retention: Some(kept.clone()), ..TopicChange::default() },
        TopicChange { dedupe_window: Some(Duration::ZERO), ..TopicChange::default() },
    ];
    let mut expected = before.clone();
    for (change, revision) in all.into_iter().zip(2..) {
        expected.revision = revision;
        expected.settings.labels = labels("red");
        expected.settings.durability = change.durability.unwrap_or(expected.settings.durability);
        expected.settings.max_message_bytes =
            change.max_message_bytes.unwrap_or(expected.settings.max_message_bytes);
        expected.settings.retention = change.retention.clone().unwrap_or(expected.settings.retention);
        expected.settings.dedupe_window = change.dedupe_window.unwrap_or(expected.settings.dedupe_window);
        let changed = engine.update_topic(&topic(), change, None, Intent::Apply).await.unwrap();
        assert_eq!(changed, expected);
        assert_eq!(engine.topic(&topic()).await.unwrap(), expected);
    }
}

pub(crate) async fn update_checks_the_revision(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let change = |value| TopicChange { labels: Some(labels(value)), ..TopicChange::default() };
    let first = engine.update_topic(&topic(), change("first"), Some(1), Intent::Apply).await.unwrap();
    let stale = engine.update_topic(&topic(), change("second"), Some(1), Intent::Apply).await.unwrap_err();
    assert_eq!(stale, Error::Changed { name: topic(), expected: 1, actual: first.revision });
    assert_eq!(engine.topic(&topic()).await.unwrap(), first);
}

pub(crate) async fn validate_updates_nothing(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let before = engine.topic(&topic()).await.unwrap();
    let change = || TopicChange { max_message_bytes: Some(5), ..TopicChange::default() };
    let shown = engine.update_topic(&topic(), change(), Some(1), Intent::Validate).await.unwrap();
    assert_eq!((shown.settings.max_message_bytes, shown.revision), (5, 2));
    assert_eq!(engine.topic(&topic()).await.unwrap(), before);
    let stale = engine.update_topic(&topic(), change(), Some(9), Intent::Validate).await.unwrap_err();
    assert_eq!(stale, Error::Changed { name: topic(), expected: 9, actual: 1 });
}

pub(crate) async fn a_topic_says_what_it_holds(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish_all(vec![envelope("12345"), envelope("67890")]).await;
    let shown = engine.topic(&topic()).await.unwrap();
    assert_eq!((shown.first_offset, shown.last_offset, shown.revision), (1, 2, 1));
    assert!(shown.stored_bytes >= 10, "two messages of 5 bytes take {} bytes", shown.stored_bytes);
}

pub(crate) async fn delete_forgets_the_topic(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish(1).await;
    engine.delete_topic(&topic(), None).await.unwrap();
    assert_eq!(engine.topic(&topic()).await.unwrap_err(), Error::TopicNotFound(topic()));
    assert_eq!(engine.delete_topic(&topic(), None).await.unwrap_err(), Error::TopicNotFound(topic()));
    let read = engine.read(&topic(), Start::Earliest, PLENTY).await;
    assert_eq!(read.unwrap_err(), Error::TopicNotFound(topic()));
}

pub(crate) async fn delete_checks_the_revision(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let stale = engine.delete_topic(&topic(), Some(2)).await.unwrap_err();
    assert_eq!(stale, Error::Changed { name: topic(), expected: 2, actual: 1 });
    engine.topic(&topic()).await.unwrap();
    engine.delete_topic(&topic(), Some(1)).await.unwrap();
}

pub(crate) async fn a_topic_in_use_stays(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.create_topic(name("other"), TopicSettings::default(), Intent::Apply).await.unwrap();
    let error = engine.delete_topic(&topic(), None).await.unwrap_err();
    assert_eq!(error, Error::TopicInUse { topic: topic(), subscription: subscription() });
    engine.publish(1).await;
    engine.delete_topic(&name("other"), None).await.unwrap();
    engine.delete_subscription(&subscription(), None).await.unwrap();
    engine.delete_topic(&topic(), None).await.unwrap();
}

pub(crate) async fn a_recreated_topic_starts_over(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    engine.delete_subscription(&subscription(), None).await.unwrap();
    engine.delete_topic(&topic(), None).await.unwrap();

    let again = engine.create_topic(topic(), unusual(), Intent::Apply).await.unwrap();
    assert_eq!((again.revision, again.first_offset, again.last_offset, again.stored_bytes), (1, 1, 0, 0));
    assert_eq!(engine.read_all().await, []);
    engine.add_subscription(&subscription(), Start::Earliest).await;
    assert_eq!(engine.pull(&subscription(), PLENTY, Duration::ZERO).await.unwrap(), []);
    assert_eq!(engine.publish(1).await.first, 1);
}
