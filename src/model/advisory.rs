//! What an operator should hear of.

use super::message::Offset;
use super::name::Name;
use super::time::Timestamp;

/// Something that an operator should hear of, and when it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advisory {
    /// When.
    pub time: Timestamp,
    /// What.
    pub notice: Notice,
}

impl Advisory {
    /// It happens now.
    #[must_use]
    pub fn now(notice: Notice) -> Self {
        Self { time: Timestamp::now(), notice }
    }
}

/// What can happen that an operator should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A message was given up.
    GivenUp {
        /// By this subscription.
        subscription: Name,
        /// The message's topic.
        topic: Name,
        /// Its offset there.
        offset: Offset,
        /// How often it was delivered.
        attempts: u32,
        /// What happened to its last delivery.
        reason: String,
        /// Where its dead letter is; `None` if it was dropped.
        letter: Option<(Name, Offset)>,
    },
    /// A consumer has held all that its credit allows for a while, and more is waiting.
    SlowConsumer {
        /// Its subscription.
        subscription: Name,
        /// The server's name for it.
        consumer: String,
        /// Its own name for itself; may be empty.
        name: String,
        /// How many messages it holds.
        outstanding: u64,
    },
    /// Damaged messages were met.
    Damaged {
        /// In this topic.
        topic: Name,
        /// The first of them.
        first: Offset,
        /// The last of them.
        last: Offset,
    },
    /// Retention removed messages that a subscription had not settled.
    RetentionLoss {
        /// The subscription.
        subscription: Name,
        /// Its topic.
        topic: Name,
        /// The first of them.
        first: Offset,
        /// The last of them.
        last: Offset,
    },
    /// The disk's reserve is reached: nothing is published.
    DiskLow {
        /// Free bytes.
        available: u64,
        /// The reserve in bytes.
        reserve: u64,
    },
    /// There is space on the disk again.
    DiskOk,
}

impl Notice {
    /// The subscription that it is about, if it is about one.
    #[must_use]
    pub fn subscription(&self) -> Option<&Name> {
        match self {
            Self::GivenUp { subscription, .. }
            | Self::SlowConsumer { subscription, .. }
            | Self::RetentionLoss { subscription, .. } => Some(subscription),
            Self::Damaged { .. } | Self::DiskLow { .. } | Self::DiskOk => None,
        }
    }
}
