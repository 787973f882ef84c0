//! What can go wrong in an engine.

use std::time::Duration;

use crate::model::limits::{MAX_COVERED_TOPICS, MAX_PATTERN_TOPICS};
use crate::model::{FilterError, Kind, Name, Offset, Pattern};

/// An engine's error. The message says what was wrong and what to do; it reaches the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such topic.
    #[error("topic {0} does not exist; create it with CreateTopic or `columba topic create {0}`")]
    TopicNotFound(Name),
    /// The topic exists with other settings.
    #[error("topic {0} exists with other settings; change it with UpdateTopic, or choose another name")]
    TopicExists(Name),
    /// Settings of a topic that cannot be had together.
    #[error("topic {topic}: {reason}")]
    Contradiction {
        /// The topic.
        topic: Name,
        /// What contradicts what, and what to do.
        reason: String,
    },
    /// The topic still has subscriptions.
    #[error("topic {topic} is used by subscriptions, such as {subscription}; delete them first")]
    TopicInUse {
        /// The topic.
        topic: Name,
        /// One of them.
        subscription: Name,
    },
    /// The topic was deleted while it was in use.
    #[error("topic {0} was deleted")]
    TopicDeleted(Name),
    /// No such subscription.
    #[error(
        "subscription {0} does not exist; create it with CreateSubscription or \
         `columba subscription create {0} --topic TOPIC`"
    )]
    SubscriptionNotFound(Name),
    /// The subscription exists with other settings.
    #[error(
        "subscription {0} exists with other settings; change it with UpdateSubscription, or choose another name"
    )]
    SubscriptionExists(Name),
    /// The subscription was deleted while it was in use.
    #[error("subscription {0} was deleted")]
    SubscriptionDeleted(Name),
    /// The subscription hands nothing out.
    #[error(
        "subscription {0} is paused; resume it with UpdateSubscription or `columba subscription resume {0}`"
    )]
    Paused(Name),
    /// The subscription's filter was stored by another version.
    #[error("the filter of subscription {subscription} cannot be read by this server: {problem}; update it")]
    UnreadableFilter {
        /// The subscription.
        subscription: Name,
        /// What is wrong with it.
        problem: FilterError,
    },
    /// A subscription's dead letters would go to a topic that it reads.
    #[error("{0} is a topic that the subscription reads; choose another topic for its dead letters")]
    DeadLetterLoop(Name),
    /// An offset where a pattern is read.
    #[error(
        "{0} is a pattern, and an offset says where in one topic; use earliest, latest or a time, or a \
         subscription of one topic"
    )]
    PatternOffset(Pattern),
    /// A pattern covers as many topics as it may.
    #[error(
        "pattern {pattern}{} would cover more topics than the {MAX_PATTERN_TOPICS} that one may, or the \
         {MAX_COVERED_TOPICS} that all may together; use a narrower pattern, or a name that it does not cover",
        whose(subscription.as_ref())
    )]
    PatternFull {
        /// The pattern.
        pattern: Pattern,
        /// The subscription that has it; none if it is about to be made, or ephemeral.
        subscription: Option<Name>,
    },
    /// A seek to where no message is yet.
    #[error("offset {offset} is past the end of topic {topic}, {last}; use at most {}, or `latest`", last + 1)]
    BeyondEnd {
        /// The topic.
        topic: Name,
        /// What was asked for.
        offset: Offset,
        /// The newest message's offset.
        last: Offset,
    },
    /// A pull on an exclusive subscription that a stream holds.
    #[error("subscription {0} is exclusive and held by a stream; close the stream, or read through it")]
    Held(Name),
    /// The disk cannot be read now.
    #[error("the data directory cannot be read: {reason}; retry, and check the server's disk")]
    Disk {
        /// What the system said.
        reason: String,
    },
    /// There is no message at this offset.
    #[error("topic {topic} has no message {offset}; its last one is {last}")]
    NoSuchMessage {
        /// The topic.
        topic: Name,
        /// What was asked for.
        offset: Offset,
        /// The newest message's offset.
        last: Offset,
    },
    /// The message is settled already, or is being moved by somebody else.
    #[error("message {offset} of subscription {subscription} is settled already, or just being moved")]
    AlreadySettled {
        /// The subscription.
        subscription: Name,
        /// The message.
        offset: Offset,
    },
    /// A watcher did not keep up.
    #[error("{missed} changes came faster than they were read; watch again, and read on without pause")]
    WatcherTooSlow {
        /// How many were missed.
        missed: u64,
    },
    /// Somebody else changed it first.
    #[error("{name} has changed: its etag is {actual:x}, not {expected:x}; read it again and retry")]
    Changed {
        /// The topic or subscription.
        name: Name,
        /// The revision that was asked for.
        expected: u64,
        /// The revision it has.
        actual: u64,
    },
    /// The topic's last message is not the one that the publisher expected.
    #[error("the last offset of topic {topic} is {actual}, not {expected}; read what is new, then retry")]
    Moved {
        /// The topic.
        topic: Name,
        /// The offset that was asked for.
        expected: Offset,
        /// The offset it has.
        actual: Offset,
    },
    /// The last message with a key is not the one that the publisher expected.
    #[error(
        "the last offset of this key in topic {topic} is {actual}, not {expected}; read that message, then retry"
    )]
    KeyMoved {
        /// The topic.
        topic: Name,
        /// The offset that was asked for.
        expected: Offset,
        /// The offset it has; 0 if no message has the key.
        actual: Offset,
    },
    /// A publish depends on the last message of a key, and the topic does not keep track of keys.
    #[error("topic {0} has no key index, which expected_key_offset needs; create a topic with `key_index`")]
    NoKeyIndex(Name),
    /// A publish depends on the last message of a key that the topic's index does not know.
    #[error(
        "the key index of topic {0} does not know this key and cannot tell whether it is new: it is full, began \
         after the first messages, or some are lost; publish the key without expected_key_offset"
    )]
    KeyNotIndexed(Name),
    /// An ack in a commit has no effect.
    #[error("ack id {index} of subscription {subscription} {}; nothing was done", failure.explain())]
    AckRefused {
        /// The subscription.
        subscription: Name,
        /// The id's place in the operation, from 0.
        index: usize,
        /// Why it has none.
        failure: Failure,
    },
    /// An operation of a commit failed, and with it all the others.
    #[error("operation {index}: {cause}")]
    InCommit {
        /// The operation's place, from 0.
        index: usize,
        /// Why.
        cause: Box<Error>,
    },
    /// A message without a key for a compacted topic.
    #[error("message {index} has no key; topic {topic} is compacted, and keeps the last message of each key")]
    KeyRequired {
        /// The topic.
        topic: Name,
        /// The message's place in the request, from 0.
        index: usize,
    },
    /// Dead letters for a compacted topic.
    #[error("{0} is compacted, and would drop dead letters of the same key; choose another topic for them")]
    DeadLetterCompacted(Name),
    /// A message over the topic's limit.
    #[error("message {index} is {size} bytes encoded; topic {topic} takes at most {limit}")]
    MessageTooLarge {
        /// The topic.
        topic: Name,
        /// The message's place in the request, from 0.
        index: usize,
        /// Its encoded size.
        size: usize,
        /// The topic's limit.
        limit: u32,
    },
    /// A count of the server's is at its limit.
    #[error("the server has {limit} {what} already, its limit; delete or close some")]
    TooMany {
        /// What is counted, such as `topics`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The write queue has been full for too long.
    #[error("the write queue is full; retry in {} s", retry_after.as_secs_f32())]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk is nearly full.
    #[error(
        "the disk is full: {available} bytes are free, and storage.disk_reserve keeps {reserve}; free some \
         space, then try again"
    )]
    DiskFull {
        /// Free bytes.
        available: u64,
        /// Bytes kept for acks and deletes.
        reserve: u64,
    },
    /// Stored messages are damaged.
    #[error("offsets {first} to {last} of topic {topic} are damaged on disk; read on from {}", last + 1)]
    Damaged {
        /// The topic.
        topic: Name,
        /// First damaged offset.
        first: Offset,
        /// Last damaged offset.
        last: Offset,
    },
    /// The disk cannot be read now.
    #[error("offset {offset} of topic {topic} cannot be read: {reason}; retry, and check the server's disk")]
    Unreadable {
        /// The topic.
        topic: Name,
        /// Where reading failed.
        offset: Offset,
        /// What the system said.
        reason: String,
    },
    /// The engine is shutting down.
    #[error("the server is shutting down; retry, and you will reach its successor")]
    Closed,
    /// The engine failed and writes no more.
    #[error("the server's log failed and it no longer writes: {0}")]
    Failed(String),
    /// What the request asks for is not something this engine does.
    #[error("the {engine} engine cannot {what}")]
    Unsupported {
        /// The engine.
        engine: &'static str,
        /// What it cannot do.
        what: &'static str,
    },
}

impl Error {
    /// The kind of trouble, which decides the gRPC code.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::TopicNotFound(_) | Self::SubscriptionNotFound(_) | Self::NoSuchMessage { .. } => {
                Kind::NotFound
            }
            Self::TopicExists(_) | Self::SubscriptionExists(_) => Kind::AlreadyExists,
            Self::TopicInUse { .. }
            | Self::TopicDeleted(_)
            | Self::SubscriptionDeleted(_)
            | Self::Held(_)
            | Self::Paused(_)
            | Self::UnreadableFilter { .. }
            | Self::Unsupported { .. } => Kind::FailedPrecondition,
            Self::NoKeyIndex(_) | Self::KeyNotIndexed(_) => Kind::FailedPrecondition,
            Self::AckRefused { failure: Failure::Unknown | Failure::WrongSubscription, .. } => {
                Kind::FailedPrecondition
            }
            Self::Changed { .. }
            | Self::Moved { .. }
            | Self::KeyMoved { .. }
            | Self::AlreadySettled { .. }
            | Self::AckRefused { .. } => Kind::Conflict,
            Self::InCommit { cause, .. } => cause.kind(),
            Self::MessageTooLarge { .. }
            | Self::BeyondEnd { .. }
            | Self::DeadLetterLoop(_)
            | Self::PatternOffset(_)
            | Self::DeadLetterCompacted(_)
            | Self::KeyRequired { .. }
            | Self::Contradiction { .. } => Kind::InvalidArgument,
            Self::TooMany { .. }
            | Self::PatternFull { .. }
            | Self::Overloaded { .. }
            | Self::DiskFull { .. }
            | Self::WatcherTooSlow { .. } => Kind::ResourceExhausted,
            Self::Damaged { .. } => Kind::DataLoss,
            Self::Unreadable { .. } | Self::Disk { .. } | Self::Closed | Self::Failed(_) => Kind::Unavailable,
        }
    }

    /// The machine-readable reason, as in `google.rpc.ErrorInfo`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TopicNotFound(_) => "TOPIC_NOT_FOUND",
            Self::TopicExists(_) => "TOPIC_EXISTS",
            Self::Contradiction { .. } => "CONTRADICTORY_SETTINGS",
            Self::TopicInUse { .. } => "TOPIC_IN_USE",
            Self::TopicDeleted(_) => "TOPIC_DELETED",
            Self::SubscriptionNotFound(_) => "SUBSCRIPTION_NOT_FOUND",
            Self::SubscriptionExists(_) => "SUBSCRIPTION_EXISTS",
            Self::SubscriptionDeleted(_) => "SUBSCRIPTION_DELETED",
            Self::Held(_) => "SUBSCRIPTION_HELD",
            Self::Paused(_) => "SUBSCRIPTION_PAUSED",
            Self::UnreadableFilter { .. } => "FILTER_UNREADABLE",
            Self::BeyondEnd { .. } => "OFFSET_BEYOND_END",
            Self::DeadLetterLoop(_) => "DEAD_LETTER_LOOP",
            Self::PatternOffset(_) => "PATTERN_OFFSET",
            Self::PatternFull { .. } => "PATTERN_FULL",
            Self::DeadLetterCompacted(_) => "DEAD_LETTER_COMPACTED",
            Self::KeyRequired { .. } => "KEY_REQUIRED",
            Self::NoSuchMessage { .. } => "MESSAGE_NOT_FOUND",
            Self::AlreadySettled { .. } => "ALREADY_SETTLED",
            Self::WatcherTooSlow { .. } => "WATCHER_TOO_SLOW",
            Self::Changed { .. } => "ETAG_MISMATCH",
            Self::Moved { .. } => "LAST_OFFSET_MISMATCH",
            Self::KeyMoved { .. } => "KEY_OFFSET_MISMATCH",
            Self::NoKeyIndex(_) => "NO_KEY_INDEX",
            Self::KeyNotIndexed(_) => "KEY_NOT_INDEXED",
            Self::AckRefused { failure: Failure::Expired, .. } => "ACK_ID_EXPIRED",
            Self::AckRefused { failure: Failure::Unknown, .. } => "ACK_ID_UNKNOWN",
            Self::AckRefused { failure: Failure::AlreadySettled, .. } => "ACK_ID_ALREADY_SETTLED",
            Self::AckRefused { failure: Failure::WrongSubscription, .. } => "ACK_ID_WRONG_SUBSCRIPTION",
            Self::InCommit { cause, .. } => cause.reason(),
            Self::MessageTooLarge { .. } => "MESSAGE_TOO_LARGE",
            Self::TooMany { .. } => "LIMIT_REACHED",
            Self::Overloaded { .. } => "WRITE_QUEUE_FULL",
            Self::DiskFull { .. } => "DISK_FULL",
            Self::Damaged { .. } => "DATA_DAMAGED",
            Self::Unreadable { .. } | Self::Disk { .. } => "LOG_UNREADABLE",
            Self::Closed => "SHUTTING_DOWN",
            Self::Failed(_) => "LOG_FAILED",
            Self::Unsupported { .. } => "UNSUPPORTED",
        }
    }

    /// When retrying makes sense, if it does.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } => Some(*retry_after),
            Self::DiskFull { .. } => Some(Duration::from_secs(10)),
            Self::InCommit { cause, .. } => cause.retry_after(),
            Self::Unreadable { .. } | Self::Disk { .. } | Self::Closed | Self::Failed(_) => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }
}

/// Whose a pattern is, in a sentence.
fn whose(subscription: Option<&Name>) -> String {
    subscription.map(|name| format!(" of subscription {name}")).unwrap_or_default()
}

/// Why an ack id had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The message has been handed out again since.
    Expired,
    /// Not an id that this server gave out.
    Unknown,
    /// The message is settled already.
    AlreadySettled,
    /// The delivery came from another subscription.
    WrongSubscription,
}

impl Failure {
    /// What is wrong with an id, as the end of a sentence.
    fn explain(self) -> &'static str {
        match self {
            Self::Expired => "has expired: its message was handed out again, moved past, or is being settled",
            Self::Unknown => "is none that this server gave out",
            Self::AlreadySettled => "is settled already",
            Self::WrongSubscription => "came from another subscription",
        }
    }
}
