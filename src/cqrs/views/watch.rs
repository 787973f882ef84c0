//! Watching a selection: what it is, then how it changes.
//!
//! A watch reads the view whenever it has moved on and whoever watches has taken what came before. So a slow
//! one gets fewer and larger steps, and nothing waits for it. After each step, what it has been told of is
//! the selection as of one revision, exactly.
//!
//! What has expired is in it until the view removes it, which is a change like others: judged by a clock of its
//! own, a watch would miss removals. So it may show an entry some moments after lists do not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use redb::ReadTransaction;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Progress, Stage, with_value};
use super::changes::{Changed, Seen};
use super::entry::{About, Entry};
use super::error::{Error, Result};
use super::query::{Found, Mark, Selection, find};
use super::tables::{about_entry, read_place};
use crate::cqrs::store::{self, Snapshot};
use crate::engine;
use crate::model::Offset;
use crate::model::limits::{MAX_PAGE_SIZE, MAX_WATCHED_ENTRIES, WATCH_PART_BYTES};

/// How long a step may take its reader; then what it reads is let go, and the watch begins anew. Until then the
/// view's file grows.
const STEP_TIME: Duration = Duration::from_secs(120);

/// A part of a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// What was told before does not count any more.
    pub(crate) reset: bool,
    /// Entries that are new or have changed.
    pub(crate) entries: Vec<Entry>,
    /// Keys of entries that are not in the selection any more.
    pub(crate) removed: Vec<Arc<str>>,
    /// The step goes on.
    pub(crate) incomplete: bool,
    /// What the selection is as of now that the step ends.
    pub(crate) revision: Offset,
    /// Where a later watch can go on, at the end of the step.
    pub(crate) seen: Seen,
}

/// A watch of a selection.
pub(crate) struct Watch {
    bucket: Arc<Bucket>,
    selection: Selection,
    /// Only the first so many; all, if `None`.
    limit: Option<usize>,
    progress: watch::Receiver<Progress>,
    seen: Option<Seen>,
    /// With a limit: the revisions of the entries that it consists of.
    window: BTreeMap<Arc<str>, Offset>,
    step: Option<Step>,
    _place: OwnedSemaphorePermit,
}

/// What is being told.
struct Step {
    snapshot: Snapshot,
    since: Instant,
    reset: bool,
    removed: Vec<Arc<str>>,
    entries: Entries,
    revision: Offset,
    seen: Seen,
}

enum Entries {
    /// These.
    Found(VecDeque<Found>),
    /// The whole selection, after a mark.
    All(Option<Mark>),
}

impl Watch {
    pub(super) fn new(
        bucket: Arc<Bucket>,
        selection: Selection,
        limit: Option<usize>,
        seen: Option<Seen>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let progress = bucket.progress.subscribe();
        Self { bucket, selection, limit, progress, seen, window: BTreeMap::new(), step: None, _place: place }
    }

    /// The next part, when there is something to tell. Unless it goes on where another was, the first step comes
    /// at once, even if it is empty.
    /// May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Part> {
        loop {
            if self.step.as_ref().is_some_and(Step::is_over) {
                (self.step, self.seen) = (None, None);
            }
            if self.step.is_none() {
                let life = self.bucket.changes.life();
                self.wait().await?;
                self.step = self.begin(life).await?;
            }
            let Some(step) = &mut self.step else { continue };
            let part = match step.part(&self.selection).await {
                // Its state was let go meanwhile.
                Err(_) if step.is_over() => continue,
                part => part?,
            };
            if !part.incomplete {
                self.step = None;
                self.seen = Some(part.seen);
            }
            return Ok(part);
        }
    }

    /// Waits until the view is elsewhere than where it was seen.
    async fn wait(&mut self) -> Result<()> {
        let seen = self.seen;
        let bucket = &self.bucket;
        let moved = self.progress.wait_for(|progress| match progress.stage {
            Stage::Starting => false,
            Stage::Ready => seen.is_none_or(|seen| {
                seen.changes != progress.place.changes || seen.life != bucket.changes.life()
            }),
            Stage::Deleted | Stage::Closed => true,
        });
        match moved.await.map(|progress| progress.stage) {
            Ok(Stage::Ready | Stage::Starting) => Ok(()),
            Ok(Stage::Deleted) => Err(Error::BucketDeleted(self.bucket.name.clone())),
            Ok(Stage::Closed) | Err(_) => Err(Error::Engine(engine::Error::Closed)),
        }
    }

    /// Finds out what is to be told; `None` if it is nothing.
    /// `life` is that of the view before it was found ready.
    async fn begin(&mut self, life: u64) -> Result<Option<Step>> {
        let since = Instant::now();
        let snapshot = self.bucket.store.snapshot(STEP_TIME).await?;
        let place = snapshot.read(read_place).await?;
        if place.is_nowhere() || life != self.bucket.changes.life() {
            // Perhaps it is being made anew.
            return Ok(None);
        }
        let seen = Seen { life, changes: place.changes };
        let changed = self.seen.and_then(|before| self.bucket.changes.between(before, place.changes));
        let mut step = Step {
            snapshot,
            since,
            reset: changed.is_none(),
            removed: Vec::new(),
            entries: Entries::All(None),
            revision: place.position,
            seen,
        };
        match (changed, self.limit) {
            (None, None) => {}
            (None, Some(limit)) => {
                let found = step.find(&self.selection, limit).await?;
                self.window = window(&found);
                step.entries = Entries::Found(found.into());
            }
            (Some(changed), None) => step.take_changes(&self.selection, changed).await?,
            // What it costs to look again is not spent on others' keys.
            (Some(changed), Some(_))
                if !changed.keys().any(|key| key.starts_with(&self.selection.prefix)) =>
            {
                step.entries = Entries::Found(VecDeque::new());
            }
            (Some(changed), Some(limit)) => {
                if self.window.is_empty() && !self.restore_window(&step, &changed, limit).await? {
                    self.seen = None;
                    return Box::pin(self.begin(life)).await;
                }
                self.take_window(&mut step, limit).await?;
            }
        }
        let is_empty = matches!(&step.entries, Entries::Found(found) if found.is_empty());
        if is_empty && step.removed.is_empty() && !step.reset {
            self.seen = Some(seen);
            return Ok(None);
        }
        Ok(Some(step))
    }

    /// Tells how the first entries differ from what they were.
    async fn take_window(&mut self, step: &mut Step, limit: usize) -> Result<()> {
        let found = step.find(&self.selection, limit).await?;
        let new = window(&found);
        step.removed = self.window.keys().filter(|key| !new.contains_key(*key)).cloned().collect();
        let is_new = |found: &Found| self.window.get(&found.key) != Some(&found.about.revision);
        step.entries = Entries::Found(found.into_iter().filter(is_new).collect());
        self.window = new;
        Ok(())
    }

    /// Finds out what the first entries were where the watch goes on: those of now without what has changed
    /// since, and with what that was. Says whether it could.
    async fn restore_window(&mut self, step: &Step, changed: &Changed, limit: usize) -> Result<bool> {
        if changed.len() > MAX_WATCHED_ENTRIES {
            return Ok(false);
        }
        let mut then = step.find(&self.selection, limit + changed.len()).await?;
        then.retain(|found| !changed.contains_key(&found.key));
        let before = changed.iter().filter_map(|(key, old)| Some(Found { key: key.clone(), about: (*old)? }));
        then.extend(before.filter(|found| self.selection.matches(&found.key, &found.about)));
        let place = |found: &Found| (found.about.score, found.key.clone());
        then.sort_by(|a, b| {
            let ((a_score, a_key), (b_score, b_key)) = (place(a), place(b));
            self.selection.compare((a_score, &a_key), (b_score, &b_key))
        });
        then.truncate(limit);
        self.window = window(&then);
        Ok(true)
    }
}

fn window(found: &[Found]) -> BTreeMap<Arc<str>, Offset> {
    found.iter().map(|found| (found.key.clone(), found.about.revision)).collect()
}

impl Step {
    fn is_over(&self) -> bool {
        self.since.elapsed() >= STEP_TIME
    }

    async fn find(&self, selection: &Selection, limit: usize) -> Result<Vec<Found>> {
        let (selection, caller) = (selection.clone(), CancellationToken::new());
        let _gone = caller.clone().drop_guard();
        let find =
            move |transaction: &ReadTransaction| find(transaction, &selection, None, limit, None, &caller);
        Ok(self.snapshot.read(find).await?.found)
    }

    /// Tells of all that has changed and is, or was, in the selection.
    async fn take_changes(&mut self, selection: &Selection, changed: Changed) -> Result<()> {
        let selection = selection.clone();
        let look = move |transaction: &ReadTransaction| {
            let (mut found, mut removed) = (VecDeque::new(), BTreeSet::new());
            for (key, old) in changed {
                let wanted = |about: &About| selection.matches(&key, about);
                match about_entry(transaction, &key)?.filter(wanted) {
                    Some(about) => found.push_back(Found { key, about }),
                    None if old.as_ref().is_some_and(wanted) => _ = removed.insert(key),
                    None => {}
                }
            }
            Ok((found, removed.into_iter().collect()))
        };
        let (found, removed) = self.snapshot.read(look).await?;
        (self.entries, self.removed) = (Entries::Found(found), removed);
        Ok(())
    }

    /// The next part of it. The entries that it takes are taken only when this returns.
    async fn part(&mut self, selection: &Selection) -> Result<Part> {
        let (entries, rest) = match &self.entries {
            Entries::Found(found) => {
                let found = found.clone();
                self.snapshot.read(move |transaction| values(transaction, found)).await?
            }
            Entries::All(after) => {
                let (selection, after, caller) = (selection.clone(), after.clone(), CancellationToken::new());
                let _gone = caller.clone().drop_guard();
                let page = move |transaction: &ReadTransaction| {
                    let after = after.as_ref();
                    let found = find(transaction, &selection, after, MAX_PAGE_SIZE, None, &caller)?.found;
                    let is_full = found.len() == MAX_PAGE_SIZE;
                    let last = found.last().map(Found::mark);
                    let (entries, rest) = values(transaction, found.into())?;
                    Ok((entries, rest, last.filter(|_| is_full)))
                };
                let (entries, rest, last) = self.snapshot.read(page).await?;
                match (rest, last) {
                    (Entries::Found(rest), _) if !rest.is_empty() => {
                        let last = entries.last();
                        let mark = last.map(|it| Mark { score: it.about.score, key: it.key.clone() });
                        (entries, Entries::All(mark))
                    }
                    (_, Some(last)) => (entries, Entries::All(Some(last))),
                    (rest, None) => (entries, rest),
                }
            }
        };
        let incomplete = !matches!(&rest, Entries::Found(rest) if rest.is_empty());
        self.entries = rest;
        let (reset, removed) = (std::mem::take(&mut self.reset), std::mem::take(&mut self.removed));
        Ok(Part { reset, entries, removed, incomplete, revision: self.revision, seen: self.seen })
    }
}

/// As many entries as fit into a part, with their values, and the others.
fn values(transaction: &ReadTransaction, mut found: VecDeque<Found>) -> store::Result<(Vec<Entry>, Entries)> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while bytes < WATCH_PART_BYTES && entries.len() < MAX_PAGE_SIZE {
        let Some(next) = found.pop_front() else { break };
        let entry = with_value(transaction, next)?;
        bytes += entry.key.len() + entry.value.len();
        entries.push(entry);
    }
    Ok((entries, Entries::Found(found)))
}
