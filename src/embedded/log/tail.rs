//! The newest part of the log in memory, as it was written: live subscribers read it by reference.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

/// The last written buffers, up to a number of bytes.
pub(crate) struct Tail {
    limit: usize,
    chunks: RwLock<Chunks>,
}

#[derive(Default)]
struct Chunks {
    /// In the order of the log.
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

struct Chunk {
    segment: u64,
    position: u32,
    bytes: Bytes,
}

impl Tail {
    /// Keeps at most `limit` bytes, and the newest buffer in any case.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, chunks: RwLock::default() }
    }

    /// Adds what was written at `position` of `segment`. Returns what had to go.
    pub(crate) fn push(&self, segment: u64, position: u32, bytes: Bytes) {
        let mut dropped = Vec::new();
        let mut chunks = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
        chunks.bytes += bytes.len();
        chunks.chunks.push_back(Chunk { segment, position, bytes });
        while chunks.bytes > self.limit && chunks.chunks.len() > 1 {
            let oldest = chunks.chunks.pop_front().expect("more than one");
            chunks.bytes -= oldest.bytes.len();
            dropped.push(oldest);
        }
        // Freed only after readers can go on.
        drop(chunks);
    }

    /// The bytes at a place, if they are in one buffer that is still here.
    pub(crate) fn get(&self, segment: u64, position: u32, length: u32) -> Option<Bytes> {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let place = (segment, position);
        let after = chunks.chunks.partition_point(|chunk| (chunk.segment, chunk.position) <= place);
        let chunk = chunks.chunks.get(after.checked_sub(1)?)?;
        if chunk.segment != segment {
            return None;
        }
        let start = (position - chunk.position) as usize;
        let end = start + length as usize;
        (end <= chunk.bytes.len()).then(|| chunk.bytes.slice(start..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_it_holds_and_forgets_the_oldest() {
        let tail = Tail::new(8);
        tail.push(1, 40, Bytes::from_static(b"abcd"));
        tail.push(1, 44, Bytes::from_static(b"efgh"));
        assert_eq!(tail.get(1, 41, 2).as_deref(), Some(&b"bc"[..]));
        assert_eq!(tail.get(1, 43, 2), None, "across buffers");
        assert_eq!(tail.get(2, 41, 2), None, "another segment");
        tail.push(9, 40, Bytes::from_static(b"ij"));
        assert_eq!(tail.get(1, 41, 2), None, "over the limit");
        assert_eq!(tail.get(1, 44, 4).as_deref(), Some(&b"efgh"[..]));
        assert_eq!(tail.get(9, 40, 2).as_deref(), Some(&b"ij"[..]));
        assert_eq!(tail.get(0, 40, 2), None);
    }
}
