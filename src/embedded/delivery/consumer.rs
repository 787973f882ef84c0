//! What a stream holds of a durable subscription.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::dispatch::{Event, Member, SLOT_PLACES, Seat};
use super::leases::ConsumerId;
use crate::engine::idle::User;
use crate::engine::{Consumer, Credit, Error, Result};
use crate::model::Delivery;

/// A consumer of a durable subscription. Dropping it gives back what it holds.
pub(crate) struct DurableConsumer {
    member: Arc<Member>,
    seat: Seat,
    events: mpsc::Sender<Event>,
    slot: mpsc::Receiver<Result<Vec<Delivery>>>,
    /// Whether the dispatcher knows that this consumer waits.
    waiting: bool,
    end: watch::Receiver<Option<Error>>,
    /// A place in the dispatcher's queue for the goodbye, so that it never has to wait.
    goodbye: Option<mpsc::OwnedPermit<Event>>,
    /// Its places among the server's consumers and the subscription's, and that it uses this one.
    _places: ([OwnedSemaphorePermit; 2], User),
}

impl DurableConsumer {
    /// Connects to a subscription.
    pub(crate) async fn join(
        member: Member,
        events: mpsc::Sender<Event>,
        credit: Credit,
        end: watch::Receiver<Option<Error>>,
        places: ([OwnedSemaphorePermit; 2], User),
    ) -> Result<Self> {
        let goodbye = Some(events.clone().reserve_owned().await.map_err(|_| reason(&end))?);
        let (slot_sender, slot_receiver) = mpsc::channel(SLOT_PLACES);
        let (reply, joined) = oneshot::channel();
        // Made before the dispatcher hears of it: if this future is dropped at any point, the goodbye
        // follows the greeting.
        let seat = Seat::default();
        let member = Arc::new(member);
        let (slot, member_too) = (slot_sender, Arc::clone(&member));
        let join = Event::Join { member: member_too, credit, slot, seat: Arc::clone(&seat), reply };
        let consumer =
            Self { member, seat, events, slot: slot_receiver, waiting: false, end, goodbye, _places: places };
        consumer.events.send(join).await.map_err(|_| reason(&consumer.end))?;
        joined.await.map_err(|_| reason(&consumer.end))??;
        Ok(consumer)
    }

    fn id(&self) -> ConsumerId {
        *self.seat.get().expect("a consumer has joined")
    }
}

/// Why a subscription ended.
pub(crate) fn reason(end: &watch::Receiver<Option<Error>>) -> Error {
    end.borrow().clone().unwrap_or(Error::Closed)
}

#[async_trait]
impl Consumer for DurableConsumer {
    fn id(&self) -> &str {
        &self.member.id
    }

    async fn next(&mut self) -> Result<Vec<Delivery>> {
        if !self.waiting {
            // If this future is dropped before the send, nothing happened; after it, the messages wait
            // in the slot.
            let permit = self.events.reserve().await.map_err(|_| reason(&self.end))?;
            permit.send(Event::Want(self.id()));
            self.waiting = true;
        }
        let deliveries = self.slot.recv().await.ok_or_else(|| reason(&self.end))?;
        self.waiting = false;
        deliveries
    }

    async fn set_credit(&mut self, credit: Credit) {
        // A subscription that has ended says so in `next`.
        let _ = self.events.send(Event::Credit(self.id(), credit)).await;
    }
}

impl Drop for DurableConsumer {
    fn drop(&mut self) {
        if let Some(place) = self.goodbye.take() {
            place.send(Event::Leave(Arc::clone(&self.seat)));
        }
    }
}
