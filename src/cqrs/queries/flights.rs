//! Calls under way, and who waits for each: equal questions share one.
//!
//! No I/O, clock or lock. `R` is where an answer goes.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::error::Error;
use super::freshness::Seq;
use super::question::{Answer, Question};
use super::routing::CallNo;

/// The wait before an answer that was too old is asked for again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The number of somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WaiterNo(u64);

/// Somebody who waits.
#[derive(Debug)]
struct Waiter<R> {
    min_revision: u64,
    deadline: Instant,
    reply: R,
}

/// One call under way.
#[derive(Debug)]
struct Flight<R> {
    question: Question,
    waiters: BTreeMap<WaiterNo, Waiter<R>>,
    /// When the handler that has it was given it.
    begun: Option<Seq>,
    /// Somebody wants the answer kept.
    keep: bool,
    /// The highest revision that was too low for somebody.
    seen: Option<u64>,
    pauses: u32,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) min_revision: u64,
    pub(super) deadline: Instant,
    pub(super) keep: bool,
}

/// Replies to send.
pub(super) type Replies<R> = Vec<(R, Result<Answer, Error>)>;

/// What becomes of a call that was answered.
#[derive(Debug)]
pub(super) struct Answered<R> {
    pub(super) replies: Replies<R>,
    pub(super) question: Question,
    /// When it began.
    pub(super) begun: Seq,
    pub(super) keep: bool,
    /// It was too old for some, and is asked again after this.
    pub(super) again: Option<Duration>,
}

/// All calls under way.
#[derive(Debug)]
pub(super) struct Flights<R> {
    flights: HashMap<CallNo, Flight<R>>,
    /// The one that further askers of a question join.
    shared: HashMap<Question, CallNo>,
    waiters: usize,
    bytes: usize,
    last_call: u64,
    last_waiter: u64,
}

impl<R> Default for Flights<R> {
    fn default() -> Self {
        let (flights, shared) = (HashMap::new(), HashMap::new());
        Self { flights, shared, waiters: 0, bytes: 0, last_call: 0, last_waiter: 0 }
    }
}

impl<R> Flights<R> {
    /// How many wait.
    pub(super) fn waiters(&self) -> usize {
        self.waiters
    }

    /// How much memory the questions take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn next_call(&mut self) -> CallNo {
        self.last_call += 1;
        CallNo(self.last_call)
    }

    /// The call that askers of this question join, if there is one.
    pub(super) fn shared(&self, question: &Question) -> Option<CallNo> {
        self.shared.get(question).copied()
    }

    /// When a call was given to the handler that has it.
    pub(super) fn begun(&self, call: CallNo) -> Option<Seq> {
        self.flights.get(&call)?.begun
    }

    pub(super) fn question(&self, call: CallNo) -> Option<&Question> {
        self.flights.get(&call).map(|flight| &flight.question)
    }

    /// Begins a call. If it is to be `shared`, further askers of the question join this one.
    pub(super) fn add(&mut self, call: CallNo, question: &Question, shared: bool) {
        self.bytes += question.size();
        if shared {
            self.shared.insert(question.clone(), call);
        }
        let (question, waiters) = (question.clone(), BTreeMap::new());
        self.flights
            .insert(call, Flight { question, waiters, begun: None, keep: false, seen: None, pauses: 0 });
    }

    /// Somebody waits for a call.
    pub(super) fn join(&mut self, call: CallNo, want: Want, reply: R) -> WaiterNo {
        self.last_waiter += 1;
        let no = WaiterNo(self.last_waiter);
        let Want { min_revision, deadline, keep } = want;
        if let Some(flight) = self.flights.get_mut(&call) {
            flight.keep |= keep;
            flight.waiters.insert(no, Waiter { min_revision, deadline, reply });
            self.waiters += 1;
        }
        no
    }

    /// Somebody waits no longer. The highest revision that was too low, and whether others wait.
    pub(super) fn leave(&mut self, call: CallNo, waiter: WaiterNo) -> Option<(Option<u64>, bool)> {
        let flight = self.flights.get_mut(&call)?;
        flight.waiters.remove(&waiter)?;
        self.waiters -= 1;
        Some((flight.seen, !flight.waiters.is_empty()))
    }

    /// Whether anybody waits for a call.
    pub(super) fn is_wanted(&self, call: CallNo) -> bool {
        self.flights.get(&call).is_some_and(|flight| !flight.waiters.is_empty())
    }

    /// Until when somebody waits for a call, if that is in the future.
    pub(super) fn wanted_until(&self, call: CallNo, now: Instant) -> Option<Instant> {
        let waiters = self.flights.get(&call)?.waiters.values();
        waiters.map(|waiter| waiter.deadline).max().filter(|&deadline| deadline > now)
    }

    /// A handler was given a call.
    pub(super) fn begin(&mut self, call: CallNo, seq: Seq) {
        if let Some(flight) = self.flights.get_mut(&call) {
            flight.begun = Some(seq);
        }
    }

    /// The handler that had a call has it no longer.
    pub(super) fn interrupt(&mut self, call: CallNo) {
        if let Some(flight) = self.flights.get_mut(&call) {
            flight.begun = None;
        }
    }

    /// A handler answered a call. Those for whom the answer is too old go on waiting; the call is over, if
    /// there are none.
    pub(super) fn answer(&mut self, call: CallNo, answer: &Answer) -> Option<Answered<R>> {
        let flight = self.flights.get_mut(&call)?;
        let begun = flight.begun.take()?;
        let revision = answer.revision;
        let too_old = |_: &WaiterNo, waiter: &mut Waiter<R>| revision == 0 || revision >= waiter.min_revision;
        let done: Vec<_> = flight.waiters.extract_if(.., too_old).collect();
        self.waiters -= done.len();
        let kind = flight.question.kind();
        let reply = |(_, waiter): (WaiterNo, Waiter<R>)| {
            let lacking = revision == 0 && waiter.min_revision > 0;
            let result = if lacking { Err(Error::NoRevision(kind.clone())) } else { Ok(answer.clone()) };
            (waiter.reply, result)
        };
        let replies = done.into_iter().map(reply).collect();
        let (question, keep) = (flight.question.clone(), flight.keep);
        let again = (!flight.waiters.is_empty()).then(|| {
            flight.seen = flight.seen.max(Some(revision));
            flight.pauses += 1;
            FIRST_PAUSE.saturating_mul(1 << (flight.pauses - 1).min(10)).min(LONGEST_PAUSE)
        });
        if again.is_none() {
            self.remove(call);
        }
        Some(Answered { replies, question, begun, keep, again })
    }

    /// A call failed for all that wait.
    pub(super) fn fail(&mut self, call: CallNo, error: &Error) -> Replies<R> {
        let flight = self.remove(call);
        let waiters = flight.map(|flight| flight.waiters).unwrap_or_default();
        waiters.into_values().map(|waiter| (waiter.reply, Err(error.clone()))).collect()
    }

    /// Nobody joins the call for this question any more: it began before something happened.
    pub(super) fn unshare(&mut self, question: &Question) {
        self.shared.remove(question);
    }

    /// A call is over.
    pub(super) fn forget(&mut self, call: CallNo) {
        self.remove(call);
    }

    fn remove(&mut self, call: CallNo) -> Option<Flight<R>> {
        let flight = self.flights.remove(&call)?;
        self.bytes -= flight.question.size();
        self.waiters -= flight.waiters.len();
        if self.shared.get(&flight.question) == Some(&call) {
            self.shared.remove(&flight.question);
        }
        Some(flight)
    }
}
