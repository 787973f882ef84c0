//! The lease table against a naive model: random histories with crashes, and what must hold in each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use super::super::attempts::Attempts;
use super::super::delivery::leases::{About, ConsumerId, Key, Leases, Next, Rules, Who};
use super::super::progress::Progress;
use crate::engine::{Credit, Failure, Retry};
use crate::model::{Backoff, Mode, Offset, Timestamp};

const DEADLINE: Duration = Duration::from_secs(10);
/// How much longer than its deadline a lease may last: a hundredth of the subscription's.
const GRAIN: Duration = Duration::from_millis(100);
/// How long the wall clock may jump unseen.
const WALL_GRAIN: Duration = Duration::from_secs(1);
/// Deliveries of one life of the process, at most.
const LIFE: u64 = 1_000_000;
/// The wall clock at first, in milliseconds, and everything later by it.
const DAY: u64 = 24 * 60 * 60 * 1_000;

/// A message: its key, and when it is delivered and expires, if ever, in milliseconds from then on.
#[derive(Debug, Clone)]
struct Spec {
    key: Option<u64>,
    deliver: Option<u64>,
    expires: Option<u64>,
}

/// Something that happens to a subscription.
#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Spec>),
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
    /// The wall clock jumps, in milliseconds.
    Jump(i64),
    Limit(usize),
    /// The subscription is moved to a message.
    Seek(Index),
    /// The process dies; what was acknowledged is on disk.
    Crash,
}

fn spec() -> impl Strategy<Value = Spec> {
    let key = prop_oneof![1 => Just(None), 4 => (0u64..3).prop_map(Some)];
    let (deliver, expires) =
        (prop::option::weighted(0.2, 0u64..20_000), prop::option::weighted(0.2, 0u64..30_000));
    (key, deliver, expires).prop_map(|(key, deliver, expires)| Spec { key, deliver, expires })
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        3 => prop::collection::vec(spec(), 1..5).prop_map(Step::Append),
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
        1 => (-30_000i64..30_000).prop_map(Step::Jump),
        1 => (1usize..8).prop_map(Step::Limit),
        1 => index().prop_map(Step::Seek),
        1 => Just(Step::Crash),
    ]
}

/// What is known of one message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Message {
    /// Not looked at in this life.
    New,
    /// Looked at, but its key is with somebody else.
    Parked,
    /// Looked at before its time.
    Scheduled,
    Leased {
        delivery: u64,
        attempt: u32,
        who: Who,
        /// Whose credit it takes.
        consumer: Option<ConsumerId>,
        deadline: Instant,
        bytes: u64,
    },
    Waiting {
        delivery: u64,
        due: Instant,
        /// The delivery does not count, unless its id is used.
        taken_back: bool,
    },
    GivenUp,
    Settled,
}

impl Message {
    fn is_new(self) -> bool {
        matches!(self, Self::New | Self::Parked | Self::Scheduled)
    }

    /// Whether others of its key wait for it.
    fn is_in_line(self) -> bool {
        !matches!(self, Self::New | Self::Scheduled | Self::Settled)
    }
}

/// The naive model and the lease table, side by side.
struct Pair {
    leases: Leases,
    rules: Rules,
    now: Instant,
    wall: Timestamp,
    messages: BTreeMap<Offset, Message>,
    about: BTreeMap<Offset, About>,
    /// What has expired since the leases were asked.
    expired: Vec<Offset>,
    /// Messages whose ids of an earlier life were used before they were read again.
    unread: BTreeSet<Offset>,
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
            wall: Timestamp(DAY * 1_000),
            messages: BTreeMap::new(),
            about: BTreeMap::new(),
            expired: Vec::new(),
            unread: BTreeSet::new(),
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
            Step::Append(ref specs) => specs.iter().for_each(|spec| self.append(spec)),
            Step::Join { messages, bytes } => {
                let credit = Credit { messages, bytes };
                self.consumers.insert(self.leases.join(credit), credit);
            }
            Step::Leave(index) => {
                if let Some(consumer) = self.consumer(index) {
                    self.consumers.remove(&consumer);
                    self.leave(consumer);
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
            Step::Wait(millis) => {
                self.wall = self.wall.after(Duration::from_millis(millis));
                self.wait(Duration::from_millis(millis));
            }
            Step::Jump(millis) => {
                self.wall = Timestamp(self.wall.0.saturating_add_signed(millis * 1_000));
                self.wait(Duration::ZERO);
            }
            Step::Limit(max_in_flight) => {
                self.rules.max_in_flight = max_in_flight;
                self.leases.set_rules(self.rules);
            }
            Step::Seek(to) => self.seek(to),
            Step::Crash => self.crash(),
        }
    }

    fn append(&mut self, spec: &Spec) {
        let offset = self.messages.len() as u64 + 1;
        let time = |millis| Timestamp((DAY + millis) * 1_000);
        let key = spec.key.map_or(Key::Alone(offset), Key::Hash);
        self.messages.insert(offset, Message::New);
        self.about.insert(offset, About::new(key, spec.deliver.map(time), spec.expires.map(time)));
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
        let out = |message: &&Message| !message.is_new() && **message != Message::Settled;
        self.messages.values().filter(out).count()
    }

    fn ordered(&self) -> bool {
        self.rules.mode == Mode::KeyOrdered
    }

    /// The others that have a place in the order of a message's key; none where that does not count.
    fn line(&self, offset: Offset) -> impl Iterator<Item = (Offset, Message)> {
        let key = self.about[&offset].key;
        let others = self.messages.iter().filter(move |(other, message)| {
            self.ordered() && **other != offset && self.about[other].key == key && message.is_in_line()
        });
        others.map(|(&other, &message)| (other, message))
    }

    /// Whether the key of a message is with nobody else, and not with a message delivered before.
    fn has_key(&self, offset: Offset, who: Who) -> bool {
        self.line(offset).all(|(_, message)| match message {
            Message::Leased { who: of, attempt, .. } => of == who && attempt == 1,
            _ => true,
        })
    }

    /// Whether a message of a line may be handed out, as far as its key goes.
    fn is_next_of_key(&self, offset: Offset, who: Who) -> bool {
        let waits = |(other, message): (Offset, Message)| {
            other < offset && !matches!(message, Message::Leased { .. })
        };
        self.has_key(offset, who) && !self.line(offset).any(waits)
    }

    fn is_first_of_key(&self, offset: Offset) -> bool {
        self.line(offset).all(|(other, _)| other > offset)
    }

    /// Waiting messages: when they are due, and which they are.
    fn waiting(&self) -> impl Iterator<Item = (Instant, Offset)> {
        self.messages.iter().filter_map(|(&offset, message)| match message {
            Message::Waiting { due, .. } => Some((*due, offset)),
            _ => None,
        })
    }

    /// What somebody may have at once, going by the promises.
    fn room(&self, who: Who) -> (usize, u64) {
        let exclusive = self.rules.mode == Mode::Exclusive;
        let oldest = self.consumers.keys().next().copied();
        match who {
            Who::Pull(_) if exclusive && oldest.is_some() => (0, 0),
            Who::Pull(_) => (usize::MAX, u64::MAX),
            Who::Consumer(id) if exclusive && (Some(id) != oldest || self.is_pulled()) => (0, 0),
            Who::Consumer(id) => {
                let (credit, (messages, bytes)) = (self.consumers[&id], self.held(id));
                let left = credit.messages.saturating_sub(messages);
                (left as usize, credit.bytes.saturating_sub(bytes))
            }
        }
    }

    /// Which message is the next, going by the promises: what is due again before what is new, in
    /// the order that is promised, and no more in flight than allowed.
    fn next(&self, who: Who) -> Next {
        let first = match self.rules.mode {
            Mode::Shared => self.waiting().min(),
            Mode::Exclusive => self.waiting().min_by_key(|&(_, offset)| offset),
            Mode::KeyOrdered => self.waiting().filter(|&(_, offset)| self.is_next_of_key(offset, who)).min(),
        };
        match first {
            Some((due, offset)) if due <= self.now => return Next::Again(offset),
            Some(_) if self.rules.mode == Mode::Exclusive => return Next::Nothing,
            _ if self.in_flight() >= self.rules.max_in_flight => return Next::Nothing,
            _ => {}
        }
        let all = |state| self.messages.iter().filter(move |(_, message)| **message == state);
        let mut parked = all(Message::Parked).map(|(&offset, _)| offset);
        let scheduled = all(Message::Scheduled).map(|(&offset, _)| (self.about[&offset].deliver, offset));
        let scheduled = || scheduled.min().filter(|&(time, _)| time <= self.wall).map(|(_, offset)| offset);
        let again = parked.find(|&offset| self.is_next_of_key(offset, who)).or_else(scheduled);
        again.map_or(Next::New, Next::Again)
    }

    /// What becomes of a message that is next, if it is not handed out.
    fn fate(&self, who: Who, offset: Offset) -> Option<Message> {
        let (about, message) = (self.about[&offset], self.messages[&offset]);
        let unlined = matches!(message, Message::New | Message::Scheduled);
        let others_wait = self.line(offset).any(|(_, other)| !matches!(other, Message::Leased { .. }));
        if about.expires <= self.wall {
            Some(Message::Settled)
        } else if self.has_no_more(offset) {
            Some(Message::GivenUp)
        } else if message.is_new() && about.deliver > self.wall {
            Some(Message::Scheduled)
        } else if unlined && (others_wait || !self.has_key(offset, who)) {
            Some(Message::Parked)
        } else {
            None
        }
    }

    fn take(&mut self, consumer: Option<ConsumerId>, size: u64) {
        let who = consumer.map_or_else(|| self.leases.pull(), Who::Consumer);
        let room = self.leases.room(who);
        assert_eq!(room, self.room(who));
        loop {
            let next = self.leases.next(who, self.now, false);
            assert_eq!(next, self.next(who));
            let mut new = self.messages.iter().filter(|(_, message)| **message == Message::New);
            let offset = match next {
                Next::Again(offset) => Some(offset),
                Next::New => new.next().map(|(&offset, _)| offset),
                Next::Nothing => None,
            };
            let Some(offset) = offset.filter(|_| room.0 > 0) else { return };
            assert_eq!(self.leases.is_new(offset), next == Next::New);
            if next == Next::New {
                assert_eq!(self.leases.first_new(), offset);
            }
            let fate = self.fate(who, offset);
            let met = self.leases.meet(who, offset, &self.about[&offset], self.now);
            assert_eq!(met, fate.is_none(), "{offset} should be {fate:?}");
            match fate {
                None => return self.hand_out(who, offset, size),
                Some(Message::Settled) => self.expired.push(offset),
                Some(_) => {}
            }
            self.messages.extend(fate.map(|fate| (offset, fate)));
        }
    }

    fn hand_out(&mut self, who: Who, offset: Offset, size: u64) {
        let handed = self.leases.hand_out(who, offset, size, &self.about[&offset], self.now);
        let before = self.messages[&offset];
        assert!(before.is_new() || matches!(before, Message::Waiting { .. }), "{offset} was {before:?}");
        let attempt = self.counts.get(&offset).copied().unwrap_or(0) + 1;
        self.counts.insert(offset, attempt);
        self.unread.remove(&offset);
        let about = self.about[&offset];
        assert!(about.expires > self.wall, "{offset} has expired");
        assert!(!before.is_new() || about.deliver <= self.wall, "{offset} comes before its time");
        let mut noted = Attempts::new(self.leases.handed());
        if attempt > 1 || offset > noted.handed() {
            noted.note(offset, attempt);
        }
        self.attempts.merge(&noted, |_| true);
        assert_eq!(handed.attempt, attempt);
        assert!(handed.delivery > self.last_delivery, "delivery {} came twice", handed.delivery);
        self.last_delivery = handed.delivery;
        self.deliveries.push((offset, handed.delivery, attempt));
        let consumer = match who {
            Who::Consumer(consumer) => Some(consumer),
            Who::Pull(_) => None,
        };
        let (delivery, deadline) = (handed.delivery, self.now + self.rules.ack_deadline);
        let lease = Message::Leased { delivery, attempt, who, consumer, deadline, bytes: size };
        self.messages.insert(offset, lease);
    }

    /// Whether a delivery still counts, going by the promises.
    fn check(&self, (offset, delivery, attempt): (Offset, u64, u32)) -> Result<(), Failure> {
        match self.messages[&offset] {
            Message::Settled => Err(Failure::AlreadySettled),
            Message::GivenUp => Err(Failure::Expired),
            // Of an earlier life, and not handed out since: the last delivery counts.
            new if new.is_new() && attempt == self.counts[&offset] => Ok(()),
            Message::Leased { delivery: current, .. } if current == delivery => Ok(()),
            // It must not be settled before an earlier one of its key.
            Message::Waiting { delivery: current, .. }
                if current == delivery && self.is_first_of_key(offset) =>
            {
                Ok(())
            }
            _ => Err(Failure::Expired),
        }
    }

    /// A delivery that both sides agree still counts.
    fn current(&self, index: Index) -> Option<(Offset, u64)> {
        let (offset, delivery, attempt) = self.delivery(index)?;
        let counts = self.leases.check(offset, delivery, attempt);
        assert_eq!(counts, self.check((offset, delivery, attempt)), "{offset} {delivery}");
        counts.is_ok().then_some((offset, delivery))
    }

    /// A delivery that both sides agree can fail or have more time.
    fn lease(&self, index: Index) -> Option<(Offset, u64)> {
        let (offset, delivery) = self.current(index)?;
        let known = !self.ordered() || !self.messages[&offset].is_new();
        assert_eq!(self.leases.check_lease(offset).is_ok(), known);
        known.then_some((offset, delivery))
    }

    fn ack(&mut self, index: Index, cumulative: bool) {
        let Some((offset, _)) = self.current(index) else { return };
        if !self.messages[&offset].is_new() {
            let failed = |(other, message)| other < offset && matches!(message, Message::Waiting { .. });
            assert!(!self.line(offset).any(failed), "{offset} is settled before one that failed");
        }
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
            self.messages.insert(offset, Message::Waiting { delivery, due: self.now, taken_back: true });
            self.deliveries.pop();
            // The log may have noted it by now; this life does not count it.
            self.counts.insert(offset, attempt - 1);
            self.revoke_after(offset);
        }
    }

    /// The leases of the later messages of a key end, as if they had not been.
    fn revoke_after(&mut self, offset: Offset) {
        for (later, message) in self.line(offset).collect::<Vec<_>>() {
            if let Message::Leased { delivery, attempt, .. } = message
                && later > offset
            {
                self.counts.insert(later, attempt - 1);
                self.messages.insert(later, Message::Waiting { delivery, due: self.now, taken_back: true });
            }
        }
    }

    fn fail(&mut self, index: Index, retry: Retry) {
        let Some((offset, delivery)) = self.lease(index) else { return };
        self.note_use(offset);
        self.leases.nack(offset, delivery, retry, &"".into(), self.now);
        self.failed(offset, delivery, retry);
    }

    /// An id is used.
    fn note_use(&mut self, offset: Offset) {
        if self.messages[&offset].is_new() {
            self.unread.insert(offset);
        }
        if let Message::Waiting { taken_back: true, .. } = self.messages[&offset] {
            *self.counts.get_mut(&offset).unwrap() += 1;
        }
    }

    /// A delivery failed: what becomes of its message, and of those after it.
    fn failed(&mut self, offset: Offset, delivery: u64, retry: Retry) {
        if self.has_expired(offset) {
            self.messages.insert(offset, Message::Settled);
            self.expired.push(offset);
            return;
        }
        let message = match retry {
            Retry::After(delay) if !self.has_no_more(offset) => {
                Message::Waiting { delivery, due: self.now + delay, taken_back: false }
            }
            _ => Message::GivenUp,
        };
        self.messages.insert(offset, message);
        self.revoke_after(offset);
    }

    /// Whether a message that waits, or just failed, has expired as far as the leases can know.
    fn has_expired(&self, offset: Offset) -> bool {
        self.about[&offset].expires <= self.wall && !self.unread.contains(&offset)
    }

    fn leave(&mut self, consumer: ConsumerId) {
        self.leases.leave(consumer, self.now);
        for offset in self.messages.keys().copied().collect::<Vec<_>>() {
            if let Message::Leased { delivery, consumer: of, .. } = self.messages[&offset]
                && of == Some(consumer)
            {
                self.failed(offset, delivery, Retry::After(Duration::ZERO));
            }
        }
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
        let Some((offset, delivery)) = self.lease(index) else { return };
        self.note_use(offset);
        let deadline = self.now + by;
        self.leases.extend(offset, delivery, deadline);
        let mut lease = Message::Leased {
            delivery,
            attempt: self.counts[&offset],
            who: Who::Pull(0),
            consumer: None,
            deadline,
            bytes: 0,
        };
        if let Message::Leased { attempt, who, consumer, bytes, .. } = self.messages[&offset] {
            lease = Message::Leased { delivery, attempt, who, consumer, deadline, bytes };
        }
        self.messages.insert(offset, lease);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.leases.expire(self.now, self.wall);
        for offset in self.messages.keys().copied().collect::<Vec<_>>() {
            if matches!(self.messages[&offset], Message::Waiting { .. }) && self.has_expired(offset) {
                self.messages.insert(offset, Message::Settled);
                self.expired.push(offset);
            }
        }
        for offset in self.messages.keys().copied().collect::<Vec<_>>() {
            let Message::Leased { delivery, deadline, .. } = self.messages[&offset] else { continue };
            if self.leases.is_leased(offset) {
                assert!(self.now < deadline + GRAIN, "the lease of {offset} did not end");
            } else {
                assert!(deadline <= self.now, "the lease of {offset} ended early");
                self.failed(offset, delivery, Retry::After(Duration::ZERO));
            }
        }
    }

    fn seek(&mut self, to: Index) {
        let floor = to.index(self.messages.len() + 1) as u64;
        self.leases.seek(Progress::new(floor));
        for (&offset, message) in &mut self.messages {
            *message = if offset <= floor { Message::Settled } else { Message::New };
        }
        self.unread.clear();
        self.expired.clear();
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
        for (&offset, message) in &self.messages {
            let was_handed = self.deliveries.iter().any(|&(of, ..)| of == offset);
            let (counted, noted) = (self.counts.get(&offset).copied(), self.attempts.of(offset));
            assert!(noted >= counted.unwrap_or(0), "attempts at {offset} are forgotten");
            let unseen = counted.is_some();
            assert!(
                was_handed || unseen || noted == 0 || *message == Message::Settled,
                "{offset} was not handed out"
            );
        }
        self.unread.clear();
        // What never reached anybody may be noted as handed out.
        self.counts = self.messages.keys().map(|&offset| (offset, self.attempts.of(offset))).collect();
        self.consumers.clear();
        self.leases = Leases::new(self.rules, progress, self.attempts.clone(), self.lives * LIFE);
        self.leases.expire(self.now, self.wall);
        self.lives += 1;
    }

    /// What must hold at any time.
    fn check_all(&self, floor_before: Offset) {
        let floor = self.leases.progress().floor();
        assert!(floor >= floor_before, "the floor went back from {floor_before} to {floor}");
        for (&offset, message) in &self.messages {
            let settled = self.leases.progress().is_settled(offset);
            assert_eq!(settled, *message == Message::Settled, "{offset} is {message:?}");
            let waits = match message {
                Message::Waiting { .. } | Message::Parked => true,
                Message::Scheduled => self.about[&offset].deliver <= self.wall,
                _ => false,
            };
            assert_eq!(self.leases.is_waiting(offset), waits, "{offset} is {message:?}");
        }
        let leased = self.messages.values().filter(|message| matches!(message, Message::Leased { .. }));
        assert_eq!(self.leases.leased(), leased.count());
        let scheduled = self.messages.values().filter(|message| **message == Message::Scheduled);
        assert_eq!(self.leases.scheduled(), scheduled.count());
        self.check_keys();
        // Whoever sleeps until then misses nothing: no message becomes due, and no lease ends, before.
        let wake = self.leases.wake_after(self.now);
        let due = self.waiting().map(|(due, _)| due).filter(|&due| due > self.now).min();
        let deadline = self.messages.values().filter_map(|message| match message {
            Message::Leased { deadline, .. } => Some((*deadline).max(self.now) + GRAIN),
            _ => None,
        });
        let until = |time: Timestamp| self.now + Duration::from_micros(time.0 - self.wall.0).min(WALL_GRAIN);
        let scheduled = self.messages.iter().filter(|(_, message)| **message == Message::Scheduled);
        let times = scheduled.map(|(offset, _)| self.about[offset].deliver);
        let scheduled = times.filter(|&time| time > self.wall).map(until);
        if let Some(needed) = due.into_iter().chain(deadline).chain(scheduled).min() {
            assert!(wake.is_some_and(|wake| wake <= needed), "wakes {wake:?}, needed {needed:?}");
        }
    }

    /// No key is with two consumers at once, and a message delivered again is alone in flight.
    fn check_keys(&self) {
        for (&offset, message) in self.messages.iter().filter(|_| self.ordered()) {
            let Message::Leased { who, .. } = message else { continue };
            for (other, message) in self.line(offset) {
                if let Message::Leased { who: of, .. } = message {
                    assert_eq!(of, *who, "{offset} and {other} are of one key");
                }
            }
        }
    }

    /// What has expired is told once, for the log to remember.
    fn check_expired(&mut self) {
        let (mut told, mut expired) = (self.leases.take_expired(), std::mem::take(&mut self.expired));
        told.sort_unstable();
        expired.sort_unstable();
        assert_eq!(told, expired);
    }

    /// Nothing is ever stuck: one consumer with credit gets everything that is left, and settles it.
    fn drain(&mut self) {
        for consumer in std::mem::take(&mut self.consumers).into_keys() {
            self.leave(consumer);
        }
        // However often it jumped back.
        self.wall = self.wall.after(Duration::from_hours(2));
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
    pair.wait(Duration::ZERO);
    for step in steps {
        let moved = matches!(step, Step::Seek(_));
        let floor = if moved { 0 } else { pair.leases.progress().floor() };
        pair.step(&step);
        pair.check_expired();
        pair.check_all(floor);
    }
    pair.drain();
}

/// Histories of each mode, run by everybody.
const HISTORIES: u32 = 500;
/// Histories of each mode, when somebody asks for the ignored tests.
const MANY_HISTORIES: u32 = 10_000;

/// Runs random histories.
fn agrees_with_the_model(mode: Mode, histories: u32) {
    let config = ProptestConfig {
        cases: histories,
        source_file: Some(file!()),
        test_name: Some(concat!(module_path!(), "::agrees_with_the_model")),
        ..ProptestConfig::default()
    };
    let history = (0u32..4, prop::collection::vec(step(), 1..120));
    let outcome = TestRunner::new(config).run(&history, |(limit, steps)| {
        run(mode, limit, steps);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn shared_leases_agree_with_the_model() {
    agrees_with_the_model(Mode::Shared, HISTORIES);
}

#[test]
fn exclusive_leases_agree_with_the_model() {
    agrees_with_the_model(Mode::Exclusive, HISTORIES);
}

#[test]
fn key_ordered_leases_agree_with_the_model() {
    agrees_with_the_model(Mode::KeyOrdered, HISTORIES);
}

#[test]
#[ignore = "takes minutes"]
fn many_shared_histories() {
    agrees_with_the_model(Mode::Shared, MANY_HISTORIES);
}

#[test]
#[ignore = "takes minutes"]
fn many_exclusive_histories() {
    agrees_with_the_model(Mode::Exclusive, MANY_HISTORIES);
}

#[test]
#[ignore = "takes minutes"]
fn many_key_ordered_histories() {
    agrees_with_the_model(Mode::KeyOrdered, MANY_HISTORIES);
}

/// Found by the histories above: the message before it was never handed out.
#[test]
fn a_nack_under_an_id_of_an_earlier_life_leaves_no_message_behind() {
    let rules = rules(Mode::Shared);
    let (mut leases, now) =
        (Leases::new(rules, Progress::default(), Attempts::default(), LIFE), Instant::now());
    leases.nack(2, 7, Retry::After(Duration::ZERO), &"".into(), now);
    assert_eq!(leases.next(Who::Pull(1), now, false), Next::Again(2));
    leases.hand_out(Who::Pull(1), 2, 1, &About::new(Key::Alone(2), None, None), now);
    assert!(leases.is_new(1));
}

/// Found by the histories above: the line of its key took the third for one delivered before.
#[test]
fn a_message_delivered_again_goes_alone_only_until_it_is_settled() {
    let (mut before, now) = (Attempts::default(), Instant::now());
    before.note(2, 1);
    let mut leases = Leases::new(rules(Mode::KeyOrdered), Progress::default(), before, 0);
    let about = About::new(Key::Hash(1), None, None);
    let who = Who::Pull(1);
    for offset in [1, 2] {
        assert!(leases.meet(who, offset, &about, now));
        leases.hand_out(who, offset, 1, &about, now);
    }
    assert!(!leases.meet(who, 3, &about, now), "the second was delivered before");
    leases.settle(2, 2);
    assert_eq!(leases.next(who, now, false), Next::Again(3));
}
