//! The bytes of the log: segment headers, frames, and the records of a transaction.
//!
//! `docs/log-format.md` describes them. Everything here is pure: bytes in, values out.

use bytes::{BufMut, Bytes, BytesMut};

use crate::embedded::attempts::Attempts;
use crate::model::{Offset, Timestamp};

/// The version of everything this module reads and writes.
pub(crate) const VERSION: u8 = 1;
/// Size of a segment's header.
pub(crate) const SEGMENT_HEADER: usize = 40;
/// Size of a frame's header.
pub(crate) const FRAME_HEADER: usize = 40;
/// Frames begin at multiples of this many bytes.
pub(crate) const ALIGNMENT: usize = 8;
/// No payload is longer: the largest publish, with room for the framing of its messages, or all ids and keys
/// that are remembered of a topic.
pub(crate) const MAX_PAYLOAD: usize = 64 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"COLUMBA\n";
const FRAME_MAGIC: [u8; 4] = *b"CLBf";
const CHECKSUM_AT: std::ops::Range<usize> = 12..16;
/// Size of a record's header.
pub(crate) const RECORD_HEADER: usize = 8;

/// Which log a file belongs to. Random, and part of every checksum: bytes of another log, or bytes
/// that a client put into a message, never look like a frame of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogId(pub(crate) [u8; 16]);

impl LogId {
    fn checksum(self, header: &[u8], payload: &[u8]) -> u32 {
        let seed = crc32c::crc32c(&self.0);
        let crc = crc32c::crc32c_append(seed, &header[..CHECKSUM_AT.start]);
        let crc = crc32c::crc32c_append(crc, &header[CHECKSUM_AT.end..]);
        crc32c::crc32c_append(crc, payload)
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// Records that happen together or not at all.
    Transaction = 1,
    /// No records: only says, by its `synced`, what was durable before it.
    Mark = 2,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// What it holds.
    pub(crate) kind: FrameKind,
    /// Length of the payload in bytes.
    pub(crate) length: u32,
    /// One more than the frame before it, across segments.
    pub(crate) sequence: u64,
    /// Every frame with a lower sequence number was durable when this one was written. This tells
    /// damage (a hole below it) from a torn write (a hole above it).
    pub(crate) synced: u64,
    /// When the transaction was written.
    pub(crate) time: Timestamp,
}

/// Why the bytes at a position are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// No header, a header of nonsense, or a checksum that does not fit.
    Invalid,
    /// A sound frame of a version that this program does not know.
    UnknownVersion(u8),
}

impl Frame {
    /// The frame's length with header and padding.
    pub(crate) fn size(&self) -> usize {
        size(self.length as usize)
    }

    /// Reads the header at the start of `bytes`, not yet trusting any of it.
    pub(crate) fn peek(bytes: &[u8]) -> Option<u32> {
        let header = bytes.get(..FRAME_HEADER)?;
        (header[..4] == FRAME_MAGIC).then(|| u32_at(header, 8))
    }

    /// Checks and reads the frame at the start of `bytes`, which holds all of it.
    pub(crate) fn read(bytes: &[u8], log: LogId) -> Result<Self, FrameError> {
        let length = Self::peek(bytes).ok_or(FrameError::Invalid)?;
        let (header, rest) = bytes.split_at(FRAME_HEADER);
        let payload = rest.get(..length as usize).ok_or(FrameError::Invalid)?;
        if u32_at(header, CHECKSUM_AT.start) != log.checksum(header, payload) {
            return Err(FrameError::Invalid);
        }
        Self::read_trusted(bytes)
    }

    /// Reads the header of a frame known to be sound.
    pub(crate) fn read_trusted(header: &[u8]) -> Result<Self, FrameError> {
        if header[4] != VERSION {
            return Err(FrameError::UnknownVersion(header[4]));
        }
        let kind = match header[5] {
            1 => FrameKind::Transaction,
            2 => FrameKind::Mark,
            _ => return Err(FrameError::UnknownVersion(header[4])),
        };
        Ok(Self {
            kind,
            length: u32_at(header, 8),
            sequence: u64_at(header, 16),
            synced: u64_at(header, 24),
            time: Timestamp(u64_at(header, 32)),
        })
    }
}

/// The size of a frame with this payload: header, payload, padding.
pub(crate) fn size(payload: usize) -> usize {
    (FRAME_HEADER + payload).next_multiple_of(ALIGNMENT)
}

/// Appends a frame to `out`, whose payload `fill` appends. Returns its size.
pub(crate) fn write_frame(
    out: &mut BytesMut,
    log: LogId,
    (kind, sequence, synced, time): (FrameKind, u64, u64, Timestamp),
    fill: impl FnOnce(&mut BytesMut),
) -> usize {
    let start = out.len();
    out.put_bytes(0, FRAME_HEADER);
    fill(out);
    let length = out.len() - start - FRAME_HEADER;
    let (header, payload) = out[start..].split_at_mut(FRAME_HEADER);
    header[..4].copy_from_slice(&FRAME_MAGIC);
    header[4] = VERSION;
    header[5] = kind as u8;
    let length_field = u32::try_from(length).expect("payloads are below MAX_PAYLOAD");
    header[8..12].copy_from_slice(&length_field.to_le_bytes());
    header[16..24].copy_from_slice(&sequence.to_le_bytes());
    header[24..32].copy_from_slice(&synced.to_le_bytes());
    header[32..40].copy_from_slice(&time.0.to_le_bytes());
    let checksum = log.checksum(header, payload);
    header[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
    out.put_bytes(0, size(length) - FRAME_HEADER - length);
    size(length)
}

/// Writes the header of a segment whose first frame is `first_sequence`.
pub(crate) fn segment_header(log: LogId, first_sequence: u64) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[..8].copy_from_slice(&SEGMENT_MAGIC);
    header[8] = VERSION;
    header[16..24].copy_from_slice(&first_sequence.to_le_bytes());
    header[24..40].copy_from_slice(&log.0);
    let checksum = LogId([0; 16]).checksum(&header, &[]);
    header[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Reads a segment's header: its log and first sequence number. `Err` holds an unknown version.
pub(crate) fn read_segment_header(header: &[u8]) -> Result<Option<(LogId, u64)>, u8> {
    let Some(header) = header.get(..SEGMENT_HEADER) else { return Ok(None) };
    let checksum = LogId([0; 16]).checksum(header, &[]);
    if header[..8] != SEGMENT_MAGIC || u32_at(header, CHECKSUM_AT.start) != checksum {
        return Ok(None);
    }
    if header[8] != VERSION {
        return Err(header[8]);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&header[24..40]);
    Ok(Some((LogId(id), u64_at(header, 16))))
}

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// Messages appended to a topic.
    Publish = 1,
    /// Messages settled in a subscription.
    Settle = 2,
    /// A topic created or changed.
    PutTopic = 3,
    /// A topic deleted.
    DeleteTopic = 4,
    /// A subscription created or changed.
    PutSubscription = 5,
    /// A subscription deleted.
    DeleteSubscription = 6,
    /// A subscription moved.
    Seek = 7,
    /// Messages handed out.
    Hand = 8,
    /// The oldest messages of a topic gone.
    Trim = 9,
    /// All that is known of a topic, but for its messages.
    TopicState = 10,
    /// All that is known of a subscription.
    SubscriptionState = 11,
    /// All topics and subscriptions that there are have been told of since some frame.
    Sweep = 12,
    /// Segments removed.
    Removed = 13,
    /// Messages moved out of a segment that goes.
    Relocated = 14,
    /// All ids and keys that are remembered of a topic's messages.
    Names = 15,
}

/// One record of a transaction, its body not yet read.
#[derive(Debug, Clone)]
pub(crate) struct RawRecord {
    /// The kind's number; unknown ones are refused by who reads them.
    pub(crate) kind: u8,
    /// The body.
    pub(crate) body: Bytes,
}

/// Splits a payload into its records. `None` for a payload that ends within one.
pub(crate) fn records(mut payload: Bytes) -> Option<Vec<RawRecord>> {
    let mut records = Vec::with_capacity(1);
    while !payload.is_empty() {
        if payload.len() < RECORD_HEADER {
            return None;
        }
        let header = payload.split_to(RECORD_HEADER);
        let length = u32_at(&header, 4) as usize;
        if payload.len() < length {
            return None;
        }
        records.push(RawRecord { kind: header[0], body: payload.split_to(length) });
    }
    Some(records)
}

/// Appends a record to a payload; `fill` appends its body.
pub(crate) fn write_record(out: &mut BytesMut, kind: RecordKind, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, RECORD_HEADER);
    fill(out);
    let length = u32::try_from(out.len() - start - RECORD_HEADER).expect("bodies are below MAX_PAYLOAD");
    out[start] = kind as u8;
    out[start + 4..start + RECORD_HEADER].copy_from_slice(&length.to_le_bytes());
}

/// The body of a Publish record.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    /// The topic's number.
    pub(crate) topic: u64,
    /// The first message's offset; the others follow it.
    pub(crate) first: Offset,
    /// How many messages there are.
    pub(crate) count: u32,
    /// The messages: a length in four bytes, then the envelope, for each.
    pub(crate) messages: Bytes,
}

const PUBLISH_HEADER: usize = 20;

impl Publish {
    /// Reads the body of a Publish record.
    pub(crate) fn read(mut body: Bytes) -> Option<Self> {
        if body.len() < PUBLISH_HEADER {
            return None;
        }
        let header = body.split_to(PUBLISH_HEADER);
        let (topic, first, count) = (u64_at(&header, 0), u64_at(&header, 8), u32_at(&header, 16));
        let sound = first > 0 && count > 0 && first.checked_add(u64::from(count)).is_some();
        sound.then_some(Self { topic, first, count, messages: body })
    }

    /// Appends the body of a Publish record.
    pub(crate) fn write<'a>(
        out: &mut BytesMut,
        topic: u64,
        first: Offset,
        envelopes: impl ExactSizeIterator<Item = &'a Bytes>,
    ) {
        out.put_u64_le(topic);
        out.put_u64_le(first);
        out.put_u32_le(u32::try_from(envelopes.len()).expect("a publish is limited in messages"));
        for envelope in envelopes {
            out.put_u32_le(u32::try_from(envelope.len()).expect("a publish is limited in bytes"));
            out.put_slice(envelope);
        }
    }

    /// How many bytes [`write`](Self::write) appends.
    pub(crate) fn written_size(messages: usize, bytes: usize) -> usize {
        PUBLISH_HEADER + 4 * messages + bytes
    }

    /// The last message's offset.
    pub(crate) fn last(&self) -> Offset {
        self.first + u64::from(self.count) - 1
    }

    /// Bytes of the envelopes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.messages.len() as u64).saturating_sub(4 * u64::from(self.count))
    }

    /// The envelopes with their offsets, sharing the record's memory. Ends early on a bad length,
    /// which a sound frame never has.
    pub(crate) fn envelopes(&self) -> impl Iterator<Item = (Offset, Bytes)> {
        let mut rest = self.messages.clone();
        (self.first..=self.last()).map_while(move |offset| {
            if rest.len() < 4 {
                return None;
            }
            let length = u32_at(&rest.split_to(4), 0) as usize;
            (rest.len() >= length).then(|| (offset, rest.split_to(length)))
        })
    }
}

/// Appends the body of a Settle record: inclusive ranges of offsets.
pub(crate) fn write_settle(out: &mut BytesMut, subscription: u64, ranges: &[(Offset, Offset)]) {
    out.put_u64_le(subscription);
    for &(first, last) in ranges {
        out.put_u64_le(first);
        out.put_u64_le(last);
    }
}

/// Reads the body of a Settle record.
pub(crate) fn read_settle(body: &[u8]) -> Option<(u64, Vec<(Offset, Offset)>)> {
    let (subscription, ranges) = body.split_at_checked(8)?;
    let pairs = ranges.chunks_exact(16);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let ranges: Vec<_> = pairs.map(|pair| (u64_at(pair, 0), u64_at(pair, 8))).collect();
    let sound = ranges.iter().all(|&(first, last)| 0 < first && first <= last);
    sound.then(|| (u64_at(subscription, 0), ranges))
}

/// Appends the body of a Hand record.
pub(crate) fn write_hand(out: &mut BytesMut, subscription: u64, attempts: &Attempts) {
    out.put_u64_le(subscription);
    out.put_u64_le(attempts.handed());
    for (offset, attempts) in attempts.again() {
        out.put_u64_le(offset);
        out.put_u32_le(attempts);
    }
}

/// How many bytes [`write_hand`] appends.
pub(crate) fn hand_size(attempts: &Attempts) -> usize {
    16 + 12 * attempts.again().len()
}

/// Reads the body of a Hand record.
pub(crate) fn read_hand(body: &[u8]) -> Option<(u64, Attempts)> {
    let (header, again) = body.split_at_checked(16)?;
    let pairs = again.chunks_exact(12);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let mut attempts = Attempts::new(u64_at(header, 8));
    pairs.for_each(|pair| attempts.note(u64_at(pair, 0), u32_at(pair, 8)));
    Some((u64_at(header, 0), attempts))
}

/// The body of a Seek record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seek {
    /// The subscription's number.
    pub(crate) subscription: u64,
    /// How often it has been moved, this time included.
    pub(crate) epoch: u32,
    /// Everything at or below it counts as settled, and nothing above.
    pub(crate) floor: Offset,
}

const SEEK_BYTES: usize = 20;

impl Seek {
    /// Reads the body of a Seek record.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        (body.len() == SEEK_BYTES).then(|| Self {
            subscription: u64_at(body, 0),
            epoch: u32_at(body, 8),
            floor: u64_at(body, 12),
        })
    }

    /// Appends the body of a Seek record.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_u64_le(self.subscription);
        out.put_u32_le(self.epoch);
        out.put_u64_le(self.floor);
    }
}

/// The body of a Trim record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trim {
    /// The topic's number.
    pub(crate) topic: u64,
    /// The first message that is left, or the next one if none is.
    pub(crate) first: Offset,
    /// Bytes of the envelopes that went.
    pub(crate) bytes: u64,
}

const TRIM_BYTES: usize = 24;

impl Trim {
    /// Reads the body of a Trim record.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        (body.len() == TRIM_BYTES).then(|| Self {
            topic: u64_at(body, 0),
            first: u64_at(body, 8),
            bytes: u64_at(body, 16),
        })
    }

    /// Appends the body of a Trim record.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_u64_le(self.topic);
        out.put_u64_le(self.first);
        out.put_u64_le(self.bytes);
    }
}

/// The body of a Sweep record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// Every topic and subscription that there is has a record in a frame from this one on.
    pub(crate) since: u64,
    /// The highest number given to one.
    pub(crate) last_id: u64,
}

impl Sweep {
    /// Reads the body of a Sweep record.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        (body.len() == 16).then(|| Self { since: u64_at(body, 0), last_id: u64_at(body, 8) })
    }

    /// Appends the body of a Sweep record.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_u64_le(self.since);
        out.put_u64_le(self.last_id);
    }
}

/// Appends the body of a Removed record: the first sequence number of each segment, and of the one after.
pub(crate) fn write_removed(out: &mut BytesMut, segments: &[(u64, u64)]) {
    for &(first, next) in segments {
        out.put_u64_le(first);
        out.put_u64_le(next);
    }
}

/// Reads the body of a Removed record.
pub(crate) fn read_removed(body: &[u8]) -> Option<Vec<(u64, u64)>> {
    let pairs = body.chunks_exact(16);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let segments: Vec<_> = pairs.map(|pair| (u64_at(pair, 0), u64_at(pair, 8))).collect();
    segments.iter().all(|&(first, next)| 0 < first && first < next).then_some(segments)
}

/// The little-endian number at `at`, which the caller knows to be within bounds.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The little-endian number at `at`, which the caller knows to be within bounds.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: LogId = LogId(*b"0123456789abcdef");

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    }

    /// Change these bytes only together with [`VERSION`].
    #[test]
    fn the_bytes_of_a_segment_header() {
        let header = segment_header(LOG, 7);
        assert_eq!(
            hex(&header),
            "434f4c554d42410a010000008e7882ba070000000000000030313233343536373839616263646566"
        );
        assert_eq!(read_segment_header(&header), Ok(Some((LOG, 7))));
    }

    #[test]
    fn the_bytes_of_a_transaction() {
        const SEEK: Seek = Seek { subscription: 6, epoch: 2, floor: 3 };
        let mut attempts = Attempts::new(5);
        attempts.note(4, 3);
        let mut out = BytesMut::new();
        let messages = [Bytes::from_static(b"ab"), Bytes::new()];
        let written = write_frame(&mut out, LOG, (FrameKind::Transaction, 9, 8, Timestamp(5)), |payload| {
            write_record(payload, RecordKind::Publish, |body| Publish::write(body, 3, 4, messages.iter()));
            write_record(payload, RecordKind::Settle, |body| write_settle(body, 6, &[(1, 2), (4, 4)]));
            write_record(payload, RecordKind::Seek, |body| SEEK.write(body));
            write_record(payload, RecordKind::Hand, |body| write_hand(body, 6, &attempts));
        });
        assert_eq!(written, out.len());
        let header = "434c42660101000096000000";
        let numbers = "090000000000000008000000000000000500000000000000";
        let publish = "010000001e00000003000000000000000400000000000000020000000200000061620000_0000";
        let settle = "02000000280000000600000000000000\
             01000000000000000200000000000000\
             04000000000000000400000000000000";
        let seek = "0700000014000000060000000000000002000000\
             0300000000000000";
        let hand = "080000001c00000006000000000000000500000000000000\
             040000000000000003000000";
        let padding = "0000";
        let text = hex(&out);
        assert_eq!(text[..24], *header);
        assert_eq!(text[32..], format!("{numbers}{publish}{settle}{seek}{hand}{padding}").replace('_', ""));
        let frame = Frame::read(&out, LOG).unwrap();
        assert_eq!((frame.sequence, frame.synced, frame.time), (9, 8, Timestamp(5)));
        let payload = out.freeze().slice(FRAME_HEADER..FRAME_HEADER + frame.length as usize);
        let records = records(payload).unwrap();
        assert_eq!(Seek::read(&records[2].body), Some(SEEK));
        assert_eq!(read_hand(&records[3].body), Some((6, attempts)));
    }

    proptest! {
        /// Whatever the bytes, they are read or refused.
        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Frame::read(&bytes, LOG), Err(FrameError::Invalid));
            let bytes = Bytes::from(bytes);
            let _ = read_settle(&bytes);
            let _ = Seek::read(&bytes);
            let _ = Trim::read(&bytes);
            let _ = Sweep::read(&bytes);
            let _ = read_removed(&bytes);
            let _ = read_hand(&bytes);
            let _ = records(bytes.clone());
            if let Some(publish) = Publish::read(bytes) {
                prop_assert!(publish.envelopes().count() <= publish.count as usize);
            }
        }
    }
}
