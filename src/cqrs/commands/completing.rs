//! What handlers say of the commands that they have.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tokio::time::Instant;

use super::ack::Ack;
use super::error::{Error, Result};
use super::execution::{Ended, Ending, Unclaimed};
use super::holder::Holder;
use super::index::SHOWN_MESSAGE_BYTES;
use super::lookup::{Parts, View};
use super::record::{Failure, Fingerprint, StoredOutcome};
use super::types::Type;
use super::{Commands, Inner, joined};
use crate::engine::{self, Operation, Outcome, Retry, Settlement, Terms};
use crate::model::limits::{COMMAND_LEASE, MAX_REASON_BYTES};
use crate::model::{Durability, Envelope, Name, Timestamp};

/// The code of a failure that says: it was cancelled, as somebody wanted.
const CANCELLED: &str = "CANCELLED";
/// How soon a command whose completion failed is looked at again.
const SOON: Duration = Duration::from_secs(1);

/// What came of a command.
#[derive(Debug, Clone, Hash)]
pub(crate) enum Completion {
    /// It is done.
    Result(Bytes),
    /// It is not.
    Failure(Failure),
}

/// What a handler has of a command.
struct Claim {
    kind: Arc<Type>,
    offset: u64,
    attempts: u32,
    cancel_requested: bool,
    time: Timestamp,
    holder: Option<Arc<Holder>>,
}

/// What claiming a delivery comes to.
enum Claimed {
    Claim(Claim),
    /// The command has ended by the same completion.
    Done,
}

impl Commands {
    /// Ends a command with the events of its end, in one step, or gives it back for another attempt.
    pub(crate) async fn complete(
        &self,
        ack_id: Bytes,
        completion: Completion,
        events: Vec<(Name, Vec<Envelope>)>,
    ) -> Result<View> {
        let ack = Ack::read(ack_id)?;
        let id = ack.id.clone();
        // What is under way comes to its end, whether or not the caller waits for it.
        joined(tokio::spawn(Arc::clone(&self.0).complete(ack, completion, events)).await)?;
        self.view(&id, Parts::Summary).await
    }

    /// Gives a handler more time; says whether somebody wants the command cancelled.
    pub(crate) async fn extend(&self, ack_id: Bytes, lease: Option<Duration>) -> Result<bool> {
        let ack = Ack::read(ack_id)?;
        let lease = lease.unwrap_or(COMMAND_LEASE);
        // What the engine is asked for is known here, whether or not the caller waits for it.
        joined(tokio::spawn(Arc::clone(&self.0).extend(ack, lease)).await)
    }
}

impl Inner {
    async fn extend(self: Arc<Self>, ack: Ack, lease: Duration) -> Result<bool> {
        let inner = &self;
        let Ack { id, ack, .. } = ack;
        let kind = loop {
            let checked = {
                let table = inner.table();
                let stored = table.get(&id).filter(|live| live.execution.is_stored());
                stored.map(|live| (Arc::clone(&live.kind), live.execution.check(&ack)))
            };
            match checked {
                Some((kind, Ok(()))) => break kind,
                Some((_, Err(Unclaimed::Settling))) => inner.next_change(&id).await,
                Some((_, Err(Unclaimed::Ended(ended)))) => return Err(ended_as(&id, ended.ending)),
                Some((_, Err(Unclaimed::LeaseLost))) => return Err(Error::LeaseLost(id)),
                None => return Err(inner.not_here(&id).await),
            }
        };
        let extend = Settlement::Extend { deadline: Some(lease) };
        let until = Instant::now() + lease;
        let settled = inner.engine.settle(&kind.commands, vec![ack.clone()], extend).await?;
        if !settled.failures.is_empty() {
            return Err(Error::LeaseLost(id));
        }
        let cancel = inner.change(&id, |live| {
            live.execution.extend(&ack, until);
            live.execution.cancel_requested
        });
        Ok(cancel.unwrap_or(false))
    }

    async fn complete(
        self: Arc<Self>,
        ack: Ack,
        completion: Completion,
        events: Vec<(Name, Vec<Envelope>)>,
    ) -> Result<()> {
        let mark = fingerprint(&ack, &completion, &events);
        let Ack { id, ack, .. } = ack;
        let Claimed::Claim(claim) = self.claim_delivery(&id, &ack, mark).await? else { return Ok(()) };
        let ending = match &completion {
            Completion::Result(_) => Ending::Succeeded,
            Completion::Failure(failure)
                if claim.cancel_requested && (failure.retryable || failure.code == CANCELLED) =>
            {
                Ending::Cancelled
            }
            Completion::Failure(failure) if failure.retryable => {
                return self.give_back(&id, ack, claim, failure.clone()).await;
            }
            Completion::Failure(_) => Ending::Failed,
        };
        let time = claim.time;
        let outcome = StoredOutcome::ended(&id, claim.offset, ending, time)
            .with_attempts(claim.attempts)
            .with_completion(mark);
        let is_result = ending == Ending::Succeeded;
        let outcome = match completion {
            Completion::Result(result) => outcome.with_result(result),
            Completion::Failure(failure) => outcome.with_failure(Some(failure)),
        };
        match self.engine.commit(operations(&claim.kind, ack, outcome.envelope(), events)).await {
            Ok(outcomes) => {
                if let Some(holder) = &claim.holder {
                    if is_result { holder.tally().answered() } else { holder.tally().failed() }
                }
                let Some(Outcome::Published(receipt)) = outcomes.get(1) else {
                    unreachable!("the second operation publishes the outcome")
                };
                self.ended(&id, &claim.kind, Ended { ending, outcome: receipt.last, time });
                Ok(())
            }
            Err(error) => {
                self.unsettled(&id, Instant::now() + SOON);
                let error = refused(id, error);
                if let Error::Engine(error) = &error {
                    self.space.refused(error);
                }
                Err(error)
            }
        }
    }

    /// Takes the right to settle a delivery; waits while somebody else has it.
    async fn claim_delivery(&self, id: &str, ack: &[u8], mark: Fingerprint) -> Result<Claimed> {
        loop {
            let claimed = self.change(id, |live| {
                let execution = &mut live.execution;
                // The delivery is of what is stored with this id, if anything is.
                execution.is_stored().then(|| {
                    execution.claim(ack).map(|()| Claim {
                        kind: Arc::clone(&live.kind),
                        offset: execution.offset,
                        attempts: execution.attempts,
                        cancel_requested: execution.cancel_requested,
                        time: execution.next_time(Timestamp::now()),
                        holder: execution.lease().map(|lease| Arc::clone(&lease.holder)),
                    })
                })
            });
            match claimed.flatten() {
                Some(Ok(claim)) => return Ok(Claimed::Claim(claim)),
                Some(Err(Unclaimed::Settling)) => self.next_change(id).await,
                Some(Err(Unclaimed::LeaseLost)) => return Err(Error::LeaseLost(id.to_owned())),
                Some(Err(Unclaimed::Ended(ended))) => return self.again(id, ended, mark).await,
                None => match self.followed.get(id).await?.and_then(|row| row.ended()) {
                    Some(ended) => return self.again(id, ended, mark).await,
                    None => return Err(Error::UnknownAck),
                },
            }
        }
    }

    /// A completion of a command that has ended: by this one, or otherwise?
    async fn again(&self, id: &str, ended: Ended, mark: Fingerprint) -> Result<Claimed> {
        let summary = self.summary(id).await?;
        let outcome = self.outcome(&summary.kind, ended.outcome).await?;
        if outcome.is_some_and(|outcome| outcome.is_from(mark)) {
            Ok(Claimed::Done)
        } else {
            Err(ended_as(id, ended.ending))
        }
    }

    /// Gives a command back for another attempt.
    async fn give_back(&self, id: &str, ack: Bytes, claim: Claim, failure: Failure) -> Result<()> {
        let mut reason = format!("{}: {}", failure.code, failure.message);
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        let nack = Settlement::Nack { retry: Retry::ByPolicy, reason: reason.into() };
        let settled = self.engine.settle(&claim.kind.commands, vec![ack.clone()], nack).await;
        let given_back = match settled {
            Ok(settled) if settled.failures.is_empty() => Ok(()),
            Ok(_) => Err(Error::LeaseLost(id.to_owned())),
            Err(error) => Err(error.into()),
        };
        if given_back.is_err() {
            self.unsettled(id, Instant::now() + SOON);
            return given_back;
        }
        // There may be a million of them in memory.
        let end = failure.message.floor_char_boundary(SHOWN_MESSAGE_BYTES);
        let failure = Arc::new(Failure { message: failure.message[..end].to_owned(), ..failure });
        self.change(id, |live| live.execution.failed(failure, Instant::now(), Timestamp::now()));
        if let Some(holder) = claim.holder {
            holder.let_go(id, &ack, false);
            holder.tally().failed();
        }
        Ok(())
    }

    /// Why there is no command of this id that has not ended.
    async fn not_here(&self, id: &str) -> Error {
        match self.followed.get(id).await {
            Ok(row) => match row.and_then(|row| row.ended()) {
                Some(ended) => ended_as(id, ended.ending),
                None => Error::UnknownAck,
            },
            Err(error) => error,
        }
    }
}

fn ended_as(id: &str, ending: Ending) -> Error {
    Error::Ended { id: id.to_owned(), state: ending.name() }
}

/// All of a completion, in one step.
fn operations(
    kind: &Type,
    ack: Bytes,
    outcome: Envelope,
    events: Vec<(Name, Vec<Envelope>)>,
) -> Vec<Operation> {
    let terms = Terms::from(Durability::Fsynced);
    let ack = Operation::Ack { subscription: kind.commands.clone(), ids: vec![ack] };
    let outcome = Operation::Publish { topic: kind.outcomes.clone(), messages: vec![outcome], terms };
    let events = events.into_iter().map(|(topic, messages)| Operation::Publish { topic, messages, terms });
    [ack, outcome].into_iter().chain(events).collect()
}

/// What a refused commit means for the handler.
fn refused(id: String, error: engine::Error) -> Error {
    match error {
        engine::Error::InCommit { index: 0, cause } => match *cause {
            engine::Error::AckRefused {
                failure: engine::Failure::Unknown | engine::Failure::WrongSubscription,
                ..
            } => Error::UnknownAck,
            engine::Error::AckRefused { .. } => Error::LeaseLost(id),
            other => other.into(),
        },
        engine::Error::InCommit { index: 1, cause } => (*cause).into(),
        engine::Error::InCommit { index, cause } => Error::Event { index: index - 2, cause },
        other => other.into(),
    }
}

/// Of a whole completion: the same once more has the same.
fn fingerprint(ack: &Ack, completion: &Completion, events: &[(Name, Vec<Envelope>)]) -> Fingerprint {
    let mut hasher = SipHasher13::new();
    hasher.write(&ack.ack);
    completion.hash(&mut hasher);
    for (topic, messages) in events {
        topic.hash(&mut hasher);
        for message in messages {
            hasher.write_usize(message.len());
            hasher.write(&message.0);
        }
    }
    hasher.finish128().as_u128()
}
