//! Messages that were moved within the log: what is left of a segment that goes.

use bytes::{BufMut, Bytes, BytesMut};

use super::format::{u32_at, u64_at};
use crate::embedded::names::NameHash;
use crate::model::{Offset, Timestamp};

const HEADER: usize = 52;
const MESSAGE_HEADER: usize = 20;

/// The body of a Relocated record: all that is left of a stretch of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Relocated {
    /// The topic's number.
    pub(crate) topic: u64,
    /// The first offset of the stretch.
    pub(crate) first: Offset,
    /// The last offset of the stretch.
    pub(crate) last: Offset,
    /// When the stretch began to be published.
    pub(crate) time: Timestamp,
    /// When the last of its messages was published.
    pub(crate) last_time: Timestamp,
    /// Bytes of the envelopes that were left behind.
    pub(crate) dropped: u64,
    /// How many messages are left of it; may be none.
    pub(crate) count: u32,
    /// The messages: offset, time, length, envelope.
    messages: Bytes,
}

/// A message that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) offset: Offset,
    /// When it was published.
    pub(crate) time: Timestamp,
    pub(crate) envelope: Bytes,
    /// Its key; not part of the record.
    pub(crate) key: Option<NameHash>,
}

/// A stretch of a topic that is moved.
#[derive(Debug, Clone)]
pub(crate) struct Moved {
    /// Its first offset.
    pub(crate) first: Offset,
    /// Its last offset.
    pub(crate) last: Offset,
    /// When it began to be published.
    pub(crate) time: Timestamp,
    /// When the last of its messages was published.
    pub(crate) last_time: Timestamp,
    /// Bytes of the envelopes that are left behind.
    pub(crate) dropped: u64,
    /// The messages that are kept.
    pub(crate) kept: Vec<Kept>,
}

impl Relocated {
    /// Reads the body of a Relocated record.
    pub(crate) fn read(mut body: Bytes) -> Option<Self> {
        if body.len() < HEADER {
            return None;
        }
        let header = body.split_to(HEADER);
        let (topic, first, last) = (u64_at(&header, 0), u64_at(&header, 8), u64_at(&header, 16));
        let sound = 0 < first && first <= last && last < Offset::MAX;
        let [time, last_time] = [24, 32].map(|at| Timestamp(u64_at(&header, at)));
        let (dropped, count) = (u64_at(&header, 40), u32_at(&header, 48));
        sound.then_some(Self { topic, first, last, time, last_time, dropped, count, messages: body })
    }

    /// Appends the body of a Relocated record.
    pub(crate) fn write(out: &mut BytesMut, topic: u64, moved: &Moved) {
        let Moved { first, last, time, last_time, dropped, kept } = moved;
        out.put_u64_le(topic);
        out.put_u64_le(*first);
        out.put_u64_le(*last);
        out.put_u64_le(time.0);
        out.put_u64_le(last_time.0);
        out.put_u64_le(*dropped);
        out.put_u32_le(u32::try_from(kept.len()).expect("a relocation is limited in messages"));
        for Kept { offset, time, envelope, .. } in kept {
            out.put_u64_le(*offset);
            out.put_u64_le(time.0);
            out.put_u32_le(u32::try_from(envelope.len()).expect("a relocation is limited in bytes"));
            out.put_slice(envelope);
        }
    }

    /// How many bytes [`write`](Self::write) appends.
    pub(crate) fn written_size(moved: &Moved) -> usize {
        HEADER + moved.kept.iter().map(Kept::written_size).sum::<usize>()
    }

    /// Bytes of the envelopes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.messages.len() as u64).saturating_sub(MESSAGE_HEADER as u64 * u64::from(self.count))
    }

    /// The messages, sharing the record's memory. Ends early on a bad length, which a sound frame never
    /// has.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Kept> {
        let mut rest = self.messages.clone();
        (0..self.count).map_while(move |_| {
            if rest.len() < MESSAGE_HEADER {
                return None;
            }
            let header = rest.split_to(MESSAGE_HEADER);
            let length = u32_at(&header, 16) as usize;
            (rest.len() >= length).then(|| Kept {
                offset: u64_at(&header, 0),
                time: Timestamp(u64_at(&header, 8)),
                envelope: rest.split_to(length),
                key: None,
            })
        })
    }
}

impl Kept {
    /// How many bytes it takes in a record.
    pub(crate) fn written_size(&self) -> usize {
        MESSAGE_HEADER + self.envelope.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_was_written() {
        let kept = [(3, "three"), (7, "")].map(|(offset, text)| Kept {
            offset,
            time: Timestamp(offset * 10),
            envelope: Bytes::from_static(text.as_bytes()),
            key: None,
        });
        let mut out = BytesMut::new();
        let moved = Moved {
            first: 2,
            last: 8,
            time: Timestamp(20),
            last_time: Timestamp(70),
            dropped: 4,
            kept: kept.to_vec(),
        };
        Relocated::write(&mut out, 9, &moved);
        assert_eq!(out.len(), Relocated::written_size(&moved));
        let read = Relocated::read(out.freeze()).unwrap();
        assert_eq!((read.topic, read.first, read.last, read.bytes()), (9, 2, 8, 5));
        assert_eq!((read.time, read.last_time, read.dropped), (Timestamp(20), Timestamp(70), 4));
        assert_eq!(read.messages().collect::<Vec<_>>(), kept);
    }

    proptest! {
        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(relocated) = Relocated::read(bytes.into()) {
                prop_assert!(relocated.messages().count() <= relocated.count as usize);
                let _ = relocated.bytes();
            }
        }
    }
}
