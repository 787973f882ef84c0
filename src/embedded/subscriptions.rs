//! The engine's operations on subscriptions: create, change, delete, subscribe, pull, settle.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{MutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::Shared;
use super::delivery::ack_id::Signer;
use super::delivery::consumer::{DurableConsumer, reason};
use super::delivery::dispatch::{self, DeadLetters, Event, Member, Pull, SettleReply, Subject};
use super::delivery::leases::{Leases, Rules};
use super::log::Log;
use super::progress::Committed;
use super::records::SubscriptionRecord;
use super::state::{Record, SubscriptionState};
use super::topic::TopicHandle;
use super::topics::check_revision;
use crate::engine::idle::Idle;
use crate::engine::{
    Announcer, Consumer, Credit, Error, Intent, ReadLimit, Result, Settled, Settlement, SubscriptionChange,
};
use crate::model::limits::{MAX_CONSUMERS_PER_SUBSCRIPTION, MAX_SUBSCRIPTIONS};
use crate::model::{
    Advisory, Delivery, Filter, Name, Offset, Start, Subscription, SubscriptionSettings, SubscriptionStats,
    Timestamp,
};

/// What an ack id weighs in the write queue, in bytes: a range of its own.
pub(super) const ACK_BYTES: usize = 16;

/// A subscription as the engine's operations share it; its dispatcher has the rest.
pub(crate) struct SubscriptionHandle {
    /// Its number, which no other subscription ever has.
    pub(crate) id: u64,
    /// Its name.
    pub(crate) name: Name,
    /// What it reads.
    pub(crate) topic: Arc<TopicHandle>,
    record: RwLock<SubscriptionRecord>,
    /// Who uses it, and since when nobody does.
    idle: Idle,
    /// What is settled on disk.
    committed: Arc<Committed>,
    pub(super) events: mpsc::Sender<Event>,
    /// A permit for each open consumer, asked for before the dispatcher is: its queue holds a place for
    /// the goodbye of each, and must have some left for everybody else.
    consumers: Arc<Semaphore>,
    end: watch::Sender<Option<Error>>,
}

impl SubscriptionHandle {
    /// Starts a subscription where the log has it.
    pub(crate) fn start(
        name: Name,
        topic: Arc<TopicHandle>,
        state: SubscriptionState,
        dead_letters: DeadLetters,
        log: Log,
        (signer, advisories): (Signer, Announcer<Advisory>),
    ) -> Self {
        let SubscriptionState { record, progress, epoch, attempts } = state;
        let committed = Arc::new(Committed::new(&progress));
        let end = watch::Sender::new(None);
        let idle = Idle::new(Instant::now());
        let subject = Subject {
            name: name.clone(),
            id: record.id,
            epoch,
            paused: record.paused,
            filter: Filter::stored(&record.filter),
            topic: Arc::clone(&topic),
            dead_letters,
            log,
            signer,
            committed: Arc::clone(&committed),
            unwritten: Arc::default(),
            advisories,
            end: end.subscribe(),
        };
        // Numbers from a random place on never meet those of an earlier life of the process.
        let leases = Leases::new(rules(&record), progress, attempts, rand::random());
        let events = dispatch::start(subject, leases);
        let consumers = Arc::new(Semaphore::new(MAX_CONSUMERS_PER_SUBSCRIPTION));
        let id = record.id;
        Self { id, name, topic, record: RwLock::new(record), idle, committed, events, consumers, end }
    }

    /// What is settled on disk.
    pub(super) fn committed(&self) -> &Arc<Committed> {
        &self.committed
    }

    /// Ends the subscription for everybody connected to it.
    pub(crate) fn end(&self, reason: Error) {
        self.end.send_replace(Some(reason));
    }

    /// Everything at or below it is settled on disk, or gone.
    pub(crate) fn committed_floor(&self) -> Offset {
        self.committed.floor().max(self.topic.first() - 1)
    }

    /// Whether it is one of the server's own.
    pub(crate) fn is_internal(&self) -> bool {
        self.name.is_internal()
    }

    /// Whether anybody is connected.
    pub(crate) fn has_consumers(&self) -> bool {
        self.consumers.available_permits() < MAX_CONSUMERS_PER_SUBSCRIPTION
    }

    /// Whether it reads a topic, or leaves its dead letters there. Those of the server do not count.
    pub(crate) fn uses(&self, topic: &TopicHandle) -> bool {
        if self.is_internal() {
            return false;
        }
        self.topic.id == topic.id || self.record().dead_letter_topic == topic.name.as_str()
    }

    /// The subscription as users see it.
    pub(crate) fn describe(&self) -> Subscription {
        self.record().subscription(&self.name, &self.topic.name)
    }

    pub(super) async fn pull(&self, limit: ReadLimit, wait: Duration) -> Result<Vec<Delivery>> {
        let until = Instant::now() + wait;
        let _user = self.idle.enter();
        self.ask(|reply| Event::Pull(Pull { limit, until, reply })).await?
    }

    /// The first time at which it can have gone unused for too long; `None` for never.
    pub(super) fn expires(&self, now: Instant) -> Option<Instant> {
        self.idle.expires(self.idle_expiry(), now)
    }

    /// How long it may go unused; zero for ever.
    pub(super) fn idle_expiry(&self) -> Duration {
        self.record().idle_expiry()
    }

    fn record(&self) -> RwLockReadGuard<'_, SubscriptionRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the dispatcher something, unless the subscription has ended.
    pub(super) async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// Sends the dispatcher an event and waits for its reply.
    pub(super) async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let end = self.end.subscribe();
        self.events.send(event(reply)).await.map_err(|_| reason(&end))?;
        answer.await.map_err(|_| reason(&end))
    }
}

fn rules(record: &SubscriptionRecord) -> Rules {
    Rules {
        mode: record.mode(),
        ack_deadline: record.ack_deadline(),
        max_in_flight: record.max_in_flight as usize,
        backoff: record.retry().backoff,
        max_attempts: record.max_attempts,
    }
}

impl Shared {
    pub(super) async fn create_subscription(
        self: Arc<Self>,
        name: Name,
        settings: SubscriptionSettings,
        intent: Intent,
    ) -> Result<Subscription> {
        let mut last_id = self.changes.lock().await;
        match self.find_subscription(&name) {
            Err(Error::SubscriptionNotFound(_)) => {}
            Err(error) => return Err(error),
            Ok(existing) if existing.describe().settings == settings => return Ok(existing.describe()),
            Ok(_) => return Err(Error::SubscriptionExists(name)),
        }
        let topic = self.find_topic(&settings.topic)?;
        let dead_letters = self.dead_letter_topic(&settings)?;
        if self.catalog().subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(Error::TooMany { what: "subscriptions", limit: MAX_SUBSCRIPTIONS });
        }
        let first = self.log.reader.resolve(&topic, settings.start).await?;
        let ids = (*last_id + 1, topic.id);
        let record = SubscriptionRecord::new(ids, &name, &settings, first - 1, Timestamp::now());
        if intent == Intent::Validate {
            return Ok(record.subscription(&name, &topic.name));
        }
        *last_id += 1;
        self.record(Record::PutSubscription(record.clone())).await?;
        let state = SubscriptionState::new(record);
        let handle = SubscriptionHandle::start(
            name.clone(),
            topic,
            state,
            dead_letters,
            self.log.clone(),
            (self.signer, self.advisories.clone()),
        );
        let handle = Arc::new(handle);
        self.catalog_mut().subscriptions.insert(name, Arc::clone(&handle));
        self.look_after(&handle);
        Ok(handle.describe())
    }

    pub(super) async fn update_subscription(
        self: Arc<Self>,
        name: Name,
        change: SubscriptionChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Subscription> {
        let _changes = self.changes.lock().await;
        let handle = self.find_subscription(&name)?;
        let mut record = handle.record().clone();
        check_revision(&name, expected, record.revision)?;
        let mut settings = record.settings(&handle.topic.name);
        let SubscriptionChange { ack_deadline, max_in_flight, retry, filter, idle_expiry, paused, labels } =
            change;
        handle.idle.touch(Instant::now());
        settings.ack_deadline = ack_deadline.unwrap_or(settings.ack_deadline);
        settings.max_in_flight = max_in_flight.unwrap_or(settings.max_in_flight);
        settings.retry = retry.unwrap_or(settings.retry);
        settings.filter = filter.clone().unwrap_or(settings.filter);
        settings.idle_expiry = idle_expiry.unwrap_or(settings.idle_expiry);
        settings.paused = paused.unwrap_or(settings.paused);
        settings.labels = labels.unwrap_or(settings.labels);
        if settings == record.settings(&handle.topic.name) {
            return Ok(handle.describe());
        }
        let dead_letters = self.dead_letter_topic(&settings)?;
        record.set(&settings);
        record.revision += 1;
        if intent == Intent::Validate {
            return Ok(record.subscription(&name, &handle.topic.name));
        }
        self.record(Record::PutSubscription(record.clone())).await?;
        let (rules, paused) = (rules(&record), record.paused);
        *handle.record.write().unwrap_or_else(PoisonError::into_inner) = record;
        self.look_after(&handle);
        let _ = handle.events.send(Event::Rules(rules, dead_letters)).await;
        if let Some(filter) = filter {
            let _ = handle.events.send(Event::Filter(filter)).await;
        }
        let _ = handle.events.send(Event::Pause(paused)).await;
        Ok(handle.describe())
    }

    /// Has a subscription that expires be looked at.
    fn look_after(&self, handle: &SubscriptionHandle) {
        if !handle.idle_expiry().is_zero() {
            self.expiry_changed.notify_one();
        }
    }

    /// Where the messages go that a subscription with these settings gives up.
    fn dead_letter_topic(&self, settings: &SubscriptionSettings) -> Result<DeadLetters> {
        match &settings.retry.dead_letter_topic {
            Some(topic) if *topic == settings.topic => Err(Error::DeadLetterLoop(topic.clone())),
            Some(topic) => {
                let topic = self.find_topic(topic)?;
                if topic.record().compacted {
                    return Err(Error::DeadLetterCompacted(topic.name.clone()));
                }
                Ok(DeadLetters::Topic(topic))
            }
            None => Ok(DeadLetters::Dropped),
        }
    }

    pub(super) async fn delete_subscription(
        self: Arc<Self>,
        name: Name,
        expected: Option<u64>,
    ) -> Result<()> {
        let changes = self.changes.lock().await;
        let handle = self.find_subscription(&name)?;
        let revision = handle.record().revision;
        check_revision(&name, expected, revision)?;
        self.remove_subscription(&handle, &changes).await
    }

    /// Removes a subscription of the catalog, whose lock is held.
    pub(super) async fn remove_subscription(
        &self,
        handle: &SubscriptionHandle,
        _changes: &MutexGuard<'_, u64>,
    ) -> Result<()> {
        let id = handle.record().id;
        self.record(Record::DeleteSubscription(id)).await?;
        self.catalog_mut().subscriptions.remove(&handle.name);
        handle.end(Error::SubscriptionDeleted(handle.name.clone()));
        Ok(())
    }

    pub(super) async fn seek(self: Arc<Self>, name: Name, start: Start) -> Result<Offset> {
        let _changes = self.changes.lock().await;
        let handle = self.find_subscription(&name)?;
        handle.idle.touch(Instant::now());
        let next = self.log.reader.resolve(&handle.topic, start).await?;
        let last = handle.topic.visible();
        if next > last + 1 {
            return Err(Error::BeyondEnd { topic: handle.topic.name.clone(), offset: next, last });
        }
        let (reply, durable) = oneshot::channel();
        let end = handle.end.subscribe();
        handle.events.send(Event::Seek { next, reply }).await.map_err(|_| reason(&end))?;
        self.log.answer(durable).await
    }

    pub(super) async fn stats(&self, name: &Name) -> Result<SubscriptionStats> {
        let handle = self.find_subscription(name)?;
        let snapshot = handle.ask(Event::Stats).await?;
        // What is settled on disk, not what was asked for: with no backlog, no crash brings one back.
        let gone = handle.topic.first() - 1;
        let settled = handle.committed.settled().max(gone);
        let floor = handle.committed.floor().max(gone);
        let backlog = handle.topic.visible().saturating_sub(settled);
        let oldest = if backlog > 0 {
            let limit = ReadLimit { messages: 1, bytes: 1 };
            let read = self.log.reader.read(&handle.topic, floor + 1, limit).await;
            // A damaged message has no time to tell.
            read.ok().and_then(|read| read.messages.first().map(|message| message.publish_time))
        } else {
            None
        };
        Ok(SubscriptionStats {
            backlog_messages: backlog,
            in_flight: snapshot.leased,
            scheduled: snapshot.scheduled,
            oldest_unacked: oldest,
            committed_offset: floor,
            redelivered: snapshot.redelivered,
            dead_lettered: snapshot.dead_lettered,
            consumers: snapshot.consumers,
        })
    }

    /// Opens a consumer of a durable subscription.
    pub(super) async fn subscribe(
        &self,
        name: &Name,
        (own_name, credit): (&str, Credit),
        permit: OwnedSemaphorePermit,
    ) -> Result<Box<dyn Consumer>> {
        let handle = self.find_subscription(name)?;
        let limit = MAX_CONSUMERS_PER_SUBSCRIPTION;
        let too_many = |_| Error::TooMany { what: "consumers of this subscription", limit };
        let own_permit = Arc::clone(&handle.consumers).try_acquire_owned().map_err(too_many)?;
        let (events, end) = (handle.events.clone(), handle.end.subscribe());
        let places = ([permit, own_permit], handle.idle.enter());
        let number = self.consumer_number();
        let (id, name) = (format!("c{number}").into(), own_name.to_owned());
        let member = Member { number, id, name, since: Timestamp::now() };
        let consumer = DurableConsumer::join(member, events, credit, end, places).await?;
        Ok(Box::new(consumer))
    }

    pub(super) async fn settle(
        &self,
        name: &Name,
        ids: Vec<Bytes>,
        settlement: Settlement,
    ) -> Result<Settled> {
        let handle = self.find_subscription(name)?;
        let _user = handle.idle.enter();
        let place = match settlement {
            Settlement::Ack { .. } => Some(self.log.place(ids.len() * ACK_BYTES).await?),
            Settlement::Nack { .. } | Settlement::Extend { .. } => None,
        };
        let settle = |reply| Event::Settle { ids, settlement, place, reply };
        let SettleReply { failures, durable, place } = handle.ask(settle).await?;
        let committed_offset = match durable {
            Some(durable) => self.log.answer(durable).await?.max(handle.committed_floor()),
            None => handle.committed_floor(),
        };
        drop(place);
        Ok(Settled { committed_offset, failures })
    }
}
