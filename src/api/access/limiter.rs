//! How many lines the audit log gets of refusals.

use std::time::{Duration, Instant};

/// Lets a burst through, then so many a second, and counts the rest.
#[derive(Debug)]
pub(super) struct Limiter {
    burst: u32,
    every: Duration,
    left: u32,
    /// Since when what is left has grown.
    since: Option<Instant>,
    suppressed: u64,
}

impl Limiter {
    pub(super) fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, left: burst, since: None, suppressed: 0 }
    }

    /// Whether one more may pass: then with how many were held back since the last.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let since = *self.since.get_or_insert(now);
        let grown = now.saturating_duration_since(since).as_nanos() / self.every.as_nanos();
        if grown > 0 {
            let grown = u32::try_from(grown).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(grown).min(self.burst);
            self.since = Some(since.checked_add(self.every * grown).map_or(now, |since| since.min(now)));
        }
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_a_burst_and_then_so_many_a_second() {
        let (mut limiter, start) = (Limiter::new(3, Duration::from_millis(100)), Instant::now());
        let admitted: Vec<_> = (0..10).map(|_| limiter.admit(start)).collect();
        assert_eq!(admitted[..4], [Some(0), Some(0), Some(0), None]);
        assert_eq!(limiter.admit(start + Duration::from_millis(99)), None);
        assert_eq!(limiter.admit(start + Duration::from_millis(150)), Some(8));
        assert_eq!(limiter.admit(start + Duration::from_millis(199)), None);
        assert_eq!(limiter.admit(start + Duration::from_millis(200)), Some(1));
        // After a long silence no more than a burst.
        let late = start + Duration::from_hours(10_000);
        let admitted = (0..10).filter_map(|_| limiter.admit(late)).count();
        assert_eq!(admitted, 3);
    }
}
