//! The last changes of a view, for those who watch it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entry::About;
use super::tables::Change;
use crate::model::limits::CHANGES_KEPT;

/// Bytes of the keys of changes that a view keeps: 64 for each of [`CHANGES_KEPT`].
const KEY_BYTES_KEPT: usize = 256 << 10;

/// A place among the changes of a view. Places of another life of the view do not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The life.
    pub(crate) life: u64,
    /// How many changes were before.
    pub(crate) changes: u64,
}

/// The keys that have changed between two places, and what they were at the first.
pub(super) type Changed = BTreeMap<Arc<str>, Option<About>>;

/// The last changes, shared by the view, which adds to them, and those who watch.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    life: u64,
    /// How many changes were before the first that is kept.
    before: u64,
    kept: VecDeque<(Arc<str>, Option<About>)>,
    /// Of the keys of those.
    key_bytes: usize,
}

impl Changes {
    /// Begins a new life, after so many changes. What was seen of another one is worth nothing now.
    pub(super) fn begin(&self, before: u64) {
        *self.lock() = Last { life: rand::random(), before, ..Last::default() };
    }

    pub(super) fn add(&self, changes: &[Change]) {
        let mut last = self.lock();
        last.key_bytes += changes.iter().map(|change| change.key.len()).sum::<usize>();
        last.kept.extend(changes.iter().map(|change| (change.key.clone(), change.old)));
        while last.kept.len() > CHANGES_KEPT || last.key_bytes > KEY_BYTES_KEPT {
            let Some((key, _)) = last.kept.pop_front() else { break };
            last.key_bytes -= key.len();
            last.before += 1;
        }
    }

    /// The life now.
    pub(super) fn life(&self) -> u64 {
        self.lock().life
    }

    /// What has changed after a place, up to so many changes; `None` if it is not known any more.
    pub(super) fn between(&self, seen: Seen, until: u64) -> Option<Changed> {
        let last = self.lock();
        let end = last.before + last.kept.len() as u64;
        if seen.life != last.life || seen.changes < last.before || seen.changes > until || until > end {
            return None;
        }
        let index = |changes: u64| usize::try_from(changes - last.before).expect("it is kept");
        let mut changed = Changed::new();
        for (key, old) in last.kept.range(index(seen.changes)..index(until)) {
            changed.entry(key.clone()).or_insert(*old);
        }
        Some(changed)
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn change(key: &str, old: Option<u64>) -> Change {
        let about = |revision| About { revision, time: Timestamp(0), expire_time: None, score: None };
        Change { key: key.into(), old: old.map(about), new: None }
    }

    #[test]
    fn tells_what_keys_were_at_the_first_of_two_places() {
        let changes = Changes::default();
        changes.begin(10);
        let seen = |changes_seen| Seen { life: changes.life(), changes: changes_seen };
        changes.add(&[change("a", Some(1)), change("b", None), change("a", Some(2))]);
        let revisions = |from, until| {
            let changed = changes.between(seen(from), until)?;
            Some(changed.into_iter().map(|(key, old)| (key.to_string(), old.map(|it| it.revision))).collect())
        };
        let both: Vec<_> = vec![("a".to_owned(), Some(1)), ("b".to_owned(), None)];
        assert_eq!(revisions(10, 13), Some(both));
        assert_eq!(revisions(12, 13), Some(vec![("a".to_owned(), Some(2))]));
        assert_eq!(revisions(13, 13), Some(vec![]));
        assert_eq!((revisions(9, 13), revisions(10, 14), revisions(12, 11)), (None, None, None));
        let old = seen(10);
        changes.begin(10);
        assert_eq!(changes.between(old, 10), None, "of another life");
    }

    #[test]
    fn no_more_are_kept_than_may_be() {
        let changes = Changes::default();
        changes.begin(0);
        let many: Vec<_> = (0..CHANGES_KEPT + 5).map(|n| change(&n.to_string(), None)).collect();
        changes.add(&many);
        let (life, end) = (changes.life(), many.len() as u64);
        assert_eq!(changes.between(Seen { life, changes: 4 }, end), None);
        assert_eq!(changes.between(Seen { life, changes: 5 }, end).unwrap().len(), CHANGES_KEPT);
        let long = "k".repeat(KEY_BYTES_KEPT / 4);
        changes.add(&vec![change(&long, None); 6]);
        let end = end + 6;
        assert_eq!(changes.between(Seen { life, changes: end - 5 }, end), None);
        assert_eq!(changes.between(Seen { life, changes: end - 4 }, end).unwrap().len(), 1);
    }
}
