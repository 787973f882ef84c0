//! What a stream holds of topics without a subscription: its place in each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::sieve::SIFT_TIME;
use super::turns::Turns;
use super::visible::Visible;
use crate::embedded::Shared;
use crate::embedded::log::Log;
use crate::embedded::log::reader::ReadBatch;
use crate::embedded::topic::TopicHandle;
use crate::engine::{Consumer, Credit, Error, ReadLimit, Result};
use crate::model::filter::Facts;
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, MAX_PATTERN_TOPICS};
use crate::model::{Advisory, Delivery, Filter, Notice, Offset, Pattern, StoredMessage, Timestamp};

/// How much is read at once of what may not be wanted.
const UNSIFTED: ReadLimit = ReadLimit { messages: MAX_BATCH_MESSAGES, bytes: MAX_BATCH_BYTES };

/// What it reads at least, however many topics there are.
const LEAST_UNSIFTED: ReadLimit = ReadLimit { messages: 50, bytes: 64 << 10 };

/// A reader of a topic or of several, for as long as it lives.
pub(crate) struct EphemeralConsumer {
    name: String,
    log: Log,
    /// By the topic's number.
    places: BTreeMap<u64, Place>,
    /// Which topic is read next.
    turns: Turns,
    visible: Visible,
    /// Where there may be more topics: only if what it reads is no single one.
    new_topics: Option<NewTopics>,
    filter: Filter,
    credit: Credit,
    end: watch::Receiver<Option<Error>>,
    _permit: OwnedSemaphorePermit,
}

/// Where it is in a topic.
struct Place {
    topic: Arc<TopicHandle>,
    /// The next message to read.
    next: Offset,
    /// What was read, and may not be wanted.
    unsifted: VecDeque<StoredMessage>,
}

/// The topics that a pattern covers, as they come.
pub(crate) struct NewTopics {
    pattern: Pattern,
    engine: Weak<Shared>,
    added: watch::Receiver<()>,
    /// The highest number of a topic that was seen.
    last: u64,
}

impl NewTopics {
    /// All that there are, and will be.
    pub(crate) fn new(engine: &Arc<Shared>, pattern: Pattern) -> Self {
        let mut added = engine.topic_added.subscribe();
        added.mark_changed();
        Self { pattern, engine: Arc::downgrade(engine), added, last: 0 }
    }

    /// Those that were not seen.
    fn take(&mut self) -> Vec<Arc<TopicHandle>> {
        self.added.mark_unchanged();
        let Some(engine) = self.engine.upgrade() else { return Vec::new() };
        let catalog = engine.catalog();
        let is_new = |topic: &&Arc<TopicHandle>| topic.id > self.last && self.pattern.matches(&topic.name);
        let new: Vec<_> = catalog.topics.values().filter(is_new).cloned().collect();
        self.last = new.iter().map(|topic| topic.id).fold(self.last, u64::max);
        new
    }
}

/// What a consumer ends with: the log, word of the engine's end, and its place among the server's consumers.
pub(crate) type Parts = (Log, watch::Receiver<Option<Error>>, OwnedSemaphorePermit);

impl EphemeralConsumer {
    /// Of one topic, which is still to be [added](Self::add).
    pub(crate) fn of_one(name: String, topic: &TopicHandle, wants: (Filter, Credit), parts: Parts) -> Self {
        Self::new(name, Visible::One(topic.watch()), None, wants, parts)
    }

    /// Of all topics that a pattern covers. Those that there are already are still to be
    /// [added](Self::add).
    pub(crate) fn of_pattern(
        name: String,
        new_topics: NewTopics,
        wants: (Filter, Credit),
        parts: Parts,
    ) -> Self {
        Self::new(name, Visible::many(), Some(new_topics), wants, parts)
    }

    fn new(
        name: String,
        visible: Visible,
        new_topics: Option<NewTopics>,
        (filter, credit): (Filter, Credit),
        (log, end, permit): Parts,
    ) -> Self {
        Self {
            name,
            log,
            places: BTreeMap::new(),
            turns: Turns::default(),
            visible,
            new_topics,
            filter,
            credit,
            end,
            _permit: permit,
        }
    }

    /// Topics that were not seen before, unless there are too many.
    pub(crate) fn new_topics(&mut self) -> Result<Vec<Arc<TopicHandle>>> {
        let Some(new_topics) = &mut self.new_topics else { return Ok(Vec::new()) };
        let new = new_topics.take();
        if self.places.len() + new.len() > MAX_PATTERN_TOPICS {
            return Err(Error::PatternFull { pattern: new_topics.pattern.clone(), subscription: None });
        }
        Ok(new)
    }

    /// Reads a topic, from an offset on.
    pub(crate) fn add(&mut self, topic: Arc<TopicHandle>, next: Offset) {
        self.visible.add(&topic);
        self.turns.add(topic.id);
        self.places.insert(topic.id, Place { topic, next, unsifted: VecDeque::new() });
    }

    /// Begins with topics that are new, and leaves those that are gone. The end of an only one is its own.
    fn follow_topics(&mut self) -> Result<()> {
        let topics = self.places.values().map(|place| &place.topic);
        for topic in topics.filter(|topic| topic.is_deleted()).cloned().collect::<Vec<_>>() {
            if self.new_topics.is_none() {
                return Err(Error::TopicDeleted(topic.name.clone()));
            }
            self.leave(topic.id);
        }
        let is_new = self.new_topics.as_ref().is_some_and(|it| it.added.has_changed().unwrap_or(false));
        if is_new {
            for topic in self.new_topics()? {
                self.add(topic, 1);
            }
        }
        Ok(())
    }

    fn leave(&mut self, topic: u64) {
        self.places.remove(&topic);
        self.turns.remove(topic);
        // What it says is new is looked at next.
        self.visible.note();
    }

    /// A topic could not be read. Where there are others, its end is not theirs.
    pub(crate) fn failed(&mut self, topic: u64, error: Error) -> Result<()> {
        match (&self.new_topics, error) {
            (Some(_), Error::TopicDeleted(_)) => self.leave(topic),
            (Some(new_topics), Error::Damaged { topic: name, first, last }) => {
                tracing::error!(consumer = self.name, topic = %name, first, last, "passing over damaged messages");
                if let Some(engine) = new_topics.engine.upgrade() {
                    let notice = Notice::Damaged { topic: name, first, last };
                    engine.advisories.tell(|| Advisory::now(notice));
                }
                if let Some(place) = self.places.get_mut(&topic) {
                    place.next = last + 1;
                }
            }
            (_, error) => return Err(error),
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Vec<Delivery>> {
        let limit = ReadLimit {
            messages: MAX_BATCH_MESSAGES.min(self.credit.messages as usize),
            bytes: MAX_BATCH_BYTES.min(usize::try_from(self.credit.bytes).unwrap_or(usize::MAX)),
        };
        loop {
            self.follow_topics()?;
            let has_something = |id| self.places.get(&id).is_some_and(Place::has_something);
            let next = self.turns.ready(has_something).first().copied().filter(|_| limit.messages > 0);
            let Some(id) = next else {
                self.wait().await;
                continue;
            };
            let unsifted = self.unsifted_limit();
            let Some(place) = self.places.get_mut(&id) else { continue };
            match place.read(&self.log, &self.filter, limit, unsifted).await {
                Ok(deliveries) => {
                    self.turns.served(id);
                    self.log.meters.ephemeral_deliveries.add(deliveries.len() as u64);
                    if !deliveries.is_empty() {
                        return Ok(deliveries);
                    }
                }
                Err(error) => self.failed(id, error)?,
            }
            // There may be a long way to the next message that is wanted.
            tokio::task::yield_now().await;
        }
    }

    /// How much to read at once of what may not be wanted: of all topics together about as much as of one.
    fn unsifted_limit(&self) -> ReadLimit {
        let share = |all: usize, least: usize| (all / self.places.len().max(1)).max(least);
        ReadLimit {
            messages: share(UNSIFTED.messages, LEAST_UNSIFTED.messages),
            bytes: share(UNSIFTED.bytes, LEAST_UNSIFTED.bytes),
        }
    }

    /// Waits for something new.
    async fn wait(&mut self) {
        let Some(NewTopics { added, .. }) = &mut self.new_topics else {
            return self.visible.changed().await;
        };
        tokio::select! {
            () = self.visible.changed() => {}
            changed = added.changed() => match changed {
                // It is to be seen by whoever looks for new topics.
                Ok(()) => added.mark_changed(),
                // The engine is gone, and says so.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Place {
    fn has_something(&self) -> bool {
        !self.unsifted.is_empty() || self.next <= self.topic.visible()
    }

    /// What comes next and is wanted; nothing if what was looked at is not.
    async fn read(
        &mut self,
        log: &Log,
        filter: &Filter,
        limit: ReadLimit,
        unsifted: ReadLimit,
    ) -> Result<Vec<Delivery>> {
        if !self.unsifted.is_empty() {
            return Ok(self.sift(filter, limit));
        }
        let limit = if filter.is_empty() { limit } else { unsifted };
        let ReadBatch { mut messages, next } = log.reader.read(&self.topic, self.next, limit).await?;
        self.next = next;
        let now = Timestamp::now();
        messages.retain(|message| !message.envelope.header().is_expired(now));
        if filter.is_empty() {
            return Ok(messages.into_iter().map(deliver).collect());
        }
        self.unsifted = messages.into();
        Ok(Vec::new())
    }

    /// Keeps what is wanted of the messages that were read, as far as the limit and the time for it allow.
    fn sift(&mut self, filter: &Filter, limit: ReadLimit) -> Vec<Delivery> {
        let until = Instant::now() + SIFT_TIME;
        let (mut deliveries, mut bytes) = (Vec::new(), 0);
        while let Some(message) = self.unsifted.pop_front() {
            if filter.matches(&Facts::new(&message, 1)) {
                bytes += message.envelope.len();
                if deliveries.len() == limit.messages || (bytes > limit.bytes && !deliveries.is_empty()) {
                    self.unsifted.push_front(message);
                    break;
                }
                deliveries.push(deliver(message));
            }
            if Instant::now() >= until {
                break;
            }
        }
        deliveries
    }
}

fn deliver(message: StoredMessage) -> Delivery {
    Delivery { ack_id: Bytes::new(), attempt: 1, message }
}

#[async_trait]
impl Consumer for EphemeralConsumer {
    fn id(&self) -> &str {
        &self.name
    }

    async fn next(&mut self) -> Result<Vec<Delivery>> {
        let mut end = self.end.clone();
        tokio::select! {
            reason = end.wait_for(Option::is_some) => {
                Err(reason.ok().and_then(|reason| reason.clone()).unwrap_or(Error::Closed))
            }
            read = self.read() => read,
        }
    }

    async fn set_credit(&mut self, credit: Credit) {
        self.credit = credit;
    }
}
