//! Which consumers stand still: they hold all that they may, more is waiting, and nothing moves.
//!
//! A plain struct: no clock, no lock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::leases::ConsumerId;
use crate::model::limits::{SLOW_CONSUMER_AFTER, SLOW_CONSUMER_SILENCE};

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);

/// The consumers that may be slow.
#[derive(Debug, Default)]
pub(crate) struct SlowConsumers {
    stalls: BTreeMap<ConsumerId, Stall>,
    next_look: Option<Instant>,
}

#[derive(Debug, Default)]
struct Stall {
    /// It has stood still since then.
    since: Option<Instant>,
    /// When it was last spoken of.
    told: Option<Instant>,
}

impl SlowConsumers {
    /// When to look next.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// A consumer was handed something.
    pub(crate) fn served(&mut self, consumer: ConsumerId) {
        if let Some(stall) = self.stalls.get_mut(&consumer) {
            stall.since = None;
        }
    }

    /// Looks, if it is time to. `exhausted` are the consumers that can take nothing while something waits.
    /// Returns those that are slow and were not spoken of lately.
    pub(crate) fn look(
        &mut self,
        exhausted: impl FnOnce() -> Vec<ConsumerId>,
        now: Instant,
    ) -> Vec<ConsumerId> {
        if self.next_look.is_some_and(|at| now < at) {
            return Vec::new();
        }
        self.next_look = Some(now + LOOK);
        let exhausted = exhausted();
        self.stalls.retain(|consumer, stall| {
            if !exhausted.contains(consumer) {
                stall.since = None;
            }
            stall.since.is_some() || stall.told.is_some_and(|at| now < at + SLOW_CONSUMER_SILENCE)
        });
        let mut slow = Vec::new();
        for consumer in exhausted {
            let stall = self.stalls.entry(consumer).or_default();
            let since = *stall.since.get_or_insert(now);
            let silent = stall.told.is_some_and(|at| now < at + SLOW_CONSUMER_SILENCE);
            if now >= since + SLOW_CONSUMER_AFTER && !silent {
                stall.told = Some(now);
                slow.push(consumer);
            }
        }
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds, of so many, at which the only consumer is spoken of.
    fn told(seconds: u64, is_exhausted: impl Fn(u64) -> bool, is_served: impl Fn(u64) -> bool) -> Vec<u64> {
        let (mut slow, start) = (SlowConsumers::default(), Instant::now());
        let mut told = Vec::new();
        for second in 0..seconds {
            if is_served(second) {
                slow.served(1);
            }
            let exhausted = || if is_exhausted(second) { vec![1] } else { Vec::new() };
            if !slow.look(exhausted, start + Duration::from_secs(second)).is_empty() {
                told.push(second);
            }
        }
        told
    }

    #[test]
    fn a_consumer_is_slow_after_ten_seconds_and_once_a_minute() {
        assert_eq!(told(200, |_| true, |_| false), [10, 70, 130, 190]);
        assert_eq!(told(100, |second| second % 10 != 9, |_| false), [0; 0], "it has room in between");
        assert_eq!(told(100, |_| true, |second| second % 10 == 9), [0; 0], "it works, as fast as it can");
        assert_eq!(told(60, |second| second != 20, |_| false), [10], "a moment of room breaks no silence");
    }

    #[test]
    fn it_looks_once_a_second_and_forgets_who_left() {
        let (mut slow, start) = (SlowConsumers::default(), Instant::now());
        assert!(slow.look(|| vec![1], start).is_empty());
        slow.look(|| unreachable!("too early"), start + Duration::from_millis(999));
        assert_eq!(slow.next_look(), Some(start + LOOK));
        slow.look(Vec::new, start + LOOK);
        assert!(slow.stalls.is_empty());
    }
}
