//! The embedded engine: one log on the local disk, and leases in memory over it.
//!
//! In reading order: [`topics`], [`subscriptions`] and [`mod@commit`] are the engine's operations; [`log`] is the
//! write path and the read path; [`delivery`] decides who gets what; [`state`] is what the log says,
//! kept by the writer, stored by [`checkpoint`], rebuilt by recovery.

mod asking;
mod attempts;
mod checkpoint;
mod cleaner;
mod commit;
mod delivery;
mod directory;
mod idle;
mod log;
mod meters;
mod moving;
mod names;
mod open;
mod progress;
mod records;
mod removed;
mod state;
mod stored;
mod subscriptions;
#[cfg(test)]
mod tests;
mod topic;
mod topics;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};

use self::delivery::ack_id::Signer;
use self::log::Log;
use self::subscriptions::SubscriptionHandle;
use self::topic::TopicHandle;
use crate::engine::{
    Announcer, Capabilities, Consumer, Credit, Engine, Error, Intent, Operation, Outcome, Page,
    PendingReceipt, Purged, ReadLimit, Readings, Result, Settled, Settlement, SubscriptionChange, Target,
    Terms, TopicChange, TopicChanged, Watch,
};
use crate::model::limits::{MAX_CONSUMERS, MAX_COVERED_TOPICS, MAX_PATTERN_TOPICS};
use crate::model::{
    Advisory, ConsumerInfo, Delivery, Envelope, Explanation, Name, Notice, Offset, Pattern, Receipt, Start,
    StoredMessage, Subscription, SubscriptionSettings, SubscriptionStats, Topic, TopicSettings,
};

pub use self::open::{OpenError, Options};

/// The engine that keeps one log on the local disk. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedEngine(Arc<Shared>);

struct Shared {
    log: Log,
    signer: Signer,
    catalog: RwLock<Catalog>,
    /// Held while topics or subscriptions change; the last number given to one.
    changes: tokio::sync::Mutex<u64>,
    /// A permit for each open consumer.
    consumers: Arc<Semaphore>,
    last_consumer: AtomicU64,
    /// Told when a subscription is new or changed, and may expire sooner.
    expiry_changed: Arc<Notify>,
    advisories: Announcer<Advisory>,
    topic_changes: Announcer<TopicChanged>,
    /// Changes when there is a new topic.
    topic_added: watch::Sender<()>,
    /// The reason once the engine is closed.
    end: watch::Sender<Option<Error>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What there is, by name.
#[derive(Default)]
struct Catalog {
    topics: BTreeMap<Name, Arc<TopicHandle>>,
    subscriptions: BTreeMap<Name, Arc<SubscriptionHandle>>,
}

impl Catalog {
    /// The subscriptions with patterns that cover a topic, all of which may cover one more.
    fn readers_to_be(&self, topic: &Name) -> Result<Vec<Arc<SubscriptionHandle>>> {
        let is_reader =
            |handle: &&Arc<SubscriptionHandle>| handle.is_pattern() && handle.reads.matches(topic);
        let readers: Vec<_> = self.subscriptions.values().filter(is_reader).cloned().collect();
        let is_full = !readers.is_empty() && self.covered() + readers.len() > MAX_COVERED_TOPICS;
        let full = |reader: &&Arc<SubscriptionHandle>| is_full || reader.lanes().len() >= MAX_PATTERN_TOPICS;
        if let Some(reader) = readers.iter().find(full) {
            let (pattern, subscription) = (reader.reads.clone(), Some(reader.name.clone()));
            return Err(Error::PatternFull { pattern, subscription });
        }
        Ok(readers)
    }

    /// Whether a new pattern may cover so many topics.
    fn check_covered(&self, pattern: &Pattern, topics: usize) -> Result<()> {
        if topics > MAX_PATTERN_TOPICS || self.covered() + topics > MAX_COVERED_TOPICS {
            return Err(Error::PatternFull { pattern: pattern.clone(), subscription: None });
        }
        Ok(())
    }

    /// How many topics all patterns cover, one by one.
    fn covered(&self) -> usize {
        let patterns = self.subscriptions.values().filter(|handle| handle.is_pattern());
        patterns.map(|handle| handle.lanes().len()).sum()
    }
}

impl Shared {
    fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_topic(&self, name: &Name) -> Result<Arc<TopicHandle>> {
        self.check_open()?;
        let topic = self.catalog().topics.get(name).cloned();
        topic.ok_or_else(|| Error::TopicNotFound(name.clone()))
    }

    fn find_subscription(&self, name: &Name) -> Result<Arc<SubscriptionHandle>> {
        self.check_open()?;
        let subscription = self.catalog().subscriptions.get(name).cloned();
        subscription.ok_or_else(|| Error::SubscriptionNotFound(name.clone()))
    }

    /// The right to change topics and subscriptions, with the last number that one has. While the writer waits
    /// for space, changes are refused: they would be made when nobody waits for them any more.
    async fn changing(&self) -> Result<tokio::sync::MutexGuard<'_, u64>> {
        self.log.check_stall()?;
        let changes = self.changes.lock().await;
        self.log.check_stall()?;
        Ok(changes)
    }

    fn check_open(&self) -> Result<()> {
        self.end.borrow().clone().map_or(Ok(()), Err)
    }

    /// Resolves when the engine ends.
    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut end = self.end.subscribe();
        async move {
            let _ = end.wait_for(Option::is_some).await;
        }
    }

    fn consumer_number(&self) -> u64 {
        self.last_consumer.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn close(&self) {
        self.log.close().await;
        let ended = self.end.send_replace(Some(Error::Closed)).is_some();
        if ended {
            return;
        }
        for subscription in self.catalog().subscriptions.values() {
            subscription.end(Error::Closed);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(JoinHandle::join));
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("a thread of the log ended by a panic");
        }
    }
}

/// Runs a change to its end even if the caller goes away: what the log has must also be in memory.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(change).await.unwrap_or(Err(Error::Closed))
}

/// The entries of a page, from a map by name.
fn page<'a, T>(map: &'a BTreeMap<Name, T>, page: &'a Page) -> impl Iterator<Item = &'a T> {
    let after = page.after.as_ref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let entries = map.range::<Name, _>((after, std::ops::Bound::Unbounded));
    let matches = |name: &Name| page.pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
    entries.filter(move |(name, _)| matches(name)).map(|(_, value)| value)
}

#[async_trait]
impl Engine for EmbeddedEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "embedded",
            persistent: true,
            exclusive: true,
            key_ordered: true,
            history: true,
            commit: true,
        }
    }

    async fn create_topic(&self, name: Name, settings: TopicSettings, intent: Intent) -> Result<Topic> {
        to_its_end(Arc::clone(&self.0).create_topic(name, settings, intent)).await
    }

    async fn topic(&self, name: &Name) -> Result<Topic> {
        Ok(self.0.find_topic(name)?.describe())
    }

    async fn topics(&self, list: Page) -> Result<Vec<Topic>> {
        self.0.check_open()?;
        let catalog = self.0.catalog();
        let users = page(&catalog.topics, &list).filter(|topic| !topic.name.is_internal());
        Ok(users.take(list.limit).map(|topic| topic.describe()).collect())
    }

    async fn internal_topics(&self, kind: &str) -> Result<Vec<Topic>> {
        self.0.check_open()?;
        let catalog = self.0.catalog();
        let own = catalog.topics.values().filter(|topic| topic.name.internal_of(kind).is_some());
        Ok(own.map(|topic| topic.describe()).collect())
    }

    async fn update_topic(
        &self,
        name: &Name,
        change: TopicChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Topic> {
        to_its_end(Arc::clone(&self.0).update_topic(name.clone(), change, expected, intent)).await
    }

    async fn delete_topic(&self, name: &Name, expected: Option<u64>) -> Result<()> {
        to_its_end(Arc::clone(&self.0).delete_topic(name.clone(), expected)).await
    }

    async fn purge(&self, topic: &Name, before: Start, intent: Intent) -> Result<Purged> {
        to_its_end(Arc::clone(&self.0).purge(topic.clone(), before, intent)).await
    }

    async fn submit(&self, topic: &Name, messages: Vec<Envelope>, terms: Terms) -> Result<PendingReceipt> {
        self.0.submit(topic, messages, terms).await
    }

    async fn commit(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        to_its_end(Arc::clone(&self.0).commit(operations)).await
    }

    async fn read(&self, topic: &Name, start: Start, limit: ReadLimit) -> Result<Vec<StoredMessage>> {
        let topic = self.0.find_topic(topic)?;
        if limit.messages == 0 {
            // Looking for none, and finding none, would be taken for damage.
            return Ok(Vec::new());
        }
        let reader = &self.0.log.reader;
        let from = reader.resolve(&topic, start).await?;
        let read = reader.read(&topic, from, limit).await;
        if let Err(Error::Damaged { topic, first, last }) = &read {
            let notice = || Notice::Damaged { topic: topic.clone(), first: *first, last: *last };
            self.0.advisories.tell(|| Advisory::now(notice()));
        }
        Ok(read?.messages)
    }

    async fn create_subscription(
        &self,
        name: Name,
        settings: SubscriptionSettings,
        intent: Intent,
    ) -> Result<Subscription> {
        to_its_end(Arc::clone(&self.0).create_subscription(name, settings, intent)).await
    }

    async fn subscription(&self, name: &Name) -> Result<Subscription> {
        Ok(self.0.find_subscription(name)?.describe())
    }

    async fn subscriptions(&self, list: Page, topic: Option<Name>) -> Result<Vec<Subscription>> {
        self.0.check_open()?;
        let catalog = self.0.catalog();
        let wanted = |subscription: &&Arc<SubscriptionHandle>| {
            !subscription.is_internal()
                && topic.as_ref().is_none_or(|topic| subscription.reads.matches(topic))
        };
        let found = page(&catalog.subscriptions, &list).filter(wanted).take(list.limit);
        Ok(found.map(|subscription| subscription.describe()).collect())
    }

    async fn update_subscription(
        &self,
        name: &Name,
        change: SubscriptionChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Subscription> {
        to_its_end(Arc::clone(&self.0).update_subscription(name.clone(), change, expected, intent)).await
    }

    async fn delete_subscription(&self, name: &Name, expected: Option<u64>) -> Result<()> {
        to_its_end(Arc::clone(&self.0).delete_subscription(name.clone(), expected)).await
    }

    async fn seek(&self, subscription: &Name, start: Start) -> Result<Offset> {
        to_its_end(Arc::clone(&self.0).seek(subscription.clone(), start)).await
    }

    async fn stats(&self, subscription: &Name) -> Result<SubscriptionStats> {
        self.0.stats(subscription).await
    }

    async fn browse(
        &self,
        subscription: &Name,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<StoredMessage>> {
        self.0.browse(subscription, from, limit).await
    }

    async fn move_message(
        &self,
        subscription: &Name,
        offset: Offset,
        to: &Name,
        envelope: Envelope,
    ) -> Result<Receipt> {
        let (subscription, to) = (subscription.clone(), to.clone());
        to_its_end(Arc::clone(&self.0).move_message(subscription, offset, to, envelope)).await
    }

    async fn check_space(&self) -> Result<()> {
        self.0.log.check_space()
    }

    async fn discard(&self, subscription: &Name, offsets: Vec<Offset>) -> Result<u64> {
        self.0.discard(subscription, offsets).await
    }

    async fn consumers(&self, subscription: Option<&Name>) -> Result<Vec<ConsumerInfo>> {
        self.0.consumers(subscription).await
    }

    async fn explain(&self, topic: &Name, offset: Offset) -> Result<Explanation> {
        self.0.explain(topic, offset).await
    }

    fn advisories(&self) -> Result<Watch<Advisory>> {
        self.0.check_open()?;
        self.0.advisories.watch(self.0.ended())
    }

    fn topic_changes(&self) -> Result<Watch<TopicChanged>> {
        self.0.check_open()?;
        self.0.topic_changes.watch(self.0.ended())
    }

    async fn subscribe_as(
        &self,
        target: Target,
        credit: Credit,
        own_name: &str,
    ) -> Result<Box<dyn Consumer>> {
        self.0.check_open()?;
        let too_many = |_| Error::TooMany { what: "open consumers", limit: MAX_CONSUMERS };
        let permit = Arc::clone(&self.0.consumers).try_acquire_owned().map_err(too_many)?;
        match target {
            Target::Durable(name) => self.0.subscribe(&name, (own_name, credit), permit).await,
            Target::Ephemeral { topic, start, filter } => {
                Arc::clone(&self.0).follow(topic, (start, filter), credit, permit).await
            }
        }
    }

    async fn pull(&self, subscription: &Name, limit: ReadLimit, wait: Duration) -> Result<Vec<Delivery>> {
        self.0.find_subscription(subscription)?.pull(limit, wait).await
    }

    async fn settle(&self, subscription: &Name, ids: Vec<Bytes>, settlement: Settlement) -> Result<Settled> {
        self.0.settle(subscription, ids, settlement).await
    }

    async fn readings(&self) -> Result<Readings> {
        self.0.readings().await
    }

    async fn failed(&self) -> String {
        self.0.log.failed().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
