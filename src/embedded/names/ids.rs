//! The ids of one topic's latest messages, so that a message published twice is recognised.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::NameHash;
use crate::model::{Offset, Timestamp};

/// Ids and the messages that had them. About 80 bytes each.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Ids {
    /// The newest message with an id.
    offsets: HashMap<NameHash, Offset>,
    /// In the order of offsets, and so of times.
    seen: VecDeque<Seen>,
}

/// A message with an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: NameHash,
    pub(crate) offset: Offset,
    /// When it was published.
    pub(crate) time: Timestamp,
}

impl Ids {
    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.seen.len()
    }

    /// All that are remembered, the oldest first.
    pub(crate) fn seen(&self) -> impl ExactSizeIterator<Item = &Seen> {
        self.seen.iter()
    }

    /// The message with this id, if it was published within the window before `now`.
    pub(crate) fn find(&self, id: NameHash, now: Timestamp, window: Duration) -> Option<Offset> {
        let offset = *self.offsets.get(&id)?;
        let at = self.seen.binary_search_by_key(&offset, |seen| seen.offset).ok()?;
        (now <= self.seen[at].time.after(window)).then_some(offset)
    }

    /// Remembers the message that was published last.
    pub(crate) fn note(&mut self, id: NameHash, offset: Offset, time: Timestamp) {
        self.offsets.insert(id, offset);
        self.seen.push_back(Seen { id, offset, time });
    }

    /// Forgets what is out of the window at `now`.
    pub(crate) fn expire(&mut self, now: Timestamp, window: Duration) {
        while self.seen.front().is_some_and(|oldest| oldest.time.after(window) < now) {
            self.forget_oldest();
        }
        if self.seen.is_empty() && self.seen.capacity() > 0 {
            // A burst is over: its memory goes, too.
            *self = Self::default();
        }
    }

    /// Forgets the oldest of more than so many.
    pub(crate) fn forget_all_but(&mut self, count: usize) {
        while self.seen.len() > count {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.seen.pop_front()
            // Another message may have had the id since, such as a dead letter.
            && self.offsets.get(&oldest.id) == Some(&oldest.offset)
        {
            self.offsets.remove(&oldest.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// A message with one of a few ids, so much later.
        Publish { id: u64, later: u64 },
        /// Forget all but so many.
        Forget(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            9 => (0u64..12, 0u64..8).prop_map(|(id, later)| Step::Publish { id, later }),
            1 => (0usize..20).prop_map(Step::Forget),
        ]
    }

    proptest! {
        /// A list that is searched from its end to its beginning says the same.
        #[test]
        fn agrees_with_a_list(window in 0u64..30, steps in prop::collection::vec(step(), 0..200)) {
            let span = Duration::from_micros(window);
            let (mut ids, mut now) = (Ids::default(), 0);
            let mut list: Vec<(u64, Offset, u64)> = Vec::new();
            for (step, offset) in steps.into_iter().zip(1..) {
                match step {
                    Step::Publish { id, later } => {
                        now += later;
                        ids.expire(Timestamp(now), span);
                        list.retain(|&(_, _, time)| now - time <= window);
                        ids.note(NameHash(id, 0), offset, Timestamp(now));
                        list.push((id, offset, now));
                    }
                    Step::Forget(count) => {
                        ids.forget_all_but(count);
                        list.drain(..list.len().saturating_sub(count));
                    }
                }
                prop_assert_eq!(ids.len(), list.len());
                for (id, ahead) in (0..12).flat_map(|id| [(id, 0), (id, 3), (id, window)]) {
                    let at = now + ahead;
                    let newest = list.iter().rev().find(|&&(other, ..)| other == id);
                    let expected = newest.filter(|&&(_, _, time)| at - time <= window);
                    let expected = expected.map(|&(_, offset, _)| offset);
                    prop_assert_eq!(ids.find(NameHash(id, 0), Timestamp(at), span), expected);
                }
            }
        }
    }
}
