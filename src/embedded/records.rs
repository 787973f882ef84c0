//! The engine's own stored types for topics and subscriptions.
//!
//! Protobuf encoding with these pinned tags, so that fields can be added; never the API's types.
//! `docs/log-format.md` lists them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{
    Backoff, Durability, Filter, Mode, Name, RetryPolicy, Start, Subscription, SubscriptionSettings,
    Timestamp, Topic, TopicSettings,
};

/// A topic as stored.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TopicRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(uint64, tag = "3")]
    pub(crate) revision: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) create_time_micros: u64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(crate) labels: BTreeMap<String, String>,
    /// 1: buffered, 2: fsynced.
    #[prost(uint32, tag = "6")]
    pub(crate) durability: u32,
    #[prost(uint32, tag = "7")]
    pub(crate) max_message_bytes: u32,
}

/// A subscription as stored.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SubscriptionRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(uint64, tag = "3")]
    pub(crate) revision: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) create_time_micros: u64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(crate) labels: BTreeMap<String, String>,
    #[prost(uint64, tag = "6")]
    pub(crate) topic: u64,
    /// 1: shared, 2: exclusive.
    #[prost(uint32, tag = "7")]
    pub(crate) mode: u32,
    /// 1: earliest, 2: latest, 3: offset, 4: time.
    #[prost(uint32, tag = "8")]
    pub(crate) start_kind: u32,
    /// The offset, or the time in microseconds.
    #[prost(uint64, tag = "9")]
    pub(crate) start_value: u64,
    #[prost(uint64, tag = "10")]
    pub(crate) ack_deadline_micros: u64,
    #[prost(uint32, tag = "11")]
    pub(crate) max_in_flight: u32,
    /// Everything at or below it counts as settled from the beginning.
    #[prost(uint64, tag = "12")]
    pub(crate) start_floor: u64,
    #[prost(bool, tag = "13")]
    pub(crate) paused: bool,
    #[prost(uint64, tag = "14")]
    pub(crate) min_backoff_micros: u64,
    #[prost(uint64, tag = "15")]
    pub(crate) max_backoff_micros: u64,
    /// 0: no limit.
    #[prost(uint32, tag = "16")]
    pub(crate) max_attempts: u32,
    /// Empty: none.
    #[prost(string, tag = "17")]
    pub(crate) dead_letter_topic: String,
    /// In CEL; empty: none.
    #[prost(string, tag = "18")]
    pub(crate) filter: String,
    /// 0: never.
    #[prost(uint64, tag = "19")]
    pub(crate) idle_expiry_micros: u64,
}

impl TopicRecord {
    pub(crate) fn new(id: u64, name: &Name, settings: &TopicSettings, create_time: Timestamp) -> Self {
        let mut record = Self {
            id,
            name: name.to_string(),
            revision: 1,
            create_time_micros: create_time.0,
            ..Self::default()
        };
        record.set(settings);
        record
    }

    pub(crate) fn set(&mut self, settings: &TopicSettings) {
        self.labels.clone_from(&settings.labels);
        self.durability = match settings.durability {
            Durability::Buffered => 1,
            Durability::Fsynced => 2,
        };
        self.max_message_bytes = settings.max_message_bytes;
    }

    pub(crate) fn durability(&self) -> Durability {
        if self.durability == 1 { Durability::Buffered } else { Durability::Fsynced }
    }

    pub(crate) fn settings(&self) -> TopicSettings {
        TopicSettings {
            labels: self.labels.clone(),
            durability: self.durability(),
            max_message_bytes: self.max_message_bytes,
        }
    }

    /// The topic as users see it; the caller adds where it stands.
    pub(crate) fn topic(&self, name: &Name) -> Topic {
        Topic {
            name: name.clone(),
            settings: self.settings(),
            revision: self.revision,
            create_time: Timestamp(self.create_time_micros),
            first_offset: 1,
            last_offset: 0,
            stored_bytes: 0,
        }
    }
}

impl SubscriptionRecord {
    pub(crate) fn new(
        (id, topic): (u64, u64),
        name: &Name,
        settings: &SubscriptionSettings,
        start_floor: u64,
        create_time: Timestamp,
    ) -> Self {
        let (start_kind, start_value) = match settings.start {
            Start::Earliest => (1, 0),
            Start::Latest => (2, 0),
            Start::Offset(offset) => (3, offset),
            Start::Time(time) => (4, time.0),
        };
        let mut record = Self {
            id,
            name: name.to_string(),
            revision: 1,
            create_time_micros: create_time.0,
            topic,
            mode: match settings.mode {
                Mode::Shared => 1,
                Mode::Exclusive => 2,
            },
            start_kind,
            start_value,
            start_floor,
            ..Self::default()
        };
        record.set(settings);
        record
    }

    pub(crate) fn set(&mut self, settings: &SubscriptionSettings) {
        self.labels.clone_from(&settings.labels);
        self.ack_deadline_micros = micros(settings.ack_deadline);
        self.max_in_flight = settings.max_in_flight;
        self.paused = settings.paused;
        settings.filter.text().clone_into(&mut self.filter);
        self.idle_expiry_micros = micros(settings.idle_expiry);
        let RetryPolicy { backoff, max_attempts, dead_letter_topic } = &settings.retry;
        self.min_backoff_micros = micros(backoff.min);
        self.max_backoff_micros = micros(backoff.max);
        self.max_attempts = *max_attempts;
        self.dead_letter_topic = dead_letter_topic.as_ref().map(Name::to_string).unwrap_or_default();
    }

    pub(crate) fn mode(&self) -> Mode {
        if self.mode == 2 { Mode::Exclusive } else { Mode::Shared }
    }

    pub(crate) fn ack_deadline(&self) -> Duration {
        Duration::from_micros(self.ack_deadline_micros)
    }

    pub(crate) fn retry(&self) -> RetryPolicy {
        let [min, max] = [self.min_backoff_micros, self.max_backoff_micros].map(Duration::from_micros);
        RetryPolicy {
            backoff: Backoff { min, max },
            max_attempts: self.max_attempts,
            dead_letter_topic: Name::parse(&self.dead_letter_topic).ok(),
        }
    }

    pub(crate) fn idle_expiry(&self) -> Duration {
        Duration::from_micros(self.idle_expiry_micros)
    }

    pub(crate) fn settings(&self, topic: &Name) -> SubscriptionSettings {
        SubscriptionSettings {
            topic: topic.clone(),
            mode: self.mode(),
            start: match self.start_kind {
                2 => Start::Latest,
                3 => Start::Offset(self.start_value),
                4 => Start::Time(Timestamp(self.start_value)),
                _ => Start::Earliest,
            },
            ack_deadline: self.ack_deadline(),
            max_in_flight: self.max_in_flight,
            retry: self.retry(),
            filter: Filter::stored(&self.filter),
            idle_expiry: self.idle_expiry(),
            paused: self.paused,
            labels: self.labels.clone(),
        }
    }

    pub(crate) fn subscription(&self, name: &Name, topic: &Name) -> Subscription {
        Subscription {
            name: name.clone(),
            settings: self.settings(topic),
            revision: self.revision,
            create_time: Timestamp(self.create_time_micros),
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
