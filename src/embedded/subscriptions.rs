//! The engine's operations on subscriptions: create, change, delete, subscribe, pull, settle.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{MutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::Shared;
use super::delivery::ack_id::Signer;
use super::delivery::consumer::{DurableConsumer, reason};
use super::delivery::dispatch::{self, Common, DeadLetters, Event, Member, NewLane, Pull, SettleReply};
use super::delivery::leases::Rules;
use super::log::Log;
use super::meters::SubscriptionMeters;
use super::progress::Committed;
use super::records::SubscriptionRecord;
use super::state::{Record, SubscriptionState};
use super::topic::TopicHandle;
use super::topics::check_revision;
use crate::engine::idle::Idle;
use crate::engine::{
    Announcer, Consumer, Credit, Error, Intent, ReadLimit, Result, Settled, Settlement, SubscriptionChange,
};
use crate::meter::Labelled;
use crate::model::limits::{MAX_CONSUMERS_PER_SUBSCRIPTION, MAX_SUBSCRIPTIONS};
use crate::model::{
    Advisory, Delivery, Filter, Name, Offset, Pattern, Start, Subscription, SubscriptionSettings,
    SubscriptionStats, Timestamp,
};

/// What an ack id weighs in the write queue, in bytes: a range of its own.
pub(super) const ACK_BYTES: usize = 16;

/// A subscription as the engine's operations share it; its dispatcher has the rest.
pub(crate) struct SubscriptionHandle {
    /// Its number, which no other subscription ever has.
    pub(crate) id: u64,
    /// Its name.
    pub(crate) name: Name,
    /// What it reads: a topic, or all that a pattern covers.
    pub(crate) reads: Pattern,
    /// What it has to do with each topic that it reads.
    lanes: RwLock<Vec<Arc<LaneHandle>>>,
    record: RwLock<SubscriptionRecord>,
    /// Who uses it, and since when nobody does.
    idle: Idle,
    pub(super) events: mpsc::Sender<Event>,
    /// A permit for each open consumer, asked for before the dispatcher is: its queue holds a place for
    /// the goodbye of each, and must have some left for everybody else.
    consumers: Arc<Semaphore>,
    end: watch::Sender<Option<Error>>,
    meters: Arc<Labelled<SubscriptionMeters>>,
}

/// What a subscription has to do with one topic, as everybody may look at it.
pub(crate) struct LaneHandle {
    /// The number under which the log keeps it: of the subscription, or of its part in this topic.
    pub(crate) id: u64,
    /// The topic.
    pub(crate) topic: Arc<TopicHandle>,
    /// What is settled on disk.
    committed: Arc<Committed>,
}

impl LaneHandle {
    /// Everything at or below it is settled on disk, or gone.
    pub(crate) fn committed_floor(&self) -> Offset {
        self.committed.floor().max(self.topic.first() - 1)
    }
}

/// Starts where the log has it.
fn lane(topic: Arc<TopicHandle>, state: SubscriptionState) -> (Arc<LaneHandle>, NewLane) {
    let SubscriptionState { record, progress, epoch, attempts } = state;
    let committed = Arc::new(Committed::new(&progress));
    let (id, shared) = (record.id, Arc::clone(&committed));
    let handle = LaneHandle { id, topic: Arc::clone(&topic), committed: shared };
    (Arc::new(handle), NewLane { id, epoch, topic, committed, progress, attempts })
}

impl SubscriptionHandle {
    /// Starts a subscription where the log has it, with what it reads.
    pub(crate) fn start(
        (name, reads): (Name, Pattern),
        record: SubscriptionRecord,
        parts: Vec<(Arc<TopicHandle>, SubscriptionState)>,
        dead_letters: DeadLetters,
        log: Log,
        (signer, advisories): (Signer, Announcer<Advisory>),
    ) -> Self {
        let end = watch::Sender::new(None);
        let (idle, meters) = (Idle::new(Instant::now()), log.meters.subscriptions.give(&name));
        let common = Common {
            name: name.clone(),
            rules: rules(&record),
            paused: record.paused,
            filter: Filter::stored(&record.filter),
            is_pattern: reads.name().is_none(),
            dead_letters,
            log,
            signer,
            advisories,
            meters: Arc::clone(&meters),
            end: end.subscribe(),
        };
        let (lanes, new) = parts.into_iter().map(|(topic, state)| lane(topic, state)).unzip();
        let events = dispatch::start(common, new);
        let consumers = Arc::new(Semaphore::new(MAX_CONSUMERS_PER_SUBSCRIPTION));
        let id = record.id;
        let (record, lanes) = (RwLock::new(record), RwLock::new(lanes));
        Self { id, name, reads, lanes, record, idle, events, consumers, end, meters }
    }

    /// What it has to do with each topic that it reads.
    pub(crate) fn lanes(&self) -> RwLockReadGuard<'_, Vec<Arc<LaneHandle>>> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has to do with a topic, if it reads that.
    pub(crate) fn lane_of(&self, topic: &TopicHandle) -> Option<Arc<LaneHandle>> {
        self.lanes().iter().find(|lane| lane.topic.id == topic.id).cloned()
    }

    /// What it has to do with its topic, if it is one and no pattern.
    pub(crate) fn only(&self) -> Result<Arc<LaneHandle>> {
        let pattern = || Error::PatternOffset(self.reads.clone());
        if self.is_pattern() { Err(pattern()) } else { self.lanes().first().cloned().ok_or_else(pattern) }
    }

    /// Whether it reads all topics that a pattern covers.
    pub(crate) fn is_pattern(&self) -> bool {
        self.reads.name().is_none()
    }

    /// Reads another topic, too, where the log has it.
    pub(super) async fn add_lane(&self, topic: Arc<TopicHandle>, state: SubscriptionState) {
        let (handle, new) = lane(topic, state);
        self.lanes.write().unwrap_or_else(PoisonError::into_inner).push(handle);
        self.tell(Event::AddLane(Box::new(new))).await;
    }

    /// A topic is gone.
    pub(super) async fn remove_lane(&self, topic: &TopicHandle) {
        let Some(lane) = self.lane_of(topic) else { return };
        self.lanes.write().unwrap_or_else(PoisonError::into_inner).retain(|other| other.id != lane.id);
        self.tell(Event::RemoveLane(lane.id)).await;
    }

    /// Ends the subscription for everybody connected to it.
    pub(crate) fn end(&self, reason: Error) {
        self.end.send_replace(Some(reason));
    }

    /// Everything at or below it is settled on disk, or gone, in the topic of this lane; of the only one, if
    /// none is given.
    pub(crate) fn committed_floor(&self, lane: Option<u64>) -> Offset {
        let lanes = self.lanes();
        let is_asked_for = |found: &&Arc<LaneHandle>| Some(found.id) == lane;
        let only = lanes.first().filter(|_| !self.is_pattern());
        lanes.iter().find(is_asked_for).or(only).map_or(0, |lane| lane.committed_floor())
    }

    /// Whether it is one of the server's own.
    pub(crate) fn is_internal(&self) -> bool {
        self.name.is_internal()
    }

    /// What is counted of it.
    pub(crate) fn meters(&self) -> &Labelled<SubscriptionMeters> {
        &self.meters
    }

    /// Whether anybody is connected.
    pub(crate) fn has_consumers(&self) -> bool {
        self.consumers.available_permits() < MAX_CONSUMERS_PER_SUBSCRIPTION
    }

    /// Whether it reads this topic by name, or leaves its dead letters there. Those of the server do not count.
    pub(crate) fn uses(&self, topic: &TopicHandle) -> bool {
        if self.is_internal() {
            return false;
        }
        let reads = self.reads.name().as_ref() == Some(&topic.name);
        reads || self.record().dead_letter_topic == topic.name.as_str()
    }

    /// The subscription as users see it.
    pub(crate) fn describe(&self) -> Subscription {
        self.record().subscription(&self.name, &self.reads)
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
        let mut last_id = self.changing().await?;
        match self.find_subscription(&name) {
            Err(Error::SubscriptionNotFound(_)) => {}
            Err(error) => return Err(error),
            Ok(existing) if existing.describe().settings == settings => return Ok(existing.describe()),
            Ok(_) => return Err(Error::SubscriptionExists(name)),
        }
        if settings.topic.name().is_none() && matches!(settings.start, Start::Offset(_)) {
            return Err(Error::PatternOffset(settings.topic));
        }
        let topics = self.covered(&settings.topic)?;
        let dead_letters = self.dead_letter_topic(&settings)?;
        if self.catalog().subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(Error::TooMany { what: "subscriptions", limit: MAX_SUBSCRIPTIONS });
        }
        let (id, now) = (*last_id + 1, Timestamp::now());
        let mut record = SubscriptionRecord::new((id, 0), &name, &settings, 0, now);
        let parts = self.parts(&mut record, topics, &settings).await?;
        if intent == Intent::Validate {
            return Ok(record.subscription(&name, &settings.topic));
        }
        let numbers = parts.iter().map(|(_, part)| part.record.id);
        *last_id = numbers.fold(id, u64::max);
        let own_parts = parts.iter().map(|(_, part)| &part.record).filter(|part| part.parent > 0);
        let records = std::iter::once(&record).chain(own_parts).cloned().map(Record::PutSubscription);
        self.record_all(records.collect()).await?;
        let handle = SubscriptionHandle::start(
            (name.clone(), settings.topic),
            record,
            parts,
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
        let _changes = self.changing().await?;
        let handle = self.find_subscription(&name)?;
        let mut record = handle.record().clone();
        check_revision(&name, expected, record.revision)?;
        let mut settings = record.settings(&handle.reads);
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
        if settings == record.settings(&handle.reads) {
            return Ok(handle.describe());
        }
        let dead_letters = self.dead_letter_topic(&settings)?;
        record.set(&settings);
        record.revision += 1;
        if intent == Intent::Validate {
            return Ok(record.subscription(&name, &handle.reads));
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

    /// The topic of that name, or all that a pattern covers, if it may cover so many.
    fn covered(&self, topics: &Pattern) -> Result<Vec<Arc<TopicHandle>>> {
        if let Some(name) = topics.name() {
            return Ok(vec![self.find_topic(&name)?]);
        }
        let catalog = self.catalog();
        let covered = catalog.topics.values().filter(|topic| topics.matches(&topic.name));
        let covered: Vec<_> = covered.cloned().collect();
        catalog.check_covered(topics, covered.len())?;
        Ok(covered)
    }

    /// Where a new subscription begins in each topic. With a pattern, each is a part of its own.
    async fn parts(
        &self,
        record: &mut SubscriptionRecord,
        topics: Vec<Arc<TopicHandle>>,
        settings: &SubscriptionSettings,
    ) -> Result<Vec<(Arc<TopicHandle>, SubscriptionState)>> {
        let mut parts = Vec::with_capacity(topics.len());
        for (number, topic) in (record.id + 1..).zip(topics) {
            let floor = self.log.reader.resolve(&topic, settings.start).await? - 1;
            let part = if settings.topic.name().is_some() {
                (record.topic, record.start_floor) = (topic.id, floor);
                record.clone()
            } else {
                let created = Timestamp(record.create_time_micros);
                SubscriptionRecord::part(record.id, (number, topic.id), floor, created)
            };
            parts.push((topic, SubscriptionState::new(part)));
        }
        Ok(parts)
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
            Some(topic) if settings.topic.matches(topic) => Err(Error::DeadLetterLoop(topic.clone())),
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
        let changes = self.changing().await?;
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
        let _changes = self.changing().await?;
        let handle = self.find_subscription(&name)?;
        handle.idle.touch(Instant::now());
        if handle.is_pattern() && matches!(start, Start::Offset(_)) {
            return Err(Error::PatternOffset(handle.reads.clone()));
        }
        let lanes = handle.lanes().clone();
        let mut places = Vec::with_capacity(lanes.len());
        for LaneHandle { id, topic, .. } in lanes.iter().map(|lane| &**lane) {
            let next = self.log.reader.resolve(topic, start).await?;
            let last = topic.visible();
            if next > last + 1 {
                return Err(Error::BeyondEnd { topic: topic.name.clone(), offset: next, last });
            }
            places.push((*id, next));
        }
        let (reply, durable) = oneshot::channel();
        let end = handle.end.subscribe();
        handle.events.send(Event::Seek { next: places, reply }).await.map_err(|_| reason(&end))?;
        let floor = self.log.answer(durable).await?;
        Ok(if handle.is_pattern() { 0 } else { floor })
    }

    pub(super) async fn stats(&self, name: &Name) -> Result<SubscriptionStats> {
        self.stats_of(&*self.find_subscription(name)?).await
    }

    pub(super) async fn stats_of(&self, handle: &SubscriptionHandle) -> Result<SubscriptionStats> {
        let snapshot = handle.ask(Event::Stats).await?;
        let lanes = handle.lanes().clone();
        let (mut backlog, mut oldest) = (0, None::<Timestamp>);
        for lane in &lanes {
            let (left, time) = self.backlog(lane).await;
            backlog += left;
            oldest = oldest.into_iter().chain(time).min();
        }
        Ok(SubscriptionStats {
            backlog_messages: backlog,
            in_flight: snapshot.leased,
            scheduled: snapshot.scheduled,
            oldest_unacked: oldest,
            committed_offset: handle.committed_floor(None),
            redelivered: snapshot.redelivered,
            dead_lettered: snapshot.dead_lettered,
            consumers: snapshot.consumers,
        })
    }

    /// How many messages of a topic are not settled, and when the oldest was published.
    async fn backlog(&self, lane: &LaneHandle) -> (u64, Option<Timestamp>) {
        // What is settled on disk, not what was asked for: with no backlog, no crash brings one back.
        let gone = lane.topic.first() - 1;
        let settled = lane.committed.settled().max(gone);
        let floor = lane.committed.floor().max(gone);
        let backlog = lane.topic.visible().saturating_sub(settled);
        if backlog == 0 {
            return (0, None);
        }
        let limit = ReadLimit { messages: 1, bytes: 1 };
        let read = self.log.reader.read(&lane.topic, floor + 1, limit).await;
        // A damaged message has no time to tell.
        (backlog, read.ok().and_then(|read| read.messages.first().map(|message| message.publish_time)))
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
        let SettleReply { failures, durable, lane, place } = handle.ask(settle).await?;
        if let Some(durable) = durable {
            self.log.answer(durable).await?;
        }
        let committed_offset = handle.committed_floor(lane);
        drop(place);
        Ok(Settled { committed_offset, failures })
    }
}
