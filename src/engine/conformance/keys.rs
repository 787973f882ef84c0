//! Publishing that depends on the last message of a key.

use super::Harness;
use super::fixture::{Fixture, named, persistent, reopened, soon, topic};
use crate::engine::{Error, Intent, Result, Terms};
use crate::model::{Offset, Receipt, TopicSettings};

async fn indexed(harness: &impl Harness) -> Fixture {
    let engine = Fixture::as_is(harness);
    let settings = TopicSettings { key_index: true, ..TopicSettings::default() };
    engine.create_topic(topic(), settings, Intent::Apply).await.unwrap();
    engine
}

async fn publish(engine: &Fixture, key: &str, expected: Option<Offset>) -> Result<Receipt> {
    publish_as(engine, &["", ""], key, expected).await
}

async fn publish_as(
    engine: &Fixture,
    ids: &[&str],
    key: &str,
    expected_key: Option<Offset>,
) -> Result<Receipt> {
    let terms = Terms { expected_key, ..Terms::default() };
    let messages = ids.iter().map(|id| named(id, key, "data")).collect();
    match engine.submit(&topic(), messages, terms).await {
        Ok(pending) => soon(pending).await,
        Err(error) => Err(error),
    }
}

fn moved<T>(expected: Offset, actual: Offset) -> Result<T> {
    Err(Error::KeyMoved { topic: topic(), expected, actual })
}

pub(crate) async fn an_expected_offset_is_kept_to(harness: impl Harness) {
    let engine = indexed(&harness).await;
    assert_eq!(publish(&engine, "a", Some(1)).await, moved(1, 0));
    assert_eq!(publish(&engine, "a", Some(0)).await.unwrap().last, 2);
    assert_eq!(publish(&engine, "a", Some(0)).await, moved(0, 2));
    assert_eq!(publish(&engine, "a", Some(1)).await, moved(1, 2));
    assert_eq!(publish(&engine, "b", Some(0)).await.unwrap().last, 4, "another key");
    publish(&engine, "", None).await.unwrap();
    assert_eq!(publish(&engine, "a", Some(2)).await.unwrap().last, 8);
    assert_eq!(publish(&engine, "a", None).await.unwrap().last, 10);
    assert_eq!(publish(&engine, "a", Some(8)).await, moved(8, 10));
    assert_eq!(publish(&engine, "b", Some(4)).await.unwrap().last, 12);
    assert_eq!(engine.read_all().await.len(), 12);
}

pub(crate) async fn without_an_index_nothing_is_expected(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let none = || Err(Error::NoKeyIndex(topic()));
    assert_eq!(publish(&engine, "a", Some(0)).await, none());
    publish(&engine, "a", None).await.unwrap();
    assert_eq!(publish(&engine, "a", Some(2)).await, none());
}

pub(crate) async fn an_accepted_request_is_accepted_again(harness: impl Harness) {
    let engine = indexed(&harness).await;
    publish_as(&engine, &["1", "2"], "a", Some(0)).await.unwrap();
    let again = publish_as(&engine, &["1", "2"], "a", Some(0)).await.unwrap();
    assert_eq!((again.first, again.duplicates.len()), (0, 2));
    assert_eq!(publish_as(&engine, &["2", "3"], "a", Some(0)).await, moved(0, 2));
    assert_eq!(publish_as(&engine, &["2", "3"], "a", Some(2)).await.unwrap().last, 3);
}

pub(crate) async fn of_many_that_expect_the_same_one_is_stored(harness: impl Harness) {
    let engine = indexed(&harness).await;
    let mut last = 0;
    for round in 0..20 {
        let mut tasks = tokio::task::JoinSet::new();
        for publisher in 0..4 {
            let (engine, key) = (engine.engine(), if publisher == 3 { "other" } else { "a" });
            let expected_key = (key == "a").then_some(last);
            tasks.spawn(async move {
                let terms = Terms { expected_key, ..Terms::default() };
                let message = vec![named("", key, &format!("{round}/{publisher}"))];
                match engine.submit(&topic(), message, terms).await {
                    Ok(pending) => soon(pending).await.ok().filter(|_| key == "a"),
                    Err(_) => None,
                }
            });
        }
        let stored: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(stored.len(), 1, "round {round}: {stored:?}");
        last = stored[0].last;
    }
}

pub(crate) async fn a_recreated_topic_starts_over(harness: impl Harness) {
    let engine = indexed(&harness).await;
    publish(&engine, "a", Some(0)).await.unwrap();
    engine.delete_topic(&topic(), None).await.unwrap();
    let engine = indexed(&harness).await;
    assert_eq!(publish(&engine, "a", Some(0)).await.unwrap().first, 1);
}

pub(crate) async fn are_known_after_a_restart(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let mut engine = indexed(&harness).await;
    let mut last = 0;
    for round in 1..=3 {
        last = publish(&engine, "a", Some(last)).await.unwrap().last;
        publish(&engine, &format!("once {round}"), Some(0)).await.unwrap();
        engine = reopened(&mut harness, engine).await;
        assert_eq!(publish(&engine, "a", Some(last - 1)).await, moved(last - 1, last));
        assert_eq!(publish(&engine, "once 1", Some(0)).await, moved(0, 4));
    }
}
