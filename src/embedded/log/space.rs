//! How much room the disk has, and when that is too little.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fs::Fs;
use crate::engine::Error;
use crate::model::Notice;

/// How often free disk space is looked at while publishing, and there is plenty.
pub(super) const SPACE_CHECK: Duration = Duration::from_secs(1);

/// How often a write that found no space is tried again.
pub(super) const FULL_RETRY: Duration = Duration::from_millis(100);
/// How often it is said that the disk is still full.
pub(super) const FULL_REMINDER: Duration = Duration::from_secs(10);

/// What the writer and its callers tell each other while the disk has no byte left.
pub(crate) struct Stall {
    /// Bytes that should be free.
    reserve: u64,
    full: AtomicBool,
    closing: AtomicBool,
}

impl Stall {
    pub(crate) fn new(reserve: u64) -> Self {
        Self { reserve, full: AtomicBool::new(false), closing: AtomicBool::new(false) }
    }

    /// Bytes that should be free.
    pub(super) fn reserve(&self) -> u64 {
        self.reserve
    }

    /// The writer waits for space, or does not any more.
    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Release);
    }

    /// Refuses what would have to wait with the writer.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.full.load(Ordering::Acquire) {
            return Err(Error::DiskFull { available: 0, reserve: self.reserve });
        }
        Ok(())
    }

    /// Refuses what the writer would refuse to publish. A disk that does not tell is taken as it comes.
    pub(super) fn check_reserve(&self, fs: &dyn Fs) -> Result<(), Error> {
        let (available, reserve) = (fs.available().unwrap_or(u64::MAX), self.reserve);
        if available >= reserve { Ok(()) } else { Err(Error::DiskFull { available, reserve }) }
    }

    /// The writer is not to wait any longer.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether the engine closes.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// Watches the free space of the disk.
#[derive(Default)]
pub(super) struct Space {
    checked: Option<Instant>,
    available: u64,
    /// Whether there is more than is needed soon.
    ample: bool,
}

impl Space {
    /// Refuses publishing while less than `reserve` bytes are free. Looks each time when it gets scarce:
    /// the next segment, made ahead of need, takes its part all at once.
    pub(super) fn check(&mut self, fs: &dyn Fs, reserve: u64, segment: u64) -> Result<(), Error> {
        let recent = self.checked.is_some_and(|at| at.elapsed() < SPACE_CHECK);
        if !recent || self.available < reserve.saturating_add(2 * segment) {
            // A disk that does not tell is taken as it comes.
            self.available = fs.available().unwrap_or(u64::MAX);
            self.checked = Some(Instant::now());
        }
        self.ample = self.available >= reserve;
        if self.ample { Ok(()) } else { Err(Error::DiskFull { available: self.available, reserve }) }
    }

    /// What was known does not hold any more.
    pub(super) fn look_again(&mut self) {
        (self.checked, self.ample) = (None, false);
    }

    /// Whether there was enough when it was last looked at.
    pub(super) fn is_ample(&self) -> bool {
        self.ample
    }

    /// So many bytes go to the disk.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.available = self.available.saturating_sub(bytes);
    }
}

/// Whether it was said that the disk is low.
#[derive(Default)]
pub(super) struct SpaceNotice {
    low: bool,
}

impl SpaceNotice {
    /// What there is to say of a check: something only when it has changed.
    pub(super) fn change(&mut self, checked: &Result<(), Error>) -> Option<Notice> {
        match checked {
            Ok(()) if self.low => {
                self.low = false;
                Some(Notice::DiskOk)
            }
            Err(Error::DiskFull { available, reserve }) if !self.low => {
                self.low = true;
                Some(Notice::DiskLow { available: *available, reserve: *reserve })
            }
            _ => None,
        }
    }
}
