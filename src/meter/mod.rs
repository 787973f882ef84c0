//! Counting and timing, with plain atomics: no lock and no allocation on the way of a message.
//!
//! Knows nothing of how figures are told to anybody; `server::metrics` does that, when it is asked.

mod histogram;
mod labelled;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::histogram::Distribution;
pub(crate) use self::histogram::{BYTES, Histogram, LONG_SECONDS, NUMBERS, SECONDS};
pub(crate) use self::labelled::{Labelled, Labels};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// So many more.
    pub(crate) fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// How many there were.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Level(Arc<AtomicU64>);

impl Level {
    /// One more, until what is returned is dropped.
    pub(crate) fn enter(&self) -> Present {
        self.0.fetch_add(1, Ordering::Relaxed);
        Present(Arc::clone(&self.0))
    }

    /// How many there are.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of those that a [`Level`] counts.
#[derive(Debug)]
pub(crate) struct Present(Arc<AtomicU64>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_falls_when_what_it_counts_is_gone() {
        let level = Level::default();
        let (one, two) = (level.enter(), level.clone().enter());
        assert_eq!(level.get(), 2);
        drop(one);
        assert_eq!(level.get(), 1);
        drop(two);
        assert_eq!(level.get(), 0);
    }
}
