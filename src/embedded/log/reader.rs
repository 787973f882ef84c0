//! Finds and reads messages: from the tail in memory if they are there, else from disk, off the
//! async threads and checked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use moka::sync::Cache;

use super::format::{ALIGNMENT, FRAME_HEADER, Frame, FrameKind, LogId, Publish, RecordKind, records, size};
use super::fs::{File, Fs, read};
use super::index::{PartId, Place, Run, take};
use super::relocated::{Kept, Relocated};
use super::scan::{Found, Scanner};
use super::segments::{self, Segments};
use super::sidecar::{self, SegmentIndex, Source, index_of};
use super::tail::Tail;
use crate::embedded::topic::TopicHandle;
use crate::engine::{Error, ReadLimit, Result};
use crate::model::{Envelope, Offset, Start, StoredMessage, Timestamp};

/// Runs of one segment that lie closer than this are read from disk together.
const READ_GAP: u32 = 64 << 10;
/// Bytes of runs of sealed segments that are kept in memory.
const INDEX_CACHE_BYTES: u64 = 64 << 20;

/// Reads the log.
pub(crate) struct Reader {
    fs: Arc<dyn Fs>,
    log: LogId,
    segments: Arc<Segments>,
    tail: Arc<Tail>,
    /// Runs by topic and part.
    runs: Cache<(u64, PartId), Arc<[Run]>>,
}

/// What was read of a topic.
#[derive(Debug, Default)]
pub(crate) struct ReadBatch {
    /// The messages, in order. Those that are gone are left out.
    pub(crate) messages: Vec<StoredMessage>,
    /// Where to read on: there are no others before it.
    pub(crate) next: Offset,
}

impl Reader {
    pub(crate) fn new(fs: Arc<dyn Fs>, log: LogId, segments: Arc<Segments>, tail: Arc<Tail>) -> Self {
        let weigh =
            |_: &_, runs: &Arc<[Run]>| u32::try_from(64 + size_of::<Run>() * runs.len()).unwrap_or(u32::MAX);
        let runs = Cache::builder().weigher(weigh).max_capacity(INDEX_CACHE_BYTES).build();
        Self { fs, log, segments, tail, runs }
    }

    /// Where the log is.
    pub(crate) fn fs(&self) -> &dyn Fs {
        &*self.fs
    }

    /// The messages from `from` on, if they are all in memory; empty at the end of the topic.
    pub(crate) fn read_cached(
        &self,
        topic: &TopicHandle,
        from: Offset,
        limit: ReadLimit,
    ) -> Option<Result<ReadBatch>> {
        // Before its place: what is visible has been indexed.
        let visible = topic.visible();
        let mut next = from.max(topic.first());
        loop {
            if topic.is_deleted() {
                return Some(Err(Error::TopicDeleted(topic.name.clone())));
            }
            let (segment, runs) = match self.place(topic, next, limit) {
                Place::End if next < topic.first() => {
                    next = topic.first();
                    continue;
                }
                Place::End => return Some(end(topic, next, visible)),
                Place::Sealed(_) => return None,
                Place::Runs(segment, runs) => (segment, runs),
            };
            // What is in memory of them is enough, if it is anything.
            let cached = |run: &Run| self.tail.get(segment, run.position, run.length);
            let pieces: Vec<_> = runs.iter().map_while(cached).collect();
            if pieces.is_empty() {
                return None;
            }
            match Collector::new(topic, next, limit, None).collect(&runs, pieces) {
                // All of these messages are gone.
                Ok(batch) if batch.messages.is_empty() => next = batch.next,
                // What seems to be missing was dropped just now.
                Err(_) if topic.first() > next => next = topic.first(),
                collected => return Some(collected),
            }
        }
    }

    /// The messages from `from` on; empty at the end of the topic.
    pub(crate) async fn read(
        self: &Arc<Self>,
        topic: &Arc<TopicHandle>,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<ReadBatch> {
        if let Some(batch) = self.read_cached(topic, from, limit) {
            return batch;
        }
        let (reader, handle) = (Arc::clone(self), Arc::clone(topic));
        let read = tokio::task::spawn_blocking(move || reader.read_disk(&handle, from, limit));
        read.await.unwrap_or_else(|error| Err(unreadable(topic, from, &error)))
    }

    /// The segments that it reads.
    pub(crate) fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// The length of a segment in bytes.
    pub(crate) fn segment_len(&self, segment: u64) -> io::Result<u64> {
        self.segments.get(&*self.fs, segment)?.len()
    }

    /// Bytes that can still be written to the disk.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        self.fs.available()
    }

    /// The offset that `start` stands for in the topic as it is now.
    pub(crate) async fn resolve(self: &Arc<Self>, topic: &Arc<TopicHandle>, start: Start) -> Result<Offset> {
        match start {
            Start::Earliest => Ok(topic.first()),
            Start::Latest => Ok(topic.visible() + 1),
            Start::Offset(offset) => Ok(offset.max(topic.first())),
            Start::Time(time) => self.resolve_time(topic, time).await,
        }
    }

    async fn resolve_time(self: &Arc<Self>, topic: &Arc<TopicHandle>, time: Timestamp) -> Result<Offset> {
        let limit = ReadLimit { messages: 1_000, bytes: 1 << 20 };
        let mut from = topic.index().offset_near(time);
        loop {
            let ReadBatch { messages, next } = match self.read(topic, from, limit).await {
                Ok(batch) => batch,
                Err(Error::Damaged { last, .. }) => {
                    from = last + 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match messages.iter().find(|message| message.publish_time >= time) {
                Some(found) => return Ok(found.offset),
                None if messages.is_empty() => return Ok(next),
                None => from = next,
            }
        }
    }

    fn place(&self, topic: &TopicHandle, from: Offset, limit: ReadLimit) -> Place {
        let place = topic.index().place(from, limit.messages, limit.bytes);
        match place {
            Place::Sealed(part) => match self.runs.get(&(topic.id, part)) {
                Some(runs) => Place::Runs(part.segment, take(&runs, from, limit.messages, limit.bytes)),
                None => place,
            },
            place => place,
        }
    }

    fn read_disk(&self, topic: &TopicHandle, from: Offset, limit: ReadLimit) -> Result<ReadBatch> {
        let visible = topic.visible();
        let mut next = from.max(topic.first());
        let mut removed = None;
        loop {
            if topic.is_deleted() {
                return Err(Error::TopicDeleted(topic.name.clone()));
            }
            let place = match self.place(topic, next, limit) {
                Place::Sealed(part) => {
                    let runs =
                        self.part_runs(topic, part).map_err(|error| unreadable(topic, next, &error))?;
                    Place::Runs(part.segment, take(&runs, next, limit.messages, limit.bytes))
                }
                place => place,
            };
            let Place::Runs(segment, runs) = &place else {
                if next < topic.first() {
                    next = topic.first();
                    continue;
                }
                return end(topic, next, visible);
            };
            let file = self.segments.get(&*self.fs, *segment);
            let pieces = match file.and_then(|file| read_runs(&*file, runs, limit.bytes)) {
                Ok(pieces) => pieces,
                Err(error) => match error.kind() {
                    // The messages were moved, or dropped, while they were being read: once.
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
                        if self.segments.is_removed(*segment) && removed != Some(*segment) =>
                    {
                        removed = Some(*segment);
                        next = next.max(topic.first());
                        continue;
                    }
                    // The index knows more than there is: the segment was cut, or is gone.
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
                        let last = runs.last().map_or(next, |run| run.last);
                        return Err(Error::Damaged { topic: topic.name.clone(), first: next, last });
                    }
                    _ => return Err(unreadable(topic, next, &error)),
                },
            };
            match Collector::new(topic, next, limit, Some(self.log)).collect(runs, pieces) {
                Ok(batch) if batch.messages.is_empty() => next = batch.next,
                Err(_) if topic.first() > next => next = topic.first(),
                collected => return collected,
            }
        }
    }

    /// The runs of a part of a topic.
    pub(crate) fn part_runs(&self, topic: &TopicHandle, part: PartId) -> io::Result<Arc<[Run]>> {
        if let Some(runs) = self.runs.get(&(topic.id, part)) {
            return Ok(runs);
        }
        let runs = self.load_runs(topic.id, part)?;
        self.runs.insert((topic.id, part), Arc::clone(&runs));
        Ok(runs)
    }

    /// The runs of a part: from the sidecar of its segment, or else from the segment itself. A segment that
    /// is gone has none; one that cannot be read now is an error, and may be sound.
    fn load_runs(&self, topic: u64, part: PartId) -> io::Result<Arc<[Run]>> {
        let PartId { segment, first } = part;
        let stored = read(&*self.fs, &segments::sidecar_path(segment)).ok();
        let source = Source { log: self.log, segment };
        if let Some(runs) = stored.and_then(|bytes| sidecar::runs(&bytes, source, topic, first)) {
            return Ok(runs);
        }
        let file = match self.segments.get(&*self.fs, segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            file => file?,
        };
        tracing::warn!(segment, "the index of a segment is missing or damaged; reading the segment instead");
        let index = index_segment(file, self.log, segment, self.segments.after(segment))?.0;
        let holds = |runs: &&Arc<[Run]>| runs.iter().any(|run| (run.first..=run.last).contains(&first));
        Ok(index.get(&topic).into_iter().flatten().find(holds).cloned().unwrap_or_default())
    }
}

fn unreadable(topic: &TopicHandle, offset: Offset, error: &dyn std::fmt::Display) -> Error {
    Error::Unreadable { topic: topic.name.clone(), offset, reason: error.to_string() }
}

/// The bytes of the runs.
fn read_runs(file: &dyn File, runs: &[Run], bytes: usize) -> io::Result<Vec<Bytes>> {
    let mut pieces = Vec::with_capacity(runs.len());
    while let Some(first) = runs.get(pieces.len()) {
        // Neighbours come with one read.
        let mut end = first.position + first.length;
        let mut together = 1;
        for run in &runs[pieces.len() + 1..] {
            let long = (end - first.position) as usize >= bytes;
            if long || run.position < end || run.position - end > READ_GAP {
                break;
            }
            end = run.position + run.length;
            together += 1;
        }
        let mut chunk = vec![0; (end - first.position) as usize];
        file.read_at(&mut chunk, u64::from(first.position))?;
        let chunk = Bytes::from(chunk);
        for run in &runs[pieces.len()..pieces.len() + together] {
            let start = (run.position - first.position) as usize;
            pieces.push(chunk.slice(start..start + run.length as usize));
        }
    }
    Ok(pieces)
}

/// There are no messages from `from` on: the end of the topic, or damage at its end.
fn end(topic: &TopicHandle, from: Offset, visible: Offset) -> Result<ReadBatch> {
    if from > visible {
        return Ok(ReadBatch { messages: Vec::new(), next: from });
    }
    Err(Error::Damaged { topic: topic.name.clone(), first: from, last: visible })
}

/// Where frames are missing: the position, and the first and last sequence number.
pub(crate) type Hole = (u64, u64, u64);

/// Builds the index of a sealed segment from its frames. Tells, too, where some are missing.
pub(crate) fn index_segment(
    file: Arc<dyn File>,
    log: LogId,
    segment: u64,
    next_segment: Option<u64>,
) -> io::Result<(SegmentIndex, Vec<Hole>)> {
    let mut scanner = Scanner::new(file, log, segment, next_segment)?;
    let mut written = std::collections::BTreeMap::<u64, Vec<Run>>::new();
    let mut holes = Vec::new();
    loop {
        match scanner.next().map_err(io::Error::other)? {
            Found::Frame { position, frame, bytes } => {
                for (topic, run) in runs_of_frame(position, frame, &bytes) {
                    written.entry(topic).or_default().push(run);
                }
            }
            Found::Damage { position, first, last } => holes.push((position, first, last)),
            Found::End { .. } => return Ok((index_of(written), holes)),
        }
    }
}

/// What a frame holds of each topic.
pub(crate) fn runs_of_frame(position: u64, frame: Frame, bytes: &Bytes) -> Vec<(u64, Run)> {
    let Ok(position) = u32::try_from(position) else { return Vec::new() };
    let length = u32::try_from(frame.size()).expect("frames are limited");
    let run = |held: Held| {
        let (first, last) = held.range();
        let time = held.time(frame.time);
        let bytes = u32::try_from(held.bytes()).unwrap_or(u32::MAX);
        (
            held.topic(),
            Run {
                first,
                last,
                time,
                last_time: held.last_time(frame.time),
                position,
                length,
                bytes,
                messages: held.messages(),
            },
        )
    };
    held(frame, bytes).map(run).collect()
}

/// What one record holds of a topic.
enum Held {
    Published(Publish),
    Relocated(Relocated),
}

impl Held {
    fn topic(&self) -> u64 {
        match self {
            Self::Published(publish) => publish.topic,
            Self::Relocated(relocated) => relocated.topic,
        }
    }

    /// The first and last offsets of which it tells.
    fn range(&self) -> (Offset, Offset) {
        match self {
            Self::Published(publish) => (publish.first, publish.last()),
            Self::Relocated(relocated) => (relocated.first, relocated.last),
        }
    }

    fn messages(&self) -> u32 {
        match self {
            Self::Published(publish) => publish.count,
            Self::Relocated(relocated) => relocated.count,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Published(publish) => publish.bytes(),
            Self::Relocated(relocated) => relocated.bytes(),
        }
    }

    /// When the last of them was published.
    fn last_time(&self, written: Timestamp) -> Timestamp {
        match self {
            Self::Published(_) => written,
            Self::Relocated(relocated) => relocated.last_time,
        }
    }

    /// When the first of them was published.
    fn time(&self, written: Timestamp) -> Timestamp {
        match self {
            Self::Published(_) => written,
            Self::Relocated(relocated) => relocated.time,
        }
    }
}

fn held(frame: Frame, bytes: &Bytes) -> impl Iterator<Item = Held> {
    const PUBLISH: u8 = RecordKind::Publish as u8;
    const RELOCATED: u8 = RecordKind::Relocated as u8;
    let payload = match frame.kind {
        FrameKind::Transaction => bytes.slice(FRAME_HEADER..FRAME_HEADER + frame.length as usize),
        FrameKind::Mark => Bytes::new(),
    };
    records(payload).unwrap_or_default().into_iter().filter_map(|record| match record.kind {
        PUBLISH => Publish::read(record.body).map(Held::Published),
        RELOCATED => Relocated::read(record.body).map(Held::Relocated),
        _ => None,
    })
}

/// Picks one topic's messages out of runs.
struct Collector<'a> {
    topic: &'a TopicHandle,
    next: Offset,
    limit: ReadLimit,
    /// Frames from disk are checked; those from memory were never away.
    check: Option<LogId>,
    bytes: usize,
    messages: Vec<StoredMessage>,
}

/// Why a collector stops within a run.
enum Stop {
    /// It has as much as was asked for.
    Full,
    /// The next message that it found is this one, not the one that should be there.
    Gap(Offset),
}

impl<'a> Collector<'a> {
    fn new(topic: &'a TopicHandle, from: Offset, limit: ReadLimit, check: Option<LogId>) -> Self {
        Self { topic, next: from, limit, check, bytes: 0, messages: Vec::new() }
    }

    /// The messages in `pieces`, the bytes of the first of `runs`, up to the limit or to damage. If
    /// there is nothing before the damage, it is the result.
    fn collect(mut self, runs: &[Run], pieces: Vec<Bytes>) -> Result<ReadBatch> {
        let from = self.next;
        let stop = pieces.into_iter().find_map(|piece| self.collect_run(piece).err());
        if self.next > from {
            return Ok(ReadBatch { messages: self.messages, next: self.next });
        }
        let last = match stop {
            Some(Stop::Gap(found)) => found - 1,
            _ => runs.last().map_or(self.next, |run| run.last),
        };
        Err(Error::Damaged { topic: self.topic.name.clone(), first: self.next, last })
    }

    fn collect_run(&mut self, mut run: Bytes) -> std::result::Result<(), Stop> {
        while run.len() >= FRAME_HEADER {
            let Some((frame, bytes)) = self.frame(&run) else {
                // Damage; frames begin at aligned places, so go on at the next.
                let _ = run.split_to(ALIGNMENT);
                continue;
            };
            let _ = run.split_to(bytes.len());
            for held in held(frame, &bytes) {
                let (first, last) = held.range();
                if held.topic() != self.topic.id || last < self.next {
                    continue;
                }
                if first > self.next {
                    return Err(Stop::Gap(first));
                }
                match held {
                    Held::Published(publish) => self.take_published(&publish, frame.time)?,
                    Held::Relocated(relocated) => self.take_relocated(&relocated)?,
                }
            }
        }
        Ok(())
    }

    fn take_published(&mut self, publish: &Publish, time: Timestamp) -> std::result::Result<(), Stop> {
        let already = usize::try_from(self.next - publish.first).unwrap_or(usize::MAX);
        for (offset, envelope) in publish.envelopes().skip(already) {
            self.take(offset, time, envelope)?;
        }
        Ok(())
    }

    fn take_relocated(&mut self, relocated: &Relocated) -> std::result::Result<(), Stop> {
        for Kept { offset, time, envelope, .. } in relocated.messages() {
            if offset >= self.next {
                self.take(offset, time, envelope)?;
            }
        }
        self.next = relocated.last + 1;
        Ok(())
    }

    fn take(&mut self, offset: Offset, time: Timestamp, envelope: Bytes) -> std::result::Result<(), Stop> {
        let more = self.bytes + envelope.len();
        let taken = self.messages.len();
        if taken >= self.limit.messages || (taken > 0 && more > self.limit.bytes) {
            return Err(Stop::Full);
        }
        self.bytes = more;
        self.next = offset + 1;
        self.messages.push(StoredMessage {
            topic: self.topic.name.clone(),
            offset,
            publish_time: time,
            envelope: Envelope(envelope),
        });
        Ok(())
    }

    /// The sound frame at the start of a run's bytes, if there is one.
    fn frame(&self, run: &Bytes) -> Option<(Frame, Bytes)> {
        let length = Frame::peek(run)? as usize;
        let bytes = (size(length) <= run.len()).then(|| run.slice(..size(length)))?;
        let frame = match self.check {
            Some(log) => Frame::read(&bytes, log),
            None => Frame::read_trusted(&bytes),
        };
        Some((frame.ok()?, bytes))
    }
}
