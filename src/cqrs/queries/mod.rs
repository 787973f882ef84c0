//! Queries: routed to a live handler, shared, cached, watched. Nothing here is stored.
//!
//! One lock guards everything (`state`), and nothing waits while it holds it. What decides is plain structs
//! under it: `routing` (which handler), `flights` (who shares which call), `freshness` (which answer is
//! newer), `cache`, `watched` and `held`. Callers wait outside, each by a clock of its own; one task does what is due
//! by the clock for all (`clock`).

mod ask;
mod cache;
mod clock;
mod counters;
mod error;
mod flights;
mod freshness;
mod gather;
mod handle;
mod held;
mod ids;
mod question;
mod routing;
mod state;
#[cfg(test)]
mod tests;
mod watch;
mod watched;

use std::hash::RandomState;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use self::state::State;
use crate::cqrs::handlers::Handlers;

pub(crate) use self::ask::{Answered, CachePolicy, Terms};
pub(crate) use self::counters::Counters;
pub(crate) use self::error::Error;
pub(crate) use self::freshness::Scope;
pub(crate) use self::gather::{Gathered, GatheredAnswer};
pub(crate) use self::handle::Handler;
pub(crate) use self::held::Held;
pub(crate) use self::question::{Answer, Failure, Parts, Question};
pub(crate) use self::state::Delivery;
pub(crate) use self::watch::{Seen, Watcher};

/// The queries of a server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Queries {
    shared: Arc<Shared>,
    handlers: Handlers,
    _clock: Arc<AbortOnDropHandle<()>>,
}

/// What callers and the clock share.
struct Shared {
    state: Mutex<State>,
    /// Tells the clock that something is due earlier than it thinks.
    earlier: Notify,
    hashing: RandomState,
}

impl Queries {
    /// Starts the clock; needs a runtime. Handlers are listed in `handlers`.
    pub(crate) fn start(handlers: Handlers) -> Self {
        let state = Mutex::new(State::new(rand::random()));
        let shared = Arc::new(Shared { state, earlier: Notify::new(), hashing: RandomState::new() });
        let clock = tokio::spawn(clock::run(Arc::clone(&shared)));
        Self { shared, handlers, _clock: Arc::new(AbortOnDropHandle::new(clock)) }
    }

    /// What has happened since the start.
    pub(crate) fn counters(&self) -> Counters {
        self.shared.with(|state, _| state.counters)
    }

    /// Declares answers in the scope out of date: cached ones are dropped, and watched queries asked again.
    /// With a revision, only answers older than that. Returns how many watchers are concerned.
    pub(crate) fn invalidate(&self, scope: &Scope, revision: u64) -> usize {
        self.shared.with(|state, _| state.invalidate(scope, revision))
    }

    /// Tells watchers of a newer answer, and keeps it for those who allow it. Returns how many watchers it
    /// is for, and whether it is the newest that is known.
    pub(crate) fn update(&self, parts: Parts, answer: Answer) -> (usize, bool) {
        let question = self.question(parts);
        self.shared.with(|state, now| state.update(&question, answer, now))
    }

    fn question(&self, parts: Parts) -> Question {
        Question::new(parts, &self.shared.hashing)
    }
}

impl Shared {
    /// Does something with the state, and wakes the clock if that made something due earlier.
    fn with<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        // Nothing panics while it holds the lock, short of a defect, which then is one query's only.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut state, Instant::now());
        let due = state.router.next_tick();
        if due.is_some_and(|due| state.armed.is_none_or(|armed| due < armed)) {
            state.armed = due;
            drop(state);
            self.earlier.notify_one();
        }
        done
    }
}
