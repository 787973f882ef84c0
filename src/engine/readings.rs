//! What an engine has counted and measured, for whoever watches it.

use crate::meter::Distribution;
use crate::model::Name;

/// The readings of an engine. Counts begin at zero when it is opened, and never go back.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// The log on disk; `None` if there is none.
    pub log: Option<LogReadings>,
    /// How many topics there are, the server's own included.
    pub topics_total: u64,
    /// How many durable subscriptions there are, the server's own included.
    pub subscriptions_total: u64,
    /// Each topic; those beyond a limit together.
    pub topics: Vec<TopicReadings>,
    /// Each durable subscription; those beyond a limit together.
    pub subscriptions: Vec<SubscriptionReadings>,
    /// Messages handed to consumers that have no durable subscription.
    pub ephemeral_deliveries: u64,
}

/// Readings of the log on disk.
#[derive(Debug, Clone)]
pub struct LogReadings {
    /// Bytes of its segments, as far as they are written.
    pub bytes: u64,
    /// How many segments there are.
    pub segments: u64,
    /// Bytes that can still be written to the disk.
    pub free_bytes: u64,
    /// Free bytes below which publishing is refused.
    pub reserve_bytes: u64,
    /// Whether nothing can be written, because no byte is left on the disk.
    pub stalled: bool,
    /// Bytes of requests that are accepted and not yet durable.
    pub queue_bytes: u64,
    /// How many of those there may be.
    pub queue_limit_bytes: u64,
    /// How long it took to make a batch durable, in seconds.
    pub syncs: Distribution,
    /// How many bytes a batch has.
    pub batch_bytes: Distribution,
    /// How many requests a batch has.
    pub batch_requests: Distribution,
    /// From accepting messages until they were durable, in seconds.
    pub publishes: Distribution,
}

/// Readings of a topic.
#[derive(Debug, Clone, Default)]
pub struct TopicReadings {
    /// The topic; `None` for all that have no readings of their own.
    pub name: Option<Name>,
    /// Messages stored, dead letters included.
    pub published_messages: u64,
    /// Bytes of those.
    pub published_bytes: u64,
    /// Messages left out because their id was known.
    pub duplicates: u64,
    /// Bytes of the messages that it has now.
    pub stored_bytes: u64,
}

/// Readings of a durable subscription.
#[derive(Debug, Clone, Default)]
pub struct SubscriptionReadings {
    /// The subscription; `None` for all that have no readings of their own.
    pub name: Option<Name>,
    /// Messages that are not settled on disk.
    pub backlog_messages: u64,
    /// Since when the oldest of them has been there, in seconds; the longest of all where there are several.
    pub oldest_unacked_seconds: f64,
    /// Messages with a consumer now.
    pub in_flight: u64,
    /// Messages that wait for the time they are to be delivered.
    pub scheduled: u64,
    /// Consumers with an open stream.
    pub consumers: u64,
    /// Messages handed out, each time.
    pub deliveries: u64,
    /// Of those, the ones after a message's first.
    pub redeliveries: u64,
    /// Messages settled by their consumers.
    pub acks: u64,
    /// Deliveries that consumers gave back.
    pub nacks: u64,
    /// Deliveries whose ack deadline passed.
    pub deadlines_passed: u64,
    /// Messages whose time was over before they were acknowledged.
    pub expired: u64,
    /// Messages given up.
    pub dead_letters: u64,
}
