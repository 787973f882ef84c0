//! Who gets which messages now.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Dispatcher, KEEP_FETCHED, Lane, Taker};
use crate::embedded::attempts::Attempts;
use crate::embedded::delivery::ack_id::AckId;
use crate::embedded::delivery::leases::{About, ConsumerId, Elsewhere, Key, Next, Who};
use crate::embedded::log::Operation;
use crate::engine::{Credit, ReadLimit, Result};
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES};
use crate::model::{Delivery, Header, Mode, Offset, StoredMessage};

/// How much longer a pull may take while it looks for messages that the filter wants.
const SIFT_GRACE: Duration = Duration::from_secs(1);
/// How much is handed to a consumer at once.
const BATCH: ReadLimit = ReadLimit { messages: MAX_BATCH_MESSAGES, bytes: MAX_BATCH_BYTES };

impl Dispatcher {
    /// Serves those who wait, each in turn, as long as there is something for somebody.
    pub(super) fn hand_out(&mut self, now: Instant) {
        let slots = &self.slots;
        self.takers.retain(|taker| match taker {
            Taker::Consumer(id) => slots.contains_key(id),
            Taker::Pull(pull) => !pull.reply.is_closed(),
        });
        // What is handed out while nothing can be written could not be acknowledged, and would come again.
        let idle = self.takers.is_empty() || self.is_stalled();
        let mut sharers = if idle { 0 } else { self.takers_with_room() };
        for _ in 0..self.takers.len() {
            if sharers == 0 || !self.lanes.values_mut().any(|lane| lane.has_something(now)) {
                break;
            }
            let Some(taker) = self.takers.pop_front() else { break };
            let consumers = self.slots.len();
            match self.serve(taker, sharers, now) {
                Some(unserved) => self.takers.push_back(unserved),
                // It could not be reached: another one may take its place.
                None if self.slots.len() < consumers => sharers = self.takers_with_room(),
                None => sharers = sharers.saturating_sub(1),
            }
        }
        self.may_read_more = false;
        if sharers > 0 {
            self.read_ahead();
        }
        self.end_pulls(now);
        self.lanes.values_mut().for_each(|lane| lane.forget_unused(now));
    }

    /// Serves one; returns it if there is nothing for it now.
    fn serve(&mut self, taker: Taker, sharers: usize, now: Instant) -> Option<Taker> {
        let (who, limit) = match &taker {
            Taker::Consumer(id) if !self.slots.contains_key(id) => return None,
            Taker::Pull(pull) if pull.reply.is_closed() => return None,
            Taker::Consumer(id) => (Who::Consumer(*id), BATCH),
            Taker::Pull(pull) => {
                self.last_pull += 1;
                (Who::Pull(self.last_pull), pull.limit)
            }
        };
        let deliveries = self.collect(who, limit, sharers, now);
        if deliveries.is_empty() {
            return Some(taker);
        }
        if let Who::Consumer(consumer) = who {
            self.slow.served(consumer);
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
            if let Ok(id) = self.open(&delivery.ack_id)
                && let Some(lane) = self.lanes.get_mut(&id.subscription)
            {
                lane.leases.take_back_unseen(id.offset, now);
            }
        }
    }

    /// Leases messages to a consumer, as many as there are, as it may have, and as is fair; from each topic
    /// in its turn.
    fn collect(&mut self, who: Who, limit: ReadLimit, sharers: usize, now: Instant) -> Vec<Delivery> {
        let known = who.consumer().and_then(|id| self.known.get(&id)).map(|who| Arc::clone(&who.id));
        if let (1, Some(lane)) = (self.lanes.len(), self.lanes.values_mut().next()) {
            let most = lane.available(now).div_ceil(sharers.max(1)).max(1);
            let room = Room { messages: limit.messages.min(most), bytes: limit.bytes, has_begun: false };
            return lane.collect(who, known.as_ref(), room, now).0;
        }
        let mut all = self.everything(who);
        let (lanes, turns) = (&mut self.lanes, &mut self.turns);
        let ready = turns.ready(|id| lanes.get_mut(&id).is_some_and(|lane| lane.has_something(now)));
        let available: usize = ready.iter().map(|id| lanes[id].available(now)).sum();
        let most = available.div_ceil(sharers.max(1)).max(1).min(limit.messages);
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut bytes_left = limit.bytes;
        turns.divide(most, ready, |id, messages| {
            let Some(lane) = lanes.get_mut(&id) else { return ControlFlow::Continue(0) };
            let before = lane.counts(who);
            lane.leases.set_elsewhere(without(all, before));
            let room = Room { messages, bytes: bytes_left, has_begun: !deliveries.is_empty() };
            let (taken, has_no_room) = lane.collect(who, known.as_ref(), room, now);
            all = with(without(all, before), lane.counts(who));
            let bytes: usize = taken.iter().map(|delivery| delivery.message.envelope.len()).sum();
            bytes_left = bytes_left.saturating_sub(bytes);
            let count = taken.len();
            deliveries.extend(taken);
            if has_no_room { ControlFlow::Break(count) } else { ControlFlow::Continue(count) }
        });
        deliveries
    }

    /// What counts toward the limits of whoever is served, of all topics.
    fn everything(&self, who: Who) -> Elsewhere {
        self.lanes.values().fold(Elsewhere::default(), |all, lane| with(all, lane.counts(who)))
    }

    /// How many wait and may have messages.
    pub(super) fn takers_with_room(&self) -> usize {
        if let (1, Some(lane)) = (self.lanes.len(), self.lanes.values().next()) {
            let room = |taker: &&Taker| match taker {
                Taker::Consumer(id) => lane.leases.room(Who::Consumer(*id)).0 > 0,
                Taker::Pull(_) => true,
            };
            return self.takers.iter().filter(room).count();
        }
        let held = held(&self.lanes);
        let is_pulled = self.lanes.values().any(|lane| lane.leases.here().pulled > 0);
        let is_exclusive = self.common.rules.mode == Mode::Exclusive;
        let oldest = self.consumers.keys().next();
        let room = |taker: &&Taker| {
            let Taker::Consumer(id) = taker else { return true };
            let (messages, bytes) = held.get(id).copied().unwrap_or_default();
            let standby = is_exclusive && (is_pulled || oldest != Some(id));
            let has_room =
                |credit: &Credit| credit.messages > messages && (messages == 0 || credit.bytes > bytes);
            !standby && self.consumers.get(id).is_some_and(has_room)
        };
        self.takers.iter().filter(room).count()
    }

    /// Answers pulls whose time is over, unless their messages are being fetched; with a filter, that may
    /// go on for a while without any that are wanted.
    fn end_pulls(&mut self, now: Instant) {
        let is_fetching = self.lanes.values().any(|lane| lane.fetch.is_some());
        if is_fetching && self.common.filter.is_empty() {
            return;
        }
        let is_looking = is_fetching || self.has_more_to_sift();
        let grace = if is_looking { SIFT_GRACE } else { Duration::ZERO };
        for taker in std::mem::take(&mut self.takers) {
            match taker {
                Taker::Pull(pull) if pull.until + grace <= now => drop(pull.reply.send(Ok(Vec::new()))),
                taker => self.takers.push_back(taker),
            }
        }
    }
}

/// What consumers hold of all topics: messages and bytes.
pub(super) fn held(lanes: &BTreeMap<u64, Lane>) -> BTreeMap<ConsumerId, (u32, u64)> {
    let mut held = BTreeMap::<ConsumerId, (u32, u64)>::new();
    for lane in lanes.values().filter(|lane| lane.leases.leased() > 0) {
        for (consumer, messages, bytes) in lane.leases.holdings() {
            let all = held.entry(consumer).or_default();
            (all.0, all.1) = (all.0 + messages, all.1 + bytes);
        }
    }
    held
}

fn with(all: Elsewhere, more: Elsewhere) -> Elsewhere {
    Elsewhere {
        messages: all.messages + more.messages,
        bytes: all.bytes + more.bytes,
        in_flight: all.in_flight + more.in_flight,
        pulled: all.pulled + more.pulled,
    }
}

fn without(all: Elsewhere, less: Elsewhere) -> Elsewhere {
    Elsewhere {
        messages: all.messages - less.messages,
        bytes: all.bytes - less.bytes,
        in_flight: all.in_flight - less.in_flight,
        pulled: all.pulled - less.pulled,
    }
}

/// Room for messages in a batch.
#[derive(Clone, Copy)]
struct Room {
    messages: usize,
    bytes: usize,
    /// There are messages in the batch already.
    has_begun: bool,
}

impl Lane {
    /// Leases messages to a consumer, as many as there are and as it may have. Says whether the next one has
    /// too many bytes.
    fn collect(
        &mut self,
        who: Who,
        known: Option<&Arc<str>>,
        limit: Room,
        now: Instant,
    ) -> (Vec<Delivery>, bool) {
        let (room_messages, room_bytes) = self.leases.room(who);
        let max_messages = room_messages.min(limit.messages);
        if max_messages == 0 {
            return (Vec::new(), false);
        }
        let mut batch: Vec<(StoredMessage, u64, u32)> =
            Vec::with_capacity(max_messages.min(self.available(now)));
        let mut bytes = 0;
        let (mut skip_again, mut has_no_room) = (false, false);
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
            let is_first = batch.is_empty() && !limit.has_begun;
            let fits_batch = is_first || bytes + size <= limit.bytes as u64;
            let fits_credit =
                bytes + size <= room_bytes || (batch.is_empty() && self.leases.holds_nothing(who));
            if !(fits_batch && fits_credit) {
                self.put_back(message);
                has_no_room = true;
                break;
            }
            bytes += size;
            let handed = self.leases.hand_out(who, message.offset, size, &about, now);
            batch.push((message, handed.delivery, handed.attempt));
        }
        if !batch.is_empty() {
            self.used = now;
            self.count(&batch);
            self.write_down(&batch);
            self.note_delivered(known, &batch, now);
        }
        (self.sign(batch), has_no_room)
    }

    fn count(&self, batch: &[(StoredMessage, u64, u32)]) {
        let again = batch.iter().filter(|(_, _, attempt)| *attempt > 1).count();
        self.subject.meters.deliveries.add(batch.len() as u64);
        self.subject.meters.redeliveries.add(again as u64);
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
    pub(super) fn has_something(&mut self, now: Instant) -> bool {
        self.make_ready();
        !self.ready.is_empty() || self.leases.has_due(now)
    }

    /// How many messages are at hand, about.
    fn available(&self, now: Instant) -> usize {
        self.ready.len() + self.leases.due(now)
    }

    /// What of this counts toward limits, where somebody is served from another topic.
    fn counts(&self, who: Who) -> Elsewhere {
        let (messages, bytes) = who.consumer().map_or((0, 0), |consumer| self.leases.holds(consumer));
        Elsewhere { messages, bytes, ..self.leases.here() }
    }

    /// Forgets what was fetched if nobody takes it.
    fn forget_unused(&mut self, now: Instant) {
        if self.has_fetched() && now >= self.used + KEEP_FETCHED {
            self.ready = VecDeque::new();
            self.sieve.unsifted = VecDeque::new();
            self.again = BTreeMap::new();
            // What is being read follows what is not here any more.
            self.fetch = None;
        }
    }

    /// Whether there are messages in memory that nobody has taken yet.
    pub(super) fn has_fetched(&self) -> bool {
        !self.ready.is_empty() || !self.again.is_empty() || !self.sieve.unsifted.is_empty()
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
}
