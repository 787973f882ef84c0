//! Ids and keys as checkpoints store them, and the log once it is cleaned: about 20 bytes each.
//!
//! They are encoded by the writer's thread, while publishers wait: a million take 20 to 70 ms, once for
//! every segment.

use bytes::{Buf, BufMut};
use prost::encoding::{decode_varint, encode_varint};

use super::ids::{Ids, Seen};
use super::keys::Keys;
use super::{NameHash, TopicNames};
use crate::model::Timestamp;

/// A hash, and two small numbers.
const ENTRY_BYTES: usize = 16 + 6;

/// One topic's ids and keys.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredNames {
    /// The topic's number.
    #[prost(uint64, tag = "1")]
    pub(crate) topic: u64,
    /// For each id its hash, and how far its offset and time are from those of the one before.
    #[prost(bytes = "vec", tag = "2")]
    ids: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    keys: Option<StoredKeys>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredKeys {
    #[prost(bool, tag = "1")]
    complete: bool,
    /// For each key its hash and the offset of its last message.
    #[prost(bytes = "vec", tag = "2")]
    keys: Vec<u8>,
}

impl StoredNames {
    pub(crate) fn new(topic: u64, names: &TopicNames) -> Self {
        Self { topic, ids: encode_ids(&names.ids), keys: names.keys.as_ref().map(encode_keys) }
    }

    /// `None` if they make no sense, which a checksum rules out.
    pub(crate) fn decode(&self) -> Option<(Ids, Option<Keys>)> {
        let keys = match &self.keys {
            Some(keys) => Some(decode_keys(keys)?),
            None => None,
        };
        Some((decode_ids(&self.ids)?, keys))
    }
}

fn encode_ids(ids: &Ids) -> Vec<u8> {
    let seen = ids.seen();
    let mut bytes = Vec::with_capacity(seen.len() * ENTRY_BYTES);
    let (mut offset, mut time) = (0, 0);
    for &Seen { id, offset: at, time: then } in seen {
        put_hash(&mut bytes, id);
        encode_varint(at - offset, &mut bytes);
        encode_varint(then.0 - time, &mut bytes);
        (offset, time) = (at, then.0);
    }
    bytes
}

fn decode_ids(mut bytes: &[u8]) -> Option<Ids> {
    let mut ids = Ids::default();
    let (mut offset, mut time) = (0u64, 0u64);
    while !bytes.is_empty() {
        let id = get_hash(&mut bytes)?;
        offset = offset.checked_add(decode_varint(&mut bytes).ok()?)?;
        time = time.checked_add(decode_varint(&mut bytes).ok()?)?;
        ids.note(id, offset, Timestamp(time));
    }
    Some(ids)
}

fn encode_keys(keys: &Keys) -> StoredKeys {
    let mut bytes = Vec::with_capacity(keys.len() * ENTRY_BYTES);
    for (key, offset) in keys.iter() {
        put_hash(&mut bytes, key);
        encode_varint(offset, &mut bytes);
    }
    StoredKeys { complete: keys.is_complete(), keys: bytes }
}

fn decode_keys(stored: &StoredKeys) -> Option<Keys> {
    let mut keys = Keys::new(stored.complete);
    let mut bytes = &stored.keys[..];
    while !bytes.is_empty() {
        let key = get_hash(&mut bytes)?;
        keys.note(key, decode_varint(&mut bytes).ok()?, true);
    }
    Some(keys)
}

fn put_hash(bytes: &mut Vec<u8>, NameHash(high, low): NameHash) {
    bytes.put_u64_le(high);
    bytes.put_u64_le(low);
}

fn get_hash(bytes: &mut &[u8]) -> Option<NameHash> {
    (bytes.len() >= 16).then(|| NameHash(bytes.get_u64_le(), bytes.get_u64_le()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back() {
        let (mut ids, mut keys) = (Ids::default(), Keys::new(false));
        for (offset, time) in [(3, 7), (4, 7), (1 << 40, 1 << 50)] {
            ids.note(NameHash(offset, time), offset, Timestamp(time));
            keys.note(NameHash(time, offset), offset, true);
        }
        let names = TopicNames { ids: ids.clone(), keys: Some(keys.clone()), ..TopicNames::default() };
        let stored = StoredNames::new(1, &names);
        assert_eq!(stored.decode(), Some((ids, Some(keys))));
        assert_eq!(StoredNames::new(1, &TopicNames::default()).decode(), Some((Ids::default(), None)));
        let cut = StoredNames { ids: stored.ids[..20].to_vec(), ..stored };
        assert_eq!(cut.decode(), None);
    }
}
