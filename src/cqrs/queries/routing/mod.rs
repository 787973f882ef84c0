//! Which handler gets which call: least outstanding first, never more than a handler takes, and nothing
//! lost when handlers come and go.
//!
//! No I/O, clock or lock. A call is in exactly one place: it waits, it pauses, or a handler has it. Each
//! method returns what changed as [`Step`]s; a call that a step says is lost or expired is out.

mod lanes;
mod placing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use self::lanes::Lanes;
use crate::model::Name;
use crate::model::limits::{MAX_HANDLERS_PER_QUERY_TYPE, MAX_WAITING_QUERIES};

/// The number of a connected handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct HandlerNo(pub(super) u64);

/// The number of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CallNo(pub(super) u64);

/// The number of one handing-out of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DeliveryNo(pub(super) u64);

/// Handlers that stand in for each other in a gathering query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Group {
    /// Those of one name.
    Named(Arc<str>),
    /// One without a name.
    Alone(HandlerNo),
}

/// Who may get a call: handlers of a type, or only those of one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) kind: Name,
    pub(super) group: Option<Group>,
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A handler was given a call, and can take it.
    Given { handler: HandlerNo, call: CallNo },
    /// A handler went away with the call, which was handed out as this; the next step tells its fate.
    TakenBack { call: CallNo, delivery: DeliveryNo },
    /// No handler is left for a call. `deaths` had it before.
    Lost { call: CallNo, deaths: u32 },
    /// The time of a handler to answer ran out; the handler is free for others.
    Expired { call: CallNo, delivery: DeliveryNo },
}

/// Why a call was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// Nobody handles it.
    NoHandler,
    /// Everybody is busy, and the queue is full.
    QueueFull,
}

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// For a handler with free capacity.
    Waiting,
    /// Until it is tried again.
    Paused { until: Instant },
    /// With a handler, which has `taken` it if its stream has.
    Given { handler: HandlerNo, delivery: DeliveryNo, until: Instant, taken: bool },
    /// It was answered; its owner decides what next.
    Settled,
}

#[derive(Debug)]
struct Call {
    lane: Lane,
    /// Earlier calls have lower ones, and go first.
    order: u64,
    deadline: Instant,
    place: Place,
    /// Handlers that took it and went away.
    deaths: u32,
}

#[derive(Debug)]
struct Handler {
    name: Arc<str>,
    types: Vec<Name>,
    max_outstanding: u32,
    outstanding: BTreeSet<CallNo>,
    /// Given, and not taken by its stream yet.
    inbox: VecDeque<CallNo>,
    /// When it was last given something, in the order of all.
    last_given: u64,
}

impl Handler {
    fn has_room(&self) -> bool {
        self.outstanding.len() < self.max_outstanding as usize
    }
}

/// The routing table.
#[derive(Debug, Default)]
pub(super) struct Router {
    handlers: HashMap<HandlerNo, Handler>,
    lanes: Lanes,
    calls: HashMap<CallNo, Call>,
    deliveries: HashMap<DeliveryNo, CallNo>,
    /// When to look at calls again that are paused or with a handler.
    timers: BTreeSet<(Instant, CallNo)>,
    /// Handlers whose number of calls has changed.
    changed: BTreeSet<HandlerNo>,
    last_order: u64,
    last_delivery: u64,
}

impl Router {
    /// Whether one more handler of the type may join.
    pub(super) fn has_room_for_handler(&self, kind: &Name) -> bool {
        self.lanes.handlers(&Lane { kind: kind.clone(), group: None }).len() < MAX_HANDLERS_PER_QUERY_TYPE
    }

    /// Whether any handler handles this.
    pub(super) fn is_handled(&self, kind: &Name) -> bool {
        !self.lanes.handlers(&Lane { kind: kind.clone(), group: None }).is_empty()
    }

    /// The groups of handlers of a type, the first to come first, at most so many.
    pub(super) fn groups(&self, kind: &Name, limit: usize) -> Vec<(Group, Arc<str>)> {
        let mut groups: Vec<(Group, Arc<str>)> = Vec::new();
        for &no in self.lanes.handlers(&Lane { kind: kind.clone(), group: None }) {
            let name = &self.handlers[&no].name;
            let group = group(no, name);
            if groups.len() < limit && groups.iter().all(|(known, _)| *known != group) {
                groups.push((group, Arc::clone(name)));
            }
        }
        groups
    }

    /// What the handler calls itself.
    pub(super) fn handler_name(&self, handler: HandlerNo) -> Option<&Arc<str>> {
        self.handlers.get(&handler).map(|handler| &handler.name)
    }

    /// How many calls a handler has.
    pub(super) fn outstanding(&self, handler: HandlerNo) -> u32 {
        let outstanding = self.handlers.get(&handler).map_or(0, |handler| handler.outstanding.len());
        u32::try_from(outstanding).unwrap_or(u32::MAX)
    }

    /// Handlers whose number of calls has changed since this was asked last.
    pub(super) fn take_changed(&mut self) -> BTreeSet<HandlerNo> {
        std::mem::take(&mut self.changed)
    }

    /// A handler comes. `types` has each once.
    pub(super) fn join(
        &mut self,
        no: HandlerNo,
        name: Arc<str>,
        types: Vec<Name>,
        max_outstanding: u32,
    ) -> Vec<Step> {
        for lane in lanes_of(no, &name, &types) {
            self.lanes.join(lane, no);
        }
        let handler = Handler {
            name,
            types,
            max_outstanding,
            outstanding: BTreeSet::new(),
            inbox: VecDeque::new(),
            last_given: 0,
        };
        self.handlers.insert(no, handler);
        let mut steps = Vec::new();
        self.fill(no, &mut steps);
        steps
    }

    /// A handler goes; what it had goes to others, the oldest first, or is lost.
    pub(super) fn leave(&mut self, no: HandlerNo, max_deaths: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(handler) = self.handlers.remove(&no) else { return steps };
        let mut stranded = Vec::new();
        for lane in lanes_of(no, &handler.name, &handler.types) {
            stranded.extend(self.lanes.leave(&lane, no));
        }
        for call in stranded {
            self.lose(call, &mut steps);
        }
        let mut orphans: Vec<CallNo> = handler.outstanding.into_iter().collect();
        orphans.sort_by_key(|call| self.calls[call].order);
        for call in orphans {
            self.take_back(call, max_deaths, &mut steps);
        }
        steps
    }

    fn take_back(&mut self, no: CallNo, max_deaths: u32, steps: &mut Vec<Step>) {
        let Some(call) = self.calls.get_mut(&no) else { return };
        if let Place::Given { delivery, until, taken, .. } = call.place {
            call.deaths += u32::from(taken);
            self.deliveries.remove(&delivery);
            self.timers.remove(&(until, no));
            steps.push(Step::TakenBack { call: no, delivery });
        }
        call.place = Place::Settled;
        if call.deaths > max_deaths || self.lanes.handlers(&call.lane).is_empty() {
            self.lose(no, steps);
        } else {
            self.place(no, steps);
        }
    }

    fn lose(&mut self, no: CallNo, steps: &mut Vec<Step>) {
        if let Some(call) = self.calls.remove(&no) {
            steps.push(Step::Lost { call: no, deaths: call.deaths });
        }
    }

    /// A call comes. It is given to a handler at once, or waits for one.
    pub(super) fn add(&mut self, no: CallNo, lane: Lane, deadline: Instant) -> Result<Vec<Step>, NotTaken> {
        let handlers = self.lanes.handlers(&lane);
        if handlers.is_empty() {
            return Err(NotTaken::NoHandler);
        }
        let full = handlers.iter().all(|handler| !self.handlers[handler].has_room());
        if full && self.lanes.waiting(&lane) >= MAX_WAITING_QUERIES {
            return Err(NotTaken::QueueFull);
        }
        self.last_order += 1;
        let call = Call { lane, order: self.last_order, deadline, place: Place::Settled, deaths: 0 };
        self.calls.insert(no, call);
        let mut steps = Vec::new();
        self.place(no, &mut steps);
        Ok(steps)
    }

    /// Where a call is, if it is still in.
    pub(super) fn place_of(&self, no: CallNo) -> Option<Place> {
        self.calls.get(&no).map(|call| call.place)
    }

    /// Somebody waits longer for a call. A handler that has taken it already was told its deadline.
    pub(super) fn extend(&mut self, no: CallNo, deadline: Instant) {
        let Some(call) = self.calls.get_mut(&no) else { return };
        call.deadline = call.deadline.max(deadline);
        if let Place::Given { until, taken: false, .. } = &mut call.place {
            self.timers.remove(&(*until, no));
            *until = call.deadline;
            self.timers.insert((*until, no));
        }
    }

    /// A handler's stream takes the next call that it was given, with the time until which it may answer.
    pub(super) fn take(&mut self, no: HandlerNo) -> Option<(DeliveryNo, CallNo, Instant)> {
        let call = self.handlers.get_mut(&no)?.inbox.pop_front()?;
        match &mut self.calls.get_mut(&call)?.place {
            Place::Given { delivery, until, taken, .. } => {
                *taken = true;
                Some((*delivery, call, *until))
            }
            _ => None,
        }
    }

    /// A handler answers, and is free for others. The call's owner decides between [`Self::finish`] and
    /// [`Self::pause`]. `None` if nobody has the call by this number.
    pub(super) fn settle(&mut self, delivery: DeliveryNo) -> Option<(CallNo, HandlerNo, Vec<Step>)> {
        let no = *self.deliveries.get(&delivery)?;
        let (handler, steps) = self.free(no)?;
        Some((no, handler, steps))
    }

    /// A call is over, wherever it is.
    pub(super) fn finish(&mut self, no: CallNo) -> Vec<Step> {
        let steps = match self.place_of(no) {
            Some(Place::Given { .. }) => self.free(no).map(|(_, steps)| steps).unwrap_or_default(),
            Some(Place::Waiting | Place::Paused { .. } | Place::Settled) | None => {
                self.unplace(no);
                Vec::new()
            }
        };
        self.calls.remove(&no);
        steps
    }

    /// A call that was answered is tried again at this time.
    pub(super) fn pause(&mut self, no: CallNo, until: Instant) {
        if let Some(call) = self.calls.get_mut(&no)
            && call.place == Place::Settled
        {
            call.place = Place::Paused { until };
            self.timers.insert((until, no));
        }
    }

    /// A call that pauses is tried now.
    pub(super) fn hurry(&mut self, no: CallNo) -> Vec<Step> {
        let mut steps = Vec::new();
        if matches!(self.place_of(no), Some(Place::Paused { .. })) {
            self.unplace(no);
            self.retry(no, &mut steps);
        }
        steps
    }

    /// A call that expired is wanted by others for longer.
    pub(super) fn renew(&mut self, no: CallNo, deadline: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(call) = self.calls.get_mut(&no).filter(|call| call.place == Place::Settled) {
            call.deadline = deadline;
            self.retry(no, &mut steps);
        }
        steps
    }

    /// Whether there is no call, and nothing that belongs to one.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let busy = self.handlers.values().any(|handler| !handler.outstanding.is_empty());
        self.calls.is_empty() && self.deliveries.is_empty() && self.timers.is_empty() && !busy
    }

    /// When there is something to do by the clock.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(&(at, no)) = self.timers.first()
            && at <= now
        {
            match self.place_of(no) {
                Some(Place::Given { delivery, .. }) => {
                    let freed = self.free(no).map(|(_, steps)| steps).unwrap_or_default();
                    steps.push(Step::Expired { call: no, delivery });
                    steps.extend(freed);
                }
                Some(Place::Paused { .. }) => {
                    self.unplace(no);
                    self.retry(no, &mut steps);
                }
                Some(Place::Waiting | Place::Settled) | None => _ = self.timers.pop_first(),
            }
        }
        steps
    }
}

/// The group that a handler is in.
fn group(no: HandlerNo, name: &Arc<str>) -> Group {
    if name.is_empty() { Group::Alone(no) } else { Group::Named(Arc::clone(name)) }
}

/// The lanes that a handler serves.
fn lanes_of(no: HandlerNo, name: &Arc<str>, types: &[Name]) -> impl Iterator<Item = Lane> {
    let group = group(no, name);
    types
        .iter()
        .flat_map(move |kind| [None, Some(group.clone())].map(|group| Lane { kind: kind.clone(), group }))
}
