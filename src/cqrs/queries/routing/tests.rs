//! Routing against a naive model, and by example.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const KINDS: [&str; 3] = ["a", "b", "c"];
const MAX_DEATHS: u32 = 4;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn any_of(kind: &str) -> Lane {
    Lane { kind: name(kind), group: None }
}

fn only(kind: &str, group: &str) -> Lane {
    Lane { kind: name(kind), group: Some(Group::Named(group.into())) }
}

/// What happens to a router; numbers are reduced to what there is.
#[derive(Debug, Clone)]
enum Op {
    Join { name: usize, kinds: Vec<usize>, max: u32 },
    Leave(usize),
    Add { kind: usize, group: Option<usize>, lasts: u64 },
    Take(usize),
    Settle { which: usize, pause: Option<u64> },
    Finish(usize),
    Hurry(usize),
    Extend(usize, u64),
    Wait(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let kinds = proptest::sample::subsequence(vec![0, 1, 2], 1..=3);
    let op = prop_oneof![
        2 => (0..3_usize, kinds, 1..4_u32).prop_map(|(name, kinds, max)| Op::Join { name, kinds, max }),
        1 => any::<usize>().prop_map(Op::Leave),
        6 => (0..3_usize, prop::option::weighted(0.2, 1..3_usize), 1..50_u64)
            .prop_map(|(kind, group, lasts)| Op::Add { kind, group, lasts }),
        4 => any::<usize>().prop_map(Op::Take),
        4 => (any::<usize>(), prop::option::weighted(0.2, 1..20_u64))
            .prop_map(|(which, pause)| Op::Settle { which, pause }),
        1 => any::<usize>().prop_map(Op::Finish),
        1 => any::<usize>().prop_map(Op::Hurry),
        1 => (any::<usize>(), 1..80_u64).prop_map(|(which, lasts)| Op::Extend(which, lasts)),
        2 => (1..20_u64).prop_map(Op::Wait),
    ];
    prop::collection::vec(op, 1..120)
}

/// What the model knows of a handler: everything is looked for from one end to the other.
#[derive(Debug)]
struct Known {
    name: Arc<str>,
    kinds: Vec<Name>,
    max: usize,
    has: Vec<CallNo>,
}

/// The router, and what it should do, kept in the simplest way.
#[derive(Debug)]
struct Model {
    router: Router,
    handlers: BTreeMap<HandlerNo, Known>,
    /// Calls that are in: their lanes.
    calls: BTreeMap<CallNo, Lane>,
    /// Calls that were answered or expired, and belong to their owner.
    held: Vec<CallNo>,
    start: Instant,
    now: u64,
    last: u64,
}

impl Model {
    fn new() -> Self {
        let (handlers, calls) = (BTreeMap::new(), BTreeMap::new());
        let router = Router::default();
        Self { router, handlers, calls, held: Vec::new(), start: Instant::now(), now: 0, last: 0 }
    }

    fn at(&self, after: u64) -> Instant {
        self.start + Duration::from_millis(self.now + after)
    }

    fn serves(known: &Known, no: HandlerNo, lane: &Lane) -> bool {
        let of_group = match &lane.group {
            None => true,
            Some(Group::Named(group)) => *group == known.name,
            Some(Group::Alone(alone)) => *alone == no,
        };
        of_group && known.kinds.contains(&lane.kind)
    }

    fn able<'a>(&'a self, lane: &'a Lane) -> impl Iterator<Item = (HandlerNo, &'a Known)> {
        self.handlers
            .iter()
            .map(|(&no, known)| (no, known))
            .filter(|&(no, known)| Self::serves(known, no, lane))
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Join { name: of, kinds, max } => {
                self.last += 1;
                let no = HandlerNo(self.last);
                let name: Arc<str> = ["", "x", "y"][of].into();
                let kinds: Vec<_> = kinds.into_iter().map(|kind| self::name(KINDS[kind])).collect();
                let known =
                    Known { name: Arc::clone(&name), kinds: kinds.clone(), max: max as usize, has: vec![] };
                self.handlers.insert(no, known);
                let steps = self.router.join(no, name, kinds, max);
                self.follow(steps);
            }
            Op::Leave(which) => {
                let Some(no) = pick(self.handlers.keys(), which) else { return };
                self.handlers.remove(&no);
                let steps = self.router.leave(no, MAX_DEATHS);
                self.follow(steps);
            }
            Op::Add { kind, group, lasts } => {
                self.last += 1;
                let call = CallNo(self.last);
                let group = group.map(|group| Group::Named(["", "x", "y"][group].into()));
                let lane = Lane { kind: name(KINDS[kind]), group };
                let handled = self.able(&lane).next().is_some();
                match self.router.add(call, lane.clone(), self.at(lasts)) {
                    Ok(steps) => {
                        assert!(handled);
                        self.calls.insert(call, lane);
                        self.follow(steps);
                    }
                    Err(not_taken) => assert_eq!((not_taken, handled), (NotTaken::NoHandler, false)),
                }
            }
            Op::Take(which) => {
                let Some(no) = pick(self.handlers.keys(), which) else { return };
                if let Some((_, call, _)) = self.router.take(no) {
                    assert!(self.handlers[&no].has.contains(&call));
                }
            }
            Op::Settle { which, pause } => {
                let given: Vec<_> = self.router.deliveries.keys().copied().collect();
                let Some(delivery) = pick(given.iter(), which) else { return };
                let (call, handler, steps) = self.router.settle(delivery).unwrap();
                self.forget(call);
                self.follow(steps);
                assert!(self.handlers.contains_key(&handler));
                assert_eq!(self.router.settle(delivery), None, "an id counts once");
                match pause {
                    Some(pause) => self.router.pause(call, self.at(pause)),
                    None => self.finish(call),
                }
            }
            Op::Finish(which) => {
                if let Some(call) = pick(self.calls.keys(), which) {
                    self.forget(call);
                    self.finish(call);
                }
            }
            Op::Hurry(which) => {
                if let Some(call) = pick(self.calls.keys(), which) {
                    let steps = self.router.hurry(call);
                    self.follow(steps);
                }
            }
            Op::Extend(which, lasts) => {
                if let Some(call) = pick(self.calls.keys(), which) {
                    self.router.extend(call, self.at(lasts));
                }
            }
            Op::Wait(time) => {
                self.now += time;
                let steps = self.router.tick(self.at(0));
                self.follow(steps);
                for call in std::mem::take(&mut self.held) {
                    let steps = self.router.renew(call, self.at(30));
                    self.follow(steps);
                }
            }
        }
    }

    fn finish(&mut self, call: CallNo) {
        let steps = self.router.finish(call);
        self.calls.remove(&call);
        self.follow(steps);
    }

    fn forget(&mut self, call: CallNo) {
        self.handlers.values_mut().for_each(|known| known.has.retain(|&other| other != call));
    }

    /// Checks each step as it comes.
    fn follow(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Given { handler, call } => {
                    let lane = self
                        .calls
                        .get(&call)
                        .cloned()
                        .unwrap_or_else(|| self.router.calls[&call].lane.clone());
                    let fewest = self.able(&lane).filter(|(_, known)| known.has.len() < known.max);
                    let fewest = fewest.map(|(_, known)| known.has.len()).min();
                    let known = &self.handlers[&handler];
                    assert!(Self::serves(known, handler, &lane));
                    assert_eq!(Some(known.has.len()), fewest, "the least outstanding of those with room");
                    self.handlers.get_mut(&handler).unwrap().has.push(call);
                }
                Step::TakenBack { call, .. } => self.forget(call),
                Step::Expired { call, .. } => {
                    self.forget(call);
                    self.held.push(call);
                }
                Step::Lost { call, deaths } => {
                    let lane = self.calls.remove(&call).unwrap();
                    assert!(
                        deaths > MAX_DEATHS || self.able(&lane).next().is_none(),
                        "somebody could have it"
                    );
                    self.forget(call);
                }
            }
        }
    }

    /// What holds after everything.
    fn check(&self) {
        for (no, known) in &self.handlers {
            assert!(known.has.len() <= known.max, "{no:?} has too many");
            assert_eq!(self.router.outstanding(*no) as usize, known.has.len());
            let inbox = &self.router.handlers[no].inbox;
            assert!(inbox.iter().all(|call| known.has.contains(call)));
        }
        assert_eq!(self.router.calls.len(), self.calls.len(), "nothing is lost, nothing left over");
        let mut placed = 0;
        for (call, lane) in &self.calls {
            let holders = self.handlers.values().filter(|known| known.has.contains(call)).count();
            match self.router.place_of(*call).unwrap() {
                Place::Given { until, .. } => {
                    placed += 1;
                    assert_eq!(holders, 1);
                    assert!(self.router.timers.contains(&(until, *call)));
                }
                Place::Waiting => {
                    assert_eq!(holders, 0);
                    assert!(self.able(lane).next().is_some(), "{call:?} waits for nobody");
                    let free = self.able(lane).find(|(_, known)| known.has.len() < known.max);
                    assert!(free.is_none(), "{call:?} waits, and {free:?} is free");
                }
                Place::Paused { until } => {
                    assert_eq!(holders, 0);
                    placed += 1;
                    assert!(self.router.timers.contains(&(until, *call)));
                }
                Place::Settled => assert!(self.held.contains(call)),
            }
        }
        assert_eq!(self.router.timers.len(), placed);
    }
}

fn pick<'a, T: Copy + 'a>(from: impl ExactSizeIterator<Item = &'a T>, which: usize) -> Option<T> {
    let count = from.len();
    let mut from = from;
    from.nth(which.checked_rem(count)?).copied()
}

proptest! {
    #[test]
    fn does_as_the_model(ops in ops()) {
        let mut model = Model::new();
        for op in ops {
            model.run(op);
            model.check();
        }
    }
}

struct Fixture {
    router: Router,
    start: Instant,
}

impl Fixture {
    /// Handlers of `a` with these numbers and this much room each.
    fn new(handlers: &[u64], max: u32) -> Self {
        let mut router = Router::default();
        for &no in handlers {
            assert!(
                router.join(HandlerNo(no), format!("h{no}").as_str().into(), vec![name("a")], max).is_empty()
            );
        }
        Self { router, start: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn add(&mut self, call: u64) -> Vec<u64> {
        let deadline = self.at(10);
        given(self.router.add(CallNo(call), any_of("a"), deadline).unwrap())
    }
}

/// The handlers that were given something.
fn given(steps: Vec<Step>) -> Vec<u64> {
    let given = steps.into_iter().filter_map(|step| match step {
        Step::Given { handler, .. } => Some(handler.0),
        _ => None,
    });
    given.collect()
}

#[test]
fn equals_take_turns() {
    let mut it = Fixture::new(&[1, 2, 3], 10);
    let mut turns = Vec::new();
    for call in 0..6 {
        turns.extend(it.add(call));
        let (delivery, ..) = it.router.take(HandlerNo(*turns.last().unwrap())).unwrap();
        it.router.settle(delivery).unwrap();
        it.router.finish(CallNo(call));
    }
    assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn what_waits_is_given_in_order() {
    let mut it = Fixture::new(&[1], 1);
    assert_eq!(it.add(1), [1]);
    assert!(it.add(2).is_empty() && it.add(3).is_empty());
    let (delivery, ..) = it.router.take(HandlerNo(1)).unwrap();
    let (_, _, steps) = it.router.settle(delivery).unwrap();
    assert_eq!(steps, [Step::Given { handler: HandlerNo(1), call: CallNo(2) }]);
}

#[test]
fn a_call_of_a_group_goes_to_that_group_only() {
    let mut it = Fixture::new(&[1, 2], 1);
    let deadline = it.at(10);
    assert_eq!(given(it.router.add(CallNo(1), only("a", "h2"), deadline).unwrap()), [2]);
    assert!(it.router.add(CallNo(2), only("a", "h2"), deadline).unwrap().is_empty(), "the other is free");
    assert_eq!(it.router.add(CallNo(3), only("a", "h3"), deadline), Err(NotTaken::NoHandler));
    let groups: Vec<_> = it.router.groups(&name("a"), 10).into_iter().map(|(group, _)| group).collect();
    assert_eq!(groups, [Group::Named("h1".into()), Group::Named("h2".into())]);
}

#[test]
fn a_query_that_kills_its_handlers_is_given_up() {
    let mut it = Fixture::new(&[1, 2, 3, 4, 5, 6, 7], 1);
    let mut holder = it.add(1)[0];
    for death in 1..=MAX_DEATHS + 1 {
        it.router.take(HandlerNo(holder)).unwrap();
        let steps = it.router.leave(HandlerNo(holder), MAX_DEATHS);
        match steps.last() {
            Some(Step::Given { handler, .. }) if death <= MAX_DEATHS => holder = handler.0,
            last => assert_eq!(last, Some(&Step::Lost { call: CallNo(1), deaths: MAX_DEATHS + 1 })),
        }
    }
}

#[test]
fn a_handler_that_never_took_the_query_does_not_count_against_it() {
    let mut it = Fixture::new(&[1, 2], 1);
    it.add(1);
    it.router.leave(HandlerNo(1), MAX_DEATHS);
    let steps = it.router.leave(HandlerNo(2), MAX_DEATHS);
    assert_eq!(steps.last(), Some(&Step::Lost { call: CallNo(1), deaths: 0 }));
}

#[test]
fn a_handler_that_does_not_answer_is_free_after_the_deadline() {
    let mut it = Fixture::new(&[1], 1);
    it.add(1);
    let (delivery, _, until) = it.router.take(HandlerNo(1)).unwrap();
    assert_eq!((until, it.router.next_tick()), (it.at(10), Some(it.at(10))));
    it.add(2);
    assert!(it.router.tick(it.at(9)).is_empty());
    let steps = it.router.tick(it.at(10));
    let expired = Step::Expired { call: CallNo(1), delivery };
    // The other call has run out of time as well.
    assert_eq!(steps[..2], [expired, Step::Given { handler: HandlerNo(1), call: CallNo(2) }]);
    assert_eq!(it.router.settle(delivery), None);
}

#[test]
fn the_queue_has_an_end() {
    let mut it = Fixture::new(&[1], 1);
    for call in 0..=MAX_WAITING_QUERIES as u64 {
        it.add(call);
    }
    let deadline = it.at(10);
    let refused = it.router.add(CallNo(9_999), any_of("a"), deadline);
    assert_eq!(refused, Err(NotTaken::QueueFull));
}
