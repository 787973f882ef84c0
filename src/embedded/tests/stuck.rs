//! Consumers that hang, fail late, come and go: whoever waits gets what there is, before long.
//!
//! The lease table with a clock of its own, which moves only when it asks to be woken: what it would
//! sleep through stays undelivered here, too.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::attempts::Attempts;
use super::super::delivery::leases::{About, ConsumerId, Key, Leases, Next, Rules, Who};
use super::super::progress::Progress;
use crate::engine::{Credit, Retry};
use crate::model::{Backoff, Mode, Offset, Timestamp};

const DEADLINE: Duration = Duration::from_secs(10);
/// Scenarios of each mode.
const RUNS: u64 = 1_000;
const MESSAGES: u64 = 60;
const CREDIT: Credit = Credit { messages: 1_000, bytes: 1 << 30 };

struct Scenario {
    leases: Leases,
    mode: Mode,
    random: StdRng,
    now: Instant,
    wall: Timestamp,
    consumers: Vec<ConsumerId>,
    /// Everything ever delivered.
    deliveries: Vec<(Offset, u64, u32)>,
}

impl Scenario {
    fn new(mode: Mode, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let rules = Rules {
            mode,
            ack_deadline: DEADLINE,
            max_in_flight: random.random_range(1..20),
            backoff: Backoff::default(),
            max_attempts: if random.random_bool(0.5) { 3 } else { 0 },
        };
        let leases = Leases::new(rules, Progress::default(), Attempts::default(), 0);
        let (now, wall) = (Instant::now(), Timestamp(1));
        Self { leases, mode, random, now, wall, consumers: Vec::new(), deliveries: Vec::new() }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.wall = self.wall.after(time);
        self.leases.expire(self.now, self.wall);
    }

    /// Hands out up to so many messages.
    fn take(&mut self, who: Who, count: usize) -> Vec<(Offset, u64, u32)> {
        let mut taken = Vec::new();
        while taken.len() < count.min(self.leases.room(who).0) {
            let offset = match self.leases.next(who, self.now, false) {
                Next::Again(offset) => offset,
                Next::New => self.leases.first_new(),
                Next::Nothing => break,
            };
            if offset > MESSAGES {
                break;
            }
            let key = if offset % 7 == 0 { Key::Alone(offset) } else { Key::Hash(offset % 5) };
            let deliver = (offset % 11 == 0).then(|| Timestamp(1).after(DEADLINE));
            let expires = (offset % 13 == 0).then(|| Timestamp(1).after(DEADLINE * 2));
            let about = About::new(key, deliver, expires);
            if self.leases.meet(who, offset, &about, self.now) {
                let handed = self.leases.hand_out(who, offset, 1, &about, self.now);
                taken.push((offset, handed.delivery, handed.attempt));
            }
        }
        self.deliveries.extend(&taken);
        taken
    }

    /// Somebody takes messages and is not heard of again, fails late, leaves, moves the subscription, or
    /// purges the topic.
    fn disturb(&mut self) {
        match self.random.random_range(0..10) {
            0 | 1 => self.consumers.push(self.leases.join(CREDIT)),
            2 if !self.consumers.is_empty() => {
                let leaving = self.random.random_range(0..self.consumers.len());
                self.leases.leave(self.consumers.swap_remove(leaving), self.now);
            }
            3 | 4 => {
                let count = self.random.random_range(1..10);
                let pull = self.leases.pull();
                self.take(pull, count);
            }
            5 | 6 if !self.consumers.is_empty() => {
                let who = self.consumers[self.random.random_range(0..self.consumers.len())];
                let count = self.random.random_range(1..10);
                self.take(Who::Consumer(who), count);
            }
            7 if !self.deliveries.is_empty() => {
                // After its deadline, as likely as not.
                let (offset, delivery, attempt) =
                    self.deliveries[self.random.random_range(0..self.deliveries.len())];
                let counts = self.leases.check(offset, delivery, attempt);
                if counts.and_then(|()| self.leases.check_lease(offset)).is_ok() {
                    let retry = if self.random.random_bool(0.2) { Retry::Never } else { Retry::ByPolicy };
                    self.leases.nack(offset, delivery, retry, &"".into(), self.now);
                }
            }
            8 if self.random.random_bool(0.2) => {
                self.leases.seek(Progress::new(self.random.random_range(0..MESSAGES)));
                self.deliveries.clear();
            }
            8 if self.random.random_bool(0.2) && self.leases.progress().floor() < MESSAGES => {
                // A purge of the topic, whoever holds what of it.
                let floor = self.leases.progress().floor();
                self.leases.settle(floor + 1, (floor + self.random.random_range(1..10)).min(MESSAGES));
            }
            _ => {
                let millis = self.random.random_range(0..6_000);
                self.wait(Duration::from_millis(millis));
            }
        }
    }

    /// One consumer acknowledges all that it gets. It never waits for longer than twice the deadline.
    fn recover(&mut self) {
        if self.mode == Mode::Exclusive {
            // Whoever is older goes first, however it hangs.
            for consumer in std::mem::take(&mut self.consumers) {
                self.leases.leave(consumer, self.now);
            }
        }
        let who = Who::Consumer(self.leases.join(CREDIT));
        let mut busy = self.now;
        loop {
            let mut settled = self.take(who, 1).into_iter().map(|(offset, ..)| offset).collect::<Vec<_>>();
            settled.extend(self.leases.next_given_up().map(|(offset, _)| offset));
            for &offset in &settled {
                self.leases.settle(offset, offset);
                busy = self.now;
            }
            if self.leases.progress().floor() >= MESSAGES {
                return;
            }
            if settled.is_empty() {
                let wakes = [self.leases.wake_after(self.now), self.leases.next_expiry(self.now)];
                let wake = wakes.into_iter().flatten().min().expect("something is to happen");
                self.wait(wake.saturating_duration_since(self.now).max(Duration::from_millis(1)));
                assert!(self.now <= busy + DEADLINE * 2, "idle for {:?}", self.now - busy);
            }
        }
    }
}

fn never_idle_for_long(mode: Mode) {
    for seed in 0..RUNS {
        let mut scenario = Scenario::new(mode, seed);
        scenario.wait(Duration::ZERO);
        for _ in 0..40 {
            scenario.disturb();
        }
        scenario.recover();
    }
}

#[test]
fn nobody_idles_for_long_where_all_share() {
    never_idle_for_long(Mode::Shared);
}

#[test]
fn nobody_idles_for_long_where_one_holds_all() {
    never_idle_for_long(Mode::Exclusive);
}

#[test]
fn nobody_idles_for_long_where_keys_are_ordered() {
    never_idle_for_long(Mode::KeyOrdered);
}
