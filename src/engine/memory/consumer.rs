//! Consumers: each asks the state for messages whenever it may have some.

use std::sync::Arc;

use super::{Shared, Step};
use crate::engine::idle::User;
use crate::engine::{Consumer, Credit, ReadLimit, Result};
use crate::model::filter::Facts;
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES};
use crate::model::{Delivery, Filter, Name, Offset, Start, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;

/// A consumer's place among the engine's consumers, given up when it is dropped.
struct Seat {
    shared: Arc<Shared>,
    number: u64,
    id: String,
}

impl Seat {
    fn take(shared: &Arc<Shared>) -> Result<Self> {
        let number = shared.change(super::state::State::open_consumer)?;
        Ok(Self { shared: Arc::clone(shared), number, id: format!("consumer-{number}") })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.lock().close_consumer();
    }
}

/// A consumer of a durable subscription.
pub(super) struct Durable {
    seat: Seat,
    subscription: Name,
    /// The subscription's number.
    number: u64,
    _user: User,
}

impl Durable {
    pub(super) fn open(shared: &Arc<Shared>, subscription: Name, credit: Credit, name: &str) -> Result<Self> {
        let seat = Seat::take(shared)?;
        let (number, user) = shared.change(|state| {
            let number = state.queue(&subscription)?.number;
            let queue = state.queue_numbered(&subscription, number)?.0;
            queue.join(seat.number, credit, name.to_owned())?;
            Ok((number, queue.idle.enter()))
        })?;
        Ok(Self { seat, subscription, number, _user: user })
    }

    fn set_waiting(&self, waiting: bool) {
        if let Ok((queue, ..)) = self.seat.shared.lock().queue_numbered(&self.subscription, self.number) {
            queue.set_waiting(self.seat.number, waiting);
        }
    }
}

/// Counts the consumer among those waiting, until the wait is over or given up.
struct Waiting<'a>(&'a Durable);

impl<'a> Waiting<'a> {
    fn begin(consumer: &'a Durable) -> Self {
        consumer.set_waiting(true);
        Self(consumer)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set_waiting(false);
    }
}

#[async_trait]
impl Consumer for Durable {
    fn id(&self) -> &str {
        &self.seat.id
    }

    async fn next(&mut self) -> Result<Vec<Delivery>> {
        let consumer = &*self;
        let _waiting = Waiting::begin(consumer);
        let deliveries = consumer.seat.shared.wait_for(|state, now| {
            let (queue, log, ids) = state.queue_numbered(&consumer.subscription, consumer.number)?;
            queue.check_running()?;
            Ok(Step::of(queue.hand_to(consumer.seat.number, log, ids, now), || queue.next_due(log, now)))
        });
        deliveries.await
    }

    async fn set_credit(&mut self, credit: Credit) {
        // A deleted subscription has no credit to set; `next` says so.
        let _ = self.seat.shared.change(|state| {
            let (queue, ..) = state.queue_numbered(&self.subscription, self.number)?;
            queue.set_credit(self.seat.number, credit);
            Ok(())
        });
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        // A deleted subscription, or a closed engine, has nothing to be left.
        let _ =
            self.seat.shared.change(|state| state.leave(&self.subscription, self.number, self.seat.number));
    }
}

/// A reader of a topic that leases nothing.
pub(super) struct Ephemeral {
    seat: Seat,
    topic: Name,
    /// The topic's number.
    number: u64,
    next: Offset,
    filter: Filter,
    credit: Credit,
}

impl Ephemeral {
    pub(super) fn open(
        shared: &Arc<Shared>,
        topic: Name,
        start: Start,
        filter: Filter,
        credit: Credit,
    ) -> Result<Self> {
        let seat = Seat::take(shared)?;
        let (number, next) = shared.look(|state| {
            let log = state.log(&topic)?;
            Ok((log.number, log.resolve(start)))
        })?;
        Ok(Self { seat, topic, number, next, filter, credit })
    }
}

#[async_trait]
impl Consumer for Ephemeral {
    fn id(&self) -> &str {
        &self.seat.id
    }

    async fn next(&mut self) -> Result<Vec<Delivery>> {
        let limit = ReadLimit {
            messages: (self.credit.messages as usize).min(MAX_BATCH_MESSAGES),
            bytes: usize::try_from(self.credit.bytes).unwrap_or(usize::MAX).min(MAX_BATCH_BYTES),
        };
        let (next, topic, filter) = (&mut self.next, &self.topic, &self.filter);
        let read = self.seat.shared.wait_for(|state, _| {
            loop {
                let log = state.log_numbered(topic, self.number)?;
                let messages = log.read(*next, limit);
                let Some(last) = messages.last() else { return Ok(Step::Wait(None)) };
                *next = last.offset + 1;
                let now = Timestamp::now();
                let wanted = messages.into_iter().filter(|message| {
                    !message.envelope.header().is_expired(now) && filter.matches(&Facts::new(message, 1))
                });
                let deliver = |message| Delivery { ack_id: Bytes::new(), attempt: 1, message };
                let deliveries: Vec<_> = wanted.map(deliver).collect();
                if !deliveries.is_empty() {
                    return Ok(Step::Done(deliveries));
                }
            }
        });
        read.await
    }

    async fn set_credit(&mut self, credit: Credit) {
        self.credit = credit;
    }
}
