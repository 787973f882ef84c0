//! A bucket: its topic, its view, and reading the view.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use redb::ReadTransaction;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::changes::Changes;
use super::entry::Entry;
use super::error::{Error, Result};
use super::query::{Found, Mark, Selection, find};
use super::registry::Registry;
use super::tables::{Place, about_entry, read_place, value};
use crate::cqrs::store::{self, Store};
use crate::engine::{self, Engine};
use crate::model::limits::VIEW_CACHE_BYTES;
use crate::model::{Name, Offset, Timestamp};

/// How long a read waits for a view that is being made.
const READY_WAIT: Duration = Duration::from_secs(5);
/// How long a read that finds the view changed under it waits before it looks again.
const AGAIN: Duration = Duration::from_millis(10);
/// Views that are opened at once: each reads its whole file, on threads that are the whole server's.
pub(super) const OPEN_AT_ONCE: usize = 4;

/// The wall clock, except that it never runs backward: what has vanished stays so.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// Goes forward at once.
    #[cfg(test)]
    pub(super) fn advance(&self, by: Duration) {
        let to = self.now().0 + u64::try_from(by.as_micros()).expect("a test's time");
        self.0.fetch_max(to, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp(self.0.fetch_max(now.0, Ordering::Relaxed).max(now.0))
    }
}

/// Whether a view can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It does not have yet what the topic had when it began.
    Starting,
    Ready,
    /// The bucket is gone.
    Deleted,
    /// The server stops.
    Closed,
}

/// Where a view stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) stage: Stage,
    pub(super) place: Place,
    /// Where the topic ended when it was last looked at.
    pub(super) last: Offset,
}

/// A bucket and its view. The [projection](super::projection) alone writes the view.
pub(crate) struct Bucket {
    pub(super) name: Name,
    pub(super) topic: Name,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<Clock>,
    pub(super) store: Store,
    pub(super) changes: Arc<Changes>,
    pub(super) progress: watch::Sender<Progress>,
    /// Wakes the projection: there may be something new in the topic.
    pub(super) poke: Notify,
    /// A reader has found that the view is damaged.
    pub(super) is_damaged: AtomicBool,
    /// Why the view does not go on, if it does not.
    trouble: Mutex<Option<store::Error>>,
    /// Held while the view is opened; of all buckets.
    pub(super) opening: Arc<Semaphore>,
    registry: Weak<Registry>,
}

/// Which entries to list.
#[derive(Debug, Clone)]
pub(crate) struct List {
    pub(crate) selection: Selection,
    pub(crate) after: Option<Mark>,
    /// At most so many, at least 1.
    pub(crate) limit: usize,
    /// At most so many bytes of keys and values; one entry is always allowed.
    pub(crate) bytes: usize,
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) entries: Vec<Entry>,
    /// Where to go on, if there is more.
    pub(crate) next: Option<Mark>,
    /// The revision of the bucket that it shows.
    pub(crate) revision: Offset,
    /// Rows that were looked at.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests measure the cost by it"))]
    pub(crate) steps: u64,
}

/// The kind of topics that buckets have.
pub(super) const KIND: &str = "kv";

/// The name of a bucket's topic.
pub(super) fn topic(bucket: &Name) -> Name {
    Name::internal(KIND, bucket)
}

/// The name of the file of a bucket's view.
pub(super) fn file(bucket: &Name) -> String {
    format!("kv-{bucket}.redb")
}

impl Bucket {
    pub(super) fn new(
        name: Name,
        engine: Arc<dyn Engine>,
        directory: Option<&Path>,
        registry: &Arc<Registry>,
    ) -> Self {
        let start = Progress { stage: Stage::Starting, place: Place::default(), last: 0 };
        Self {
            topic: topic(&name),
            store: Store::closed(directory, &file(&name), VIEW_CACHE_BYTES),
            name,
            engine,
            clock: Arc::clone(&registry.clock),
            opening: Arc::clone(&registry.opening),
            registry: Arc::downgrade(registry),
            changes: Arc::default(),
            progress: watch::Sender::new(start),
            poke: Notify::new(),
            is_damaged: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    /// Says to all who read, write or watch it that it is gone.
    pub(super) fn delete(&self) {
        self.progress.send_modify(|progress| progress.stage = Stage::Deleted);
    }

    /// Wakes whoever keeps the view of the bucket of this name now.
    pub(super) fn wake(&self) {
        let now = self.registry.upgrade().and_then(|registry| registry.bucket(&self.name).ok());
        now.as_deref().unwrap_or(self).poke.notify_one();
    }

    /// Notes why the view does not go on, or that it does.
    pub(super) fn set_trouble(&self, trouble: Option<store::Error>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why the view is not where a reader needs it to be: the trouble that it has, or else this.
    fn trouble_or(&self, otherwise: impl FnOnce(Progress) -> Error) -> Error {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        trouble.map_or_else(|| otherwise(*self.progress.borrow()), Error::Store)
    }

    fn not_ready(&self) -> Error {
        let bucket = self.name.clone();
        self.trouble_or(|Progress { place, last, .. }| Error::NotReady {
            bucket,
            position: place.position,
            last,
        })
    }

    pub(super) fn error(&self, error: engine::Error) -> Error {
        Error::of(&self.name, error)
    }

    /// An entry, as of this revision of the bucket or a later one.
    pub(crate) async fn get(&self, key: String, min_revision: Offset, patience: Duration) -> Result<Entry> {
        let now = self.clock.now();
        let asked = key.clone();
        let get = move |transaction: &ReadTransaction| {
            let about = about_entry(transaction, &asked)?.filter(|about| !about.is_expired(now));
            let Some(about) = about else { return Ok(None) };
            let value = value(transaction, &asked)?;
            Ok(Some(Entry { key: asked.into(), value, about }))
        };
        let found = self.read(min_revision, patience, get).await?;
        found.ok_or_else(|| Error::EntryNotFound { bucket: self.name.clone(), key })
    }

    /// A part of the list of entries, as of this revision of the bucket or a later one.
    pub(crate) async fn list(&self, list: List, min_revision: Offset, patience: Duration) -> Result<Listed> {
        let now = self.clock.now();
        let caller = CancellationToken::new();
        let _gone = caller.clone().drop_guard();
        self.read(min_revision, patience, move |transaction| list.run(transaction, now, &caller)).await
    }

    /// Reads the view once it has come to a revision.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        min_revision: Offset,
        patience: Duration,
        read: impl FnOnce(&ReadTransaction) -> store::Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let begin = tokio::time::Instant::now();
        loop {
            let life = self.changes.life();
            self.reached(min_revision, patience.saturating_sub(begin.elapsed())).await?;
            let read = read.clone();
            // A view that was opened again may have gone back, or be empty.
            let done = self.store.read(move |transaction| {
                let place = read_place(transaction)?;
                let is_there = !place.is_nowhere() && place.position >= min_revision;
                is_there.then(|| read(transaction)).transpose()
            });
            match done.await {
                // In another life it may have been read while it was being made.
                Ok(Some(done)) if life == self.changes.life() => return Ok(done),
                Ok(_) if begin.elapsed() >= patience => return Err(self.not_ready()),
                Ok(_) => tokio::time::sleep(AGAIN).await,
                Err(error) => {
                    if matches!(error, store::Error::Damaged(_)) {
                        self.is_damaged.store(true, Ordering::Relaxed);
                        self.poke.notify_one();
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// Waits until the view can be read, and has come to a revision.
    pub(super) async fn reached(&self, revision: Offset, patience: Duration) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let ready = progress.wait_for(|progress| progress.stage != Stage::Starting);
        let is_ready = tokio::time::timeout(patience.min(READY_WAIT), ready).await.is_ok();
        if !is_ready {
            return Err(self.not_ready());
        }
        let reached = progress
            .wait_for(|progress| progress.stage != Stage::Ready || progress.place.position >= revision);
        let reached = tokio::time::timeout(patience, reached).await.is_ok();
        let stage = self.progress.borrow().stage;
        match stage {
            Stage::Deleted => Err(Error::BucketNotFound(self.name.clone())),
            Stage::Closed => Err(Error::Engine(engine::Error::Closed)),
            Stage::Starting | Stage::Ready if reached => Ok(()),
            Stage::Starting | Stage::Ready => Err(self.trouble_or(|progress| Error::FutureRevision {
                bucket: self.name.clone(),
                wanted: revision,
                position: progress.place.position,
                waited: patience,
            })),
        }
    }
}

impl List {
    /// `caller` is cancelled when nobody waits any more.
    fn run(
        &self,
        transaction: &ReadTransaction,
        now: Timestamp,
        caller: &CancellationToken,
    ) -> store::Result<Listed> {
        let (after, limit) = (self.after.as_ref(), self.limit + 1);
        let answer = find(transaction, &self.selection, after, limit, Some(now), caller)?;
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, None::<Mark>);
        let mut last = None;
        for found in answer.found {
            if entries.len() == self.limit || (bytes >= self.bytes && !entries.is_empty()) {
                next = last;
                break;
            }
            last = Some(found.mark());
            let entry = with_value(transaction, found)?;
            bytes += entry.key.len() + entry.value.len();
            entries.push(entry);
        }
        let revision = read_place(transaction)?.position;
        Ok(Listed { entries, next, revision, steps: answer.steps })
    }
}

/// An entry that was found in the same transaction.
pub(super) fn with_value(transaction: &ReadTransaction, found: Found) -> store::Result<Entry> {
    let value = value(transaction, &found.key)?;
    Ok(Entry { key: found.key, value, about: found.about })
}
