//! The engine's operations on topics: create, change, delete, publish, follow.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::delivery::ephemeral::{EphemeralConsumer, NewTopics};
use super::log::Operation;
use super::log::transaction::{Publication, Transaction};
use super::records::{SubscriptionRecord, TopicRecord};
use super::state::{Record, SubscriptionState, TopicState};
use super::subscriptions::SubscriptionHandle;
use super::topic::TopicHandle;
use super::{Shared, cleaner};
use crate::engine::{
    Consumer, Credit, Error, Intent, PendingReceipt, Purged, Result, Terms, TopicChange, TopicChanged,
};
use crate::model::limits::MAX_TOPICS;
use crate::model::{
    Durability, Envelope, Filter, Name, Pattern, Receipt, Start, Timestamp, Topic, TopicSettings,
};

impl Shared {
    pub(super) async fn create_topic(
        self: Arc<Self>,
        name: Name,
        settings: TopicSettings,
        intent: Intent,
    ) -> Result<Topic> {
        check_settings(&name, &settings)?;
        let mut last_id = self.changing().await?;
        match self.find_topic(&name) {
            Err(Error::TopicNotFound(_)) => {}
            Err(error) => return Err(error),
            Ok(topic) if topic.record().settings() == settings => return Ok(topic.describe()),
            Ok(_) => return Err(Error::TopicExists(name)),
        }
        if self.catalog().topics.len() >= MAX_TOPICS {
            return Err(Error::TooMany { what: "topics", limit: MAX_TOPICS });
        }
        let readers = self.catalog().readers_to_be(&name)?;
        let record = TopicRecord::new(*last_id + 1, &name, &settings, Timestamp::now());
        if intent == Intent::Validate {
            return Ok(record.topic(&name));
        }
        // The number is spent even if the change fails half-way: it must not come twice in the log.
        *last_id += 1 + readers.len() as u64;
        let part = |(number, reader): (u64, Arc<SubscriptionHandle>)| {
            let part = SubscriptionRecord::part(reader.id, (number, record.id), 0, Timestamp::now());
            (reader, part)
        };
        let parts: Vec<_> = (record.id + 1..).zip(readers).map(part).collect();
        let puts = parts.iter().map(|(_, part)| Record::PutSubscription(part.clone()));
        self.record_all(std::iter::once(Record::PutTopic(record.clone())).chain(puts).collect()).await?;
        let state = TopicState::new(record);
        let topic = Arc::new(TopicHandle::new(name.clone(), &state, self.log.meters.topics.give(&name)));
        // Before anybody can publish, all who read it by a pattern do.
        for (reader, part) in parts {
            reader.add_lane(Arc::clone(&topic), SubscriptionState::new(part)).await;
        }
        self.catalog_mut().topics.insert(name, Arc::clone(&topic));
        self.topic_added.send_replace(());
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
        let _changes = self.changing().await?;
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
        let _changes = self.changing().await?;
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
            // Only the server's own are left of those that read it by name, and the log has forgotten them
            // with the topic, as it has the parts of those that read it by a pattern.
            let reads = |reader: &Arc<SubscriptionHandle>| reader.reads.name().as_ref() == Some(&name);
            catalog.subscriptions.extract_if(.., |_, reader| reads(reader)).collect::<Vec<_>>()
        };
        let readers: Vec<_> = self.catalog().subscriptions.values().cloned().collect();
        for reader in readers {
            reader.remove_lane(&topic).await;
        }
        for (name, subscription) in own {
            subscription.end(Error::SubscriptionDeleted(name));
        }
        topic.delete();
        self.log.reader.segments().note_dropped();
        self.topic_changes.tell(|| TopicChanged::Deleted(name));
        Ok(())
    }

    pub(super) async fn purge(self: Arc<Self>, name: Name, before: Start, intent: Intent) -> Result<Purged> {
        let _changes = self.changing().await?;
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
            self.log.reader.segments().note_dropped();
        }
        Ok(purged)
    }

    pub(super) async fn submit(
        &self,
        topic: &Name,
        messages: Vec<Envelope>,
        terms: Terms,
    ) -> Result<PendingReceipt> {
        let accepted = Instant::now();
        let (publication, default) = self.publication(topic, messages, terms)?;
        let place = self.log.place(publication.bytes()).await?;
        let (reply, receipt) = oneshot::channel();
        self.log.submit(Operation::Commit(Transaction {
            publishes: vec![publication],
            settles: Vec::new(),
            durability: terms.durability.unwrap_or(default),
            reply: Some(reply),
            accepted,
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
        self: Arc<Self>,
        topics: Pattern,
        (start, filter): (Start, Filter),
        credit: Credit,
        permit: OwnedSemaphorePermit,
    ) -> Result<Box<dyn Consumer>> {
        let name = format!("c{}", self.consumer_number());
        let parts = (self.log.clone(), self.end.subscribe(), permit);
        let mut consumer = if let Some(topic) = topics.name() {
            let topic = self.find_topic(&topic)?;
            let mut consumer = EphemeralConsumer::of_one(name, &topic, (filter, credit), parts);
            let next = self.log.reader.resolve(&topic, start).await?;
            consumer.add(topic, next);
            return Ok(Box::new(consumer));
        } else if matches!(start, Start::Offset(_)) {
            return Err(Error::PatternOffset(topics));
        } else {
            // It sees every topic that is made from now on.
            let added = NewTopics::new(&self, topics.clone());
            EphemeralConsumer::of_pattern(name, added, (filter, credit), parts)
        };
        for topic in consumer.new_topics()? {
            match self.log.reader.resolve(&topic, start).await {
                Ok(next) => consumer.add(topic, next),
                // It is no part of what the pattern covers any more.
                Err(Error::TopicDeleted(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Box::new(consumer))
    }

    /// Records a change; durable when this returns.
    pub(super) async fn record(&self, record: Record) -> Result<()> {
        self.record_all(vec![record]).await
    }

    /// Records changes, all or none; durable when this returns.
    pub(super) async fn record_all(&self, records: Vec<Record>) -> Result<()> {
        let (reply, durable) = oneshot::channel();
        self.log.submit(Operation::Change { records, reply });
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
