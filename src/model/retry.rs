//! When a message is delivered again, and when no more.

use std::time::Duration;

use super::name::Name;

/// How long to wait before a message is delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    /// After the first failed delivery; doubles with each further one.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
}

/// What becomes of deliveries that are not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryPolicy {
    /// How long to wait after a failed delivery.
    pub backoff: Backoff,
    /// After so many deliveries the message is given up; 0 for no limit.
    pub max_attempts: u32,
    /// Where messages go that are given up; without it they are dropped from the subscription.
    pub dead_letter_topic: Option<Name>,
}

/// The wait is shortened by up to one part in so many, so that messages which failed together do not
/// come back together.
const JITTER: u32 = 4;

impl Backoff {
    /// How long to wait after the `attempt`-th delivery has failed. `random` spreads the waits.
    #[must_use]
    pub fn after(&self, attempt: u32, random: u64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let longest = self.min.saturating_mul(1 << doublings).min(self.max);
        // The lower bits choose the fraction of the jitter, in parts of 256.
        let parts = u32::from(random.to_le_bytes()[0]);
        longest.saturating_sub(longest / JITTER * parts / 256).max(self.min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_with_jitter() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(10) };
        for (attempt, longest) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (100, 10), (u32::MAX, 10)] {
            let longest = Duration::from_secs(longest);
            assert_eq!(backoff.after(attempt, 0), longest);
            let shortest = backoff.after(attempt, u64::MAX);
            assert!(shortest < longest || longest == backoff.min, "{shortest:?}");
            assert!(shortest >= (longest * 3 / 4).max(backoff.min), "{shortest:?}");
        }
        assert_eq!(Backoff::default().after(9, 7), Duration::ZERO);
    }
}
