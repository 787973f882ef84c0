//! Commits: publishes to several topics and acks of several subscriptions in one transaction.
//!
//! The dispatchers know which acks count, the writer what can be published. So first each dispatcher
//! takes the messages out of delivery; then the writer does everything in one frame, or refuses it; and
//! then the dispatchers learn what became of it. Between the two a subscription may be moved or
//! deleted. Those are records of the log, too, so the writer sees which came first.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Shared;
use super::delivery::dispatch::Reservation;
use super::log::Operation;
use super::log::transaction::{Epoch, Publication, Settle, Transaction, located};
use super::subscriptions::{ACK_BYTES, SubscriptionHandle};
use crate::engine::{self, Error, Outcome, Result};
use crate::model::{Durability, Receipt};

/// A commit on its way.
struct Commit {
    publishes: Vec<Publication>,
    acks: Vec<Ack>,
    /// Bytes in the write queue.
    bytes: usize,
    durability: Durability,
}

/// The acks of one operation.
struct Ack {
    operation: usize,
    handle: Arc<SubscriptionHandle>,
    ids: Vec<Bytes>,
}

/// Messages that a dispatcher has taken out of delivery.
struct Held {
    operation: usize,
    handle: Arc<SubscriptionHandle>,
    reservation: Reservation,
}

impl Shared {
    pub(super) async fn commit(self: Arc<Self>, operations: Vec<engine::Operation>) -> Result<Vec<Outcome>> {
        let (count, accepted) = (operations.len(), Instant::now());
        let Commit { publishes, acks, bytes, durability } = self.prepare(operations)?;
        let place = self.log.place(bytes).await?;
        let held = hold(acks).await?;
        let published: Vec<_> = publishes.iter().filter_map(|publication| publication.operation).collect();
        let (reply, receipts) = oneshot::channel();
        self.log.submit(Operation::Commit(Transaction {
            publishes,
            settles: held.iter().flat_map(Held::settles).collect(),
            durability,
            reply: Some(reply),
            accepted,
            place,
        }));
        let result = self.log.answer(receipts).await;
        // After a failure of the log its outcome is unknown until it is opened again, and until then
        // nothing can be settled.
        release(&held, result.is_ok()).await;
        Ok(outcomes(count, published.into_iter().zip(result?), &held))
    }

    /// Finds what the operations are about.
    fn prepare(&self, operations: Vec<engine::Operation>) -> Result<Commit> {
        let (publishes, acks) = (Vec::new(), Vec::new());
        let mut commit = Commit { publishes, acks, bytes: 0, durability: Durability::Buffered };
        for (index, operation) in operations.into_iter().enumerate() {
            self.prepare_one(&mut commit, index, operation).map_err(|error| located(Some(index), error))?;
        }
        Ok(commit)
    }

    fn prepare_one(&self, commit: &mut Commit, index: usize, operation: engine::Operation) -> Result<()> {
        let durability = match operation {
            engine::Operation::Publish { topic, messages, terms } => {
                let (publication, default) = self.publication(&topic, messages, terms)?;
                commit.bytes += publication.bytes();
                commit.publishes.push(Publication { operation: Some(index), ..publication });
                terms.durability.unwrap_or(default)
            }
            engine::Operation::Ack { subscription, ids } => {
                let handle = self.find_subscription(&subscription)?;
                commit.bytes += ids.len() * ACK_BYTES;
                commit.acks.push(Ack { operation: index, handle, ids });
                // A confirmed ack survives everything.
                Durability::Fsynced
            }
        };
        commit.durability = commit.durability.max(durability);
        Ok(())
    }
}

/// Has the dispatchers take all the messages out of delivery or, if an ack has no effect, none.
async fn hold(acks: Vec<Ack>) -> Result<Vec<Held>> {
    let mut held = Vec::with_capacity(acks.len());
    for Ack { operation, handle, ids } in acks {
        match handle.reserve(ids).await {
            Ok(reservation) => held.push(Held { operation, handle, reservation }),
            Err(error) => {
                release(&held, false).await;
                return Err(located(Some(operation), error));
            }
        }
    }
    Ok(held)
}

/// Tells the dispatchers what became of the commit.
async fn release(held: &[Held], committed: bool) {
    for Held { handle, reservation, .. } in held {
        handle.release(reservation.clone(), committed).await;
    }
}

/// What came of each operation, in order.
fn outcomes(count: usize, receipts: impl Iterator<Item = (usize, Receipt)>, held: &[Held]) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Acked(0); count];
    for (operation, receipt) in receipts {
        outcomes[operation] = Outcome::Published(receipt);
    }
    for Held { operation, handle, reservation } in held {
        outcomes[*operation] = Outcome::Acked(handle.committed_floor(Some(reservation.last_lane)));
    }
    outcomes
}

impl Held {
    fn settles(&self) -> impl Iterator<Item = Settle> {
        self.reservation.parts.iter().map(|part| {
            let (name, operation, whole) = (self.handle.name.clone(), self.operation, self.handle.id);
            Settle {
                subscription: part.lane,
                ranges: part.ranges.clone(),
                committed: Arc::clone(&part.committed),
                only_in: Some(Epoch { epoch: part.epoch, name, operation, whole }),
            }
        })
    }
}

impl SubscriptionHandle {
    /// Takes messages out of delivery until [`release`](Self::release): all or, if an id has no effect,
    /// none.
    async fn reserve(&self, ids: Vec<Bytes>) -> Result<Reservation> {
        let reserved = self.ask(|reply| super::delivery::dispatch::Event::Reserve { ids, reply }).await?;
        let refused =
            |(index, failure)| Error::AckRefused { subscription: self.name.clone(), index, failure };
        reserved.map_err(refused)
    }

    /// Ends a reservation.
    async fn release(&self, reservation: Reservation, committed: bool) {
        // A subscription that has ended needs no word of it.
        let _ = self.events.send(super::delivery::dispatch::Event::Release { reservation, committed }).await;
    }
}
