//! How much room the disk has, and when that is too little.

use std::time::{Duration, Instant};

use super::fs::Fs;
use crate::engine::Error;
use crate::model::Notice;

/// How often free disk space is looked at while publishing, and there is plenty.
pub(super) const SPACE_CHECK: Duration = Duration::from_secs(1);

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
