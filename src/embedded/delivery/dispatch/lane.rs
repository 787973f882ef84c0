//! What a dispatcher does with one topic.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::fetch::{Fetched, fetch_limit};
use super::settle::Ranges;
use super::{Common, DeadLetters, KEEP_FETCHED};
use crate::embedded::attempts::{Attempts, Unwritten};
use crate::embedded::delivery::ack_id::Signer;
use crate::embedded::delivery::burial::Buried;
use crate::embedded::delivery::leases::Leases;
use crate::embedded::delivery::sieve::Sieve;
use crate::embedded::log::format::Seek;
use crate::embedded::log::transaction::Settle;
use crate::embedded::log::{Log, Operation};
use crate::embedded::meters::SubscriptionMeters;
use crate::embedded::progress::{Committed, Progress};
use crate::embedded::topic::TopicHandle;
use crate::engine::{Announcer, ReadLimit, Result};
use crate::meter::Labelled;
use crate::model::{Advisory, Name, Offset, StoredMessage, Timestamp};

/// A topic that a subscription reads, and where it stands there.
pub(crate) struct NewLane {
    /// The number under which the log keeps it: of the subscription, or of its part in this topic.
    pub(crate) id: u64,
    /// How often it was moved by a seek.
    pub(crate) epoch: u32,
    pub(crate) topic: Arc<TopicHandle>,
    /// What is settled on disk.
    pub(crate) committed: Arc<Committed>,
    /// What is settled.
    pub(crate) progress: Progress,
    /// What earlier lives of the process handed out.
    pub(crate) attempts: Attempts,
}

/// What a lane works with.
pub(super) struct Subject {
    /// The subscription's name.
    pub(super) name: Name,
    /// The lane's number.
    pub(super) id: u64,
    /// How often it was moved by a seek.
    pub(super) epoch: u32,
    /// What it reads.
    pub(super) topic: Arc<TopicHandle>,
    /// Where messages go that are given up.
    pub(super) dead_letters: DeadLetters,
    pub(super) log: Log,
    pub(super) signer: Signer,
    /// What is settled on disk.
    pub(super) committed: Arc<Committed>,
    /// What is handed out and not written down yet.
    pub(super) unwritten: Arc<Unwritten>,
    /// Tells those who watch.
    pub(super) advisories: Announcer<Advisory>,
    /// What is counted of the subscription.
    pub(super) meters: Arc<Labelled<SubscriptionMeters>>,
}

/// One topic of a subscription.
pub(super) struct Lane {
    pub(super) subject: Subject,
    pub(super) leases: Leases,
    pub(super) sieve: Sieve,
    /// Messages that are being moved.
    pub(super) moving: BTreeSet<Offset>,
    /// Fetched messages that were never handed out, in order.
    pub(super) ready: VecDeque<StoredMessage>,
    /// Fetched messages to be handed out again.
    pub(super) again: BTreeMap<Offset, StoredMessage>,
    pub(super) fetch: Option<BoxFuture<'static, Fetched>>,
    /// How much to fetch at once.
    pub(super) fetch_limit: ReadLimit,
    /// A permit for each topic that may be read from disk at once.
    pub(super) reads: Arc<Semaphore>,
    /// Whether what all topics together hold in memory leaves room for more.
    pub(super) may_read: bool,
    /// It was not read although there was more.
    pub(super) was_denied: bool,
    /// The last messages came from disk: more will.
    pub(super) behind: bool,
    /// The disk could not be read: not before this time again.
    pub(super) read_again: Option<Instant>,
    /// When fetched messages were last handed out, or came.
    pub(super) used: Instant,
    /// A message on its way to the dead letters.
    pub(super) burial: Option<BoxFuture<'static, (Offset, Buried)>>,
    /// The last one did not get there: not before this time again.
    pub(super) bury_again: Option<Instant>,
    pub(super) dead_lettered: u64,
    /// The first message that was passed over because it is damaged. It was not handed out, and nothing
    /// is noted to have been from there on.
    pub(super) passed_over: Option<Offset>,
}

/// Sees to what lanes have read or buried; ready if there was something.
pub(super) fn poll_all(lanes: &mut BTreeMap<u64, Lane>, context: &mut Context<'_>) -> Poll<()> {
    let mut is_ready = false;
    for lane in lanes.values_mut() {
        if let Some(fetch) = &mut lane.fetch
            && let Poll::Ready(fetched) = fetch.poll_unpin(context)
        {
            lane.fetch = None;
            lane.fetched(fetched);
            is_ready = true;
        }
        if let Some(burial) = &mut lane.burial
            && let Poll::Ready((offset, result)) = burial.poll_unpin(context)
        {
            lane.burial = None;
            lane.buried(offset, result);
            is_ready = true;
        }
    }
    if is_ready { Poll::Ready(()) } else { Poll::Pending }
}

impl Lane {
    pub(super) fn new(new: NewLane, common: &Common, reads: Arc<Semaphore>) -> Self {
        let NewLane { id, epoch, topic, committed, progress, attempts } = new;
        let now = Instant::now();
        Self {
            subject: Subject {
                name: common.name.clone(),
                id,
                epoch,
                topic,
                dead_letters: common.dead_letters.clone(),
                log: common.log.clone(),
                signer: common.signer,
                committed,
                unwritten: Arc::default(),
                advisories: common.advisories.clone(),
                meters: Arc::clone(&common.meters),
            },
            // Numbers from a random place on never meet those of an earlier life of the process.
            leases: Leases::new(common.rules, progress, attempts, rand::random()),
            sieve: Sieve::new(common.filter.clone(), now),
            moving: BTreeSet::new(),
            ready: VecDeque::new(),
            again: BTreeMap::new(),
            fetch: None,
            fetch_limit: fetch_limit(1),
            reads,
            may_read: true,
            was_denied: false,
            behind: false,
            read_again: None,
            used: now,
            burial: None,
            bury_again: None,
            dead_lettered: 0,
            passed_over: None,
        }
    }

    /// Moves it; what is returned is for the log to remember.
    pub(super) fn seek(&mut self, floor: Offset) -> (Seek, Arc<Committed>) {
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
        (seek, Arc::clone(&self.subject.committed))
    }

    /// Time has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        let passed = self.leases.expire(now, Timestamp::now());
        self.subject.meters.deadlines_passed.add(passed);
    }

    /// Settles messages that a consumer is done with.
    pub(super) fn acknowledge(&mut self, first: Offset, last: Offset) {
        let before = self.leases.progress().settled();
        self.leases.settle(first, last);
        self.subject.meters.acks.add(self.leases.progress().settled() - before);
    }

    /// When to wake although nothing else happens; sooner if somebody waits for messages.
    pub(super) fn wake_at(&self, is_waited_for: bool, now: Instant) -> Option<Instant> {
        let unused = self.has_fetched().then_some(self.used + KEEP_FETCHED);
        let ends = self.leases.last_attempt_ends().into_iter().chain(self.leases.next_expiry(now));
        let always = unused.into_iter().chain(self.bury_again).chain(ends).chain(self.sieve.write_at());
        if !is_waited_for {
            return always.filter(|&at| at > now).min();
        }
        let times = self.leases.wake_after(now).into_iter().chain(self.read_again).chain(always);
        times.filter(|&at| at > now).min()
    }

    /// Has the log remember what is settled.
    pub(super) fn commit(&mut self, ranges: Vec<(Offset, Offset)>, reply: oneshot::Sender<Result<Offset>>) {
        let (subscription, committed) = (self.subject.id, Arc::clone(&self.subject.committed));
        // What came before and is not written down yet: the floor that is answered counts it.
        let ranges = self.sieve.take().into_iter().chain(ranges).collect();
        let settle = Settle { subscription, ranges, committed, only_in: None };
        self.subject.log.submit(Operation::Settle { settle, reply });
    }

    /// Whether the log waits for space on the disk: what can wait is not sent to it then.
    pub(super) fn is_stalled(&self) -> bool {
        self.subject.log.check_stall().is_err()
    }

    /// Has the log remember what was settled because it expired.
    pub(super) fn commit_expired(&mut self) {
        if self.is_stalled() {
            return;
        }
        let mut ranges = Ranges::default();
        for offset in self.leases.take_expired() {
            ranges.add(offset, offset);
            self.subject.meters.expired.add(1);
        }
        if !ranges.0.is_empty() {
            self.commit(ranges.0, oneshot::channel().0);
        }
    }
}
