//! Who gets which messages now.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Dispatcher, KEEP_FETCHED, Taker};
use crate::embedded::attempts::Attempts;
use crate::embedded::delivery::ack_id::AckId;
use crate::embedded::delivery::leases::{About, Key, Next, Who};
use crate::embedded::log::Operation;
use crate::engine::{ReadLimit, Result};
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES};
use crate::model::{Delivery, Header, Offset, StoredMessage};

/// How much longer a pull may take while it looks for messages that the filter wants.
const SIFT_GRACE: Duration = Duration::from_secs(1);
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
            self.fetch_new(self.next_to_fetch());
        }
        self.end_pulls(now);
        let has_fetched = self.has_fetched();
        if has_fetched && now >= self.used + KEEP_FETCHED {
            self.ready = VecDeque::new();
            self.sieve.unsifted = VecDeque::new();
            self.again = BTreeMap::new();
            // What is being read follows what is not here any more.
            self.fetch = None;
        }
    }

    /// Serves one; returns it if there is nothing for it now.
    fn serve(&mut self, taker: Taker, sharers: usize, now: Instant) -> Option<Taker> {
        let (who, limit) = match &taker {
            Taker::Consumer(id) if !self.slots.contains_key(id) => return None,
            Taker::Pull(pull) if pull.reply.is_closed() => return None,
            Taker::Consumer(id) => (Who::Consumer(*id), BATCH),
            Taker::Pull(pull) => (self.leases.pull(), pull.limit),
        };
        let deliveries = self.collect(who, limit, sharers, now);
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
        if let (Who::Consumer(id), Some(true)) = (who, refused) {
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
    fn collect(&mut self, who: Who, limit: ReadLimit, sharers: usize, now: Instant) -> Vec<Delivery> {
        let (room_messages, room_bytes) = self.leases.room(who);
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
            let message = match self.leases.next(who, now, skip_again) {
                Next::Nothing => break,
                Next::Again(offset) => {
                    let Some(message) = self.take_again(offset) else {
                        skip_again = true;
                        continue;
                    };
                    let wanted = self.sift_again(message);
                    skip_again = self.sieve.cut_short;
                    let Some(message) = wanted else { continue };
                    message
                }
                Next::New => {
                    let Some(message) = self.take_new() else { break };
                    message
                }
            };
            let about = self.about(&message);
            if !self.leases.meet(who, message.offset, &about, now) {
                continue;
            }
            let size = message.envelope.len() as u64;
            // One message of any size always fits a batch, and a consumer that holds nothing.
            let fits_batch = batch.is_empty() || bytes + size <= limit.bytes as u64;
            let fits_credit =
                bytes + size <= room_bytes || (batch.is_empty() && self.leases.holds_nothing(who));
            if !(fits_batch && fits_credit) {
                self.put_back(message);
                break;
            }
            bytes += size;
            let handed = self.leases.hand_out(who, message.offset, size, &about, now);
            batch.push((message, handed.delivery, handed.attempt));
        }
        if !batch.is_empty() {
            self.used = now;
            self.write_down(&batch);
            self.note_delivered(who.consumer(), &batch, now);
        }
        self.sign(batch)
    }

    /// What the leases go by.
    fn about(&self, message: &StoredMessage) -> About {
        let Header { key, deliver_time, expire_time, .. } = message.envelope.header();
        let key = if key.is_empty() || !self.leases.orders_keys() {
            Key::Alone(message.offset)
        } else {
            Key::Hash(self.subject.signer.hash(key.as_bytes()))
        };
        About::new(key, deliver_time, expire_time)
    }

    /// Has the log remember what is handed out, so that attempts are counted across restarts.
    fn write_down(&mut self, batch: &[(StoredMessage, u64, u32)]) {
        self.write_unwanted();
        let handed = self.leases.handed().min(self.passed_over.unwrap_or(Offset::MAX) - 1);
        let mut attempts = Attempts::new(handed);
        // What one offset does not tell: handed out more than once, or beyond what was not.
        let told = |message: &StoredMessage, attempt| attempt == 1 && message.offset <= handed;
        for (message, _, attempt) in batch.iter().filter(|(message, _, attempt)| !told(message, *attempt)) {
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
        !self.ready.is_empty() || self.leases.has_due(now)
    }

    /// Whether there are messages in memory that nobody has taken yet.
    pub(super) fn has_fetched(&self) -> bool {
        !self.ready.is_empty() || !self.again.is_empty() || !self.sieve.unsifted.is_empty()
    }

    /// How many wait and may have messages.
    fn takers_with_room(&self) -> usize {
        let room = |taker: &&Taker| match taker {
            Taker::Consumer(id) => self.leases.room(Who::Consumer(*id)).0 > 0,
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

    /// Answers pulls whose time is over, unless their messages are being fetched; with a filter, that may
    /// go on for a while without any that are wanted.
    fn end_pulls(&mut self, now: Instant) {
        if self.fetch.is_some() && self.sieve.is_open() {
            return;
        }
        let is_looking = self.fetch.is_some() || self.has_more_to_sift();
        let grace = if is_looking { SIFT_GRACE } else { Duration::ZERO };
        for taker in std::mem::take(&mut self.takers) {
            match taker {
                Taker::Pull(pull) if pull.until + grace <= now => drop(pull.reply.send(Ok(Vec::new()))),
                taker => self.takers.push_back(taker),
            }
        }
    }
}
