//! What the engine counts and measures, and reading all of it.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream;

use super::subscriptions::SubscriptionHandle;
use super::{Shared, cleaner};
use crate::engine::{LogReadings, Readings, Result, SubscriptionReadings, TopicReadings};
use crate::meter::{BYTES, Counter, Histogram, Labels, NUMBERS, SECONDS};
use crate::model::limits::MAX_METRIC_LABELS;
use crate::model::{SubscriptionStats, Timestamp};

/// How many subscriptions are asked at once.
const ASKED_AT_ONCE: usize = 64;

/// All meters of an engine.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) topics: Labels<TopicMeters>,
    pub(crate) subscriptions: Labels<SubscriptionMeters>,
    pub(crate) ephemeral_deliveries: Counter,
    /// From accepting messages until they are durable.
    pub(crate) publishes: Histogram,
    /// Making a batch durable.
    pub(crate) syncs: Histogram,
    pub(crate) batch_bytes: Histogram,
    pub(crate) batch_requests: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            topics: Labels::new(MAX_METRIC_LABELS),
            subscriptions: Labels::new(MAX_METRIC_LABELS),
            ephemeral_deliveries: Counter::default(),
            publishes: Histogram::new(&SECONDS),
            syncs: Histogram::new(&SECONDS),
            batch_bytes: Histogram::new(&BYTES),
            batch_requests: Histogram::new(&NUMBERS),
        }
    }
}

/// What is counted of a topic.
#[derive(Debug, Default)]
pub(crate) struct TopicMeters {
    pub(crate) messages: Counter,
    pub(crate) bytes: Counter,
    pub(crate) duplicates: Counter,
}

/// What is counted of a subscription.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionMeters {
    pub(crate) deliveries: Counter,
    pub(crate) redeliveries: Counter,
    pub(crate) acks: Counter,
    pub(crate) nacks: Counter,
    pub(crate) deadlines_passed: Counter,
    pub(crate) expired: Counter,
    pub(crate) dead_letters: Counter,
}

impl TopicMeters {
    fn read(&self) -> TopicReadings {
        TopicReadings {
            published_messages: self.messages.get(),
            published_bytes: self.bytes.get(),
            duplicates: self.duplicates.get(),
            ..TopicReadings::default()
        }
    }
}

impl SubscriptionMeters {
    fn read(&self) -> SubscriptionReadings {
        SubscriptionReadings {
            deliveries: self.deliveries.get(),
            redeliveries: self.redeliveries.get(),
            acks: self.acks.get(),
            nacks: self.nacks.get(),
            deadlines_passed: self.deadlines_passed.get(),
            expired: self.expired.get(),
            dead_letters: self.dead_letters.get(),
            ..SubscriptionReadings::default()
        }
    }
}

impl Shared {
    pub(super) async fn readings(&self) -> Result<Readings> {
        self.check_open()?;
        let (topics_total, topics) = self.topic_readings();
        let (subscriptions_total, subscriptions) = self.subscription_readings().await;
        Ok(Readings {
            log: Some(self.log_readings().await?),
            topics_total,
            subscriptions_total,
            topics,
            subscriptions,
            ephemeral_deliveries: self.log.meters.ephemeral_deliveries.get(),
        })
    }

    fn topic_readings(&self) -> (u64, Vec<TopicReadings>) {
        let catalog = self.catalog();
        let shared = self.log.meters.topics.others();
        let mut others = shared.read();
        let (mut readings, mut has_others) = (Vec::new(), others.published_messages > 0);
        for topic in catalog.topics.values() {
            let name = topic.meters.name.clone();
            if name.is_none() {
                has_others = true;
                others.stored_bytes += topic.bytes();
            } else {
                let stored_bytes = topic.bytes();
                readings.push(TopicReadings { name, stored_bytes, ..topic.meters.read() });
            }
        }
        readings.extend(has_others.then_some(others));
        (catalog.topics.len() as u64, readings)
    }

    async fn subscription_readings(&self) -> (u64, Vec<SubscriptionReadings>) {
        let handles: Vec<Arc<SubscriptionHandle>> = self.catalog().subscriptions.values().cloned().collect();
        let total = handles.len() as u64;
        let stats = stream::iter(handles).map(async |handle| {
            // One that is deleted in the meantime has nothing to say any more.
            self.stats_of(&handle).await.ok().map(|stats| (handle, stats))
        });
        let mut stats = stats.buffered(ASKED_AT_ONCE);
        let now = Timestamp::now();
        let shared = self.log.meters.subscriptions.others();
        let mut others = shared.read();
        let (mut readings, mut has_others) = (Vec::new(), others.deliveries > 0);
        while let Some(one) = stats.next().await {
            let Some((handle, stats)) = one else { continue };
            let meters = handle.meters();
            if meters.name.is_some() {
                let mut own = SubscriptionReadings { name: meters.name.clone(), ..meters.read() };
                own.add(&stats, now);
                readings.push(own);
            } else {
                has_others = true;
                others.add(&stats, now);
            }
        }
        readings.extend(has_others.then_some(others));
        (total, readings)
    }

    async fn log_readings(&self) -> Result<LogReadings> {
        let reader = Arc::clone(&self.log.reader);
        let measured = cleaner::blocking(move || {
            let segments = reader.segments();
            // One that is removed meanwhile has no length.
            let length = |segment| reader.segment_len(segment).ok();
            let sealed: Vec<u64> = segments.sealed().into_iter().filter_map(length).collect();
            let bytes = sealed.iter().sum::<u64>() + segments.active_bytes();
            Ok((bytes, sealed.len() as u64 + 1, reader.free_bytes().unwrap_or(0)))
        });
        let (bytes, segments, free_bytes) = measured.await?;
        let meters = &self.log.meters;
        Ok(LogReadings {
            bytes,
            segments,
            free_bytes,
            reserve_bytes: self.log.disk_reserve(),
            stalled: self.log.check_stall().is_err(),
            queue_bytes: self.log.queued_bytes(),
            queue_limit_bytes: self.log.queue_limit_bytes(),
            syncs: meters.syncs.read(),
            batch_bytes: meters.batch_bytes.read(),
            batch_requests: meters.batch_requests.read(),
            publishes: meters.publishes.read(),
        })
    }
}

impl SubscriptionReadings {
    /// Takes in how far a subscription has come.
    fn add(&mut self, stats: &SubscriptionStats, now: Timestamp) {
        self.backlog_messages += stats.backlog_messages;
        self.in_flight += stats.in_flight;
        self.scheduled += stats.scheduled;
        self.consumers += u64::from(stats.consumers);
        let age = stats.oldest_unacked.map_or(0, |oldest| now.0.saturating_sub(oldest.0));
        let age = std::time::Duration::from_micros(age).as_secs_f64();
        self.oldest_unacked_seconds = self.oldest_unacked_seconds.max(age);
    }
}
