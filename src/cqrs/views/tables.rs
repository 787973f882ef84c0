//! How the entries of a bucket are kept: by key, by score, by the time they vanish, and how far the topic
//! has been read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};

use super::entry::{About, Entry, Score, Version};
use crate::cqrs::store::Result;
use crate::model::limits::MAX_VERSIONS;
use crate::model::{Offset, Timestamp};

/// Revision, time, time of expiry or 0, score.
pub(super) type Row = (u64, u64, u64, Option<u64>);

/// Entries without their values, so that looking through many reads little.
pub(super) const ENTRIES: TableDefinition<'_, &str, Row> = TableDefinition::new("entries");
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
/// Entries that have a score.
pub(super) const SCORES: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("scores");
/// Entries that vanish.
const EXPIRIES: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("expiries");
/// The revisions of the last versions of a key, deletions included: 8 bytes each, the oldest first.
const VERSIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("versions");
const PLACE: TableDefinition<'_, (), (u64, u64, u64, u64)> = TableDefinition::new("place");

/// How far a view is, and of which topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// When the topic was created: another topic of the same name has another time.
    pub(super) created: Timestamp,
    /// Everything up to this offset is in the view.
    pub(crate) position: Offset,
    /// When the last message that was read was published.
    pub(super) read_time: Timestamp,
    /// Counts the changes to entries, the passing of their time included.
    pub(crate) changes: u64,
}

impl Place {
    /// Nothing has ever been written to the view.
    pub(super) fn is_nowhere(&self) -> bool {
        self.created == Timestamp(0)
    }

    /// Nothing of the topic has been read yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.position == 0
    }
}

/// A change to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(super) key: Arc<str>,
    /// What was there before.
    pub(super) old: Option<About>,
    pub(super) new: Option<About>,
}

fn about((revision, time, expiry, score): Row) -> About {
    About {
        revision,
        time: Timestamp(time),
        expire_time: (expiry > 0).then_some(Timestamp(expiry)),
        score: score.map(Score::from_bits),
    }
}

fn row(about: &About) -> Row {
    let expiry = about.expire_time.map_or(0, |time| time.0.max(1));
    (about.revision, about.time.0, expiry, about.score.map(Score::bits))
}

/// The tables, open for changes. [`finish`](Self::finish) them.
pub(super) struct Tables<'t> {
    entries: Table<'t, &'static str, Row>,
    values: Table<'t, &'static str, &'static [u8]>,
    scores: Table<'t, (u64, &'static str), ()>,
    expiries: Table<'t, (u64, &'static str), ()>,
    versions: Table<'t, &'static str, &'static [u8]>,
    /// What becomes of rows of `scores`: whether they are there. Scores are all over their table, so it is gone
    /// through once, in order, for many of them.
    marks: BTreeMap<(u64, Arc<str>), bool>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            entries: transaction.open_table(ENTRIES)?,
            values: transaction.open_table(VALUES)?,
            scores: transaction.open_table(SCORES)?,
            expiries: transaction.open_table(EXPIRIES)?,
            versions: transaction.open_table(VERSIONS)?,
            marks: BTreeMap::new(),
        })
    }

    /// Does what a message says. One that has expired already removes the entry.
    pub(super) fn apply(&mut self, version: Version, now: Timestamp) -> Result<Change> {
        match version {
            Version::Deleted { key, revision, .. } => {
                self.note_version(&key, revision)?;
                Ok(Change { old: self.remove(&key)?, new: None, key })
            }
            Version::Put(Entry { key, about, .. }) if about.is_expired(now) => {
                self.note_version(&key, about.revision)?;
                Ok(Change { old: self.remove(&key)?, new: None, key })
            }
            Version::Put(Entry { key, value, about: new }) => {
                self.note_version(&key, new.revision)?;
                let old = self.entries.insert(&*key, row(&new))?.map(|row| about(row.value()));
                self.values.insert(&*key, &*value)?;
                self.mark(&key, old.as_ref(), Some(&new))?;
                Ok(Change { key, old, new: Some(new) })
            }
        }
    }

    fn remove(&mut self, key: &Arc<str>) -> Result<Option<About>> {
        let Some(old) = self.entries.remove(&**key)?.map(|row| about(row.value())) else { return Ok(None) };
        self.values.remove(&**key)?;
        self.mark(key, Some(&old), None)?;
        Ok(Some(old))
    }

    /// Makes the other orders follow what has become of an entry.
    fn mark(&mut self, key: &Arc<str>, old: Option<&About>, new: Option<&About>) -> Result<()> {
        let score = |about: Option<&About>| about.and_then(|about| about.score);
        let (before, after) = (score(old), score(new));
        if before != after {
            self.marks.extend(before.map(|score| ((score.bits(), key.clone()), false)));
            self.marks.extend(after.map(|score| ((score.bits(), key.clone()), true)));
        }
        let expiry = |about: Option<&About>| about.and_then(|about| about.expire_time);
        let (before, after) = (expiry(old), expiry(new));
        if before != after {
            if let Some(time) = before {
                self.expiries.remove((time.0, &**key))?;
            }
            if let Some(time) = after {
                self.expiries.insert((time.0, &**key), ())?;
            }
        }
        Ok(())
    }

    /// Does what was put off.
    pub(super) fn finish(mut self) -> Result<()> {
        for ((score, key), is_there) in self.marks {
            if is_there {
                self.scores.insert((score, &*key), ())?;
            } else {
                self.scores.remove((score, &*key))?;
            }
        }
        Ok(())
    }

    fn note_version(&mut self, key: &str, revision: Offset) -> Result<()> {
        let known = self.versions.get(key)?.map(|bytes| bytes.value().to_vec()).unwrap_or_default();
        let surplus = (known.len() / 8 + 1).saturating_sub(MAX_VERSIONS) * 8;
        let all = [&known[surplus..], &revision.to_le_bytes()].concat();
        self.versions.insert(key, &*all)?;
        Ok(())
    }

    /// Removes entries whose time has come, at most so many.
    pub(super) fn expire(&mut self, now: Timestamp, limit: usize) -> Result<Vec<Change>> {
        let due = self.expiries.range(..(now.0.saturating_add(1), ""))?.take(limit);
        let due = due.map(|row| Ok::<Arc<str>, redb::StorageError>(row?.0.value().1.into()));
        let due: Vec<_> = due.collect::<std::result::Result<_, _>>()?;
        due.into_iter().map(|key| Ok(Change { old: self.remove(&key)?, new: None, key })).collect()
    }

    /// When the next entry vanishes.
    pub(super) fn next_expiry(&self) -> Result<Option<Timestamp>> {
        Ok(self.expiries.first()?.map(|row| Timestamp(row.0.value().0)))
    }
}

/// How far the view is; what a new one says before it was given a place.
pub(super) fn place(transaction: &WriteTransaction) -> Result<Place> {
    let table = transaction.open_table(PLACE)?;
    let row = table.get(())?.map(|row| row.value());
    Ok(row.map_or_else(Place::default, to_place))
}

pub(super) fn set_place(transaction: &WriteTransaction, place: Place) -> Result<()> {
    let row = (place.created.0, place.position, place.read_time.0, place.changes);
    transaction.open_table(PLACE)?.insert((), row)?;
    Ok(())
}

/// How far the view is; nowhere, if it is empty.
pub(super) fn read_place(transaction: &ReadTransaction) -> Result<Place> {
    let table = match transaction.open_table(PLACE) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Place::default()),
        table => table?,
    };
    let row = table.get(())?.map(|row| row.value());
    Ok(row.map_or_else(Place::default, to_place))
}

fn to_place((created, position, read_time, changes): (u64, u64, u64, u64)) -> Place {
    Place { created: Timestamp(created), position, read_time: Timestamp(read_time), changes }
}

/// An entry that is in the view, although it may have expired.
pub(super) fn about_entry(transaction: &ReadTransaction, key: &str) -> Result<Option<About>> {
    Ok(transaction.open_table(ENTRIES)?.get(key)?.map(|row| about(row.value())))
}

/// What a row of [`ENTRIES`] says.
pub(super) fn about_row(row: Row) -> About {
    about(row)
}

/// The value of an entry that is there.
pub(super) fn value(transaction: &ReadTransaction, key: &str) -> Result<Bytes> {
    let value = transaction.open_table(VALUES)?.get(key)?;
    Ok(value.map(|value| Bytes::copy_from_slice(value.value())).unwrap_or_default())
}

/// The revisions that a key has had, the newest first.
pub(super) fn versions(transaction: &ReadTransaction, key: &str) -> Result<Vec<Offset>> {
    let row = transaction.open_table(VERSIONS)?.get(key)?;
    let Some(bytes) = row.as_ref().map(redb::AccessGuard::value) else { return Ok(Vec::new()) };
    let revisions = bytes.chunks_exact(8).rev().map(|bytes| bytes.try_into().expect("8 bytes"));
    Ok(revisions.map(u64::from_le_bytes).collect())
}
