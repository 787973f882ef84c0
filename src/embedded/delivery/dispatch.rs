//! The task that owns one subscription: it feeds the leases with what happens, fetches messages from
//! the log, and hands them to consumers that wait.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use tokio::sync::{mpsc, oneshot, watch};

use super::ack_id::{AckId, Signer};
use super::burial::Burial;
use super::leases::{ConsumerId, Leases, Next, Rules};
use crate::embedded::attempts::{Attempts, Unwritten};
use crate::embedded::log::format::Seek;
use crate::embedded::log::{Log, Operation, Place, Settle};
use crate::embedded::progress::{Committed, Progress};
use crate::embedded::topic::TopicHandle;
use crate::engine::{Credit, Error, Failure, ReadLimit, Result, Settlement};
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, MAX_CONSUMERS_PER_SUBSCRIPTION};
use crate::model::{Delivery, Name, Offset, StoredMessage};

/// Calls that may wait for the task, beside the one of each consumer.
const QUEUED_CALLS: usize = 256;
/// Events handled before messages are handed out again.
const EVENTS_AT_ONCE: usize = 256;
/// Pulls that may wait for messages at once.
const MAX_PULLS: usize = 1_000;
/// How much one fetch reads: several batches, since disks are read best in large chunks.
const FETCH: ReadLimit = ReadLimit { messages: MAX_BATCH_MESSAGES, bytes: 1 << 20 };
/// How much is handed to a consumer at once.
const BATCH: ReadLimit = ReadLimit { messages: MAX_BATCH_MESSAGES, bytes: MAX_BATCH_BYTES };
/// How long to wait after the disk could not be read.
const READ_RETRY: Duration = Duration::from_secs(1);
/// How long fetched messages are kept that nobody takes. They keep more memory alive than they are long:
/// the buffers that they were written or read with.
const KEEP_FETCHED: Duration = Duration::from_secs(1);
/// With fewer messages ready than this, the next ones are fetched while these are handed out.
const READ_AHEAD_BELOW: usize = MAX_BATCH_MESSAGES / 2;

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
    Join { credit: Credit, slot: Slot, seat: Seat, reply: oneshot::Sender<Result<()>> },
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
    /// Messages are asked for without a consumer.
    Pull(Pull),
    /// The owner changed the rules, and where dead letters go.
    Rules(Rules, DeadLetters),
    /// The owner paused or resumed it.
    Pause(bool),
    /// The owner moves it: this is the first message not settled then.
    Seek { next: Offset, reply: oneshot::Sender<Result<Offset>> },
    /// How is it going?
    Stats(oneshot::Sender<Snapshot>),
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
    /// Becomes the reason when the subscription ends.
    pub(crate) end: watch::Receiver<Option<Error>>,
}

/// Starts the task. It ends when every sender is gone or `subject.end` has a reason.
pub(crate) fn start(subject: Subject, leases: Leases) -> mpsc::Sender<Event> {
    let (events, queue) = mpsc::channel(MAX_CONSUMERS_PER_SUBSCRIPTION + QUEUED_CALLS);
    let dispatcher = Dispatcher {
        subject,
        leases,
        slots: BTreeMap::new(),
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

/// What is being read from disk.
enum Fetched {
    /// Messages never handed out, from this offset on.
    New(Offset, Result<Vec<StoredMessage>>),
    /// Messages to be handed out again, from this offset on.
    Again(Offset, Result<Vec<StoredMessage>>),
}

struct Dispatcher {
    subject: Subject,
    leases: Leases,
    slots: BTreeMap<ConsumerId, Slot>,
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
    burial: Option<BoxFuture<'static, (Offset, Result<()>)>>,
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
        loop {
            let timer = async {
                match wake_at {
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
            self.leases.expire(now);
            for event in events.drain(..) {
                self.handle(event, now);
            }
            visible.mark_unchanged();
            self.leases.expire(now);
            self.hand_out(now);
            self.bury(now);
            wake_at = self.wake_at(now);
        }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Join { credit, slot, seat, reply } => self.join(credit, slot, &seat, reply),
            Event::Want(consumer) => self.takers.push_back(Taker::Consumer(consumer)),
            Event::Credit(consumer, credit) => self.leases.set_credit(consumer, credit),
            Event::Leave(seat) => seat.get().into_iter().for_each(|&consumer| self.leave(consumer, now)),
            Event::Settle { ids, settlement, place, reply } => {
                let _ = reply.send(self.settle(ids, &settlement, place, now));
            }
            Event::Pull(pull) => self.pull(pull),
            Event::Rules(rules, dead_letters) => {
                self.leases.set_rules(rules);
                self.subject.dead_letters = dead_letters;
            }
            Event::Pause(paused) => self.pause(paused),
            Event::Seek { next, reply } => self.seek(next, reply),
            Event::Stats(reply) => drop(reply.send(self.snapshot())),
        }
    }

    fn join(&mut self, credit: Credit, slot: Slot, seat: &Seat, reply: oneshot::Sender<Result<()>>) {
        if self.subject.paused {
            let _ = reply.send(Err(Error::Paused(self.subject.name.clone())));
            return;
        }
        let consumer = self.leases.join(credit);
        let _ = seat.set(consumer);
        self.slots.insert(consumer, slot);
        if self.leases.room(None).0 == 0 {
            self.refuse_pulls(&Error::Held(self.subject.name.clone()));
        }
        // Whoever does not wait for it any more says goodbye.
        let _ = reply.send(Ok(()));
    }

    fn leave(&mut self, consumer: ConsumerId, now: Instant) {
        self.slots.remove(&consumer);
        self.takers.retain(|taker| !matches!(taker, Taker::Consumer(id) if *id == consumer));
        self.leases.leave(consumer, now);
    }

    fn pull(&mut self, pull: Pull) {
        if self.subject.paused {
            let _ = pull.reply.send(Err(Error::Paused(self.subject.name.clone())));
        } else if self.leases.room(None).0 == 0 {
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
        (self.fetch, self.behind) = (None, false);
        self.passed_over = None;
        // What is on its way to the dead letters is settled before the seek, or not at all.
        self.burial = None;
        let seek = Seek { subscription: self.subject.id, epoch: self.subject.epoch, floor };
        let committed = Arc::clone(&self.subject.committed);
        self.subject.log.submit(Operation::Seek { seek, committed, reply });
    }

    fn settle(
        &mut self,
        ids: Vec<Bytes>,
        settlement: &Settlement,
        place: Option<Place>,
        now: Instant,
    ) -> SettleReply {
        let mut failures = Vec::new();
        let mut ranges = Ranges::default();
        for id in ids {
            if let Err(failure) = self.settle_one(&id, settlement, now, &mut ranges) {
                failures.push((id, failure));
            }
        }
        let durable = (!ranges.0.is_empty()).then(|| {
            let (reply, durable) = oneshot::channel();
            self.commit(ranges.0, reply);
            durable
        });
        SettleReply { failures, durable, place }
    }

    fn settle_one(
        &mut self,
        id: &Bytes,
        settlement: &Settlement,
        now: Instant,
        ranges: &mut Ranges,
    ) -> std::result::Result<(), Failure> {
        let AckId { subscription, epoch, offset, delivery, attempt } =
            self.subject.signer.open(id).ok_or(Failure::Unknown)?;
        if subscription != self.subject.id {
            return Err(Failure::WrongSubscription);
        }
        if epoch != self.subject.epoch {
            return Err(Failure::Expired);
        }
        self.leases.check(offset, delivery, attempt)?;
        match settlement {
            Settlement::Ack { cumulative } => {
                let first = if *cumulative { self.leases.progress().floor() + 1 } else { offset };
                self.leases.settle(first, offset);
                ranges.add(first, offset);
            }
            Settlement::Nack { retry, reason } => self.leases.nack(offset, delivery, *retry, reason, now),
            Settlement::Extend { deadline } => {
                let deadline = deadline.unwrap_or(self.leases.ack_deadline());
                self.leases.extend(offset, delivery, now + deadline);
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            leased: self.leases.leased() as u64,
            redelivered: self.leases.redelivered(),
            dead_lettered: self.dead_lettered,
            consumers: u32::try_from(self.leases.consumers()).unwrap_or(u32::MAX),
        }
    }

    /// When to wake although nothing else happens. What is due by now and was not handed out waits for
    /// something else than time.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let unused = (!self.ready.is_empty() || !self.again.is_empty()).then_some(self.used + KEEP_FETCHED);
        let always = unused.into_iter().chain(self.bury_again).chain(self.leases.last_attempt_ends());
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

    /// Serves those who wait, each in turn, as long as there is something for somebody.
    fn hand_out(&mut self, now: Instant) {
        let mut sharers = self.takers_with_room();
        for _ in 0..self.takers.len() {
            if !self.has_something(now) {
                break;
            }
            let Some(taker) = self.takers.pop_front() else { break };
            match self.serve(taker, sharers, now) {
                Some(unserved) => self.takers.push_back(unserved),
                None => sharers = sharers.saturating_sub(1),
            }
        }
        if sharers > 0 && self.behind && self.wants_more() {
            self.fetch_new(self.ready.back().map_or(self.next_new(), |last| last.offset + 1));
        }
        self.end_pulls(now);
        let has_fetched = !self.ready.is_empty() || !self.again.is_empty();
        if has_fetched && now >= self.used + KEEP_FETCHED {
            self.ready = VecDeque::new();
            self.again = BTreeMap::new();
            // What is being read follows what is not here any more.
            self.fetch = None;
        }
    }

    /// Whether to read ahead.
    fn wants_more(&self) -> bool {
        let bytes = || self.ready.iter().map(|message| message.envelope.len()).sum::<usize>();
        self.ready.len() < READ_AHEAD_BELOW && bytes() < FETCH.bytes
    }

    /// Serves one; returns it if there is nothing for it now.
    fn serve(&mut self, taker: Taker, sharers: usize, now: Instant) -> Option<Taker> {
        let (consumer, limit) = match &taker {
            Taker::Consumer(id) if !self.slots.contains_key(id) => return None,
            Taker::Pull(pull) if pull.reply.is_closed() => return None,
            Taker::Consumer(id) => (Some(*id), BATCH),
            Taker::Pull(pull) => (None, pull.limit),
        };
        let deliveries = self.collect(consumer, limit, sharers, now);
        if deliveries.is_empty() {
            return Some(taker);
        }
        let refused = match taker {
            Taker::Consumer(id) => self.slots.get(&id).map(|slot| slot.try_send(Ok(deliveries)).is_err()),
            Taker::Pull(pull) => pull.reply.send(Ok(deliveries)).err().map(|refused| {
                self.give_back(refused, now);
                false
            }),
        };
        if let (Some(id), Some(true)) = (consumer, refused) {
            self.leave(id, now);
        }
        None
    }

    /// A pull went away just now: its messages are due at once.
    fn give_back(&mut self, refused: Result<Vec<Delivery>>, now: Instant) {
        for delivery in refused.unwrap_or_default() {
            if let Some(id) = self.subject.signer.open(&delivery.ack_id) {
                self.leases.take_back_unseen(id.offset, now);
            }
        }
    }

    /// Leases messages to a consumer, as many as there are, as it may have, and as is fair.
    fn collect(
        &mut self,
        consumer: Option<ConsumerId>,
        limit: ReadLimit,
        sharers: usize,
        now: Instant,
    ) -> Vec<Delivery> {
        let (room_messages, room_bytes) = self.leases.room(consumer);
        let room = room_messages.min(limit.messages);
        if room == 0 {
            return Vec::new();
        }
        let available = self.ready.len() + self.leases.due(now);
        let share = available.div_ceil(sharers.max(1)).max(1);
        let max_messages = room.min(share);

        let mut batch: Vec<(StoredMessage, u64, u32)> = Vec::with_capacity(max_messages.min(available));
        let mut bytes = 0;
        let mut skip_again = false;
        while batch.len() < max_messages {
            let message = match self.leases.next(now, skip_again) {
                Next::Nothing => break,
                Next::Again(offset) => {
                    let Some(message) = self.take_again(offset) else {
                        skip_again = true;
                        continue;
                    };
                    message
                }
                Next::New => {
                    let Some(message) = self.take_new() else { break };
                    message
                }
            };
            if self.leases.is_used_up(message.offset) {
                self.leases.give_up_next(message.offset);
                continue;
            }
            let size = message.envelope.len() as u64;
            // One message of any size always fits a batch, and a consumer that holds nothing.
            let fits_batch = batch.is_empty() || bytes + size <= limit.bytes as u64;
            let fits_credit =
                bytes + size <= room_bytes || (batch.is_empty() && self.leases.holds_nothing(consumer));
            if !(fits_batch && fits_credit) {
                self.put_back(message);
                break;
            }
            bytes += size;
            let handed = self.leases.hand_out(consumer, message.offset, size, now);
            batch.push((message, handed.delivery, handed.attempt));
        }
        if !batch.is_empty() {
            self.used = now;
            self.write_down(&batch);
        }
        self.sign(batch)
    }

    /// Has the log remember what is handed out, so that attempts are counted across restarts.
    fn write_down(&self, batch: &[(StoredMessage, u64, u32)]) {
        let handed = self.leases.cursor().min(self.passed_over.unwrap_or(Offset::MAX)) - 1;
        let mut attempts = Attempts::new(handed);
        for (message, _, attempt) in batch.iter().filter(|(_, _, attempt)| *attempt > 1) {
            attempts.note(message.offset, *attempt);
        }
        if self.subject.unwritten.add(attempts) {
            let (subscription, unwritten) = (self.subject.id, Arc::clone(&self.subject.unwritten));
            self.subject.log.submit(Operation::Hand { subscription, unwritten });
        }
    }

    /// Whether there is a message to hand out, or can be at once.
    fn has_something(&mut self, now: Instant) -> bool {
        self.make_ready();
        !self.ready.is_empty() || self.leases.due(now) > 0
    }

    /// How many wait and may have messages.
    fn takers_with_room(&self) -> usize {
        let room = |taker: &&Taker| match taker {
            Taker::Consumer(id) => self.leases.room(Some(*id)).0 > 0,
            Taker::Pull(_) => true,
        };
        self.takers.iter().filter(room).count()
    }

    fn sign(&self, batch: Vec<(StoredMessage, u64, u32)>) -> Vec<Delivery> {
        let ids = batch.iter().map(|(message, delivery, attempt)| AckId {
            subscription: self.subject.id,
            epoch: self.subject.epoch,
            offset: message.offset,
            delivery: *delivery,
            attempt: *attempt,
        });
        let ids: Vec<_> = self.subject.signer.sign(ids).collect();
        let deliveries = batch.into_iter().zip(ids);
        deliveries.map(|((message, _, attempt), ack_id)| Delivery { ack_id, attempt, message }).collect()
    }

    fn put_back(&mut self, message: StoredMessage) {
        if self.leases.is_new(message.offset) {
            self.ready.push_front(message);
        } else {
            self.again.insert(message.offset, message);
        }
    }

    fn take_new(&mut self) -> Option<StoredMessage> {
        self.make_ready();
        self.ready.pop_front()
    }

    /// Drops what was settled in the meantime, and gets more if that was all.
    fn make_ready(&mut self) {
        loop {
            while self.ready.front().is_some_and(|message| !self.leases.is_new(message.offset)) {
                self.ready.pop_front();
            }
            if !self.ready.is_empty() || !self.may_fetch() {
                return;
            }
            let from = self.next_new();
            if from > self.subject.topic.visible() {
                self.behind = false;
                return;
            }
            match self.subject.log.reader.read_cached(&self.subject.topic, from, FETCH) {
                Some(read) => {
                    self.behind = false;
                    self.fetched(Fetched::New(from, read));
                }
                None => return self.fetch_new(from),
            }
        }
    }

    /// Whether the log may be read: not while it is being read, nor just after that failed.
    fn may_fetch(&self) -> bool {
        self.fetch.is_none() && self.read_again.is_none_or(|at| at <= Instant::now())
    }

    /// The first message from the cursor on that was never handed out.
    fn next_new(&self) -> Offset {
        let mut from = self.leases.cursor();
        while !self.leases.is_new(from) {
            from += 1;
        }
        from
    }

    fn take_again(&mut self, offset: Offset) -> Option<StoredMessage> {
        if let Some(message) = self.again.remove(&offset) {
            return Some(message);
        }
        if !self.may_fetch() {
            return None;
        }
        let limit = ReadLimit { messages: 1, ..FETCH };
        match self.subject.log.reader.read_cached(&self.subject.topic, offset, limit) {
            Some(read) => self.fetched(Fetched::Again(offset, read)),
            None => self.fetch_again(offset),
        }
        self.again.remove(&offset)
    }

    fn fetch_new(&mut self, from: Offset) {
        if self.may_fetch() && from <= self.subject.topic.visible() {
            self.behind = true;
            self.used = Instant::now();
            let (reader, topic) = (Arc::clone(&self.subject.log.reader), Arc::clone(&self.subject.topic));
            self.fetch =
                Some(Box::pin(async move { Fetched::New(from, reader.read(&topic, from, FETCH).await) }));
        }
    }

    fn fetch_again(&mut self, from: Offset) {
        self.used = Instant::now();
        let (reader, topic) = (Arc::clone(&self.subject.log.reader), Arc::clone(&self.subject.topic));
        self.fetch =
            Some(Box::pin(async move { Fetched::Again(from, reader.read(&topic, from, FETCH).await) }));
    }

    fn fetched(&mut self, fetched: Fetched) {
        let (from, read, is_new) = match fetched {
            Fetched::New(from, read) => (from, read, true),
            Fetched::Again(from, read) => (from, read, false),
        };
        self.used = Instant::now();
        match read {
            Ok(messages) if is_new => {
                let expected = self.ready.back().map_or_else(|| self.next_new(), |last| last.offset + 1);
                // Never leave out what lies between.
                if from <= expected {
                    self.ready.extend(messages);
                }
            }
            // Whatever else came along is kept only if it is waiting too.
            Ok(messages) => {
                let leases = &self.leases;
                let waiting = messages.into_iter().filter(|message| leases.is_waiting(message.offset));
                self.again = waiting.map(|message| (message.offset, message)).collect();
            }
            Err(Error::Damaged { first, last, .. }) => self.skip_damaged(first, last),
            Err(error) => {
                tracing::error!(subscription = %self.subject.name, from, %error, "could not read; trying again");
                self.read_again = Some(Instant::now() + READ_RETRY);
            }
        }
    }

    /// Damaged messages cannot be delivered and must not hold up the others. They are passed over for as
    /// long as the server runs, but not settled on disk: should they be readable again, they are delivered
    /// after a restart, and until then they count as backlog.
    fn skip_damaged(&mut self, first: Offset, last: Offset) {
        let (name, topic) = (&self.subject.name, &self.subject.topic.name);
        tracing::error!(
            subscription = %name, %topic, first, last,
            "passing over messages damaged on disk; seek the subscription past them to settle them"
        );
        self.leases.settle(first, last);
        self.passed_over = Some(self.passed_over.map_or(first, |before| before.min(first)));
    }

    /// Sees to the messages that were given up, one at a time.
    fn bury(&mut self, now: Instant) {
        if self.burial.is_some() || self.bury_again.is_some_and(|at| at > now) {
            return;
        }
        self.bury_again = None;
        match self.subject.dead_letters.clone() {
            DeadLetters::Dropped => self.drop_given_up(),
            DeadLetters::Lost => {
                if let Some((offset, _)) = self.leases.next_given_up() {
                    self.not_buried(offset, "the dead-letter topic is lost; give the subscription another");
                }
            }
            DeadLetters::Topic(dead_letters) => {
                let Some((offset, given_up)) = self.leases.next_given_up() else { return };
                let burial = Burial {
                    log: self.subject.log.clone(),
                    dead_letters,
                    topic: Arc::clone(&self.subject.topic),
                    subscription: (self.subject.id, self.subject.name.clone()),
                    committed: Arc::clone(&self.subject.committed),
                };
                self.burial = Some(Box::pin(async move { (offset, burial.run(offset, given_up).await) }));
            }
        }
    }

    fn drop_given_up(&mut self) {
        let (mut ranges, mut count) = (Ranges::default(), 0);
        while let Some((offset, _)) = self.leases.next_given_up() {
            self.leases.settle(offset, offset);
            ranges.add(offset, offset);
            count += 1;
        }
        if count > 0 {
            let name = &self.subject.name;
            tracing::warn!(subscription = %name, count, "dropped messages that were given up");
            self.dead_lettered += count;
            self.commit(ranges.0, oneshot::channel().0);
        }
    }

    fn not_buried(&mut self, offset: Offset, reason: &str) {
        let name = &self.subject.name;
        tracing::error!(subscription = %name, offset, reason, "no dead letter yet; trying again");
        self.leases.unbury(offset);
        self.bury_again = Some(Instant::now() + READ_RETRY);
    }

    fn buried(&mut self, offset: Offset, result: Result<()>) {
        match result {
            Ok(()) => {
                self.leases.settle(offset, offset);
                self.dead_lettered += 1;
            }
            Err(Error::Damaged { .. }) => self.skip_damaged(offset, offset),
            Err(error) => self.not_buried(offset, &error.to_string()),
        }
    }

    /// Has the log remember what is settled.
    fn commit(&self, ranges: Vec<(Offset, Offset)>, reply: oneshot::Sender<Result<Offset>>) {
        let (subscription, committed) = (self.subject.id, Arc::clone(&self.subject.committed));
        let settle = Settle { subscription, ranges, committed };
        self.subject.log.submit(Operation::Settle { settle, reply });
    }

    /// Answers pulls whose time is over, unless their messages are being fetched.
    fn end_pulls(&mut self, now: Instant) {
        if self.fetch.is_some() {
            return;
        }
        for taker in std::mem::take(&mut self.takers) {
            match taker {
                Taker::Pull(pull) if pull.until <= now => drop(pull.reply.send(Ok(Vec::new()))),
                taker => self.takers.push_back(taker),
            }
        }
    }

    /// The subscription is gone. Consumers see their slots close.
    fn finish(mut self, reason: &Error) {
        self.refuse_pulls(reason);
    }
}

/// Ranges of offsets, neighbours joined as they come.
#[derive(Default)]
struct Ranges(Vec<(Offset, Offset)>);

impl Ranges {
    fn add(&mut self, first: Offset, last: Offset) {
        match self.0.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.0.push((first, last)),
        }
    }
}
