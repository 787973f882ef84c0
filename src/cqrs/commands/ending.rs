//! Ends commands otherwise than by a handler's completion: when their time is over, and when somebody wants
//! them cancelled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::error::{Error, Result};
use super::execution::{Cancel, Ended, Ending, Execution};
use super::live::Id;
use super::lookup::{Parts, View};
use super::record::{Fingerprint, StoredCommand, StoredOutcome};
use super::types::Type;
use super::{Commands, Inner, joined};
use crate::engine::{self, Retry, Settlement, Terms};
use crate::model::{Durability, Envelope, Offset, Receipt, Timestamp};

/// Commands that are being ended at once.
const AT_ONCE: usize = 256;
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

impl Commands {
    /// Cancels a command that no handler has, or tells the handler.
    pub(crate) async fn cancel(&self, id: &str) -> Result<View> {
        let inner = &self.0;
        loop {
            let cancel = inner.table().get(id).map(|live| live.execution.cancel(Instant::now()));
            match cancel {
                Some(Cancel::Settling) => inner.next_change(id).await,
                Some(Cancel::End) => {
                    let end = Arc::clone(inner).end(id.into(), Ending::Cancelled);
                    // If somebody else was first, what comes of it is to be seen.
                    if joined(tokio::spawn(end).await)? {
                        break;
                    }
                }
                Some(Cancel::Tell(..)) => {
                    // If nobody has it any more, it is ended here and now.
                    if joined(tokio::spawn(Arc::clone(inner).request_cancel(id.into())).await)? {
                        break;
                    }
                }
                Some(Cancel::Ended(_)) | None => break,
            }
        }
        let view = self.view(id, Parts::Whole).await?;
        match view.state.ending() {
            Some(Ending::Cancelled) | None => Ok(view),
            Some(ending) => Err(Error::Ended { id: id.to_owned(), state: ending.name() }),
        }
    }
}

impl Inner {
    /// Stores that somebody wants a command cancelled, and tells who has it. Says whether anybody does.
    async fn request_cancel(self: Arc<Self>, id: Id) -> Result<bool> {
        let found = self.table().get(&id).map(|live| {
            let execution = &live.execution;
            (Arc::clone(&live.kind), execution.offset, execution.cancel_requested)
        });
        let Some((kind, offset, requested)) = found else { return Ok(false) };
        if !requested {
            let outcome = StoredOutcome::cancel_requested(&id, offset, Timestamp::now());
            self.publish(&kind, outcome.envelope()).await?;
        }
        let holder = self.change(&id, |live| {
            live.execution.set_cancel_requested(Timestamp::now());
            match live.execution.cancel(Instant::now()) {
                Cancel::Tell(holder, _) => Some(holder),
                _ => None,
            }
        });
        let holder = holder.flatten();
        if let Some(holder) = &holder {
            holder.cancel(&id);
        }
        Ok(holder.is_some())
    }

    async fn publish(&self, kind: &Type, outcome: Envelope) -> Result<Receipt> {
        let terms = Terms::from(Durability::Fsynced);
        let receipt = self.engine.submit(&kind.outcomes, vec![outcome], terms).await?.await?;
        kind.outcome_at(receipt.last);
        self.followed.notify();
        Ok(receipt)
    }

    /// Ends a command like this, unless it has ended, or somebody else is ending it. Says whether it did.
    pub(super) async fn end(self: Arc<Self>, id: Id, ending: Ending) -> Result<bool> {
        self.learn_attempts(&id).await;
        let begun = self.change(&id, |live| {
            let execution: &mut Execution<_> = &mut live.execution;
            let begun = execution.begin();
            begun.then(|| {
                let failure = execution.last_failure.clone().filter(|_| ending == Ending::Cancelled);
                let time = execution.next_time(Timestamp::now());
                (Arc::clone(&live.kind), execution.offset, execution.attempts, failure, time)
            })
        });
        let Some((kind, offset, attempts, failure, time)) = begun.flatten() else { return Ok(false) };
        let outcome = StoredOutcome::ended(&id, offset, ending, time)
            .with_attempts(attempts)
            .with_failure(failure.map(|failure| (*failure).clone()));
        match self.settle_with(&kind, offset, outcome.envelope()).await {
            Ok(receipt) => {
                self.ended(&id, &kind, Ended { ending, outcome: receipt.last, time });
                Ok(true)
            }
            Err(error) => {
                self.unsettled(&id, Instant::now() + RETRY);
                Err(error)
            }
        }
    }

    /// Stores an outcome and settles the command's message, in one step.
    async fn settle_with(&self, kind: &Type, offset: Offset, outcome: Envelope) -> Result<Receipt> {
        let moved = self.engine.move_message(&kind.commands, offset, &kind.outcomes, outcome.clone()).await;
        match moved {
            // Nobody else settles messages of commands, and of those in here one at a time: it is settled
            // because it was too old to be kept, while no server ran.
            Err(engine::Error::AlreadySettled { .. }) => self.publish(kind, outcome).await,
            moved => Ok(moved?),
        }
    }

    /// A command has ended.
    pub(super) fn ended(&self, id: &str, kind: &Type, ended: Ended) {
        kind.outcome_at(ended.outcome);
        let lease = self.change(id, |live| {
            live.execution.end(ended);
            live.execution.lease().map(|lease| (Arc::clone(&lease.holder), lease.ack.clone()))
        });
        if let Some((holder, ack)) = lease.flatten() {
            holder.let_go(id, &ack, true);
        }
        self.followed.notify();
    }

    /// The engine did not settle a command: it is as it was, and looked at again then.
    pub(super) fn unsettled(&self, id: &str, again: Instant) {
        let mut table = self.table();
        table.change(id, Instant::now(), |live| live.execution.unsettled());
        table.look_again(id, again);
        if table.is_armed_too_late() {
            self.earlier.notify_one();
        }
    }

    /// Ends what is due, for ever.
    pub(super) async fn end_what_is_due(self: Arc<Self>) {
        let mut ending = JoinSet::new();
        loop {
            let (due, next) = {
                let mut table = self.table();
                let due = table.take_due(Instant::now(), AT_ONCE - ending.len());
                (due, table.arm())
            };
            for (id, how) in due {
                let inner = Arc::clone(&self);
                ending.spawn(async move {
                    if let Err(error) = inner.end(id, how).await {
                        tracing::debug!(%error, "a command cannot be ended now");
                    }
                });
            }
            let full = ending.len() == AT_ONCE;
            tokio::select! {
                Some(_) = ending.join_next() => {}
                () = self.earlier.notified(), if !full => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if !full && next.is_some() => {}
            }
        }
    }

    /// Takes up a command that the engine has and this process does not know: its record was damaged when
    /// the index was made, or it has ended a moment ago.
    pub(super) async fn adopt(
        self: Arc<Self>,
        kind: Arc<Type>,
        stored: StoredCommand,
        offset: Offset,
        ack: Bytes,
    ) {
        let row = match self.followed.get(&stored.id).await {
            Ok(row) => row.filter(|row| row.kind == kind.name.as_str() && row.offset == offset),
            Err(_) => return,
        };
        let settlement = if row.is_some_and(|row| row.ended().is_some()) {
            Settlement::Ack { cumulative: false }
        } else {
            let content: Fingerprint = stored.fingerprint(&kind.name);
            self.take_up(&kind, &stored.id, offset, content, (stored.accepted(), stored.timeout()));
            Settlement::Nack { retry: Retry::After(Duration::ZERO), reason: "taken up".into() }
        };
        // Without an answer the lease runs out.
        drop(self.engine.settle(&kind.commands, vec![ack], settlement).await);
    }
}
