//! The engine's operations on topics: create, change, delete, publish, follow.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::delivery::ephemeral::EphemeralConsumer;
use super::log::Operation;
use super::log::transaction::{Publication, Transaction};
use super::records::TopicRecord;
use super::state::{Record, TopicState};
use super::topic::TopicHandle;
use super::{Shared, cleaner};
use crate::engine::{
    Consumer, Credit, Error, Intent, PendingReceipt, Purged, Result, Terms, TopicChange, TopicChanged,
};
use crate::model::limits::MAX_TOPICS;
use crate::model::{Durability, Envelope, Filter, Name, Receipt, Start, Timestamp, Topic, TopicSettings};

impl Shared {
    pub(super) async fn create_topic(
        self: Arc<Self>,
        name: Name,
        settings: TopicSettings,
        intent: Intent,
    ) -> Result<Topic> {
        check_settings(&name, &settings)?;
        let mut last_id = self.changes.lock().await;
        match self.find_topic(&name) {
            Err(Error::TopicNotFound(_)) => {}
            Err(error) => return Err(error),
            Ok(topic) if topic.record().settings() == settings => return Ok(topic.describe()),
            Ok(_) => return Err(Error::TopicExists(name)),
        }
        if self.catalog().topics.len() >= MAX_TOPICS {
            return Err(Error::TooMany { what: "topics", limit: MAX_TOPICS });
        }
        let record = TopicRecord::new(*last_id + 1, &name, &settings, Timestamp::now());
        if intent == Intent::Validate {
            return Ok(record.topic(&name));
        }
        // The number is spent even if the change fails half-way: it must not come twice in the log.
        *last_id += 1;
        self.record(Record::PutTopic(record.clone())).await?;
        let state = TopicState::new(record);
        let topic = Arc::new(TopicHandle::new(name.clone(), &state));
        self.catalog_mut().topics.insert(name, Arc::clone(&topic));
        self.topic_changes.tell(|| TopicChanged::Created(topic.describe()));
        Ok(topic.describe())
    }

    pub(super) async fn update_topic(
        self: Arc<Self>,
        name: Name,
        change: TopicChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Topic> {
        let _changes = self.changes.lock().await;
        let topic = self.find_topic(&name)?;
        let mut record = topic.record().clone();
        check_revision(&name, expected, record.revision)?;
        let mut settings = record.settings();
        let TopicChange { labels, durability, max_message_bytes, dedupe_window, retention } = change;
        settings.labels = labels.unwrap_or(settings.labels);
        settings.durability = durability.unwrap_or(settings.durability);
        settings.max_message_bytes = max_message_bytes.unwrap_or(settings.max_message_bytes);
        settings.dedupe_window = dedupe_window.unwrap_or(settings.dedupe_window);
        settings.retention = retention.unwrap_or(settings.retention);
        check_settings(&name, &settings)?;
        if settings == record.settings() {
            return Ok(topic.describe());
        }
        record.set(&settings);
        record.revision += 1;
        if intent == Intent::Validate {
            let now = topic.describe();
            return Ok(Topic { settings, revision: record.revision, ..now });
        }
        self.record(Record::PutTopic(record.clone())).await?;
        topic.set_record(record);
        self.topic_changes.tell(|| TopicChanged::Updated(topic.describe()));
        Ok(topic.describe())
    }

    pub(super) async fn delete_topic(self: Arc<Self>, name: Name, expected: Option<u64>) -> Result<()> {
        let _changes = self.changes.lock().await;
        let topic = self.find_topic(&name)?;
        check_revision(&name, expected, topic.record().revision)?;
        let user = {
            let catalog = self.catalog();
            let mut subscriptions = catalog.subscriptions.values();
            subscriptions.find(|subscription| subscription.uses(&topic)).map(|user| user.name.clone())
        };
        if let Some(subscription) = user {
            return Err(Error::TopicInUse { topic: name, subscription });
        }
        self.record(Record::DeleteTopic(topic.id)).await?;
        let own = {
            let mut catalog = self.catalog_mut();
            catalog.topics.remove(&name);
            // Only the server's own are left, and the log has forgotten them with the topic.
            catalog.subscriptions.extract_if(.., |_, reader| reader.topic.id == topic.id).collect::<Vec<_>>()
        };
        for (name, subscription) in own {
            subscription.end(Error::SubscriptionDeleted(name));
        }
        topic.delete();
        self.topic_changes.tell(|| TopicChanged::Deleted(name));
        Ok(())
    }

    pub(super) async fn purge(self: Arc<Self>, name: Name, before: Start, intent: Intent) -> Result<Purged> {
        let _changes = self.changes.lock().await;
        let topic = self.find_topic(&name)?;
        let next = self.log.reader.resolve(&topic, before).await?;
        let (first, last) = (topic.first(), topic.visible());
        if next > last + 1 {
            return Err(Error::BeyondEnd { topic: name, offset: next, last });
        }
        let purged = Purged { first: next, messages: next.saturating_sub(first) };
        if intent == Intent::Validate {
            return Ok(purged);
        }
        let (reader, handle) = (Arc::clone(&self.log.reader), Arc::clone(&topic));
        let trim = cleaner::blocking(move || cleaner::retention::trim(&reader, &handle, next)).await?;
        if let Some(trim) = trim {
            cleaner::trim(&self.log, vec![(topic, trim)]).await?;
        }
        Ok(purged)
    }

    pub(super) async fn submit(
        &self,
        topic: &Name,
        messages: Vec<Envelope>,
        terms: Terms,
    ) -> Result<PendingReceipt> {
        let (publication, default) = self.publication(topic, messages, terms)?;
        let place = self.log.place(publication.bytes()).await?;
        let (reply, receipt) = oneshot::channel();
        self.log.submit(Operation::Commit(Transaction {
            publishes: vec![publication],
            settles: Vec::new(),
            durability: terms.durability.unwrap_or(default),
            reply: Some(reply),
            place,
        }));
        let log = self.log.clone();
        Ok(Box::pin(async move { log.answer(receipt).await.map(only) }))
    }

    /// Messages for a topic, which takes them, and the topic's durability.
    pub(super) fn publication(
        &self,
        topic: &Name,
        messages: Vec<Envelope>,
        terms: Terms,
    ) -> Result<(Publication, Durability)> {
        let topic = self.find_topic(topic)?;
        let (limit, default) = {
            let record = topic.record();
            (record.max_message_bytes, record.durability())
        };
        let too_large = |(_, message): &(usize, &Envelope)| message.len() > limit as usize;
        if let Some((index, message)) = messages.iter().enumerate().find(too_large) {
            let (topic, size) = (topic.name.clone(), message.len());
            return Err(Error::MessageTooLarge { topic, index, size, limit });
        }
        let envelopes: Vec<_> = messages.into_iter().map(|message| message.0).collect();
        let marks = self.log.marker.marks(&envelopes);
        Ok((Publication { topic, envelopes, marks, terms, deduplicate: true, operation: None }, default))
    }

    /// Opens an ephemeral consumer.
    pub(super) async fn follow(
        &self,
        topic: &Name,
        (start, filter): (Start, Filter),
        credit: Credit,
        permit: OwnedSemaphorePermit,
    ) -> Result<Box<dyn Consumer>> {
        let topic = self.find_topic(topic)?;
        let next = self.log.reader.resolve(&topic, start).await?;
        let (name, end) = (format!("c{}", self.consumer_number()), self.end.subscribe());
        let from = (topic, self.log.clone());
        Ok(Box::new(EphemeralConsumer::new(name, from, (next, filter, credit), end, permit)))
    }

    /// Records a change; durable when this returns.
    pub(super) async fn record(&self, record: Record) -> Result<()> {
        let (reply, durable) = oneshot::channel();
        self.log.submit(Operation::Change { record, reply });
        self.log.answer(durable).await
    }
}

/// Refuses settings that cannot be had together.
fn check_settings(topic: &Name, settings: &TopicSettings) -> Result<()> {
    let contradiction = |reason| Err(Error::Contradiction { topic: topic.clone(), reason });
    settings.contradiction().map_or(Ok(()), contradiction)
}

/// The receipt of a transaction with one publication.
pub(super) fn only(mut receipts: Vec<Receipt>) -> Receipt {
    receipts.pop().expect("one publication, one receipt")
}

/// Refuses a change to something that has changed since the caller saw it.
pub(super) fn check_revision(name: &Name, expected: Option<u64>, actual: u64) -> Result<()> {
    match expected {
        Some(expected) if expected != actual => Err(Error::Changed { name: name.clone(), expected, actual }),
        _ => Ok(()),
    }
}
