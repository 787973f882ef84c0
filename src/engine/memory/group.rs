//! One subscription: what it reads, a queue for each topic, and its consumers, who share them all.
//!
//! Where there are several topics, a message of each is handed out in turn, as long as there are some.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::ack_id::{AckIds, DeliveryRef};
use super::log::Log;
use super::queue::{Holder, Queue, Room};
use crate::engine::idle::Idle;
use crate::engine::{Credit, Error, Failure, Result, Settled, Settlement};
use crate::model::limits::{
    MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, MAX_CONSUMERS_PER_SUBSCRIPTION, MAX_WAITING_PULLS,
};
use crate::model::{ConsumerInfo, Delivery, Mode, Name, Offset, Subscription, SubscriptionStats, Timestamp};

/// All topics, by name.
pub(super) type Logs = BTreeMap<Name, Log>;

/// A subscription and its state.
pub(super) struct Group {
    /// No later subscription of the same name shares it.
    pub(super) number: u64,
    subscription: Subscription,
    pub(super) queues: BTreeMap<Name, Queue>,
    /// Queues of topics that are gone.
    gone: BTreeSet<u64>,
    /// The topic that had its turn last.
    last_turn: Option<Name>,
    pulls: u64,
    /// Held by each pull that waits, and once here.
    pulling: Arc<()>,
    /// The open consumers, the oldest first.
    consumers: BTreeMap<u64, Member>,
    pub(super) idle: Idle,
}

struct Member {
    name: String,
    since: Timestamp,
    credit: Credit,
    waiting: bool,
}

impl Group {
    pub(super) fn new(number: u64, subscription: Subscription) -> Self {
        Self {
            number,
            subscription,
            queues: BTreeMap::new(),
            gone: BTreeSet::new(),
            last_turn: None,
            pulls: 0,
            pulling: Arc::default(),
            consumers: BTreeMap::new(),
            idle: Idle::new(std::time::Instant::now()),
        }
    }

    pub(super) fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Its owner has changed it.
    pub(super) fn set_subscription(&mut self, subscription: Subscription) {
        for queue in self.queues.values_mut() {
            queue.subscription = subscription.clone();
        }
        self.subscription = subscription;
    }

    /// Reads a topic, from this message on.
    pub(super) fn add(&mut self, number: u64, topic: Name, next: Offset) {
        let queue = Queue::new(number, topic.clone(), self.subscription.clone(), next);
        self.queues.insert(topic, queue);
    }

    /// A topic is gone.
    pub(super) fn remove(&mut self, topic: &Name) {
        self.gone.extend(self.queues.remove(topic).map(|queue| queue.number));
    }

    /// Its queue, if what it reads is one topic.
    pub(super) fn only(&self) -> Result<&Queue> {
        let topic = &self.subscription.settings.topic;
        let queue = topic.name().and_then(|topic| self.queues.get(&topic));
        queue.ok_or_else(|| Error::PatternOffset(topic.clone()))
    }

    pub(super) fn only_mut(&mut self) -> Result<&mut Queue> {
        let topic = &self.subscription.settings.topic;
        let queue = topic.name().and_then(|topic| self.queues.get_mut(&topic));
        queue.ok_or_else(|| Error::PatternOffset(topic.clone()))
    }

    pub(super) fn stats(&self, logs: &Logs, now: Instant) -> SubscriptionStats {
        let consumers = u32::try_from(self.consumers.len()).unwrap_or(u32::MAX);
        let mut all = SubscriptionStats { consumers, ..SubscriptionStats::default() };
        for (topic, queue) in &self.queues {
            let one = queue.stats(&logs[topic], now);
            all.backlog_messages += one.backlog_messages;
            all.in_flight += one.in_flight;
            all.scheduled += one.scheduled;
            all.oldest_unacked = all.oldest_unacked.into_iter().chain(one.oldest_unacked).min();
            all.redelivered += one.redelivered;
            all.dead_lettered += one.dead_lettered;
        }
        all.committed_offset = self.only().map_or(0, Queue::floor);
        all
    }

    pub(super) fn check_running(&self) -> Result<()> {
        let Subscription { name, settings, .. } = &self.subscription;
        if settings.paused {
            return Err(Error::Paused(name.clone()));
        }
        match settings.filter.error() {
            Some(problem) => {
                Err(Error::UnreadableFilter { subscription: name.clone(), problem: problem.clone() })
            }
            None => Ok(()),
        }
    }

    pub(super) fn join(&mut self, consumer: u64, credit: Credit, name: String) -> Result<()> {
        if self.consumers.len() >= MAX_CONSUMERS_PER_SUBSCRIPTION {
            let limit = MAX_CONSUMERS_PER_SUBSCRIPTION;
            return Err(Error::TooMany { what: "consumers of this subscription", limit });
        }
        self.check_running()?;
        let since = Timestamp::now();
        self.consumers.insert(consumer, Member { name, since, credit, waiting: false });
        Ok(())
    }

    /// Keeps a place for a pull, for as long as the answer lives.
    pub(super) fn enter_pull(&self) -> Result<Arc<()>> {
        if Arc::strong_count(&self.pulling) > MAX_WAITING_PULLS {
            let what = "pulls waiting on this subscription";
            return Err(Error::TooMany { what, limit: MAX_WAITING_PULLS });
        }
        Ok(Arc::clone(&self.pulling))
    }

    pub(super) fn leave(&mut self, consumer: u64, now: Instant) {
        self.consumers.remove(&consumer);
        for queue in self.queues.values_mut() {
            queue.leave(consumer, now);
        }
    }

    pub(super) fn set_credit(&mut self, consumer: u64, credit: Credit) {
        self.member(consumer).credit = credit;
    }

    pub(super) fn set_waiting(&mut self, consumer: u64, waiting: bool) {
        self.member(consumer).waiting = waiting;
    }

    fn member(&mut self, consumer: u64) -> &mut Member {
        self.consumers.get_mut(&consumer).expect("a consumer is a member until it leaves")
    }

    /// Hands messages to a waiting consumer: its share of what there is, as far as its credit goes.
    pub(super) fn hand_to(
        &mut self,
        consumer: u64,
        logs: &Logs,
        ids: &AckIds,
        now: Instant,
    ) -> Vec<Delivery> {
        self.sift(logs, now);
        let mut room = self.room(consumer, now);
        if self.exclusive() {
            let is_pulled = self.queues.values().any(|queue| queue.is_pulled(now));
            if self.consumers.keys().next() != Some(&consumer) || is_pulled {
                return Vec::new();
            }
        } else if room.messages > 0 {
            let available: usize =
                self.queues.iter().map(|(at, it)| it.available(&logs[at], now).len()).sum();
            let share = available.div_ceil(self.ready_consumers(now));
            room.messages = room.messages.min(share);
        }
        self.hand_out(Holder::Consumer(consumer), room, logs, ids, now)
    }

    /// Hands messages to nobody's stream.
    pub(super) fn pull(
        &mut self,
        room: Room,
        logs: &Logs,
        ids: &AckIds,
        now: Instant,
    ) -> Result<Vec<Delivery>> {
        self.check_running()?;
        if self.exclusive() && !self.consumers.is_empty() {
            return Err(Error::Held(self.subscription.name.clone()));
        }
        self.pulls += 1;
        self.sift(logs, now);
        Ok(self.hand_out(Holder::Pull(self.pulls), room, logs, ids, now))
    }

    /// Settles what the filter does not want of that which could be handed out now.
    fn sift(&mut self, logs: &Logs, now: Instant) {
        self.tell_of_others();
        for (topic, queue) in &mut self.queues {
            queue.sift(&logs[topic], now);
        }
        self.tell_of_others();
    }

    /// Lets each queue know how much of the limit the others take.
    fn tell_of_others(&mut self) {
        let all: usize = self.queues.values().map(|queue| queue.handed.len()).sum();
        for queue in self.queues.values_mut() {
            queue.elsewhere = all - queue.handed.len();
        }
    }

    fn hand_out(
        &mut self,
        holder: Holder,
        mut room: Room,
        logs: &Logs,
        ids: &AckIds,
        now: Instant,
    ) -> Vec<Delivery> {
        // With only one topic, each message is that topic's turn.
        let turn = if self.queues.len() == 1 { usize::MAX } else { 1 };
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut without = 0;
        while room.messages > 0 && without < self.queues.len() {
            let Some(topic) = self.next_turn() else { break };
            let queue = self.queues.get_mut(&topic).expect("it has its turn");
            let part = Room { messages: room.messages.min(turn), ..room };
            let (taken, has_no_room) = queue.hand_out(holder, &part, &logs[&topic], ids, now);
            without = if taken.is_empty() { without + 1 } else { 0 };
            let bytes: u64 = taken.iter().map(|delivery| delivery.message.envelope.len() as u64).sum();
            room.messages -= taken.len();
            room.bytes = room.bytes.saturating_sub(bytes);
            if !taken.is_empty() {
                room.first_bytes = room.bytes;
            }
            self.last_turn =
                Some(topic).filter(|_| !has_no_room || !taken.is_empty()).or(self.last_turn.take());
            deliveries.extend(taken);
            self.tell_of_others();
            // What is left is for nobody else, or others might take it for ever.
            if has_no_room {
                break;
            }
        }
        deliveries
    }

    /// The topic after the one that had its turn last.
    fn next_turn(&self) -> Option<Name> {
        let after = |last: &Name| self.queues.keys().find(|topic| *topic > last);
        self.last_turn.as_ref().and_then(after).or(self.queues.keys().next()).cloned()
    }

    /// The next time at which something may become available by itself.
    pub(super) fn next_due(&self, logs: &Logs, now: Instant) -> Option<Instant> {
        self.queues.iter().filter_map(|(topic, queue)| queue.next_due(&logs[topic], now)).min()
    }

    /// What a consumer's credit leaves it, in one batch.
    fn room(&self, consumer: u64, now: Instant) -> Room {
        let Credit { messages, bytes } = self.consumers[&consumer].credit;
        let (held, held_bytes) = self.held(consumer, now);
        let bytes_left = bytes.saturating_sub(held_bytes);
        Room {
            messages: (messages as usize).saturating_sub(held).min(MAX_BATCH_MESSAGES),
            first_bytes: if held == 0 { u64::MAX } else { bytes_left },
            bytes: bytes_left.min(MAX_BATCH_BYTES as u64),
        }
    }

    /// How many messages and bytes a consumer has in flight.
    fn held(&self, consumer: u64, now: Instant) -> (usize, u64) {
        let held = || self.queues.values().flat_map(|queue| queue.held(consumer, now));
        (held().count(), held().map(|handed| handed.bytes).sum())
    }

    fn ready_consumers(&self, now: Instant) -> usize {
        let ready = |&(&id, member): &(&u64, &Member)| member.waiting && self.room(id, now).messages > 0;
        self.consumers.iter().filter(ready).count()
    }

    fn exclusive(&self) -> bool {
        self.subscription.settings.mode == Mode::Exclusive
    }

    pub(super) fn settle(
        &mut self,
        ids: Vec<Bytes>,
        settlement: &Settlement,
        logs: &Logs,
        keys: &AckIds,
        now: Instant,
    ) -> Settled {
        let mut failures = Vec::new();
        let mut last = None;
        for id in ids {
            let found = self.queue_of(&id, keys);
            if let Ok((topic, _)) = &found {
                last = Some(topic.clone());
            }
            let found = found.and_then(|(topic, of)| {
                let queue = self.queues.get_mut(&topic).expect("it was found");
                let offset = queue.find(of, &logs[&topic], now)?;
                queue.apply(offset, settlement, now);
                Ok(())
            });
            if let Err(failure) = found {
                failures.push((id, failure));
            }
        }
        let of = last.and_then(|topic| self.queues.get(&topic)).or(self.only().ok());
        Settled { committed_offset: of.map_or(0, Queue::floor), failures }
    }

    /// The message that an id stands for, if the id still counts.
    pub(super) fn find(
        &self,
        id: &[u8],
        logs: &Logs,
        keys: &AckIds,
        now: Instant,
    ) -> std::result::Result<(Name, Offset), Failure> {
        let (topic, of) = self.queue_of(id, keys)?;
        let offset = self.queues[&topic].find(of, &logs[&topic], now)?;
        Ok((topic, offset))
    }

    fn queue_of(&self, id: &[u8], keys: &AckIds) -> std::result::Result<(Name, DeliveryRef), Failure> {
        let of = keys.open(id).ok_or(Failure::Unknown)?;
        let queue = self.queues.iter().find(|(_, queue)| queue.number == of.subscription);
        match queue {
            Some((topic, _)) => Ok((topic.clone(), of)),
            None if self.gone.contains(&of.subscription) => Err(Failure::Expired),
            None => Err(Failure::WrongSubscription),
        }
    }

    /// The open consumers, the oldest first.
    pub(super) fn infos(&self, now: Instant) -> Vec<ConsumerInfo> {
        let info = |(&id, member): (&u64, &Member)| {
            let (held, bytes) = self.held(id, now);
            ConsumerInfo {
                number: id,
                id: format!("consumer-{id}"),
                name: member.name.clone(),
                subscription: self.subscription.name.clone(),
                since: member.since,
                outstanding_messages: u32::try_from(held).unwrap_or(u32::MAX),
                outstanding_bytes: bytes,
                max_messages: member.credit.messages,
                max_bytes: member.credit.bytes,
            }
        };
        self.consumers.iter().map(info).collect()
    }
}
