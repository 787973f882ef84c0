//! What a subscription remembers of its messages, and what it tells those who watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::hand_out::held;
use super::{Dispatcher, Lane};
use crate::embedded::delivery::leases::{ConsumerId, GivenUp};
use crate::engine::Credit;
use crate::model::{Advisory, Happening, Name, Notice, Offset, StoredMessage};

impl Lane {
    /// Messages were handed out: neighbours are noted together.
    pub(super) fn note_delivered(
        &mut self,
        who: Option<&Arc<str>>,
        batch: &[(StoredMessage, u64, u32)],
        now: Instant,
    ) {
        let alike = |(a, _, tried): &(StoredMessage, u64, u32), (b, _, again): &(StoredMessage, u64, u32)| {
            a.offset + 1 == b.offset && tried == again
        };
        for run in batch.chunk_by(alike) {
            let [(first, _, attempt), ..] = run else { continue };
            let what = Happening::Delivered { consumer: who.cloned(), attempt: *attempt };
            self.leases.history.push(first.offset, first.offset + run.len() as u64 - 1, what, now);
        }
    }

    /// A message was given up: it is at this place, or gone.
    pub(super) fn note_given_up(
        &mut self,
        offset: Offset,
        given_up: &GivenUp,
        letter: Option<(Name, Offset)>,
    ) {
        let what = match letter.clone() {
            Some((topic, offset)) => Happening::DeadLettered { topic, offset },
            None => Happening::Dropped,
        };
        self.leases.history.push(offset, offset, what, Instant::now());
        self.subject.advisories.tell(|| {
            Advisory::now(Notice::GivenUp {
                subscription: self.subject.name.clone(),
                topic: self.subject.topic.name.clone(),
                offset,
                attempts: given_up.attempts,
                reason: given_up.reason.to_string(),
                letter,
            })
        });
    }

    /// Damaged messages were met.
    pub(super) fn note_damage(&self, first: Offset, last: Offset) {
        let topic = self.subject.topic.name.clone();
        self.subject.advisories.tell(|| Advisory::now(Notice::Damaged { topic, first, last }));
    }

    /// Whether there are messages that were never looked at.
    fn has_new(&self) -> bool {
        self.leases.first_new() <= self.subject.topic.visible()
    }
}

impl Dispatcher {
    /// Tells of consumers that stand still.
    pub(super) fn tell_of_slow(&mut self, now: Instant) {
        let (lanes, consumers) = (&self.lanes, &self.consumers);
        let waiting = || lanes.values().any(|lane| lane.leases.due(now) > 0 || lane.has_new());
        let exhausted = || if waiting() { exhausted(consumers, &held(lanes)) } else { Vec::new() };
        for consumer in self.slow.look(exhausted, now) {
            let Some(who) = self.known.get(&consumer) else { continue };
            let (outstanding, _) = held(&self.lanes).get(&consumer).copied().unwrap_or_default();
            tracing::warn!(subscription = %self.common.name, consumer = %who.id, name = who.name, "slow consumer");
            self.common.advisories.tell(|| {
                Advisory::now(Notice::SlowConsumer {
                    subscription: self.common.name.clone(),
                    consumer: who.id.to_string(),
                    name: who.name.clone(),
                    outstanding: outstanding.into(),
                })
            });
        }
    }

    /// When to look for slow consumers, if there may be some.
    pub(super) fn slow_look(&self) -> Option<Instant> {
        let more = || self.lanes.values().any(Lane::has_new);
        self.slow.next_look().filter(|_| !self.slots.is_empty() && more())
    }
}

/// The consumers that hold all they may; not those that ask for nothing.
fn exhausted(
    consumers: &BTreeMap<ConsumerId, Credit>,
    held: &BTreeMap<ConsumerId, (u32, u64)>,
) -> Vec<ConsumerId> {
    let is_full = |(id, (messages, bytes)): &(&ConsumerId, &(u32, u64))| {
        consumers.get(id).is_some_and(|credit| *messages >= credit.messages || *bytes >= credit.bytes)
    };
    held.iter().filter(is_full).map(|(&consumer, _)| consumer).collect()
}
