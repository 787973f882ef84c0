//! Messages on their way from the log to those who wait for them.

use std::sync::Arc;
use std::time::Instant;

use super::settle::Ranges;
use super::{Dispatcher, Lane, READ_RETRY};
use crate::embedded::delivery::sieve::SIFT_TIME;
use crate::embedded::log::reader::ReadBatch;
use crate::engine::{Error, ReadLimit, Result};
use crate::model::limits::MAX_BATCH_MESSAGES;
use crate::model::{Offset, StoredMessage};

/// How much one fetch reads of an only topic: several batches, since disks are read best in large chunks.
const FETCH: ReadLimit = ReadLimit { messages: MAX_BATCH_MESSAGES, bytes: 1 << 20 };
/// How much it reads at least, however many topics there are.
const LEAST_FETCH: ReadLimit = ReadLimit { messages: 50, bytes: 64 << 10 };

/// How many topics of one subscription are read from disk at once.
pub(super) const READS_AT_ONCE: usize = 16;
/// How many bytes of several topics may wait in memory; no more is read then. What is read at once comes on top.
const MAX_AHEAD: usize = 16 << 20;

/// How much to read at once of each of so many topics: together about as much as of one, but for the least.
pub(super) fn fetch_limit(topics: usize) -> ReadLimit {
    let share = |all: usize, least: usize| (all / topics.max(1)).max(least);
    ReadLimit {
        messages: share(FETCH.messages, LEAST_FETCH.messages),
        bytes: share(FETCH.bytes, LEAST_FETCH.bytes),
    }
}

/// What is being read from disk.
pub(super) enum Fetched {
    /// Messages never handed out, from this offset on.
    New(Offset, Result<ReadBatch>),
    /// Messages to be handed out again, from this offset on.
    Again(Offset, Result<ReadBatch>),
}

impl Dispatcher {
    /// Reads for those who have room, in the order of turns, and looks at what was read.
    pub(super) fn make_ready(&mut self, now: Instant) {
        let has_room = self.takers_with_room() > 0;
        let (is_only, is_waited_for) = (self.lanes.len() == 1, !self.takers.is_empty());
        let time = SIFT_TIME / u32::try_from(self.lanes.len()).unwrap_or(u32::MAX).max(1);
        let mut held = self.held_ahead(is_only);
        for id in self.turns.order() {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.was_denied = false;
            lane.may_read = is_only || (has_room && held < MAX_AHEAD);
            lane.sieve.begin(if is_only { now } else { Instant::now() }, time);
            if is_waited_for {
                held = held.saturating_sub(lane.held_ahead(is_only));
                lane.make_ready();
                held += lane.held_ahead(is_only);
            }
        }
    }

    /// Reads ahead of those who could have more.
    pub(super) fn read_ahead(&mut self) {
        let is_only = self.lanes.len() == 1;
        let mut held = self.held_ahead(is_only);
        for id in self.turns.order() {
            let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.behind && lane.wants_more()) else {
                continue;
            };
            if held >= MAX_AHEAD {
                return;
            }
            held = held.saturating_sub(lane.held_ahead(is_only));
            lane.fetch_new(lane.next_to_fetch());
            held += lane.held_ahead(is_only);
        }
        let was_denied = self.lanes.values().any(|lane| lane.was_denied);
        self.may_read_more = was_denied && held < MAX_AHEAD && self.reads.available_permits() > 0;
    }

    /// Bytes that are in memory or will be, and count toward the limit that topics share.
    fn held_ahead(&self, is_only: bool) -> usize {
        self.lanes.values().map(|lane| lane.held_ahead(is_only)).sum()
    }
}

impl Lane {
    /// Bytes that are in memory or will be. An only topic shares the room with none: nobody asks, and the
    /// messages need not be gone through.
    fn held_ahead(&self, is_only: bool) -> usize {
        if is_only {
            return 0;
        }
        let messages = self.ready.iter().chain(&self.sieve.unsifted).chain(self.again.values());
        let held = messages.map(|message| message.envelope.len()).sum::<usize>();
        held + self.fetch.as_ref().map_or(0, |_| self.fetch_limit.bytes)
    }

    /// Whether to read ahead: with fewer messages ready, the next ones are fetched while these are handed out.
    pub(super) fn wants_more(&self) -> bool {
        let bytes = || self.ready.iter().map(|message| message.envelope.len()).sum::<usize>();
        self.sieve.unsifted.is_empty()
            && self.ready.len() < self.fetch_limit.messages / 2
            && bytes() < self.fetch_limit.bytes
    }

    pub(super) fn take_new(&mut self) -> Option<StoredMessage> {
        self.make_ready();
        self.ready.pop_front()
    }

    /// Drops what was settled in the meantime, and gets more if that was all.
    pub(super) fn make_ready(&mut self) {
        loop {
            while self.ready.front().is_some_and(|message| !self.leases.is_new(message.offset)) {
                self.ready.pop_front();
            }
            if self.ready.is_empty() && self.sift() {
                continue;
            }
            if !self.ready.is_empty() || !self.sieve.unsifted.is_empty() || !self.may_fetch() {
                return;
            }
            let from = self.leases.first_new();
            if from > self.subject.topic.visible() {
                self.behind = false;
                return;
            }
            if !self.leases.admits_new() {
                return;
            }
            if !self.may_read {
                self.was_denied = true;
                return;
            }
            match self.subject.log.reader.read_cached(&self.subject.topic, from, self.fetch_limit) {
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

    /// The first message that was not fetched, given that what comes before it was.
    pub(super) fn next_to_fetch(&self) -> Offset {
        let last = self.sieve.unsifted.back().or(self.ready.back());
        last.map_or_else(|| self.leases.first_new(), |last| self.leases.first_new_from(last.offset + 1))
    }

    pub(super) fn take_again(&mut self, offset: Offset) -> Option<StoredMessage> {
        if let Some(message) = self.again.remove(&offset) {
            return Some(message);
        }
        if !self.may_fetch() {
            return None;
        }
        if !self.may_read {
            self.was_denied = true;
            return None;
        }
        let limit = ReadLimit { messages: 1, ..self.fetch_limit };
        match self.subject.log.reader.read_cached(&self.subject.topic, offset, limit) {
            Some(read) => self.fetched(Fetched::Again(offset, read)),
            None => self.fetch_again(offset),
        }
        self.again.remove(&offset)
    }

    pub(super) fn fetch_new(&mut self, from: Offset) {
        if self.may_fetch() && from <= self.subject.topic.visible() {
            self.behind = true;
            self.read_disk(from, Fetched::New);
        }
    }

    fn fetch_again(&mut self, from: Offset) {
        self.read_disk(from, Fetched::Again);
    }

    /// Begins to read, unless enough other topics are being read: when one of them was, it is its turn.
    fn read_disk(&mut self, from: Offset, fetched: fn(Offset, Result<ReadBatch>) -> Fetched) {
        let Ok(permit) = Arc::clone(&self.reads).try_acquire_owned() else {
            self.was_denied = true;
            return;
        };
        self.used = Instant::now();
        let (reader, topic) = (Arc::clone(&self.subject.log.reader), Arc::clone(&self.subject.topic));
        let limit = self.fetch_limit;
        self.fetch = Some(Box::pin(async move {
            let read = reader.read(&topic, from, limit).await;
            drop(permit);
            fetched(from, read)
        }));
    }

    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let (from, read, is_new) = match fetched {
            Fetched::New(from, read) => (from, read, true),
            Fetched::Again(from, read) => (from, read, false),
        };
        self.used = Instant::now();
        match read {
            Ok(batch) if is_new => {
                let expected = self.next_to_fetch();
                // Never leave out what lies between.
                if from <= expected {
                    self.skip_gone(from, &batch);
                    let messages = self.skip_directed(batch.messages);
                    self.arrive(messages);
                }
            }
            // Whatever else came along is kept only if it is waiting too.
            Ok(batch) => {
                self.skip_gone(from, &batch);
                let leases = &self.leases;
                let waiting = batch.messages.into_iter().filter(|message| leases.is_waiting(message.offset));
                self.again = waiting.map(|message| (message.offset, message)).collect();
            }
            Err(Error::Damaged { first, last, .. }) => self.skip_damaged(first, last),
            Err(error) => {
                // It is about to leave, if its topic is gone.
                if !matches!(error, Error::TopicDeleted(_)) {
                    let name = &self.subject.name;
                    tracing::error!(subscription = %name, from, %error, "could not read; trying again");
                }
                self.read_again = Some(Instant::now() + READ_RETRY);
            }
        }
    }

    /// Settles what is not there any more among what was read.
    fn skip_gone(&mut self, mut from: Offset, batch: &ReadBatch) {
        let mut gone = Ranges::default();
        for message in &batch.messages {
            if from < message.offset {
                gone.add(from, message.offset - 1);
            }
            from = message.offset + 1;
        }
        if from < batch.next {
            gone.add(from, batch.next - 1);
        }
        self.settle_unwanted(&gone.0);
    }

    /// Settles the messages that were dropped from the topic.
    pub(super) fn skip_dropped(&mut self) {
        let (floor, first) = (self.leases.progress().floor(), self.subject.topic.first());
        if floor + 1 < first {
            let mut dropped = Ranges::default();
            dropped.add(floor + 1, first - 1);
            self.settle_unwanted(&dropped.0);
        }
    }

    /// Damaged messages cannot be delivered and must not hold up the others. They are passed over for as
    /// long as the server runs, but not settled on disk: should they be readable again, they are delivered
    /// after a restart, and until then they count as backlog.
    pub(super) fn skip_damaged(&mut self, first: Offset, last: Offset) {
        let (name, topic) = (&self.subject.name, &self.subject.topic.name);
        tracing::error!(
            subscription = %name, %topic, first, last,
            "passing over messages damaged on disk; seek the subscription past them to settle them"
        );
        self.note_damage(first, last);
        self.leases.settle(first, last);
        self.passed_over = Some(self.passed_over.map_or(first, |before| before.min(first)));
    }
}
