//! Everything the engine knows, and what can be done to it at one instant.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use tokio::time::Instant;

use super::ack_id::AckIds;
use super::group::{Group, Logs};
use super::log::Log;
use super::queue::Queue;
use crate::engine::{
    Announcer, Error, Intent, Page, Purged, Result, Settled, Settlement, SubscriptionChange, TopicChange,
    TopicChanged,
};
use crate::model::limits::{
    MAX_CONSUMERS, MAX_COVERED_TOPICS, MAX_PATTERN_TOPICS, MAX_SUBSCRIPTIONS, MAX_TOPICS,
};
use crate::model::{
    Advisory, DeadLetter, Name, Notice, Offset, Pattern, Start, Subscription, SubscriptionSettings,
    SubscriptionStats, Timestamp, Topic, TopicSettings,
};

/// The state behind the engine's lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) topics: Logs,
    subscriptions: BTreeMap<Name, Group>,
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
        let readers = self.readers_to_be(&name)?;
        let log = Log::new(self.next_number(), name.clone(), settings);
        let topic = log.topic();
        if intent == Intent::Apply {
            for reader in readers {
                let number = self.next_number();
                self.group_mut(&reader)?.add(number, name.clone(), 1);
            }
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
            let of_it = self.subscriptions.values().filter_map(|group| group.queues.get(&log.name));
            log.retain(of_it.map(Queue::floor).min(), Timestamp::now());
        }
        self.skip_dropped();
    }

    fn skip_dropped(&mut self) {
        for (topic, queue) in self.subscriptions.values_mut().flat_map(|group| &mut group.queues) {
            let log = &self.topics[topic];
            queue.skip_before(log.first());
            queue.skip(log.gone());
        }
    }

    pub(super) fn delete_topic(&mut self, name: &Name, expected: Option<u64>) -> Result<()> {
        check_revision(name, self.log(name)?.revision, expected)?;
        let uses = |group: &&Group| {
            let SubscriptionSettings { topic, retry, .. } = &group.subscription().settings;
            let own = group.subscription().name.is_internal();
            !own && (topic.name().as_ref() == Some(name) || retry.dead_letter_topic.as_ref() == Some(name))
        };
        if let Some(group) = self.subscriptions.values().find(uses) {
            let subscription = group.subscription().name.clone();
            return Err(Error::TopicInUse { topic: name.clone(), subscription });
        }
        self.topics.remove(name);
        self.subscriptions
            .retain(|_, group| group.subscription().settings.topic.name().as_ref() != Some(name));
        for group in self.subscriptions.values_mut() {
            group.remove(name);
        }
        self.topic_changes.tell(|| TopicChanged::Deleted(name.clone()));
        Ok(())
    }

    pub(super) fn create_subscription(
        &mut self,
        name: Name,
        settings: SubscriptionSettings,
        intent: Intent,
    ) -> Result<Subscription> {
        if let Some(subscription) = self.subscriptions.get(&name).map(Group::subscription) {
            let same = subscription.settings == settings;
            return if same { Ok(subscription.clone()) } else { Err(Error::SubscriptionExists(name)) };
        }
        let starts = self.starts(&settings.topic, settings.start)?;
        self.check_dead_letter_topic(&settings)?;
        if settings.topic.name().is_none() {
            self.check_covered(&settings.topic, None, starts.len())?;
        }
        check_limit("subscriptions", self.subscriptions.len(), MAX_SUBSCRIPTIONS)?;
        let create_time = Timestamp::now();
        let subscription = Subscription { name: name.clone(), settings, revision: 1, create_time };
        if intent == Intent::Apply {
            let number = self.next_number();
            if !subscription.settings.idle_expiry.is_zero() {
                self.expiring.insert(name.clone());
            }
            let mut group = Group::new(number, subscription.clone());
            for (topic, next) in starts {
                group.add(self.next_number(), topic, next);
            }
            self.subscriptions.insert(name, group);
        }
        Ok(subscription)
    }

    /// Where to begin in the topic, or in each that a pattern covers.
    pub(super) fn starts(&self, topics: &Pattern, start: Start) -> Result<Vec<(Name, Offset)>> {
        if let Some(topic) = topics.name() {
            let next = self.log(&topic)?.resolve(start);
            return Ok(vec![(topic, next)]);
        }
        if matches!(start, Start::Offset(_)) {
            return Err(Error::PatternOffset(topics.clone()));
        }
        let covered = self.topics.values().filter(|log| topics.matches(&log.name));
        Ok(covered.map(|log| (log.name.clone(), log.resolve(start))).collect())
    }

    /// The subscriptions with patterns that cover a topic that is to be made.
    fn readers_to_be(&self, topic: &Name) -> Result<Vec<Name>> {
        let mut readers = Vec::new();
        for (name, group) in &self.subscriptions {
            let pattern = &group.subscription().settings.topic;
            if pattern.name().is_none() && pattern.matches(topic) {
                readers.push(name.clone());
                self.check_covered(pattern, Some(name), group.queues.len() + 1)?;
            }
        }
        Ok(readers)
    }

    /// Whether a pattern may cover so many topics.
    fn check_covered(&self, pattern: &Pattern, subscription: Option<&Name>, topics: usize) -> Result<()> {
        let patterns = self
            .subscriptions
            .iter()
            .filter(|(_, group)| group.subscription().settings.topic.name().is_none());
        let others = patterns.filter(|(name, _)| Some(*name) != subscription);
        let in_all = others.map(|(_, group)| group.queues.len()).sum::<usize>() + topics;
        if topics > MAX_PATTERN_TOPICS || in_all > MAX_COVERED_TOPICS {
            return Err(Error::PatternFull { pattern: pattern.clone(), subscription: subscription.cloned() });
        }
        Ok(())
    }

    pub(super) fn group(&self, name: &Name) -> Result<&Group> {
        self.subscriptions.get(name).ok_or_else(|| Error::SubscriptionNotFound(name.clone()))
    }

    pub(super) fn group_mut(&mut self, name: &Name) -> Result<&mut Group> {
        self.subscriptions.get_mut(name).ok_or_else(|| Error::SubscriptionNotFound(name.clone()))
    }

    /// The subscription that a consumer was opened on, unless it is gone, and what delivering from it
    /// takes.
    pub(super) fn group_numbered(
        &mut self,
        name: &Name,
        number: u64,
    ) -> Result<(&mut Group, &Logs, &AckIds)> {
        self.bury(name)?;
        let group = self.subscriptions.get_mut(name).filter(|group| group.number == number);
        let group = group.ok_or_else(|| Error::SubscriptionDeleted(name.clone()))?;
        Ok((group, &self.topics, &self.ids))
    }

    pub(super) fn subscriptions(&self, page: &Page, topic: Option<&Name>) -> Vec<Subscription> {
        let all = entries(&self.subscriptions, page).map(Group::subscription);
        let all = all.filter(|found| !found.name.is_internal());
        let of_topic = all.filter(|found| topic.is_none_or(|topic| found.settings.topic.matches(topic)));
        of_topic.take(page.limit).cloned().collect()
    }

    pub(super) fn update_subscription(
        &mut self,
        name: &Name,
        change: SubscriptionChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Subscription> {
        let current = self.group(name)?.subscription();
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
            let group = self.group_mut(name)?;
            group.set_subscription(changed.clone());
            group.idle.touch(Instant::now().into_std());
            self.expiring.insert(name.clone());
        }
        Ok(changed)
    }

    pub(super) fn delete_subscription(&mut self, name: &Name, expected: Option<u64>) -> Result<()> {
        check_revision(name, self.group(name)?.subscription().revision, expected)?;
        self.subscriptions.remove(name);
        Ok(())
    }

    pub(super) fn seek(&mut self, name: &Name, start: Start) -> Result<Offset> {
        let group = self.group(name)?;
        group.idle.touch(Instant::now().into_std());
        let topics = group.subscription().settings.topic.clone();
        let starts = self.starts(&topics, start)?;
        for (topic, next) in &starts {
            let last = self.log(topic)?.last();
            if *next > last + 1 {
                return Err(Error::BeyondEnd { topic: topic.clone(), offset: *next, last });
            }
        }
        let mut floor = 0;
        let group = self.group_mut(name)?;
        for (topic, next) in starts {
            floor = group.queues.get_mut(&topic).map_or(0, |queue| queue.seek(next));
        }
        Ok(if topics.name().is_some() { floor } else { 0 })
    }

    pub(super) fn stats(&mut self, name: &Name) -> Result<SubscriptionStats> {
        self.bury(name)?;
        Ok(self.group(name)?.stats(&self.topics, Instant::now()))
    }

    pub(super) fn settle(
        &mut self,
        name: &Name,
        ids: Vec<Bytes>,
        settlement: &Settlement,
    ) -> Result<Settled> {
        let number = self.group(name)?.number;
        let (group, logs, keys) = self.group_numbered(name, number)?;
        group.idle.touch(Instant::now().into_std());
        let settled = group.settle(ids, settlement, logs, keys, Instant::now());
        self.bury(name)?;
        Ok(settled)
    }

    /// Settles deliveries whose ids count.
    pub(super) fn ack(&mut self, name: &Name, ids: Vec<Bytes>) -> Result<Offset> {
        let group = self.subscriptions.get_mut(name);
        let group = group.ok_or_else(|| Error::SubscriptionNotFound(name.clone()))?;
        let ack = Settlement::Ack { cumulative: false };
        Ok(group.settle(ids, &ack, &self.topics, &self.ids, Instant::now()).committed_offset)
    }

    /// Deletes the subscriptions that have gone unused for too long.
    pub(super) fn forget_unused(&mut self, now: std::time::Instant) {
        let Self { expiring, subscriptions, .. } = self;
        expiring.retain(|name| {
            let Some(group) = subscriptions.get(name) else { return false };
            let expires = group.idle.expires(group.subscription().settings.idle_expiry, now);
            if expires.is_some_and(|expires| expires <= now) {
                subscriptions.remove(name);
            }
            expires.is_some_and(|expires| expires > now)
        });
    }

    /// A consumer is gone.
    pub(super) fn leave(&mut self, name: &Name, number: u64, consumer: u64) -> Result<()> {
        self.group_numbered(name, number)?.0.leave(consumer, Instant::now());
        self.bury(name)
    }

    /// The subscriptions that are not the server's own.
    pub(super) fn users_groups(&self) -> impl Iterator<Item = &Group> {
        self.groups(false)
    }

    /// The subscriptions; those that are the server's own only if they are wanted.
    pub(super) fn groups(&self, own: bool) -> impl Iterator<Item = &Group> {
        self.subscriptions.values().filter(move |group| own || !group.subscription().name.is_internal())
    }

    /// Puts the messages that a subscription has given up by now where they go, and skips those that are
    /// for others.
    pub(super) fn bury(&mut self, name: &Name) -> Result<()> {
        let Some(group) = self.subscriptions.get_mut(name) else { return Ok(()) };
        let dead_letters = group.subscription().settings.retry.dead_letter_topic.clone();
        let mut letters = Vec::new();
        for (topic, queue) in &mut group.queues {
            let log = &self.topics[topic];
            queue.drop_expired(log, Instant::now());
            queue.skip_foreign(log);
            letters.extend(queue.give_up(Instant::now()));
        }
        for letter in letters {
            let mut place = None;
            if let Some(topic) = dead_letters.clone() {
                let message = self.topics[&letter.topic].get(letter.offset).expect("it was delivered");
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
            Some(topic) if settings.topic.matches(topic) => Err(Error::DeadLetterLoop(topic.clone())),
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
