//! What is to be written in one frame: messages for topics, and what is settled with them. All of it
//! happens or nothing does.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::Place;
use super::format::{self, Publish, RECORD_HEADER, RecordKind};
use crate::embedded::names::Mark;
use crate::embedded::progress::Committed;
use crate::embedded::topic::TopicHandle;
use crate::engine::{Error, Result, Terms};
use crate::model::{Durability, Offset, Receipt};

/// Publishes and settlements that belong together.
pub(crate) struct Transaction {
    /// What to append. What turns out to be a duplicate is taken out before it is written.
    pub(crate) publishes: Vec<Publication>,
    /// What to settle.
    pub(crate) settles: Vec<Settle>,
    /// When to answer.
    pub(crate) durability: Durability,
    /// Gets a receipt for each publication, in order; none left once it has.
    pub(crate) reply: Option<oneshot::Sender<Result<Vec<Receipt>>>>,
    /// When it was asked for.
    pub(crate) accepted: Instant,
    /// Its place in the queue, given back when it is done.
    pub(crate) place: Place,
}

/// Messages to append to one topic.
pub(crate) struct Publication {
    /// The topic.
    pub(crate) topic: Arc<TopicHandle>,
    /// The messages, at least one.
    pub(crate) envelopes: Vec<Bytes>,
    /// Their marks; empty if none has an id or a key.
    pub(crate) marks: Vec<Mark>,
    /// On which conditions.
    pub(crate) terms: Terms,
    /// Whether messages with a known id are left out. Not those that the server itself writes: another
    /// subscription's dead letter of the same message is not the same dead letter.
    pub(crate) deduplicate: bool,
    /// Its place in a commit, which errors name.
    pub(crate) operation: Option<usize>,
}

/// Messages of a subscription to settle.
pub(crate) struct Settle {
    /// The subscription's number.
    pub(crate) subscription: u64,
    /// First and last offsets.
    pub(crate) ranges: Vec<(Offset, Offset)>,
    /// Where what is durable is kept for others to see.
    pub(crate) committed: Arc<Committed>,
    /// Only if the subscription is still there and was moved so many times, and no more.
    pub(crate) only_in: Option<Epoch>,
}

/// When a settlement is void.
pub(crate) struct Epoch {
    /// How often the subscription had been moved.
    pub(crate) epoch: u32,
    /// The subscription's name, for the error.
    pub(crate) name: crate::model::Name,
    /// Its place in a commit, which errors name.
    pub(crate) operation: usize,
    /// The number of the subscription of which this is all or a part, which may go without the whole.
    pub(crate) whole: u64,
}

impl Transaction {
    /// Answers, if that was not done yet. Whoever does not wait any more does not need the answer.
    pub(crate) fn answer(mut self, result: Result<Vec<Receipt>>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }

    /// Whether there is anything to append.
    pub(crate) fn appends(&self) -> bool {
        self.publishes.iter().any(|publication| !publication.envelopes.is_empty())
    }

    /// How many bytes of payload [`write`](Self::write) appends.
    pub(crate) fn written_size(&self) -> usize {
        let publishes = self.publishes.iter().map(|publication| {
            RECORD_HEADER + Publish::written_size(publication.envelopes.len(), publication.bytes())
        });
        publishes.chain(self.settles.iter().map(Settle::written_size)).sum()
    }

    /// Appends its records to a payload; `firsts` are the offsets at which the publications begin.
    pub(crate) fn write(&self, payload: &mut BytesMut, firsts: impl Iterator<Item = Offset>) {
        for (publication, first) in self.publishes.iter().zip(firsts) {
            if publication.envelopes.is_empty() {
                continue;
            }
            format::write_record(payload, RecordKind::Publish, |body| {
                Publish::write(body, publication.topic.id, first, publication.envelopes.iter());
            });
        }
        for settle in &self.settles {
            settle.write(payload);
        }
    }
}

impl Publication {
    /// Bytes of all messages.
    pub(crate) fn bytes(&self) -> usize {
        self.envelopes.iter().map(Bytes::len).sum()
    }
}

impl Settle {
    /// How many bytes of payload [`write`](Self::write) appends.
    pub(crate) fn written_size(&self) -> usize {
        RECORD_HEADER + 8 + 16 * self.ranges.len()
    }

    /// Appends its record to a payload.
    pub(crate) fn write(&self, payload: &mut BytesMut) {
        format::write_record(payload, RecordKind::Settle, |body| {
            format::write_settle(body, self.subscription, &self.ranges);
        });
    }
}

/// An error of one operation of a commit, if it is one.
pub(crate) fn located(operation: Option<usize>, error: Error) -> Error {
    match operation {
        Some(index) => Error::InCommit { index, cause: Box::new(error) },
        None => error,
    }
}
