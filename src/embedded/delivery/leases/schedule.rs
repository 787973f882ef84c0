//! Messages that nobody gets before their time.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Offset, Timestamp};

/// Offsets by the time they are to be delivered. About 50 bytes for each.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    by_time: BTreeSet<(Timestamp, Offset)>,
    times: BTreeMap<Offset, Timestamp>,
}

impl Schedule {
    pub(super) fn insert(&mut self, offset: Offset, time: Timestamp) {
        self.remove(offset);
        self.by_time.insert((time, offset));
        self.times.insert(offset, time);
    }

    /// Says whether it was there.
    pub(super) fn remove(&mut self, offset: Offset) -> bool {
        let Some(time) = self.times.remove(&offset) else { return false };
        self.by_time.remove(&(time, offset))
    }

    /// The scheduled messages of a range.
    pub(super) fn range(&self, first: Offset, last: Offset) -> impl Iterator<Item = Offset> {
        self.times.range(first..=last).map(|(&offset, _)| offset)
    }

    /// When a message is to be delivered, if it is scheduled.
    pub(super) fn time(&self, offset: Offset) -> Option<Timestamp> {
        self.times.get(&offset).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// The lowest offset.
    pub(super) fn lowest(&self) -> Option<Offset> {
        self.times.first_key_value().map(|(&offset, _)| offset)
    }

    /// What may be delivered at this time, the earliest first.
    pub(super) fn due(&self, time: Timestamp) -> impl Iterator<Item = Offset> {
        self.by_time.range(..=(time, Offset::MAX)).map(|&(_, offset)| offset)
    }

    /// The next time after this one at which something may be delivered.
    pub(super) fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        self.by_time.range((time, Offset::MAX)..).next().map(|&(time, _)| time)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
