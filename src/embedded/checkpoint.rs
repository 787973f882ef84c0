//! Checkpoints: the state before some frame of the log, so that a start replays only what follows.
//! Derived from the log: deleting them costs time, and with a damaged log what only they still tell.

use std::io;

use prost::Message as _;

use super::attempts::Attempts;
use super::log::format::{LogId, u32_at};
use super::log::fs::{Fs, read, write_atomically};
use super::names::Names;
use super::names::stored::StoredNames;
use super::progress::Progress;
use super::records::{SubscriptionRecord, TopicRecord};
use super::state::{State, SubscriptionState, TopicState};
use crate::model::Timestamp;

/// The directory of checkpoints.
pub(crate) const DIR: &str = "checkpoints";
/// How many are kept.
const KEPT: usize = 2;
const MAGIC: &[u8; 8] = b"CLBCKP\0\x01";
/// Magic, checksum of the rest.
const HEADER: usize = 12;

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    /// The sequence number of the first frame that is not in the state.
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    last_id: u64,
    #[prost(message, repeated, tag = "3")]
    topics: Vec<StoredTopic>,
    #[prost(message, repeated, tag = "4")]
    subscriptions: Vec<StoredSubscription>,
    /// The log that it is of.
    #[prost(bytes = "vec", tag = "5")]
    log: Vec<u8>,
    #[prost(message, repeated, tag = "6")]
    names: Vec<StoredNames>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredTopic {
    #[prost(message, required, tag = "1")]
    record: TopicRecord,
    #[prost(uint64, tag = "2")]
    next: u64,
    #[prost(uint64, tag = "3")]
    bytes: u64,
    #[prost(uint64, tag = "4")]
    last_time_micros: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredSubscription {
    #[prost(message, required, tag = "1")]
    record: SubscriptionRecord,
    #[prost(uint64, tag = "2")]
    floor: u64,
    /// First and last offsets of the settled ranges above the floor, in turns.
    #[prost(uint64, repeated, tag = "3")]
    above: Vec<u64>,
    #[prost(uint32, tag = "4")]
    epoch: u32,
    #[prost(uint64, tag = "5")]
    handed: u64,
    /// Offsets of messages handed out more than once, and how often, in turns.
    #[prost(uint64, repeated, tag = "6")]
    again: Vec<u64>,
}

/// Encodes a checkpoint of `state` before the frame `sequence` of a log.
pub(crate) fn encode(log: LogId, state: &State, sequence: u64) -> Vec<u8> {
    let topics = state.topics.values().map(|topic| StoredTopic {
        record: topic.record.clone(),
        next: topic.next,
        bytes: topic.bytes,
        last_time_micros: topic.last_time.0,
    });
    let subscriptions = state.subscriptions.values().map(|subscription| StoredSubscription {
        record: subscription.record.clone(),
        floor: subscription.progress.floor(),
        above: subscription.progress.above().flat_map(|(first, last)| [first, last]).collect(),
        epoch: subscription.epoch,
        handed: subscription.attempts.handed(),
        again: subscription.attempts.again().flat_map(|(offset, count)| [offset, count.into()]).collect(),
    });
    let remembered = state.names.topics().filter(|(_, names)| !names.is_empty());
    let names = remembered.map(|(topic, names)| StoredNames::new(topic, &names.ids, names.keys.as_ref()));
    let stored = Stored {
        names: names.collect(),
        sequence,
        last_id: state.last_id,
        topics: topics.collect(),
        subscriptions: subscriptions.collect(),
        log: log.0.to_vec(),
    };
    let body = stored.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Decodes a checkpoint; `None` if it is damaged, or of another version or log.
fn decode(log: LogId, bytes: &[u8]) -> Option<(State, u64)> {
    let (header, body) = bytes.split_at_checked(HEADER)?;
    if !header.starts_with(MAGIC) || u32_at(header, MAGIC.len()) != crc32c::crc32c(body) {
        return None;
    }
    let stored = Stored::decode(body).ok().filter(|stored| stored.log == log.0)?;
    let names = decode_names(&stored.topics, &stored.names)?;
    let topics = stored.topics.into_iter().map(|topic| {
        let state = TopicState {
            record: topic.record,
            next: topic.next,
            bytes: topic.bytes,
            last_time: Timestamp(topic.last_time_micros),
        };
        (state.record.id, state)
    });
    let subscriptions = stored.subscriptions.into_iter().map(|subscription| {
        let mut progress = Progress::new(subscription.floor);
        for range in subscription.above.chunks_exact(2) {
            progress.settle(range[0], range[1]);
        }
        let mut attempts = Attempts::new(subscription.handed);
        for pair in subscription.again.chunks_exact(2) {
            attempts.note(pair[0], u32::try_from(pair[1]).unwrap_or(u32::MAX));
        }
        let StoredSubscription { record, epoch, .. } = subscription;
        (record.id, SubscriptionState { record, progress, epoch, attempts })
    });
    let state = State {
        topics: topics.collect(),
        subscriptions: subscriptions.collect(),
        last_id: stored.last_id,
        names,
    };
    Some((state, stored.sequence))
}

/// What is remembered of the topics' messages. A checkpoint of a version that did not remember any has
/// nothing of a topic; an index cannot have been asked for then.
fn decode_names(topics: &[StoredTopic], stored: &[StoredNames]) -> Option<Names> {
    let mut names = Names::default();
    for StoredTopic { record, next, .. } in topics {
        names.configure(record.id, record.dedupe_window(), record.key_index, *next);
    }
    for topic in stored {
        let (ids, keys) = topic.decode()?;
        names.restore(topic.topic, ids, keys);
    }
    Some(names)
}

/// Stores a checkpoint and removes all but it and those just before it. Later ones than the newest are
/// none of this log.
pub(crate) fn store(fs: &dyn Fs, bytes: &[u8], sequence: u64) -> io::Result<()> {
    write_atomically(fs, DIR, &name(sequence), bytes)?;
    let mut sequences = list(fs)?;
    sequences.sort_unstable();
    let newest = sequences.partition_point(|&stored| stored <= sequence);
    let kept = newest.saturating_sub(KEPT)..newest;
    for (_, other) in sequences.iter().enumerate().filter(|(at, _)| !kept.contains(at)) {
        fs.remove(&path(*other))?;
    }
    Ok(())
}

/// The sequence numbers of the stored checkpoints, in no order.
pub(crate) fn list(fs: &dyn Fs) -> io::Result<Vec<u64>> {
    let names = fs.list(DIR)?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".ckp")?.parse().ok()).collect())
}

/// Reads a checkpoint; `None` if it is missing, damaged, or not the one its name says.
pub(crate) fn load(fs: &dyn Fs, log: LogId, sequence: u64) -> Option<State> {
    let (state, stored) = decode(log, &read(fs, &path(sequence)).ok()?)?;
    (stored == sequence).then_some(state)
}

fn name(sequence: u64) -> String {
    format!("{sequence:020}.ckp")
}

fn path(sequence: u64) -> String {
    format!("{DIR}/{}", name(sequence))
}
