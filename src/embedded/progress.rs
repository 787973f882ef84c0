//! Which messages of a topic a subscription has settled.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Offset;

/// Everything up to a floor is settled, and some ranges above it.
///
/// Its size is bounded by the number of holes: unsettled messages below the highest settled one. They are
/// in flight, wait for their key, or wait for their time; `max_in_flight`, `MAX_PARKED` and
/// `MAX_SCHEDULED` limit how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    floor: Offset,
    /// First and last offsets of settled ranges above the floor, apart from it and each other.
    above: BTreeMap<Offset, Offset>,
    /// How many messages those are.
    settled_above: u64,
}

impl Progress {
    /// Everything up to `floor` is settled.
    pub(crate) fn new(floor: Offset) -> Self {
        Self { floor, ..Self::default() }
    }

    /// Everything at or below it is settled, and the next message is not.
    pub(crate) fn floor(&self) -> Offset {
        self.floor
    }

    /// The settled ranges above the floor, in order.
    pub(crate) fn above(&self) -> impl Iterator<Item = (Offset, Offset)> {
        self.above.iter().map(|(&first, &last)| (first, last))
    }

    /// How many messages are settled, the floor's included.
    pub(crate) fn settled(&self) -> u64 {
        self.floor + self.settled_above
    }

    /// Whether a message is settled.
    pub(crate) fn is_settled(&self, offset: Offset) -> bool {
        offset <= self.floor
            || self.above.range(..=offset).next_back().is_some_and(|(_, &last)| offset <= last)
    }

    /// The first message from this one on that is not settled.
    pub(crate) fn next_unsettled(&self, offset: Offset) -> Offset {
        let from = offset.max(self.floor + 1);
        // Ranges are apart: what follows one is not settled.
        let range = self.above.range(..=from).next_back();
        range.map_or(from, |(_, &last)| from.max(last + 1))
    }

    /// The ranges of messages between `from` and `last` that are not settled, in order, and in all up to so
    /// many messages.
    pub(crate) fn unsettled(&self, from: Offset, last: Offset, messages: u64) -> Vec<(Offset, Offset)> {
        let (mut ranges, mut left) = (Vec::new(), messages);
        let mut next = from.max(self.floor + 1);
        if let Some((_, &end)) = self.above.range(..=next).next_back() {
            next = next.max(end + 1);
        }
        while left > 0 && next <= last {
            let settled = self.above.range(next..).next();
            let end =
                settled.map_or(last, |(&first, _)| first - 1).min(last).min(next.saturating_add(left - 1));
            ranges.push((next, end));
            left -= end - next + 1;
            // A range that was cut short was the last.
            next = settled.map_or(last, |(_, &end)| end) + 1;
        }
        ranges
    }

    /// Settles the messages from `first` to `last`; those settled already stay so.
    pub(crate) fn settle(&mut self, mut first: Offset, mut last: Offset) {
        if let Some((&before, &end)) = self.above.range(..=first).next_back()
            && end + 1 >= first
        {
            first = before;
            last = last.max(end);
            self.remove(before, end);
        }
        while let Some((&next, &end)) = self.above.range(first..).next()
            && next <= last + 1
        {
            last = last.max(end);
            self.remove(next, end);
        }
        if first <= self.floor + 1 {
            self.floor = self.floor.max(last);
        } else {
            self.above.insert(first, last);
            self.settled_above += last - first + 1;
        }
    }

    fn remove(&mut self, first: Offset, last: Offset) {
        self.above.remove(&first);
        self.settled_above -= last - first + 1;
    }
}

/// How much of a subscription is settled on disk: the log's writer says so, everybody looks.
#[derive(Debug)]
pub(crate) struct Committed {
    floor: AtomicU64,
    settled: AtomicU64,
}

impl Committed {
    /// As much as `progress` says.
    pub(crate) fn new(progress: &Progress) -> Self {
        Self { floor: progress.floor().into(), settled: progress.settled().into() }
    }

    /// Now it is this floor, and so many messages in all. Called by one thread only.
    pub(crate) fn set(&self, floor: Offset, settled: u64) {
        self.floor.store(floor, Ordering::Release);
        self.settled.store(settled, Ordering::Release);
    }

    /// Every message at or below it is settled.
    pub(crate) fn floor(&self) -> Offset {
        self.floor.load(Ordering::Acquire)
    }

    /// How many messages are settled. A floor read later is at least as far, but for a seek.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(start in 0u64..5, settles in prop::collection::vec((1u64..60, 0u64..9), 0..40)) {
            let mut progress = Progress::new(start);
            let mut model: BTreeSet<u64> = (1..=start).collect();
            for (first, length) in settles {
                let floor = progress.floor();
                progress.settle(first, first + length);
                model.extend(first..=first + length);
                prop_assert!(progress.floor() >= floor);
            }
            let floor = (1..).find(|offset| !model.contains(offset)).unwrap() - 1;
            prop_assert_eq!(progress.floor(), floor);
            prop_assert_eq!(progress.settled(), model.len() as u64);
            for offset in 1..80 {
                prop_assert_eq!(progress.is_settled(offset), model.contains(&offset));
                let next = (offset..).find(|offset| !model.contains(offset)).unwrap();
                prop_assert_eq!(progress.next_unsettled(offset), next);
            }
            for (from, limit) in [(0, 100), (start, 3), (10, 1), (30, 7), (79, 100usize)] {
                let told = progress.unsettled(from, 79, limit as u64);
                let told = told.into_iter().flat_map(|(first, last)| first..=last).collect::<Vec<_>>();
                let open = (from.max(1)..80).filter(|offset| !model.contains(offset));
                prop_assert_eq!(told, open.take(limit).collect::<Vec<_>>());
            }
            let ranges: Vec<_> = progress.above().collect();
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0, "ranges touch: {:?}", ranges);
            }
        }
    }
}
