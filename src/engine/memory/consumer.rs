//! Consumers: each asks the state for messages whenever it may have some.

use std::sync::Arc;

use super::{Shared, Step};
use crate::engine::idle::User;
use crate::engine::{Consumer, Credit, Result};
use crate::model::{Delivery, Name};
use async_trait::async_trait;

/// A consumer's place among the engine's consumers, given up when it is dropped.
pub(super) struct Seat {
    pub(super) shared: Arc<Shared>,
    number: u64,
    pub(super) id: String,
}

impl Seat {
    pub(super) fn take(shared: &Arc<Shared>) -> Result<Self> {
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
            let number = state.group(&subscription)?.number;
            let group = state.group_numbered(&subscription, number)?.0;
            group.join(seat.number, credit, name.to_owned())?;
            Ok((number, group.idle.enter()))
        })?;
        Ok(Self { seat, subscription, number, _user: user })
    }

    fn set_waiting(&self, waiting: bool) {
        if let Ok((group, ..)) = self.seat.shared.lock().group_numbered(&self.subscription, self.number) {
            group.set_waiting(self.seat.number, waiting);
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
            let (group, logs, ids) = state.group_numbered(&consumer.subscription, consumer.number)?;
            group.check_running()?;
            Ok(Step::of(group.hand_to(consumer.seat.number, logs, ids, now), || group.next_due(logs, now)))
        });
        deliveries.await
    }

    async fn set_credit(&mut self, credit: Credit) {
        // A deleted subscription has no credit to set; `next` says so.
        let _ = self.seat.shared.change(|state| {
            let (group, ..) = state.group_numbered(&self.subscription, self.number)?;
            group.set_credit(self.seat.number, credit);
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
