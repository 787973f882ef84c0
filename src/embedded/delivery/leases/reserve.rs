//! Messages whose settlement is on its way as part of a commit, which may fail.
//!
//! Nobody gets them meanwhile, and nobody else settles them. They count as in flight, but not against
//! their consumer's credit. If the commit fails, they are what they were before.

use std::time::Instant;

use super::lines::Kept;
use super::{Lease, Leases, NEVER, Waiting};
use crate::engine::Retry;
use crate::model::{Mode, Offset};

/// What a reserved message was before.
#[derive(Debug)]
pub(super) enum Reserved {
    Leased(Lease),
    Waiting(Waiting),
    /// Handed out in an earlier life of the process, and not since.
    Before {
        delivery: u64,
    },
}

impl Leases {
    /// Takes a message out of delivery, under an id that [counts](Self::check).
    pub(crate) fn reserve(&mut self, offset: Offset, delivery: u64) {
        let before = if let Some(lease) = self.unlease(offset) {
            Reserved::Leased(lease)
        } else if let Some(waiting) = self.unwait(offset) {
            // Its key is spoken for meanwhile.
            self.lines.keep(offset, Kept::GivenUp);
            Reserved::Waiting(waiting)
        } else {
            Reserved::Before { delivery }
        };
        self.reserved.insert(offset, before);
    }

    /// Puts a message back as it was, unless it has been settled since. If its consumer has left, it is
    /// due at once; if its deadline has passed, the next look at the deadlines finds that.
    pub(crate) fn restore(&mut self, offset: Offset, now: Instant) {
        match self.reserved.remove(&offset) {
            Some(Reserved::Leased(lease)) => self.restore_lease(offset, lease, now),
            Some(Reserved::Waiting(waiting)) => self.wait(offset, waiting),
            // The cursor may be beyond it by now, so it waits.
            Some(Reserved::Before { delivery }) => {
                let attempt = self.before.of(offset);
                let taken_back = false;
                self.wait(offset, Waiting { delivery, attempt, taken_back, due: now, expires: NEVER });
            }
            None => {}
        }
    }

    fn restore_lease(&mut self, offset: Offset, lease: Lease, now: Instant) {
        if self.lines.is_behind(offset) {
            // An earlier message of its key has failed since, and this one comes again after it.
            let Lease { delivery, attempt, expires, .. } = lease;
            let attempt = attempt - 1;
            return self.wait(offset, Waiting { delivery, attempt, taken_back: true, due: now, expires });
        }
        if let Some(consumer) = lease.consumer {
            let Some(holder) = self.consumers.get_mut(&consumer) else {
                let Lease { delivery, attempt, expires, .. } = lease;
                let ended = Waiting { delivery, attempt, taken_back: false, due: now, expires };
                let at_once = Retry::After(std::time::Duration::ZERO);
                return self.put_back(offset, ended, at_once, || "its consumer left".into(), now);
            };
            holder.messages += 1;
            holder.bytes += lease.bytes;
        }
        self.next_deadline = Some(self.next_deadline.map_or(lease.deadline, |next| next.min(lease.deadline)));
        self.lease(offset, lease);
    }

    /// Whether a message that may come back holds back those after it: in strict order, all that their
    /// consumer would not get before.
    pub(super) fn reserved_holds_back(&self) -> bool {
        let stays = |reserved: &Reserved| {
            matches!(reserved, Reserved::Leased(Lease { consumer: Some(consumer), .. })
                if self.consumers.contains_key(consumer))
        };
        self.rules.mode == Mode::Exclusive && !self.reserved.values().all(stays)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::embedded::attempts::Attempts;
    use crate::embedded::delivery::leases::handing::Handed;
    use crate::embedded::delivery::leases::{About, Key, Next, Rules, Who};
    use crate::embedded::progress::Progress;
    use crate::engine::{Credit, Failure};
    use crate::model::{Backoff, Timestamp};

    const DEADLINE: Duration = Duration::from_secs(10);
    const NOBODY: Who = Who::Pull(1);
    const CREDIT: Credit = Credit { messages: 2, bytes: 100 };

    fn about(offset: Offset) -> About {
        About::new(Key::Alone(offset), None, None)
    }

    fn leases(mode: Mode, handed_before: Offset) -> Leases {
        let rules = Rules {
            mode,
            ack_deadline: DEADLINE,
            max_in_flight: 5,
            backoff: Backoff::default(),
            max_attempts: 0,
        };
        Leases::new(rules, Progress::default(), Attempts::new(handed_before), 0)
    }

    #[test]
    fn a_reserved_message_is_nobodys_and_comes_back_as_it_was() {
        let (mut leases, now) = (leases(Mode::Shared, 0), Instant::now());
        let consumer = leases.join(CREDIT);
        let Handed { delivery, attempt } = leases.hand_out(Who::Consumer(consumer), 1, 10, &about(1), now);
        leases.reserve(1, delivery);
        assert_eq!(leases.check(1, delivery, attempt), Err(Failure::Expired), "it is spoken for");
        assert!(!leases.is_new(1) && leases.in_flight() == 1);
        leases.expire(now + 2 * DEADLINE, Timestamp(0));
        assert_eq!(leases.next(NOBODY, now + 2 * DEADLINE, false), Next::New, "it does not expire");
        assert_eq!(leases.room(Who::Consumer(consumer)), (2, 100));

        leases.restore(1, now);
        assert_eq!(leases.check(1, delivery, attempt), Ok(()));
        assert_eq!(leases.room(Who::Consumer(consumer)), (1, 90));
        leases.expire(now + 2 * DEADLINE, Timestamp(0));
        assert_eq!(leases.next(NOBODY, now + 2 * DEADLINE, false), Next::Again(1), "its old deadline holds");

        leases.reserve(1, delivery);
        assert_eq!(leases.next(NOBODY, now + 2 * DEADLINE, false), Next::New);
        leases.restore(1, now);
        assert_eq!(leases.next(NOBODY, now + 2 * DEADLINE, false), Next::Again(1));
    }

    #[test]
    fn what_is_settled_does_not_come_back() {
        let (mut leases, now) = (leases(Mode::Shared, 0), Instant::now());
        let Handed { delivery, attempt } = leases.hand_out(NOBODY, 1, 10, &about(1), now);
        leases.reserve(1, delivery);
        leases.settle(1, 1);
        leases.restore(1, now);
        assert_eq!(leases.check(1, delivery, attempt), Err(Failure::AlreadySettled));
        assert_eq!((leases.in_flight(), leases.next(NOBODY, now, false)), (0, Next::New));

        let Handed { delivery, .. } = leases.hand_out(NOBODY, 2, 10, &about(2), now);
        leases.reserve(2, delivery);
        leases.seek(Progress::new(0));
        leases.restore(2, now);
        assert!(leases.is_new(2) && leases.in_flight() == 0);
    }

    #[test]
    fn a_message_of_an_earlier_life_waits_although_later_ones_went_out() {
        let (mut leases, now) = (leases(Mode::Shared, 1), Instant::now());
        assert_eq!(leases.check(1, 77, 1), Ok(()));
        leases.reserve(1, 77);
        leases.hand_out(NOBODY, 2, 10, &about(2), now);
        leases.restore(1, now);
        assert_eq!(leases.next(NOBODY, now, false), Next::Again(1));
        assert_eq!(leases.check(1, 77, 1), Ok(()));
        assert_eq!(leases.hand_out(NOBODY, 1, 10, &about(1), now).attempt, 2);
    }

    #[test]
    fn in_strict_order_nothing_passes_a_message_that_may_come_back() {
        let (mut leases, now) = (leases(Mode::Exclusive, 0), Instant::now());
        let (oldest, standby) = (leases.join(CREDIT), leases.join(CREDIT));
        let Handed { delivery, .. } = leases.hand_out(Who::Consumer(oldest), 1, 10, &about(1), now);
        leases.reserve(1, delivery);
        assert_eq!(leases.next(NOBODY, now, false), Next::New, "its consumer gets what follows");
        leases.leave(oldest, now);
        assert_eq!(leases.next(NOBODY, now, false), Next::Nothing, "another does not, yet");
        leases.restore(1, now);
        assert_eq!(leases.next(NOBODY, now, false), Next::Again(1));
        leases.hand_out(Who::Consumer(standby), 1, 10, &about(1), now);
        leases.reserve(1, delivery + 1);
        leases.settle(1, 1);
        assert_eq!(leases.next(NOBODY, now, false), Next::New);
    }

    #[test]
    fn a_reserved_message_holds_its_key() {
        let (mut leases, now) = (leases(Mode::KeyOrdered, 0), Instant::now());
        let same_key = About::new(Key::Hash(7), None, None);
        let (first, second) = (leases.join(CREDIT), leases.join(CREDIT));
        let [first, second] = [first, second].map(Who::Consumer);
        assert!(leases.meet(first, 1, &same_key, now));
        let Handed { delivery, .. } = leases.hand_out(first, 1, 10, &same_key, now);
        leases.nack(1, delivery, Retry::After(Duration::ZERO), &"".into(), now);
        leases.reserve(1, delivery);
        assert!(!leases.meet(second, 2, &same_key, now), "it waits for its key");
        assert_eq!(leases.next(second, now, false), Next::New);
        leases.restore(1, now);
        assert_eq!(leases.next(second, now, false), Next::Again(1));
        leases.reserve(1, delivery);
        leases.settle(1, 1);
        assert_eq!(leases.next(second, now, false), Next::Again(2));
    }

    #[test]
    fn what_comes_back_behind_a_failed_message_of_its_key_comes_again_after_it() {
        let (mut leases, now) = (leases(Mode::KeyOrdered, 0), Instant::now());
        let same_key = About::new(Key::Hash(7), None, None);
        let who = Who::Consumer(leases.join(CREDIT));
        let [first, second] = [1, 2].map(|offset| {
            assert!(leases.meet(who, offset, &same_key, now));
            leases.hand_out(who, offset, 10, &same_key, now)
        });
        leases.reserve(2, second.delivery);
        leases.nack(1, first.delivery, Retry::After(Duration::ZERO), &"".into(), now);
        leases.restore(2, now);
        assert_eq!(leases.check(2, second.delivery, second.attempt), Err(Failure::Expired));
        assert_eq!(leases.next(who, now, false), Next::Again(1));
        leases.settle(1, 1);
        assert_eq!(leases.next(who, now, false), Next::Again(2));
        assert_eq!(leases.hand_out(who, 2, 10, &same_key, now).attempt, 1, "its delivery did not fail");
    }
}
