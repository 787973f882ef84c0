//! The state machine of one subscription: what is settled, who holds what, what is due again.
//!
//! A plain struct: no I/O, no clock, no lock. Every call that depends on time takes `now`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::embedded::attempts::Attempts;
use crate::embedded::progress::Progress;
use crate::engine::{Credit, Failure};
use crate::model::limits::MAX_BATCH_MESSAGES;
use crate::model::{Mode, Offset};

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
    waiting: BTreeMap<Offset, Waiting>,
    /// The waiting messages by the time they are due.
    due: BTreeSet<(Instant, Offset)>,
    /// No lease ends before it.
    next_deadline: Option<Instant>,
    consumers: BTreeMap<ConsumerId, Holder>,
    last_consumer: ConsumerId,
    last_delivery: u64,
    redelivered: u64,
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
            waiting: BTreeMap::new(),
            due: BTreeSet::new(),
            next_deadline: None,
            consumers: BTreeMap::new(),
            last_consumer: 0,
            last_delivery: first_delivery,
            redelivered: 0,
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
            self.take_back(offset, now);
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
        let standby = self.rules.mode == Mode::Exclusive
            && self.consumers.first_key_value().is_some_and(|(&oldest, _)| oldest != consumer);
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
            self.take_back(offset, now);
        }
        let earliest = self.leased.values().map(|lease| lease.deadline).min();
        self.next_deadline = earliest.map(|deadline| deadline.max(now + self.grain()));
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
            _ if self.leased.len() + self.waiting.len() >= self.rules.max_in_flight => Next::Nothing,
            _ => Next::New,
        }
    }

    /// The next message that was never handed out.
    pub(crate) fn cursor(&self) -> Offset {
        self.cursor
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
        let lease = Lease { delivery: self.last_delivery, attempt, consumer, deadline, bytes };
        self.leased.insert(offset, lease);
        Handed { delivery: self.last_delivery, attempt }
    }

    /// Whether a delivery of this subscription still counts.
    pub(crate) fn check(&self, offset: Offset, delivery: u64) -> Result<(), Failure> {
        if self.progress.is_settled(offset) {
            return Err(Failure::AlreadySettled);
        }
        let current = match (self.leased.get(&offset), self.waiting.get(&offset)) {
            (Some(lease), _) => lease.delivery,
            (None, Some(waiting)) => waiting.delivery,
            // Handed out before the process started, and not since.
            (None, None) => return Ok(()),
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
            for offset in leased.chain(waiting).collect::<Vec<_>>() {
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
        self.waiting.clear();
        self.due.clear();
        self.next_deadline = None;
        for holder in self.consumers.values_mut() {
            (holder.messages, holder.bytes) = (0, 0);
        }
    }

    /// Gives a delivery back, to be handed out again from `due` on.
    pub(crate) fn nack(&mut self, offset: Offset, delivery: u64, due: Instant) {
        if self.leased.contains_key(&offset) {
            self.take_back(offset, due);
        } else {
            let attempt = self.unwait(offset).map_or(self.before.of(offset), |waiting| waiting.attempt);
            self.wait(offset, Waiting { delivery, attempt, due });
        }
    }

    /// Moves a lease's deadline. A lease that has ended begins anew if its message was not handed out
    /// since; it is then nobody's, like a pulled one, for its consumer may have left.
    pub(crate) fn extend(&mut self, offset: Offset, delivery: u64, deadline: Instant) {
        if let Some(lease) = self.leased.get_mut(&offset) {
            lease.deadline = deadline;
        } else {
            let attempt = self.unwait(offset).map_or(self.before.of(offset), |waiting| waiting.attempt);
            let lease = Lease { delivery, attempt, consumer: None, deadline, bytes: 0 };
            self.leased.insert(offset, lease);
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
    fn take_back(&mut self, offset: Offset, due: Instant) {
        if let Some(lease) = self.unlease(offset) {
            self.wait(offset, Waiting { delivery: lease.delivery, attempt: lease.attempt, due });
        }
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

    fn unlease(&mut self, offset: Offset) -> Option<Lease> {
        let lease = self.leased.remove(&offset)?;
        if let Some(holder) = lease.consumer.and_then(|id| self.consumers.get_mut(&id)) {
            holder.messages -= 1;
            holder.bytes -= lease.bytes;
        }
        Some(lease)
    }

    fn forget(&mut self, offset: Offset) {
        if self.unlease(offset).is_none() {
            self.unwait(offset);
        }
    }
}
