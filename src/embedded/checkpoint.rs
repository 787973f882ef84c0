//! Checkpoints: the state before some frame of the log, so that a start replays only what follows.
//! Derived from the log: deleting them costs time, and with a damaged log what only they still tell.

use std::io;

use prost::Message as _;

use super::log::format::{LogId, u32_at};
use super::log::fs::{Fs, read, write_atomically};
use super::names::Names;
use super::names::stored::StoredNames;
use super::removed::Removed;
use super::state::{State, SubscriptionState, TopicState};
use super::stored::{StoredSubscription, StoredTopic};

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
    /// Removed segments: the first sequence number of each, and of the one after, in turns.
    #[prost(uint64, repeated, tag = "6")]
    removed: Vec<u64>,
    #[prost(message, repeated, tag = "7")]
    names: Vec<StoredNames>,
}

/// Encodes a checkpoint of `state` before the frame `sequence` of a log.
pub(crate) fn encode(log: LogId, state: &State, sequence: u64) -> Vec<u8> {
    let remembered = state.names.topics().filter(|(_, names)| !names.is_empty());
    let stored = Stored {
        names: remembered.map(|(topic, names)| StoredNames::new(topic, names)).collect(),
        sequence,
        last_id: state.last_id,
        topics: state.topics.values().map(StoredTopic::from).collect(),
        subscriptions: state.subscriptions.values().map(StoredSubscription::from).collect(),
        log: log.0.to_vec(),
        removed: state.removed.segments().into_iter().flat_map(|(first, next)| [first, next]).collect(),
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
    let topics: Vec<TopicState> = stored.topics.into_iter().map(TopicState::from).collect();
    let names = decode_names(&topics, &stored.names)?;
    let subscriptions = stored.subscriptions.into_iter().map(SubscriptionState::from);
    let mut removed = Removed::default();
    removed.add(&stored.removed.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>());
    let state = State {
        topics: topics.into_iter().map(|topic| (topic.record.id, topic)).collect(),
        subscriptions: subscriptions.map(|subscription| (subscription.record.id, subscription)).collect(),
        last_id: stored.last_id,
        removed,
        names,
    };
    Some((state, stored.sequence))
}

/// What is remembered of the topics' messages. A checkpoint of a version that did not remember any has
/// nothing of a topic; an index cannot have been asked for then.
fn decode_names(topics: &[TopicState], stored: &[StoredNames]) -> Option<Names> {
    let mut names = Names::default();
    for TopicState { record, next, .. } in topics {
        names.configure(record.id, record.dedupe_window(), record.indexes_keys(), *next);
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
