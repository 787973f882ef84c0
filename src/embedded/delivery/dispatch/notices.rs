//! What a subscription remembers of its messages, and what it tells those who watch.

use std::sync::Arc;
use std::time::Instant;

use super::Dispatcher;
use crate::embedded::delivery::leases::{ConsumerId, GivenUp};
use crate::model::{Advisory, Happening, Name, Notice, Offset, StoredMessage};

impl Dispatcher {
    /// Messages were handed out: neighbours are noted together.
    pub(super) fn note_delivered(
        &mut self,
        consumer: Option<ConsumerId>,
        batch: &[(StoredMessage, u64, u32)],
        now: Instant,
    ) {
        let who = consumer.and_then(|id| self.known.get(&id)).map(|who| Arc::clone(&who.id));
        if let Some(consumer) = consumer {
            self.slow.served(consumer);
        }
        let alike = |(a, _, tried): &(StoredMessage, u64, u32), (b, _, again): &(StoredMessage, u64, u32)| {
            a.offset + 1 == b.offset && tried == again
        };
        for run in batch.chunk_by(alike) {
            let [(first, _, attempt), ..] = run else { continue };
            let what = Happening::Delivered { consumer: who.clone(), attempt: *attempt };
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

    /// Tells of consumers that stand still.
    pub(super) fn tell_of_slow(&mut self, now: Instant) {
        let leases = &self.leases;
        let waiting = || leases.due(now) > 0 || leases.first_new() <= self.subject.topic.visible();
        let exhausted = || if waiting() { leases.exhausted() } else { Vec::new() };
        for consumer in self.slow.look(exhausted, now) {
            let (Some(who), Some(held)) = (self.known.get(&consumer), self.leases.held(consumer)) else {
                continue;
            };
            tracing::warn!(subscription = %self.subject.name, consumer = %who.id, name = who.name, "slow consumer");
            self.subject.advisories.tell(|| {
                Advisory::now(Notice::SlowConsumer {
                    subscription: self.subject.name.clone(),
                    consumer: who.id.to_string(),
                    name: who.name.clone(),
                    outstanding: held.messages.into(),
                })
            });
        }
    }

    /// When to look for slow consumers, if there may be some.
    pub(super) fn slow_look(&self) -> Option<Instant> {
        let more = self.leases.first_new() <= self.subject.topic.visible();
        self.slow.next_look().filter(|_| more && !self.slots.is_empty())
    }
}
