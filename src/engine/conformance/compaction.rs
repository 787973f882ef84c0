//! Topics that keep the last message of each key.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::Harness;
use super::fixture::*;
use crate::engine::{Error, Intent, Terms};
use crate::model::{Envelope, Offset, Retention, RetryPolicy, Start, SubscriptionSettings, TopicSettings};

fn compacted() -> TopicSettings {
    TopicSettings { compacted: true, ..TopicSettings::default() }
}

/// A message with a key, and enough data that cleaning is worth it.
fn keyed(key: &str, value: usize) -> Envelope {
    let data = format!("{value}:").repeat(100);
    let (key_length, data_length) = (u8::try_from(key.len()).unwrap(), data.len());
    // Fields 2 (the key) and 1 (the data, of at least 128 bytes) of a `columba.v1.Message`.
    let mut bytes = vec![0x12, key_length];
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(0x0a);
    prost::encoding::encode_varint(data_length as u64, &mut bytes);
    bytes.extend_from_slice(data.as_bytes());
    Envelope(Bytes::from(bytes))
}

async fn fixture(harness: &impl Harness) -> Fixture {
    let engine = Fixture::as_is(harness);
    engine.create_topic(topic(), compacted(), Intent::Apply).await.unwrap();
    engine
}

/// Publishes `count` messages, one after the other, over these keys in turn. Returns the last offset of each.
async fn write(engine: &Fixture, count: usize, keys: &[&str]) -> BTreeMap<String, Offset> {
    let mut last = BTreeMap::new();
    for n in 0..count {
        let key = keys[n % keys.len()];
        last.insert(key.to_owned(), engine.publish_all(vec![keyed(key, n)]).await.last);
    }
    last
}

async fn offsets_left(engine: &Fixture) -> Vec<Offset> {
    let (mut left, mut from) = (Vec::new(), Start::Earliest);
    loop {
        let read = engine.read(&topic(), from, PLENTY).await.unwrap();
        let Some(last) = read.last() else { return left };
        from = Start::Offset(last.offset + 1);
        left.extend(read.iter().map(|message| message.offset));
    }
}

/// Waits until no more messages than this are left.
async fn shrinks_to(engine: &Fixture, count: usize) -> Vec<Offset> {
    let shrinks = async {
        loop {
            let left = offsets_left(engine).await;
            if left.len() <= count {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(shrinks).await
}

pub(crate) async fn the_last_message_of_each_key_stays(harness: impl Harness) {
    let engine = fixture(&harness).await;
    let last = write(&engine, 400, &["a", "b", "c"]).await;
    let left = shrinks_to(&engine, 40).await;
    for (key, offset) in &last {
        assert!(left.contains(offset), "the last message of {key}, {offset}, is not among {left:?}");
    }
    let stored = engine.topic(&topic()).await.unwrap();
    assert_eq!(stored.last_offset, 400);
    assert!(stored.stored_bytes < 40 * 600, "{} bytes are left", stored.stored_bytes);
    assert_eq!(engine.publish_all(vec![keyed("a", 0)]).await.first, 401);
}

pub(crate) async fn subscriptions_pass_over_what_was_superseded(harness: impl Harness) {
    let engine = fixture(&harness).await;
    engine.add_subscription(&subscription(), Start::Earliest).await;
    let last = write(&engine, 400, &["a", "b", "c"]).await;
    shrinks_to(&engine, 40).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&400) {
        let some = engine.pull_next(1_000).await;
        seen.extend(offsets(&some));
        engine.ack(&some).await;
    }
    assert!(seen.len() < 400 && last.values().all(|offset| seen.contains(offset)));
    let progress = engine.progress().await;
    assert_eq!((progress.committed_offset, progress.backlog_messages), (400, 0));
}

pub(crate) async fn every_message_must_have_a_key(harness: impl Harness) {
    let engine = fixture(&harness).await;
    let refused = async {
        let messages = vec![keyed("a", 1), envelope("")];
        engine.submit(&topic(), messages, Terms::default()).await?.await
    };
    assert_eq!(refused.await.unwrap_err(), Error::KeyRequired { topic: topic(), index: 1 });
    assert_eq!(engine.read_all().await, []);
}

pub(crate) async fn it_takes_no_dead_letters_and_no_other_limits(harness: impl Harness) {
    let engine = fixture(&harness).await;
    engine.create_topic(name("other"), TopicSettings::default(), Intent::Apply).await.unwrap();
    let retry = RetryPolicy { dead_letter_topic: Some(topic()), ..RetryPolicy::default() };
    let settings = SubscriptionSettings { retry, ..SubscriptionSettings::new(name("other")) };
    let refused = engine.create_subscription(subscription(), settings, Intent::Apply).await;
    assert_eq!(refused.unwrap_err(), Error::DeadLetterCompacted(topic()));
    let retention = Retention { max_messages: Some(5), ..Retention::default() };
    let refused =
        engine.create_topic(name("b"), TopicSettings { retention, ..compacted() }, Intent::Apply).await;
    assert!(matches!(refused, Err(Error::Contradiction { .. })), "{refused:?}");
}

pub(crate) async fn what_is_left_is_found_again(mut harness: impl Harness) {
    let engine = fixture(&harness).await;
    if !engine.capabilities().persistent {
        return;
    }
    let last = write(&engine, 300, &["a", "b", "c"]).await;
    shrinks_to(&engine, 40).await;
    drop(engine);
    harness.reopen().await;
    let engine = Fixture::as_is(&harness);
    let left = offsets_left(&engine).await;
    assert!(last.values().all(|offset| left.contains(offset)), "{last:?} of {left:?}");
    let mut last = write(&engine, 300, &["b", "c"]).await;
    last.insert("a".into(), 298);
    let left = shrinks_to(&engine, 40).await;
    assert!(last.values().all(|offset| left.contains(offset)), "{last:?} of {left:?}");
}
