//! Word of what happens.

use futures::StreamExt;

use super::Harness;
use super::fixture::{Fixture, give_up, name, soon, subscription, topic};
use crate::engine::{Error, Intent, TopicChange, TopicChanged, Watch, Watched};
use crate::model::{Notice, TopicSettings};

/// The next thing that a watcher hears.
async fn heard<T: std::fmt::Debug>(watch: &mut Watch<T>) -> T {
    match soon(watch.next()).await {
        Some(Watched::Item(item)) => item,
        other => panic!("something else: {other:?}"),
    }
}

pub(crate) async fn a_given_up_message_is_announced(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut watches = [engine.advisories().unwrap(), engine.advisories().unwrap()];
    engine.publish(1).await;
    let held = engine.pull_n(1).await;
    engine.settle_all(&held, give_up("hopeless")).await;
    for watch in &mut watches {
        let Notice::GivenUp { subscription: by, topic: of, offset, attempts, reason, letter } =
            heard(watch).await.notice
        else {
            panic!("nothing was given up")
        };
        assert_eq!((by, of, offset, attempts), (subscription(), topic(), 1, 1));
        assert_eq!((reason.as_str(), letter), ("hopeless", None));
    }
}

pub(crate) async fn changes_to_topics_are_told_in_order(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let mut watch = engine.topic_changes().unwrap();
    let new = name("new");
    let validated = TopicSettings::default();
    engine.create_topic(new.clone(), validated, Intent::Validate).await.unwrap();
    let created = engine.create_topic(new.clone(), TopicSettings::default(), Intent::Apply).await.unwrap();
    engine.create_topic(new.clone(), TopicSettings::default(), Intent::Apply).await.unwrap();
    let change = |limit| TopicChange { max_message_bytes: Some(limit), ..TopicChange::default() };
    engine.update_topic(&new, change(5), None, Intent::Validate).await.unwrap();
    let updated = engine.update_topic(&new, change(7), None, Intent::Apply).await.unwrap();
    engine.update_topic(&new, change(7), None, Intent::Apply).await.unwrap();
    engine.delete_topic(&new, None).await.unwrap();
    let heard = [heard(&mut watch).await, heard(&mut watch).await, heard(&mut watch).await];
    let expected =
        [TopicChanged::Created(created), TopicChanged::Updated(updated), TopicChanged::Deleted(new)];
    assert_eq!(heard, expected);
}

pub(crate) async fn watching_ends_with_the_engine(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let (mut advisories, mut changes) = (engine.advisories().unwrap(), engine.topic_changes().unwrap());
    engine.close().await;
    assert_eq!(soon(advisories.next()).await, None);
    assert_eq!(soon(changes.next()).await, None);
    assert!(matches!(engine.advisories(), Err(Error::Closed)));
    assert!(matches!(engine.topic_changes(), Err(Error::Closed)));
}
