//! Durable subscriptions as users see them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::filter::Filter;
use super::limits::{DEFAULT_ACK_DEADLINE, DEFAULT_MAX_IN_FLIGHT};
use super::message::{Offset, Start};
use super::name::{Name, Pattern};
use super::retry::RetryPolicy;
use super::time::Timestamp;

/// How messages are divided among the consumers of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Any consumer with credit gets the next message, in turn.
    #[default]
    Shared,
    /// Only the oldest consumer gets messages, in the topic's order; the others stand by.
    Exclusive,
    /// Any consumer gets the next message, but a key with a message in flight stays with its consumer,
    /// and its messages keep their order.
    KeyOrdered,
}

/// What a user chooses about a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionSettings {
    /// The topic it reads, or a pattern: then every topic that it covers, those created later from their
    /// first message on. Fixed at creation.
    pub topic: Pattern,
    /// How messages are divided; fixed at creation.
    pub mode: Mode,
    /// Where it begins; taken at creation. Not an offset for a pattern.
    pub start: Start,
    /// How long a consumer has to settle a delivery.
    pub ack_deadline: Duration,
    /// How many deliveries may be unsettled at once over all consumers, and all topics.
    pub max_in_flight: u32,
    /// What becomes of deliveries that are not acknowledged.
    pub retry: RetryPolicy,
    /// Which messages it wants; the others are settled without being handed out.
    pub filter: Filter,
    /// Deleted after so long without any use; zero for never.
    pub idle_expiry: Duration,
    /// Nothing is handed out while it is set; acks still count.
    pub paused: bool,
    /// For people and tools; the server does not read them.
    pub labels: BTreeMap<String, String>,
}

impl SubscriptionSettings {
    /// The defaults for a subscription to this topic.
    #[must_use]
    pub fn new(topic: impl Into<Pattern>) -> Self {
        Self {
            topic: topic.into(),
            mode: Mode::Shared,
            start: Start::Earliest,
            ack_deadline: DEFAULT_ACK_DEADLINE,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            retry: RetryPolicy::default(),
            filter: Filter::default(),
            idle_expiry: Duration::ZERO,
            paused: false,
            labels: BTreeMap::new(),
        }
    }
}

/// A durable subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its name.
    pub name: Name,
    /// What its owner chose.
    pub settings: SubscriptionSettings,
    /// Rises with every change of the settings, from 1. The API's `etag`.
    pub revision: u64,
    /// When it was created.
    pub create_time: Timestamp,
}

/// How far a subscription has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubscriptionStats {
    /// Messages not durably settled yet, those in flight included.
    pub backlog_messages: u64,
    /// Messages with a consumer now.
    pub in_flight: u64,
    /// Messages that wait for the time they are to be delivered, as far as the subscription has come.
    pub scheduled: u64,
    /// When the oldest unsettled message was published.
    pub oldest_unacked: Option<Timestamp>,
    /// Every message at or below this offset is settled, durably; 0 for a pattern, since offsets count within
    /// one topic.
    pub committed_offset: Offset,
    /// Deliveries beyond the first of a message, since the engine was opened.
    pub redelivered: u64,
    /// Messages given up, since the engine was opened.
    pub dead_lettered: u64,
    /// Consumers with an open stream.
    pub consumers: u32,
}
