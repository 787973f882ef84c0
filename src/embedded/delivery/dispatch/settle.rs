//! Acks, nacks and extensions: what they mean for the leases, and what of them the log must remember.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Dispatcher, Lane, SettleReply};
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
        let mut settled: Vec<(u64, Ranges)> = Vec::new();
        let (mut last_lane, mut is_repeated) = (None, false);
        let is_ack = matches!(settlement, Settlement::Ack { .. });
        for id in ids {
            if let Err(failure) = self.settle_one(&id, settlement, now, &mut settled, &mut last_lane) {
                is_repeated |= is_ack && failure == Failure::AlreadySettled;
                failures.push((id, failure));
            }
        }
        // "Settled already" is as good as an ack to whoever hears it, and so waits for what it speaks of.
        let waits = |lane: &u64| is_repeated && self.lanes.get(lane).is_some_and(Lane::is_ahead_of_disk);
        settled.retain(|(lane, ranges)| !ranges.0.is_empty() || waits(lane));
        // The floor that is answered is that of the last id's topic.
        settled.sort_by_key(|(lane, _)| Some(*lane) == last_lane);
        let mut durable = None;
        for (id, ranges) in settled {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            for &(first, last) in &ranges.0 {
                lane.leases.history.push(first, last, Happening::Acked, now);
            }
            let (reply, answer) = oneshot::channel();
            lane.commit(ranges.0, reply);
            // What the log has later is not durable earlier.
            durable = Some(answer);
        }
        SettleReply { failures, durable, lane: last_lane, place }
    }

    fn settle_one(
        &mut self,
        id: &[u8],
        settlement: &Settlement,
        now: Instant,
        settled: &mut Vec<(u64, Ranges)>,
        last_lane: &mut Option<u64>,
    ) -> std::result::Result<(), Failure> {
        let id = self.open(id)?;
        let number = id.subscription;
        let lane = self.lanes.get_mut(&number).ok_or(Failure::WrongSubscription)?;
        *last_lane = Some(number);
        // Most often it is the one of the id before.
        let place = settled.iter().rposition(|(lane, _)| *lane == number).unwrap_or(settled.len());
        if place == settled.len() {
            settled.push((number, Ranges::default()));
        }
        lane.settle_one(id, settlement, now, &mut settled[place].1)
    }

    /// What an id of this subscription says.
    pub(super) fn open(&self, id: &[u8]) -> std::result::Result<AckId, Failure> {
        let id = self.common.signer.open(id).ok_or(Failure::Unknown)?;
        if self.lanes.contains_key(&id.subscription) {
            Ok(id)
        } else if self.gone.contains(&id.subscription) {
            Err(Failure::Expired)
        } else {
            Err(Failure::WrongSubscription)
        }
    }
}

impl Lane {
    /// Whether more is settled than the disk knows of.
    fn is_ahead_of_disk(&self) -> bool {
        self.subject.committed.settled() < self.leases.progress().settled()
    }

    /// Whether a delivery still counts.
    pub(super) fn check(&self, id: AckId) -> std::result::Result<(), Failure> {
        let AckId { epoch, offset, delivery, attempt, .. } = id;
        if epoch != self.subject.epoch {
            return Err(Failure::Expired);
        }
        self.leases.check(offset, delivery, attempt)
    }

    fn settle_one(
        &mut self,
        id: AckId,
        settlement: &Settlement,
        now: Instant,
        ranges: &mut Ranges,
    ) -> std::result::Result<(), Failure> {
        self.check(id)?;
        let AckId { offset, delivery, .. } = id;
        match settlement {
            Settlement::Ack { cumulative } => {
                let first = if *cumulative { self.leases.progress().floor() + 1 } else { offset };
                self.acknowledge(first, offset);
                ranges.add(first, offset);
            }
            Settlement::Nack { retry, reason } => {
                self.leases.check_lease(offset)?;
                self.leases.nack(offset, delivery, *retry, reason, now);
                self.subject.meters.nacks.add(1);
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
