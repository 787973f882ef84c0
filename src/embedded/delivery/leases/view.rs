//! Looking at the leases, without changing them.

use std::time::Instant;

use super::{ConsumerId, GivenUp, Holder, Leases};
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

    /// How many messages and bytes a consumer holds.
    pub(crate) fn holds(&self, consumer: ConsumerId) -> (u32, u64) {
        self.consumers.get(&consumer).map_or((0, 0), |holder| (holder.messages, holder.bytes))
    }

    /// What the consumers hold that hold something.
    pub(crate) fn holdings(&self) -> impl Iterator<Item = (ConsumerId, u32, u64)> {
        let holds = |(_, holder): &(&ConsumerId, &Holder)| holder.messages > 0;
        self.consumers.iter().filter(holds).map(|(&id, holder)| (id, holder.messages, holder.bytes))
    }
}
