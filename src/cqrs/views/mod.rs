//! Key-value views: buckets of entries, written to a topic, read from a view of it.
//!
//! A bucket is a compacted topic of the server's own: an entry is the last message with its key, and its
//! revision is that message's offset. What a bucket's owner chose is in the topic's settings and labels, so there is no second
//! source of truth. Each bucket has a [projection] that keeps a [view](tables) of it; reads go to
//! the view, writes to the topic, and neither waits for the other unless asked to.

mod bucket;
mod changes;
mod entry;
mod error;
mod history;
mod projection;
mod query;
mod settings;
mod tables;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::bucket::{Clock, file, topic};
use self::settings::{described, settings};
use super::store::Store;
use crate::engine::{self, Engine, Intent, TopicChange};
use crate::model::limits::{MAX_BUCKETS, MAX_ENTRY_WATCHES};
use crate::model::{Name, Timestamp, Topic};

pub(crate) use self::bucket::{Bucket, List};
pub(crate) use self::changes::Seen;
pub(crate) use self::entry::{About, Entry, Score, Version, What, Write};
pub(crate) use self::error::{Error, Result};
pub(crate) use self::query::{By, Mark, Order, Selection};
pub(crate) use self::settings::{Described, Settings, SettingsChange};
pub(crate) use self::watch::{Part, Watch};

/// The buckets of a server.
pub(crate) struct Views {
    engine: Arc<dyn Engine>,
    directory: Option<PathBuf>,
    clock: Arc<Clock>,
    open: Mutex<HashMap<Name, Open>>,
    /// Held while buckets are created and deleted, so that a view is there exactly for those that are.
    changing: tokio::sync::Mutex<()>,
    watches: Arc<Semaphore>,
    stop: CancellationToken,
}

/// A bucket and the task that keeps its view.
struct Open {
    bucket: Arc<Bucket>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Views {
    /// Takes up the buckets that are there. Their views may take longer; reads wait for them.
    pub(crate) async fn open(engine: &Arc<dyn Engine>, directory: Option<PathBuf>) -> engine::Result<Self> {
        let views = Self {
            engine: Arc::clone(engine),
            directory,
            clock: Arc::default(),
            open: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            watches: Arc::new(Semaphore::new(MAX_ENTRY_WATCHES)),
            stop: CancellationToken::new(),
        };
        let topics = engine.internal_topics(bucket::KIND).await?;
        topics
            .iter()
            .filter_map(|topic| topic.name.internal_of(bucket::KIND))
            .for_each(|name| views.start(name));
        views.remove_left_over().await;
        Ok(views)
    }

    /// Removes the views of buckets that are gone: the server may have died before it could.
    async fn remove_left_over(&self) {
        let Some(directory) = &self.directory else { return };
        let files: Vec<_> = self.lock().keys().map(file).collect();
        let keep = move |name: &str| !name.starts_with("kv-") || files.iter().any(|file| file == name);
        if let Err(error) = Store::remove_others(directory, keep).await {
            tracing::warn!(%error, "cannot remove views of buckets that are gone");
        }
    }

    /// Stops keeping views, and has them written to disk.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        let open: Vec<_> = self.lock().drain().map(|(_, open)| open.task).collect();
        futures::future::join_all(open).await;
    }

    /// Creates a bucket. One with the same settings is returned as it is.
    pub(crate) async fn create(&self, name: Name, settings: Settings) -> Result<Described> {
        let _changing = self.changing.lock().await;
        let is_new = !self.lock().contains_key(&name);
        if is_new && self.lock().len() >= MAX_BUCKETS {
            return Err(Error::TooManyBuckets);
        }
        let created = self
            .engine
            .create_topic(topic(&name), self::settings::topic_settings(&settings), Intent::Apply)
            .await;
        let created = created.map_err(|error| Error::of(&name, error))?;
        if is_new {
            self.start(name.clone());
        }
        Ok(described(name, &created))
    }

    /// A bucket's settings, and where it stands.
    pub(crate) async fn describe(&self, name: &Name) -> Result<Described> {
        let topic = self.engine.topic(&topic(name)).await.map_err(|error| Error::of(name, error))?;
        Ok(described(name.clone(), &topic))
    }

    /// Buckets in the order of their names, after one, at most `limit`.
    pub(crate) async fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Described>> {
        let topics = self.engine.internal_topics(bucket::KIND).await.map_err(Error::Engine)?;
        let of = |topic: &Topic| Some(described(topic.name.internal_of(bucket::KIND)?, topic));
        let mut buckets: Vec<_> = topics.iter().filter_map(of).collect();
        buckets.retain(|bucket| after.is_none_or(|after| bucket.name > *after));
        buckets.sort_by(|a, b| a.name.cmp(&b.name));
        buckets.truncate(limit);
        Ok(buckets)
    }

    /// Changes a bucket's settings; with `expected`, only if its revision is still that one.
    pub(crate) async fn update(
        &self,
        name: &Name,
        change: SettingsChange,
        expected: Option<u64>,
    ) -> Result<Described> {
        let _changing = self.changing.lock().await;
        let before = self.engine.topic(&topic(name)).await.map_err(|error| Error::of(name, error))?;
        let new = self::settings::topic_settings(&change.apply(settings(&before)));
        let change = TopicChange {
            labels: Some(new.labels),
            max_message_bytes: Some(new.max_message_bytes),
            ..TopicChange::default()
        };
        let updated = self.engine.update_topic(&topic(name), change, expected, Intent::Apply).await;
        Ok(described(name.clone(), &updated.map_err(|error| Error::of(name, error))?))
    }

    /// Deletes a bucket with all its entries.
    pub(crate) async fn delete(&self, name: &Name, expected: Option<u64>) -> Result<()> {
        let _changing = self.changing.lock().await;
        let deleted = self.engine.delete_topic(&topic(name), expected).await;
        deleted.map_err(|error| Error::of(name, error))?;
        let open = self.lock().remove(name);
        if let Some(Open { bucket, stop, task }) = open {
            bucket.delete();
            stop.cancel();
            let _ = task.await;
            if let Err(error) = bucket.store.remove().await {
                tracing::warn!(bucket = %name, %error, "cannot remove the view of a deleted bucket");
            }
        }
        Ok(())
    }

    /// A bucket to read and write.
    pub(crate) fn bucket(&self, name: &Name) -> Result<Arc<Bucket>> {
        let bucket = self.lock().get(name).map(|open| Arc::clone(&open.bucket));
        if bucket.is_none() && self.stop.is_cancelled() {
            return Err(Error::Engine(engine::Error::Closed));
        }
        bucket.ok_or_else(|| Error::BucketNotFound(name.clone()))
    }

    /// Watches the first entries of a selection, or all of them; from where another watch was, if that is
    /// still known.
    pub(crate) fn watch(
        &self,
        name: &Name,
        selection: Selection,
        limit: Option<usize>,
        seen: Option<Seen>,
    ) -> Result<Watch> {
        let place = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| Error::TooManyWatches)?;
        Ok(Watch::new(self.bucket(name)?, selection, limit, seen, place))
    }

    /// The time that decides what has expired.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn start(&self, name: Name) {
        let engine = Arc::clone(&self.engine);
        let bucket = Bucket::new(name.clone(), engine, Arc::clone(&self.clock), self.directory.as_deref());
        let (bucket, stop) = (Arc::new(bucket), self.stop.child_token());
        let task = tokio::spawn(projection::run(Arc::clone(&bucket), stop.clone()));
        self.lock().insert(name, Open { bucket, stop, task });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
