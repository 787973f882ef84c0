//! All that is known of queries, under one lock: joins the parts, each of which knows nothing of the others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::cache::Cache;
use super::counters::Counters;
use super::error::{Error, Over};
use super::flights::{Flights, Replies, WaiterNo, Want};
use super::freshness::{Cuts, Scope, Seq};
use super::ids::{Ends, Signer};
use super::question::{Answer, Failure, Question};
use super::routing::{CallNo, HandlerNo, Lane, NotTaken, Place, Router, Step};
use super::watched::{Offered, Watched};
use crate::cqrs::handlers::Tally;
use crate::model::Name;
use crate::model::limits::{MAX_CACHE_BYTES, MAX_LOST_HANDLERS, MAX_OPEN_QUERIES, MAX_OPEN_QUERY_BYTES};

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<Answer, Error>>;

/// What a handler said.
pub(crate) type Outcome = Result<Answer, Failure>;

/// What the state keeps of a connected handler.
#[derive(Debug)]
struct Seat {
    tally: Tally,
    /// Told when there is something to take.
    given: Arc<Notify>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) router: Router,
    flights: Flights<Reply>,
    cuts: Cuts,
    cache: Cache,
    pub(super) watched: Watched,
    seats: HashMap<HandlerNo, Seat>,
    signer: Signer,
    ends: Ends,
    seq: Seq,
    last_handler: u64,
    pub(super) counters: Counters,
    /// When the clock looks next.
    pub(super) armed: Option<Instant>,
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) want: Want,
    /// Do not join a call that has begun.
    pub(super) anew: bool,
}

/// Somebody's place among those who wait for a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) call: CallNo,
    pub(super) waiter: WaiterNo,
}

/// What a handler is handed.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Names this handing-out in the answer.
    pub(crate) id: Bytes,
    /// What is asked.
    pub(crate) question: Question,
    /// Until when it may answer.
    pub(crate) deadline: Instant,
}

impl State {
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self {
            router: Router::default(),
            flights: Flights::default(),
            cuts: Cuts::default(),
            cache: Cache::new(MAX_CACHE_BYTES),
            watched: Watched::default(),
            seats: HashMap::new(),
            signer: Signer::new(key),
            ends: Ends::default(),
            seq: 0,
            last_handler: 0,
            counters: Counters::default(),
            armed: None,
        }
    }

    fn next_seq(&mut self) -> Seq {
        self.seq += 1;
        self.seq
    }

    /// A kept answer that is good enough.
    pub(super) fn cached(
        &self,
        question: &Question,
        ttl: Duration,
        min_revision: u64,
        now: Instant,
    ) -> Option<(Answer, Duration)> {
        self.cache.get(question, ttl, min_revision, &self.cuts, now)
    }

    /// Asks: joins a call under way for the same question, or begins one.
    pub(super) fn ask(
        &mut self,
        question: &Question,
        ask: Ask,
        reply: Reply,
        now: Instant,
    ) -> Result<Ticket, Error> {
        let call = match self.joinable(question, ask.anew) {
            Some(call) => {
                self.check_room(0)?;
                self.counters.shared += 1;
                call
            }
            None => self.begin(question, None, ask.want.deadline, now)?,
        };
        let waiter = self.flights.join(call, ask.want, reply);
        self.router.extend(call, ask.want.deadline);
        let steps = match self.router.place_of(call) {
            // Whoever has come may be content with what the call brings now.
            Some(Place::Paused { .. }) => self.router.hurry(call),
            Some(Place::Settled) => self.router.renew(call, ask.want.deadline),
            Some(Place::Waiting | Place::Given { .. }) | None => Vec::new(),
        };
        self.apply(steps, now);
        Ok(Ticket { call, waiter })
    }

    /// Asks the handlers of one group, sharing with nobody.
    pub(super) fn ask_group(
        &mut self,
        question: &Question,
        lane: Lane,
        want: Want,
        reply: Reply,
        now: Instant,
    ) -> Result<Ticket, Error> {
        let call = self.begin(question, Some(lane), want.deadline, now)?;
        let waiter = self.flights.join(call, want, reply);
        Ok(Ticket { call, waiter })
    }

    /// A call under way that answers this question, too: it began after everything that is known to have
    /// changed the answer.
    fn joinable(&self, question: &Question, anew: bool) -> Option<CallNo> {
        let call = self.flights.shared(question)?;
        match self.flights.begun(call) {
            Some(begun) => (!anew && !self.cuts.since(question, begun)).then_some(call),
            None => Some(call),
        }
    }

    fn check_room(&self, bytes: usize) -> Result<(), Error> {
        if self.flights.waiters() >= MAX_OPEN_QUERIES {
            return Err(Error::TooManyQueries);
        }
        if self.flights.bytes() + bytes > MAX_OPEN_QUERY_BYTES {
            return Err(Error::TooManyBytes);
        }
        Ok(())
    }

    fn begin(
        &mut self,
        question: &Question,
        lane: Option<Lane>,
        deadline: Instant,
        now: Instant,
    ) -> Result<CallNo, Error> {
        self.check_room(question.size())?;
        let kind = question.kind();
        let shared = lane.is_none();
        let lane = lane.unwrap_or_else(|| Lane { kind: kind.clone(), group: None });
        let call = self.flights.next_call();
        let steps = self.router.add(call, lane, deadline).map_err(|not_taken| match not_taken {
            NotTaken::NoHandler => Error::NoHandler(kind.clone()),
            NotTaken::QueueFull => Error::TooManyWaiting(kind.clone()),
        })?;
        self.flights.add(call, question, shared);
        self.apply(steps, now);
        Ok(call)
    }

    /// Somebody waits no longer. Returns the highest revision that was too low, and whether no handler was
    /// free. A call that a handler works on goes on: others may join it, and the handler is not free anyway.
    pub(super) fn give_up(&mut self, ticket: Ticket, now: Instant) -> (Option<u64>, bool) {
        let place = self.router.place_of(ticket.call);
        let Some((seen, wanted)) = self.flights.leave(ticket.call, ticket.waiter) else {
            return (None, false);
        };
        if !wanted && !matches!(place, Some(Place::Given { taken: true, .. })) {
            self.flights.forget(ticket.call);
            let steps = self.router.finish(ticket.call);
            self.apply(steps, now);
        }
        (seen, matches!(place, Some(Place::Waiting)))
    }

    /// A handler connects.
    pub(super) fn join(
        &mut self,
        name: Arc<str>,
        types: Vec<Name>,
        max_outstanding: u32,
        tally: Tally,
        now: Instant,
    ) -> Result<(HandlerNo, Arc<Notify>), Error> {
        if let Some(full) = types.iter().find(|kind| !self.router.has_room_for_handler(kind)) {
            return Err(Error::TooManyHandlersOf(full.clone()));
        }
        self.last_handler += 1;
        let (no, given) = (HandlerNo(self.last_handler), Arc::new(Notify::new()));
        self.seats.insert(no, Seat { tally, given: Arc::clone(&given) });
        let returned: Vec<_> = types.iter().filter(|kind| !self.router.is_handled(kind)).cloned().collect();
        let steps = self.router.join(no, name, types, max_outstanding);
        self.apply(steps, now);
        let seq = self.next_seq();
        for kind in &returned {
            self.watched.stir(kind, seq);
        }
        Ok((no, given))
    }

    /// A handler's stream ended.
    pub(super) fn leave(&mut self, no: HandlerNo, now: Instant) {
        self.seats.remove(&no);
        let steps = self.router.leave(no, MAX_LOST_HANDLERS);
        self.apply(steps, now);
    }

    /// The next query for a handler.
    pub(super) fn take(&mut self, no: HandlerNo) -> Option<Delivery> {
        let (delivery, call, deadline) = self.router.take(no)?;
        let question = self.flights.question(call)?.clone();
        Some(Delivery { id: self.signer.sign(delivery), question, deadline })
    }

    /// A handler answers.
    pub(super) fn answer(&mut self, id: &[u8], outcome: Outcome, now: Instant) -> Result<(), Error> {
        let delivery = self.signer.open(id).ok_or(Error::UnknownQuery)?;
        let settled = self.router.settle(delivery);
        let (call, handler, steps) = settled.ok_or_else(|| Error::Over(self.ends.of(delivery)))?;
        self.ends.note(delivery, Over::Answered);
        let name = self.router.handler_name(handler).cloned().unwrap_or_default();
        match outcome {
            Ok(answer) => self.answered(call, &Answer { handler: name, ..answer }, handler, now),
            Err(failure) => self.failed(call, Failure { handler: name, ..failure }, handler, now),
        }
        self.apply(steps, now);
        Ok(())
    }

    fn answered(&mut self, call: CallNo, answer: &Answer, handler: HandlerNo, now: Instant) {
        if let Some(seat) = self.seats.get(&handler) {
            seat.tally.answered();
        }
        let Some(done) = self.flights.answer(call, answer) else { return };
        if !self.cuts.cut(&done.question, done.begun, answer.revision) {
            let offered = self.watched.offer(&done.question, answer, done.begun);
            // What those who watch know to be old is not kept for others either.
            if done.keep && !matches!(offered, Offered::Old(_)) {
                self.cache.put(&done.question, answer.clone(), done.begun, &self.cuts, now);
            }
        }
        send(done.replies);
        if let Some(pause) = done.again {
            self.counters.retried += 1;
            self.router.pause(call, now + pause);
        } else {
            let steps = self.router.finish(call);
            self.apply(steps, now);
        }
    }

    fn failed(&mut self, call: CallNo, failure: Failure, handler: HandlerNo, now: Instant) {
        if let Some(seat) = self.seats.get(&handler) {
            seat.tally.failed();
        }
        let replies = self.flights.fail(call, &Error::Failed(Arc::new(failure)));
        send(replies);
        let steps = self.router.finish(call);
        self.apply(steps, now);
    }

    /// A newer answer comes without having been asked for. How many watch the question, and whether it is the
    /// newest.
    pub(super) fn update(&mut self, question: &Question, answer: Answer, now: Instant) -> (usize, bool) {
        let seq = self.next_seq();
        // A call that began before may bring what was before.
        self.flights.unshare(question);
        match self.watched.offer(question, &answer, seq) {
            Offered::Old(watchers) => (watchers, false),
            Offered::Newest(watchers) => {
                self.cache.put(question, answer, seq, &self.cuts, now);
                (watchers, true)
            }
            Offered::Unwatched => (0, self.cache.put(question, answer, seq, &self.cuts, now)),
        }
    }

    /// Declares answers out of date. How many watchers that concerns.
    pub(super) fn invalidate(&mut self, scope: &Scope, revision: u64) -> usize {
        let seq = self.next_seq();
        self.cuts.add(scope, revision, seq);
        self.watched.invalidate(scope, revision, seq)
    }

    /// Does what is due by the clock.
    pub(super) fn tick(&mut self, now: Instant) {
        let steps = self.router.tick(now);
        self.apply(steps, now);
    }

    fn apply(&mut self, steps: Vec<Step>, now: Instant) {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            steps.extend(self.apply_one(step, now));
        }
        for handler in self.router.take_changed() {
            if let Some(seat) = self.seats.get(&handler) {
                seat.tally.set_outstanding(self.router.outstanding(handler));
            }
        }
    }

    fn apply_one(&mut self, step: Step, now: Instant) -> Vec<Step> {
        match step {
            Step::Given { handler, call } => {
                let seq = self.next_seq();
                self.flights.begin(call, seq);
                if let Some(seat) = self.seats.get(&handler) {
                    seat.given.notify_one();
                }
                Vec::new()
            }
            Step::TakenBack { call, delivery } => {
                self.ends.note(delivery, Over::Reassigned);
                self.flights.interrupt(call);
                self.counters.retried += 1;
                self.drop_unwanted(call)
            }
            Step::Expired { call, delivery } => {
                self.ends.note(delivery, Over::Expired);
                self.flights.interrupt(call);
                match self.flights.wanted_until(call, now) {
                    Some(deadline) => {
                        self.counters.retried += 1;
                        self.router.renew(call, deadline)
                    }
                    // Those who wait learn of it by their own clocks, any moment now.
                    None => self.drop_unwanted(call),
                }
            }
            Step::Lost { call, deaths } => {
                let Some(kind) = self.flights.question(call).map(|question| question.kind().clone()) else {
                    return Vec::new();
                };
                let error = match deaths {
                    0 => Error::NoHandler(kind),
                    1..=MAX_LOST_HANDLERS => Error::HandlerLost(kind),
                    _ => Error::HandlersLost(kind),
                };
                let replies = self.flights.fail(call, &error);
                send(replies);
                Vec::new()
            }
        }
    }

    /// Whether nobody asks, and nothing is left of those who did.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.flights.waiters() == 0 && self.flights.bytes() == 0 && self.router.is_idle()
    }

    fn drop_unwanted(&mut self, call: CallNo) -> Vec<Step> {
        if self.flights.is_wanted(call) {
            return Vec::new();
        }
        self.flights.forget(call);
        self.router.finish(call)
    }
}

/// Somebody who has gone gets nothing, and misses nothing.
fn send(replies: Replies<Reply>) {
    for (reply, result) in replies {
        let _ = reply.send(result);
    }
}
