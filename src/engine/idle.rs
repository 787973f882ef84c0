//! How long something has gone unused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Knows who uses something now, and when somebody last did. Shared by cloning.
#[derive(Debug, Clone)]
pub(crate) struct Idle(Arc<Mutex<Use>>);

#[derive(Debug)]
struct Use {
    /// How many use it now.
    users: usize,
    /// When somebody last did.
    last: Instant,
}

/// Somebody who uses it until this is dropped.
#[derive(Debug)]
pub(crate) struct User(Idle);

impl Idle {
    /// Used just now.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Use { users: 0, last: now })))
    }

    /// It is used, and that is over at once.
    pub(crate) fn touch(&self, now: Instant) {
        self.lock().last = now;
    }

    /// It is used from now on.
    pub(crate) fn enter(&self) -> User {
        self.lock().users += 1;
        User(self.clone())
    }

    /// The first time at which it can have gone unused for so long; `None` if that is zero, for never.
    /// It can still move, but only to later.
    pub(crate) fn expires(&self, expiry: Duration, now: Instant) -> Option<Instant> {
        let Use { users, last } = *self.lock();
        let since = if users > 0 { now } else { last };
        // What is beyond the end of time never comes.
        Some(expiry).filter(|expiry| !expiry.is_zero()).and_then(|expiry| since.checked_add(expiry))
    }

    fn lock(&self) -> MutexGuard<'_, Use> {
        // Each change is a single assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, now: Instant) {
        let mut used = self.lock();
        used.users -= 1;
        used.last = now;
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.leave(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_begins_when_the_last_user_left() {
        let (begin, hour) = (Instant::now(), Duration::from_hours(1));
        let idle = Idle::new(begin);
        assert_eq!(idle.expires(hour, begin + 3 * hour), Some(begin + hour));
        assert_eq!(idle.expires(Duration::ZERO, begin + hour), None);
        assert_eq!(idle.expires(Duration::MAX, begin), None);
        idle.touch(begin + hour);
        assert_eq!(idle.expires(hour, begin + hour), Some(begin + 2 * hour));

        let (one, other) = (idle.enter(), idle.enter());
        let later = begin + 100 * hour;
        assert_eq!(idle.expires(hour, later), Some(later + hour), "as if used just now");
        drop(one);
        assert_eq!(idle.expires(hour, later), Some(later + hour));
        let before = Instant::now();
        drop(other);
        let expires = idle.expires(hour, later).unwrap();
        assert!((before + hour..=Instant::now() + hour).contains(&expires));
    }
}
