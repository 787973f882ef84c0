//! Acks that are part of a commit: taken out of delivery until it is known what became of it.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Dispatcher;
use super::settle::Ranges;
use crate::embedded::delivery::ack_id::AckId;
use crate::engine::Failure;
use crate::model::{Happening, Offset};

/// Messages that are settled if a commit succeeds. Whoever has it must say what became of it.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// How often the subscription had been moved.
    pub(crate) epoch: u32,
    /// First and last offsets.
    pub(crate) ranges: Vec<(Offset, Offset)>,
}

/// The answer: a reservation, or the first id that has no effect and why.
pub(crate) type Reply = oneshot::Sender<Result<Reservation, (usize, Failure)>>;

impl Dispatcher {
    /// Reserves the messages of all ids or, if one has no effect, of none.
    pub(super) fn reserve(&mut self, ids: &[Bytes], reply: Reply, now: Instant) {
        let mut offsets = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            let checked = self.check(id).and_then(|id| self.leases.check_lease(id.offset).map(|()| id));
            match checked {
                Ok(AckId { offset, delivery, .. }) => {
                    self.leases.reserve(offset, delivery);
                    offsets.push(offset);
                }
                Err(failure) => {
                    for offset in offsets {
                        self.leases.restore(offset, now);
                    }
                    let _ = reply.send(Err((index, failure)));
                    return;
                }
            }
        }
        offsets.sort_unstable();
        let mut ranges = Ranges::default();
        for offset in offsets {
            ranges.add(offset, offset);
        }
        let reservation = Reservation { epoch: self.subject.epoch, ranges: ranges.0 };
        if let Err(Ok(refused)) = reply.send(Ok(reservation)) {
            self.release(&refused, false, now);
        }
    }

    /// Settles what was reserved, or puts it back. Since a seek, it is no business of the commit any
    /// more: had it been written before the seek, it would not count now.
    pub(super) fn release(&mut self, reservation: &Reservation, committed: bool, now: Instant) {
        if reservation.epoch != self.subject.epoch {
            return;
        }
        for &(first, last) in &reservation.ranges {
            if committed {
                self.leases.settle(first, last);
                self.leases.history.push(first, last, Happening::Acked, now);
            } else {
                (first..=last).for_each(|offset| self.leases.restore(offset, now));
            }
        }
    }
}
