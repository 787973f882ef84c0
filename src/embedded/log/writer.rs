//! The one writer of the log: group commit, and fail-stop.
//!
//! A thread takes whatever has queued up, encodes it, writes it with one call, syncs once, and then
//! answers everybody. While one sync runs, the next batch gathers. After a write or sync that failed
//! nothing is acknowledged and nothing retried: what is on the disk is then unknown, and only a
//! restart finds out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use tokio::sync::{oneshot, watch};

use super::format::{self, FrameKind, LogId, RecordKind, SEGMENT_HEADER, Trim};
use super::fs::{File, Fs};
use super::housekeeper::Task;
use super::index::{Part, Run};
use super::plan::{Planned, plan};
use super::segments::{self, BALLAST, BALLAST_BYTES, Segments};
use super::sidecar::{SegmentIndex, Source};
use super::space::{FULL_REMINDER, FULL_RETRY, SPACE_CHECK, Space, SpaceNotice, Stall};
use super::tail::Tail;
use super::transaction::{Publication, Settle, Transaction};
use super::{Operation, Place};
use crate::embedded::checkpoint;
use crate::embedded::meters::Meters;
use crate::embedded::names::Marker;
use crate::embedded::progress::{Committed, Progress};
use crate::embedded::state::{Record, State};
use crate::embedded::topic::TopicHandle;
use crate::engine::{Announcer, Error};
use crate::model::{Advisory, Durability, Offset, Receipt, Timestamp};

mod upkeep;

pub(crate) use self::upkeep::{Restated, Upkeep};

/// A batch is written when it is this long, even if more is waiting.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// After so long without work, the log notes that everything before is durable.
const IDLE: Duration = Duration::from_millis(100);

/// What the writer is made of.
pub(crate) struct Parts {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) log: LogId,
    pub(crate) segment_bytes: u64,
    pub(crate) disk_reserve_bytes: u64,
    pub(crate) stall: Arc<Stall>,
    pub(crate) segments: Arc<Segments>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) keeper: SyncSender<Task>,
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) state: State,
    pub(crate) end: LogEnd,
    /// Topics with messages in the active segment.
    pub(crate) touched: BTreeMap<u64, Arc<TopicHandle>>,
    /// Tells those who watch.
    pub(crate) advisories: Announcer<Advisory>,
    /// Counts and measures.
    pub(crate) meters: Arc<Meters>,
}

/// Where the log ends.
pub(crate) struct LogEnd {
    /// The active segment.
    pub(crate) segment: u64,
    /// Its file.
    pub(crate) file: Arc<dyn File>,
    /// Where in it the next frame goes.
    pub(crate) position: u64,
    /// The next frame's sequence number.
    pub(crate) sequence: u64,
}

/// What the housekeeper has been asked for and need not be again.
#[derive(Default)]
struct Asked {
    spare: bool,
    /// When it was asked for last: it may not have had the space.
    ballast: Option<Instant>,
}

/// The writer.
pub(crate) struct Writer {
    parts: Parts,
    /// Every frame below it is durable.
    synced: u64,
    /// Whether the log says so.
    marked: bool,
    /// Whether topics or subscriptions changed since the last checkpoint.
    catalog_changed: bool,
    /// Nothing more will come.
    closing: bool,
    last_time: Timestamp,
    space: Space,
    space_notice: SpaceNotice,
    asked: Asked,
    /// About as much as the next batch may take.
    last_batch_bytes: usize,
}

/// An operation that is in the batch, and whom to answer.
enum Pending {
    Commit {
        appended: Vec<Appended>,
        receipts: Vec<Receipt>,
        durability: Durability,
        /// None left once it has the receipts.
        reply: Option<oneshot::Sender<Result<Vec<Receipt>, Error>>>,
        accepted: Instant,
        _place: Place,
    },
    Progress {
        floor: Offset,
        settled: u64,
        committed: Arc<Committed>,
        reply: oneshot::Sender<Result<Offset, Error>>,
    },
    Change {
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Trim {
        trims: Vec<(Arc<TopicHandle>, Trim)>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Relocate {
        topic: Arc<TopicHandle>,
        run: Run,
        dropped: u64,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Remove {
        segments: Vec<u64>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Restate {
        restated: Restated,
        reply: oneshot::Sender<Result<Restated, Error>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// What a frame appends to a topic.
struct Appended {
    topic: Arc<TopicHandle>,
    run: Run,
    bytes: u64,
}

#[derive(Default)]
struct Batch {
    bytes: BytesMut,
    pending: Vec<Pending>,
}

impl Batch {
    /// With room for so many bytes, so that they are not moved while they grow.
    fn with_capacity(bytes: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(bytes), pending: Vec::new() }
    }
}

enum Next {
    Continue,
    Stop,
}

impl Writer {
    pub(crate) fn new(parts: Parts) -> Self {
        let last_time = parts.state.topics.values().map(|topic| topic.last_time).max().unwrap_or_default();
        let synced = parts.end.sequence;
        Self {
            parts,
            synced,
            marked: true,
            catalog_changed: false,
            closing: false,
            last_time,
            space: Space::default(),
            space_notice: SpaceNotice::default(),
            asked: Asked::default(),
            last_batch_bytes: 0,
        }
    }

    /// Works until it is closed or everybody who could send is gone.
    pub(crate) fn run(mut self, queue: &Receiver<Operation>) {
        loop {
            let first = if self.marked {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(IDLE)
            };
            let done = match first {
                Ok(first) => self.commit(first, queue),
                Err(RecvTimeoutError::Timeout) => self.idle().map(|()| Next::Continue),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match done {
                Ok(Next::Continue) => {}
                Ok(Next::Stop) => return,
                Err(error) => return self.fail(&error, queue),
            }
        }
    }

    /// Writes one batch: `first` and whatever is waiting behind it.
    fn commit(&mut self, first: Operation, queue: &Receiver<Operation>) -> io::Result<Next> {
        let mut batch = Batch::with_capacity(self.last_batch_bytes);
        let mut next = Some(first);
        let mut stop = Next::Continue;
        while let Some(operation) = next.take() {
            if matches!(operation, Operation::Close { .. }) {
                self.closing = true;
                stop = Next::Stop;
            }
            self.add(&mut batch, operation)?;
            if batch.bytes.len() >= MAX_BATCH_BYTES || matches!(stop, Next::Stop) {
                break;
            }
            next = queue.try_recv().ok();
        }
        self.flush(batch)?;
        if matches!(stop, Next::Stop) {
            self.mark()?;
            self.fatal(self.parts.end.file.sync())?;
            self.checkpoint(self.parts.end.sequence);
        }
        Ok(stop)
    }

    /// Encodes an operation into the batch, or answers it at once when it cannot be done.
    fn add(&mut self, batch: &mut Batch, operation: Operation) -> io::Result<()> {
        match operation {
            Operation::Commit(transaction) => self.add_transaction(batch, transaction),
            Operation::Settle { settle, reply } => {
                self.frame(batch, settle.written_size(), |payload| settle.write(payload))?;
                // Only now: had the segment rolled, its checkpoint must not know of this yet.
                self.settle(batch, settle, reply);
                Ok(())
            }
            Operation::Hand { subscription, unwritten } => {
                let attempts = unwritten.take();
                self.parts.state.hand(subscription, &attempts);
                // Not worth the space that acks need: it is in the next checkpoint all the same.
                if self.check_space().is_err() {
                    return Ok(());
                }
                self.frame(batch, 8 + format::hand_size(&attempts), |payload| {
                    format::write_record(payload, RecordKind::Hand, |body| {
                        format::write_hand(body, subscription, &attempts);
                    });
                })?;
                Ok(())
            }
            Operation::Seek { seeks, reply } => {
                self.frame(batch, 32 * seeks.len(), |payload| {
                    for (seek, _) in &seeks {
                        format::write_record(payload, RecordKind::Seek, |body| seek.write(body));
                    }
                })?;
                let (mut reply, last) = (Some(reply), seeks.len().saturating_sub(1));
                for (index, (seek, committed)) in seeks.into_iter().enumerate() {
                    let reply = reply.take_if(|_| index == last).unwrap_or_else(|| oneshot::channel().0);
                    let progress = self.parts.state.seek(seek);
                    batch.pending.push(Pending::progress(progress, committed, reply));
                }
                Ok(())
            }
            Operation::Change { records, reply } => {
                let encoded: Vec<_> = records.iter().map(encode_change).collect();
                let size = encoded.iter().map(|(_, body)| format::RECORD_HEADER + body.len()).sum();
                self.frame(batch, size, |payload| {
                    for (kind, body) in &encoded {
                        format::write_record(payload, *kind, |out| out.put_slice(body));
                    }
                })?;
                for record in &records {
                    self.parts.state.apply(record, self.last_time, Marker::new(self.parts.log));
                }
                self.catalog_changed = true;
                batch.pending.push(Pending::Change { reply });
                Ok(())
            }
            Operation::Upkeep(upkeep) => self.add_upkeep(batch, upkeep),
            Operation::Close { reply } => {
                batch.pending.push(Pending::Close { reply });
                Ok(())
            }
        }
    }

    fn add_transaction(&mut self, batch: &mut Batch, mut transaction: Transaction) -> io::Result<()> {
        let now = self.last_time.max(Timestamp::now());
        let mut planned = plan(&self.parts.state, &mut transaction, now);
        if transaction.appends() {
            planned = planned.and_then(|planned| self.check_space().map(|()| planned));
        }
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                transaction.answer(Err(error));
                return Ok(());
            }
        };
        let mut place = (0, 0);
        if transaction.appends() || !transaction.settles.is_empty() {
            let (size, firsts) = (transaction.written_size(), planned.iter().map(|planned| planned.first));
            place = self.frame(batch, size, |payload| transaction.write(payload, firsts))?;
            self.space.spend(u64::from(place.1));
        }
        let Transaction { publishes, settles, durability, reply, accepted, place: held } = transaction;
        let (mut appended, mut receipts) = (Vec::with_capacity(publishes.len()), Vec::new());
        for (publication, planned) in publishes.into_iter().zip(planned) {
            publication.topic.meters.duplicates.add(planned.duplicates.len() as u64);
            receipts.push(receipt(&publication, planned));
            appended.extend(self.append(publication, receipts[receipts.len() - 1].first, place));
        }
        for settle in settles {
            // Nobody waits for the floor: the receipt tells that all of it is durable.
            self.settle(batch, settle, oneshot::channel().0);
        }
        batch.pending.push(Pending::Commit { appended, receipts, durability, reply, accepted, _place: held });
        Ok(())
    }

    /// Notes what a frame of the batch appends to a topic.
    fn append(&mut self, publication: Publication, first: Offset, place: (u32, u32)) -> Option<Appended> {
        let count = publication.envelopes.len() as u64;
        if count == 0 {
            return None;
        }
        let (id, bytes, last) = (publication.topic.id, publication.bytes() as u64, first + count - 1);
        let (time, (position, length)) = (self.last_time, place);
        self.parts.state.append(id, last, bytes, time);
        self.parts.state.names.remember(id, first, publication.marks.into_iter(), time);
        if let Some(keys) = self.parts.state.names.keys(id) {
            publication.topic.set_keys(keys);
        }
        let run = Run {
            first,
            last,
            time,
            last_time: time,
            position,
            length,
            bytes: u32::try_from(bytes).expect("a publish is limited in bytes"),
            messages: u32::try_from(count).expect("a publish is limited in messages"),
        };
        Some(Appended { topic: publication.topic, run, bytes })
    }

    /// Refuses what can be done without while there is little space.
    fn check_space(&mut self) -> Result<(), Error> {
        let (reserve, segment) = (self.parts.disk_reserve_bytes, self.parts.segment_bytes);
        let checked = self.space.check(&*self.parts.fs, reserve, segment);
        if let Some(notice) = self.space_notice.change(&checked) {
            self.parts.advisories.tell(|| Advisory::now(notice));
        }
        checked
    }

    /// Notes what is settled by a frame of the batch.
    fn settle(&mut self, batch: &mut Batch, settle: Settle, reply: oneshot::Sender<Result<Offset, Error>>) {
        let progress = self.parts.state.settle(settle.subscription, &settle.ranges);
        batch.pending.push(Pending::progress(progress, settle.committed, reply));
    }

    /// Appends a transaction to the batch; rolls the segment first if it would not fit. Returns its
    /// place in the active segment.
    fn frame(
        &mut self,
        batch: &mut Batch,
        payload_size: usize,
        fill: impl FnOnce(&mut BytesMut),
    ) -> io::Result<(u32, u32)> {
        let size = format::size(payload_size + 64) as u64;
        let end = self.parts.end.position + batch.bytes.len() as u64;
        if end + size > self.parts.segment_bytes && end > SEGMENT_HEADER as u64 {
            self.flush(std::mem::take(batch))?;
            self.roll()?;
        }
        self.last_time = self.last_time.max(Timestamp::now());
        let position = self.parts.end.position + batch.bytes.len() as u64;
        let header = (FrameKind::Transaction, self.parts.end.sequence, self.synced, self.last_time);
        let length = format::write_frame(&mut batch.bytes, self.parts.log, header, fill);
        self.parts.end.sequence += 1;
        Ok((in_segment(position), in_segment(length as u64)))
    }

    /// Writes the batch, syncs it if anybody waits for that, and answers everybody in it.
    fn flush(&mut self, batch: Batch) -> io::Result<()> {
        let Batch { bytes, mut pending } = batch;
        self.last_batch_bytes = bytes.len();
        if !bytes.is_empty() {
            let (file, at) = (Arc::clone(&self.parts.end.file), self.parts.end.position);
            let written = self.with_space(|_| file.write_at(&bytes, at));
            self.fatal(written)?;
            for done in &mut pending {
                done.answer_buffered();
            }
            if !pending.is_empty() {
                let begun = Instant::now();
                self.fatal(file.sync())?;
                self.measure(&pending, begun, bytes.len());
                self.synced = self.parts.end.sequence;
                self.marked = false;
            }
            self.parts.end.position += bytes.len() as u64;
            self.parts.segments.set_active_bytes(self.parts.end.position);
            self.parts.tail.push(self.parts.end.segment, in_segment(at), bytes.freeze());
        }
        self.answer(pending);
        self.ask_for_spare();
        Ok(())
    }

    /// Notes how long the batch took.
    fn measure(&self, pending: &[Pending], begun: Instant, bytes: usize) {
        let (meters, now) = (&self.parts.meters, Instant::now());
        meters.syncs.time(now - begun);
        meters.batch_bytes.value(bytes as u64);
        meters.batch_requests.value(pending.len() as u64);
        for done in pending {
            if let Pending::Commit { appended, accepted, .. } = done
                && !appended.is_empty()
            {
                meters.publishes.time(now.saturating_duration_since(*accepted));
            }
        }
    }

    /// Everything in the batch is durable: show it to readers, then tell those who sent it.
    fn answer(&mut self, pending: Vec<Pending>) {
        let mut shown = Shown { segment: self.parts.end.segment, current: None };
        for done in &pending {
            match done {
                Pending::Commit { appended, .. } => {
                    for Appended { topic, run, bytes } in appended {
                        shown.add(topic, *run, *bytes);
                        self.parts.touched.entry(topic.id).or_insert_with(|| Arc::clone(topic));
                    }
                }
                Pending::Relocate { topic, run, dropped, .. } => {
                    topic.put(Part::new(self.parts.end.segment, &[*run].into()), *dropped);
                    self.parts.touched.entry(topic.id).or_insert_with(|| Arc::clone(topic));
                }
                _ => {}
            }
        }
        shown.finish();
        for done in pending {
            if let Pending::Remove { segments, .. } = &done {
                let gone = Task::Removed { all: Arc::clone(&self.parts.segments), gone: segments.clone() };
                let _ = self.parts.keeper.send(gone);
            }
            done.answer();
        }
    }

    /// Seals the active segment and begins the next.
    fn roll(&mut self) -> io::Result<()> {
        let end = &mut self.parts.end;
        // What was made ahead of need and not used goes, so a sealed segment ends with its last frame.
        let cut = end.file.set_len(end.position).and_then(|()| end.file.sync());
        let source = Source { log: self.parts.log, segment: end.segment };
        let next = end.sequence;
        let log = self.parts.log;
        let created = cut.and_then(|()| self.with_space(|fs| segments::create(fs, log, next)));
        let file = self.fatal(created)?;
        let new_file = Arc::clone(&file);
        self.parts.end = LogEnd { segment: next, file, position: SEGMENT_HEADER as u64, sequence: next };
        self.asked.spare = false;

        let topics: Vec<_> = std::mem::take(&mut self.parts.touched).into_values().collect();
        let sealed_runs = |topic: &Arc<TopicHandle>| (topic.id, topic.index_mut().seal(source.segment));
        let index: SegmentIndex = topics.iter().map(sealed_runs).collect();
        // Only now: whoever finds a segment among the sealed ones finds what it holds of each topic, too.
        self.parts.segments.insert(next, new_file);
        self.parts.segments.set_active_bytes(SEGMENT_HEADER as u64);
        // Without an index, a segment is read at the next start, and its damage met again. The housekeeper
        // outlives the writer, and its work is optional.
        if !self.parts.segments.is_damaged(source.segment) {
            let _ = self.parts.keeper.send(Task::Sealed { source, index, topics });
        }
        self.checkpoint(next);
        Ok(())
    }

    /// Has the state stored as it is before a frame. Everything before it must be on the disk.
    fn checkpoint(&mut self, sequence: u64) {
        self.catalog_changed = false;
        let bytes = checkpoint::encode(self.parts.log, &self.parts.state, sequence);
        let _ = self.parts.keeper.send(Task::Checkpoint { sequence, bytes });
    }

    /// Nothing is going on: what the log says about itself is noted.
    fn idle(&mut self) -> io::Result<()> {
        self.mark()?;
        if self.catalog_changed {
            // The record of a topic or subscription is small, and everything about it depends on it: with
            // a checkpoint, there are two of it.
            self.fatal(self.parts.end.file.sync())?;
            self.synced = self.parts.end.sequence;
            self.checkpoint(self.synced);
        }
        Ok(())
    }

    /// Notes in the log that everything before is durable, so that damage to it is told from a torn
    /// write. The note itself may be lost.
    fn mark(&mut self) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        let header = (FrameKind::Mark, self.parts.end.sequence, self.synced, self.last_time);
        format::write_frame(&mut bytes, self.parts.log, header, |_| {});
        let (file, at) = (Arc::clone(&self.parts.end.file), self.parts.end.position);
        match file.write_at(&bytes, at) {
            // Not worth the space that acks need; what of it was written is written over.
            Err(error) if is_full(&error) => return Ok(()),
            written => self.fatal(written)?,
        }
        self.marked = true;
        self.parts.end.position += bytes.len() as u64;
        self.parts.end.sequence += 1;
        Ok(())
    }

    /// Writes to the disk, if need be into the space kept for when it is full. If others have taken that,
    /// too, waits until there is some again, or the engine closes. To write the same bytes to
    /// the same place again is no retry of something whose outcome is unknown: a sync would be.
    fn with_space<T>(&mut self, write: impl Fn(&dyn Fs) -> io::Result<T>) -> io::Result<T> {
        let fs = Arc::clone(&self.parts.fs);
        let mut reminded: Option<Instant> = None;
        let done = loop {
            let done = write(&*fs);
            if !matches!(&done, Err(error) if is_full(error)) {
                break done;
            }
            self.asked.ballast = None;
            self.space.look_again();
            if fs.remove(BALLAST).is_ok() {
                tracing::warn!("the disk is full; using the space kept for this");
                continue;
            }
            if self.parts.stall.is_closing() {
                break done;
            }
            self.parts.stall.set_full(true);
            if reminded.is_none_or(|at| at.elapsed() >= FULL_REMINDER) {
                reminded = Some(Instant::now());
                tracing::error!("no byte is left on the disk; nothing is written until there is, free some");
                // Publishing may have been refused, and this announced, before.
                let _ = self.check_space();
            }
            std::thread::park_timeout(FULL_RETRY);
        };
        if reminded.is_some() {
            self.parts.stall.set_full(false);
            if done.is_ok() {
                tracing::info!("there is space again; the log goes on");
            }
        }
        done
    }

    /// Publishes the failure of a write or sync before anybody can see its consequences.
    fn fatal<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.parts.failure.send_replace(Some(error.to_string()));
        }
        result
    }

    fn ask_for_spare(&mut self) {
        let (bytes, reserve) = (self.parts.segment_bytes, self.parts.disk_reserve_bytes);
        let asked = self.asked.ballast.is_some_and(|at| at.elapsed() < SPACE_CHECK);
        if self.space.is_ample() && !asked {
            let bytes = BALLAST_BYTES.min(reserve);
            self.asked.ballast = Some(Instant::now());
            let _ = self.parts.keeper.try_send(Task::Ballast { bytes });
        }
        if !self.asked.spare && self.parts.end.position > bytes / 4 {
            // A full queue only means that there is no spare this time.
            self.asked.spare = self.parts.keeper.try_send(Task::Spare { bytes, reserve }).is_ok();
        }
    }

    /// The end: everything waiting and everything still to come is refused.
    fn fail(self, error: &io::Error, queue: &Receiver<Operation>) {
        tracing::error!(%error, "the log failed; nothing is acknowledged from now on");
        if self.closing {
            return;
        }
        drop(self);
        // Dropping an operation drops its reply, and the sender learns of the failure.
        while let Ok(operation) = queue.recv() {
            if let Operation::Close { reply } = operation {
                let _ = reply.send(());
                return;
            }
        }
    }
}

/// Whether a write found no space: on the disk, or left to this user.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn in_segment(position: u64) -> u32 {
    u32::try_from(position).expect("segments are at most 1 GiB")
}

impl Pending {
    /// Something about a subscription that has settled so much now. One that was deleted in the
    /// meantime has no floor for anybody to ask for.
    fn progress(
        progress: Option<&Progress>,
        committed: Arc<Committed>,
        reply: oneshot::Sender<Result<Offset, Error>>,
    ) -> Self {
        let (floor, settled) = progress.map_or((0, 0), |now| (now.floor(), now.settled()));
        Self::Progress { floor, settled, committed, reply }
    }

    /// The batch was written but not synced: enough for some.
    fn answer_buffered(&mut self) {
        if let Self::Commit { receipts, durability: Durability::Buffered, reply, .. } = self
            && let Some(reply) = reply.take()
        {
            let buffered = |receipt| Receipt { durability: Durability::Buffered, ..receipt };
            let _ = reply.send(Ok(std::mem::take(receipts).into_iter().map(buffered).collect()));
        }
    }

    /// The batch is durable. Whoever does not wait for the answer any more does not need it.
    fn answer(self) {
        match self {
            Self::Commit { receipts, reply, .. } => {
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(receipts));
                }
            }
            Self::Progress { floor, settled, committed, reply } => {
                committed.set(floor, settled);
                let _ = reply.send(Ok(floor));
            }
            Self::Change { reply } | Self::Relocate { reply, .. } | Self::Remove { reply, .. } => {
                drop(reply.send(Ok(())));
            }
            Self::Trim { trims, reply } => {
                for (topic, trim) in trims {
                    topic.trim(trim.first, trim.bytes);
                }
                let _ = reply.send(Ok(()));
            }
            Self::Restate { restated, reply } => drop(reply.send(Ok(restated))),
            Self::Close { reply } => drop(reply.send(())),
        }
    }
}

/// Shows the messages of a batch to the readers of their topics, neighbours together.
struct Shown<'a> {
    segment: u64,
    current: Option<(&'a Arc<TopicHandle>, Run, u64)>,
}

impl<'a> Shown<'a> {
    fn add(&mut self, topic: &'a Arc<TopicHandle>, run: Run, bytes: u64) {
        if let Some((current, merged, sum)) = &mut self.current
            && Arc::ptr_eq(current, topic)
            && merged.merge(&run)
        {
            *sum += bytes;
            return;
        }
        self.show();
        self.current = Some((topic, run, bytes));
    }

    fn finish(mut self) {
        self.show();
    }

    fn show(&mut self) {
        if let Some((topic, run, bytes)) = self.current.take() {
            topic.index_mut().push(self.segment, run);
            topic.show(run.last, run.messages, bytes);
        }
    }
}

/// What a publication gets once it is durable.
fn receipt(publication: &Publication, planned: Planned) -> Receipt {
    let (first, count) = (planned.first, publication.envelopes.len() as u64);
    let (first, last) = if count == 0 { (0, 0) } else { (first, first + count - 1) };
    Receipt { first, last, duplicates: planned.duplicates, durability: Durability::Fsynced }
}

fn encode_change(record: &Record) -> (RecordKind, Bytes) {
    let id = |id: &u64| Bytes::copy_from_slice(&id.to_le_bytes());
    match record {
        Record::PutTopic(record) => (RecordKind::PutTopic, record.encode_to_vec().into()),
        Record::DeleteTopic(topic) => (RecordKind::DeleteTopic, id(topic)),
        Record::PutSubscription(record) => (RecordKind::PutSubscription, record.encode_to_vec().into()),
        Record::DeleteSubscription(subscription) => (RecordKind::DeleteSubscription, id(subscription)),
        _ => {
            unreachable!("these have operations of their own")
        }
    }
}
