//! Tests of the engine as a whole, on a simulated disk.

mod advisories;
mod cleaning;
mod commits;
mod conformance;
mod crash;
mod damage;
mod faults;
mod filters;
mod golden;
mod idle;
mod joining;
mod leases;
mod names;
mod patterns;
mod redrive;
mod stuck;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::log::fs_sim::SimFs;
use super::{EmbeddedEngine, OpenError, Options};
use crate::engine::{Credit, Engine, Intent, ReadLimit, Settlement, Target};
use crate::model::{
    Delivery, Durability, Envelope, Name, Offset, Receipt, Start, StoredMessage, SubscriptionSettings,
    TopicSettings,
};

/// Small segments, so that every test has several.
const OPTIONS: Options = Options {
    segment_bytes: 16 << 10,
    tail_cache_bytes: 8 << 10,
    write_queue_bytes: 1 << 20,
    disk_reserve_bytes: 0,
    cleaning_period: Duration::from_millis(10),
};
const CREDIT: Credit = Credit { messages: 100, bytes: 1 << 20 };
const ALL: ReadLimit = ReadLimit { messages: 1_000_000, bytes: 1 << 30 };

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

async fn open(fs: &SimFs) -> Result<EmbeddedEngine, OpenError> {
    EmbeddedEngine::open_on(Arc::new(fs.clone()), "simulated", OPTIONS).await
}

async fn create_topic(engine: &EmbeddedEngine, topic: &str) {
    engine.create_topic(name(topic), TopicSettings::default(), Intent::Apply).await.unwrap();
}

async fn create_subscription(engine: &EmbeddedEngine, subscription: &str, topic: &str) {
    let settings = SubscriptionSettings {
        ack_deadline: Duration::from_secs(600),
        ..SubscriptionSettings::new(name(topic))
    };
    engine.create_subscription(name(subscription), settings, Intent::Apply).await.unwrap();
}

async fn publish(engine: &EmbeddedEngine, topic: &str, messages: &[&[u8]]) -> crate::engine::Result<Receipt> {
    let envelopes = messages.iter().map(|data| Envelope(Bytes::copy_from_slice(data))).collect();
    engine.submit(&name(topic), envelopes, Durability::Fsynced.into()).await?.await
}

/// Everything readable in a topic, and the damaged ranges between.
async fn read_all(engine: &EmbeddedEngine, topic: &str) -> (Vec<StoredMessage>, Vec<(Offset, Offset)>) {
    let (mut messages, mut damaged, mut from) = (Vec::new(), Vec::new(), 1);
    loop {
        match engine.read(&name(topic), Start::Offset(from), ALL).await {
            Ok(read) if read.is_empty() => return (messages, damaged),
            Ok(read) => {
                from = read.last().unwrap().offset + 1;
                messages.extend(read);
            }
            Err(crate::engine::Error::Damaged { first, last, .. }) => {
                assert_eq!(first, from);
                damaged.push((first, last));
                from = last + 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Leases everything that can be had of a subscription.
async fn deliveries(engine: &EmbeddedEngine, subscription: &str) -> Vec<Delivery> {
    let mut all = Vec::new();
    loop {
        let some = engine.pull(&name(subscription), ALL, Duration::ZERO).await.unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

async fn ack(engine: &EmbeddedEngine, subscription: &str, deliveries: &[Delivery]) -> Offset {
    let ids = deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect();
    let settlement = Settlement::Ack { cumulative: false };
    let settled = engine.settle(&name(subscription), ids, settlement).await.unwrap();
    assert_eq!(settled.failures, []);
    settled.committed_offset
}
