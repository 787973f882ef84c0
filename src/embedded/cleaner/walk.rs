//! A walk over what a topic holds, from its oldest message on, by what the index knows of it.

use std::io;

use crate::embedded::log::index::{Part, PartId, Run};
use crate::embedded::log::reader::Reader;
use crate::embedded::topic::TopicHandle;
use crate::model::{Offset, Timestamp};

/// How far to walk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// To this message.
    Offset(Offset),
    /// Until so many bytes of envelopes were passed.
    Bytes(u64),
    /// To the messages published at this time.
    Time(Timestamp),
}

/// Where a walk has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    /// The message that is next.
    pub(super) next: Offset,
    /// Bytes of the envelopes before it. Those of messages that were written together are taken to be of
    /// one size.
    pub(super) bytes: u64,
}

/// Walks over a topic. May read indexes from the disk.
pub(super) fn walk(reader: &Reader, topic: &TopicHandle, until: Until) -> io::Result<Passed> {
    let (parts, active) = {
        let index = topic.index();
        (index.parts().to_vec(), index.active().to_vec())
    };
    let mut walk = Walk { passed: Passed { next: topic.first(), bytes: 0 }, until };
    for (at, part) in parts.iter().enumerate() {
        let following = match parts.get(at + 1) {
            Some(next) => (!next.is_cut).then_some(next.time),
            None => active.first().map(|run| run.time),
        };
        if walk.pass_part(part, following) {
            continue;
        }
        let runs = match &part.runs {
            Some(runs) => runs.clone(),
            None => reader.part_runs(topic, PartId { segment: part.segment, first: part.first })?,
        };
        let mut of_part = runs.iter().filter(|run| run.first <= part.last && run.last >= part.first);
        if !of_part.all(|run| walk.pass_run(run, part.last + 1)) {
            return Ok(walk.passed);
        }
    }
    let _ = active.iter().all(|run| walk.pass_run(run, run.last + 1));
    Ok(walk.passed)
}

struct Walk {
    passed: Passed,
    until: Until,
}

impl Walk {
    /// Passes all of a part, if it can be told without looking into it. `following` is when what comes after
    /// it began to be published.
    fn pass_part(&mut self, part: &Part, following: Option<Timestamp>) -> bool {
        let passes = match self.until {
            Until::Offset(offset) => part.last < offset,
            Until::Bytes(bytes) => self.passed.bytes + part.bytes < bytes,
            Until::Time(time) => following.is_some_and(|following| following <= time),
        };
        // The first part may have lost some of its messages already, of which only its runs tell.
        let whole = passes && !part.is_cut && part.first >= self.passed.next;
        if whole {
            self.passed = Passed { next: part.last + 1, bytes: self.passed.bytes + part.bytes };
        }
        whole
    }

    /// Passes a run, or as much of it as is to be passed, and no more than what comes before `end`. Says
    /// whether to go on.
    fn pass_run(&mut self, run: &Run, end: Offset) -> bool {
        let end = end.min(run.last + 1);
        let next = match self.until {
            Until::Offset(offset) => offset.min(end),
            Until::Bytes(bytes) if self.passed.bytes >= bytes => return false,
            Until::Bytes(bytes) => self.through(run, bytes - self.passed.bytes).min(end),
            Until::Time(time) if run.last_time >= time => return false,
            Until::Time(_) => end,
        };
        if next > self.passed.next {
            let bytes = run.bytes_below(next) - run.bytes_below(self.passed.next);
            self.passed = Passed { next, bytes: self.passed.bytes + bytes };
        }
        next >= end
    }

    /// The first message of a run that need not go for so many bytes to go. Messages that were written together
    /// go together, but not those that were only moved together.
    fn through(&self, run: &Run, bytes: u64) -> Offset {
        if run.time == run.last_time {
            return run.last + 1;
        }
        let from = self.passed.next.max(run.first);
        let enough = |next: &Offset| run.bytes_below(*next) - run.bytes_below(from) >= bytes;
        (from..=run.last).find(|offset| enough(&(offset + 1))).map_or(run.last + 1, |offset| offset + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::log::format::LogId;
    use crate::embedded::log::fs_sim::SimFs;
    use crate::embedded::log::index::TopicIndex;
    use crate::embedded::log::segments::Segments;
    use crate::embedded::log::tail::Tail;
    use crate::embedded::records::TopicRecord;
    use crate::embedded::state::TopicState;
    use crate::model::Name;
    use std::sync::Arc;

    fn run(first: Offset, last: Offset, (time, last_time): (u64, u64), bytes: u32) -> Run {
        let messages = u32::try_from(last + 1 - first).unwrap();
        let (time, last_time) = (Timestamp(time), Timestamp(last_time));
        Run { first, last, time, last_time, position: 40, length: 9, bytes, messages }
    }

    /// A topic of ten messages moved together, which were published at the times 1 to 10, and one more.
    fn walked(until: Until, prepare: impl FnOnce(&mut TopicIndex)) -> Passed {
        let state = TopicState { next: 12, ..TopicState::new(TopicRecord::default()) };
        let name = Name::parse("t").unwrap();
        let meters = crate::meter::Labels::new(1).give(&name);
        let topic = TopicHandle::new(name, &state, meters);
        let moved: Arc<[Run]> = [run(1, 10, (1, 10), 1_000)].into();
        topic.index_mut().put(Part::new(5, &moved));
        topic.index_mut().push(9, run(11, 11, (11, 11), 100));
        prepare(&mut topic.index_mut());
        let segments = Arc::new(Segments::default());
        let reader = Reader::new(Arc::new(SimFs::new()), LogId([0; 16]), segments, Arc::new(Tail::new(0)));
        walk(&reader, &topic, until).unwrap()
    }

    #[test]
    fn messages_that_were_moved_together_grow_old_one_by_one() {
        let at = |time| walked(Until::Time(Timestamp(time)), |_| {});
        assert_eq!(at(10), Passed { next: 1, bytes: 0 }, "the last of them is not older");
        assert_eq!(at(11), Passed { next: 11, bytes: 1_000 });
        assert_eq!(at(12), Passed { next: 12, bytes: 1_100 });
    }

    #[test]
    fn of_messages_that_were_moved_together_no_more_go_than_must() {
        let after = |bytes| walked(Until::Bytes(bytes), |_| {});
        assert_eq!(after(150), Passed { next: 3, bytes: 200 });
        assert_eq!(after(1_000), Passed { next: 11, bytes: 1_000 });
        assert_eq!(after(1_001), Passed { next: 12, bytes: 1_100 });
        assert_eq!(walked(Until::Offset(4), |_| {}), Passed { next: 4, bytes: 300 });
    }

    #[test]
    fn what_is_held_twice_counts_once() {
        let with_copy = |index: &mut TopicIndex| {
            let again: Arc<[Run]> = [run(1, 4, (1, 4), 400)].into();
            index.put(Part::new(7, &again));
        };
        assert_eq!(walked(Until::Offset(11), with_copy), Passed { next: 11, bytes: 1_000 });
        assert_eq!(walked(Until::Time(Timestamp(10)), with_copy), Passed { next: 5, bytes: 400 });
    }
}
