//! Asking one question, and waiting for its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot::{self, Receiver};

use super::error::Error;
use super::flights::Want;
use super::question::{Answer, Parts, Question};
use super::state::{Ask, Ticket};
use super::{Queries, Shared};

/// What a caller allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// How long it waits.
    pub(crate) timeout: Duration,
    /// Whether a kept answer will do.
    pub(crate) cache: CachePolicy,
    /// The lowest revision that will do; 0 for any.
    pub(crate) min_revision: u64,
}

/// Whether a kept answer will do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CachePolicy {
    /// How old it may be, and that the answer may be kept for others; `None` for neither.
    pub(crate) ttl: Option<Duration>,
    /// Ask a handler in any case, and take no answer from a call that has begun.
    pub(crate) bypass: bool,
}

/// An answer, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) from_cache: bool,
    /// How old a kept answer is; zero for one that came just now.
    pub(crate) age: Duration,
}

impl Queries {
    /// Asks; answers from cache, from a call under way, or by a handler.
    pub(crate) async fn ask(&self, parts: Parts, terms: &Terms) -> Result<Answered, Error> {
        let question = self.question(parts);
        let Terms { cache: CachePolicy { ttl, bypass }, min_revision, .. } = *terms;
        let cached = self.shared.with(|state, now| {
            state.counters.asked += 1;
            let cached =
                ttl.filter(|_| !bypass).and_then(|ttl| state.cached(&question, ttl, min_revision, now));
            state.counters.from_cache += u64::from(cached.is_some());
            state.counters.missed += u64::from(cached.is_none() && ttl.is_some() && !bypass);
            state.counters.answered += u64::from(cached.is_some());
            cached
        });
        if let Some((answer, age)) = cached {
            return Ok(Answered { answer, from_cache: true, age });
        }
        let answer = self.ask_handler(&question, terms).await;
        self.shared.with(|state, _| match &answer {
            Ok(_) => state.counters.answered += 1,
            Err(_) => state.counters.failed += 1,
        });
        Ok(Answered { answer: answer?, from_cache: false, age: Duration::ZERO })
    }

    /// Asks a handler, or joins those who do.
    pub(super) async fn ask_handler(&self, question: &Question, terms: &Terms) -> Result<Answer, Error> {
        let (reply, receiver) = oneshot::channel();
        let Terms { timeout, cache: CachePolicy { ttl, bypass }, min_revision } = *terms;
        let (ticket, deadline) = self.shared.with(|state, now| {
            let want = Want { min_revision, deadline: now + timeout, keep: ttl.is_some() };
            let ticket = state.ask(question, Ask { want, anew: bypass }, reply, now)?;
            Ok::<_, Error>((ticket, want.deadline))
        })?;
        let waiting = Waiting { shared: Arc::clone(&self.shared), ticket, receiver, deadline };
        waiting.answer(question, terms).await
    }
}

/// Somebody who waits. Dropping it gives the place up.
pub(super) struct Waiting {
    pub(super) shared: Arc<Shared>,
    pub(super) ticket: Ticket,
    pub(super) receiver: Receiver<Result<Answer, Error>>,
    pub(super) deadline: Instant,
}

impl Waiting {
    /// Waits for the answer until the deadline.
    pub(super) async fn answer(mut self, question: &Question, terms: &Terms) -> Result<Answer, Error> {
        let Terms { timeout, min_revision, .. } = *terms;
        let in_time = tokio::time::timeout_at(self.deadline.into(), &mut self.receiver).await;
        if let Ok(Ok(result)) = in_time {
            return result;
        }
        let (seen, busy) = self.shared.with(|state, now| state.give_up(self.ticket, now));
        // It may have come between the deadline and now.
        if let Ok(result) = self.receiver.try_recv() {
            return result;
        }
        Err(match seen {
            Some(seen) => Error::RevisionNotReached { wanted: min_revision, seen, timeout },
            None => Error::TimedOut { kind: question.kind().clone(), timeout, busy },
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.shared.with(|state, now| _ = state.give_up(ticket, now));
    }
}
