//! The ids and keys that the state remembers, as they come back from a disk.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::directory;
use super::super::log::fs::Fs;
use super::super::log::recovery::recover;
use super::super::state::State;
use super::*;
use crate::embedded::checkpoint;
use crate::engine::{Error, Operation, Terms, TopicChange};

/// A `columba.v1.Message`: field 1 is the data, 2 the key, 4 the id.
fn message(id: u8, key: u8, size: usize) -> Envelope {
    let mut bytes = vec![0x12, 1, b'a' + key, 0x22, 1, b'a' + id];
    if size > 0 {
        bytes.extend([0x0a, u8::try_from(size).unwrap()]);
        bytes.resize(bytes.len() + size, b'x');
    }
    Envelope(bytes.into())
}

/// The state that a disk holds, with its checkpoints or without.
fn state(fs: &SimFs, checkpoints: bool) -> State {
    let fs = fs.copy();
    if !checkpoints {
        for name in fs.list(checkpoint::DIR).unwrap() {
            fs.remove(&format!("{}/{name}", checkpoint::DIR)).unwrap();
        }
    }
    let identity = directory::load_or_create(&fs).unwrap();
    recover(&fs, identity.log).unwrap().state
}

async fn change(engine: &EmbeddedEngine, topic: &str, random: &mut StdRng) {
    let window = [Duration::ZERO, Duration::from_millis(5), Duration::from_secs(100)];
    let dedupe_window = Some(window[random.random_range(0..window.len())]);
    let change = TopicChange { dedupe_window, ..TopicChange::default() };
    engine.update_topic(&name(topic), change, None, Intent::Apply).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_gives_what_checkpoints_hold() {
    const TOPICS: [&str; 3] = ["a", "b", "c"];
    let (mut remembered, mut segments) = (0, 0);
    for seed in 0..15 {
        let mut random = StdRng::seed_from_u64(seed);
        let fs = SimFs::new();
        let mut engine = open(&fs).await.unwrap();
        let create = async |engine: &EmbeddedEngine, topic: &str| {
            let settings = TopicSettings { key_index: topic != "a", ..TopicSettings::default() };
            engine.create_topic(name(topic), settings, Intent::Apply).await.unwrap();
        };
        for topic in TOPICS {
            create(&engine, topic).await;
        }
        for _ in 0..random.random_range(50..250) {
            let topic = TOPICS[random.random_range(0..TOPICS.len())];
            let count = random.random_range(1..6);
            let mut messages = || -> Vec<_> {
                let one = |_| {
                    message(
                        random.random_range(0..20),
                        random.random_range(0..9),
                        random.random_range(0..127),
                    )
                };
                (0..count).map(one).collect()
            };
            let (first, second) = (messages(), messages());
            match random.random_range(0..30) {
                0 => change(&engine, topic, &mut random).await,
                1 => {
                    engine.delete_topic(&name(topic), None).await.unwrap();
                    create(&engine, topic).await;
                }
                2 => {
                    engine.close().await;
                    engine = open(&fs).await.unwrap();
                }
                3..10 => {
                    let publish = |topic, messages| Operation::Publish {
                        topic: name(topic),
                        messages,
                        terms: Terms::default(),
                    };
                    engine.commit(vec![publish(topic, first), publish("b", second)]).await.unwrap();
                }
                _ => {
                    let pending = engine.submit(&name(topic), first, Terms::default()).await.unwrap();
                    pending.await.unwrap();
                }
            }
        }
        let killed = fs.after_kill();
        engine.close().await;
        for fs in [&fs, &killed] {
            let with = state(fs, true);
            assert_eq!(with, state(fs, false), "seed {seed}");
            remembered += with.names.topics().map(|(_, names)| names.ids.len()).sum::<usize>();
        }
        segments += fs.list(super::super::log::segments::DIR).unwrap().len();
    }
    assert!(remembered > 100 && segments > 30, "{remembered} ids, {segments} files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_does_not_guess_what_damage_has_taken() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    let settings = TopicSettings { key_index: true, ..TopicSettings::default() };
    engine.create_topic(name("orders"), settings, Intent::Apply).await.unwrap();
    let publish = async |engine: &EmbeddedEngine, id, key, expected_key| {
        let terms = Terms { expected_key, ..Terms::default() };
        engine.submit(&name("orders"), vec![message(id, key, 0)], terms).await.unwrap().await
    };
    for (id, key) in [(0, 0), (1, 1), (2, 2)] {
        publish(&engine, id, key, Some(0)).await.unwrap();
    }
    engine.close().await;

    let damaged = fs.copy();
    let segment = "log/00000000000000000001.seg";
    let mut bytes = damaged.bytes(segment);
    let wanted = message(1, 1, 0).0;
    let at = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap();
    bytes[at] ^= 1;
    damaged.set_bytes(segment, bytes);
    for file in damaged.list(checkpoint::DIR).unwrap() {
        damaged.remove(&format!("{}/{file}", checkpoint::DIR)).unwrap();
    }
    let engine = open(&damaged).await.unwrap();
    let unknown = Err(Error::KeyNotIndexed(name("orders")));
    assert_eq!(publish(&engine, 11, 1, Some(0)).await, unknown, "its message may be the one that is lost");
    assert_eq!(publish(&engine, 19, 9, Some(0)).await, unknown, "so may that of any other");
    assert_eq!(publish(&engine, 12, 2, Some(3)).await.unwrap().first, 4, "what is known is known");
    assert_eq!(publish(&engine, 13, 1, None).await.unwrap().first, 5);
    engine.close().await;
    let engine = open(&damaged).await.unwrap();
    assert_eq!(publish(&engine, 14, 9, Some(0)).await, unknown, "after a checkpoint, too");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_dead_letters_do_not_stop_other_dead_letters() {
    let engine = open(&SimFs::new()).await.unwrap();
    create_topic(&engine, "orders").await;
    create_topic(&engine, "dead").await;
    let subscriptions = ["one", "other"];
    for subscription in subscriptions {
        let retry = crate::model::RetryPolicy { dead_letter_topic: Some(name("dead")), ..Default::default() };
        let settings = SubscriptionSettings { retry, ..SubscriptionSettings::new(name("orders")) };
        engine.create_subscription(name(subscription), settings, Intent::Apply).await.unwrap();
    }
    let pending = engine.submit(&name("orders"), vec![message(1, 1, 0)], Terms::default()).await.unwrap();
    pending.await.unwrap();
    for subscription in subscriptions {
        let held = deliveries(&engine, subscription).await;
        let ids = held.into_iter().map(|delivery| delivery.ack_id).collect();
        let give_up = Settlement::Nack { retry: crate::engine::Retry::Never, reason: "".into() };
        engine.settle(&name(subscription), ids, give_up).await.unwrap();
    }
    for subscription in subscriptions {
        while engine.stats(&name(subscription)).await.unwrap().dead_lettered == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(engine.topic(&name("dead")).await.unwrap().last_offset, 2);
    engine.close().await;
}
