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
mod registry;
mod settings;
mod tables;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use self::bucket::topic;
use self::registry::Registry;
use self::settings::{described, settings};
use crate::engine::{self, Engine, Intent, TopicChange};
use crate::model::limits::MAX_ENTRY_WATCHES;
use crate::model::{Name, Offset, Timestamp, Topic};

pub(crate) use self::bucket::{Bucket, List};
pub(crate) use self::changes::Seen;
pub(crate) use self::entry::{About, Entry, Score, Version, What, Write};
pub(crate) use self::error::{Error, Result};
pub(crate) use self::query::{By, Mark, Order, Selection};
pub(crate) use self::settings::{Described, Settings, SettingsChange};
pub(crate) use self::watch::{Part, Watch};

/// The buckets of a server.
pub(crate) struct Views {
    registry: Arc<Registry>,
    engine: Arc<dyn Engine>,
    watches: Arc<Semaphore>,
}

impl Views {
    /// Takes up the buckets that are there. Their views may take longer; reads wait for them.
    pub(crate) async fn open(engine: &Arc<dyn Engine>, directory: Option<PathBuf>) -> engine::Result<Self> {
        let registry = Registry::open(engine, directory).await?;
        let watches = Arc::new(Semaphore::new(MAX_ENTRY_WATCHES));
        Ok(Self { registry, engine: Arc::clone(engine), watches })
    }

    /// Stops keeping views, and has them written to disk.
    pub(crate) async fn close(&self) {
        self.registry.close().await;
    }

    /// Creates a bucket. One with the same settings is returned as it is. Goes on to its end when it is
    /// dropped.
    pub(crate) async fn create(&self, name: Name, settings: Settings) -> Result<Described> {
        to_its_end(Arc::clone(&self.registry).create(name, settings)).await
    }

    /// Deletes a bucket with all its entries. Goes on to its end when it is dropped.
    pub(crate) async fn delete(&self, name: &Name, expected: Option<u64>) -> Result<()> {
        to_its_end(Arc::clone(&self.registry).delete(name.clone(), expected)).await
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
        let _changing = self.registry.changing.lock().await;
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

    /// How many messages each view has not taken in, by the topic of its bucket.
    pub(crate) async fn lags(&self) -> Vec<(Name, Offset)> {
        let topics = self.engine.internal_topics(bucket::KIND).await.unwrap_or_default();
        let lag = |topic: Topic| {
            let bucket = self.registry.bucket(&topic.name.internal_of(bucket::KIND)?).ok()?;
            let position = bucket.progress.borrow().place.position;
            Some((topic.name, topic.last_offset.saturating_sub(position)))
        };
        topics.into_iter().filter_map(lag).collect()
    }

    /// A bucket to read and write.
    pub(crate) fn bucket(&self, name: &Name) -> Result<Arc<Bucket>> {
        self.registry.bucket(name)
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
        self.registry.clock.now()
    }
}

/// Does something whoever waits for it.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
