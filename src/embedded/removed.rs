//! Which parts of the log are gone because nothing in them was needed any more.

use super::progress::Progress;

/// Sequence numbers of frames that were removed with their segments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Removed(Progress);

impl Removed {
    /// Adds segments: the first sequence number of each, and of the one after.
    pub(crate) fn add(&mut self, segments: &[(u64, u64)]) {
        for &(first, next) in segments {
            self.0.settle(first, next - 1);
        }
    }

    /// The same, neighbours joined. Their number is at most one more than that of the segments left.
    pub(crate) fn segments(&self) -> Vec<(u64, u64)> {
        let floor = (self.0.floor() > 0).then(|| (1, self.0.floor()));
        floor.into_iter().chain(self.0.above()).map(|(first, last)| (first, last + 1)).collect()
    }

    /// Whether all these frames were removed.
    pub(crate) fn covers(&self, first: u64, last: u64) -> bool {
        let mut with = self.0.clone();
        with.settle(first, last);
        with.settled() == self.0.settled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_neighbours_and_tells_what_is_covered() {
        let mut removed = Removed::default();
        removed.add(&[(10, 20), (40, 50)]);
        assert_eq!(removed.segments(), [(10, 20), (40, 50)]);
        removed.add(&[(20, 30), (1, 10)]);
        assert_eq!(removed.segments(), [(1, 30), (40, 50)]);
        let covered = [(1, 29), (5, 5), (40, 49), (29, 30), (30, 39), (20, 45)];
        assert_eq!(
            covered.map(|(first, last)| removed.covers(first, last)),
            [true, true, true, false, false, false]
        );
        let mut again = Removed::default();
        again.add(&removed.segments());
        assert_eq!(again, removed);
    }
}
