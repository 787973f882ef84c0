//! Watches CSV on its way to the parser, for two things that the parser does not tell: whether a quote
//! is ever closed (a truncated file would lose its last rows into one field, and a stray quote would
//! read all the rest into memory), and on which line each row begins.

use std::collections::VecDeque;
use std::io::{self, Read};

use crate::model::limits::MAX_MESSAGE_BYTES;

/// Longest quoted field: no topic takes a longer message.
const MAX_QUOTED_BYTES: u64 = MAX_MESSAGE_BYTES as u64;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Passes CSV through and follows its quotes and rows, by the rules of RFC 4180.
pub(super) struct QuoteGuard<R> {
    inner: R,
    state: State,
    /// The line, from 1.
    line: u64,
    /// Bytes passed.
    position: u64,
    /// How many of them are whole rows.
    row_end: u64,
    /// The lines where the rows that were passed and not yet asked for begin; no more than the
    /// parser's buffer has bytes.
    rows: VecDeque<u64>,
}

#[derive(Clone, Copy)]
enum State {
    /// Before a row, or on an empty line, which is none.
    RowStart,
    /// A quote would open a quoted field.
    FieldStart,
    /// A quote would be a character like any other.
    Plain,
    /// Between quotes.
    Quoted { opened: u64, length: u64 },
    /// After a quote between quotes: it closes the field, or another makes the two of them one.
    QuoteInQuoted { opened: u64, length: u64 },
}

impl<R> QuoteGuard<R> {
    pub(super) fn new(inner: R) -> Self {
        let rows = VecDeque::new();
        Self { inner, state: State::RowStart, line: 1, position: 0, row_end: 0, rows }
    }

    /// The line where the next row begins. To be called once for each row.
    pub(super) fn next_row(&mut self) -> u64 {
        self.rows.pop_front().unwrap_or(self.line)
    }

    /// How many of the bytes passed are whole rows.
    pub(super) fn row_end(&self) -> u64 {
        self.row_end
    }

    fn pass(&mut self, byte: u8) -> io::Result<()> {
        let is_mark = self.position < 3 && BYTE_ORDER_MARK.contains(&byte);
        self.position += 1;
        if matches!(self.state, State::RowStart) && !matches!(byte, b'\r' | b'\n') && !is_mark {
            self.rows.push_back(self.line);
            self.state = State::FieldStart;
        }
        self.state = self.state.after(byte, self.line)?;
        if byte == b'\n' {
            self.line += 1;
            if matches!(self.state, State::RowStart) {
                self.row_end = self.position;
            }
        }
        Ok(())
    }

    fn end(&self) -> io::Result<()> {
        match self.state {
            State::Quoted { opened, .. } => Err(refusal(opened, "is never closed")),
            _ => Ok(()),
        }
    }
}

impl State {
    fn after(self, byte: u8, line: u64) -> io::Result<Self> {
        Ok(match (self, byte) {
            (Self::FieldStart, b'"') => Self::Quoted { opened: line, length: 0 },
            (Self::Quoted { opened, length }, b'"') => Self::QuoteInQuoted { opened, length },
            (Self::Quoted { opened, length: MAX_QUOTED_BYTES }, _) => {
                return Err(refusal(opened, &format!("is still open after {MAX_QUOTED_BYTES} bytes")));
            }
            (Self::Quoted { opened, length }, _) => Self::Quoted { opened, length: length + 1 },
            (Self::QuoteInQuoted { opened, length }, b'"') => Self::Quoted { opened, length: length + 1 },
            (_, b'\n' | b'\r') => Self::RowStart,
            (_, b',') => Self::FieldStart,
            // Only a byte order mark is left here.
            (Self::RowStart, _) => Self::RowStart,
            _ => Self::Plain,
        })
    }
}

fn refusal(line: u64, what: &str) -> io::Error {
    let message = format!("line {line}: the quote that opens here {what}");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl<R: Read> Read for QuoteGuard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.end()?;
        }
        for &byte in &buffer[..read] {
            self.pass(byte)?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(input: &[u8]) -> Result<usize, String> {
        let mut guard = QuoteGuard::new(input);
        guard.read_to_end(&mut Vec::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn passes_what_is_closed() {
        for good in ["", "a", "\"a\"", "\"a\"\"b\"", "\"\"", "a\"b", "\"a\nb\",\"c\"\n", "\u{feff}\"a\""] {
            assert_eq!(passes(good.as_bytes()), Ok(good.len()), "{good:?}");
        }
    }

    #[test]
    fn names_the_line_where_the_open_quote_began() {
        for (bad, line) in [("\"", 1), ("a\n1,\"x\ny\n", 2), ("\"a\"\"", 1), ("\u{feff}\"a", 1)] {
            let message = format!("line {line}: the quote that opens here is never closed");
            assert_eq!(passes(bad.as_bytes()), Err(message), "{bad:?}");
        }
    }

    #[test]
    fn gives_up_on_a_quote_that_swallows_the_file() {
        let mut input = vec![b'"'];
        input.resize(MAX_MESSAGE_BYTES as usize + 2, b'x');
        assert!(passes(&input).unwrap_err().contains("still open"));
    }
}
