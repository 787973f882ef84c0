//! Entries, and the messages that they are in the topic of their bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use crate::model::{Envelope, Offset, StoredMessage, Timestamp};

/// The type of a message that sets an entry.
const PUT: &str = "columba.kv.put";
/// The type of a message that removes one. The engine keeps it as the last message of its key.
const DELETE: &str = "columba.kv.delete";
/// The attribute that holds the score.
const SCORE: &str = "columba-kv-score";

/// A number that entries are ordered by. Not NaN; -0 is 0; the infinities are the lowest and the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Score(u64);

impl Score {
    /// `None` for NaN.
    pub(crate) fn new(number: f64) -> Option<Self> {
        // Adding 0 makes 0 of -0.
        let bits = (number + 0.0).to_bits();
        let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
        (!number.is_nan()).then_some(Self(ordered))
    }

    pub(crate) fn number(self) -> f64 {
        f64::from_bits(if self.0 >> 63 == 1 { self.0 & !(1 << 63) } else { !self.0 })
    }

    /// As it is stored: in the same order.
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// What is known of an entry without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct About {
    /// The offset of the message that set it.
    pub(crate) revision: Offset,
    /// When that was.
    pub(crate) time: Timestamp,
    /// When it vanishes.
    pub(crate) expire_time: Option<Timestamp>,
    pub(crate) score: Option<Score>,
}

impl About {
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expire_time.is_some_and(|time| time <= now)
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Arc<str>,
    pub(crate) value: Bytes,
    pub(crate) about: About,
}

/// What a message does to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Version {
    Put(Entry),
    Deleted { key: Arc<str>, revision: Offset, time: Timestamp },
}

/// What is to be written about a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Write {
    pub(crate) key: String,
    pub(crate) what: What,
    /// Only if the entry has this revision; 0 if there must be none.
    pub(crate) expected: Option<Offset>,
    /// Names the write, so that it is done once; may be empty.
    pub(crate) id: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    Put { value: Bytes, score: Option<Score>, expire_time: Option<Timestamp> },
    Delete,
}

/// The fields of a `columba.v1.Message` that are used here.
#[derive(Clone, PartialEq, prost::Message)]
struct Written {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(btree_map = "string, string", tag = "3")]
    attributes: BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    id: String,
    #[prost(string, tag = "5")]
    kind: String,
    #[prost(message, optional, tag = "10")]
    expire_time: Option<prost_types::Timestamp>,
}

/// The message of a write.
pub(super) fn envelope(write: &Write) -> Envelope {
    let mut written = Written { key: write.key.clone(), id: write.id.clone(), ..Written::default() };
    match &write.what {
        What::Delete => written.kind = DELETE.into(),
        What::Put { value, score, expire_time } => {
            written.kind = PUT.into();
            written.data = value.clone();
            let score = score.map(|score| (SCORE.to_owned(), score.number().to_string()));
            written.attributes = score.into_iter().collect();
            written.expire_time = expire_time.map(|Timestamp(micros)| prost_types::Timestamp {
                seconds: (micros / 1_000_000).cast_signed(),
                nanos: i32::try_from(micros % 1_000_000 * 1_000).expect("less than a second"),
            });
        }
    }
    Envelope(written.encode_to_vec().into())
}

/// What a message of a bucket's topic does; `None` if it is none that this version knows.
pub(super) fn read(message: &StoredMessage) -> Option<Version> {
    let expire_time = message.envelope.header().expire_time;
    let written = Written::decode(message.envelope.0.clone()).ok()?;
    let (key, revision, time) = (written.key.into(), message.offset, message.publish_time);
    match written.kind.as_str() {
        DELETE => Some(Version::Deleted { key, revision, time }),
        PUT => {
            let number = written.attributes.get(SCORE).map(|number| number.parse().ok());
            let score = number.flatten().and_then(Score::new);
            let about = About { revision, time, expire_time, score };
            Some(Version::Put(Entry { key, value: written.data, about }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Name;

    proptest! {
        #[test]
        fn scores_are_stored_in_their_order(a in any::<f64>(), b in any::<f64>()) {
            let (Some(first), Some(second)) = (Score::new(a), Score::new(b)) else {
                prop_assert!(a.is_nan() || b.is_nan());
                return Ok(());
            };
            prop_assert_eq!(first.cmp(&second), a.partial_cmp(&b).unwrap());
            prop_assert_eq!(first.number().partial_cmp(&a), Some(std::cmp::Ordering::Equal));
            prop_assert_eq!(Score::from_bits(first.bits()), first);
        }
    }

    #[test]
    fn the_ends_of_the_scores() {
        let score = |number| Score::new(number).unwrap();
        assert_eq!(score(-0.0), score(0.0));
        assert!(score(-0.0).number().is_sign_positive());
        assert!(score(f64::NEG_INFINITY) < score(f64::MIN) && score(f64::MAX) < score(f64::INFINITY));
        assert_eq!(Score::new(f64::NAN), None);
    }

    #[test]
    fn a_write_is_read_as_it_was_written() {
        let stored = |write: &Write| StoredMessage {
            topic: Name::parse("t").unwrap(),
            offset: 7,
            publish_time: Timestamp(9),
            envelope: envelope(write),
        };
        for score in [None, Some(1.5), Some(f64::NEG_INFINITY), Some(0.1 + 0.2), Some(f64::MIN_POSITIVE)] {
            for value in ["", "v"] {
                let (score, expire_time) = (score.and_then(Score::new), Some(Timestamp(1_000_001)));
                let what = What::Put { value: value.into(), score, expire_time };
                let write = Write { key: "k".into(), what, expected: None, id: "i".into() };
                let about = About { revision: 7, time: Timestamp(9), expire_time, score };
                let entry = Entry { key: "k".into(), value: value.into(), about };
                assert_eq!(read(&stored(&write)), Some(Version::Put(entry)));
            }
        }
        let write = Write { key: "k".into(), what: What::Delete, expected: None, id: String::new() };
        let deleted = Version::Deleted { key: "k".into(), revision: 7, time: Timestamp(9) };
        assert_eq!(read(&stored(&write)), Some(deleted));
        let other = StoredMessage { envelope: Envelope(Bytes::from_static(b"\x12\x01k")), ..stored(&write) };
        assert_eq!(read(&other), None);
    }
}
