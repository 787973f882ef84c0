//! Acks, nacks and extensions: what they mean for the leases, and what of them the log must remember.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Dispatcher, SettleReply};
use crate::embedded::delivery::ack_id::AckId;
use crate::embedded::log::Place;
use crate::engine::{Failure, Settlement};
use crate::model::{Happening, Offset};

impl Dispatcher {
    pub(super) fn settle(
        &mut self,
        ids: Vec<Bytes>,
        settlement: &Settlement,
        place: Option<Place>,
        now: Instant,
    ) -> SettleReply {
        let mut failures = Vec::new();
        let mut ranges = Ranges::default();
        for id in ids {
            if let Err(failure) = self.settle_one(&id, settlement, now, &mut ranges) {
                failures.push((id, failure));
            }
        }
        for &(first, last) in &ranges.0 {
            self.leases.history.push(first, last, Happening::Acked, now);
        }
        let durable = (!ranges.0.is_empty()).then(|| {
            let (reply, durable) = oneshot::channel();
            self.commit(ranges.0, reply);
            durable
        });
        SettleReply { failures, durable, place }
    }

    /// The delivery that an id names, if it still counts.
    pub(super) fn check(&self, id: &[u8]) -> std::result::Result<AckId, Failure> {
        let ack_id = self.subject.signer.open(id).ok_or(Failure::Unknown)?;
        let AckId { subscription, epoch, offset, delivery, attempt } = ack_id;
        if subscription != self.subject.id {
            return Err(Failure::WrongSubscription);
        }
        if epoch != self.subject.epoch {
            return Err(Failure::Expired);
        }
        self.leases.check(offset, delivery, attempt)?;
        Ok(ack_id)
    }

    fn settle_one(
        &mut self,
        id: &Bytes,
        settlement: &Settlement,
        now: Instant,
        ranges: &mut Ranges,
    ) -> std::result::Result<(), Failure> {
        let AckId { offset, delivery, .. } = self.check(id)?;
        match settlement {
            Settlement::Ack { cumulative } => {
                let first = if *cumulative { self.leases.progress().floor() + 1 } else { offset };
                self.leases.settle(first, offset);
                ranges.add(first, offset);
            }
            Settlement::Nack { retry, reason } => {
                self.leases.check_lease(offset)?;
                self.leases.nack(offset, delivery, *retry, reason, now);
            }
            Settlement::Extend { deadline } => {
                self.leases.check_lease(offset)?;
                let deadline = deadline.unwrap_or(self.leases.ack_deadline());
                self.leases.extend(offset, delivery, now + deadline);
                self.leases.history.push(offset, offset, Happening::Extended, now);
            }
        }
        Ok(())
    }
}

/// Ranges of offsets, neighbours joined as they come.
#[derive(Default)]
pub(super) struct Ranges(pub(super) Vec<(Offset, Offset)>);

impl Ranges {
    pub(super) fn add(&mut self, first: Offset, last: Offset) {
        match self.0.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.0.push((first, last)),
        }
    }
}
