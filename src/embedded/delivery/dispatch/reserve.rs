//! Acks that are part of a commit: taken out of delivery until it is known what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Dispatcher;
use super::settle::Ranges;
use crate::embedded::progress::Committed;
use crate::engine::Failure;
use crate::model::{Happening, Offset};

/// Messages that are settled if a commit succeeds. Whoever has it must say what became of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reservation {
    /// The messages of each topic.
    pub(crate) parts: Vec<Reserved>,
    /// The last id's lane.
    pub(crate) last_lane: u64,
}

/// Those of one topic.
#[derive(Debug, Clone)]
pub(crate) struct Reserved {
    /// The lane's number.
    pub(crate) lane: u64,
    /// How often the subscription had been moved.
    pub(crate) epoch: u32,
    /// First and last offsets.
    pub(crate) ranges: Vec<(Offset, Offset)>,
    /// Where what is settled on disk is kept.
    pub(crate) committed: Arc<Committed>,
}

/// The answer: a reservation, or the first id that has no effect and why.
pub(crate) type Reply = oneshot::Sender<Result<Reservation, (usize, Failure)>>;

impl Dispatcher {
    /// Reserves the messages of all ids or, if one has no effect, of none.
    pub(super) fn reserve(&mut self, ids: &[Bytes], reply: Reply, now: Instant) {
        let mut reserved: BTreeMap<u64, BTreeSet<Offset>> = BTreeMap::new();
        let mut last_lane = 0;
        for (index, id) in ids.iter().enumerate() {
            match self.reserve_one(id) {
                Ok((lane, offset)) => {
                    last_lane = lane;
                    reserved.entry(lane).or_default().insert(offset);
                }
                Err(failure) => {
                    self.restore(reserved, now);
                    let _ = reply.send(Err((index, failure)));
                    return;
                }
            }
        }
        let part = |(id, offsets): (u64, BTreeSet<Offset>)| {
            let subject = &self.lanes.get(&id)?.subject;
            let mut ranges = Ranges::default();
            for offset in offsets {
                ranges.add(offset, offset);
            }
            let (epoch, committed) = (subject.epoch, Arc::clone(&subject.committed));
            Some(Reserved { lane: id, epoch, ranges: ranges.0, committed })
        };
        let parts = reserved.into_iter().filter_map(part).collect();
        if let Err(Ok(refused)) = reply.send(Ok(Reservation { parts, last_lane })) {
            self.release(&refused, false, now);
        }
    }

    fn reserve_one(&mut self, id: &[u8]) -> Result<(u64, Offset), Failure> {
        let id = self.open(id)?;
        let lane = self.lanes.get_mut(&id.subscription).ok_or(Failure::WrongSubscription)?;
        lane.check(id)?;
        lane.leases.check_lease(id.offset)?;
        lane.leases.reserve(id.offset, id.delivery);
        Ok((id.subscription, id.offset))
    }

    fn restore(&mut self, reserved: BTreeMap<u64, BTreeSet<Offset>>, now: Instant) {
        for (id, offsets) in reserved {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            for offset in offsets {
                lane.leases.restore(offset, now);
            }
        }
    }

    /// Settles what was reserved, or puts it back. Since a seek, it is no business of the commit any
    /// more: had it been written before the seek, it would not count now.
    pub(super) fn release(&mut self, reservation: &Reservation, committed: bool, now: Instant) {
        for Reserved { lane, epoch, ranges, .. } in &reservation.parts {
            let lane = self.lanes.get_mut(lane).filter(|lane| lane.subject.epoch == *epoch);
            let Some(lane) = lane else { continue };
            for &(first, last) in ranges {
                if committed {
                    lane.acknowledge(first, last);
                    lane.leases.history.push(first, last, Happening::Acked, now);
                } else {
                    (first..=last).for_each(|offset| lane.leases.restore(offset, now));
                }
            }
        }
    }
}
