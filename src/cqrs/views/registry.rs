//! Which buckets there are, and the tasks that keep their views.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Clock, KIND, OPEN_AT_ONCE, file, topic};
use super::error::{Error, Result};
use super::projection;
use super::settings::{Described, Settings, described, topic_settings};
use crate::cqrs::store::Store;
use crate::engine::{self, Engine, Intent};
use crate::model::limits::MAX_BUCKETS;
use crate::model::{Name, Timestamp};

/// The buckets that are there.
pub(super) struct Registry {
    engine: Arc<dyn Engine>,
    directory: Option<PathBuf>,
    pub(super) clock: Arc<Clock>,
    /// Held while a view is opened.
    pub(super) opening: Arc<Semaphore>,
    open: Mutex<HashMap<Name, Open>>,
    /// Held while buckets are created and deleted, so that a view is there exactly for those that are.
    pub(super) changing: tokio::sync::Mutex<()>,
    stop: CancellationToken,
}

/// A bucket and the task that keeps its view.
struct Open {
    bucket: Arc<Bucket>,
    /// When its topic was created: one made later under the name is another bucket.
    created: Timestamp,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Registry {
    pub(super) async fn open(
        engine: &Arc<dyn Engine>,
        directory: Option<PathBuf>,
    ) -> engine::Result<Arc<Self>> {
        let registry = Arc::new(Self {
            engine: Arc::clone(engine),
            directory,
            clock: Arc::default(),
            opening: Arc::new(Semaphore::new(OPEN_AT_ONCE)),
            open: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            stop: CancellationToken::new(),
        });
        for topic in engine.internal_topics(KIND).await? {
            if let Some(name) = topic.name.internal_of(KIND) {
                registry.start(name, topic.create_time);
            }
        }
        registry.remove_left_over().await;
        Ok(registry)
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

    pub(super) async fn close(&self) {
        self.stop.cancel();
        let open: Vec<_> = self.lock().drain().map(|(_, open)| open.task).collect();
        futures::future::join_all(open).await;
    }

    /// Not to be dropped before its end.
    pub(super) async fn create(self: Arc<Self>, name: Name, settings: Settings) -> Result<Described> {
        let _changing = self.changing.lock().await;
        let is_new = !self.lock().contains_key(&name);
        if is_new && self.lock().len() >= MAX_BUCKETS {
            return Err(Error::TooManyBuckets);
        }
        let created = self.engine.create_topic(topic(&name), topic_settings(&settings), Intent::Apply).await;
        let created = created.map_err(|error| Error::of(&name, error))?;
        let is_open = self.lock().get(&name).is_some_and(|open| open.created == created.create_time);
        if !is_open {
            self.end(&name).await;
            self.start(name.clone(), created.create_time);
        }
        Ok(described(name, &created))
    }

    /// Not to be dropped before its end.
    pub(super) async fn delete(self: Arc<Self>, name: Name, expected: Option<u64>) -> Result<()> {
        let _changing = self.changing.lock().await;
        let deleted = self.engine.delete_topic(&topic(&name), expected).await;
        let deleted = deleted.map_err(|error| Error::of(&name, error));
        // Also what a deletion that failed half-way has left.
        if matches!(deleted, Ok(()) | Err(Error::BucketNotFound(_))) {
            self.end(&name).await;
        }
        deleted
    }

    pub(super) fn bucket(&self, name: &Name) -> Result<Arc<Bucket>> {
        let bucket = self.lock().get(name).map(|open| Arc::clone(&open.bucket));
        if bucket.is_none() && self.stop.is_cancelled() {
            return Err(Error::Engine(engine::Error::Closed));
        }
        bucket.ok_or_else(|| Error::BucketNotFound(name.clone()))
    }

    fn start(self: &Arc<Self>, name: Name, created: Timestamp) {
        let engine = Arc::clone(&self.engine);
        let bucket = Bucket::new(name.clone(), engine, self.directory.as_deref(), self);
        let (bucket, stop) = (Arc::new(bucket), self.stop.child_token());
        let task = tokio::spawn(projection::run(Arc::clone(&bucket), stop.clone()));
        self.lock().insert(name, Open { bucket, created, stop, task });
    }

    /// Ends a bucket whose topic is gone, and removes its view.
    async fn end(&self, name: &Name) {
        let open = self.lock().remove(name);
        let Some(Open { bucket, stop, task, .. }) = open else { return };
        bucket.delete();
        stop.cancel();
        let _ = task.await;
        if let Err(error) = bucket.store.remove().await {
            tracing::warn!(bucket = %name, %error, "cannot remove the view of a deleted bucket");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
