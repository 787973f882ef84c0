//! The state machine of one subscription: what is settled, who holds what, what is due again.
//!
//! A plain struct: no I/O, no clock, no lock. Every call that depends on time takes `now`; what the wall
//! clock says comes with [`Leases::expire`]. [`handing`] is the way of a message to whoever gets it,
//! [`lines`] the order of the messages of each key, [`schedule`] what waits for its time, [`reserve`] what a
//! commit has taken.

mod handing;
mod lines;
mod reserve;
mod schedule;

mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::lines::{Kept, Lines};
use self::reserve::Reserved;
use self::schedule::Schedule;
use super::history::History;
use crate::embedded::attempts::Attempts;
use crate::embedded::progress::Progress;
use crate::engine::{Credit, Failure, Retry};
use crate::model::limits::{MAX_PARKED, MAX_SCHEDULED, MIN_PARKED_PER_TOPIC, MIN_SCHEDULED_PER_TOPIC};
use crate::model::{Backoff, Happening, Mode, Offset, Timestamp};

pub(crate) use self::handing::{About, Next};
pub(crate) use self::lines::Key;
pub(crate) use self::view::Place;

/// A consumer's number, rising in the order of joining.
pub(crate) type ConsumerId = u64;

/// Whoever takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A consumer with a stream.
    Consumer(ConsumerId),
    /// One pull, by its number; what it takes is held by nobody.
    Pull(u64),
}

impl Who {
    /// No pull has this number.
    const NOBODY: Self = Self::Pull(0);

    pub(crate) fn consumer(self) -> Option<ConsumerId> {
        match self {
            Self::Consumer(consumer) => Some(consumer),
            Self::Pull(_) => None,
        }
    }
}

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

/// What a subscription has to do with other topics, which counts toward the same limits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Elsewhere {
    /// What whoever is served holds of them.
    pub(crate) messages: u32,
    /// The bytes of those.
    pub(crate) bytes: u64,
    /// What counts as in flight.
    pub(crate) in_flight: usize,
    /// How many leases are nobody's.
    pub(crate) pulled: usize,
}

/// How many messages of one topic may wait outside of `max_in_flight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MayWait {
    /// For their key.
    pub(crate) parked: usize,
    /// For their time.
    pub(crate) scheduled: usize,
}

impl MayWait {
    /// The share of one of so many topics: where its messages wait, those of the others do not.
    pub(crate) fn of(topics: usize) -> Self {
        let share = |all: usize, least: usize| (all / topics.max(1)).max(least);
        Self {
            parked: share(MAX_PARKED, MIN_PARKED_PER_TOPIC),
            scheduled: share(MAX_SCHEDULED, MIN_SCHEDULED_PER_TOPIC),
        }
    }
}

/// The state of a subscription in one topic.
#[derive(Debug)]
pub(crate) struct Leases {
    rules: Rules,
    progress: Progress,
    /// What earlier lives of the process handed out.
    before: Attempts,
    /// The next message that was never looked at. Everything from the floor to here is settled, leased,
    /// waiting or scheduled.
    cursor: Offset,
    leased: BTreeMap<Offset, Lease>,
    /// How many leases are nobody's.
    pulled: usize,
    waiting: BTreeMap<Offset, Waiting>,
    /// Those of them that were never handed out: their key is with somebody else.
    parked: BTreeSet<Offset>,
    /// The order of keys, where it counts.
    lines: Lines,
    /// Messages that were never handed out, because their time has not come.
    schedule: Schedule,
    /// The waiting messages that expire, by when they do.
    expiring: BTreeSet<(Timestamp, Offset)>,
    /// Messages that were settled because they expired, and the log does not know yet.
    expired: Vec<Offset>,
    /// What the wall clock said last.
    wall: Timestamp,
    /// Messages given up, until that is on disk.
    given_up: BTreeMap<Offset, GivenUp>,
    /// Those of them that nobody has taken care of yet.
    unburied: VecDeque<Offset>,
    /// Messages whose settlement is part of a commit on its way.
    reserved: BTreeMap<Offset, Reserved>,
    /// The waiting messages by the time they are due.
    due: BTreeSet<(Instant, Offset)>,
    /// No lease ends before it.
    next_deadline: Option<Instant>,
    consumers: BTreeMap<ConsumerId, Holder>,
    #[cfg(test)]
    last_consumer: ConsumerId,
    #[cfg(test)]
    last_pull: u64,
    last_delivery: u64,
    redelivered: u64,
    /// What else there is of the subscription.
    elsewhere: Elsewhere,
    may_wait: MayWait,
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
    /// Not delivered any more from then on.
    expires: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// The last delivery, whose late ack still counts; 0 if there was none since the start.
    delivery: u64,
    attempt: u32,
    /// The last delivery was taken back, and is no attempt unless its id is used all the same.
    taken_back: bool,
    due: Instant,
    /// Not delivered any more from then on.
    expires: Timestamp,
}

/// The time of what never expires.
const NEVER: Timestamp = Timestamp(u64::MAX);

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
            parked: BTreeSet::new(),
            lines: Lines::default(),
            schedule: Schedule::default(),
            expiring: BTreeSet::new(),
            expired: Vec::new(),
            wall: Timestamp(0),
            given_up: BTreeMap::new(),
            unburied: VecDeque::new(),
            reserved: BTreeMap::new(),
            due: BTreeSet::new(),
            next_deadline: None,
            consumers: BTreeMap::new(),
            #[cfg(test)]
            last_consumer: 0,
            #[cfg(test)]
            last_pull: 0,
            last_delivery: first_delivery,
            redelivered: 0,
            elsewhere: Elsewhere::default(),
            may_wait: MayWait::of(1),
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

    /// How many messages wait for the time they are to be delivered, as far as they were looked at.
    pub(crate) fn scheduled(&self) -> usize {
        self.schedule.len()
    }

    /// What else there is of the subscription, as far as it counts for whoever is served next.
    pub(crate) fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        self.elsewhere = elsewhere;
    }

    /// How many messages may wait here.
    pub(crate) fn set_may_wait(&mut self, may_wait: MayWait) {
        self.may_wait = may_wait;
    }

    /// What of all this counts in other topics, but for what somebody holds.
    pub(crate) fn here(&self) -> Elsewhere {
        Elsewhere { messages: 0, bytes: 0, in_flight: self.in_flight(), pulled: self.pulled }
    }

    /// A consumer connects, under a number higher than those before.
    pub(crate) fn join_as(&mut self, consumer: ConsumerId, credit: Credit) {
        self.consumers.insert(consumer, Holder { credit, messages: 0, bytes: 0 });
    }

    /// A consumer connects, under the next number.
    #[cfg(test)]
    pub(crate) fn join(&mut self, credit: Credit) -> ConsumerId {
        self.last_consumer += 1;
        self.join_as(self.last_consumer, credit);
        self.last_consumer
    }

    /// Somebody pulls. What one pull takes is apart from what another takes.
    #[cfg(test)]
    pub(crate) fn pull(&mut self) -> Who {
        self.last_pull += 1;
        Who::Pull(self.last_pull)
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
    /// A pull holds nothing.
    pub(crate) fn room(&self, who: Who) -> (usize, u64) {
        let Who::Consumer(consumer) = who else {
            return if self.is_held() { (0, 0) } else { (usize::MAX, u64::MAX) };
        };
        let Some(holder) = self.consumers.get(&consumer) else { return (0, 0) };
        // Whoever pulled without a stream is served before any stream that came later.
        let is_oldest = self.consumers.first_key_value().is_some_and(|(&oldest, _)| oldest == consumer);
        let pulled = self.pulled + self.elsewhere.pulled;
        let standby = self.rules.mode == Mode::Exclusive && (pulled > 0 || !is_oldest);
        if standby {
            return (0, 0);
        }
        let (messages, bytes) =
            (holder.messages + self.elsewhere.messages, holder.bytes + self.elsewhere.bytes);
        let left = holder.credit.messages.saturating_sub(messages) as usize;
        (left, holder.credit.bytes.saturating_sub(bytes))
    }

    /// Whether a stream keeps everybody else away, so that nobody can pull.
    pub(crate) fn is_held(&self) -> bool {
        self.rules.mode == Mode::Exclusive && !self.consumers.is_empty()
    }

    /// Whether a consumer holds nothing, so that one message of any size is allowed.
    pub(crate) fn holds_nothing(&self, who: Who) -> bool {
        let holder = |id| self.consumers.get(&id);
        let elsewhere = self.elsewhere.messages;
        who.consumer().is_none_or(|id| holder(id).is_some_and(|holder| holder.messages + elsewhere == 0))
    }

    /// Time has passed; `wall` is what the wall clock says now. Messages that wait and have expired count
    /// as settled. Leases whose deadline has passed end, and how many did is returned; they may last up to a
    /// hundredth longer than their deadline, so that a sweep over them is rare.
    pub(crate) fn expire(&mut self, now: Instant, wall: Timestamp) -> u64 {
        self.wall = wall;
        while let Some(&(_, offset)) = self.expiring.first().filter(|(expires, _)| *expires <= wall) {
            self.drop_expired(offset);
        }
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return 0;
        }
        let expired = self.leased.iter().filter(|(_, lease)| lease.deadline <= now);
        let expired: Vec<_> = expired.map(|(&offset, _)| offset).collect();
        let count = expired.len() as u64;
        for offset in expired {
            self.history.push(offset, offset, Happening::DeadlinePassed, now);
            self.take_back(offset, Retry::ByPolicy, || "its deadline passed".into(), now);
        }
        let earliest = self.leased.values().map(|lease| lease.deadline).min();
        self.next_deadline = earliest.map(|deadline| deadline.max(now + self.grain()));
        count
    }

    /// When a lease may end, and with it the last attempt at a message.
    pub(crate) fn last_attempt_ends(&self) -> Option<Instant> {
        self.next_deadline.filter(|_| self.rules.max_attempts > 0)
    }

    /// Takes the messages that were settled because they expired, for the log to remember.
    pub(crate) fn take_expired(&mut self) -> Vec<Offset> {
        std::mem::take(&mut self.expired)
    }

    fn drop_expired(&mut self, offset: Offset) {
        self.settle(offset, offset);
        self.expired.push(offset);
    }

    fn has_no_more(&self, attempts: u32) -> bool {
        self.rules.max_attempts > 0 && attempts >= self.rules.max_attempts
    }

    fn give_up(&mut self, offset: Offset, attempts: u32, reason: Arc<str>) {
        self.given_up.insert(offset, GivenUp { attempts, reason });
        self.unburied.push_back(offset);
        self.lines.keep(offset, Kept::GivenUp);
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

    /// Whether a delivery of this subscription still counts. One that has ended does not while an earlier
    /// message of its key is unsettled: it would be settled before that.
    pub(crate) fn check(&self, offset: Offset, delivery: u64, attempt: u32) -> Result<(), Failure> {
        if self.progress.is_settled(offset) {
            return Err(Failure::AlreadySettled);
        }
        if self.given_up.contains_key(&offset) || self.reserved.contains_key(&offset) {
            return Err(Failure::Expired);
        }
        let counts = match (self.leased.get(&offset), self.ended(offset)) {
            (Some(lease), _) => lease.delivery == delivery,
            (None, Some(waiting)) => waiting.delivery == delivery && self.lines.is_first(offset),
            // Handed out before the process started, and not since: the last of those counts, of which the
            // note may be lost.
            (None, None) => attempt >= self.before.of(offset),
        };
        if counts { Ok(()) } else { Err(Failure::Expired) }
    }

    /// Whether a delivery that counts can fail, or have more time. One made before the process started
    /// cannot where keys count: until its message is read again, nobody knows what it would hold up.
    pub(crate) fn check_lease(&self, offset: Offset) -> Result<(), Failure> {
        let known = self.leased.contains_key(&offset) || self.ended(offset).is_some();
        if known || self.rules.mode != Mode::KeyOrdered { Ok(()) } else { Err(Failure::Expired) }
    }

    /// A message that was handed out since the start, or whose id was used, and is not leased.
    fn ended(&self, offset: Offset) -> Option<&Waiting> {
        self.waiting.get(&offset).filter(|_| !self.parked.contains(&offset))
    }

    /// Settles the messages from `first` to `last`.
    pub(crate) fn settle(&mut self, first: Offset, last: Offset) {
        if first == last {
            self.forget(first);
        } else {
            let leased = self.leased.range(first..=last).map(|(&offset, _)| offset);
            let waiting = self.waiting.range(first..=last).map(|(&offset, _)| offset);
            let given_up = self.given_up.range(first..=last).map(|(&offset, _)| offset);
            let reserved = self.reserved.range(first..=last).map(|(&offset, _)| offset);
            let scheduled = self.schedule.range(first, last);
            let kept = given_up.chain(reserved).chain(scheduled);
            for offset in leased.chain(waiting).chain(kept).collect::<Vec<_>>() {
                self.forget(offset);
            }
        }
        self.progress.settle(first, last);
        self.before.forget(first, last);
        self.cursor = self.progress.next_unsettled(self.cursor);
    }

    /// Moves the subscription: whoever held something holds nothing any more.
    pub(crate) fn seek(&mut self, progress: Progress) {
        self.cursor = progress.floor() + 1;
        self.before = Attempts::new(progress.floor());
        self.progress = progress;
        self.leased.clear();
        self.pulled = 0;
        self.waiting.clear();
        self.parked.clear();
        self.lines.clear();
        self.schedule.clear();
        self.expiring.clear();
        self.expired.clear();
        self.given_up.clear();
        self.unburied.clear();
        self.reserved.clear();
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
            let ended = self.take_ended(offset, delivery, now);
            self.put_back(offset, ended, retry, reason, now);
        }
    }

    /// A message was handed out to somebody who never got it: as if it had not been. Nor were the later
    /// ones of its key.
    pub(crate) fn take_back_unseen(&mut self, offset: Offset, now: Instant) {
        if self.take_back_uncounted(offset, now) {
            self.revoke_after(offset, now);
        }
    }

    /// A message is not settled: the leases of the later ones of its key end, which do not fail by it.
    fn revoke_after(&mut self, offset: Offset, now: Instant) {
        for later in self.lines.out_after(offset) {
            self.take_back_uncounted(later, now);
        }
    }

    /// Ends a lease as if it had not been; says whether there was one.
    fn take_back_uncounted(&mut self, offset: Offset, now: Instant) -> bool {
        let Some(Lease { delivery, attempt, expires, .. }) = self.unlease(offset) else { return false };
        let attempt = attempt - 1;
        self.wait(offset, Waiting { delivery, attempt, taken_back: true, due: now, expires });
        true
    }

    /// Takes a message whose delivery has ended from where it waits.
    fn take_ended(&mut self, offset: Offset, delivery: u64, now: Instant) -> Waiting {
        self.schedule.remove(offset);
        let attempt = self.before.of(offset);
        let unread = Waiting { delivery, attempt, taken_back: false, due: now, expires: NEVER };
        let waiting = self.unwait(offset).unwrap_or(unread);
        let attempt = waiting.attempt + u32::from(waiting.taken_back);
        Waiting { attempt, taken_back: false, ..waiting }
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
            let Waiting { attempt, expires, .. } = self.take_ended(offset, delivery, deadline);
            self.lease(offset, Lease { delivery, attempt, consumer: None, deadline, bytes: 0, expires });
            self.lines.hand(offset, Who::NOBODY, attempt > 1);
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
        if let Some(Lease { delivery, attempt, expires, .. }) = self.unlease(offset) {
            let ended = Waiting { delivery, attempt, taken_back: false, due: now, expires };
            self.put_back(offset, ended, retry, reason, now);
        }
    }

    /// Has a message wait for its next attempt, or gives it up, or settles it if it has expired.
    fn put_back(
        &mut self,
        offset: Offset,
        ended: Waiting,
        retry: Retry,
        reason: impl FnOnce() -> Arc<str>,
        now: Instant,
    ) {
        let Waiting { delivery, attempt, expires, .. } = ended;
        if expires <= self.wall {
            return self.drop_expired(offset);
        }
        if retry == Retry::Never || self.has_no_more(attempt) {
            self.give_up(offset, attempt, reason());
        } else {
            let delay = match retry {
                Retry::After(delay) => delay,
                Retry::ByPolicy | Retry::Never => self.rules.backoff.after(attempt, delivery),
            };
            self.wait(offset, Waiting { due: now + delay, ..ended });
        }
        self.revoke_after(offset, now);
    }

    fn wait(&mut self, offset: Offset, waiting: Waiting) {
        self.due.insert((waiting.due, offset));
        if waiting.expires != NEVER {
            self.expiring.insert((waiting.expires, offset));
        }
        self.lines.keep(offset, Kept::Waiting(waiting.due));
        self.waiting.insert(offset, waiting);
    }

    fn unwait(&mut self, offset: Offset) -> Option<Waiting> {
        let waiting = self.waiting.remove(&offset)?;
        self.due.remove(&(waiting.due, offset));
        self.expiring.remove(&(waiting.expires, offset));
        self.parked.remove(&offset);
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
            self.reserved.remove(&offset);
            self.schedule.remove(offset);
        }
        self.lines.remove(offset);
    }
}
