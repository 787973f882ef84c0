//! How long to wait between attempts to reach a server again.

use std::time::Duration;

/// The wait before the first retry.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(5);
/// Retries without progress before giving up; about a minute and a half in all.
const ATTEMPTS: u32 = 20;

/// Doubling waits with jitter, so that the clients of a restarted server do not all come at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// How long to wait before the next attempt; `None` when it is time to give up.
    pub(super) fn next(&mut self) -> Option<Duration> {
        if self.attempts == ATTEMPTS {
            return None;
        }
        let full = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LONGEST);
        self.attempts += 1;
        Some(full.mul_f64(rand::random_range(0.5..1.0)))
    }

    /// Starts anew: there was progress.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_end() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = std::iter::from_fn(|| backoff.next()).collect();
        assert_eq!(waits.len(), ATTEMPTS as usize);
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits[19] <= LONGEST && waits[19] >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.next().is_some_and(|wait| wait <= FIRST));
    }
}
