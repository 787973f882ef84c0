//! The ids and keys that the state remembers, as they come back from a disk.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::identity;
use super::super::log::fs::Fs;
use super::super::log::recovery::recover;
use super::super::state::State;
use super::*;
use crate::embedded::checkpoint;
use crate::engine::{Operation, Terms, TopicChange};

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
    let identity = identity::load_or_create(&fs).unwrap();
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
