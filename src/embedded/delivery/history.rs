//! What happened lately to the messages of one subscription.
//!
//! A plain struct: no clock, no lock. It forgets the oldest first, and a restart empties it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::limits::HISTORY_ENTRIES;
use crate::model::{Happening, Offset};

/// What happens alike to neighbours within this time is one entry.
const GRAIN: Duration = Duration::from_millis(100);
/// How many of the newest entries may be continued: a message that is delivered and acknowledged
/// continues two, and several consumers take turns.
const CONTINUED: usize = 8;

/// What happened, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Entry>);

#[derive(Debug)]
struct Entry {
    first: Offset,
    last: Offset,
    since: Instant,
    what: Happening,
}

impl Entry {
    fn is_about(&self, first: Offset, last: Offset) -> bool {
        self.first <= last && first <= self.last
    }
}

impl History {
    /// Notes what happened to the messages from `first` to `last`.
    pub(crate) fn push(&mut self, first: Offset, last: Offset, what: Happening, now: Instant) {
        for entry in self.0.iter_mut().rev().take(CONTINUED) {
            let recent = now.saturating_duration_since(entry.since) < GRAIN;
            if entry.last + 1 == first && recent && entry.what == what {
                entry.last = last;
                return;
            }
            // What happens to a message must stay after what happened to it before.
            if entry.is_about(first, last) {
                break;
            }
        }
        if self.0.len() == HISTORY_ENTRIES {
            self.0.pop_front();
        }
        self.0.push_back(Entry { first, last, since: now, what });
    }

    /// What happened to a message, the oldest first.
    pub(crate) fn of(&self, offset: Offset) -> impl Iterator<Item = (Instant, &Happening)> {
        let about = self.0.iter().filter(move |entry| entry.is_about(offset, offset));
        about.map(|entry| (entry.since, &entry.what))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn what(kind: u8) -> Happening {
        match kind {
            0 => Happening::Delivered { consumer: Some("c1".into()), attempt: 1 },
            1 => Happening::Acked,
            2 => Happening::Nacked { reason: "no".into() },
            _ => Happening::DeadlinePassed,
        }
    }

    proptest! {
        /// Against a list of everything that ever happened.
        #[test]
        fn tells_the_end_of_every_story(
            events in prop::collection::vec((1u64..40, 0u64..4, 0u8..4, 0u64..60), 0..3 * HISTORY_ENTRIES),
        ) {
            let (mut history, mut all, mut now) = (History::default(), Vec::new(), Instant::now());
            for (first, more, kind, millis) in events {
                now += Duration::from_millis(millis);
                history.push(first, first + more, what(kind), now);
                all.push((first..=first + more, now, what(kind)));
                prop_assert!(history.0.len() <= HISTORY_ENTRIES);
            }
            let forgets = history.0.len() == HISTORY_ENTRIES;
            for offset in 0..50 {
                let told: Vec<_> = history.of(offset).collect();
                let about = || all.iter().filter(|(range, ..)| range.contains(&offset));
                let count = about().count();
                prop_assert!(told.len() == count || (forgets && told.len() < count));
                for ((time, what), (_, at, happened)) in told.iter().zip(about().skip(count - told.len())) {
                    prop_assert_eq!(*what, happened);
                    prop_assert!(*time <= *at && *at - *time < GRAIN);
                }
            }
        }

        /// Single messages under load do not cost an entry each.
        #[test]
        fn neighbours_share_entries(count in 1u64..2_000) {
            let (mut history, now) = (History::default(), Instant::now());
            for offset in 1..=count {
                history.push(offset, offset, what(0), now);
                history.push(offset, offset, what(1), now);
            }
            prop_assert_eq!(history.0.len(), 2);
            prop_assert_eq!(history.of(count).map(|(_, what)| what.clone()).collect::<Vec<_>>(), [what(0), what(1)]);
        }
    }
}
