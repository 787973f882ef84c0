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
    /// When the last message was published.
    pub(crate) last_time: Timestamp,
    /// Where the first frame begins in the segment.
    pub(crate) position: u32,
    /// Bytes from there to the end of the last frame.
    pub(crate) length: u32,
    /// Bytes of the envelopes.
    pub(crate) bytes: u32,
    /// How many messages there are; fewer than offsets where some are gone.
    pub(crate) messages: u32,
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
            self.last_time = next.last_time;
            self.length = length;
            self.bytes += next.bytes;
            self.messages += next.messages;
        }
        merges
    }

    /// Bytes of the envelopes below an offset, as if all of them were of one size.
    pub(crate) fn bytes_below(&self, offset: Offset) -> u64 {
        let messages = self.last + 1 - self.first;
        let below = offset.saturating_sub(self.first).min(messages);
        u64::from(self.bytes) * below / messages
    }
}

/// Runs of one segment in the order of their messages. Where several hold the same messages, the last
/// written one counts: it was made when the messages were moved.
pub(crate) fn in_order(written: Vec<Run>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(written.len());
    for run in written {
        if runs.last().is_some_and(|last| last.last >= run.first) {
            clear(&mut runs, run.first, run.last);
        }
        let at = runs.partition_point(|other| other.first < run.first);
        runs.insert(at, run);
    }
    runs
}

/// Consecutive offsets, and about how much they are.
trait Stretch: Clone {
    fn ends(&self) -> (Offset, Offset);
    /// What is left of it between these offsets, which are within it.
    fn cut(&mut self, first: Offset, last: Offset);
}

impl Stretch for Run {
    fn ends(&self) -> (Offset, Offset) {
        (self.first, self.last)
    }

    /// The times stay: they are bounds.
    fn cut(&mut self, first: Offset, last: Offset) {
        let (part, of) = (last + 1 - first, self.last + 1 - self.first);
        let scale = |number: u32| u32::try_from(u64::from(number) * part / of).unwrap_or(u32::MAX);
        (self.bytes, self.messages) = (scale(self.bytes), scale(self.messages));
        (self.first, self.last) = (first, last);
    }
}

impl Stretch for Part {
    fn ends(&self) -> (Offset, Offset) {
        (self.first, self.last)
    }

    fn cut(&mut self, first: Offset, last: Offset) {
        let (part, of) = (last + 1 - first, self.last + 1 - self.first);
        let scale = |number: u64| {
            u64::try_from(u128::from(number) * u128::from(part) / u128::from(of)).unwrap_or(u64::MAX)
        };
        (self.bytes, self.messages) = (scale(self.bytes), scale(self.messages));
        (self.first, self.last, self.is_cut) = (first, last, true);
    }
}

/// Takes the offsets from `first` to `last` out of stretches that are in order and apart.
fn clear<T: Stretch>(stretches: &mut Vec<T>, first: Offset, last: Offset) {
    let mut kept = Vec::with_capacity(stretches.len() + 1);
    for stretch in std::mem::take(stretches) {
        let (begin, end) = stretch.ends();
        if end < first || begin > last {
            kept.push(stretch);
            continue;
        }
        if begin < first {
            let mut before = stretch.clone();
            before.cut(begin, first - 1);
            kept.push(before);
        }
        if end > last {
            let mut after = stretch;
            after.cut(last + 1, end);
            kept.push(after);
        }
    }
    *stretches = kept;
}

/// Cuts runs in order into stretches without a hole.
pub(crate) fn stretches(runs: &[Run]) -> impl Iterator<Item = Arc<[Run]>> {
    runs.chunk_by(|run, next| run.last + 1 == next.first).map(Arc::from)
}

/// What one segment holds of a topic: messages without a hole between them, but for those that were
/// superseded.
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
    /// Bytes of the envelopes.
    pub(crate) bytes: u64,
    /// How many messages there are; fewer than offsets where some are gone.
    pub(crate) messages: u64,
    /// Others hold some of what it held: its runs go beyond its ends, its sums are estimates, and its time is
    /// only a bound.
    pub(crate) is_cut: bool,
    /// The runs, until they can be had from the segment's sidecar.
    pub(crate) runs: Option<Arc<[Run]>>,
}

impl Part {
    /// Summarizes runs, of which there is at least one.
    pub(crate) fn new(segment: u64, runs: &Arc<[Run]>) -> Self {
        let (first, last) = (runs[0], runs[runs.len() - 1]);
        let bytes = runs.iter().map(|run| u64::from(run.bytes)).sum();
        let messages = runs.iter().map(|run| u64::from(run.messages)).sum();
        let runs = Some(Arc::clone(runs));
        Self {
            segment,
            first: first.first,
            last: last.last,
            time: first.time,
            bytes,
            messages,
            is_cut: false,
            runs,
        }
    }
}

/// Names a part of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PartId {
    /// The segment.
    pub(crate) segment: u64,
    /// The part's first message.
    pub(crate) first: Offset,
}

/// Where to read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// These runs of this segment, in order.
    Runs(u64, Vec<Run>),
    /// In this part of a sealed segment, whose runs must be loaded first.
    Sealed(PartId),
    /// Nowhere: there is no message at or after the offset.
    End,
}

/// Where one topic's messages are.
#[derive(Debug, Default)]
pub(crate) struct TopicIndex {
    /// In the order of their messages, and apart.
    parts: Vec<Part>,
    active_segment: u64,
    /// The newest messages.
    active: Vec<Run>,
}

impl TopicIndex {
    /// Adds a run at the end, in the active segment.
    pub(crate) fn push(&mut self, segment: u64, run: Run) {
        debug_assert!(self.active.is_empty() || self.active_segment == segment, "sealed before the next");
        self.active_segment = segment;
        self.active.push(run);
    }

    /// Adds what a segment holds. It replaces what others hold of the same messages: those are copies
    /// from before they were moved.
    pub(crate) fn put(&mut self, part: Part) {
        if self.parts.last().is_some_and(|last| last.last >= part.first) {
            clear(&mut self.parts, part.first, part.last);
        }
        let at = self.parts.partition_point(|other| other.first < part.first);
        self.parts.insert(at, part);
    }

    /// The segment goes on after a restart: new messages follow the newest ones in it.
    pub(crate) fn resume(&mut self, segment: u64) {
        self.active_segment = segment;
        if let Some(part) = self.parts.pop_if(|last| last.segment == segment) {
            self.active = part.runs.as_deref().map(Vec::from).unwrap_or_default();
        }
    }

    /// Ends the active segment. Returns everything that it holds of the topic.
    pub(crate) fn seal(&mut self, segment: u64) -> Vec<Arc<[Run]>> {
        for runs in stretches(&std::mem::take(&mut self.active)) {
            self.put(Part::new(segment, &runs));
        }
        self.parts
            .iter()
            .filter(|part| part.segment == segment)
            .filter_map(|part| part.runs.clone())
            .collect()
    }

    /// From now on the runs of a sealed segment come from its sidecar.
    pub(crate) fn release(&mut self, segment: u64) {
        for part in self.parts.iter_mut().filter(|part| part.segment == segment) {
            part.runs = None;
        }
    }

    /// Forgets the messages before `first`, which are gone.
    pub(crate) fn trim(&mut self, first: Offset) {
        let gone = self.parts.partition_point(|part| part.last < first);
        self.parts.drain(..gone);
        let gone = self.active.partition_point(|run| run.last < first);
        self.active.drain(..gone);
    }

    /// What segments hold, in the order of messages, without the newest messages in the active one.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The segment of the newest messages.
    pub(crate) fn active_segment(&self) -> u64 {
        self.active_segment
    }

    /// The newest messages, in the active segment.
    pub(crate) fn active(&self) -> &[Run] {
        &self.active
    }

    /// The runs that hold the messages from `from` on, within one segment, until they are as long as
    /// `bytes` or hold `messages`.
    pub(crate) fn place(&self, from: Offset, messages: usize, bytes: usize) -> Place {
        let at = self.parts.partition_point(|part| part.last < from);
        if let Some(part) = self.parts.get(at) {
            return match &part.runs {
                Some(runs) => Place::Runs(part.segment, take(runs, from, messages, bytes)),
                None => Place::Sealed(PartId { segment: part.segment, first: part.first }),
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

/// The runs with messages from `from` on, up to a size; the first of them whatever its size.
pub(crate) fn take(runs: &[Run], from: Offset, messages: usize, bytes: usize) -> Vec<Run> {
    let start = runs.partition_point(|run| run.last < from);
    let (mut count, mut length) = (0, 0);
    let wanted = runs[start..].iter().take_while(|run| {
        let more = count < messages as u64 && (length == 0 || length < bytes);
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
        Run {
            first,
            last,
            time: Timestamp(first * 10),
            last_time: Timestamp(last * 10),
            position,
            length,
            bytes: 100,
            messages: 1,
        }
    }

    #[test]
    fn runs_merge_only_with_near_neighbours() {
        let mut merged = run(1, 2, 40, 100);
        assert!(merged.merge(&run(3, 3, 200, 50)), "a small gap");
        assert_eq!(merged, Run { bytes: 200, messages: 2, ..run(1, 3, 40, 210) });
        assert!(!merged.merge(&run(5, 5, 250, 50)), "an offset is missing");
        assert!(!merged.merge(&run(4, 4, 250 + MAX_GAP_BYTES + 1, 50)), "too far");
        assert!(!merged.merge(&run(4, 4, 250, MAX_RUN_BYTES)), "too long");
    }

    #[test]
    fn finds_places_in_sealed_and_active_segments() {
        let mut index = TopicIndex::default();
        index.push(1, run(1, 10, 40, 1000));
        index.push(1, run(11, 20, 2000, 1000));
        assert_eq!(index.seal(1).len(), 1);
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
        assert_eq!(index.place(5, 1, 1), Place::Sealed(PartId { segment: 1, first: 1 }));
    }

    #[test]
    fn finds_offsets_by_time() {
        let mut index = TopicIndex::default();
        assert_eq!(index.offset_near(Timestamp(5)), 1);
        index.push(1, run(1, 10, 40, 1000));
        index.push(1, run(11, 20, 2000, 1000));
        index.seal(1);
        index.push(7, run(21, 30, 40, 1000));
        assert_eq!(index.offset_near(Timestamp(5)), 1);
        assert_eq!(index.offset_near(Timestamp(110)), 1);
        assert_eq!(index.offset_near(Timestamp(111)), 11);
        assert_eq!(index.offset_near(Timestamp(211)), 21);
    }

    #[test]
    fn moved_messages_are_found_at_their_new_place() {
        let mut index = TopicIndex::default();
        for segment in 1..=3 {
            index.push(segment, run(segment * 10 - 9, segment * 10, 40, 1000));
            index.seal(segment);
        }
        index.push(9, run(31, 40, 40, 1000));
        let moved: Arc<[Run]> = [run(1, 4, 5000, 100), run(5, 10, 5100, 100)].into();
        index.put(Part::new(9, &moved));
        assert_eq!(index.place(5, 1, 1), Place::Runs(9, vec![run(5, 10, 5100, 100)]));
        assert_eq!(index.place(11, 1, 1), Place::Runs(2, vec![run(11, 20, 40, 1000)]));
        let sealed: Vec<_> =
            index.seal(9).iter().map(|runs| (runs[0].first, runs[runs.len() - 1].last)).collect();
        assert_eq!(sealed, [(1, 10), (31, 40)]);
    }

    #[test]
    fn the_last_written_of_several_copies_counts() {
        let ends = |runs: Vec<Run>| {
            in_order(runs).iter().map(|run| (run.first, run.last, run.position)).collect::<Vec<_>>()
        };
        assert_eq!(ends(vec![run(5, 9, 1, 1), run(1, 4, 2, 1)]), [(1, 4, 2), (5, 9, 1)]);
        assert_eq!(ends(vec![run(1, 9, 1, 1), run(3, 4, 2, 1)]), [(1, 2, 1), (3, 4, 2), (5, 9, 1)]);
        assert_eq!(ends(vec![run(1, 4, 1, 1), run(5, 9, 2, 1), run(3, 9, 3, 1)]), [(1, 2, 1), (3, 9, 3)]);
    }

    #[test]
    fn forgets_what_is_gone() {
        let mut index = TopicIndex::default();
        index.push(1, run(1, 10, 40, 1000));
        index.seal(1);
        index.push(2, run(11, 20, 40, 1000));
        index.push(2, run(21, 30, 40, 1000));
        index.trim(10);
        assert_eq!(index.parts().len(), 1, "a message of it is left");
        index.trim(15);
        assert_eq!((index.parts().len(), index.active().len()), (0, 2));
        index.trim(31);
        assert_eq!(index.place(31, 1, 1), Place::End);
    }
}
