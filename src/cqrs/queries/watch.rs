//! Watching one question: its answer, and every newer one.
//!
//! A watcher has no task. It asks while somebody waits for what comes next, and equal questions share the
//! call, so that an invalidation costs one call however many watch. Whoever reads slowly gets the newest
//! answer and not those in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::sync::watch::Receiver;

use super::ask::{CachePolicy, Terms};
use super::clock::until;
use super::held::Held;
use super::question::{Parts, Question};
use super::watched::{Snapshot, Stale};
use super::{Error, Queries};

/// The wait before asking again after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a watcher sees.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    /// The first answer, or a newer one.
    Answer(Arc<Held>),
    /// The answer is out of date, and for this reason there is no newer one yet.
    Stale(Error),
}

/// Somebody who watches a question.
pub(crate) struct Watcher {
    queries: Queries,
    question: Question,
    terms: Terms,
    known: Receiver<Snapshot>,
    asking_at_once: Arc<Semaphore>,
    asking: Option<BoxFuture<'static, Result<(), Error>>>,
    /// Why it asks: the beginning of the staleness, if that is why.
    asked_for: Option<u64>,
    /// Has had its first answer.
    primed: bool,
    /// The version of the answer that was shown last.
    shown: u64,
    /// The staleness that was told last, by when it began.
    told: Option<u64>,
    failures: u32,
    /// Do not ask before.
    pause: Option<Instant>,
}

impl Queries {
    /// Watches a question. `timeout` is for each time that a handler is asked.
    pub(crate) fn watch(&self, parts: Parts, timeout: Duration, min_revision: u64) -> Result<Watcher, Error> {
        let question = self.question(parts);
        let (known, asking_at_once) = self.shared.with(|state, _| state.watched.join(&question))?;
        Ok(Watcher {
            queries: self.clone(),
            question,
            terms: Terms { timeout, cache: CachePolicy::default(), min_revision },
            known,
            asking_at_once,
            asking: None,
            asked_for: None,
            primed: false,
            shown: 0,
            told: None,
            failures: 0,
            pause: None,
        })
    }
}

impl Watcher {
    /// What comes next. May be dropped and called again. After an error, nothing comes.
    pub(crate) async fn next(&mut self) -> Result<Seen, Error> {
        loop {
            let known = self.known.borrow_and_update().clone();
            if let Some(error) = known.ended {
                return Err(error);
            }
            if let Some(latest) =
                known.latest.as_ref().filter(|latest| self.primed && latest.version != self.shown)
            {
                self.shown = latest.version;
                return Ok(Seen::Answer(Arc::clone(&latest.held)));
            }
            self.look_after(&known);
            // Not held while it waits: it may be the newest no more by then.
            drop(known);
            tokio::select! {
                changed = self.known.changed() => {
                    debug_assert!(changed.is_ok(), "a watched question is kept while somebody watches");
                    self.pause = None;
                }
                result = settled(&mut self.asking) => {
                    self.asking = None;
                    if let Some(seen) = self.asked(result)? {
                        return Ok(seen);
                    }
                }
                () = until(self.pause) => self.pause = None,
            }
        }
    }

    /// Asks if it is time to, and stops asking if there is no need.
    fn look_after(&mut self, known: &Snapshot) {
        let needed = !self.primed || known.stale.is_some() || known.latest.is_none();
        if !needed {
            (self.asking, self.pause, self.failures) = (None, None, 0);
        } else if self.asking.is_none() && self.pause.is_none() {
            self.asked_for = known.stale.map(|stale| stale.since);
            self.asking = Some(self.ask(known.stale));
        }
    }

    fn ask(&self, stale: Option<Stale>) -> BoxFuture<'static, Result<(), Error>> {
        let (queries, question) = (self.queries.clone(), self.question.clone());
        let (first, asking_at_once) = (!self.primed, Arc::clone(&self.asking_at_once));
        let mut terms = self.terms;
        if !first {
            terms.min_revision = stale.map_or(0, |stale| stale.min_revision);
        }
        let ask = async move {
            // Whoever opens a watch waits like any caller; the others take turns.
            let turn = if first { None } else { asking_at_once.acquire_owned().await.ok() };
            queries.shared.with(|state, _| state.counters.asked += 1);
            let answer = queries.ask_handler(&question, &terms).await;
            drop(turn);
            answer.map(drop)
        };
        ask.boxed()
    }

    /// What follows from having asked.
    fn asked(&mut self, result: Result<(), Error>) -> Result<Option<Seen>, Error> {
        let (stale, nothing) = {
            let known = self.known.borrow();
            (known.stale, known.latest.is_none())
        };
        match result {
            Ok(()) => {
                self.primed = true;
                // What was declared out of date meanwhile is asked for again at once; an answer that would
                // not do, not in a rush.
                let would_not_do = stale.is_some_and(|stale| Some(stale.since) == self.asked_for);
                self.pause = would_not_do.then(|| self.next_pause());
                Ok(None)
            }
            Err(error) if !self.primed || nothing => Err(error),
            Err(error) => {
                self.pause = Some(self.next_pause());
                let since = stale.map(|stale| stale.since);
                let news = since.is_some() && self.told != since;
                self.told = since;
                Ok(news.then_some(Seen::Stale(error)))
            }
        }
    }

    fn next_pause(&mut self) -> Instant {
        let full = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        Instant::now() + full.mul_f64(rand::random_range(0.5..1.0))
    }
}

/// What becomes of asking; nothing, for ever, while nobody asks.
async fn settled(asking: &mut Option<BoxFuture<'static, Result<(), Error>>>) -> Result<(), Error> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.asking = None;
        self.queries.shared.with(|state, _| state.watched.leave(&self.question));
    }
}
