//! The way of a message to whoever gets it: which comes next, and what becomes of it then.

use std::time::{Duration, Instant};

use super::lines::{Kept, Key};
use super::{Lease, Leases, NEVER, Waiting, Who};
use crate::model::limits::MAX_BATCH_MESSAGES;
use crate::model::{Mode, Offset, Timestamp};

/// How often to look at the wall clock, which may jump, while something depends on it.
const WALL_CLOCK: Duration = Duration::from_secs(1);

/// Which message somebody with room should get next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// This one, which was looked at before.
    Again(Offset),
    /// The first that was never looked at.
    New,
    /// None for now.
    Nothing,
}

/// What counts of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct About {
    /// Only asked for where keys are ordered.
    pub(crate) key: Key,
    /// Not delivered before.
    pub(crate) deliver: Timestamp,
    /// Not delivered from then on.
    pub(crate) expires: Timestamp,
}

impl About {
    /// A message with this key, and with these times, if any.
    pub(crate) fn new(key: Key, deliver: Option<Timestamp>, expires: Option<Timestamp>) -> Self {
        Self { key, deliver: deliver.unwrap_or_default(), expires: expires.unwrap_or(NEVER) }
    }
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
    /// Whether the order of keys counts.
    pub(crate) fn orders_keys(&self) -> bool {
        self.rules.mode == Mode::KeyOrdered
    }

    /// When something ends or becomes due after `now`.
    pub(crate) fn wake_after(&self, now: Instant) -> Option<Instant> {
        let due = self.due.range((now, Offset::MAX)..).next().map(|&(due, _)| due);
        let scheduled = self.schedule.next_after(self.wall).map(|time| self.until(time, now));
        due.into_iter().chain(scheduled).chain(self.next_deadline).min()
    }

    /// When something that waits expires, whoever may want it.
    pub(crate) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        self.expiring.first().map(|&(time, _)| self.until(time, now))
    }

    /// When to look whether the wall clock has come to a time after the present.
    fn until(&self, time: Timestamp, now: Instant) -> Instant {
        now + Duration::from_micros(time.0.saturating_sub(self.wall.0)).min(WALL_CLOCK)
    }

    /// Whether there is a message at hand that was looked at before.
    pub(crate) fn has_due(&self, now: Instant) -> bool {
        let due = match self.rules.mode {
            Mode::KeyOrdered => self.lines.has_due(now),
            Mode::Shared | Mode::Exclusive => self.due.first().is_some_and(|&(due, _)| due <= now),
        };
        due || self.schedule.due(self.wall).next().is_some()
    }

    /// How many messages are at hand that were looked at before, counted up to a batch; where keys are
    /// ordered, some of them may not be for everybody.
    pub(crate) fn due(&self, now: Instant) -> usize {
        let due = match self.rules.mode {
            Mode::KeyOrdered => self.waiting.len(),
            Mode::Shared | Mode::Exclusive => {
                self.due.range(..=(now, Offset::MAX)).take(MAX_BATCH_MESSAGES).count()
            }
        };
        let scheduled = self.schedule.due(self.wall).take(MAX_BATCH_MESSAGES).count();
        (due + scheduled).min(MAX_BATCH_MESSAGES)
    }

    /// Which message to hand out next. With `skip_again`, only new ones, as far as the order allows.
    pub(crate) fn next(&self, who: Who, now: Instant, skip_again: bool) -> Next {
        if self.reserved_holds_back() {
            return Next::Nothing;
        }
        let again = match self.rules.mode {
            Mode::Shared => self.due.first().copied(),
            // A message to be redelivered holds back those after it.
            Mode::Exclusive => self.waiting.first_key_value().map(|(&offset, waiting)| (waiting.due, offset)),
            Mode::KeyOrdered => self.lines.due(who),
        };
        match again {
            Some((due, offset)) if due <= now && !skip_again => return Next::Again(offset),
            Some(_) if self.rules.mode == Mode::Exclusive => return Next::Nothing,
            _ if self.in_flight() + self.elsewhere.in_flight >= self.rules.max_in_flight => {
                return Next::Nothing;
            }
            _ => {}
        }
        let may_park = self.may_park();
        let scheduled = || self.schedule.due(self.wall).next().filter(|_| may_park);
        match self.lines.parked(who).or_else(scheduled).filter(|_| !skip_again) {
            Some(offset) => Next::Again(offset),
            None if may_park && self.may_schedule() => Next::New,
            None => Next::Nothing,
        }
    }

    fn may_park(&self) -> bool {
        self.parked.len() < self.may_wait.parked
    }

    fn may_schedule(&self) -> bool {
        self.schedule.len() < self.may_wait.scheduled
    }

    /// Whether the first message that was never looked at would be next before long, as far as others of its
    /// topic go.
    pub(crate) fn admits_new(&self) -> bool {
        let is_behind = self.rules.mode == Mode::Exclusive && !self.waiting.is_empty();
        self.may_park() && self.may_schedule() && !is_behind
    }

    /// Which attempt the next handing-out of a message would be; 1 for the first.
    pub(crate) fn next_attempt(&self, offset: Offset) -> u32 {
        self.waiting.get(&offset).map_or_else(|| self.before.of(offset), |it| it.attempt) + 1
    }

    /// Looks at a message that [`next`](Self::next) named. Says whether to hand it out; if not, it has
    /// expired, is given up, waits for its time or for its key, and something else is next.
    pub(crate) fn meet(&mut self, who: Who, offset: Offset, about: &About, now: Instant) -> bool {
        let waiting = self.waiting.get(&offset).copied();
        let attempts = waiting.map_or_else(|| self.before.of(offset), |it| it.attempt);
        let is_first_time = waiting.is_none() || self.parked.contains(&offset);
        if about.expires <= self.wall {
            self.pass(offset);
            self.drop_expired(offset);
        } else if self.has_no_more(attempts) {
            // It failed before a restart, or the limit was lowered since.
            self.leave_wait(offset, about);
            self.give_up(offset, attempts, "its attempts were used up before".into());
        } else if is_first_time && about.deliver > self.wall {
            self.unwait(offset);
            self.lines.remove(offset);
            self.pass(offset);
            self.schedule.insert(offset, about.deliver);
        } else if waiting.is_none() && self.orders_keys() && !self.lines.admits(about.key, who) {
            self.leave_wait(offset, about);
            let parked =
                Waiting { delivery: 0, attempt: attempts, taken_back: false, due: now, expires: NEVER };
            self.due.insert((now, offset));
            self.waiting.insert(offset, parked);
            self.parked.insert(offset);
            self.lines.keep(offset, Kept::Parked);
        } else {
            return true;
        }
        false
    }

    /// Hands out a message that [`meet`](Self::meet) let through.
    pub(crate) fn hand_out(
        &mut self,
        who: Who,
        offset: Offset,
        bytes: u64,
        about: &About,
        now: Instant,
    ) -> Handed {
        let before = self.leave_wait(offset, about);
        let attempt = before.map_or_else(|| self.before.of(offset), |waiting| waiting.attempt) + 1;
        self.redelivered += u64::from(attempt > 1);
        self.last_delivery = self.last_delivery.wrapping_add(1);
        let deadline = now + self.rules.ack_deadline;
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
        let consumer = who.consumer();
        if let Some(holder) = consumer.and_then(|id| self.consumers.get_mut(&id)) {
            holder.messages += 1;
            holder.bytes += bytes;
        }
        let (delivery, expires) = (self.last_delivery, about.expires);
        self.lease(offset, Lease { delivery, attempt, consumer, deadline, bytes, expires });
        self.lines.hand(offset, who, attempt > 1);
        Handed { delivery, attempt }
    }

    /// A message goes from where it waits, or from among the new ones, to its line.
    fn leave_wait(&mut self, offset: Offset, about: &About) -> Option<Waiting> {
        let waiting = self.unwait(offset);
        if waiting.is_none() {
            self.schedule.remove(offset);
            self.pass(offset);
            if self.orders_keys() {
                self.lines.enter(offset, about.key);
            }
        }
        waiting
    }

    /// Only a message that was never looked at moves the cursor: one that waits may be beyond it, nacked
    /// under an id of an earlier life of the process.
    fn pass(&mut self, offset: Offset) {
        if self.is_new(offset) {
            self.cursor = offset + 1;
        }
    }

    /// Everything up to here was handed out, or settled without.
    pub(crate) fn handed(&self) -> Offset {
        let parked = self.parked.first().copied();
        parked.into_iter().chain(self.schedule.lowest()).fold(self.cursor, Offset::min) - 1
    }

    /// The first message that was never looked at and is to be.
    pub(crate) fn first_new(&self) -> Offset {
        self.first_new_from(self.cursor)
    }

    /// The first message from this one on that was never looked at and is to be.
    pub(crate) fn first_new_from(&self, offset: Offset) -> Offset {
        let mut offset = self.progress.next_unsettled(offset);
        while !self.is_new(offset) {
            offset = self.progress.next_unsettled(offset + 1);
        }
        offset
    }

    /// Whether a message was never looked at and is to be.
    pub(crate) fn is_new(&self, offset: Offset) -> bool {
        offset >= self.cursor
            && !self.progress.is_settled(offset)
            && !self.waiting.contains_key(&offset)
            && !self.leased.contains_key(&offset)
            && !self.given_up.contains_key(&offset)
            && !self.reserved.contains_key(&offset)
    }

    /// Whether a message was looked at, and will be named again by [`next`](Self::next) before long.
    pub(crate) fn is_waiting(&self, offset: Offset) -> bool {
        self.waiting.contains_key(&offset) || self.schedule.time(offset).is_some_and(|time| time <= self.wall)
    }

    /// Whether a message is leased.
    #[cfg(test)]
    pub(crate) fn is_leased(&self, offset: Offset) -> bool {
        self.leased.contains_key(&offset)
    }

    pub(super) fn in_flight(&self) -> usize {
        let waiting = self.waiting.len() - self.parked.len();
        self.leased.len() + waiting + self.given_up.len() + self.reserved.len()
    }
}
