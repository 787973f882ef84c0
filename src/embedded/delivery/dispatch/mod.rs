//! The task that owns one subscription: it feeds the leases with what happens, fetches messages from
//! the log, and hands them to consumers that wait.
//!
//! Here is the loop, and who comes and goes. [`settle`], [`hand_out`], [`fetch`], [`directed`], [`sift`],
//! [`give_up`], [`reserve`], [`requests`] and [`notices`] each add a part of the dispatcher.

mod directed;
mod fetch;
mod give_up;
mod hand_out;
mod notices;
mod requests;
mod reserve;
mod settle;
mod sift;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use tokio::sync::{mpsc, oneshot, watch};

use self::fetch::Fetched;
pub(crate) use self::requests::{Discarded, Member, Request};
pub(crate) use self::reserve::Reservation;
use self::settle::Ranges;
use super::ack_id::Signer;
use super::burial::Buried;
use super::leases::{ConsumerId, Leases, Rules};
use super::sieve::Sieve;
use super::slow::SlowConsumers;
use crate::embedded::attempts::Unwritten;
use crate::embedded::log::format::Seek;
use crate::embedded::log::transaction::Settle;
use crate::embedded::log::{Log, Operation, Place};
use crate::embedded::progress::{Committed, Progress};
use crate::embedded::topic::TopicHandle;
use crate::engine::{Announcer, Credit, Error, Failure, ReadLimit, Result, Settlement};
use crate::model::limits::MAX_CONSUMERS_PER_SUBSCRIPTION;
use crate::model::{Advisory, Delivery, Filter, Name, Offset, StoredMessage, Timestamp};

/// Calls that may wait for the task, beside the one of each consumer.
const QUEUED_CALLS: usize = 256;
/// Events handled before messages are handed out again.
const EVENTS_AT_ONCE: usize = 256;
/// How long to wait after the disk could not be read.
const READ_RETRY: Duration = Duration::from_secs(1);
/// Pulls that may wait for messages at once.
const MAX_PULLS: usize = 1_000;
/// How long fetched messages are kept that nobody takes. They keep more memory alive than they are long:
/// the buffers that they were written or read with.
const KEEP_FETCHED: Duration = Duration::from_secs(1);

/// Messages for a waiting consumer, or the error that ends it, for which there is always a place.
/// Closed when the subscription ends.
pub(crate) type Slot = mpsc::Sender<Result<Vec<Delivery>>>;
/// Places in a slot: a consumer waits for one batch at a time.
pub(crate) const SLOT_PLACES: usize = 2;

/// A consumer's number, once it has joined.
pub(crate) type Seat = Arc<OnceLock<ConsumerId>>;

/// Everything that can happen to a subscription from outside.
pub(crate) enum Event {
    /// A consumer connects.
    Join { member: Arc<Member>, credit: Credit, slot: Slot, seat: Seat, reply: oneshot::Sender<Result<()>> },
    /// A consumer waits for messages.
    Want(ConsumerId),
    /// A consumer's credit changes.
    Credit(ConsumerId, Credit),
    /// A consumer is gone, or never came.
    Leave(Seat),
    /// Deliveries are to be settled.
    Settle {
        ids: Vec<Bytes>,
        settlement: Settlement,
        place: Option<Place>,
        reply: oneshot::Sender<SettleReply>,
    },
    /// Acks are part of a commit: take their messages out of delivery.
    Reserve { ids: Vec<Bytes>, reply: reserve::Reply },
    /// The commit has come to its end.
    Release { reservation: Reservation, committed: bool },
    /// Messages are asked for without a consumer.
    Pull(Pull),
    /// The owner changed the rules, and where dead letters go.
    Rules(Rules, DeadLetters),
    /// The owner changed which messages it wants.
    Filter(Filter),
    /// The owner paused or resumed it.
    Pause(bool),
    /// The owner moves it: this is the first message not settled then.
    Seek { next: Offset, reply: oneshot::Sender<Result<Offset>> },
    /// How is it going?
    Stats(oneshot::Sender<Snapshot>),
    /// Anything else.
    Request(Request),
}

/// What came of a settlement.
pub(crate) struct SettleReply {
    /// Ids without effect.
    pub(crate) failures: Vec<(Bytes, Failure)>,
    /// Resolves with the floor when what was settled is durable; `None` if nothing was.
    pub(crate) durable: Option<oneshot::Receiver<Result<Offset>>>,
    /// The write queue's place, held until then.
    pub(crate) place: Option<Place>,
}

/// A pull that waits for messages.
pub(crate) struct Pull {
    pub(crate) limit: ReadLimit,
    pub(crate) until: Instant,
    pub(crate) reply: oneshot::Sender<Result<Vec<Delivery>>>,
}

/// What a subscription's consumers are doing.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) leased: u64,
    pub(crate) scheduled: u64,
    pub(crate) redelivered: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) consumers: u32,
}

/// Where messages go that are given up.
#[derive(Clone)]
pub(crate) enum DeadLetters {
    /// Nowhere: they are dropped.
    Dropped,
    /// To this topic.
    Topic(Arc<TopicHandle>),
    /// To a topic that damage has taken: they wait until there is another.
    Lost,
}

/// What the task is given to work with.
pub(crate) struct Subject {
    /// The subscription's name.
    pub(crate) name: Name,
    /// Its number.
    pub(crate) id: u64,
    /// How often it was moved by a seek.
    pub(crate) epoch: u32,
    /// Whether it hands nothing out.
    pub(crate) paused: bool,
    /// Which messages it wants.
    pub(crate) filter: Filter,
    /// What it reads.
    pub(crate) topic: Arc<TopicHandle>,
    /// Where messages go that are given up.
    pub(crate) dead_letters: DeadLetters,
    pub(crate) log: Log,
    pub(crate) signer: Signer,
    /// What is settled on disk.
    pub(crate) committed: Arc<Committed>,
    /// What is handed out and not written down yet.
    pub(crate) unwritten: Arc<Unwritten>,
    /// Tells those who watch.
    pub(crate) advisories: Announcer<Advisory>,
    /// Becomes the reason when the subscription ends.
    pub(crate) end: watch::Receiver<Option<Error>>,
}

/// Starts the task. It ends when every sender is gone or `subject.end` has a reason.
pub(crate) fn start(subject: Subject, leases: Leases) -> mpsc::Sender<Event> {
    let (events, queue) = mpsc::channel(MAX_CONSUMERS_PER_SUBSCRIPTION + QUEUED_CALLS);
    let dispatcher = Dispatcher {
        sieve: Sieve::new(subject.filter.clone(), Instant::now()),
        subject,
        leases,
        slots: BTreeMap::new(),
        known: BTreeMap::new(),
        slow: SlowConsumers::default(),
        moving: BTreeSet::new(),
        takers: VecDeque::new(),
        ready: VecDeque::new(),
        again: BTreeMap::new(),
        fetch: None,
        behind: false,
        read_again: None,
        used: Instant::now(),
        burial: None,
        bury_again: None,
        dead_lettered: 0,
        passed_over: None,
    };
    tokio::spawn(dispatcher.run(queue));
    events
}

/// Somebody who waits for messages.
enum Taker {
    Consumer(ConsumerId),
    Pull(Pull),
}

struct Dispatcher {
    subject: Subject,
    leases: Leases,
    sieve: Sieve,
    slots: BTreeMap<ConsumerId, Slot>,
    /// Who they are.
    known: BTreeMap<ConsumerId, Arc<Member>>,
    slow: SlowConsumers,
    /// Messages that are being moved.
    moving: BTreeSet<Offset>,
    /// Who waits, in turn. A consumer is here at most once.
    takers: VecDeque<Taker>,
    /// Fetched messages that were never handed out, in order.
    ready: VecDeque<StoredMessage>,
    /// Fetched messages to be handed out again.
    again: BTreeMap<Offset, StoredMessage>,
    fetch: Option<BoxFuture<'static, Fetched>>,
    /// The last messages came from disk: more will.
    behind: bool,
    /// The disk could not be read: not before this time again.
    read_again: Option<Instant>,
    /// When fetched messages were last handed out, or came.
    used: Instant,
    /// A message on its way to the dead letters.
    burial: Option<BoxFuture<'static, (Offset, Buried)>>,
    /// The last one did not get there: not before this time again.
    bury_again: Option<Instant>,
    dead_lettered: u64,
    /// The first message that was passed over because it is damaged. It was not handed out, and nothing
    /// is noted to have been from there on.
    passed_over: Option<Offset>,
}

impl Dispatcher {
    async fn run(mut self, mut queue: mpsc::Receiver<Event>) {
        let mut visible = self.subject.topic.watch();
        let mut end = self.subject.end.clone();
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut wake_at = None::<Instant>;
        self.check_filter();
        loop {
            // Not at once, so that other subscriptions have their turn.
            let rest = self.has_more_to_sift();
            let timer = async {
                match wake_at {
                    _ if rest => tokio::task::yield_now().await,
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            let fetched = OptionFuture::from(self.fetch.as_mut());
            let buried = OptionFuture::from(self.burial.as_mut());
            tokio::select! {
                reason = end.wait_for(Option::is_some) => {
                    let reason = reason.ok().and_then(|reason| reason.clone()).unwrap_or(Error::Closed);
                    return self.finish(&reason);
                }
                count = queue.recv_many(&mut events, EVENTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                }
                Some(fetched) = fetched => {
                    self.fetch = None;
                    self.fetched(fetched);
                }
                Some((offset, result)) = buried => {
                    self.burial = None;
                    self.buried(offset, result);
                }
                changed = visible.changed(), if !self.takers.is_empty() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = timer => {}
            }
            let now = Instant::now();
            // What is over is over before anybody asks about it.
            self.leases.expire(now, Timestamp::now());
            self.skip_dropped();
            for event in events.drain(..) {
                self.handle(event, now);
            }
            visible.mark_unchanged();
            self.leases.expire(now, Timestamp::now());
            self.sieve.begin(now);
            self.hand_out(now);
            self.settle_unwanted(&[]);
            self.bury(now);
            self.commit_expired();
            self.tell_of_slow(now);
            wake_at = self.wake_at(now);
        }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Join { member, credit, slot, seat, reply } => {
                if let Some(consumer) = self.join(credit, slot, &seat, reply) {
                    self.known.insert(consumer, member);
                }
            }
            Event::Want(consumer) => self.takers.push_back(Taker::Consumer(consumer)),
            Event::Credit(consumer, credit) => self.leases.set_credit(consumer, credit),
            Event::Leave(seat) => seat.get().into_iter().for_each(|&consumer| self.leave(consumer, now)),
            Event::Settle { ids, settlement, place, reply } => {
                let _ = reply.send(self.settle(ids, &settlement, place, now));
            }
            Event::Reserve { ids, reply } => self.reserve(&ids, reply, now),
            Event::Release { reservation, committed } => self.release(&reservation, committed, now),
            Event::Pull(pull) => self.pull(pull),
            Event::Rules(rules, dead_letters) => {
                self.leases.set_rules(rules);
                self.subject.dead_letters = dead_letters;
            }
            Event::Filter(filter) => self.set_filter(filter),
            Event::Pause(paused) => self.pause(paused),
            Event::Seek { next, reply } => self.seek(next, reply),
            Event::Stats(reply) => drop(reply.send(self.snapshot())),
            Event::Request(request) => self.request(request, now),
        }
    }

    fn join(
        &mut self,
        credit: Credit,
        slot: Slot,
        seat: &Seat,
        reply: oneshot::Sender<Result<()>>,
    ) -> Option<ConsumerId> {
        if self.subject.paused {
            let _ = reply.send(Err(Error::Paused(self.subject.name.clone())));
            return None;
        }
        if let Some(error) = self.unreadable_filter() {
            let _ = reply.send(Err(error));
            return None;
        }
        let consumer = self.leases.join(credit);
        let _ = seat.set(consumer);
        self.slots.insert(consumer, slot);
        if self.leases.is_held() {
            self.refuse_pulls(&Error::Held(self.subject.name.clone()));
        }
        // Whoever does not wait for it any more says goodbye.
        let _ = reply.send(Ok(()));
        Some(consumer)
    }

    fn leave(&mut self, consumer: ConsumerId, now: Instant) {
        self.slots.remove(&consumer);
        self.known.remove(&consumer);
        self.takers.retain(|taker| !matches!(taker, Taker::Consumer(id) if *id == consumer));
        self.leases.leave(consumer, now);
    }

    fn pull(&mut self, pull: Pull) {
        if self.subject.paused {
            let _ = pull.reply.send(Err(Error::Paused(self.subject.name.clone())));
        } else if let Some(error) = self.unreadable_filter() {
            let _ = pull.reply.send(Err(error));
        } else if self.leases.is_held() {
            let _ = pull.reply.send(Err(Error::Held(self.subject.name.clone())));
        } else if self.takers.len() >= MAX_PULLS + MAX_CONSUMERS_PER_SUBSCRIPTION {
            let what = "pulls waiting on this subscription";
            let _ = pull.reply.send(Err(Error::TooMany { what, limit: MAX_PULLS }));
        } else {
            self.takers.push_back(Taker::Pull(pull));
        }
    }

    fn pause(&mut self, paused: bool) {
        self.subject.paused = paused;
        if paused {
            self.end_all(&Error::Paused(self.subject.name.clone()));
        }
    }

    /// Ends all consumers and waiting pulls, but not the subscription. What they hold is theirs to settle.
    fn end_all(&mut self, reason: &Error) {
        for (consumer, slot) in std::mem::take(&mut self.slots) {
            let _ = slot.try_send(Err(reason.clone()));
            self.leases.detach(consumer);
        }
        self.known.clear();
        self.refuse_pulls(reason);
        self.takers.clear();
    }

    /// Ends all waiting pulls.
    fn refuse_pulls(&mut self, reason: &Error) {
        for taker in std::mem::take(&mut self.takers) {
            match taker {
                Taker::Pull(pull) => drop(pull.reply.send(Err(reason.clone()))),
                consumer @ Taker::Consumer(_) => self.takers.push_back(consumer),
            }
        }
    }

    fn seek(&mut self, next: Offset, reply: oneshot::Sender<Result<Offset>>) {
        let floor = next - 1;
        self.subject.epoch = self.subject.epoch.wrapping_add(1);
        self.leases.seek(Progress::new(floor));
        // What was handed out before must not be written down as of after.
        self.subject.unwritten = Arc::default();
        self.ready.clear();
        self.again.clear();
        self.sieve.clear();
        (self.fetch, self.behind) = (None, false);
        self.passed_over = None;
        // What is on its way to the dead letters is settled before the seek, or not at all.
        self.burial = None;
        let seek = Seek { subscription: self.subject.id, epoch: self.subject.epoch, floor };
        let committed = Arc::clone(&self.subject.committed);
        self.subject.log.submit(Operation::Seek { seek, committed, reply });
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            leased: self.leases.leased() as u64,
            scheduled: self.leases.scheduled() as u64,
            redelivered: self.leases.redelivered(),
            dead_lettered: self.dead_lettered,
            consumers: u32::try_from(self.leases.consumers()).unwrap_or(u32::MAX),
        }
    }

    /// When to wake although nothing else happens. What is due by now and was not handed out waits for
    /// something else than time.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let unused = self.has_fetched().then_some(self.used + KEEP_FETCHED);
        let ends = self.leases.last_attempt_ends().into_iter().chain(self.leases.next_expiry(now));
        let always = unused.into_iter().chain(self.bury_again).chain(ends).chain(self.sieve.write_at());
        let always = always.chain(self.slow_look());
        if self.takers.is_empty() {
            return always.filter(|&at| at > now).min();
        }
        let pulls = self.takers.iter().filter_map(|taker| match taker {
            Taker::Pull(pull) => Some(pull.until),
            Taker::Consumer(_) => None,
        });
        let times = pulls.chain(self.leases.wake_after(now)).chain(self.read_again).chain(always);
        times.filter(|&at| at > now).min()
    }

    /// Has the log remember what is settled.
    fn commit(&mut self, ranges: Vec<(Offset, Offset)>, reply: oneshot::Sender<Result<Offset>>) {
        let (subscription, committed) = (self.subject.id, Arc::clone(&self.subject.committed));
        // What came before and is not written down yet: the floor that is answered counts it.
        let ranges = self.sieve.take().into_iter().chain(ranges).collect();
        let settle = Settle { subscription, ranges, committed, only_in: None };
        self.subject.log.submit(Operation::Settle { settle, reply });
    }

    /// Has the log remember what was settled because it expired.
    fn commit_expired(&mut self) {
        let mut ranges = Ranges::default();
        for offset in self.leases.take_expired() {
            ranges.add(offset, offset);
        }
        if !ranges.0.is_empty() {
            self.commit(ranges.0, oneshot::channel().0);
        }
    }

    /// The subscription is gone. Consumers see their slots close.
    fn finish(mut self, reason: &Error) {
        self.refuse_pulls(reason);
    }
}
