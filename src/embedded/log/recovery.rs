//! Opens a log: the newest checkpoint, then everything after it; a torn end is cut, damage is
//! reported and kept.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{FRAME_HEADER, Frame, FrameKind, LogId, SEGMENT_HEADER, read_segment_header, records};
use super::fs::{File, Fs, read, write_atomically};
use super::index::{Part, Run};
use super::reader::{index_segment, runs_of_frame};
use super::scan::{Found, ScanError, Scanner};
use super::segments::{self, Segments};
use super::sidecar::{self, SegmentIndex, Source, index_of};
use super::writer::LogEnd;
use crate::embedded::checkpoint;
use crate::embedded::names::Marker;
use crate::embedded::state::{Record, State, UnknownRecord};

/// The sequence number of a log's first frame.
const FIRST_SEQUENCE: u64 = 1;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("segment {segment} has {what}, which this version does not know; use the version that wrote it")]
    Unknown { segment: u64, what: String },
    #[error("segment {segment} belongs to another log; put back the files that belong here")]
    Foreign { segment: u64 },
}

/// What was found.
pub(crate) struct Recovered {
    /// The state at the end of the log.
    pub(crate) state: State,
    /// Where the log ends.
    pub(crate) end: LogEnd,
    /// All segments.
    pub(crate) segments: Segments,
    /// What sealed segments hold, by topic, in the order of segments.
    pub(crate) sealed: Vec<(u64, Part)>,
    /// What the active segment holds.
    pub(crate) active: SegmentIndex,
    /// How many damaged ranges were met. Only what was read is counted: the log from the checkpoint on.
    pub(crate) damaged: usize,
}

/// Where frames are missing.
struct Hole {
    /// The segment, and the position in it, if it begins there.
    place: Option<(u64, u64)>,
    /// The first and last missing sequence numbers.
    first: u64,
    last: u64,
}

/// Opens the log, or begins one.
pub(crate) fn recover(fs: &dyn Fs, log: LogId) -> Result<Recovered, RecoveryError> {
    remove_leftovers(fs)?;
    let mut names = segments::list(fs)?;
    let segments = Segments::default();
    let mut unfinished = None;
    for &segment in &names {
        let file = fs.open(&segments::path(segment))?;
        if !check_header(&*file, log, segment)? {
            // A segment that was being made when the machine stopped holds nothing yet; any other
            // has lost only its header, which repeats what its name says.
            if names.last() == Some(&segment) && !has_frames(&file, log, segment)? {
                unfinished = Some((segment, has_data_after(&*file, 0)?));
                continue;
            }
            tracing::error!(segment, "the header of a segment is damaged; its frames are read all the same");
        }
        segments.insert(segment, file);
    }
    if let Some((segment, has_data)) = unfinished {
        let path = segments::path(segment);
        if has_data {
            // Nothing in it can be read, but it is not for a program to throw it away.
            tracing::error!(
                segment,
                "the last segment holds no readable frame; keeping it as {path}.damaged"
            );
            fs.rename(&path, &format!("{path}.damaged"))?;
        } else {
            fs.remove(&path)?;
        }
        names.pop();
    }

    let Start { state, segment: start, sequence: from } = newest_checkpoint(fs, log, &names)?;
    let (active, unproven) = (BTreeMap::new(), VecDeque::new());
    let (stated, holes) = (state.ids().map(|id| (id, from)).collect(), Vec::new());
    let mut replay = Replay { fs, log, segments: &segments, state, from, stated, active, unproven, holes };
    let first = names.first().copied().unwrap_or(replay.from);
    replay.miss(FIRST_SEQUENCE, first);
    let mut sealed = Vec::new();
    for (at, &segment) in names.iter().enumerate() {
        let next = names.get(at + 1).copied();
        if segment < start {
            sealed.extend(replay.sealed(segment, next)?);
        } else if let Some(next) = next {
            replay.replay(segment, Some(next))?;
            sealed.extend(replay.seal(segment));
        }
    }
    let end = match names.last() {
        Some(&segment) => replay.last(segment)?,
        None => begin(fs, log, &segments, from)?,
    };
    // A process that was killed may have left names and bytes in the page cache only. From here on they
    // are built upon, so they must be on the disk first.
    fs.sync_dir(segments::DIR)?;
    let damaged = replay.report_holes();
    let Replay { state, active, .. } = replay;
    // A segment that was to go may be there still, or again after a power cut.
    let gone: Vec<u64> =
        names.iter().copied().filter(|&segment| state.removed.covers(segment, segment)).collect();
    segments.remove(fs, &gone)?;
    sealed.retain(|(_, part)| !gone.contains(&part.segment));
    Ok(Recovered { state, end, segments, sealed, active: index_of(active), damaged })
}

/// Removes what was being made when the process stopped.
fn remove_leftovers(fs: &dyn Fs) -> io::Result<()> {
    for dir in [segments::DIR, checkpoint::DIR] {
        for name in fs.list(dir)?.iter().filter(|name| name.ends_with(".tmp")) {
            fs.remove(&format!("{dir}/{name}"))?;
        }
    }
    keep_ballast(fs)?;
    match fs.remove(segments::SPARE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Keeps as much of the spare as the ballast takes, if there is none: others may fill the disk before there
/// is room for another.
fn keep_ballast(fs: &dyn Fs) -> io::Result<()> {
    if fs.exists(segments::BALLAST)? || !fs.exists(segments::SPARE)? {
        return Ok(());
    }
    let spare = fs.open(segments::SPARE)?;
    if spare.len()? >= segments::BALLAST_BYTES {
        spare.set_len(segments::BALLAST_BYTES)?;
        fs.rename(segments::SPARE, segments::BALLAST)?;
    }
    Ok(())
}

/// Whether a segment's header is sound.
fn check_header(file: &dyn File, log: LogId, segment: u64) -> Result<bool, RecoveryError> {
    let mut header = [0; SEGMENT_HEADER];
    match file.read_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    match read_segment_header(&header) {
        Ok(Some((id, _))) if id != log => Err(RecoveryError::Foreign { segment }),
        Ok(Some((_, first))) => Ok(first == segment),
        Ok(None) => Ok(false),
        Err(version) => Err(RecoveryError::Unknown { segment, what: format!("format version {version}") }),
    }
}

fn has_frames(file: &Arc<dyn File>, log: LogId, segment: u64) -> Result<bool, RecoveryError> {
    let mut scanner = Scanner::new(Arc::clone(file), log, segment, None)?;
    let found = scanner.next().map_err(|error| unreadable(segment, error))?;
    Ok(!matches!(found, Found::End { .. }))
}

/// Where replaying begins.
struct Start {
    /// The state before `sequence`.
    state: State,
    /// The segment that `sequence` is in.
    segment: u64,
    /// The first frame to be applied.
    sequence: u64,
}

/// The newest sound checkpoint, and the segment to replay from; the empty state at the first segment if
/// there is none.
fn newest_checkpoint(fs: &dyn Fs, log: LogId, names: &[u64]) -> io::Result<Start> {
    let mut checkpoints = checkpoint::list(fs)?;
    checkpoints.sort_unstable();
    for &sequence in checkpoints.iter().rev() {
        // Without any segment, the log goes on where the checkpoint is.
        let all_lost = names.is_empty().then_some(&sequence);
        let Some(&segment) = names.iter().rev().find(|&&segment| segment <= sequence).or(all_lost) else {
            tracing::warn!(sequence, "a checkpoint is of a segment that is not there; not using it");
            continue;
        };
        if let Some(state) = checkpoint::load(fs, log, sequence) {
            return Ok(Start { state, segment, sequence });
        }
        tracing::warn!(sequence, "a checkpoint is damaged; using the one before");
    }
    let first = names.first().copied().unwrap_or(FIRST_SEQUENCE);
    Ok(Start { state: State::default(), segment: first, sequence: first })
}

fn begin(fs: &dyn Fs, log: LogId, segments: &Segments, first: u64) -> io::Result<LogEnd> {
    let file = segments::create(fs, log, first)?;
    segments.insert(first, Arc::clone(&file));
    Ok(LogEnd { segment: first, file, position: SEGMENT_HEADER as u64, sequence: first })
}

fn unreadable(segment: u64, error: ScanError) -> RecoveryError {
    match error {
        ScanError::Io(error) => error.into(),
        ScanError::UnknownVersion(version) => {
            RecoveryError::Unknown { segment, what: format!("frames of version {version}") }
        }
    }
}

struct Replay<'a> {
    fs: &'a dyn Fs,
    log: LogId,
    segments: &'a Segments,
    state: State,
    /// Frames before it are in the state already.
    from: u64,
    /// The index of the segment being replayed.
    active: BTreeMap<u64, Vec<Run>>,
    /// The last frames of the segment being replayed, of which no later one says that they are durable:
    /// sequence number and position.
    unproven: VecDeque<(u64, u64)>,
    /// The last frame that told all about a topic or subscription, by number.
    stated: BTreeMap<u64, u64>,
    /// What is missing, unless it turns out to have been removed.
    holes: Vec<Hole>,
}

impl Replay<'_> {
    /// What a segment before the checkpoint holds: from its sidecar, or from itself.
    fn sealed(&mut self, segment: u64, next: Option<u64>) -> Result<Vec<(u64, Part)>, RecoveryError> {
        let stored = read(self.fs, &segments::sidecar_path(segment)).ok();
        let source = Source { log: self.log, segment };
        if let Some(parts) = stored.and_then(|bytes| sidecar::parts(&bytes, source)) {
            return Ok(parts);
        }
        tracing::warn!(segment, "the index of a segment is missing or damaged; making it anew");
        let (index, holes) = index_segment(self.file(segment)?, self.log, segment, next)?;
        let hole = |(position, first, last)| Hole { place: Some((segment, position)), first, last };
        self.holes.extend(holes.into_iter().map(hole));
        Ok(self.store_sidecar(segment, &index))
    }

    /// Ends the replay of a sealed segment.
    fn seal(&mut self, segment: u64) -> Vec<(u64, Part)> {
        let index = index_of(std::mem::take(&mut self.active));
        self.store_sidecar(segment, &index)
    }

    fn store_sidecar(&self, segment: u64, index: &SegmentIndex) -> Vec<(u64, Part)> {
        let (name, source) = (segments::sidecar_name(segment), Source { log: self.log, segment });
        // A segment with holes is read at each start, so that they are not forgotten.
        let has_holes = self.holes.iter().any(|hole| hole.place.is_some_and(|(at, _)| at == segment));
        let stored = if has_holes {
            Err(io::Error::other("some of it is missing"))
        } else {
            write_atomically(self.fs, segments::DIR, &name, &sidecar::encode(source, index))
        };
        if let Err(error) = &stored {
            // A full disk must not keep the log from being opened; the runs stay in memory.
            tracing::warn!(%error, segment, "did not store the index of a segment");
        }
        let part = |topic: u64, runs: &Arc<[Run]>| {
            let mut part = Part::new(segment, runs);
            if stored.is_ok() {
                part.runs = None;
            }
            (topic, part)
        };
        let part = &part;
        index.iter().flat_map(|(&topic, all)| all.iter().map(move |runs| part(topic, runs))).collect()
    }

    /// Replays the last segment, and cuts what was never acknowledged.
    fn last(&mut self, segment: u64) -> Result<LogEnd, RecoveryError> {
        let (position, sequence) = self.replay(segment, None)?;
        let file = self.file(segment)?;
        if has_data_after(&*file, position)? {
            tracing::warn!(segment, position, "cutting a torn write, which was never acknowledged");
            file.set_len(position)?;
        }
        self.write_again(&*file, position)?;
        file.sync()?;
        // A checkpoint may know of frames that are not there any more: their numbers were given out.
        self.miss(sequence, self.from);
        let sequence = sequence.max(self.from);
        Ok(LogEnd { segment, file, position, sequence })
    }

    /// Frames that were durable once are nowhere to be found.
    fn miss(&mut self, first: u64, next: u64) {
        if first < next {
            self.holes.push(Hole { place: None, first, last: next - 1 });
        }
    }

    /// Reports what is missing although nobody removed it. Returns how many ranges that are.
    fn report_holes(&self) -> usize {
        let lost = |hole: &&Hole| !self.state.removed.covers(hole.first, hole.last);
        let lost = self.holes.iter().filter(lost);
        lost.inspect(|Hole { place, first, last }| {
            let (segment, position) = place.unzip();
            if let Some(segment) = segment {
                self.segments.note_damage(segment);
            }
            tracing::error!(
                segment,
                position,
                first,
                last,
                "transactions {first} to {last} are damaged or missing; everything else is served"
            );
        })
        .count()
    }

    /// Writes the frames again that no later one proves to be durable. They may be in the page cache
    /// only, and after a sync that failed, another would not write them.
    fn write_again(&self, file: &dyn File, end: u64) -> io::Result<()> {
        let Some(&(_, start)) = self.unproven.front() else { return Ok(()) };
        let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        file.read_at(&mut bytes, start)?;
        file.write_at(&bytes, start)
    }

    /// Applies a segment's frames. Returns where they end, and the next sequence number.
    fn replay(&mut self, segment: u64, next: Option<u64>) -> Result<(u64, u64), RecoveryError> {
        let mut sequence = segment;
        let mut scanner = Scanner::new(self.file(segment)?, self.log, segment, next)?;
        self.unproven.clear();
        loop {
            match scanner.next().map_err(|error| unreadable(segment, error))? {
                Found::Frame { position, frame, bytes } => {
                    self.apply(frame, &bytes).map_err(|UnknownRecord(kind)| RecoveryError::Unknown {
                        segment,
                        what: format!("a record of kind {kind}"),
                    })?;
                    for (topic, run) in runs_of_frame(position, frame, &bytes) {
                        self.active.entry(topic).or_default().push(run);
                    }
                    sequence = frame.sequence + 1;
                    self.unproven.push_back((frame.sequence, position));
                    while self.unproven.front().is_some_and(|&(sequence, _)| sequence < frame.synced) {
                        self.unproven.pop_front();
                    }
                }
                Found::Damage { position, first, last } => {
                    self.holes.push(Hole { place: Some((segment, position)), first, last });
                    sequence = last + 1;
                }
                Found::End { position } => return Ok((position, sequence)),
            }
        }
    }

    fn apply(&mut self, frame: Frame, bytes: &Bytes) -> Result<(), UnknownRecord> {
        if frame.kind == FrameKind::Mark || frame.sequence < self.from {
            return Ok(());
        }
        let payload = bytes.slice(FRAME_HEADER..FRAME_HEADER + frame.length as usize);
        for raw in records(payload).ok_or(UnknownRecord(0))? {
            let record = Record::read(&raw)?;
            self.state.apply(&record, frame.time, Marker::new(self.log));
            match &record {
                Record::Sweep(sweep) => self.sweep(sweep.since),
                record => {
                    if let Some(id) = record.states() {
                        self.stated.insert(id, frame.sequence);
                    }
                }
            }
        }
        Ok(())
    }

    /// Drops what has not been told of since some frame: the record that deleted it may be removed. If
    /// anything is missing since, it may have been told of there.
    fn sweep(&mut self, since: u64) {
        if self.holes.iter().any(|hole| hole.last >= since) {
            return;
        }
        let stated = &self.stated;
        self.state.retain(|id| stated.get(&id).is_some_and(|&told| told >= since));
    }

    fn file(&self, segment: u64) -> io::Result<Arc<dyn File>> {
        self.segments.get(self.fs, segment)
    }
}

/// Whether there is anything but zeros from a position on.
fn has_data_after(file: &dyn File, mut position: u64) -> io::Result<bool> {
    let len = file.len()?;
    let mut buffer = vec![0; 1 << 20];
    while position < len {
        let length = usize::try_from(len - position).unwrap_or(buffer.len()).min(buffer.len());
        file.read_at(&mut buffer[..length], position)?;
        if buffer[..length].iter().any(|&byte| byte != 0) {
            return Ok(true);
        }
        position += length as u64;
    }
    Ok(false)
}
