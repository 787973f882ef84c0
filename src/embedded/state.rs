//! The state of the engine as a fold over its log: what the writer keeps, what a checkpoint holds,
//! and what replaying the log gives again.

use std::collections::BTreeMap;

use prost::Message as _;

use super::attempts::Attempts;
use super::log::format::{
    Publish, RawRecord, RecordKind, Seek, Sweep, Trim, read_hand, read_removed, read_settle,
};
use super::log::relocated::Relocated;
use super::names::ids::Ids;
use super::names::keys::Keys;
use super::names::stored::StoredNames;
use super::names::{Marker, Names};
use super::progress::Progress;
use super::records::{SubscriptionRecord, TopicRecord};
use super::removed::Removed;
use super::stored::{StoredSubscription, StoredTopic};
use crate::model::{Offset, Timestamp};

/// Everything that the log says, but for the messages themselves.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct State {
    /// Topics by number.
    pub(crate) topics: BTreeMap<u64, TopicState>,
    /// Subscriptions by number.
    pub(crate) subscriptions: BTreeMap<u64, SubscriptionState>,
    /// The highest number given to a topic or subscription; none is used twice.
    pub(crate) last_id: u64,
    /// Segments that were removed because nothing in them was needed any more.
    pub(crate) removed: Removed,
    /// Ids and keys of messages.
    pub(crate) names: Names,
}

/// Where a topic stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct TopicState {
    /// What its owner chose.
    pub(crate) record: TopicRecord,
    /// Offset of the oldest message that is left, or of the next one if none is.
    pub(crate) first: Offset,
    /// Offset of the next message.
    pub(crate) next: Offset,
    /// Bytes of envelopes stored.
    pub(crate) bytes: u64,
    /// Publish time of the last message.
    pub(crate) last_time: Timestamp,
}

impl TopicState {
    /// A new topic.
    pub(crate) fn new(record: TopicRecord) -> Self {
        Self { record, first: 1, next: 1, ..Self::default() }
    }
}

/// Where a subscription stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SubscriptionState {
    /// What its owner chose.
    pub(crate) record: SubscriptionRecord,
    /// What is settled.
    pub(crate) progress: Progress,
    /// How often it was moved by a seek.
    pub(crate) epoch: u32,
    /// How often messages were handed out that are not settled.
    pub(crate) attempts: Attempts,
}

impl SubscriptionState {
    /// A new subscription.
    pub(crate) fn new(record: SubscriptionRecord) -> Self {
        let progress = Progress::new(record.start_floor);
        let attempts = Attempts::new(record.start_floor);
        Self { record, progress, epoch: 0, attempts }
    }
}

/// A record, read.
pub(crate) enum Record {
    Publish(Publish),
    Settle(u64, Vec<(Offset, Offset)>),
    PutTopic(TopicRecord),
    DeleteTopic(u64),
    PutSubscription(SubscriptionRecord),
    DeleteSubscription(u64),
    Seek(Seek),
    Hand(u64, Attempts),
    Trim(Trim),
    TopicState(TopicState),
    SubscriptionState(SubscriptionState),
    Sweep(Sweep),
    Removed(Vec<(u64, u64)>),
    Names(u64, Ids, Option<Keys>),
    Relocated(Relocated),
}

impl Record {
    /// The number of the topic or subscription that there is after this.
    pub(crate) fn states(&self) -> Option<u64> {
        match self {
            Self::PutTopic(record) => Some(record.id),
            Self::PutSubscription(record) => Some(record.id),
            Self::TopicState(topic) => Some(topic.record.id),
            Self::SubscriptionState(subscription) => Some(subscription.record.id),
            _ => None,
        }
    }
}

/// A record of a sound frame that this program cannot read: written by a newer version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnknownRecord(pub(crate) u8);

impl Record {
    pub(crate) fn read(raw: &RawRecord) -> Result<Self, UnknownRecord> {
        const PUBLISH: u8 = RecordKind::Publish as u8;
        const SETTLE: u8 = RecordKind::Settle as u8;
        const PUT_TOPIC: u8 = RecordKind::PutTopic as u8;
        const DELETE_TOPIC: u8 = RecordKind::DeleteTopic as u8;
        const PUT_SUBSCRIPTION: u8 = RecordKind::PutSubscription as u8;
        const DELETE_SUBSCRIPTION: u8 = RecordKind::DeleteSubscription as u8;
        const SEEK: u8 = RecordKind::Seek as u8;
        const HAND: u8 = RecordKind::Hand as u8;
        const TRIM: u8 = RecordKind::Trim as u8;
        const TOPIC_STATE: u8 = RecordKind::TopicState as u8;
        const SUBSCRIPTION_STATE: u8 = RecordKind::SubscriptionState as u8;
        const SWEEP: u8 = RecordKind::Sweep as u8;
        const REMOVED: u8 = RecordKind::Removed as u8;
        const RELOCATED: u8 = RecordKind::Relocated as u8;
        const NAMES: u8 = RecordKind::Names as u8;
        let body = &raw.body;
        let read = match raw.kind {
            PUBLISH => Publish::read(body.clone()).map(Self::Publish),
            SETTLE => read_settle(body).map(|(id, ranges)| Self::Settle(id, ranges)),
            PUT_TOPIC => TopicRecord::decode(&**body).ok().map(Self::PutTopic),
            DELETE_TOPIC => read_id(body).map(Self::DeleteTopic),
            PUT_SUBSCRIPTION => SubscriptionRecord::decode(&**body).ok().map(Self::PutSubscription),
            DELETE_SUBSCRIPTION => read_id(body).map(Self::DeleteSubscription),
            SEEK => Seek::read(body).map(Self::Seek),
            HAND => read_hand(body).map(|(id, attempts)| Self::Hand(id, attempts)),
            TRIM => Trim::read(body).map(Self::Trim),
            TOPIC_STATE => StoredTopic::decode(&**body).ok().map(|it| Self::TopicState(it.into())),
            SUBSCRIPTION_STATE => {
                StoredSubscription::decode(&**body).ok().map(|it| Self::SubscriptionState(it.into()))
            }
            SWEEP => Sweep::read(body).map(Self::Sweep),
            REMOVED => read_removed(body).map(Self::Removed),
            NAMES => <StoredNames as prost::Message>::decode(&**body).ok().and_then(|stored| {
                let (ids, keys) = stored.decode()?;
                Some(Self::Names(stored.topic, ids, keys))
            }),
            RELOCATED => Relocated::read(body.clone()).map(Self::Relocated),
            _ => None,
        };
        read.ok_or(UnknownRecord(raw.kind))
    }
}

fn read_id(body: &[u8]) -> Option<u64> {
    body.try_into().ok().map(u64::from_le_bytes)
}

impl State {
    /// Applies one record, written at `time`. Total: a record about something that does not exist
    /// changes nothing, because the record that made it may be in a damaged part of the log.
    pub(crate) fn apply(&mut self, record: &Record, time: Timestamp, marker: Marker) {
        match record {
            Record::Publish(publish) => {
                self.notice_gap(publish.topic, publish.first);
                if self.names.wants(publish.topic) {
                    let marks = publish.envelopes().map(|(_, envelope)| marker.mark(&envelope));
                    self.names.remember(publish.topic, publish.first, marks, time);
                }
                self.append(publish.topic, publish.last(), publish.bytes(), time);
            }
            Record::Settle(id, ranges) => {
                self.settle(*id, ranges);
            }
            Record::PutTopic(record) => self.put_topic(record.clone()),
            Record::DeleteTopic(id) => {
                self.last_id = self.last_id.max(*id);
                self.topics.remove(id);
                self.names.remove(*id);
                // Users' subscriptions are deleted before; what the server kept about the topic goes with it, and
                // so do the parts of subscriptions with patterns.
                let goes = |record: &SubscriptionRecord| record.name.starts_with('_') || record.parent > 0;
                self.subscriptions.retain(|_, state| state.record.topic != *id || !goes(&state.record));
            }
            Record::PutSubscription(record) => self.put_subscription(record.clone()),
            Record::DeleteSubscription(id) => {
                self.last_id = self.last_id.max(*id);
                let goes = |record: &SubscriptionRecord| record.id == *id || record.parent == *id;
                if self.subscriptions.get(id).is_some_and(|state| state.record.pattern.is_empty()) {
                    self.subscriptions.remove(id);
                } else {
                    // Its record may be lost, but not those of its parts.
                    self.subscriptions.retain(|_, state| !goes(&state.record));
                }
            }
            Record::Seek(seek) => {
                self.seek(*seek);
            }
            Record::Hand(id, attempts) => self.hand(*id, attempts),
            Record::Trim(trim) => self.trim(*trim),
            Record::TopicState(topic) => {
                self.last_id = self.last_id.max(topic.record.id);
                self.topics.insert(topic.record.id, topic.clone());
                let TopicState { record, next, .. } = topic;
                self.names.remove(record.id);
                self.names.configure(record.id, record.dedupe_window(), record.indexes_keys(), *next);
            }
            Record::Names(topic, ids, keys) => self.names.restore(*topic, ids.clone(), keys.clone()),
            Record::SubscriptionState(subscription) => {
                self.last_id = self.last_id.max(subscription.record.id);
                self.subscriptions.insert(subscription.record.id, subscription.clone());
            }
            Record::Sweep(sweep) => self.last_id = self.last_id.max(sweep.last_id),
            Record::Removed(segments) => self.removed.add(segments),
            Record::Relocated(relocated) => {
                self.relocate(relocated.topic, relocated.last, relocated.dropped);
            }
        }
    }

    /// There are no others than these topics and subscriptions.
    pub(crate) fn retain(&mut self, is_there: impl Fn(u64) -> bool) {
        for id in self.topics.keys().filter(|id| !is_there(**id)) {
            self.names.remove(*id);
        }
        self.topics.retain(|id, _| is_there(*id));
        self.subscriptions.retain(|id, _| is_there(*id));
    }

    /// The numbers of all topics and subscriptions.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.topics.keys().chain(self.subscriptions.keys()).copied()
    }

    /// Messages up to `last` were appended to a topic.
    pub(crate) fn append(&mut self, topic: u64, last: Offset, bytes: u64, time: Timestamp) {
        // The record that made the topic may be damaged; its number must not be given out again, or
        // another topic would find these messages.
        self.last_id = self.last_id.max(topic);
        if let Some(topic) = self.topics.get_mut(&topic) {
            topic.next = topic.next.max(last + 1);
            topic.bytes += bytes;
            topic.last_time = topic.last_time.max(time);
        }
    }

    /// Messages of a topic that come before `first` may be lost.
    fn notice_gap(&mut self, topic: u64, first: Offset) {
        if self.topics.get(&topic).is_some_and(|topic| topic.next < first) {
            self.names.lose(topic);
        }
    }

    /// Messages were settled. Returns what the subscription has settled now.
    pub(crate) fn settle(&mut self, id: u64, ranges: &[(Offset, Offset)]) -> Option<&Progress> {
        self.last_id = self.last_id.max(id);
        let subscription = self.subscriptions.get_mut(&id)?;
        for &(first, last) in ranges {
            subscription.progress.settle(first, last);
            subscription.attempts.forget(first, last);
            // A settled message existed, even if damage took the record of it: its offset must not
            // be given out again.
            if let Some(topic) = self.topics.get_mut(&subscription.record.topic)
                && topic.next <= last
            {
                topic.next = last + 1;
                self.names.lose(topic.record.id);
            }
        }
        Some(&subscription.progress)
    }

    /// A subscription was moved. Returns what it has settled now.
    pub(crate) fn seek(&mut self, seek: Seek) -> Option<&Progress> {
        self.last_id = self.last_id.max(seek.subscription);
        let subscription = self.subscriptions.get_mut(&seek.subscription)?;
        subscription.progress = Progress::new(seek.floor);
        subscription.epoch = seek.epoch;
        subscription.attempts = Attempts::new(seek.floor);
        Some(&subscription.progress)
    }

    /// Messages were handed out.
    pub(crate) fn hand(&mut self, id: u64, attempts: &Attempts) {
        self.last_id = self.last_id.max(id);
        if let Some(SubscriptionState { attempts: all, progress, .. }) = self.subscriptions.get_mut(&id) {
            all.merge(attempts, |offset| !progress.is_settled(offset));
        }
    }

    /// The oldest messages of a topic are gone.
    pub(crate) fn trim(&mut self, trim: Trim) {
        self.last_id = self.last_id.max(trim.topic);
        if let Some(topic) = self.topics.get_mut(&trim.topic) {
            topic.first = topic.first.max(trim.first);
            topic.next = topic.next.max(trim.first);
            topic.bytes = topic.bytes.saturating_sub(trim.bytes);
        }
    }

    /// Messages up to `last` were moved, and so many bytes of them left behind.
    pub(crate) fn relocate(&mut self, topic: u64, last: Offset, dropped: u64) {
        self.last_id = self.last_id.max(topic);
        if let Some(topic) = self.topics.get_mut(&topic) {
            topic.next = topic.next.max(last + 1);
            topic.bytes = topic.bytes.saturating_sub(dropped);
        }
    }

    fn put_topic(&mut self, record: TopicRecord) {
        self.last_id = self.last_id.max(record.id);
        let new = || TopicState::new(record.clone());
        let topic = self.topics.entry(record.id).or_insert_with(new);
        topic.record = record;
        let TopicState { record, next, .. } = &*topic;
        self.names.configure(record.id, record.dedupe_window(), record.indexes_keys(), *next);
    }

    fn put_subscription(&mut self, record: SubscriptionRecord) {
        self.last_id = self.last_id.max(record.id);
        let new = || SubscriptionState::new(record.clone());
        let subscription = self.subscriptions.entry(record.id).or_insert_with(new);
        subscription.record = record;
    }
}
