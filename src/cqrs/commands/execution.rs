//! What is going on with one command that has not ended: who has it, and until when.
//!
//! What ends a command is decided by the engine, which settles its message once. This only keeps callers of
//! this process from trying at the same time, so that whoever is refused by the engine knows why.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::record::Failure;
use crate::model::{Offset, Timestamp};

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No handler has it.
    Pending,
    /// A handler has it.
    Running,
    /// It is over.
    Ended(Ending),
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With a result.
    Succeeded,
    /// With a failure that is not retried.
    Failed,
    /// Because somebody asked for it.
    Cancelled,
    /// Because its time was over.
    Expired,
}

impl Ending {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Succeeded, Self::Failed, Self::Cancelled, Self::Expired];

    /// Its number in what is stored.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Succeeded => 2,
            Self::Failed => 3,
            Self::Cancelled => 4,
            Self::Expired => 5,
        }
    }

    /// The one with a number.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ending| ending.number() == number)
    }
}

/// A handler's hold on a command. `H` is the handler.
#[derive(Debug, Clone)]
pub(super) struct Lease<H> {
    /// The engine's name for the delivery.
    pub(super) ack: Bytes,
    /// Which attempt it is.
    pub(super) attempt: u32,
    /// When it ends.
    pub(super) until: Instant,
    /// Who holds it.
    pub(super) holder: H,
}

/// A command that was accepted in or before this process, and has not ended as far as it knows; or that has
/// ended a moment ago.
#[derive(Debug, Clone)]
pub(super) struct Execution<H> {
    /// Where the command is; 0 until it is stored.
    pub(super) offset: Offset,
    /// When it was accepted.
    pub(super) accepted: Timestamp,
    /// When its time is over, for people.
    pub(super) expires: Timestamp,
    /// When its time is over, by a clock that nobody sets.
    pub(super) deadline: Instant,
    /// Deliveries so far.
    pub(super) attempts: u32,
    /// There may have been others before this process, and nobody has asked the engine yet.
    pub(super) attempts_unknown: bool,
    /// Somebody wants it cancelled.
    pub(super) cancel_requested: bool,
    /// Grows with each change.
    pub(super) revision: u64,
    /// Why the last attempt failed.
    pub(super) last_failure: Option<Arc<Failure>>,
    lease: Option<Lease<H>>,
    /// Somebody asks the engine to settle it, and does not know the answer yet.
    settling: bool,
    ended: Option<Ended>,
}

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// How.
    pub(super) ending: Ending,
    /// Where the outcome is.
    pub(super) outcome: Offset,
    /// When.
    pub(super) time: Timestamp,
}

/// What to do with a delivery from the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    /// Hand it to the handler.
    HandOut,
    /// Do not: end the command like this.
    End(Ending),
    /// Do not: somebody is ending it, or has.
    Ignore,
}

/// Why a delivery cannot be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unclaimed {
    /// Somebody is ending the command: wait for what comes of it.
    Settling,
    /// It has ended.
    Ended(Ended),
    /// The delivery is not the last one.
    LeaseLost,
}

/// What to do about a request to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cancel<H> {
    /// End the command.
    End,
    /// Tell who has it, and look again when the lease ends.
    Tell(H, Bytes),
    /// It has ended.
    Ended(Ended),
    /// Somebody is ending it, or storing it.
    Settling,
}

/// What is to be done by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// End the command.
    End(Ending),
    /// Nothing: look again then.
    At(Instant),
    /// Nothing: it has ended, or is being ended.
    Nothing,
}

impl<H: Clone> Execution<H> {
    /// A command that is to be stored.
    pub(super) fn new(accepted: Timestamp, timeout: Duration, left: Duration, now: Instant) -> Self {
        Self {
            offset: 0,
            accepted,
            expires: accepted.after(timeout),
            deadline: now + left,
            attempts: 0,
            attempts_unknown: false,
            cancel_requested: false,
            revision: accepted.0,
            last_failure: None,
            lease: None,
            settling: false,
            ended: None,
        }
    }

    /// There were so many deliveries, by what the engine knows.
    pub(super) fn learn_attempts(&mut self, attempts: u32) {
        self.attempts = self.attempts.max(attempts);
        self.attempts_unknown = false;
    }

    /// How far it is.
    pub(super) fn state(&self, now: Instant) -> State {
        match (self.ended, self.held(now)) {
            (Some(ended), _) => State::Ended(ended.ending),
            (None, Some(_)) => State::Running,
            (None, None) => State::Pending,
        }
    }

    /// Whether it is known to be stored; until then there is only a claim to its id.
    pub(super) fn is_stored(&self) -> bool {
        self.offset != 0
    }

    /// Whether an answer of the engine is awaited.
    pub(super) fn is_undecided(&self) -> bool {
        self.settling || !self.is_stored()
    }

    /// The time of a change now: later than that of the last.
    pub(super) fn next_time(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.max(self.revision + 1))
    }

    /// What others who wait for a change go by.
    pub(super) fn version(&self) -> (u64, bool) {
        (self.revision, self.is_undecided())
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// The last lease, over or not.
    pub(super) fn lease(&self) -> Option<&Lease<H>> {
        self.lease.as_ref()
    }

    /// The lease, if it is not over.
    fn held(&self, now: Instant) -> Option<&Lease<H>> {
        self.lease.as_ref().filter(|lease| lease.until > now)
    }

    /// It has changed.
    fn touch(&mut self, at: Timestamp) {
        self.revision = self.next_time(at).0;
    }

    /// The engine has handed it over for a handler.
    pub(super) fn deliver(&mut self, lease: Lease<H>, now: Instant, at: Timestamp) -> Delivered {
        if self.ended.is_some() || self.settling {
            return Delivered::Ignore;
        }
        if now >= self.deadline {
            return Delivered::End(Ending::Expired);
        }
        if self.cancel_requested {
            return Delivered::End(Ending::Cancelled);
        }
        self.learn_attempts(lease.attempt);
        self.lease = Some(lease);
        self.touch(at);
        Delivered::HandOut
    }

    /// Takes the right to settle a delivery, for the one who has it.
    pub(super) fn claim(&mut self, ack: &[u8]) -> Result<(), Unclaimed> {
        self.check(ack)?;
        self.settling = true;
        Ok(())
    }

    /// Whether a delivery is the last one, and the command has not ended.
    pub(super) fn check(&self, ack: &[u8]) -> Result<(), Unclaimed> {
        if let Some(ended) = self.ended {
            return Err(Unclaimed::Ended(ended));
        }
        if self.settling {
            return Err(Unclaimed::Settling);
        }
        let own = self.lease.as_ref().is_some_and(|lease| lease.ack == ack);
        if own { Ok(()) } else { Err(Unclaimed::LeaseLost) }
    }

    /// Takes the right to end it, if nobody else is doing so.
    pub(super) fn begin(&mut self) -> bool {
        let free = self.ended.is_none() && !self.is_undecided();
        self.settling |= free;
        free
    }

    /// The engine has not settled it.
    pub(super) fn unsettled(&mut self) {
        self.settling = false;
    }

    /// The engine has settled it.
    pub(super) fn end(&mut self, ended: Ended) {
        self.settling = false;
        self.ended = Some(ended);
        self.touch(ended.time);
    }

    /// The lease was given back after a failure that may be retried.
    pub(super) fn failed(&mut self, failure: Arc<Failure>, now: Instant, at: Timestamp) {
        self.settling = false;
        self.last_failure = Some(failure);
        if let Some(lease) = &mut self.lease {
            lease.until = now;
            // It cannot be completed any more.
            lease.ack = Bytes::new();
        }
        self.touch(at);
    }

    /// The stream that has it ended. Says whether it did have it.
    pub(super) fn release(&mut self, ack: &[u8], now: Instant, at: Timestamp) -> bool {
        match &mut self.lease {
            Some(lease) if lease.ack == ack && lease.until > now => {
                lease.until = now;
                self.touch(at);
                true
            }
            _ => false,
        }
    }

    /// The lease lasts until then.
    pub(super) fn extend(&mut self, ack: &[u8], until: Instant) {
        if let Some(lease) = self.lease.as_mut().filter(|lease| lease.ack == ack) {
            lease.until = until;
        }
    }

    /// Somebody wants it cancelled; what is to be done?
    pub(super) fn cancel(&self, now: Instant) -> Cancel<H> {
        if let Some(ended) = self.ended {
            return Cancel::Ended(ended);
        }
        if self.is_undecided() {
            return Cancel::Settling;
        }
        match self.held(now) {
            Some(lease) => Cancel::Tell(lease.holder.clone(), lease.ack.clone()),
            None => Cancel::End,
        }
    }

    /// The request to cancel it is stored.
    pub(super) fn set_cancel_requested(&mut self, at: Timestamp) {
        if !self.cancel_requested {
            self.cancel_requested = true;
            self.touch(at);
        }
    }

    /// What is to be done by now, or when to look again.
    pub(super) fn due(&self, now: Instant) -> Due {
        if self.ended.is_some() || self.settling {
            return Due::Nothing;
        }
        if now >= self.deadline {
            return Due::End(Ending::Expired);
        }
        if !self.cancel_requested {
            return Due::At(self.deadline);
        }
        match self.held(now) {
            Some(lease) => Due::At(lease.until.min(self.deadline)),
            None => Due::End(Ending::Cancelled),
        }
    }
}
