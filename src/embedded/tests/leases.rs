//! The lease table against a naive model: random histories with crashes, and what must hold in each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::attempts::Attempts;
use super::super::delivery::leases::{ConsumerId, Leases, Next, Rules};
use super::super::progress::Progress;
use crate::engine::{Credit, Failure, Retry};
use crate::model::{Backoff, Mode, Offset};

const DEADLINE: Duration = Duration::from_secs(10);
/// How much longer than its deadline a lease may last: a hundredth of the subscription's.
const GRAIN: Duration = Duration::from_millis(100);
/// Deliveries of one life of the process, at most.
const LIFE: u64 = 1_000_000;

/// Something that happens to a subscription.
#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Join {
        messages: u32,
        bytes: u64,
    },
    Leave(Index),
    /// A consumer is sent away, and may settle what it holds.
    Detach(Index),
    /// The last delivery never reached anybody.
    Unseen,
    Credit(Index, u32),
    /// One message is asked for, by a consumer or, with `None`, by a pull.
    Take(Option<Index>, u64),
    Ack {
        delivery: Index,
        cumulative: bool,
    },
    Nack {
        delivery: Index,
        delay: u64,
    },
    GiveUp(Index),
    /// A message that was given up is taken care of, or not yet.
    Bury(bool),
    Extend {
        delivery: Index,
        by: u64,
    },
    /// Time passes, in milliseconds.
    Wait(u64),
    Limit(usize),
    /// The subscription is moved to a message.
    Seek(Index),
    /// The process dies; what was acknowledged is on disk.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        3 => (1u64..5).prop_map(Step::Append),
        2 => (0u32..5, 0u64..30).prop_map(|(messages, bytes)| Step::Join { messages, bytes }),
        1 => index().prop_map(Step::Leave),
        1 => index().prop_map(Step::Detach),
        1 => Just(Step::Unseen),
        1 => (index(), 0u32..5).prop_map(|(consumer, messages)| Step::Credit(consumer, messages)),
        12 => (prop::option::weighted(0.8, index()), 0u64..10).prop_map(|(who, size)| Step::Take(who, size)),
        6 => (index(), prop::bool::weighted(0.1))
            .prop_map(|(delivery, cumulative)| Step::Ack { delivery, cumulative }),
        3 => (index(), 0u64..15_000).prop_map(|(delivery, delay)| Step::Nack { delivery, delay }),
        1 => index().prop_map(Step::GiveUp),
        2 => any::<bool>().prop_map(Step::Bury),
        2 => (index(), 0u64..15_000).prop_map(|(delivery, by)| Step::Extend { delivery, by }),
        4 => (0u64..12_000).prop_map(Step::Wait),
        1 => (1usize..8).prop_map(Step::Limit),
        1 => index().prop_map(Step::Seek),
        1 => Just(Step::Crash),
    ]
}

/// What is known of one message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Message {
    /// Not handed out in this life.
    New,
    Leased {
        delivery: u64,
        consumer: Option<ConsumerId>,
        deadline: Instant,
        bytes: u64,
    },
    Waiting {
        delivery: u64,
        due: Instant,
    },
    GivenUp,
    Settled,
}

/// The naive model and the lease table, side by side.
struct Pair {
    leases: Leases,
    rules: Rules,
    now: Instant,
    messages: BTreeMap<Offset, Message>,
    consumers: BTreeMap<ConsumerId, Credit>,
    /// Every delivery made since the last seek, of earlier lives too.
    deliveries: Vec<(Offset, u64, u32)>,
    last_delivery: u64,
    lives: u64,
    /// How often each message was handed out, over all lives since the last seek.
    counts: BTreeMap<Offset, u32>,
    /// What the log would know of it.
    attempts: Attempts,
}

impl Pair {
    fn new(mode: Mode, max_attempts: u32) -> Self {
        let rules = Rules { max_attempts, ..rules(mode) };
        Self {
            leases: Leases::new(rules, Progress::default(), Attempts::default(), 0),
            rules,
            now: Instant::now(),
            messages: BTreeMap::new(),
            consumers: BTreeMap::new(),
            deliveries: Vec::new(),
            last_delivery: 0,
            lives: 1,
            counts: BTreeMap::new(),
            attempts: Attempts::default(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append(count) => {
                let next = self.messages.len() as u64 + 1;
                self.messages.extend((next..next + count).map(|offset| (offset, Message::New)));
            }
            Step::Join { messages, bytes } => {
                let credit = Credit { messages, bytes };
                self.consumers.insert(self.leases.join(credit), credit);
            }
            Step::Leave(index) => {
                if let Some(consumer) = self.consumer(index) {
                    self.consumers.remove(&consumer);
                    self.leases.leave(consumer, self.now);
                    self.end_leases(|of, _| of == Some(consumer));
                }
            }
            Step::Detach(index) => {
                if let Some(consumer) = self.consumer(index) {
                    self.consumers.remove(&consumer);
                    self.leases.detach(consumer);
                    for message in self.messages.values_mut() {
                        if let Message::Leased { consumer: of, .. } = message
                            && *of == Some(consumer)
                        {
                            *of = None;
                        }
                    }
                }
            }
            Step::Unseen => self.unseen(),
            Step::Credit(index, messages) => {
                if let Some(consumer) = self.consumer(index) {
                    let credit = Credit { messages, ..self.consumers[&consumer] };
                    self.consumers.insert(consumer, credit);
                    self.leases.set_credit(consumer, credit);
                }
            }
            Step::Take(who, size) => {
                let consumer = who.and_then(|index| self.consumer(index));
                if who.is_none() || consumer.is_some() {
                    self.take(consumer, size);
                }
            }
            Step::Ack { delivery, cumulative } => self.ack(delivery, cumulative),
            Step::Nack { delivery, delay } => {
                self.fail(delivery, Retry::After(Duration::from_millis(delay)));
            }
            Step::GiveUp(delivery) => self.fail(delivery, Retry::Never),
            Step::Bury(done) => self.bury(done),
            Step::Extend { delivery, by } => self.extend(delivery, Duration::from_millis(by)),
            Step::Wait(millis) => self.wait(Duration::from_millis(millis)),
            Step::Limit(max_in_flight) => {
                self.rules.max_in_flight = max_in_flight;
                self.leases.set_rules(self.rules);
            }
            Step::Seek(to) => self.seek(to),
            Step::Crash => self.crash(),
        }
    }

    fn consumer(&self, index: Index) -> Option<ConsumerId> {
        let ids: Vec<_> = self.consumers.keys().copied().collect();
        (!ids.is_empty()).then(|| *index.get(&ids))
    }

    fn delivery(&self, index: Index) -> Option<(Offset, u64, u32)> {
        (!self.deliveries.is_empty()).then(|| *index.get(&self.deliveries))
    }

    /// Messages and bytes that a consumer holds.
    fn held(&self, consumer: ConsumerId) -> (u32, u64) {
        let held = self.messages.values().filter_map(|message| match message {
            Message::Leased { consumer: of, bytes, .. } if *of == Some(consumer) => Some(*bytes),
            _ => None,
        });
        held.fold((0, 0), |(messages, sum), bytes| (messages + 1, sum + bytes))
    }

    /// Whether something is held without a stream.
    fn is_pulled(&self) -> bool {
        self.messages.values().any(|message| matches!(message, Message::Leased { consumer: None, .. }))
    }

    fn in_flight(&self) -> usize {
        let out = |message: &&Message| !matches!(message, Message::New | Message::Settled);
        self.messages.values().filter(out).count()
    }

    /// Waiting messages: when they are due, and which they are.
    fn waiting(&self) -> impl Iterator<Item = (Instant, Offset)> {
        self.messages.iter().filter_map(|(&offset, message)| match message {
            Message::Waiting { due, .. } => Some((*due, offset)),
            _ => None,
        })
    }

    /// What a consumer may have at once, going by the promises.
    fn room(&self, consumer: Option<ConsumerId>) -> (usize, u64) {
        let exclusive = self.rules.mode == Mode::Exclusive;
        let oldest = self.consumers.keys().next().copied();
        match consumer {
            None if exclusive && oldest.is_some() => (0, 0),
            None => (usize::MAX, u64::MAX),
            Some(_) if exclusive && (consumer != oldest || self.is_pulled()) => (0, 0),
            Some(id) => {
                let (credit, (messages, bytes)) = (self.consumers[&id], self.held(id));
                let left = credit.messages.saturating_sub(messages);
                (left as usize, credit.bytes.saturating_sub(bytes))
            }
        }
    }

    /// Which message is the next, going by the promises: what is due again before what is new, in
    /// strict order if that is promised, and no more in flight than allowed.
    fn next(&self) -> Next {
        let first = match self.rules.mode {
            Mode::Shared => self.waiting().min(),
            Mode::Exclusive => self.waiting().min_by_key(|&(_, offset)| offset),
        };
        match first {
            Some((due, offset)) if due <= self.now => Next::Again(offset),
            Some(_) if self.rules.mode == Mode::Exclusive => Next::Nothing,
            _ if self.in_flight() >= self.rules.max_in_flight => Next::Nothing,
            _ => Next::New,
        }
    }

    fn take(&mut self, consumer: Option<ConsumerId>, size: u64) {
        let room = self.leases.room(consumer);
        assert_eq!(room, self.room(consumer));
        let next = self.leases.next(self.now, false);
        assert_eq!(next, self.next());
        let first_new =
            || self.messages.iter().find(|(_, message)| **message == Message::New).map(|(&offset, _)| offset);
        let offset = match next {
            Next::Again(offset) => Some(offset),
            Next::New => first_new(),
            Next::Nothing => None,
        };
        let Some(offset) = offset.filter(|_| room.0 > 0) else { return };
        assert_eq!(self.leases.is_new(offset), next == Next::New);
        assert_eq!(self.leases.is_used_up(offset), self.has_no_more(offset));
        if self.has_no_more(offset) {
            self.leases.give_up_next(offset);
            self.messages.insert(offset, Message::GivenUp);
            return;
        }
        let handed = self.leases.hand_out(consumer, offset, size, self.now);
        let before = self.messages[&offset];
        assert!(matches!(before, Message::New | Message::Waiting { .. }), "{offset} was {before:?}");
        let attempt = self.counts.get(&offset).copied().unwrap_or(0) + 1;
        self.counts.insert(offset, attempt);
        let mut noted = Attempts::new(self.leases.cursor() - 1);
        if attempt > 1 {
            noted.note(offset, attempt);
        }
        self.attempts.merge(&noted);
        assert_eq!(handed.attempt, attempt);
        assert!(handed.delivery > self.last_delivery, "delivery {} came twice", handed.delivery);
        self.last_delivery = handed.delivery;
        self.deliveries.push((offset, handed.delivery, attempt));
        let deadline = self.now + self.rules.ack_deadline;
        let lease = Message::Leased { delivery: handed.delivery, consumer, deadline, bytes: size };
        self.messages.insert(offset, lease);
    }

    /// Whether a delivery still counts, going by the promises.
    fn check(&self, (offset, delivery, attempt): (Offset, u64, u32)) -> Result<(), Failure> {
        match self.messages[&offset] {
            Message::Settled => Err(Failure::AlreadySettled),
            Message::GivenUp => Err(Failure::Expired),
            // Of an earlier life, and not handed out since: the last delivery counts.
            Message::New if attempt == self.counts[&offset] => Ok(()),
            Message::New => Err(Failure::Expired),
            Message::Leased { delivery: current, .. } | Message::Waiting { delivery: current, .. } => {
                if current == delivery {
                    Ok(())
                } else {
                    Err(Failure::Expired)
                }
            }
        }
    }

    /// A delivery that both sides agree still counts.
    fn current(&self, index: Index) -> Option<(Offset, u64)> {
        let (offset, delivery, attempt) = self.delivery(index)?;
        let counts = self.leases.check(offset, delivery, attempt);
        assert_eq!(counts, self.check((offset, delivery, attempt)), "{offset} {delivery}");
        counts.is_ok().then_some((offset, delivery))
    }

    fn ack(&mut self, index: Index, cumulative: bool) {
        let Some((offset, _)) = self.current(index) else { return };
        let first = if cumulative { self.leases.progress().floor() + 1 } else { offset };
        self.leases.settle(first, offset);
        for settled in first..=offset {
            self.messages.insert(settled, Message::Settled);
        }
    }

    /// Whether a message has had all the attempts it may have.
    fn has_no_more(&self, offset: Offset) -> bool {
        let attempts = self.counts.get(&offset).copied().unwrap_or(0);
        self.rules.max_attempts > 0 && attempts >= self.rules.max_attempts
    }

    fn given_up(&self) -> usize {
        self.messages.values().filter(|message| **message == Message::GivenUp).count()
    }

    fn unseen(&mut self) {
        let Some(&(offset, delivery, attempt)) = self.deliveries.last() else { return };
        let Message::Leased { delivery: current, .. } = self.messages[&offset] else { return };
        if current == delivery {
            self.leases.take_back_unseen(offset, self.now);
            self.messages.insert(offset, Message::Waiting { delivery, due: self.now });
            self.deliveries.pop();
            // The log may have noted it by now; this life does not count it.
            self.counts.insert(offset, attempt - 1);
        }
    }

    fn fail(&mut self, index: Index, retry: Retry) {
        let Some((offset, delivery)) = self.current(index) else { return };
        self.leases.nack(offset, delivery, retry, &"".into(), self.now);
        let message = match retry {
            Retry::After(delay) if !self.has_no_more(offset) => {
                Message::Waiting { delivery, due: self.now + delay }
            }
            _ => Message::GivenUp,
        };
        self.messages.insert(offset, message);
    }

    fn bury(&mut self, done: bool) {
        let Some((offset, given_up)) = self.leases.next_given_up() else {
            assert_eq!(self.given_up(), 0);
            return;
        };
        assert_eq!(self.messages[&offset], Message::GivenUp);
        assert_eq!(given_up.attempts, self.counts[&offset]);
        if done {
            self.leases.settle(offset, offset);
            self.messages.insert(offset, Message::Settled);
        } else {
            self.leases.unbury(offset);
        }
    }

    fn extend(&mut self, index: Index, by: Duration) {
        let Some((offset, delivery)) = self.current(index) else { return };
        let deadline = self.now + by;
        self.leases.extend(offset, delivery, deadline);
        let (consumer, bytes) = match self.messages[&offset] {
            Message::Leased { consumer, bytes, .. } => (consumer, bytes),
            _ => (None, 0),
        };
        self.messages.insert(offset, Message::Leased { delivery, consumer, deadline, bytes });
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.leases.expire(self.now);
        let now = self.now;
        let is_over = |(&offset, message): (&Offset, &Message)| {
            let over = matches!(message, Message::Leased { .. }) && !self.leases.is_leased(offset);
            over.then_some(offset)
        };
        let ended: Vec<_> = self.messages.iter().filter_map(is_over).collect();
        for (offset, message) in &self.messages {
            if let Message::Leased { deadline, .. } = message {
                let has_ended = ended.contains(offset);
                assert!(!has_ended || *deadline <= now, "the lease of {offset} ended early");
                assert!(has_ended || now < *deadline + GRAIN, "the lease of {offset} did not end");
            }
        }
        self.end_leases(|_, offset| ended.contains(&offset));
    }

    /// Ends the leases chosen; their messages are due now, or given up.
    fn end_leases(&mut self, chosen: impl Fn(Option<ConsumerId>, Offset) -> bool) {
        for offset in self.messages.keys().copied().collect::<Vec<_>>() {
            if let Message::Leased { delivery, consumer, .. } = self.messages[&offset]
                && chosen(consumer, offset)
            {
                let waiting = Message::Waiting { delivery, due: self.now };
                let message = if self.has_no_more(offset) { Message::GivenUp } else { waiting };
                self.messages.insert(offset, message);
            }
        }
    }

    fn seek(&mut self, to: Index) {
        let floor = to.index(self.messages.len() + 1) as u64;
        self.leases.seek(Progress::new(floor));
        for (&offset, message) in &mut self.messages {
            *message = if offset <= floor { Message::Settled } else { Message::New };
        }
        // Whoever settles one of them is told before the leases are asked.
        self.deliveries.clear();
        self.counts.clear();
        self.attempts = Attempts::new(floor);
    }

    fn crash(&mut self) {
        let mut progress = Progress::default();
        for (&offset, message) in &mut self.messages {
            match message {
                Message::Settled => progress.settle(offset, offset),
                _ => *message = Message::New,
            }
        }
        // What never reached anybody may be noted as handed out.
        self.counts = self.messages.keys().map(|&offset| (offset, self.attempts.of(offset))).collect();
        self.consumers.clear();
        self.leases = Leases::new(self.rules, progress, self.attempts.clone(), self.lives * LIFE);
        self.lives += 1;
    }

    /// What must hold at any time.
    fn check_all(&self, floor_before: Offset) {
        let floor = self.leases.progress().floor();
        assert!(floor >= floor_before, "the floor went back from {floor_before} to {floor}");
        for (&offset, message) in &self.messages {
            let settled = self.leases.progress().is_settled(offset);
            assert_eq!(settled, *message == Message::Settled, "{offset} is {message:?}");
            assert_eq!(
                self.leases.is_waiting(offset),
                matches!(message, Message::Waiting { .. }),
                "{offset}"
            );
        }
        let leased = self.messages.values().filter(|message| matches!(message, Message::Leased { .. }));
        assert_eq!(self.leases.leased(), leased.count());
        // Whoever sleeps until then misses nothing: no message becomes due, and no lease ends, before.
        let wake = self.leases.wake_after(self.now);
        let due = self.waiting().map(|(due, _)| due).filter(|&due| due > self.now).min();
        let deadline = self.messages.values().filter_map(|message| match message {
            Message::Leased { deadline, .. } => Some((*deadline).max(self.now) + GRAIN),
            _ => None,
        });
        if let Some(needed) = due.into_iter().chain(deadline).min() {
            assert!(wake.is_some_and(|wake| wake <= needed), "wakes {wake:?}, needed {needed:?}");
        }
    }

    /// Nothing is ever stuck: one consumer with credit gets everything that is left, and settles it.
    fn drain(&mut self) {
        for consumer in std::mem::take(&mut self.consumers).into_keys() {
            self.leases.leave(consumer, self.now);
            self.end_leases(|of, _| of == Some(consumer));
        }
        let credit = Credit { messages: u32::MAX, bytes: u64::MAX };
        let consumer = self.leases.join(credit);
        self.consumers.insert(consumer, credit);
        for _ in 0..3 {
            self.wait(DEADLINE * 2);
            for _ in 0..self.messages.len() {
                self.bury(true);
            }
            loop {
                let (before, given_up) = (self.deliveries.len(), self.given_up());
                self.take(Some(consumer), 1);
                if self.given_up() > given_up {
                    self.bury(true);
                    continue;
                }
                let Some(&(offset, ..)) = self.deliveries.get(before) else { break };
                self.leases.settle(offset, offset);
                self.messages.insert(offset, Message::Settled);
            }
        }
        assert_eq!(self.leases.progress().floor(), self.messages.len() as u64, "{:?}", self.messages);
    }
}

fn rules(mode: Mode) -> Rules {
    let (backoff, max_attempts) = (Backoff::default(), 0);
    Rules { mode, ack_deadline: DEADLINE, max_in_flight: 5, backoff, max_attempts }
}

fn run(mode: Mode, max_attempts: u32, steps: Vec<Step>) {
    let mut pair = Pair::new(mode, max_attempts);
    for step in steps {
        let moved = matches!(step, Step::Seek(_));
        let floor = if moved { 0 } else { pair.leases.progress().floor() };
        pair.step(&step);
        pair.check_all(floor);
    }
    pair.drain();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn shared_leases_agree_with_the_model(limit in 0u32..4, steps in prop::collection::vec(step(), 1..120)) {
        run(Mode::Shared, limit, steps);
    }

    #[test]
    fn exclusive_leases_agree_with_the_model(limit in 0u32..4, steps in prop::collection::vec(step(), 1..120)) {
        run(Mode::Exclusive, limit, steps);
    }
}

/// Found by the histories above: the message before it was never handed out.
#[test]
fn a_nack_under_an_id_of_an_earlier_life_leaves_no_message_behind() {
    let rules = rules(Mode::Shared);
    let (mut leases, now) =
        (Leases::new(rules, Progress::default(), Attempts::default(), LIFE), Instant::now());
    leases.nack(2, 7, Retry::After(Duration::ZERO), &"".into(), now);
    assert_eq!(leases.next(now, false), Next::Again(2));
    leases.hand_out(None, 2, 1, now);
    assert!(leases.is_new(1));
}
