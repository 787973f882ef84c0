//! The state of the engine as a fold over its log: what the writer keeps, what a checkpoint holds,
//! and what replaying the log gives again.

use std::collections::BTreeMap;

use prost::Message as _;

use super::attempts::Attempts;
use super::log::format::{Publish, RawRecord, RecordKind, Seek, read_hand, read_settle};
use super::progress::Progress;
use super::records::{SubscriptionRecord, TopicRecord};
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
}

/// Where a topic stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct TopicState {
    /// What its owner chose.
    pub(crate) record: TopicRecord,
    /// Offset of the next message.
    pub(crate) next: Offset,
    /// Bytes of envelopes stored.
    pub(crate) bytes: u64,
    /// Publish time of the last message.
    pub(crate) last_time: Timestamp,
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
    pub(crate) fn apply(&mut self, record: &Record, time: Timestamp) {
        match record {
            Record::Publish(publish) => {
                let bytes = publish.messages.len() as u64 - 4 * u64::from(publish.count);
                self.append(publish.topic, publish.last(), bytes, time);
            }
            Record::Settle(id, ranges) => {
                self.settle(*id, ranges);
            }
            Record::PutTopic(record) => self.put_topic(record.clone()),
            Record::DeleteTopic(id) => {
                self.last_id = self.last_id.max(*id);
                self.topics.remove(id);
                // Users' subscriptions are deleted before; what the server kept about the topic goes with it.
                let is_own = |state: &SubscriptionState| state.record.name.starts_with('_');
                self.subscriptions.retain(|_, state| state.record.topic != *id || !is_own(state));
            }
            Record::PutSubscription(record) => self.put_subscription(record.clone()),
            Record::DeleteSubscription(id) => {
                self.last_id = self.last_id.max(*id);
                self.subscriptions.remove(id);
            }
            Record::Seek(seek) => {
                self.seek(*seek);
            }
            Record::Hand(id, attempts) => self.hand(*id, attempts),
        }
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

    /// Messages were settled. Returns what the subscription has settled now.
    pub(crate) fn settle(&mut self, id: u64, ranges: &[(Offset, Offset)]) -> Option<&Progress> {
        self.last_id = self.last_id.max(id);
        let subscription = self.subscriptions.get_mut(&id)?;
        for &(first, last) in ranges {
            subscription.progress.settle(first, last);
            subscription.attempts.forget(first, last);
            // A settled message existed, even if damage took the record of it: its offset must not
            // be given out again.
            if let Some(topic) = self.topics.get_mut(&subscription.record.topic) {
                topic.next = topic.next.max(last + 1);
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
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.attempts.merge(attempts);
        }
    }

    fn put_topic(&mut self, record: TopicRecord) {
        self.last_id = self.last_id.max(record.id);
        let new = || TopicState { next: 1, ..TopicState::default() };
        let topic = self.topics.entry(record.id).or_insert_with(new);
        topic.record = record;
    }

    fn put_subscription(&mut self, record: SubscriptionRecord) {
        self.last_id = self.last_id.max(record.id);
        let new = || SubscriptionState::new(record.clone());
        let subscription = self.subscriptions.entry(record.id).or_insert_with(new);
        subscription.record = record;
    }
}
