//! Messages that are published twice.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Harness;
use super::fixture::{Fixture, envelope, named, persistent, reopened, soon, topic};
use crate::engine::{Error, Intent, Result, Terms, TopicChange};
use crate::model::{Duplicate, Durability, Offset, Receipt, TopicSettings};

async fn publish(engine: &Fixture, ids: &[&str], terms: Terms) -> Result<Receipt> {
    let messages = ids.iter().map(|id| named(id, "", "data")).collect();
    match engine.submit(&topic(), messages, terms).await {
        Ok(pending) => soon(pending).await,
        Err(error) => Err(error),
    }
}

async fn stored(engine: &Fixture, ids: &[&str]) -> ((Offset, Offset), Vec<(u32, Offset)>) {
    let receipt = publish(engine, ids, Terms::default()).await.unwrap();
    let duplicates = receipt.duplicates.iter().map(|&Duplicate { index, offset }| (index, offset));
    ((receipt.first, receipt.last), duplicates.collect())
}

async fn set_window(engine: &Fixture, window: Duration) {
    let change = TopicChange { dedupe_window: Some(window), ..TopicChange::default() };
    engine.update_topic(&topic(), change, None, Intent::Apply).await.unwrap();
}

fn after(expected: Offset) -> Terms {
    Terms { expected_last: Some(expected), ..Terms::default() }
}

pub(crate) async fn are_stored_once(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    assert_eq!(stored(&engine, &["a", "b"]).await, ((1, 2), vec![]));
    assert_eq!(stored(&engine, &["b"]).await, ((0, 0), vec![(0, 2)]));
    assert_eq!(stored(&engine, &["c", "a", "", "d", "b"]).await, ((3, 5), vec![(1, 1), (4, 2)]));
    let read = engine.read_all().await;
    let found: Vec<_> = read.iter().map(|message| message.envelope.header().id).collect();
    assert_eq!(found, ["a", "b", "c", "", "d"]);
}

pub(crate) async fn without_an_id_are_none(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    for first in [1, 3] {
        assert_eq!(stored(&engine, &["", ""]).await, ((first, first + 1), vec![]));
    }
}

pub(crate) async fn within_one_request_are_found(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let duplicates = vec![(1, 1), (3, 2), (4, 1)];
    assert_eq!(stored(&engine, &["a", "a", "b", "b", "a"]).await, ((1, 2), duplicates));
    assert_eq!(stored(&engine, &["a", "a"]).await, ((0, 0), vec![(0, 1), (1, 1)]));
    assert_eq!(engine.publish(1).await.first, 3);
}

pub(crate) async fn topics_are_told_apart(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let other = super::fixture::name("other");
    engine.create_topic(other.clone(), TopicSettings::default(), Intent::Apply).await.unwrap();
    stored(&engine, &["a"]).await;
    let pending = engine.submit(&other, vec![named("a", "", "data")], Terms::default()).await.unwrap();
    let receipt = soon(pending).await.unwrap();
    assert_eq!((receipt.first, receipt.duplicates), (1, vec![]));
}

pub(crate) async fn are_as_safe_as_was_asked(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let honest = if engine.capabilities().persistent { Durability::Fsynced } else { Durability::Buffered };
    for round in 0..20 {
        // In a pipeline: the first may still be on its way to the disk.
        let id = round.to_string();
        let messages = || vec![named(&id, "", "data")];
        let first = engine.submit(&topic(), messages(), Durability::Buffered.into()).await.unwrap();
        let second = engine.submit(&topic(), messages(), Durability::Fsynced.into()).await.unwrap();
        let (first, second) = (soon(first).await.unwrap(), soon(second).await.unwrap());
        assert_eq!(second.duplicates, [Duplicate { index: 0, offset: first.first }]);
        assert_eq!(second.durability, honest);
        assert_eq!(engine.read_all().await.last().map(|message| message.offset), Some(first.last));
    }
}

pub(crate) async fn are_forgotten_after_the_window(harness: impl Harness) {
    const WINDOW: Duration = Duration::from_millis(2);
    let engine = Fixture::new(&harness).await;
    set_window(&engine, WINDOW).await;
    let first = stored(&engine, &["a"]).await.0.0;
    let published = engine.read_all().await[0].publish_time;
    // Publish times are the clock that counts.
    while engine.read_all().await.last().unwrap().publish_time <= published.after(WINDOW) {
        engine.publish(1).await;
    }
    let ((again, _), duplicates) = stored(&engine, &["a"]).await;
    assert!(again > first && duplicates.is_empty());
}

pub(crate) async fn are_forgotten_when_the_window_is_closed(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    stored(&engine, &["a"]).await;
    set_window(&engine, Duration::ZERO).await;
    assert_eq!(stored(&engine, &["a", "a"]).await, ((2, 3), vec![]));
    set_window(&engine, Duration::from_secs(60)).await;
    assert_eq!(stored(&engine, &["a"]).await, ((4, 4), vec![]), "what was forgotten stays so");
    assert_eq!(stored(&engine, &["a"]).await, ((0, 0), vec![(0, 4)]));
}

pub(crate) async fn are_forgotten_with_their_topic(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    stored(&engine, &["a", "b"]).await;
    engine.delete_topic(&topic(), None).await.unwrap();
    engine.create_topic(topic(), TopicSettings::default(), Intent::Apply).await.unwrap();
    assert_eq!(stored(&engine, &["b"]).await, ((1, 1), vec![]));
}

pub(crate) async fn expect_nothing_if_all_are(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    publish(&engine, &["a", "b"], after(0)).await.unwrap();
    engine.publish(1).await;
    let again = publish(&engine, &["a", "b"], after(0)).await.unwrap();
    assert_eq!((again.first, again.duplicates.len()), (0, 2), "an accepted request is accepted again");
    let moved = |expected| Err(Error::Moved { topic: topic(), expected, actual: 3 });
    assert_eq!(publish(&engine, &["a", "c"], after(0)).await, moved(0), "one is new");
    let mixed = publish(&engine, &["a", "c"], after(3)).await.unwrap();
    assert_eq!((mixed.first, mixed.last), (4, 4));
    assert_eq!(
        publish(&engine, &["d"], after(3)).await,
        Err(Error::Moved { topic: topic(), expected: 3, actual: 4 })
    );
}

pub(crate) async fn a_refused_message_is_not_remembered(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    publish(&engine, &["a"], after(7)).await.unwrap_err();
    let large = named("b", "", &"x".repeat(2 << 20));
    let refused = match engine.submit(&topic(), vec![named("c", "", ""), large], Terms::default()).await {
        Ok(pending) => soon(pending).await,
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Err(Error::MessageTooLarge { index: 1, .. })), "{refused:?}");
    assert_eq!(stored(&engine, &["a", "c", "b"]).await, ((1, 3), vec![]));
}

pub(crate) async fn of_concurrent_publishers_one_is_stored(harness: impl Harness) {
    const PUBLISHERS: u64 = 6;
    const IDS: u64 = 50;
    let fixture = Fixture::new(&harness).await;
    let mut tasks = tokio::task::JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let engine = fixture.engine();
        tasks.spawn(async move {
            let mut seen = Vec::new();
            for id in 0..IDS {
                let messages = vec![envelope("x"), named(&id.to_string(), "", &publisher.to_string())];
                let receipt = engine.submit(&topic(), messages, Terms::default()).await.unwrap();
                let receipt = receipt.await.unwrap();
                let offset = receipt.duplicates.first().map_or(receipt.last, |duplicate| duplicate.offset);
                seen.push(offset);
            }
            seen
        });
    }
    let seen = soon(tasks.join_all()).await;
    assert!(seen.iter().all(|offsets| *offsets == seen[0]), "all learn of the same messages: {seen:?}");
    let read = fixture.read_all().await;
    assert_eq!(read.len() as u64, PUBLISHERS * IDS + IDS);
    let named: Vec<_> = read.iter().filter(|message| !message.envelope.header().id.is_empty()).collect();
    let distinct: BTreeSet<_> = named.iter().map(|message| message.envelope.header().id).collect();
    assert_eq!((named.len() as u64, distinct.len() as u64), (IDS, IDS));
}

pub(crate) async fn are_remembered_across_a_restart(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let mut engine = Fixture::new(&harness).await;
    for round in 1..=3 {
        let id = format!("id {round}");
        assert_eq!(stored(&engine, &[&id]).await.0.0, round);
        engine = reopened(&mut harness, engine).await;
        let all: Vec<_> = (1..=round).map(|round| format!("id {round}")).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let expected = (0..).zip(1..=round).collect();
        assert_eq!(stored(&engine, &all).await, ((0, 0), expected));
    }
}
