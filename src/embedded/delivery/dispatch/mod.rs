//! The task that owns one subscription: it feeds the leases with what happens, fetches messages from
//! the log, and hands them to consumers that wait.
//!
//! What it does with one topic is a [`lane`]; a subscription to one topic has one, one with a pattern any
//! number. They share the consumers and the limits. Here is the loop, and who comes and goes. [`settle`],
//! [`hand_out`], [`fetch`], [`directed`], [`sift`], [`give_up`], [`reserve`], [`requests`] and [`notices`]
//! each add a part of the dispatcher or of its lanes.

mod directed;
mod fetch;
mod give_up;
mod hand_out;
mod lane;
mod notices;
mod requests;
mod reserve;
mod settle;
mod sift;

use std::collections::{BTreeMap, VecDeque};
use std::future::{pending, poll_fn};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::lane::Lane;
pub(crate) use self::lane::NewLane;
pub(crate) use self::requests::{Discarded, Member, Request};
pub(crate) use self::reserve::Reservation;
use super::ack_id::Signer;
use super::leases::{ConsumerId, Elsewhere, MayWait, Rules};
use super::slow::SlowConsumers;
use super::turns::Turns;
use super::visible::Visible;
use crate::embedded::log::{Log, Operation, Place};
use crate::embedded::meters::SubscriptionMeters;
use crate::embedded::topic::TopicHandle;
use crate::engine::{Announcer, Credit, Error, Failure, ReadLimit, Result, Settlement};
use crate::meter::Labelled;
use crate::model::limits::{MAX_CONSUMERS_PER_SUBSCRIPTION, MAX_PATTERN_TOPICS, MAX_WAITING_PULLS};
use crate::model::{Advisory, ConsumerInfo, Delivery, Filter, Journey, Mode, Name, Offset};

/// Calls that may wait for the task, beside the one of each consumer.
const QUEUED_CALLS: usize = 256;
/// How often to look whether the log has space again.
const STALL_LOOK: Duration = Duration::from_millis(100);
/// Events handled before messages are handed out again.
const EVENTS_AT_ONCE: usize = 256;
/// How long to wait after the disk could not be read.
const READ_RETRY: Duration = Duration::from_secs(1);
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
    /// The owner moves it: these are the first messages not settled then, by lane.
    Seek { next: Vec<(u64, Offset)>, reply: oneshot::Sender<Result<Offset>> },
    /// It reads another topic, too.
    AddLane(Box<NewLane>),
    /// A topic is gone, and with it this lane.
    RemoveLane(u64),
    /// How is it going?
    Stats(oneshot::Sender<Snapshot>),
    /// What became of a message of this lane?
    Explain { lane: u64, offset: Offset, reply: oneshot::Sender<Journey> },
    /// Who is connected?
    Consumers(oneshot::Sender<Vec<ConsumerInfo>>),
    /// Anything else.
    Request(Request),
}

/// What came of a settlement.
pub(crate) struct SettleReply {
    /// Ids without effect.
    pub(crate) failures: Vec<(Bytes, Failure)>,
    /// Resolves when what was settled is durable; `None` if nothing was.
    pub(crate) durable: Option<oneshot::Receiver<Result<Offset>>>,
    /// The lane of the last id of this subscription.
    pub(crate) lane: Option<u64>,
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
#[derive(Debug, Clone, Copy, Default)]
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

/// What the task is given to work with, whatever the topic.
pub(crate) struct Common {
    /// The subscription's name.
    pub(crate) name: Name,
    /// What its owner chose.
    pub(crate) rules: Rules,
    /// Whether it hands nothing out.
    pub(crate) paused: bool,
    /// Which messages it wants.
    pub(crate) filter: Filter,
    /// Whether there may be more topics.
    pub(crate) is_pattern: bool,
    /// Where messages go that are given up.
    pub(crate) dead_letters: DeadLetters,
    pub(crate) log: Log,
    pub(crate) signer: Signer,
    /// Tells those who watch.
    pub(crate) advisories: Announcer<Advisory>,
    /// What is counted of it.
    pub(crate) meters: Arc<Labelled<SubscriptionMeters>>,
    /// Becomes the reason when the subscription ends.
    pub(crate) end: watch::Receiver<Option<Error>>,
}

/// Starts the task. It ends when every sender is gone or `common.end` has a reason.
pub(crate) fn start(common: Common, lanes: Vec<NewLane>) -> mpsc::Sender<Event> {
    let (events, queue) = mpsc::channel(MAX_CONSUMERS_PER_SUBSCRIPTION + QUEUED_CALLS);
    let mut visible = Visible::many();
    if let ([only], false) = (&lanes[..], common.is_pattern) {
        visible = Visible::One(only.topic.watch());
    }
    let mut dispatcher = Dispatcher {
        common,
        lanes: BTreeMap::new(),
        turns: Turns::default(),
        gone: VecDeque::new(),
        past: Snapshot::default(),
        visible,
        slots: BTreeMap::new(),
        known: BTreeMap::new(),
        consumers: BTreeMap::new(),
        last_consumer: 0,
        last_pull: 0,
        slow: SlowConsumers::default(),
        takers: VecDeque::new(),
        reads: Arc::new(Semaphore::new(fetch::READS_AT_ONCE)),
        may_read_more: false,
    };
    for lane in lanes {
        dispatcher.add_lane(lane);
    }
    tokio::spawn(dispatcher.run(queue));
    events
}

/// Somebody who waits for messages.
enum Taker {
    Consumer(ConsumerId),
    Pull(Pull),
}

struct Dispatcher {
    common: Common,
    /// What it does with each topic, by number.
    lanes: BTreeMap<u64, Lane>,
    /// Which of them is served next.
    turns: Turns,
    /// The last ones that are gone.
    gone: VecDeque<u64>,
    /// What they counted.
    past: Snapshot,
    visible: Visible,
    slots: BTreeMap<ConsumerId, Slot>,
    /// Who they are.
    known: BTreeMap<ConsumerId, Arc<Member>>,
    /// What they may hold, of all topics together.
    consumers: BTreeMap<ConsumerId, Credit>,
    last_consumer: ConsumerId,
    last_pull: u64,
    slow: SlowConsumers,
    /// Who waits, in turn. A consumer is here at most once.
    takers: VecDeque<Taker>,
    /// A permit for each topic that may be read from disk at once.
    reads: Arc<Semaphore>,
    /// A topic was not read for want of room, and now there is some.
    may_read_more: bool,
}

impl Dispatcher {
    async fn run(mut self, mut queue: mpsc::Receiver<Event>) {
        let mut end = self.common.end.clone();
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut wake_at = None::<Instant>;
        self.check_filter();
        loop {
            // Not at once, so that other subscriptions have their turn.
            let rest = self.has_more_to_sift() || self.may_read_more;
            let timer = async {
                match wake_at {
                    _ if rest => tokio::task::yield_now().await,
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            let lanes = &mut self.lanes;
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
                () = poll_fn(|context| lane::poll_all(lanes, context)) => {}
                () = self.visible.changed(), if !self.takers.is_empty() => {}
                () = timer => {}
            }
            let now = Instant::now();
            // What is over is over before anybody asks about it.
            for lane in self.lanes.values_mut() {
                lane.expire(now);
                lane.skip_dropped();
            }
            for event in events.drain(..) {
                self.handle(event, now);
            }
            self.visible.mark_unchanged();
            for lane in self.lanes.values_mut() {
                lane.expire(now);
            }
            self.make_ready(now);
            self.hand_out(now);
            for lane in self.lanes.values_mut() {
                lane.settle_unwanted(&[]);
                lane.bury(now);
                lane.commit_expired();
            }
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
            Event::Credit(consumer, credit) => self.set_credit(consumer, credit),
            Event::Leave(seat) => seat.get().into_iter().for_each(|&consumer| self.leave(consumer, now)),
            Event::Settle { ids, settlement, place, reply } => {
                let _ = reply.send(self.settle(ids, &settlement, place, now));
            }
            Event::Reserve { ids, reply } => self.reserve(&ids, reply, now),
            Event::Release { reservation, committed } => self.release(&reservation, committed, now),
            Event::Pull(pull) => self.pull(pull),
            Event::Rules(rules, dead_letters) => self.set_rules(rules, &dead_letters),
            Event::Filter(filter) => self.set_filter(filter),
            Event::Pause(paused) => self.pause(paused),
            Event::Seek { next, reply } => self.seek(next, reply),
            Event::AddLane(lane) => self.add_lane(*lane),
            Event::RemoveLane(lane) => self.remove_lane(lane),
            Event::Stats(reply) => drop(reply.send(self.snapshot())),
            Event::Explain { lane, offset, reply } => {
                if let Some(journey) = self.explain(lane, offset, now) {
                    let _ = reply.send(journey);
                }
            }
            Event::Consumers(reply) => drop(reply.send(self.consumers())),
            Event::Request(request) => self.request(request),
        }
    }

    fn add_lane(&mut self, new: NewLane) {
        let id = new.id;
        self.visible.add(&new.topic);
        let mut lane = Lane::new(new, &self.common, Arc::clone(&self.reads));
        for (&consumer, &credit) in &self.consumers {
            lane.leases.join_as(consumer, credit);
        }
        self.lanes.insert(id, lane);
        self.turns.add(id);
        self.divide_reading();
    }

    fn remove_lane(&mut self, id: u64) {
        let Some(lane) = self.lanes.remove(&id) else { return };
        self.turns.remove(id);
        self.past.redelivered += lane.leases.redelivered();
        self.past.dead_lettered += lane.dead_lettered;
        if self.gone.len() == MAX_PATTERN_TOPICS {
            self.gone.pop_front();
        }
        self.gone.push_back(id);
        // Nobody else may look for long.
        self.visible.note();
        self.divide_reading();
    }

    /// However many lanes there are, what they have read takes about the same memory.
    fn divide_reading(&mut self) {
        let limit = fetch::fetch_limit(self.lanes.len());
        let may_wait = MayWait::of(self.lanes.len());
        for lane in self.lanes.values_mut() {
            lane.fetch_limit = limit;
            lane.leases.set_may_wait(may_wait);
            // Told anew whenever it is served, unless no other is left.
            lane.leases.set_elsewhere(Elsewhere::default());
        }
    }

    fn set_credit(&mut self, consumer: ConsumerId, credit: Credit) {
        let Some(before) = self.consumers.get_mut(&consumer) else { return };
        *before = credit;
        for lane in self.lanes.values_mut() {
            lane.leases.set_credit(consumer, credit);
        }
    }

    fn set_rules(&mut self, rules: Rules, dead_letters: &DeadLetters) {
        self.common.rules = rules;
        self.common.dead_letters = dead_letters.clone();
        for lane in self.lanes.values_mut() {
            lane.leases.set_rules(rules);
            lane.subject.dead_letters = dead_letters.clone();
        }
    }

    /// Whether a stream keeps everybody else away, so that nobody can pull.
    fn is_held(&self) -> bool {
        self.common.rules.mode == Mode::Exclusive && !self.consumers.is_empty()
    }

    fn join(
        &mut self,
        credit: Credit,
        slot: Slot,
        seat: &Seat,
        reply: oneshot::Sender<Result<()>>,
    ) -> Option<ConsumerId> {
        if self.common.paused {
            let _ = reply.send(Err(Error::Paused(self.common.name.clone())));
            return None;
        }
        if let Some(error) = self.unreadable_filter() {
            let _ = reply.send(Err(error));
            return None;
        }
        self.last_consumer += 1;
        let consumer = self.last_consumer;
        self.consumers.insert(consumer, credit);
        for lane in self.lanes.values_mut() {
            lane.leases.join_as(consumer, credit);
        }
        let _ = seat.set(consumer);
        self.slots.insert(consumer, slot);
        if self.is_held() {
            self.refuse_pulls(&Error::Held(self.common.name.clone()));
        }
        // Whoever does not wait for it any more says goodbye.
        let _ = reply.send(Ok(()));
        Some(consumer)
    }

    fn leave(&mut self, consumer: ConsumerId, now: Instant) {
        self.slots.remove(&consumer);
        self.known.remove(&consumer);
        self.takers.retain(|taker| !matches!(taker, Taker::Consumer(id) if *id == consumer));
        self.consumers.remove(&consumer);
        for lane in self.lanes.values_mut() {
            lane.leases.leave(consumer, now);
        }
    }

    fn pull(&mut self, pull: Pull) {
        if self.common.paused {
            let _ = pull.reply.send(Err(Error::Paused(self.common.name.clone())));
        } else if let Some(error) = self.unreadable_filter() {
            let _ = pull.reply.send(Err(error));
        } else if self.is_held() {
            let _ = pull.reply.send(Err(Error::Held(self.common.name.clone())));
        } else if self.waiting_pulls() >= MAX_WAITING_PULLS {
            let what = "pulls waiting on this subscription";
            let _ = pull.reply.send(Err(Error::TooMany { what, limit: MAX_WAITING_PULLS }));
        } else {
            self.takers.push_back(Taker::Pull(pull));
        }
    }

    fn waiting_pulls(&self) -> usize {
        let waits = |taker: &&Taker| matches!(taker, Taker::Pull(pull) if !pull.reply.is_closed());
        self.takers.iter().filter(waits).count()
    }

    fn pause(&mut self, paused: bool) {
        self.common.paused = paused;
        if paused {
            self.end_all(&Error::Paused(self.common.name.clone()));
        }
    }

    /// Ends all consumers and waiting pulls, but not the subscription. What they hold is theirs to settle.
    fn end_all(&mut self, reason: &Error) {
        for (consumer, slot) in std::mem::take(&mut self.slots) {
            let _ = slot.try_send(Err(reason.clone()));
            self.consumers.remove(&consumer);
            for lane in self.lanes.values_mut() {
                lane.leases.detach(consumer);
            }
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

    fn seek(&mut self, next: Vec<(u64, Offset)>, reply: oneshot::Sender<Result<Offset>>) {
        let seeks: Vec<_> =
            next.into_iter().filter_map(|(id, next)| Some(self.lanes.get_mut(&id)?.seek(next - 1))).collect();
        if seeks.is_empty() {
            let _ = reply.send(Ok(0));
        } else {
            self.common.log.submit(Operation::Seek { seeks, reply });
        }
    }

    fn snapshot(&self) -> Snapshot {
        let consumers = u32::try_from(self.consumers.len()).unwrap_or(u32::MAX);
        let mut all = Snapshot { consumers, ..self.past };
        for lane in self.lanes.values() {
            all.leased += lane.leases.leased() as u64;
            all.scheduled += lane.leases.scheduled() as u64;
            all.redelivered += lane.leases.redelivered();
            all.dead_lettered += lane.dead_lettered;
        }
        all
    }

    /// Whether the log waits for space on the disk.
    fn is_stalled(&self) -> bool {
        self.common.log.check_stall().is_err()
    }

    /// When to wake although nothing else happens. What is due by now and was not handed out waits for
    /// something else than time.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let is_waited_for = !self.takers.is_empty();
        let lanes = self.lanes.values().filter_map(|lane| lane.wake_at(is_waited_for, now));
        let pulls = self.takers.iter().filter_map(|taker| match taker {
            Taker::Pull(pull) => Some(pull.until),
            Taker::Consumer(_) => None,
        });
        let stall = (is_waited_for && self.is_stalled()).then(|| now + STALL_LOOK);
        lanes.chain(pulls).chain(self.slow_look()).chain(stall).filter(|&at| at > now).min()
    }

    /// The subscription is gone. Consumers see their slots close.
    fn finish(mut self, reason: &Error) {
        self.refuse_pulls(reason);
    }
}
