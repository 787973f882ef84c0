//! The engine's own stored types for topics and subscriptions.
//!
//! Protobuf encoding with these pinned tags, so that fields can be added; never the API's types.
//! `docs/log-format.md` lists them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::limits::DEFAULT_DEDUPE_WINDOW;
use crate::model::{
    Backoff, Durability, Filter, Mode, Name, Pattern, Retention, RetryPolicy, Start, Subscription,
    SubscriptionSettings, Timestamp, Topic, TopicSettings,
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
    /// 0: no limit.
    #[prost(uint64, tag = "9")]
    pub(crate) max_age_micros: u64,
    /// 0: no limit.
    #[prost(uint64, tag = "10")]
    pub(crate) max_bytes: u64,
    /// 0: no limit.
    #[prost(uint64, tag = "11")]
    pub(crate) max_messages: u64,
    #[prost(bool, tag = "12")]
    pub(crate) delete_acked: bool,
    /// 0: ids are not remembered. Unset, by versions that knew of no window: the default.
    #[prost(uint64, optional, tag = "8")]
    pub(crate) dedupe_window_micros: Option<u64>,
    #[prost(bool, tag = "13")]
    pub(crate) compacted: bool,
    #[prost(bool, tag = "20")]
    pub(crate) key_index: bool,
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
    /// 1: shared, 2: exclusive, 3: key-ordered.
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
    /// What it reads instead of one topic, which is 0 then; empty: none.
    #[prost(string, tag = "20")]
    pub(crate) pattern: String,
    /// The subscription with a pattern of which this is the part in one topic, whose settings are all there;
    /// 0: it is no part.
    #[prost(uint64, tag = "21")]
    pub(crate) parent: u64,
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
        let Retention { max_age, max_bytes, max_messages, delete_acked } = &settings.retention;
        self.max_age_micros = max_age.map_or(0, micros);
        self.max_bytes = max_bytes.unwrap_or(0);
        self.max_messages = max_messages.unwrap_or(0);
        self.delete_acked = *delete_acked;
        self.dedupe_window_micros = Some(micros(settings.dedupe_window));
        self.key_index = settings.key_index;
        self.compacted = settings.compacted;
    }

    /// Whether the last message of each key is known.
    pub(crate) fn indexes_keys(&self) -> bool {
        self.key_index || self.compacted
    }

    pub(crate) fn retention(&self) -> Retention {
        let limit = |value: u64| (value > 0).then_some(value);
        Retention {
            max_age: limit(self.max_age_micros).map(Duration::from_micros),
            max_bytes: limit(self.max_bytes),
            max_messages: limit(self.max_messages),
            delete_acked: self.delete_acked,
        }
    }

    pub(crate) fn dedupe_window(&self) -> Duration {
        self.dedupe_window_micros.map_or(DEFAULT_DEDUPE_WINDOW, Duration::from_micros)
    }

    pub(crate) fn durability(&self) -> Durability {
        if self.durability == 1 { Durability::Buffered } else { Durability::Fsynced }
    }

    pub(crate) fn settings(&self) -> TopicSettings {
        TopicSettings {
            labels: self.labels.clone(),
            durability: self.durability(),
            max_message_bytes: self.max_message_bytes,
            retention: self.retention(),
            dedupe_window: self.dedupe_window(),
            key_index: self.key_index,
            compacted: self.compacted,
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
                Mode::KeyOrdered => 3,
            },
            start_kind,
            start_value,
            start_floor,
            pattern: if settings.topic.name().is_some() { String::new() } else { settings.topic.to_string() },
            ..Self::default()
        };
        record.set(settings);
        record
    }

    /// The part of a subscription with a pattern in one topic.
    pub(crate) fn part(
        parent: u64,
        (id, topic): (u64, u64),
        start_floor: u64,
        create_time: Timestamp,
    ) -> Self {
        Self { id, parent, topic, start_floor, create_time_micros: create_time.0, ..Self::default() }
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
        match self.mode {
            2 => Mode::Exclusive,
            3 => Mode::KeyOrdered,
            _ => Mode::Shared,
        }
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

    pub(crate) fn settings(&self, topic: &Pattern) -> SubscriptionSettings {
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

    pub(crate) fn subscription(&self, name: &Name, topic: &Pattern) -> Subscription {
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
