//! Everything the engine knows, and what can be done to it at one instant.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use tokio::time::Instant;

use super::ack_id::AckIds;
use super::log::Log;
use super::queue::Queue;
use crate::engine::{
    Announcer, Error, Intent, Page, Purged, Result, Settled, Settlement, SubscriptionChange, TopicChange,
    TopicChanged,
};
use crate::model::limits::{MAX_CONSUMERS, MAX_SUBSCRIPTIONS, MAX_TOPICS};
use crate::model::{
    Advisory, DeadLetter, Name, Notice, Offset, Start, Subscription, SubscriptionSettings, SubscriptionStats,
    Timestamp, Topic, TopicSettings,
};

/// The state behind the engine's lock.
#[derive(Default)]
pub(super) struct State {
    topics: BTreeMap<Name, Log>,
    subscriptions: BTreeMap<Name, Queue>,
    /// Those that are deleted when nobody uses them.
    expiring: BTreeSet<Name>,
    pub(super) ids: AckIds,
    /// The last number given to a topic, subscription or consumer.
    last_number: u64,
    consumers: usize,
    /// Some topic was told not to keep everything.
    limited: bool,
    pub(super) advisories: Announcer<Advisory>,
    pub(super) topic_changes: Announcer<TopicChanged>,
    pub(super) closed: bool,
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn create_topic(
        &mut self,
        name: Name,
        settings: TopicSettings,
        intent: Intent,
    ) -> Result<Topic> {
        check_settings(&name, &settings)?;
        self.limited |= settings.compacted || !settings.retention.keeps_all();
        if let Some(log) = self.topics.get(&name) {
            return if log.settings == settings { Ok(log.topic()) } else { Err(Error::TopicExists(name)) };
        }
        check_limit("topics", self.topics.len(), MAX_TOPICS)?;
        let log = Log::new(self.next_number(), name.clone(), settings);
        let topic = log.topic();
        if intent == Intent::Apply {
            self.topics.insert(name, log);
            self.topic_changes.tell(|| TopicChanged::Created(topic.clone()));
        }
        Ok(topic)
    }

    pub(super) fn log(&self, name: &Name) -> Result<&Log> {
        self.topics.get(name).ok_or_else(|| Error::TopicNotFound(name.clone()))
    }

    pub(super) fn log_mut(&mut self, name: &Name) -> Result<&mut Log> {
        self.topics.get_mut(name).ok_or_else(|| Error::TopicNotFound(name.clone()))
    }

    /// The topic that a consumer was opened on, unless it is gone; another may have its name by now.
    pub(super) fn log_numbered(&self, name: &Name, number: u64) -> Result<&Log> {
        let log = self.topics.get(name).filter(|log| log.number == number);
        log.ok_or_else(|| Error::TopicDeleted(name.clone()))
    }

    pub(super) fn topics(&self, page: &Page) -> Vec<Topic> {
        let users = entries(&self.topics, page).map(Log::topic).filter(|topic| !topic.name.is_internal());
        users.take(page.limit).collect()
    }

    pub(super) fn internal_topics(&self, kind: &str) -> Vec<Topic> {
        let own = self.topics.values().map(Log::topic);
        own.filter(|topic| topic.name.internal_of(kind).is_some()).collect()
    }

    pub(super) fn update_topic(
        &mut self,
        name: &Name,
        change: TopicChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Topic> {
        let log = self.log_mut(name)?;
        check_revision(name, log.revision, expected)?;
        let mut settings = log.settings.clone();
        settings.labels = change.labels.unwrap_or(settings.labels);
        settings.durability = change.durability.unwrap_or(settings.durability);
        settings.max_message_bytes = change.max_message_bytes.unwrap_or(settings.max_message_bytes);
        settings.retention = change.retention.unwrap_or(settings.retention);
        settings.dedupe_window = change.dedupe_window.unwrap_or(settings.dedupe_window);

        check_settings(name, &settings)?;
        let revision = log.revision + u64::from(settings != log.settings);
        let topic = Topic { settings, revision, ..log.topic() };
        if intent == Intent::Apply {
            let changed = log.revision != revision;
            log.set_settings(topic.settings.clone());
            log.revision = revision;
            self.limited |= !topic.settings.retention.keeps_all();
            if changed {
                self.topic_changes.tell(|| TopicChanged::Updated(topic.clone()));
            }
        }
        Ok(topic)
    }

    /// Drops the messages before `before`.
    pub(super) fn purge(&mut self, name: &Name, before: Start, intent: Intent) -> Result<Purged> {
        let log = self.log_mut(name)?;
        let (next, last) = (log.resolve(before), log.last());
        if next > last + 1 {
            return Err(Error::BeyondEnd { topic: name.clone(), offset: next, last });
        }
        let purged = Purged { first: next, messages: next - log.first() };
        if intent == Intent::Apply {
            log.drop_before(next);
            self.skip_dropped();
        }
        Ok(purged)
    }

    /// Drops what topics need not keep.
    pub(super) fn retain(&mut self) {
        if !self.limited {
            return;
        }
        for log in self.topics.values_mut() {
            log.compact();
            let of_it =
                self.subscriptions.values().filter(|queue| queue.subscription.settings.topic == log.name);
            log.retain(of_it.map(Queue::floor).min(), Timestamp::now());
        }
        self.skip_dropped();
    }

    fn skip_dropped(&mut self) {
        for queue in self.subscriptions.values_mut() {
            let log = &self.topics[&queue.subscription.settings.topic];
            queue.skip_before(log.first());
            queue.skip(log.gone());
        }
    }

    pub(super) fn delete_topic(&mut self, name: &Name, expected: Option<u64>) -> Result<()> {
        check_revision(name, self.log(name)?.revision, expected)?;
        let uses = |queue: &&Queue| {
            let SubscriptionSettings { topic, retry, .. } = &queue.subscription.settings;
            let own = queue.subscription.name.is_internal();
            !own && (topic == name || retry.dead_letter_topic.as_ref() == Some(name))
        };
        if let Some(queue) = self.subscriptions.values().find(uses) {
            let subscription = queue.subscription.name.clone();
            return Err(Error::TopicInUse { topic: name.clone(), subscription });
        }
        self.topics.remove(name);
        self.subscriptions.retain(|_, queue| queue.subscription.settings.topic != *name);
        self.topic_changes.tell(|| TopicChanged::Deleted(name.clone()));
        Ok(())
    }

    pub(super) fn create_subscription(
        &mut self,
        name: Name,
        settings: SubscriptionSettings,
        intent: Intent,
    ) -> Result<Subscription> {
        if let Some(Queue { subscription, .. }) = self.subscriptions.get(&name) {
            let same = subscription.settings == settings;
            return if same { Ok(subscription.clone()) } else { Err(Error::SubscriptionExists(name)) };
        }
        let next = self.log(&settings.topic)?.resolve(settings.start);
        self.check_dead_letter_topic(&settings)?;
        check_limit("subscriptions", self.subscriptions.len(), MAX_SUBSCRIPTIONS)?;
        let create_time = Timestamp::now();
        let subscription = Subscription { name: name.clone(), settings, revision: 1, create_time };
        if intent == Intent::Apply {
            let number = self.next_number();
            if !subscription.settings.idle_expiry.is_zero() {
                self.expiring.insert(name.clone());
            }
            self.subscriptions.insert(name, Queue::new(number, subscription.clone(), next));
        }
        Ok(subscription)
    }

    pub(super) fn queue(&self, name: &Name) -> Result<&Queue> {
        self.subscriptions.get(name).ok_or_else(|| Error::SubscriptionNotFound(name.clone()))
    }

    pub(super) fn queue_mut(&mut self, name: &Name) -> Result<&mut Queue> {
        self.subscriptions.get_mut(name).ok_or_else(|| Error::SubscriptionNotFound(name.clone()))
    }

    /// The subscription that a consumer was opened on, unless it is gone, and what delivering from it
    /// takes.
    pub(super) fn queue_numbered(&mut self, name: &Name, number: u64) -> Result<(&mut Queue, &Log, &AckIds)> {
        self.bury(name)?;
        let queue = self.subscriptions.get_mut(name).filter(|queue| queue.number == number);
        let queue = queue.ok_or_else(|| Error::SubscriptionDeleted(name.clone()))?;
        let log = &self.topics[&queue.subscription.settings.topic];
        Ok((queue, log, &self.ids))
    }

    pub(super) fn subscriptions(&self, page: &Page, topic: Option<&Name>) -> Vec<Subscription> {
        let all = entries(&self.subscriptions, page).map(|queue| &queue.subscription);
        let all = all.filter(|found| !found.name.is_internal());
        let of_topic = all.filter(|found| topic.is_none_or(|topic| found.settings.topic == *topic));
        of_topic.take(page.limit).cloned().collect()
    }

    pub(super) fn update_subscription(
        &mut self,
        name: &Name,
        change: SubscriptionChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Subscription> {
        let current = &self.queue(name)?.subscription;
        check_revision(name, current.revision, expected)?;
        let mut changed = current.clone();
        let settings = &mut changed.settings;
        settings.ack_deadline = change.ack_deadline.unwrap_or(settings.ack_deadline);
        settings.max_in_flight = change.max_in_flight.unwrap_or(settings.max_in_flight);
        settings.retry = change.retry.unwrap_or_else(|| settings.retry.clone());
        settings.filter = change.filter.unwrap_or_else(|| settings.filter.clone());
        settings.idle_expiry = change.idle_expiry.unwrap_or(settings.idle_expiry);
        settings.paused = change.paused.unwrap_or(settings.paused);
        if let Some(labels) = change.labels {
            settings.labels = labels;
        }

        changed.revision += u64::from(changed.settings != current.settings);
        self.check_dead_letter_topic(&changed.settings)?;
        if intent == Intent::Apply {
            let queue = self.queue_mut(name)?;
            queue.subscription = changed.clone();
            queue.idle.touch(Instant::now().into_std());
            self.expiring.insert(name.clone());
        }
        Ok(changed)
    }

    pub(super) fn delete_subscription(&mut self, name: &Name, expected: Option<u64>) -> Result<()> {
        check_revision(name, self.queue(name)?.subscription.revision, expected)?;
        self.subscriptions.remove(name);
        Ok(())
    }

    pub(super) fn seek(&mut self, name: &Name, start: Start) -> Result<Offset> {
        let queue = self.queue(name)?;
        queue.idle.touch(Instant::now().into_std());
        let log = self.log(&queue.subscription.settings.topic)?;
        let (next, last) = (log.resolve(start), log.last());
        if next > last + 1 {
            return Err(Error::BeyondEnd { topic: log.name.clone(), offset: next, last });
        }
        Ok(self.queue_mut(name)?.seek(next))
    }

    pub(super) fn stats(&mut self, name: &Name) -> Result<SubscriptionStats> {
        self.bury(name)?;
        let queue = self.queue(name)?;
        Ok(queue.stats(self.log(&queue.subscription.settings.topic)?, Instant::now()))
    }

    pub(super) fn settle(
        &mut self,
        name: &Name,
        ids: Vec<Bytes>,
        settlement: &Settlement,
    ) -> Result<Settled> {
        let number = self.queue(name)?.number;
        let (queue, log, keys) = self.queue_numbered(name, number)?;
        queue.idle.touch(Instant::now().into_std());
        let settled = queue.settle(ids, settlement, log, keys, Instant::now());
        self.bury(name)?;
        Ok(settled)
    }

    /// Settles deliveries whose ids count.
    pub(super) fn ack(&mut self, name: &Name, ids: Vec<Bytes>) -> Result<Offset> {
        let queue = self.subscriptions.get_mut(name);
        let queue = queue.ok_or_else(|| Error::SubscriptionNotFound(name.clone()))?;
        let log = &self.topics[&queue.subscription.settings.topic];
        let ack = Settlement::Ack { cumulative: false };
        Ok(queue.settle(ids, &ack, log, &self.ids, Instant::now()).committed_offset)
    }

    /// Deletes the subscriptions that have gone unused for too long.
    pub(super) fn forget_unused(&mut self, now: std::time::Instant) {
        let Self { expiring, subscriptions, .. } = self;
        expiring.retain(|name| {
            let Some(queue) = subscriptions.get(name) else { return false };
            let expires = queue.idle.expires(queue.subscription.settings.idle_expiry, now);
            if expires.is_some_and(|expires| expires <= now) {
                subscriptions.remove(name);
            }
            expires.is_some_and(|expires| expires > now)
        });
    }

    /// A consumer is gone.
    pub(super) fn leave(&mut self, name: &Name, number: u64, consumer: u64) -> Result<()> {
        self.queue_numbered(name, number)?.0.leave(consumer, Instant::now());
        self.bury(name)
    }

    /// The subscriptions that are not the server's own.
    pub(super) fn users_queues(&self) -> impl Iterator<Item = &Queue> {
        self.subscriptions.values().filter(|queue| !queue.subscription.name.is_internal())
    }

    /// Puts the messages that a subscription has given up by now where they go, and skips those that are
    /// for others.
    pub(super) fn bury(&mut self, name: &Name) -> Result<()> {
        let Some(queue) = self.subscriptions.get_mut(name) else { return Ok(()) };
        let log = &self.topics[&queue.subscription.settings.topic];
        queue.drop_expired(log, Instant::now());
        queue.skip_foreign(log);
        for letter in queue.give_up(Instant::now()) {
            let settings = &self.subscriptions[name].subscription.settings;
            let mut place = None;
            if let Some(topic) = settings.retry.dead_letter_topic.clone() {
                let message = self.topics[&settings.topic].get(letter.offset).expect("it was delivered");
                let marked = letter.mark(&message.envelope);
                let log = self.log_mut(&topic)?;
                log.append(vec![marked]);
                place = Some((topic, log.last()));
            }
            self.advisories.tell(|| given_up(letter, place));
        }
        Ok(())
    }

    fn check_dead_letter_topic(&self, settings: &SubscriptionSettings) -> Result<()> {
        match &settings.retry.dead_letter_topic {
            Some(topic) if *topic == settings.topic => Err(Error::DeadLetterLoop(topic.clone())),
            Some(topic) if self.log(topic)?.settings.compacted => {
                Err(Error::DeadLetterCompacted(topic.clone()))
            }
            Some(_) => Ok(()),
            None => Ok(()),
        }
    }

    /// Counts a new consumer and numbers it; older ones have lower numbers.
    pub(super) fn open_consumer(&mut self) -> Result<u64> {
        check_limit("consumers", self.consumers, MAX_CONSUMERS)?;
        self.consumers += 1;
        Ok(self.next_number())
    }

    pub(super) fn close_consumer(&mut self) {
        self.consumers -= 1;
    }
}

fn given_up(letter: DeadLetter, place: Option<(Name, Offset)>) -> Advisory {
    let DeadLetter { subscription, topic, offset, attempts, reason, time } = letter;
    Advisory {
        time,
        notice: Notice::GivenUp { subscription, topic, offset, attempts, reason, letter: place },
    }
}

/// The part of a list after the page's start that matches its pattern.
fn entries<'a, T>(all: &'a BTreeMap<Name, T>, page: &'a Page) -> impl Iterator<Item = &'a T> {
    let from = page.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let matching = |name: &Name| page.pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
    all.range::<Name, _>((from, Bound::Unbounded)).filter(move |(name, _)| matching(name)).map(|(_, it)| it)
}

fn check_settings(topic: &Name, settings: &TopicSettings) -> Result<()> {
    let contradiction = |reason| Err(Error::Contradiction { topic: topic.clone(), reason });
    settings.contradiction().map_or(Ok(()), contradiction)
}

fn check_revision(name: &Name, actual: u64, expected: Option<u64>) -> Result<()> {
    match expected {
        Some(expected) if expected != actual => Err(Error::Changed { name: name.clone(), expected, actual }),
        _ => Ok(()),
    }
}

fn check_limit(what: &'static str, count: usize, limit: usize) -> Result<()> {
    if count < limit { Ok(()) } else { Err(Error::TooMany { what, limit }) }
}
