//! What became of one message.

use super::message::{Offset, StoredMessage};
use super::name::Name;
use super::time::Timestamp;

/// The life of a message, as far as the engine remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The message.
    pub message: StoredMessage,
    /// What became of it in each subscription of its topic, by name.
    pub journeys: Vec<Journey>,
}

/// What became of a message in one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journey {
    /// The subscription.
    pub subscription: Name,
    /// Where the message is now.
    pub standing: Standing,
    /// How often it was handed out; 0 once it is settled and nobody remembers.
    pub attempts: u32,
    /// What happened to it, the oldest first, as far back as the history goes.
    pub history: Vec<Moment>,
}

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It was not handed out yet.
    NotReached,
    /// A consumer has it.
    InFlight {
        /// The consumer's id; `None` if it was pulled, or its consumer has left.
        consumer: Option<String>,
        /// When it is handed out again if it is not settled.
        deadline: Timestamp,
    },
    /// It waits to be handed out again.
    Waiting {
        /// Not before.
        until: Timestamp,
    },
    /// It was given up, and is on its way to the dead letters.
    GivenUp,
    /// It is done.
    Settled,
    /// It was given up: it went to the dead letters, or was dropped.
    Buried {
        /// Where its dead letter is; `None` if it was dropped.
        letter: Option<(Name, Offset)>,
    },
    /// It counts as settled without having been handed out: it is for another subscription.
    Skipped,
}

/// Something that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// When, to a tenth of a second.
    pub time: Timestamp,
    /// What.
    pub what: Happening,
}

/// What can happen to a message in a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// It was handed out.
    Delivered {
        /// To this consumer; `None` for a pull.
        consumer: Option<std::sync::Arc<str>>,
        /// 1 for the first time.
        attempt: u32,
    },
    /// Its consumer confirmed it.
    Acked,
    /// Its consumer failed.
    Nacked {
        /// What it said; may be empty.
        reason: std::sync::Arc<str>,
    },
    /// Its consumer got more time, or less.
    Extended,
    /// Its consumer did not settle it in time.
    DeadlinePassed,
    /// The stream that had it ended.
    ConsumerLeft,
    /// It went to the dead letters.
    DeadLettered {
        /// The dead-letter topic.
        topic: Name,
        /// Its offset there.
        offset: Offset,
    },
    /// It was given up without a place for dead letters.
    Dropped,
    /// It is for another subscription.
    Skipped,
}
