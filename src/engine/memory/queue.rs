//! One subscription's progress in one topic: what is settled, what is handed out, and what may be next.
//!
//! A plain struct that is told the time. Every question is answered by looking at everything there
//! is, so that nothing can be out of step with anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ack_id::{AckIds, DeliveryRef};
use super::log::Log;
use crate::engine::{Failure, Retry, Settlement};
use crate::model::filter::Facts;
use crate::model::{
    DeadLetter, Delivery, Filter, Header, Mode, Name, Offset, RetryPolicy, StoredMessage, Subscription,
    SubscriptionStats, Timestamp,
};

/// What a subscription has to do with one topic.
pub(super) struct Queue {
    /// No other has it, not even of a later subscription or topic of the same name.
    pub(super) number: u64,
    pub(super) topic: Name,
    pub(super) subscription: Subscription,
    /// What the subscription has handed out of other topics and is not settled.
    pub(super) elsewhere: usize,
    /// How often it was moved by a seek.
    epoch: u32,
    /// Everything at or below is settled.
    floor: Offset,
    /// What is settled above the floor.
    settled: BTreeSet<Offset>,
    /// The first message that was not handed out, with all after it.
    next: Offset,
    /// Messages up to here were looked at, whether they are for others.
    pub(super) seen: Offset,
    /// What was not handed out before that.
    passed: BTreeSet<Offset>,
    /// What was handed out and is not settled.
    pub(super) handed: BTreeMap<Offset, Handed>,
    /// How often anything was handed out.
    deliveries: u64,
    redelivered: u64,
    dead_lettered: u64,
}

/// A message that was handed out at least once.
pub(super) struct Handed {
    pub(super) delivery: u64,
    pub(super) attempt: u32,
    pub(super) bytes: u64,
    pub(super) key: String,
    /// Who got it last, and is still there.
    pub(super) holder: Option<Holder>,
    /// Whether it is lent out until `until`, or only waits until then to be handed out again.
    pub(super) leased: bool,
    pub(super) until: Instant,
    /// Why its last delivery failed.
    pub(super) reason: Arc<str>,
    /// It is not to be handed out again.
    given_up: bool,
}

/// Who was handed something: a consumer, or one pull.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Consumer(u64),
    Pull(u64),
}

impl Handed {
    pub(super) fn in_flight(&self, now: Instant) -> bool {
        self.leased && self.until > now
    }
}

/// How much may be handed out in one go.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) messages: usize,
    /// Largest first message, in bytes.
    pub(super) first_bytes: u64,
    /// Most bytes in all, when there is more than one message.
    pub(super) bytes: u64,
}

impl Queue {
    pub(super) fn new(number: u64, topic: Name, subscription: Subscription, next: Offset) -> Self {
        Self {
            number,
            topic,
            subscription,
            elsewhere: 0,
            epoch: 0,
            floor: next - 1,
            settled: BTreeSet::new(),
            next,
            passed: BTreeSet::new(),
            seen: next - 1,
            handed: BTreeMap::new(),
            deliveries: 0,
            redelivered: 0,
            dead_lettered: 0,
        }
    }

    pub(super) fn stats(&self, log: &Log, now: Instant) -> SubscriptionStats {
        let oldest = (self.floor + 1..=log.last()).find(|offset| !self.settled.contains(offset));
        SubscriptionStats {
            backlog_messages: log.last().saturating_sub(self.floor) - self.settled.len() as u64,
            in_flight: self.handed.values().filter(|handed| handed.in_flight(now)).count() as u64,
            scheduled: self.scheduled(log, Timestamp::now()).count() as u64,
            oldest_unacked: oldest.and_then(|offset| log.get(offset)).map(|message| message.publish_time),
            committed_offset: self.floor,
            redelivered: self.redelivered,
            dead_lettered: self.dead_lettered,
            consumers: 0,
        }
    }

    /// Everything at or below is settled.
    pub(super) fn floor(&self) -> Offset {
        self.floor
    }

    /// Settles everything before `first`, which is gone.
    pub(super) fn skip_before(&mut self, first: Offset) {
        for offset in self.floor + 1..first {
            self.done(offset);
        }
        self.next = self.next.max(first);
    }

    /// Settles messages in the midst that are gone.
    pub(super) fn skip(&mut self, gone: impl Iterator<Item = Offset>) {
        for offset in gone {
            self.done(offset);
        }
    }

    /// Settles everything before `next`, and nothing from there on.
    pub(super) fn seek(&mut self, next: Offset) -> Offset {
        self.epoch += 1;
        (self.floor, self.next, self.seen) = (next - 1, next, next - 1);
        self.settled.clear();
        self.passed.clear();
        self.handed.clear();
        self.floor
    }

    /// A consumer is gone: what it holds comes back, unless it may keep that.
    pub(super) fn leave(&mut self, consumer: u64, now: Instant) {
        let paused = self.subscription.settings.paused;
        for offset in self.handed.keys().copied().collect::<Vec<_>>() {
            let Some(handed) = self.handed.get_mut(&offset) else { continue };
            if handed.holder != Some(Holder::Consumer(consumer)) {
                continue;
            }
            // A pause ends streams, but what they hold stays theirs to settle.
            if handed.in_flight(now) && !paused {
                handed.reason = "its consumer left".into();
                self.fail(offset, now, now);
            }
        }
        for handed in self.handed.values_mut().filter(|it| it.holder == Some(Holder::Consumer(consumer))) {
            handed.holder = None;
        }
    }

    /// What a consumer has in flight.
    pub(super) fn held(&self, consumer: u64, now: Instant) -> impl Iterator<Item = &Handed> {
        let is_its = move |it: &&Handed| it.holder == Some(Holder::Consumer(consumer)) && it.in_flight(now);
        self.handed.values().filter(is_its)
    }

    /// Whether something is in flight that no consumer holds.
    pub(super) fn is_pulled(&self, now: Instant) -> bool {
        let stream = |handed: &Handed| matches!(handed.holder, Some(Holder::Consumer(_)));
        self.handed.values().any(|handed| !stream(handed) && handed.in_flight(now))
    }

    /// Settles what the filter does not want of that which could be handed out now.
    pub(super) fn sift(&mut self, log: &Log, now: Instant) {
        let filter = self.subscription.settings.filter.clone();
        while !filter.is_empty() {
            let unwanted = |&offset: &Offset| !self.is_wanted(&filter, offset, log);
            let unwanted: Vec<_> = self.available(log, now).into_iter().filter(unwanted).collect();
            if unwanted.is_empty() {
                break;
            }
            for offset in unwanted {
                self.done(offset);
            }
        }
    }

    fn is_wanted(&self, filter: &Filter, offset: Offset, log: &Log) -> bool {
        let attempt = self.handed.get(&offset).map_or(1, |before| before.attempt + 1);
        let message = log.get(offset).expect("what is available is stored");
        filter.matches(&Facts::new(message, attempt))
    }

    /// Hands out what there is, as far as the room goes. Says whether the next message has too many bytes.
    pub(super) fn hand_out(
        &mut self,
        holder: Holder,
        room: &Room,
        log: &Log,
        ids: &AckIds,
        now: Instant,
    ) -> (Vec<Delivery>, bool) {
        let mut deliveries = Vec::new();
        let mut total = 0;
        for offset in self.available(log, now) {
            if deliveries.len() == room.messages {
                break;
            }
            let is_new = !self.handed.contains_key(&offset);
            if (is_new && self.is_full()) || !self.may_have(holder, offset, log, now) {
                continue;
            }
            let message = log.get(offset).expect("what is available is stored").clone();
            let bytes = message.envelope.len() as u64;
            let limit = if deliveries.is_empty() { room.first_bytes } else { room.bytes };
            total += bytes;
            if total > limit {
                return (deliveries, true);
            }
            let attempt = self.lease(offset, holder, &message, now);
            let (subscription, epoch, delivery) = (self.number, self.epoch, self.deliveries);
            let ack_id = ids.seal(DeliveryRef { subscription, epoch, offset, delivery });
            deliveries.push(Delivery { ack_id, attempt, message });
        }
        (deliveries, false)
    }

    fn lease(&mut self, offset: Offset, holder: Holder, message: &StoredMessage, now: Instant) -> u32 {
        self.deliveries += 1;
        let delivery = self.deliveries;
        let bytes = message.envelope.len() as u64;
        let key = message.envelope.header().key.to_owned();
        let holder = Some(holder);
        let attempt = self.handed.get(&offset).map_or(1, |before| before.attempt + 1);
        let until = now + self.subscription.settings.ack_deadline;
        let reason = "its deadline passed".into();
        let handed =
            Handed { delivery, attempt, bytes, key, holder, leased: true, until, reason, given_up: false };
        self.handed.insert(offset, handed);
        self.passed.extend(self.next..offset);
        self.passed.remove(&offset);
        self.next = self.next.max(offset + 1);
        self.redelivered += u64::from(attempt > 1);
        attempt
    }

    /// The next time at which something may become available by itself.
    pub(super) fn next_due(&self, log: &Log, now: Instant) -> Option<Instant> {
        let until = self.handed.values().map(|handed| handed.until).filter(|&until| until > now);
        let wall = Timestamp::now();
        let times = log.timed().filter(|(offset, _)| !self.is_settled(*offset));
        let times = times.flat_map(|(_, header)| [header.deliver_time, header.expire_time]).flatten();
        let next = times.filter(|&time| time > wall).min();
        // The wall clock may jump.
        let wait = |time: Timestamp| Duration::from_micros(time.0 - wall.0).min(Duration::from_secs(1));
        until.chain(next.map(|time| now + wait(time))).min()
    }

    /// Settles the messages that have expired, but for those in flight.
    pub(super) fn drop_expired(&mut self, log: &Log, now: Instant) {
        let wall = Timestamp::now();
        for (offset, _) in log.timed().filter(|(_, header)| header.is_expired(wall)) {
            let in_flight = self.handed.get(&offset).is_some_and(|handed| handed.in_flight(now));
            if !in_flight && !self.is_settled(offset) {
                self.done(offset);
            }
        }
    }

    /// Everything that is not settled and was not handed out.
    fn new_messages(&self, log: &Log) -> impl Iterator<Item = Offset> {
        let all = self.passed.iter().copied().chain(self.next..=log.last());
        all.filter(|&offset| !self.is_settled(offset))
    }

    /// What is not to be delivered yet.
    fn scheduled(&self, log: &Log, wall: Timestamp) -> impl Iterator<Item = Offset> {
        let later = move |(offset, header): (Offset, Header<'_>)| {
            header.deliver_time.filter(|&time| time > wall).map(|_| offset)
        };
        let is_new = |offset: &Offset| !self.is_settled(*offset) && !self.handed.contains_key(offset);
        log.timed().filter_map(later).filter(is_new)
    }

    /// What may be handed out, as far as keys do not forbid it. What comes back goes before what is new. In
    /// exclusive mode, what is still to come back holds up everything after it. What is new must fit under
    /// the limit of unsettled deliveries, to which those that wait to come back count.
    pub(super) fn available(&self, log: &Log, now: Instant) -> Vec<Offset> {
        let mut due = Vec::new();
        for (&offset, _) in self.handed.iter().filter(|(_, handed)| !handed.in_flight(now)) {
            if self.handed[&offset].until <= now {
                due.push(offset);
            } else if self.exclusive() {
                return due;
            }
        }
        let scheduled: BTreeSet<_> = self.scheduled(log, Timestamp::now()).collect();
        let new = self.new_messages(log).filter(|offset| !scheduled.contains(offset));
        // Where keys are ordered, some of them are not for everybody.
        let limit = if self.orders_keys() { usize::MAX } else { self.max_in_flight() };
        due.extend(new.take(limit.saturating_sub(self.handed.len() + self.elsewhere)));
        due
    }

    fn max_in_flight(&self) -> usize {
        self.subscription.settings.max_in_flight as usize
    }

    fn is_full(&self) -> bool {
        self.handed.len() + self.elsewhere >= self.max_in_flight()
    }

    fn exclusive(&self) -> bool {
        self.subscription.settings.mode == Mode::Exclusive
    }

    /// The message that a delivery of this queue was of, if it still counts.
    pub(super) fn find(
        &self,
        of: DeliveryRef,
        log: &Log,
        now: Instant,
    ) -> std::result::Result<Offset, Failure> {
        let DeliveryRef { epoch, offset, delivery, .. } = of;
        if epoch != self.epoch {
            return Err(Failure::Expired);
        }
        match self.handed.get(&offset) {
            None => Err(Failure::AlreadySettled),
            Some(handed) if handed.delivery != delivery => Err(Failure::Expired),
            Some(handed) if !handed.in_flight(now) && !self.is_first(offset, log) => Err(Failure::Expired),
            Some(_) => Ok(offset),
        }
    }

    /// Does to a message that was found what is to be done.
    pub(super) fn apply(&mut self, offset: Offset, settlement: &Settlement, now: Instant) {
        let default_deadline = self.subscription.settings.ack_deadline;
        match settlement {
            Settlement::Ack { cumulative } => {
                let first = if *cumulative { self.floor + 1 } else { offset };
                (first..=offset).for_each(|offset| self.done(offset));
            }
            Settlement::Nack { retry, reason } => {
                let backoff = self.subscription.settings.retry.backoff;
                let handed = self.handed.get_mut(&offset).expect("find() found it");
                let delay = match retry {
                    Retry::ByPolicy => backoff.after(handed.attempt, rand::random()),
                    Retry::After(delay) => *delay,
                    Retry::Never => Duration::ZERO,
                };
                handed.given_up = *retry == Retry::Never;
                handed.reason =
                    if reason.is_empty() { "its consumer failed".into() } else { Arc::clone(reason) };
                self.fail(offset, now + delay, now);
            }
            Settlement::Extend { deadline } => {
                let handed = self.handed.get_mut(&offset).expect("find() found it");
                handed.leased = true;
                handed.until = now + deadline.unwrap_or(default_deadline);
            }
        }
    }

    /// Settles the messages that are not to be handed out again, and says what is to be remembered of
    /// them. Leases that ended by themselves get their backoff here, too.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<DeadLetter> {
        let Subscription { name, settings, .. } = self.subscription.clone();
        let RetryPolicy { backoff, max_attempts, .. } = settings.retry;
        let mut given_up = Vec::new();
        for offset in self.handed.keys().copied().collect::<Vec<_>>() {
            let handed = &self.handed[&offset];
            if handed.in_flight(now) {
                continue;
            }
            if handed.given_up || (max_attempts > 0 && handed.attempt >= max_attempts) {
                given_up.push(DeadLetter {
                    subscription: name.clone(),
                    topic: self.topic.clone(),
                    offset,
                    attempts: handed.attempt,
                    reason: handed.reason.to_string(),
                    time: Timestamp::now(),
                });
                self.fail(offset, now, now);
            } else if handed.leased {
                let until = handed.until + backoff.after(handed.attempt, rand::random());
                self.fail(offset, until, now);
            }
        }
        for letter in &given_up {
            self.done(letter.offset);
        }
        self.dead_lettered += given_up.len() as u64;
        given_up
    }

    pub(super) fn is_settled(&self, offset: Offset) -> bool {
        offset <= self.floor || self.settled.contains(&offset)
    }

    pub(super) fn done(&mut self, offset: Offset) {
        self.handed.remove(&offset);
        self.passed.remove(&offset);
        if offset > self.floor {
            self.settled.insert(offset);
        }
        while self.settled.remove(&(self.floor + 1)) {
            self.floor += 1;
        }
        self.next = self.next.max(self.floor + 1);
    }
}
