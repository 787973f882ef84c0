//! What is asked of a subscription beside deliveries: to move or discard messages, and what it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::hand_out::held;
use super::settle::Ranges;
use super::{Dispatcher, Lane};
use crate::embedded::delivery::leases::{ConsumerId, Place};
use crate::embedded::log::Operation;
use crate::embedded::log::transaction::{Settle, Transaction};
use crate::engine::{Error, Result};
use crate::model::{ConsumerInfo, Happening, Journey, Moment, Offset, Standing, Timestamp};

/// Who a consumer is.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its number in this process.
    pub(crate) number: u64,
    /// The server's name for it.
    pub(crate) id: Arc<str>,
    /// Its own name for itself; may be empty.
    pub(crate) name: String,
    /// When it connected.
    pub(crate) since: Timestamp,
}

/// A question or task, and where the answer goes. Where only an offset says which message is meant, the
/// subscription has no other lane.
pub(crate) enum Request {
    /// Publish something and settle a message, if it is not; answers with the epoch, once that is submitted.
    Move { offset: Offset, publish: Transaction, reply: oneshot::Sender<Result<u32>> },
    /// What came of the move.
    Moved { offset: Offset, epoch: u32, settled: bool },
    /// Settle messages.
    Discard { offsets: Vec<Offset>, reply: oneshot::Sender<Discarded> },
    /// The first and last offsets of what is not settled, from an offset on, up to so many messages.
    Unsettled { from: Offset, messages: usize, reply: oneshot::Sender<Vec<(Offset, Offset)>> },
}

/// What came of a request to settle messages.
pub(crate) struct Discarded {
    /// How many were not settled before.
    pub(crate) count: u64,
    /// Resolves when they are, durably; `None` if there were none.
    pub(crate) durable: Option<oneshot::Receiver<Result<Offset>>>,
}

impl Dispatcher {
    pub(super) fn request(&mut self, request: Request) {
        if let Some(lane) = self.lanes.values_mut().next() {
            lane.request(request);
        }
    }

    /// What became of a message; nothing if its topic is gone.
    pub(super) fn explain(&self, lane: u64, offset: Offset, now: Instant) -> Option<Journey> {
        Some(self.lanes.get(&lane)?.journey(offset, &self.known, now))
    }

    pub(super) fn consumers(&self) -> Vec<ConsumerInfo> {
        let held = held(&self.lanes);
        let info = |(id, who): (&ConsumerId, &Arc<Member>)| {
            let credit = self.consumers.get(id)?;
            let (messages, bytes) = held.get(id).copied().unwrap_or_default();
            Some(ConsumerInfo {
                number: who.number,
                id: who.id.to_string(),
                name: who.name.clone(),
                subscription: self.common.name.clone(),
                since: who.since,
                outstanding_messages: messages,
                outstanding_bytes: bytes,
                max_messages: credit.messages,
                max_bytes: credit.bytes,
            })
        };
        self.known.iter().filter_map(info).collect()
    }
}

impl Lane {
    fn request(&mut self, request: Request) {
        match request {
            Request::Move { offset, publish, reply } => {
                let _ = reply.send(self.start_move(offset, publish));
            }
            Request::Moved { offset, epoch, settled } => {
                self.moving.remove(&offset);
                // A seek since then has said anew what is settled.
                if settled && epoch == self.subject.epoch {
                    self.leases.settle(offset, offset);
                }
            }
            Request::Discard { offsets, reply } => drop(reply.send(self.discard(&offsets))),
            Request::Unsettled { from, messages, reply } => {
                let last = self.subject.topic.visible();
                let _ = reply.send(self.leases.progress().unsettled(from, last, messages as u64));
            }
        }
    }

    /// Submits a move. Of two for the same message, only one is under way at a time, and when it has
    /// succeeded the message is settled.
    fn start_move(&mut self, offset: Offset, mut publish: Transaction) -> Result<u32> {
        let topic = &self.subject.topic;
        let last = topic.visible();
        if !(1..=last).contains(&offset) {
            return Err(Error::NoSuchMessage { topic: topic.name.clone(), offset, last });
        }
        // What was given up is on its way already.
        let is_taken =
            matches!(self.leases.place(offset).0, Place::Settled | Place::GivenUp | Place::Reserved);
        if is_taken || !self.moving.insert(offset) {
            return Err(Error::AlreadySettled { subscription: self.subject.name.clone(), offset });
        }
        publish.settles.push(Settle {
            subscription: self.subject.id,
            ranges: vec![(offset, offset)],
            committed: Arc::clone(&self.subject.committed),
            only_in: None,
        });
        self.subject.log.submit(Operation::Commit(publish));
        Ok(self.subject.epoch)
    }

    fn discard(&mut self, offsets: &[Offset]) -> Discarded {
        let last = self.subject.topic.visible();
        let mut ranges = Ranges::default();
        let (leases, moving) = (&self.leases, &self.moving);
        let is_open = |offset: &&Offset| {
            (1..=last).contains(*offset)
                && !leases.progress().is_settled(**offset)
                && !moving.contains(offset)
        };
        let open: BTreeSet<Offset> = offsets.iter().filter(is_open).copied().collect();
        for &offset in &open {
            self.leases.settle(offset, offset);
            ranges.add(offset, offset);
        }
        let durable = (!open.is_empty()).then(|| {
            let (reply, durable) = oneshot::channel();
            self.commit(ranges.0, reply);
            durable
        });
        Discarded { count: open.len() as u64, durable }
    }

    fn journey(&self, offset: Offset, known: &BTreeMap<ConsumerId, Arc<Member>>, now: Instant) -> Journey {
        let wall = Timestamp::now();
        let (place, attempts) = self.leases.place(offset);
        let past = self.leases.history.of(offset);
        let moment = |(at, what): (Instant, &Happening)| Moment {
            time: wall.before(now.saturating_duration_since(at)),
            what: what.clone(),
        };
        let history: Vec<Moment> = past.map(moment).collect();
        let later = |at: Instant| wall.after(at.saturating_duration_since(now));
        let standing = match place {
            Place::New => Standing::NotReached,
            Place::Leased(consumer, deadline) => {
                let who = consumer.and_then(|id| known.get(&id));
                Standing::InFlight { consumer: who.map(|who| who.id.to_string()), deadline: later(deadline) }
            }
            Place::Reserved => Standing::InFlight { consumer: None, deadline: wall },
            Place::Scheduled(time) => Standing::Waiting { until: time },
            Place::Waiting(due) => Standing::Waiting { until: later(due) },
            Place::GivenUp => Standing::GivenUp,
            Place::Settled => outcome(&history),
        };
        Journey { subscription: self.subject.name.clone(), standing, attempts, history }
    }
}

/// How a settled message ended, if that is remembered.
fn outcome(history: &[Moment]) -> Standing {
    let end = history.iter().rev().find_map(|moment| match &moment.what {
        Happening::Acked => Some(Standing::Settled),
        Happening::DeadLettered { topic, offset } => {
            Some(Standing::Buried { letter: Some((topic.clone(), *offset)) })
        }
        Happening::Dropped => Some(Standing::Buried { letter: None }),
        Happening::Skipped => Some(Standing::Skipped),
        _ => None,
    });
    end.unwrap_or(Standing::Settled)
}
