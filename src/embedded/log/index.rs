//! Where in the log a topic's messages are. Derived from the log, never evidence about it.

use std::sync::Arc;

use crate::model::{Offset, Timestamp};

/// A run grows no longer than this by merging neighbours, so that finding one message reads little.
const MAX_RUN_BYTES: u32 = 64 << 10;
/// Frames of other topics that a run may span.
const MAX_GAP_BYTES: u32 = 4 << 10;

/// A stretch of one segment that holds consecutive messages of one topic, written in one commit.
/// Frames of others may lie between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first message.
    pub(crate) first: Offset,
    /// The last message.
    pub(crate) last: Offset,
    /// When the first message was published.
    pub(crate) time: Timestamp,
    /// Where the first frame begins in the segment.
    pub(crate) position: u32,
    /// Bytes from there to the end of the last frame.
    pub(crate) length: u32,
}

impl Run {
    /// Takes in a later run of the same commit, if it is near and the result stays short.
    pub(crate) fn merge(&mut self, next: &Self) -> bool {
        let end = self.position + self.length;
        let length = next.position + next.length - self.position;
        let near = next.position >= end && next.position - end <= MAX_GAP_BYTES;
        let merges = near && length <= MAX_RUN_BYTES && next.first == self.last + 1;
        if merges {
            self.last = next.last;
            self.length = length;
        }
        merges
    }
}

/// What one sealed segment holds of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The segment's first sequence number, which names it.
    pub(crate) segment: u64,
    /// The first message.
    pub(crate) first: Offset,
    /// The last message.
    pub(crate) last: Offset,
    /// When the first message was published.
    pub(crate) time: Timestamp,
    /// The runs, until they can be had from the segment's sidecar.
    pub(crate) runs: Option<Arc<[Run]>>,
}

impl Part {
    /// Summarizes runs, of which there is at least one.
    pub(crate) fn new(segment: u64, runs: &Arc<[Run]>) -> Self {
        let (first, last) = (runs[0], runs[runs.len() - 1]);
        Self { segment, first: first.first, last: last.last, time: first.time, runs: Some(Arc::clone(runs)) }
    }
}

/// Where to read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// These runs of this segment, in order.
    Runs(u64, Vec<Run>),
    /// In this sealed segment, whose runs must be loaded first.
    Sealed(u64),
    /// Nowhere: there is no message at or after the offset.
    End,
}

/// Where one topic's messages are.
#[derive(Debug, Default)]
pub(crate) struct TopicIndex {
    parts: Vec<Part>,
    active_segment: u64,
    active: Vec<Run>,
}

impl TopicIndex {
    /// Adds a run at the end, in the active segment.
    pub(crate) fn push(&mut self, segment: u64, run: Run) {
        debug_assert!(self.active.is_empty() || self.active_segment == segment, "sealed before the next");
        self.active_segment = segment;
        self.active.push(run);
    }

    /// Adds what a sealed segment holds, at the end.
    pub(crate) fn push_part(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// Ends the active segment. Returns its runs, if it has any.
    pub(crate) fn seal(&mut self) -> Option<Arc<[Run]>> {
        if self.active.is_empty() {
            return None;
        }
        let runs: Arc<[Run]> = std::mem::take(&mut self.active).into();
        self.parts.push(Part::new(self.active_segment, &runs));
        Some(runs)
    }

    /// From now on the runs of a sealed segment come from its sidecar.
    pub(crate) fn release(&mut self, segment: u64) {
        if let Ok(at) = self.parts.binary_search_by_key(&segment, |part| part.segment) {
            self.parts[at].runs = None;
        }
    }

    /// The runs that hold the messages from `from` on, within one segment, until they are as long as
    /// `bytes` or hold `messages`.
    pub(crate) fn place(&self, from: Offset, messages: usize, bytes: usize) -> Place {
        let at = self.parts.partition_point(|part| part.last < from);
        if let Some(part) = self.parts.get(at) {
            return match &part.runs {
                Some(runs) => Place::Runs(part.segment, take(runs, from, messages, bytes)),
                None => Place::Sealed(part.segment),
            };
        }
        match take(&self.active, from, messages, bytes) {
            runs if runs.is_empty() => Place::End,
            runs => Place::Runs(self.active_segment, runs),
        }
    }

    /// An offset not after the first message published at `time` or later, and near it within its
    /// sealed segment's beginning or its run.
    pub(crate) fn offset_near(&self, time: Timestamp) -> Offset {
        let in_active = self.active.partition_point(|run| run.time < time);
        if in_active > 0 {
            return self.active[in_active - 1].first;
        }
        let at = self.parts.partition_point(|part| part.time < time);
        let Some(part) = at.checked_sub(1).map(|at| &self.parts[at]) else { return 1 };
        match &part.runs {
            Some(runs) => runs[runs.partition_point(|run| run.time < time) - 1].first,
            None => part.first,
        }
    }
}

/// The runs with messages from `from` on, up to a size.
pub(crate) fn take(runs: &[Run], from: Offset, messages: usize, bytes: usize) -> Vec<Run> {
    let start = runs.partition_point(|run| run.last < from);
    let (mut count, mut length) = (0, 0);
    let wanted = runs[start..].iter().take_while(|run| {
        let more = count < messages as u64 && length < bytes;
        count += run.last + 1 - run.first.max(from);
        length += run.length as usize;
        more
    });
    wanted.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: Offset, last: Offset, position: u32, length: u32) -> Run {
        Run { first, last, time: Timestamp(first * 10), position, length }
    }

    #[test]
    fn runs_merge_only_with_near_neighbours() {
        let mut merged = run(1, 2, 40, 100);
        assert!(merged.merge(&run(3, 3, 200, 50)), "a small gap");
        assert_eq!(merged, run(1, 3, 40, 210));
        assert!(!merged.merge(&run(5, 5, 250, 50)), "an offset is missing");
        assert!(!merged.merge(&run(4, 4, 250 + MAX_GAP_BYTES + 1, 50)), "too far");
        assert!(!merged.merge(&run(4, 4, 250, MAX_RUN_BYTES)), "too long");
    }

    #[test]
    fn finds_places_in_sealed_and_active_segments() {
        let mut index = TopicIndex::default();
        index.push(1, run(1, 10, 40, 1000));
        index.push(1, run(11, 20, 2000, 1000));
        index.seal().expect("has runs");
        index.push(7, run(21, 30, 40, 1000));
        assert_eq!(index.place(11, 100, 1), Place::Runs(1, vec![run(11, 20, 2000, 1000)]));
        assert_eq!(
            index.place(5, 100, 5000),
            Place::Runs(1, vec![run(1, 10, 40, 1000), run(11, 20, 2000, 1000)])
        );
        assert_eq!(index.place(5, 6, 5000), Place::Runs(1, vec![run(1, 10, 40, 1000)]));
        assert_eq!(index.place(25, 1, 1), Place::Runs(7, vec![run(21, 30, 40, 1000)]));
        assert_eq!(index.place(31, 1, 1), Place::End);
        index.release(1);
        assert_eq!(index.place(5, 1, 1), Place::Sealed(1));
    }

    #[test]
    fn finds_offsets_by_time() {
        let mut index = TopicIndex::default();
        assert_eq!(index.offset_near(Timestamp(5)), 1);
        index.push(1, run(1, 10, 40, 1000));
        index.push(1, run(11, 20, 2000, 1000));
        index.seal();
        index.push(7, run(21, 30, 40, 1000));
        assert_eq!(index.offset_near(Timestamp(5)), 1);
        assert_eq!(index.offset_near(Timestamp(110)), 1);
        assert_eq!(index.offset_near(Timestamp(111)), 11);
        assert_eq!(index.offset_near(Timestamp(211)), 21);
    }
}
