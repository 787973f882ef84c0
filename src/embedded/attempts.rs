//! How often the messages of a subscription have been handed out, as far as the log remembers it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Offset;

/// Which messages were handed out, and how often.
///
/// New messages are handed out in order, but for those that wait for their key or their time, so one offset
/// tells of all before the first of these that were handed out once. Only those beyond it, and those handed
/// out again, are counted one by one until they are settled; `max_in_flight` limits how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Attempts {
    /// Every message up to here was handed out, or settled without.
    handed: Offset,
    /// Messages handed out more than once, or beyond that.
    again: BTreeMap<Offset, u32>,
}

impl Attempts {
    /// Nothing above `handed` was handed out, and nothing twice.
    pub(crate) fn new(handed: Offset) -> Self {
        Self { handed, again: BTreeMap::new() }
    }

    /// Everything up to here was handed out.
    pub(crate) fn handed(&self) -> Offset {
        self.handed
    }

    /// The messages that are counted one by one, and how often they were handed out.
    pub(crate) fn again(&self) -> impl ExactSizeIterator<Item = (Offset, u32)> {
        self.again.iter().map(|(&offset, &attempts)| (offset, attempts))
    }

    /// How often a message was handed out.
    pub(crate) fn of(&self, offset: Offset) -> u32 {
        let once = u32::from(offset <= self.handed);
        self.again.get(&offset).copied().unwrap_or(once)
    }

    /// Notes that a message was handed out again, now so many times.
    pub(crate) fn note(&mut self, offset: Offset, attempts: u32) {
        self.again.insert(offset, attempts);
    }

    /// Takes in what was noted later of the messages that still matter.
    pub(crate) fn merge(&mut self, later: &Self, matters: impl Fn(Offset) -> bool) {
        self.handed = self.handed.max(later.handed);
        self.again.extend(later.again().filter(|&(offset, _)| matters(offset)));
    }

    /// Forgets messages that are settled.
    pub(crate) fn forget(&mut self, first: Offset, last: Offset) {
        while let Some((&offset, _)) = self.again.range(first..=last).next() {
            self.again.remove(&offset);
        }
    }
}

/// What a subscription has handed out and the log has not written yet. The log never lags behind by
/// more than this one note, whatever its speed.
#[derive(Debug, Default)]
pub(crate) struct Unwritten(Mutex<Option<Attempts>>);

impl Unwritten {
    /// Adds to the note; says whether there was none, so that the log must be told.
    pub(crate) fn add(&self, attempts: Attempts) -> bool {
        match &mut *self.note() {
            Some(note) => {
                note.merge(&attempts, |_| true);
                false
            }
            none => {
                *none = Some(attempts);
                true
            }
        }
    }

    /// Takes the note, to write it.
    pub(crate) fn take(&self) -> Attempts {
        self.note().take().unwrap_or_default()
    }

    fn note(&self) -> MutexGuard<'_, Option<Attempts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
