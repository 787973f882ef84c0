//! The time by which messages grow old.

use std::time::Instant;

use crate::model::Timestamp;

/// A clock that a jump of the wall clock does not deceive into deleting too early. It goes with the wall
/// clock, but when that jumps ahead, it follows only a tenth faster than time passes.
///
/// What it does not see is a jump while the server was not running.
#[derive(Debug)]
pub(super) struct SteadyClock {
    time: Timestamp,
    read: Instant,
}

impl SteadyClock {
    pub(super) fn new(wall: Timestamp, now: Instant) -> Self {
        Self { time: wall, read: now }
    }

    /// The time now, given what the wall clock says.
    pub(super) fn read(&mut self, wall: Timestamp, now: Instant) -> Timestamp {
        let passed = now.saturating_duration_since(self.read);
        self.read = now;
        self.time = self.time.after(passed + passed / 10).min(wall);
        self.time
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_jump_ahead_is_followed_slowly_and_a_jump_back_at_once() {
        let (start, now) = (Timestamp(1_000_000_000_000), Instant::now());
        let mut clock = SteadyClock::new(start, now);
        assert_eq!(clock.read(start.after(HOUR), now + HOUR), start.after(HOUR), "time passes");
        let jumped = clock.read(start.after(3 * HOUR), now + HOUR);
        assert_eq!(jumped, start.after(HOUR), "an hour ahead");
        let later = clock.read(start.after(13 * HOUR), now + 11 * HOUR);
        assert_eq!(later, start.after(12 * HOUR), "it gained one hour in ten");
        let back = clock.read(start.after(10 * HOUR), now + 12 * HOUR);
        assert_eq!(back, start.after(10 * HOUR));
    }
}
