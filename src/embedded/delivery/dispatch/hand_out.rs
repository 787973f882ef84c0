//! Who gets which messages now.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::{Dispatcher, KEEP_FETCHED, Taker};
use crate::embedded::attempts::Attempts;
use crate::embedded::delivery::ack_id::AckId;
use crate::embedded::delivery::leases::{ConsumerId, Next};
use crate::embedded::log::Operation;
use crate::engine::{ReadLimit, Result};
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES};
use crate::model::{Delivery, Offset, StoredMessage};

/// How much is handed to a consumer at once.
const BATCH: ReadLimit = ReadLimit { messages: MAX_BATCH_MESSAGES, bytes: MAX_BATCH_BYTES };

impl Dispatcher {
    /// Serves those who wait, each in turn, as long as there is something for somebody.
    pub(super) fn hand_out(&mut self, now: Instant) {
        let mut sharers = self.takers_with_room();
        for _ in 0..self.takers.len() {
            if !self.has_something(now) {
                break;
            }
            let Some(taker) = self.takers.pop_front() else { break };
            match self.serve(taker, sharers, now) {
                Some(unserved) => self.takers.push_back(unserved),
                None => sharers = sharers.saturating_sub(1),
            }
        }
        if sharers > 0 && self.behind && self.wants_more() {
            self.fetch_new(self.ready.back().map_or(self.next_new(), |last| last.offset + 1));
        }
        self.end_pulls(now);
        let has_fetched = !self.ready.is_empty() || !self.again.is_empty();
        if has_fetched && now >= self.used + KEEP_FETCHED {
            self.ready = VecDeque::new();
            self.again = BTreeMap::new();
            // What is being read follows what is not here any more.
            self.fetch = None;
        }
    }

    /// Serves one; returns it if there is nothing for it now.
    fn serve(&mut self, taker: Taker, sharers: usize, now: Instant) -> Option<Taker> {
        let (consumer, limit) = match &taker {
            Taker::Consumer(id) if !self.slots.contains_key(id) => return None,
            Taker::Pull(pull) if pull.reply.is_closed() => return None,
            Taker::Consumer(id) => (Some(*id), BATCH),
            Taker::Pull(pull) => (None, pull.limit),
        };
        let deliveries = self.collect(consumer, limit, sharers, now);
        if deliveries.is_empty() {
            return Some(taker);
        }
        let refused = match taker {
            Taker::Consumer(id) => self.slots.get(&id).map(|slot| slot.try_send(Ok(deliveries)).is_err()),
            Taker::Pull(pull) => pull.reply.send(Ok(deliveries)).err().map(|refused| {
                self.give_back(refused, now);
                false
            }),
        };
        if let (Some(id), Some(true)) = (consumer, refused) {
            self.leave(id, now);
        }
        None
    }

    /// A pull went away just now: its messages are due at once.
    fn give_back(&mut self, refused: Result<Vec<Delivery>>, now: Instant) {
        for delivery in refused.unwrap_or_default() {
            if let Some(id) = self.subject.signer.open(&delivery.ack_id) {
                self.leases.take_back_unseen(id.offset, now);
            }
        }
    }

    /// Leases messages to a consumer, as many as there are, as it may have, and as is fair.
    fn collect(
        &mut self,
        consumer: Option<ConsumerId>,
        limit: ReadLimit,
        sharers: usize,
        now: Instant,
    ) -> Vec<Delivery> {
        let (room_messages, room_bytes) = self.leases.room(consumer);
        let room = room_messages.min(limit.messages);
        if room == 0 {
            return Vec::new();
        }
        let available = self.ready.len() + self.leases.due(now);
        let share = available.div_ceil(sharers.max(1)).max(1);
        let max_messages = room.min(share);

        let mut batch: Vec<(StoredMessage, u64, u32)> = Vec::with_capacity(max_messages.min(available));
        let mut bytes = 0;
        let mut skip_again = false;
        while batch.len() < max_messages {
            let message = match self.leases.next(now, skip_again) {
                Next::Nothing => break,
                Next::Again(offset) => {
                    let Some(message) = self.take_again(offset) else {
                        skip_again = true;
                        continue;
                    };
                    message
                }
                Next::New => {
                    let Some(message) = self.take_new() else { break };
                    message
                }
            };
            if self.leases.is_used_up(message.offset) {
                self.leases.give_up_next(message.offset);
                continue;
            }
            let size = message.envelope.len() as u64;
            // One message of any size always fits a batch, and a consumer that holds nothing.
            let fits_batch = batch.is_empty() || bytes + size <= limit.bytes as u64;
            let fits_credit =
                bytes + size <= room_bytes || (batch.is_empty() && self.leases.holds_nothing(consumer));
            if !(fits_batch && fits_credit) {
                self.put_back(message);
                break;
            }
            bytes += size;
            let handed = self.leases.hand_out(consumer, message.offset, size, now);
            batch.push((message, handed.delivery, handed.attempt));
        }
        if !batch.is_empty() {
            self.used = now;
            self.write_down(&batch);
            self.note_delivered(consumer, &batch, now);
        }
        self.sign(batch)
    }

    /// Has the log remember what is handed out, so that attempts are counted across restarts.
    fn write_down(&self, batch: &[(StoredMessage, u64, u32)]) {
        let handed = self.leases.cursor().min(self.passed_over.unwrap_or(Offset::MAX)) - 1;
        let mut attempts = Attempts::new(handed);
        for (message, _, attempt) in batch.iter().filter(|(_, _, attempt)| *attempt > 1) {
            attempts.note(message.offset, *attempt);
        }
        if self.subject.unwritten.add(attempts) {
            let (subscription, unwritten) = (self.subject.id, Arc::clone(&self.subject.unwritten));
            self.subject.log.submit(Operation::Hand { subscription, unwritten });
        }
    }

    /// Whether there is a message to hand out, or can be at once.
    fn has_something(&mut self, now: Instant) -> bool {
        self.make_ready();
        !self.ready.is_empty() || self.leases.due(now) > 0
    }

    /// How many wait and may have messages.
    fn takers_with_room(&self) -> usize {
        let room = |taker: &&Taker| match taker {
            Taker::Consumer(id) => self.leases.room(Some(*id)).0 > 0,
            Taker::Pull(_) => true,
        };
        self.takers.iter().filter(room).count()
    }

    fn sign(&self, batch: Vec<(StoredMessage, u64, u32)>) -> Vec<Delivery> {
        let ids = batch.iter().map(|(message, delivery, attempt)| AckId {
            subscription: self.subject.id,
            epoch: self.subject.epoch,
            offset: message.offset,
            delivery: *delivery,
            attempt: *attempt,
        });
        let ids: Vec<_> = self.subject.signer.sign(ids).collect();
        let deliveries = batch.into_iter().zip(ids);
        deliveries.map(|((message, _, attempt), ack_id)| Delivery { ack_id, attempt, message }).collect()
    }

    fn put_back(&mut self, message: StoredMessage) {
        if self.leases.is_new(message.offset) {
            self.ready.push_front(message);
        } else {
            self.again.insert(message.offset, message);
        }
    }

    /// Answers pulls whose time is over, unless their messages are being fetched.
    fn end_pulls(&mut self, now: Instant) {
        if self.fetch.is_some() {
            return;
        }
        for taker in std::mem::take(&mut self.takers) {
            match taker {
                Taker::Pull(pull) if pull.until <= now => drop(pull.reply.send(Ok(Vec::new()))),
                taker => self.takers.push_back(taker),
            }
        }
    }
}
