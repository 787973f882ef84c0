//! Reads a segment from its beginning, and tells sound frames, damage and a torn end apart.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{ALIGNMENT, FRAME_HEADER, Frame, FrameError, LogId, MAX_PAYLOAD, SEGMENT_HEADER, size};
use super::fs::File;

/// How much is read at once.
const WINDOW: usize = 4 << 20;

/// What is next in a segment.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// A sound frame, the next in sequence.
    Frame {
        /// Where it begins.
        position: u64,
        /// Its header.
        frame: Frame,
        /// All its bytes.
        bytes: Bytes,
    },
    /// Frames are missing that were durable once.
    Damage {
        /// Where the damage begins.
        position: u64,
        /// The first missing sequence number.
        first: u64,
        /// The last missing sequence number.
        last: u64,
    },
    /// Nothing more. What follows in the file, if anything, was never acknowledged.
    End {
        /// Where the last sound frame ends.
        position: u64,
    },
}

/// Why a segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a frame of format version {0}")]
    UnknownVersion(u8),
}

/// Reads one segment.
pub(crate) struct Scanner {
    file: Arc<dyn File>,
    log: LogId,
    len: u64,
    position: u64,
    expected: u64,
    /// The first sequence number of the next segment. Its existence proves that everything before it
    /// was durable.
    next_segment: Option<u64>,
    window: Bytes,
    window_at: u64,
}

impl Scanner {
    /// Begins at the first frame, which should have the sequence number `first`.
    pub(crate) fn new(
        file: Arc<dyn File>,
        log: LogId,
        first: u64,
        next_segment: Option<u64>,
    ) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self {
            file,
            log,
            len,
            position: SEGMENT_HEADER as u64,
            expected: first,
            next_segment,
            window: Bytes::new(),
            window_at: 0,
        })
    }

    /// Finds what is next. Not to be called again after an end.
    pub(crate) fn next(&mut self) -> Result<Found, ScanError> {
        if self.next_segment == Some(self.expected) {
            return Ok(Found::End { position: self.position });
        }
        let found = self.frame_at(self.position)?;
        if let Some((frame, bytes)) = found
            && frame.sequence == self.expected
        {
            let position = self.position;
            self.position += bytes.len() as u64;
            self.expected += 1;
            return Ok(Found::Frame { position, frame, bytes });
        }
        self.skip()
    }

    /// The bytes at the current position are not the frame that should be there.
    fn skip(&mut self) -> Result<Found, ScanError> {
        let (position, first) = (self.position, self.expected);
        let later = self.find_after(position)?;
        let resume = match (later, self.next_segment) {
            (Some((at, frame)), Some(_)) => Some((at, frame.sequence)),
            (Some((at, frame)), None) => self.proves_damage(at, frame)?.then_some((at, frame.sequence)),
            (None, Some(next)) => Some((self.len, next)),
            (None, None) => None,
        };
        let Some((at, sequence)) = resume else { return Ok(Found::End { position }) };
        self.position = at;
        self.expected = sequence;
        Ok(Found::Damage { position, first, last: sequence - 1 })
    }

    /// Whether a frame from `at` on, the first of which is given, was written when what is missing was
    /// durable. If none was, the hole and all after it are one torn write.
    fn proves_damage(&mut self, mut at: u64, mut frame: Frame) -> Result<bool, ScanError> {
        loop {
            if frame.synced > self.expected {
                return Ok(true);
            }
            match self.find_after(at + frame.size() as u64)? {
                Some((next, next_frame)) => (at, frame) = (next, next_frame),
                None => return Ok(false),
            }
        }
    }

    /// The first sound frame at or after `position` with a sequence number above the expected one.
    fn find_after(&mut self, position: u64) -> Result<Option<(u64, Frame)>, ScanError> {
        let mut at = position.next_multiple_of(ALIGNMENT as u64);
        while at + FRAME_HEADER as u64 <= self.len {
            let rest = self.rest_of_window(at)?;
            let zeros = rest.chunks_exact(ALIGNMENT).take_while(|word| word.iter().all(|&byte| byte == 0));
            let zeros = zeros.count() * ALIGNMENT;
            if zeros > 0 {
                at += zeros as u64;
                continue;
            }
            if let Some((frame, _)) = self.frame_at(at)?
                && frame.sequence > self.expected
            {
                return Ok(Some((at, frame)));
            }
            at += ALIGNMENT as u64;
        }
        Ok(None)
    }

    /// The sound frame at a position, if there is one.
    fn frame_at(&mut self, at: u64) -> Result<Option<(Frame, Bytes)>, ScanError> {
        let Some(header) = self.bytes(at, FRAME_HEADER)? else { return Ok(None) };
        let Some(length) = Frame::peek(&header).filter(|&length| length as usize <= MAX_PAYLOAD) else {
            return Ok(None);
        };
        let Some(bytes) = self.bytes(at, size(length as usize))? else { return Ok(None) };
        match Frame::read(&bytes, self.log) {
            Ok(frame) => Ok(Some((frame, bytes))),
            Err(FrameError::Invalid) => Ok(None),
            Err(FrameError::UnknownVersion(version)) => Err(ScanError::UnknownVersion(version)),
        }
    }

    /// What the window holds from `at` on; at least a header.
    fn rest_of_window(&mut self, at: u64) -> io::Result<Bytes> {
        self.bytes(at, FRAME_HEADER)?;
        let start = usize::try_from(at - self.window_at).expect("the window is loaded there");
        Ok(self.window.slice(start..))
    }

    fn bytes(&mut self, at: u64, length: usize) -> io::Result<Option<Bytes>> {
        if at + length as u64 > self.len {
            return Ok(None);
        }
        let end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + length as u64 > end {
            let available = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            let mut window = vec![0; length.max(WINDOW).min(available)];
            self.file.read_at(&mut window, at)?;
            self.window = window.into();
            self.window_at = at;
        }
        let start = usize::try_from(at - self.window_at).expect("within the window");
        Ok(Some(self.window.slice(start..start + length)))
    }
}
