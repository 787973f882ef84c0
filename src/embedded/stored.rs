//! The state of one topic or subscription as checkpoints hold it, and the log, once the records that it was
//! folded from are removed. Protobuf encoding with these pinned tags.

use super::attempts::Attempts;
use super::progress::Progress;
use super::records::{SubscriptionRecord, TopicRecord};
use super::state::{SubscriptionState, TopicState};
use crate::model::Timestamp;

/// Where a topic stands.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredTopic {
    #[prost(message, required, tag = "1")]
    record: TopicRecord,
    #[prost(uint64, tag = "2")]
    next: u64,
    #[prost(uint64, tag = "3")]
    bytes: u64,
    #[prost(uint64, tag = "4")]
    last_time_micros: u64,
    /// 0: 1, in checkpoints from before messages could go.
    #[prost(uint64, tag = "5")]
    first: u64,
}

/// Where a subscription stands.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredSubscription {
    #[prost(message, required, tag = "1")]
    record: SubscriptionRecord,
    #[prost(uint64, tag = "2")]
    floor: u64,
    /// First and last offsets of the settled ranges above the floor, in turns.
    #[prost(uint64, repeated, tag = "3")]
    above: Vec<u64>,
    #[prost(uint32, tag = "4")]
    epoch: u32,
    #[prost(uint64, tag = "5")]
    handed: u64,
    /// Offsets of messages handed out more than once, and how often, in turns.
    #[prost(uint64, repeated, tag = "6")]
    again: Vec<u64>,
}

impl From<&TopicState> for StoredTopic {
    fn from(topic: &TopicState) -> Self {
        Self {
            record: topic.record.clone(),
            next: topic.next,
            bytes: topic.bytes,
            last_time_micros: topic.last_time.0,
            first: topic.first,
        }
    }
}

impl From<StoredTopic> for TopicState {
    fn from(stored: StoredTopic) -> Self {
        Self {
            record: stored.record,
            first: stored.first.max(1),
            next: stored.next,
            bytes: stored.bytes,
            last_time: Timestamp(stored.last_time_micros),
        }
    }
}

impl From<&SubscriptionState> for StoredSubscription {
    fn from(subscription: &SubscriptionState) -> Self {
        Self {
            record: subscription.record.clone(),
            floor: subscription.progress.floor(),
            above: subscription.progress.above().flat_map(|(first, last)| [first, last]).collect(),
            epoch: subscription.epoch,
            handed: subscription.attempts.handed(),
            again: subscription.attempts.again().flat_map(|(offset, count)| [offset, count.into()]).collect(),
        }
    }
}

impl From<StoredSubscription> for SubscriptionState {
    fn from(stored: StoredSubscription) -> Self {
        let mut progress = Progress::new(stored.floor);
        for range in stored.above.chunks_exact(2) {
            progress.settle(range[0], range[1]);
        }
        let mut attempts = Attempts::new(stored.handed);
        for pair in stored.again.chunks_exact(2) {
            attempts.note(pair[0], u32::try_from(pair[1]).unwrap_or(u32::MAX));
        }
        Self { record: stored.record, progress, epoch: stored.epoch, attempts }
    }
}
