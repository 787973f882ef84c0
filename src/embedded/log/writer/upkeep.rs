//! What keeps the log from growing for ever: messages dropped, moved, and segments let go.

use std::io;
use std::sync::Arc;

use bytes::BufMut;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{Batch, Pending, Writer};
use crate::embedded::log::Place;
use crate::embedded::log::format::{self, RecordKind, SEGMENT_HEADER, Sweep, Trim};
use crate::embedded::log::index::Run;
use crate::embedded::log::relocated::{Moved, Relocated};
use crate::embedded::names::stored::StoredNames;
use crate::embedded::stored::{StoredSubscription, StoredTopic};
use crate::embedded::topic::TopicHandle;
use crate::engine::{Error, Result};

/// About how much of the state is told in one transaction, so that publishing never waits long for it.
const RESTATE_BYTES: usize = 256 << 10;

/// What the writer is asked to do to the log. The answer comes when it is durable.
pub(crate) enum Upkeep {
    /// Drop the oldest messages of topics.
    Trim {
        /// Which.
        trims: Vec<(Arc<TopicHandle>, Trim)>,
        /// Says that it is durable.
        reply: oneshot::Sender<Result<()>>,
    },
    /// Write what is left of a stretch of a topic again, at the end of the log.
    Relocate {
        /// The topic.
        topic: Arc<TopicHandle>,
        /// The stretch.
        moved: Moved,
        /// Says that it is durable.
        reply: oneshot::Sender<Result<()>>,
        /// The operation's place in the queue, given back when it is done.
        _place: Place,
    },
    /// Tell of some of the topics and subscriptions again.
    Restate {
        /// Those with a higher number than this.
        after: u64,
        /// Says how far it got.
        reply: oneshot::Sender<Result<Restated>>,
    },
    /// Note that segments go, now that everything was told again.
    Remove {
        /// The first frame in which something was.
        since: u64,
        /// The first sequence number of each segment, and of the one after.
        segments: Vec<(u64, u64)>,
        /// Says that it is durable.
        reply: oneshot::Sender<Result<()>>,
    },
    /// Begin the next segment, so that this one can be cleaned.
    Roll {
        /// Says that it was done.
        reply: oneshot::Sender<Result<()>>,
    },
}

/// How far the state was told again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restated {
    /// The frame in which it was.
    pub(crate) sequence: u64,
    /// The highest number in it; `None` if there was nothing more to tell.
    pub(crate) last: Option<u64>,
    /// How many bytes it took.
    pub(crate) bytes: u64,
}

impl Writer {
    pub(super) fn add_upkeep(&mut self, batch: &mut Batch, upkeep: Upkeep) -> io::Result<()> {
        match upkeep {
            Upkeep::Trim { trims, reply } => self.trim(batch, trims, reply),
            Upkeep::Relocate { topic, moved, reply, _place } => self.relocate(batch, topic, moved, reply),
            Upkeep::Restate { after, reply } => self.restate(batch, after, reply),
            Upkeep::Remove { since, segments, reply } => self.remove(batch, since, &segments, reply),
            Upkeep::Roll { reply } => {
                self.flush(std::mem::take(batch))?;
                if self.parts.end.position > SEGMENT_HEADER as u64 {
                    self.roll()?;
                }
                let _ = reply.send(Ok(()));
                Ok(())
            }
        }
    }

    fn trim(
        &mut self,
        batch: &mut Batch,
        trims: Vec<(Arc<TopicHandle>, Trim)>,
        reply: oneshot::Sender<Result<()>>,
    ) -> io::Result<()> {
        self.frame(batch, 32 * trims.len(), |payload| {
            for (_, trim) in &trims {
                format::write_record(payload, RecordKind::Trim, |body| trim.write(body));
            }
        })?;
        for (_, trim) in &trims {
            self.parts.state.trim(*trim);
        }
        batch.pending.push(Pending::Trim { trims, reply });
        Ok(())
    }

    fn relocate(
        &mut self,
        batch: &mut Batch,
        topic: Arc<TopicHandle>,
        mut moved: Moved,
        reply: oneshot::Sender<Result<()>>,
    ) -> io::Result<()> {
        let refused = if topic.is_deleted() {
            Err(Error::TopicNotFound(topic.name.clone()))
        } else {
            self.check_space_to_free_some()
        };
        if let Err(error) = refused {
            let _ = reply.send(Err(error));
            return Ok(());
        }
        if topic.record().compacted {
            self.leave_superseded(topic.id, &mut moved);
        }
        let (position, length) = self.frame(batch, Relocated::written_size(&moved), |payload| {
            format::write_record(payload, RecordKind::Relocated, |body| {
                Relocated::write(body, topic.id, &moved);
            });
        })?;
        self.parts.state.relocate(topic.id, moved.last, moved.dropped);
        let bytes = moved.kept.iter().map(|kept| kept.envelope.len()).sum::<usize>();
        let run = Run {
            first: moved.first,
            last: moved.last,
            time: moved.time,
            last_time: moved.last_time,
            position,
            length,
            bytes: u32::try_from(bytes).expect("a relocation is limited in bytes"),
            messages: u32::try_from(moved.kept.len()).expect("a relocation is limited in messages"),
        };
        batch.pending.push(Pending::Relocate { topic, run, dropped: moved.dropped, reply });
        Ok(())
    }

    /// What is moved takes some space, and gives more free: it may have half of the reserve.
    fn check_space_to_free_some(&self) -> Result<()> {
        let available = self.parts.fs.available().unwrap_or(u64::MAX);
        let reserve = self.parts.disk_reserve_bytes / 2;
        if available >= reserve { Ok(()) } else { Err(Error::DiskFull { available, reserve }) }
    }

    /// Leaves behind the messages whose key has a later one.
    fn leave_superseded(&self, topic: u64, moved: &mut Moved) {
        let Some(keys) = self.parts.state.names.keys(topic) else { return };
        let dropped = &mut moved.dropped;
        moved.kept.retain(|kept| {
            let is_last = kept.key.is_none_or(|key| keys.is_last(key, kept.offset));
            *dropped += if is_last { 0 } else { kept.envelope.len() as u64 };
            is_last
        });
    }

    fn restate(
        &mut self,
        batch: &mut Batch,
        after: u64,
        reply: oneshot::Sender<Result<Restated>>,
    ) -> io::Result<()> {
        let (records, size) = self.records_after(after);
        let sequence = self.parts.end.sequence;
        let Some(&(last, ..)) = records.last() else {
            let _ = reply.send(Ok(Restated { sequence, last: None, bytes: 0 }));
            return Ok(());
        };
        self.frame(batch, size, |payload| {
            for (_, kind, body) in &records {
                format::write_record(payload, *kind, |out| out.put_slice(body));
            }
        })?;
        let restated = Restated { sequence, last: Some(last), bytes: size as u64 };
        batch.pending.push(Pending::Restate { restated, reply });
        Ok(())
    }

    /// The state of the topics and subscriptions with the lowest numbers above `after`, in order, and
    /// about how many bytes that is.
    fn records_after(&self, after: u64) -> (Vec<(u64, RecordKind, Vec<u8>)>, usize) {
        let state = &self.parts.state;
        let mut topics = state.topics.range(after + 1..).peekable();
        let mut subscriptions = state.subscriptions.range(after + 1..).peekable();
        let (mut records, mut size) = (Vec::new(), 0);
        while size < RESTATE_BYTES {
            let next_topic = topics.peek().map_or(u64::MAX, |(id, _)| **id);
            let next_subscription = subscriptions.peek().map_or(u64::MAX, |(id, _)| **id);
            let mut add = |id, kind, body: Vec<u8>| {
                size += format::RECORD_HEADER + body.len();
                records.push((id, kind, body));
            };
            if next_topic < next_subscription {
                let Some((&id, topic)) = topics.next() else { break };
                add(id, RecordKind::TopicState, StoredTopic::from(topic).encode_to_vec());
                if let Some(names) = state.names.topic(id) {
                    add(id, RecordKind::Names, StoredNames::new(id, names).encode_to_vec());
                }
            } else {
                let Some((&id, subscription)) = subscriptions.next() else { break };
                let stored = StoredSubscription::from(subscription);
                add(id, RecordKind::SubscriptionState, stored.encode_to_vec());
            }
        }
        (records, size)
    }

    fn remove(
        &mut self,
        batch: &mut Batch,
        since: u64,
        segments: &[(u64, u64)],
        reply: oneshot::Sender<Result<()>>,
    ) -> io::Result<()> {
        let mut removed = self.parts.state.removed.clone();
        removed.add(segments);
        let sweep = Sweep { since, last_id: self.parts.state.last_id };
        // All of them: the records of earlier ones may be in these segments.
        let all = removed.segments();
        self.frame(batch, 32 + 16 * all.len(), |payload| {
            format::write_record(payload, RecordKind::Sweep, |body| sweep.write(body));
            format::write_record(payload, RecordKind::Removed, |body| format::write_removed(body, &all));
        })?;
        self.parts.state.removed = removed;
        let segments = segments.iter().map(|&(first, _)| first).collect();
        batch.pending.push(Pending::Remove { segments, reply });
        Ok(())
    }
}
