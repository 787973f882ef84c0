//! Frees the space of what is not needed any more, a segment at a time.
//!
//! A segment is dead when no topic has a message in it. Everything else that it says is told again at the
//! end of the log before it goes, so that the log alone still gives the whole state. The messages that a
//! mostly dead segment has left are moved first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{blocking, upkeep};
use crate::embedded::Shared;
use crate::embedded::log::index::{Part, TopicIndex};
use crate::embedded::log::relocated::{Kept, Moved};
use crate::embedded::log::segments::Segments;
use crate::embedded::log::writer::{Restated, Upkeep};
use crate::embedded::topic::TopicHandle;
use crate::engine::{Error, ReadLimit, Result};
use crate::model::Offset;

/// A segment with less than one part in so many left is cleaned.
const MOSTLY_DEAD: u64 = 4;
/// How much of a stretch is moved at once.
const MOVE: ReadLimit = ReadLimit { messages: 10_000, bytes: 1 << 20 };
/// Bytes moved in one pass at most.
const MOVED_PER_PASS: u64 = 64 << 20;
/// A pause each time that much was moved: at most about 50 MiB are moved in a second.
const PAUSE: Duration = Duration::from_millis(20);
/// The active segment is ended early if it is mostly dead and has at least one part in so many of a full
/// one's length.
const ACTIVE_PART: u64 = 16;
/// The same while nothing is written.
const QUIET_PART: u64 = 2_048;

/// What is remembered from pass to pass.
pub(super) struct Reclaim {
    /// The length of a full segment.
    segment_bytes: u64,
    /// What it took to tell everything again the last time, in bytes.
    restated_bytes: u64,
    /// The length of the active segment at the last pass.
    active_bytes: u64,
    /// Segments that were removed, whose files may not be yet.
    gone: BTreeSet<u64>,
}

/// What a segment has left.
#[derive(Default)]
struct Left {
    bytes: u64,
    parts: Vec<(Arc<TopicHandle>, Part)>,
}

impl Reclaim {
    pub(super) fn new(segment_bytes: u64) -> Self {
        Self { segment_bytes, restated_bytes: 0, active_bytes: 0, gone: BTreeSet::new() }
    }

    pub(super) async fn pass(&mut self, engine: &Arc<Shared>) -> Result<()> {
        let segments = engine.log.reader.segments();
        let (left, active_left) = left(engine);
        self.end_active(engine, active_left).await?;

        let reader = Arc::clone(&engine.log.reader);
        let mut sealed = segments.sealed();
        self.gone.retain(|gone| sealed.contains(gone));
        sealed.retain(|segment| !self.gone.contains(segment));
        let length = move |segment| match reader.segment_len(segment) {
            Ok(length) => Some((segment, length)),
            Err(error) => {
                tracing::warn!(segment, %error, "cannot look at a segment; leaving it as it is");
                None
            }
        };
        let lengths = blocking(move || Ok(sealed.into_iter().filter_map(length).collect()));
        let lengths: Vec<(u64, u64)> = lengths.await?;
        // What needs nothing moved is not to wait for it.
        self.remove_dead(engine, &lengths).await?;
        let mut moved = 0;
        for (segment, length) in &lengths {
            let is_mostly_dead = |left: &&Left| left.bytes * MOSTLY_DEAD < *length;
            let Some(left) = left.get(segment).filter(is_mostly_dead) else { continue };
            if moved >= MOVED_PER_PASS || segments.is_damaged(*segment) {
                continue;
            }
            match relocate(engine, left).await {
                Ok(()) => moved += left.bytes,
                Err(error @ (Error::Closed | Error::Failed(_))) => return Err(error),
                Err(error @ Error::DiskFull { .. }) => {
                    tracing::warn!(%error, "no space to move messages and free more");
                    break;
                }
                Err(error) => {
                    // Damage stays where it is, for whoever can mend it.
                    if matches!(error, Error::Damaged { .. }) {
                        segments.note_damage(*segment);
                    }
                    tracing::warn!(segment, %error, "could not move what a segment has left; it stays");
                }
            }
        }
        self.remove_dead(engine, &lengths).await
    }

    /// Removes the segments in which no topic has a message.
    async fn remove_dead(&mut self, engine: &Shared, sealed: &[(u64, u64)]) -> Result<()> {
        let (left, _) = left(engine);
        let segments = engine.log.reader.segments();
        let is_dead = |segment| {
            !left.contains_key(segment) && !segments.is_damaged(*segment) && !self.gone.contains(segment)
        };
        let dead: Vec<_> = sealed.iter().filter(|(segment, _)| is_dead(segment)).collect();
        let freed: u64 = dead.iter().map(|(_, length)| length).sum();
        // Not worth writing more than it frees.
        if dead.is_empty() || freed < 2 * self.restated_bytes {
            return Ok(());
        }
        let since = self.tell_again(engine).await?;
        let range = |&&(segment, _): &&(u64, u64)| Some((segment, segments.after(segment)?));
        let segments: Vec<_> = dead.iter().filter_map(range).collect();
        tracing::info!(
            segments = segments.len(),
            bytes = freed,
            "removing segments of which nothing is needed"
        );
        let first_sequences: Vec<u64> = segments.iter().map(|&(segment, _)| segment).collect();
        upkeep(&engine.log, |reply| Upkeep::Remove { since, segments, reply }).await?;
        self.gone.extend(first_sequences);
        Ok(())
    }

    /// Has the log tell of all topics and subscriptions. Returns the first frame in which it does.
    async fn tell_again(&mut self, engine: &Shared) -> Result<u64> {
        let (mut since, mut after, mut total) = (None, 0, 0);
        loop {
            let Restated { sequence, last, bytes } =
                upkeep(&engine.log, |reply| Upkeep::Restate { after, reply }).await?;
            since.get_or_insert(sequence);
            total += bytes;
            let Some(last) = last else { break };
            after = last;
        }
        self.restated_bytes = total;
        Ok(since.expect("asked at least once"))
    }

    /// Ends the active segment if most of it is dead, so that it can be cleaned.
    async fn end_active(&mut self, engine: &Shared, left: u64) -> Result<()> {
        let bytes = engine.log.reader.segments().active_bytes();
        let quiet = std::mem::replace(&mut self.active_bytes, bytes) == bytes;
        let least = self.segment_bytes / if quiet { QUIET_PART } else { ACTIVE_PART };
        // What was told again is needed, although it is no message; and it must be worth telling it once more.
        let dead = bytes.saturating_sub(left);
        if bytes > least && left * MOSTLY_DEAD < bytes && dead > least + 2 * self.restated_bytes {
            upkeep(&engine.log, |reply| Upkeep::Roll { reply }).await?;
        }
        Ok(())
    }
}

/// What each sealed segment has left, and how many bytes the active one.
fn left(engine: &Shared) -> (BTreeMap<u64, Left>, u64) {
    let mut left = BTreeMap::<u64, Left>::new();
    let mut active = 0;
    let active_segment = engine.log.reader.segments().active();
    for topic in engine.catalog().topics.values() {
        let (first, index) = (topic.first(), topic.index());
        let alive = Alive::of(topic, &index, engine.log.reader.segments());
        let newest = alive.bytes(index.active().iter().map(|run| u64::from(run.bytes)).sum());
        // It may have been sealed just now, but its runs not yet.
        if index.active_segment() == active_segment || index.active().is_empty() {
            active += newest;
        } else {
            left.entry(index.active_segment()).or_default().bytes += newest.max(1);
        }
        for part in index.parts() {
            let bytes = alive.bytes(bytes_left(part, first));
            if part.segment == active_segment {
                active += bytes;
                continue;
            }
            let segment = left.entry(part.segment).or_default();
            segment.bytes += bytes;
            segment.parts.push((Arc::clone(topic), part.clone()));
        }
    }
    (left, active)
}

/// Which part of a topic's messages is not superseded by later ones of the same key, about.
struct Alive {
    last_of_their_keys: u64,
    messages: u64,
}

impl Alive {
    fn of(topic: &TopicHandle, index: &TopicIndex, segments: &Segments) -> Self {
        let Some(last_of_their_keys) = topic.compacts_to() else {
            return Self { last_of_their_keys: 1, messages: 1 };
        };
        let sound = index.parts().iter().filter(|part| !segments.is_damaged(part.segment));
        let in_parts: u64 = sound.map(|part| part.messages).sum();
        let active: u64 = index.active().iter().map(|run| u64::from(run.messages)).sum();
        let messages = (in_parts + active).max(1);
        Self { last_of_their_keys: last_of_their_keys.min(messages), messages }
    }

    fn bytes(&self, all: u64) -> u64 {
        scale(all, self.last_of_their_keys, self.messages)
    }
}

fn scale(bytes: u64, part: u64, of: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(part) / u128::from(of)).unwrap_or(u64::MAX)
}

/// Bytes of a part's envelopes from `first` on, about.
fn bytes_left(part: &Part, first: Offset) -> u64 {
    let messages = part.last + 1 - part.first;
    let gone = first.saturating_sub(part.first).min(messages);
    scale(part.bytes, messages - gone, messages)
}

/// Moves what a segment has left to the end of the log.
async fn relocate(engine: &Shared, left: &Left) -> Result<()> {
    let mut since_pause = 0;
    for (topic, part) in &left.parts {
        let mut first = part.first.max(topic.first());
        while first <= part.last {
            let limit = ReadLimit { messages: MOVE.messages.min(offsets(first, part.last)), ..MOVE };
            let read = engine.log.reader.read(topic, first, limit).await?;
            let last = (read.next - 1).min(part.last);
            let of_part = read.messages.into_iter().filter(|message| message.offset <= last);
            let kept: Vec<_> = of_part
                .map(|message| Kept {
                    offset: message.offset,
                    time: message.publish_time,
                    key: engine.log.marker.mark(&message.envelope.0).key,
                    envelope: message.envelope.0,
                })
                .collect();
            let time = kept.first().map_or(part.time, |kept| kept.time);
            let last_time = kept.last().map_or(time, |kept| kept.time);
            let moved = Moved { first, last, time, last_time, dropped: 0, kept };
            let bytes = moved.kept.iter().map(Kept::written_size).sum();
            since_pause += bytes;
            let place = engine.log.place(bytes).await?;
            let topic = Arc::clone(topic);
            upkeep(&engine.log, |reply| Upkeep::Relocate { topic, moved, reply, _place: place }).await?;
            first = last + 1;
            if since_pause >= MOVE.bytes {
                since_pause = 0;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

fn offsets(first: Offset, last: Offset) -> usize {
    usize::try_from(last - first + 1).unwrap_or(usize::MAX)
}
