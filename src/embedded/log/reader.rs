//! Finds and reads messages: from the tail in memory if they are there, else from disk, off the
//! async threads and checked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use moka::sync::Cache;

use super::format::{ALIGNMENT, FRAME_HEADER, Frame, FrameKind, LogId, Publish, RecordKind, records, size};
use super::fs::{File, Fs, read};
use super::index::{Place, Run, take};
use super::scan::{Found, Scanner};
use super::segments::{self, Segments};
use super::sidecar::{self, SegmentIndex, Source};
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
    /// Runs by segment and topic.
    runs: Cache<(u64, u64), Arc<[Run]>>,
}

impl Reader {
    pub(crate) fn new(fs: Arc<dyn Fs>, log: LogId, segments: Arc<Segments>, tail: Arc<Tail>) -> Self {
        let weigh =
            |_: &_, runs: &Arc<[Run]>| u32::try_from(64 + size_of::<Run>() * runs.len()).unwrap_or(u32::MAX);
        let runs = Cache::builder().weigher(weigh).max_capacity(INDEX_CACHE_BYTES).build();
        Self { fs, log, segments, tail, runs }
    }

    /// The messages from `from` on, if they are all in memory; empty at the end of the topic.
    pub(crate) fn read_cached(
        &self,
        topic: &TopicHandle,
        from: Offset,
        limit: ReadLimit,
    ) -> Option<Result<Vec<StoredMessage>>> {
        // Before its place: what is visible has been indexed.
        let visible = topic.visible();
        match self.place(topic, from, limit) {
            Place::End => Some(end(topic, from, visible)),
            Place::Sealed(_) => None,
            Place::Runs(segment, runs) => {
                // What is in memory of them is enough, if it is anything.
                let cached = |run: &Run| self.tail.get(segment, run.position, run.length);
                let pieces: Vec<_> = runs.iter().map_while(cached).collect();
                (!pieces.is_empty()).then(|| Collector::new(topic, from, limit, None).collect(&runs, pieces))
            }
        }
    }

    /// The messages from `from` on; empty at the end of the topic.
    pub(crate) async fn read(
        self: &Arc<Self>,
        topic: &Arc<TopicHandle>,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<StoredMessage>> {
        if let Some(messages) = self.read_cached(topic, from, limit) {
            return messages;
        }
        let (reader, topic) = (Arc::clone(self), Arc::clone(topic));
        let name = topic.name.clone();
        let read = tokio::task::spawn_blocking(move || reader.read_disk(&topic, from, limit));
        let unreadable = |error: tokio::task::JoinError| Error::Unreadable {
            topic: name,
            offset: from,
            reason: error.to_string(),
        };
        read.await.unwrap_or_else(|error| Err(unreadable(error)))
    }

    /// The offset that `start` stands for in the topic as it is now.
    pub(crate) async fn resolve(self: &Arc<Self>, topic: &Arc<TopicHandle>, start: Start) -> Result<Offset> {
        match start {
            Start::Earliest => Ok(1),
            Start::Latest => Ok(topic.visible() + 1),
            Start::Offset(offset) => Ok(offset),
            Start::Time(time) => self.resolve_time(topic, time).await,
        }
    }

    async fn resolve_time(self: &Arc<Self>, topic: &Arc<TopicHandle>, time: Timestamp) -> Result<Offset> {
        let limit = ReadLimit { messages: 1_000, bytes: 1 << 20 };
        let mut from = topic.index().offset_near(time);
        loop {
            let messages = match self.read(topic, from, limit).await {
                Ok(messages) => messages,
                Err(Error::Damaged { last, .. }) => {
                    from = last + 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match messages.iter().find(|message| message.publish_time >= time) {
                Some(found) => return Ok(found.offset),
                None if messages.is_empty() => return Ok(from),
                None => from += messages.len() as u64,
            }
        }
    }

    fn place(&self, topic: &TopicHandle, from: Offset, limit: ReadLimit) -> Place {
        let place = topic.index().place(from, limit.messages, limit.bytes);
        match place {
            Place::Sealed(segment) => match self.runs.get(&(segment, topic.id)) {
                Some(runs) => Place::Runs(segment, take(&runs, from, limit.messages, limit.bytes)),
                None => place,
            },
            place => place,
        }
    }

    fn read_disk(&self, topic: &TopicHandle, from: Offset, limit: ReadLimit) -> Result<Vec<StoredMessage>> {
        let visible = topic.visible();
        let (segment, runs) = match self.place(topic, from, limit) {
            Place::End => return end(topic, from, visible),
            Place::Runs(segment, runs) => (segment, runs),
            Place::Sealed(segment) => {
                let unreadable = |error: io::Error| Error::Unreadable {
                    topic: topic.name.clone(),
                    offset: from,
                    reason: error.to_string(),
                };
                let runs = self.load_runs(segment, topic.id).map_err(unreadable)?;
                let taken = take(&runs, from, limit.messages, limit.bytes);
                self.runs.insert((segment, topic.id), runs);
                (segment, taken)
            }
        };
        let file = self.segments.get(&*self.fs, segment);
        let pieces = file.and_then(|file| read_runs(&*file, &runs, limit.bytes));
        let pieces = pieces.map_err(|error| match error.kind() {
            // The index knows more than there is: the segment was cut, or is gone.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => Error::Damaged {
                topic: topic.name.clone(),
                first: from,
                last: runs.last().map_or(from, |run| run.last),
            },
            _ => Error::Unreadable { topic: topic.name.clone(), offset: from, reason: error.to_string() },
        })?;
        Collector::new(topic, from, limit, Some(self.log)).collect(&runs, pieces)
    }

    /// The runs of a sealed segment: from its sidecar, or else from the segment itself. A segment that
    /// is gone has none; one that cannot be read now is an error, and may be sound.
    fn load_runs(&self, segment: u64, topic: u64) -> io::Result<Arc<[Run]>> {
        let stored = read(&*self.fs, &segments::sidecar_path(segment)).ok();
        let source = Source { log: self.log, segment };
        if let Some(runs) = stored.and_then(|bytes| sidecar::runs(&bytes, source, topic)) {
            return Ok(runs);
        }
        tracing::warn!(segment, "the index of a segment is missing or damaged; reading the segment instead");
        let file = match self.segments.get(&*self.fs, segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            file => file?,
        };
        let mut index = index_segment(file, self.log, segment, self.segments.after(segment))?;
        Ok(index.remove(&topic).unwrap_or_default())
    }
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
fn end(topic: &TopicHandle, from: Offset, visible: Offset) -> Result<Vec<StoredMessage>> {
    if from > visible {
        return Ok(Vec::new());
    }
    Err(Error::Damaged { topic: topic.name.clone(), first: from, last: visible })
}

/// Builds the index of a sealed segment from its frames.
pub(crate) fn index_segment(
    file: Arc<dyn File>,
    log: LogId,
    segment: u64,
    next_segment: Option<u64>,
) -> io::Result<SegmentIndex> {
    let mut scanner = Scanner::new(file, log, segment, next_segment)?;
    let mut index = std::collections::BTreeMap::<u64, Vec<Run>>::new();
    loop {
        match scanner.next().map_err(io::Error::other)? {
            Found::Frame { position, frame, bytes } => {
                for (topic, run) in runs_of_frame(position, frame, &bytes) {
                    index.entry(topic).or_default().push(run);
                }
            }
            Found::Damage { .. } => {}
            Found::End { .. } => break,
        }
    }
    Ok(index.into_iter().map(|(topic, runs)| (topic, runs.into())).collect())
}

/// What a frame holds of each topic.
pub(crate) fn runs_of_frame(position: u64, frame: Frame, bytes: &Bytes) -> Vec<(u64, Run)> {
    let Ok(position) = u32::try_from(position) else { return Vec::new() };
    let length = u32::try_from(frame.size()).expect("frames are limited");
    publishes(frame, bytes)
        .map(|publish| {
            let run = Run { first: publish.first, last: publish.last(), time: frame.time, position, length };
            (publish.topic, run)
        })
        .collect()
}

fn publishes(frame: Frame, bytes: &Bytes) -> impl Iterator<Item = Publish> {
    let payload = match frame.kind {
        FrameKind::Transaction => bytes.slice(FRAME_HEADER..FRAME_HEADER + frame.length as usize),
        FrameKind::Mark => Bytes::new(),
    };
    let records = records(payload).unwrap_or_default().into_iter();
    records
        .filter(|record| record.kind == RecordKind::Publish as u8)
        .filter_map(|record| Publish::read(record.body))
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
    fn collect(mut self, runs: &[Run], pieces: Vec<Bytes>) -> Result<Vec<StoredMessage>> {
        let stop = pieces.into_iter().find_map(|piece| self.collect_run(piece).err());
        if !self.messages.is_empty() {
            return Ok(self.messages);
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
            for publish in publishes(frame, &bytes) {
                if publish.topic == self.topic.id && publish.last() >= self.next {
                    self.collect_publish(&publish, frame.time)?;
                }
            }
        }
        Ok(())
    }

    fn collect_publish(&mut self, publish: &Publish, time: Timestamp) -> std::result::Result<(), Stop> {
        let already = usize::try_from(self.next.saturating_sub(publish.first)).unwrap_or(usize::MAX);
        for (offset, envelope) in publish.envelopes().skip(already) {
            if offset > self.next {
                return Err(Stop::Gap(offset));
            }
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
        }
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
