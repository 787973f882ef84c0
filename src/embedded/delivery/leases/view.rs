//! Looking at the leases, without changing them.

use std::time::Instant;

use super::{ConsumerId, GivenUp, Leases};
use crate::engine::Credit;
use crate::model::{Offset, Timestamp};

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not handed out since the start.
    New,
    /// With this consumer, or nobody's.
    Leased(Option<ConsumerId>, Instant),
    /// Waiting until then.
    Waiting(Instant),
    /// Waiting for the time that it is to be delivered at.
    Scheduled(Timestamp),
    /// Taken by a commit that is on its way.
    Reserved,
    /// Given up.
    GivenUp,
    /// Settled.
    Settled,
}

/// What a consumer holds, and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
    pub(crate) credit: Credit,
}

impl Leases {
    /// Where a message is, and how often it was handed out as far as that is known.
    pub(crate) fn place(&self, offset: Offset) -> (Place, u32) {
        if let Some(lease) = self.leased.get(&offset) {
            (Place::Leased(lease.consumer, lease.deadline), lease.attempt)
        } else if let Some(waiting) = self.waiting.get(&offset) {
            (Place::Waiting(waiting.due), waiting.attempt)
        } else if let Some(time) = self.schedule.time(offset) {
            (Place::Scheduled(time), self.before.of(offset))
        } else if self.reserved.contains_key(&offset) {
            (Place::Reserved, self.before.of(offset))
        } else if let Some(given_up) = self.given_up.get(&offset) {
            (Place::GivenUp, given_up.attempts)
        } else if self.progress.is_settled(offset) {
            (Place::Settled, 0)
        } else {
            (Place::New, self.before.of(offset))
        }
    }

    /// Why a message was given up that nobody has taken care of yet.
    pub(crate) fn given_up(&self, offset: Offset) -> Option<&GivenUp> {
        self.given_up.get(&offset)
    }

    /// What a consumer holds.
    pub(crate) fn held(&self, consumer: ConsumerId) -> Option<Held> {
        let holder = self.consumers.get(&consumer)?;
        Some(Held { messages: holder.messages, bytes: holder.bytes, credit: holder.credit })
    }

    /// The consumers that hold all they may; not those that ask for nothing.
    pub(crate) fn exhausted(&self) -> Vec<ConsumerId> {
        let exhausted = self.consumers.iter().filter(|(_, holder)| {
            let full = holder.messages >= holder.credit.messages || holder.bytes >= holder.credit.bytes;
            full && holder.messages > 0
        });
        exhausted.map(|(&consumer, _)| consumer).collect()
    }
}
