//! The index of a sealed segment, in a file beside it. Missing or damaged, it is rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BufMut;

use super::format::{LogId, u32_at, u64_at};
use super::index::{Part, Run};
use crate::model::Timestamp;

const MAGIC: &[u8; 8] = b"CLBIDX\0\x02";
/// Magic, checksum of the rest of the table, number of rows, segment, log.
const HEADER: usize = 40;
/// Topic, first, last, time, number of runs, their position, their checksum, padding.
const ROW: usize = 48;
/// First, last, time, position, length.
const RUN: usize = 32;

/// What one segment holds of every topic.
pub(crate) type SegmentIndex = BTreeMap<u64, Arc<[Run]>>;

/// What a sidecar describes. One that was made of another segment, or of another log, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// The log.
    pub(crate) log: LogId,
    /// The segment's first sequence number.
    pub(crate) segment: u64,
}

/// Encodes a sidecar.
pub(crate) fn encode(source: Source, index: &SegmentIndex) -> Vec<u8> {
    let table = HEADER + ROW * index.len();
    let (mut rows, mut runs) = (Vec::with_capacity(table), Vec::new());
    for (&topic, topic_runs) in index {
        let start = runs.len();
        for run in &**topic_runs {
            runs.put_u64_le(run.first);
            runs.put_u64_le(run.last);
            runs.put_u64_le(run.time.0);
            runs.put_u32_le(run.position);
            runs.put_u32_le(run.length);
        }
        let summary = Part::new(0, topic_runs);
        rows.put_u64_le(topic);
        rows.put_u64_le(summary.first);
        rows.put_u64_le(summary.last);
        rows.put_u64_le(summary.time.0);
        rows.put_u32_le(length_field(topic_runs.len()));
        rows.put_u32_le(length_field(table + start));
        rows.put_u32_le(crc32c::crc32c(&runs[start..]));
        rows.put_u32_le(0);
    }
    let mut head = Vec::with_capacity(HEADER);
    head.put_u32_le(length_field(index.len()));
    head.put_u64_le(source.segment);
    head.put_slice(&source.log.0);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&head), &rows);
    let mut bytes = Vec::with_capacity(table + runs.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&rows);
    bytes.extend_from_slice(&runs);
    bytes
}

fn length_field(length: usize) -> u32 {
    u32::try_from(length).expect("a segment is at most 1 GiB, and its index smaller")
}

/// The table of a sidecar: the segment's part of each topic, its runs left in the file. `None` if the
/// sidecar is damaged.
pub(crate) fn parts(bytes: &[u8], source: Source) -> Option<Vec<(u64, Part)>> {
    let parts = rows(bytes, source)?.map(|row| {
        let part = Part {
            segment: source.segment,
            first: u64_at(row, 8),
            last: u64_at(row, 16),
            time: Timestamp(u64_at(row, 24)),
            runs: None,
        };
        (u64_at(row, 0), part)
    });
    Some(parts.collect())
}

/// The runs of one topic; `None` if the sidecar is damaged there or does not know the topic.
pub(crate) fn runs(bytes: &[u8], source: Source, topic: u64) -> Option<Arc<[Run]>> {
    let row = rows(bytes, source)?.find(|row| u64_at(row, 0) == topic)?;
    let (count, start) = (u32_at(row, 32) as usize, u32_at(row, 36) as usize);
    let stored = bytes.get(start..)?.get(..count.checked_mul(RUN)?)?;
    if count == 0 || crc32c::crc32c(stored) != u32_at(row, 40) {
        return None;
    }
    let runs = stored.chunks_exact(RUN).map(|run| Run {
        first: u64_at(run, 0),
        last: u64_at(run, 8),
        time: Timestamp(u64_at(run, 16)),
        position: u32_at(run, 24),
        length: u32_at(run, 28),
    });
    Some(runs.collect())
}

fn rows(bytes: &[u8], source: Source) -> Option<impl Iterator<Item = &[u8]>> {
    let header = bytes.get(..HEADER)?;
    let count = u32_at(header, 12) as usize;
    let rows = bytes.get(HEADER..)?.get(..count.checked_mul(ROW)?)?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[12..]), rows);
    let of_it = u64_at(header, 16) == source.segment && header[24..] == source.log.0;
    let sound = header.starts_with(MAGIC) && u32_at(header, 8) == checksum;
    (sound && of_it).then(|| rows.chunks_exact(ROW))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source { log: LogId([7; 16]), segment: 1 };

    fn sample() -> SegmentIndex {
        let run = |first, last| Run { first, last, time: Timestamp(7), position: 40, length: 96 };
        BTreeMap::from([(3, vec![run(1, 4), run(5, 5)].into()), (9, vec![run(2, 2)].into())])
    }

    #[test]
    fn decodes_what_it_encoded() {
        let bytes = encode(SOURCE, &sample());
        for (topic, expected) in sample() {
            assert_eq!(runs(&bytes, SOURCE, topic).expect("known topic"), expected);
        }
        assert_eq!(runs(&bytes, SOURCE, 4), None);
        let parts = parts(&bytes, SOURCE).expect("sound");
        assert_eq!(
            parts.iter().map(|(topic, part)| (*topic, part.last)).collect::<Vec<_>>(),
            [(3, 5), (9, 2)]
        );
    }

    #[test]
    fn belongs_to_one_segment_of_one_log() {
        let bytes = encode(SOURCE, &sample());
        for other in [Source { segment: 2, ..SOURCE }, Source { log: LogId([8; 16]), ..SOURCE }] {
            assert!(parts(&bytes, other).is_none());
            assert_eq!(runs(&bytes, other, 3), None);
        }
    }

    #[test]
    fn notices_any_flipped_bit() {
        let sound = encode(SOURCE, &sample());
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let same = |topic| runs(&bytes, SOURCE, topic) == runs(&sound, SOURCE, topic);
            let noticed = parts(&bytes, SOURCE).is_none() || !same(3) || !same(9);
            assert!(noticed || runs(&bytes, SOURCE, 3).is_some(), "bit {bit}");
            for (topic, expected) in sample() {
                assert!(
                    runs(&bytes, SOURCE, topic).is_none_or(|runs| runs == expected),
                    "bit {bit} changed runs"
                );
            }
        }
    }
}
