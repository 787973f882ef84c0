//! The index of a sealed segment, in a file beside it. Missing or damaged, it is rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BufMut;

use super::format::{LogId, u32_at, u64_at};
use super::index::{Part, Run, in_order, stretches};
use crate::model::{Offset, Timestamp};

const MAGIC: &[u8; 8] = b"CLBIDX\0\x03";
/// Magic, checksum of the rest of the table, number of rows, segment, log.
const HEADER: usize = 40;
/// Topic, first, last, time, bytes, number of runs, their position, their checksum, messages.
const ROW: usize = 56;
/// First, last, time of the first, of the last, position, length, bytes, messages.
const RUN: usize = 48;

/// What one segment holds of every topic: stretches without a hole, in order.
pub(crate) type SegmentIndex = BTreeMap<u64, Vec<Arc<[Run]>>>;

/// The index of a segment whose runs were found in the order in which they were written.
pub(crate) fn index_of(written: BTreeMap<u64, Vec<Run>>) -> SegmentIndex {
    let stretches_of = |runs| stretches(&in_order(runs)).collect();
    written.into_iter().map(|(topic, runs)| (topic, stretches_of(runs))).collect()
}

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
    let count = index.values().map(Vec::len).sum();
    let table = HEADER + ROW * count;
    let (mut rows, mut runs) = (Vec::with_capacity(table), Vec::new());
    let all = index.iter().flat_map(|(&topic, stretches)| stretches.iter().map(move |runs| (topic, runs)));
    for (topic, topic_runs) in all {
        let start = runs.len();
        for run in &**topic_runs {
            runs.put_u64_le(run.first);
            runs.put_u64_le(run.last);
            runs.put_u64_le(run.time.0);
            runs.put_u64_le(run.last_time.0);
            runs.put_u32_le(run.position);
            runs.put_u32_le(run.length);
            runs.put_u32_le(run.bytes);
            runs.put_u32_le(run.messages);
        }
        let summary = Part::new(0, topic_runs);
        rows.put_u64_le(topic);
        rows.put_u64_le(summary.first);
        rows.put_u64_le(summary.last);
        rows.put_u64_le(summary.time.0);
        rows.put_u64_le(summary.bytes);
        rows.put_u32_le(length_field(topic_runs.len()));
        rows.put_u32_le(length_field(table + start));
        rows.put_u32_le(crc32c::crc32c(&runs[start..]));
        // A segment is at most 1 GiB, and a message takes some of it.
        rows.put_u32_le(u32::try_from(summary.messages).unwrap_or(u32::MAX));
    }
    let mut head = Vec::with_capacity(HEADER);
    head.put_u32_le(length_field(count));
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
            bytes: u64_at(row, 32),
            messages: u32_at(row, 52).into(),
            is_cut: false,
            runs: None,
        };
        (u64_at(row, 0), part)
    });
    Some(parts.collect())
}

/// The stretch of one topic that has this message; `None` if the sidecar is damaged there or does not know
/// it.
pub(crate) fn runs(bytes: &[u8], source: Source, topic: u64, offset: Offset) -> Option<Arc<[Run]>> {
    let has = |row: &&[u8]| u64_at(row, 0) == topic && (u64_at(row, 8)..=u64_at(row, 16)).contains(&offset);
    let row = rows(bytes, source)?.find(has)?;
    let (count, start) = (u32_at(row, 40) as usize, u32_at(row, 44) as usize);
    let stored = bytes.get(start..)?.get(..count.checked_mul(RUN)?)?;
    if count == 0 || crc32c::crc32c(stored) != u32_at(row, 48) {
        return None;
    }
    let runs = stored.chunks_exact(RUN).map(|run| Run {
        first: u64_at(run, 0),
        last: u64_at(run, 8),
        time: Timestamp(u64_at(run, 16)),
        last_time: Timestamp(u64_at(run, 24)),
        position: u32_at(run, 32),
        length: u32_at(run, 36),
        bytes: u32_at(run, 40),
        messages: u32_at(run, 44),
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
        let run = |first, last| Run {
            first,
            last,
            time: Timestamp(7),
            last_time: Timestamp(8),
            position: 40,
            length: 96,
            bytes: 50,
            messages: 3,
        };
        index_of([(3, vec![run(7, 8), run(1, 4), run(5, 5)]), (9, vec![run(2, 2)])].into())
    }

    /// Every stretch of the sample, by topic and first message.
    fn all(bytes: &[u8], source: Source) -> Option<Vec<(u64, Arc<[Run]>)>> {
        let parts = parts(bytes, source)?;
        parts.iter().map(|(topic, part)| Some((*topic, runs(bytes, source, *topic, part.first)?))).collect()
    }

    fn expected() -> Vec<(u64, Arc<[Run]>)> {
        let stretches = |(topic, runs): (u64, Vec<_>)| runs.into_iter().map(move |runs| (topic, runs));
        sample().into_iter().flat_map(stretches).collect()
    }

    #[test]
    fn decodes_what_it_encoded() {
        let bytes = encode(SOURCE, &sample());
        assert_eq!(all(&bytes, SOURCE), Some(expected()));
        assert_eq!(runs(&bytes, SOURCE, 4, 1), None);
        assert_eq!(runs(&bytes, SOURCE, 3, 6), None, "in the hole");
        assert_eq!(runs(&bytes, SOURCE, 3, 5), runs(&bytes, SOURCE, 3, 1), "within a stretch");
        let parts = parts(&bytes, SOURCE).expect("sound");
        let ends: Vec<_> =
            parts.iter().map(|(topic, part)| (*topic, part.first, part.last, part.bytes)).collect();
        assert_eq!(ends, [(3, 1, 5, 100), (3, 7, 8, 50), (9, 2, 2, 50)]);
    }

    #[test]
    fn belongs_to_one_segment_of_one_log() {
        let bytes = encode(SOURCE, &sample());
        for other in [Source { segment: 2, ..SOURCE }, Source { log: LogId([8; 16]), ..SOURCE }] {
            assert!(parts(&bytes, other).is_none());
            assert_eq!(runs(&bytes, other, 3, 1), None);
        }
    }

    #[test]
    fn notices_any_flipped_bit() {
        let sound = encode(SOURCE, &sample());
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(all(&bytes, SOURCE).is_none_or(|runs| runs == expected()), "bit {bit} changed runs");
        }
    }
}
