//! The state machine of one subscription: what is settled, who holds what, what is due again.
//!
//! A plain struct: no I/O, no clock, no lock. Every call that depends on time takes `now`.

mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::view::{Held, Place};
use super::history::History;
use crate::embedded::attempts::Attempts;
use crate::embedded::progress::Progress;
use crate::engine::{Credit, Failure, Retry};
use crate::model::limits::MAX_BATCH_MESSAGES;
use crate::model::{Backoff, Happening, Mode, Offset};

/// A consumer's number, rising in the order of joining.
pub(crate) type ConsumerId = u64;

/// What a subscription's owner chose, as far as leases care.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How messages are divided.
    pub(crate) mode: Mode,
    /// How long a lease lasts.
    pub(crate) ack_deadline: Duration,
    /// Messages leased, or waiting for their redelivery, at once.
    pub(crate) max_in_flight: usize,
    /// When a message is handed out again that failed.
    pub(crate) backoff: Backoff,
    /// A message is given up after so many attempts; 0 for no limit.
    pub(crate) max_attempts: u32,
}

/// The state of a subscription.
#[derive(Debug)]
pub(crate) struct Leases {
    rules: Rules,
    progress: Progress,
    /// What earlier lives of the process handed out.
    before: Attempts,
    /// The next message that was never handed out. Everything from the floor to here is settled,
    /// leased or waiting.
    cursor: Offset,
    leased: BTreeMap<Offset, Lease>,
    /// How many leases are nobody's.
    pulled: usize,
    waiting: BTreeMap<Offset, Waiting>,
    /// Messages given up, until that is on disk.
    given_up: BTreeMap<Offset, GivenUp>,
    /// Those of them that nobody has taken care of yet.
    unburied: VecDeque<Offset>,
    /// The waiting messages by the time they are due.
    due: BTreeSet<(Instant, Offset)>,
    /// No lease ends before it.
    next_deadline: Option<Instant>,
    consumers: BTreeMap<ConsumerId, Holder>,
    last_consumer: ConsumerId,
    last_delivery: u64,
    redelivered: u64,
    /// What happened to the messages lately. What happens here is noted here, the rest by the dispatcher.
    pub(crate) history: History,
}

#[derive(Debug)]
struct Lease {
    delivery: u64,
    attempt: u32,
    /// Nobody, if it was pulled.
    consumer: Option<ConsumerId>,
    deadline: Instant,
    bytes: u64,
}

#[derive(Debug)]
struct Waiting {
    /// The last delivery, whose late ack still counts; 0 if there was none since the start.
    delivery: u64,
    attempt: u32,
    due: Instant,
}

/// Why a message was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GivenUp {
    /// How often it was handed out.
    pub(crate) attempts: u32,
    /// What happened to its last delivery.
    pub(crate) reason: Arc<str>,
}

#[derive(Debug)]
struct Holder {
    credit: Credit,
    messages: u32,
    bytes: u64,
}

/// Which message a consumer with room should get next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// This one again.
    Again(Offset),
    /// The first that was never handed out.
    New,
    /// None for now.
    Nothing,
}

/// A message handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handed {
    /// The delivery's number.
    pub(crate) delivery: u64,
    /// 1 for the first.
    pub(crate) attempt: u32,
}

impl Leases {
    /// A subscription with this progress and nobody connected. Deliveries are numbered from
    /// `first_delivery` on; numbers of an earlier life of the process must not come again.
    pub(crate) fn new(rules: Rules, progress: Progress, before: Attempts, first_delivery: u64) -> Self {
        Self {
            rules,
            cursor: progress.floor() + 1,
            progress,
            before,
            leased: BTreeMap::new(),
            pulled: 0,
            waiting: BTreeMap::new(),
            given_up: BTreeMap::new(),
            unburied: VecDeque::new(),
            due: BTreeSet::new(),
            next_deadline: None,
            consumers: BTreeMap::new(),
            last_consumer: 0,
            last_delivery: first_delivery,
            redelivered: 0,
            history: History::default(),
        }
    }

    /// Replaces the rules. Leases keep their deadlines.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// What is settled.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How many messages are leased.
    pub(crate) fn leased(&self) -> usize {
        self.leased.len()
    }

    /// Deliveries beyond the first of a message.
    pub(crate) fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// How many consumers are connected.
    pub(crate) fn consumers(&self) -> usize {
        self.consumers.len()
    }

    /// How many messages are waiting and due, counted up to a batch.
    pub(crate) fn due(&self, now: Instant) -> usize {
        self.due.range(..=(now, Offset::MAX)).take(MAX_BATCH_MESSAGES).count()
    }

    /// A consumer connects.
    pub(crate) fn join(&mut self, credit: Credit) -> ConsumerId {
        self.last_consumer += 1;
        self.consumers.insert(self.last_consumer, Holder { credit, messages: 0, bytes: 0 });
        self.last_consumer
    }

    /// A consumer's credit changes.
    pub(crate) fn set_credit(&mut self, consumer: ConsumerId, credit: Credit) {
        if let Some(holder) = self.consumers.get_mut(&consumer) {
            holder.credit = credit;
        }
    }

    /// A consumer is gone: what it held is due at once.
    pub(crate) fn leave(&mut self, consumer: ConsumerId, now: Instant) {
        if self.consumers.remove(&consumer).is_none() {
            return;
        }
        let held = self.leased.iter().filter(|(_, lease)| lease.consumer == Some(consumer));
        for offset in held.map(|(&offset, _)| offset).collect::<Vec<_>>() {
            self.give_back(offset, now);
        }
    }

    /// A consumer is gone, but may still settle what it holds, until the deadlines.
    pub(crate) fn detach(&mut self, consumer: ConsumerId) {
        self.consumers.remove(&consumer);
        for lease in self.leased.values_mut().filter(|lease| lease.consumer == Some(consumer)) {
            lease.consumer = None;
            self.pulled += 1;
        }
    }

    /// How much a consumer may be handed now: messages, and bytes beyond which not even one more goes.
    /// `None` stands for a pull, which holds nothing.
    pub(crate) fn room(&self, consumer: Option<ConsumerId>) -> (usize, u64) {
        let Some(consumer) = consumer else {
            let held = self.rules.mode == Mode::Exclusive && !self.consumers.is_empty();
            return if held { (0, 0) } else { (usize::MAX, u64::MAX) };
        };
        let Some(holder) = self.consumers.get(&consumer) else { return (0, 0) };
        // Whoever pulled without a stream is served before any stream that came later.
        let is_oldest = self.consumers.first_key_value().is_some_and(|(&oldest, _)| oldest == consumer);
        let standby = self.rules.mode == Mode::Exclusive && (self.pulled > 0 || !is_oldest);
        if standby {
            return (0, 0);
        }
        let messages = holder.credit.messages.saturating_sub(holder.messages) as usize;
        (messages, holder.credit.bytes.saturating_sub(holder.bytes))
    }

    /// Whether a consumer holds nothing, so that one message of any size is allowed.
    pub(crate) fn holds_nothing(&self, consumer: Option<ConsumerId>) -> bool {
        consumer.is_none_or(|id| self.consumers.get(&id).is_some_and(|holder| holder.messages == 0))
    }

    /// Ends the leases whose deadline has passed. They may last up to a hundredth longer than their
    /// deadline, so that a sweep over them is rare.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let expired = self.leased.iter().filter(|(_, lease)| lease.deadline <= now);
        for offset in expired.map(|(&offset, _)| offset).collect::<Vec<_>>() {
            self.history.push(offset, offset, Happening::DeadlinePassed, now);
            self.take_back(offset, Retry::ByPolicy, || "its deadline passed".into(), now);
        }
        let earliest = self.leased.values().map(|lease| lease.deadline).min();
        self.next_deadline = earliest.map(|deadline| deadline.max(now + self.grain()));
    }

    /// When a lease may end, and with it the last attempt at a message.
    pub(crate) fn last_attempt_ends(&self) -> Option<Instant> {
        self.next_deadline.filter(|_| self.rules.max_attempts > 0)
    }

    /// When something ends or becomes due after `now`.
    pub(crate) fn wake_after(&self, now: Instant) -> Option<Instant> {
        let due = self.due.range((now, Offset::MAX)..).next().map(|&(due, _)| due);
        due.into_iter().chain(self.next_deadline).min()
    }

    /// Which message to hand out next. With `skip_again`, only new ones, as far as the order allows.
    pub(crate) fn next(&self, now: Instant, skip_again: bool) -> Next {
        let again = match self.rules.mode {
            Mode::Shared => self.due.first().copied(),
            // A message to be redelivered holds back those after it.
            Mode::Exclusive => self.waiting.first_key_value().map(|(&offset, waiting)| (waiting.due, offset)),
        };
        match again {
            Some((due, offset)) if due <= now && !skip_again => Next::Again(offset),
            Some(_) if self.rules.mode == Mode::Exclusive => Next::Nothing,
            _ if self.in_flight() >= self.rules.max_in_flight => Next::Nothing,
            _ => Next::New,
        }
    }

    /// The next message that was never handed out.
    pub(crate) fn cursor(&self) -> Offset {
        self.cursor
    }

    /// Whether a message is leased.
    #[cfg(test)]
    pub(crate) fn is_leased(&self, offset: Offset) -> bool {
        self.leased.contains_key(&offset)
    }

    /// Whether a message waits to be handed out again.
    pub(crate) fn is_waiting(&self, offset: Offset) -> bool {
        self.waiting.contains_key(&offset)
    }

    /// Whether a message was never handed out and is to be.
    pub(crate) fn is_new(&self, offset: Offset) -> bool {
        offset >= self.cursor
            && !self.progress.is_settled(offset)
            && !self.waiting.contains_key(&offset)
            && !self.leased.contains_key(&offset)
            && !self.given_up.contains_key(&offset)
    }

    fn in_flight(&self) -> usize {
        self.leased.len() + self.waiting.len() + self.given_up.len()
    }

    /// Whether a message that would be handed out has no attempts left: it failed before a restart, or
    /// the limit was lowered since.
    pub(crate) fn is_used_up(&self, offset: Offset) -> bool {
        let attempts = self.waiting.get(&offset).map_or_else(|| self.before.of(offset), |it| it.attempt);
        self.has_no_more(attempts)
    }

    fn has_no_more(&self, attempts: u32) -> bool {
        self.rules.max_attempts > 0 && attempts >= self.rules.max_attempts
    }

    /// Gives up a message that [`next`](Self::next) allowed, instead of handing it out.
    pub(crate) fn give_up_next(&mut self, offset: Offset) {
        let attempts = if let Some(waiting) = self.unwait(offset) {
            waiting.attempt
        } else {
            self.cursor = offset + 1;
            self.before.of(offset)
        };
        self.give_up(offset, attempts, "its attempts were used up before".into());
    }

    fn give_up(&mut self, offset: Offset, attempts: u32, reason: Arc<str>) {
        self.given_up.insert(offset, GivenUp { attempts, reason });
        self.unburied.push_back(offset);
    }

    /// A message that was given up, for somebody to take care of, who then settles it or says that it
    /// [failed](Self::unbury).
    pub(crate) fn next_given_up(&mut self) -> Option<(Offset, GivenUp)> {
        while let Some(offset) = self.unburied.pop_front() {
            if let Some(given_up) = self.given_up.get(&offset) {
                return Some((offset, given_up.clone()));
            }
        }
        None
    }

    /// Nobody could take care of a message that was given up.
    pub(crate) fn unbury(&mut self, offset: Offset) {
        self.unburied.push_back(offset);
    }

    /// Hands out a message that [`next`](Self::next) allowed.
    pub(crate) fn hand_out(
        &mut self,
        consumer: Option<ConsumerId>,
        offset: Offset,
        bytes: u64,
        now: Instant,
    ) -> Handed {
        let attempt = if let Some(waiting) = self.unwait(offset) {
            waiting.attempt + 1
        } else {
            // Only a new message moves the cursor: one that waits may be beyond it, nacked under an id
            // of an earlier life of the process.
            self.cursor = offset + 1;
            self.before.of(offset) + 1
        };
        self.redelivered += u64::from(attempt > 1);
        self.last_delivery = self.last_delivery.wrapping_add(1);
        let deadline = now + self.rules.ack_deadline;
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
        if let Some(holder) = consumer.and_then(|id| self.consumers.get_mut(&id)) {
            holder.messages += 1;
            holder.bytes += bytes;
        }
        self.lease(offset, Lease { delivery: self.last_delivery, attempt, consumer, deadline, bytes });
        Handed { delivery: self.last_delivery, attempt }
    }

    /// Whether a delivery of this subscription still counts.
    pub(crate) fn check(&self, offset: Offset, delivery: u64, attempt: u32) -> Result<(), Failure> {
        if self.progress.is_settled(offset) {
            return Err(Failure::AlreadySettled);
        }
        if self.given_up.contains_key(&offset) {
            return Err(Failure::Expired);
        }
        let current = match (self.leased.get(&offset), self.waiting.get(&offset)) {
            (Some(lease), _) => lease.delivery,
            (None, Some(waiting)) => waiting.delivery,
            // Handed out before the process started, and not since: the last of those counts, of which the
            // note may be lost.
            (None, None) if attempt >= self.before.of(offset) => return Ok(()),
            (None, None) => return Err(Failure::Expired),
        };
        if current == delivery { Ok(()) } else { Err(Failure::Expired) }
    }

    /// Settles the messages from `first` to `last`.
    pub(crate) fn settle(&mut self, first: Offset, last: Offset) {
        if first == last {
            self.forget(first);
        } else {
            let leased = self.leased.range(first..=last).map(|(&offset, _)| offset);
            let waiting = self.waiting.range(first..=last).map(|(&offset, _)| offset);
            let given_up = self.given_up.range(first..=last).map(|(&offset, _)| offset);
            for offset in leased.chain(waiting).chain(given_up).collect::<Vec<_>>() {
                self.forget(offset);
            }
        }
        self.progress.settle(first, last);
        self.before.forget(first, last);
        self.cursor = self.cursor.max(self.progress.floor() + 1);
    }

    /// Moves the subscription: whoever held something holds nothing any more.
    pub(crate) fn seek(&mut self, progress: Progress) {
        self.cursor = progress.floor() + 1;
        self.before = Attempts::new(progress.floor());
        self.progress = progress;
        self.leased.clear();
        self.pulled = 0;
        self.waiting.clear();
        self.given_up.clear();
        self.unburied.clear();
        self.due.clear();
        self.next_deadline = None;
        for holder in self.consumers.values_mut() {
            (holder.messages, holder.bytes) = (0, 0);
        }
    }

    /// A delivery failed: its message is handed out again, or given up.
    pub(crate) fn nack(
        &mut self,
        offset: Offset,
        delivery: u64,
        retry: Retry,
        reason: &Arc<str>,
        now: Instant,
    ) {
        self.history.push(offset, offset, Happening::Nacked { reason: Arc::clone(reason) }, now);
        let reason = || if reason.is_empty() { "its consumer failed".into() } else { Arc::clone(reason) };
        if self.leased.contains_key(&offset) {
            self.take_back(offset, retry, reason, now);
        } else {
            let attempt = self.unwait(offset).map_or(self.before.of(offset), |waiting| waiting.attempt);
            self.put_back(offset, (delivery, attempt), retry, reason, now);
        }
    }

    /// A message was handed out to somebody who never got it: as if it had not been.
    pub(crate) fn take_back_unseen(&mut self, offset: Offset, now: Instant) {
        if let Some(Lease { delivery, attempt, .. }) = self.unlease(offset) {
            self.wait(offset, Waiting { delivery, attempt: attempt - 1, due: now });
        }
    }

    /// A message was handed out to somebody who is gone: it is due at once.
    fn give_back(&mut self, offset: Offset, now: Instant) {
        self.history.push(offset, offset, Happening::ConsumerLeft, now);
        self.take_back(offset, Retry::After(Duration::ZERO), || "its consumer left".into(), now);
    }

    /// Moves a lease's deadline. A lease that has ended begins anew if its message was not handed out
    /// since; it is then nobody's, like a pulled one, for its consumer may have left.
    pub(crate) fn extend(&mut self, offset: Offset, delivery: u64, deadline: Instant) {
        if let Some(lease) = self.leased.get_mut(&offset) {
            lease.deadline = deadline;
        } else {
            let attempt = self.unwait(offset).map_or(self.before.of(offset), |waiting| waiting.attempt);
            self.lease(offset, Lease { delivery, attempt, consumer: None, deadline, bytes: 0 });
        }
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
    }

    /// How long a lease lasts unless told otherwise.
    pub(crate) fn ack_deadline(&self) -> Duration {
        self.rules.ack_deadline
    }

    /// The least time between two sweeps over the leases.
    fn grain(&self) -> Duration {
        (self.rules.ack_deadline / 100).clamp(Duration::from_millis(1), Duration::from_secs(1))
    }

    /// Ends a lease without settling its message.
    fn take_back(&mut self, offset: Offset, retry: Retry, reason: impl FnOnce() -> Arc<str>, now: Instant) {
        if let Some(lease) = self.unlease(offset) {
            self.put_back(offset, (lease.delivery, lease.attempt), retry, reason, now);
        }
    }

    /// Has a message wait for its next attempt, or gives it up.
    fn put_back(
        &mut self,
        offset: Offset,
        (delivery, attempt): (u64, u32),
        retry: Retry,
        reason: impl FnOnce() -> Arc<str>,
        now: Instant,
    ) {
        if retry == Retry::Never || self.has_no_more(attempt) {
            return self.give_up(offset, attempt, reason());
        }
        let delay = match retry {
            Retry::After(delay) => delay,
            Retry::ByPolicy | Retry::Never => self.rules.backoff.after(attempt, delivery),
        };
        self.wait(offset, Waiting { delivery, attempt, due: now + delay });
    }

    fn wait(&mut self, offset: Offset, waiting: Waiting) {
        self.due.insert((waiting.due, offset));
        self.waiting.insert(offset, waiting);
    }

    fn unwait(&mut self, offset: Offset) -> Option<Waiting> {
        let waiting = self.waiting.remove(&offset)?;
        self.due.remove(&(waiting.due, offset));
        Some(waiting)
    }

    fn lease(&mut self, offset: Offset, lease: Lease) {
        self.pulled += usize::from(lease.consumer.is_none());
        self.leased.insert(offset, lease);
    }

    fn unlease(&mut self, offset: Offset) -> Option<Lease> {
        let lease = self.leased.remove(&offset)?;
        self.pulled -= usize::from(lease.consumer.is_none());
        if let Some(holder) = lease.consumer.and_then(|id| self.consumers.get_mut(&id)) {
            holder.messages -= 1;
            holder.bytes -= lease.bytes;
        }
        Some(lease)
    }

    fn forget(&mut self, offset: Offset) {
        if self.unlease(offset).is_none() && self.unwait(offset).is_none() {
            self.given_up.remove(&offset);
        }
    }
}
