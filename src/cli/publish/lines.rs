//! Input with one message a line: as it is, or checked as JSON.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use super::super::error::Error;
use super::input::{Names, Record, Source};
use crate::model::limits::MAX_MESSAGE_BYTES;

/// Longest line: no topic takes a longer message.
const MAX_LINE_BYTES: u64 = MAX_MESSAGE_BYTES as u64;

/// Every line is the data of one message, without the line's end (`\n` or `\r\n`).
pub(super) struct Lines<R> {
    name: String,
    reader: BufReader<R>,
    /// Lines read so far.
    line: u64,
    /// Bytes read so far.
    position: u64,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(name: String, reader: BufReader<R>) -> Self {
        Self { name, reader, line: 0, position: 0 }
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut line = Vec::new();
        // Two more for the line's end.
        let read = self.reader.by_ref().take(MAX_LINE_BYTES + 2).read_until(b'\n', &mut line);
        let read = read.map_err(|error| Error::Input(format!("cannot read {}: {error}", self.name)))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.position += read as u64;
        if line.pop_if(|last| *last == b'\n').is_some() {
            line.pop_if(|last| *last == b'\r');
        }
        if line.len() as u64 > MAX_LINE_BYTES {
            return Err(self.bad(&format!("is over {MAX_LINE_BYTES} bytes long, more than a message can be")));
        }
        Ok(Some(line))
    }

    fn bad(&self, what: &str) -> Error {
        Error::Input(format!("{} line {} {what}", self.name, self.line))
    }

    fn has_line_buffered(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

impl<R: Read + Send> Source for Lines<R> {
    fn next(&mut self) -> Result<Option<Record>, Error> {
        let line = self.next_line()?;
        Ok(line.map(|line| Record { data: line.into(), key: None, id: None, position: self.position }))
    }

    fn at_hand(&self) -> bool {
        self.has_line_buffered()
    }
}

/// Every line is a JSON value; blank lines are skipped.
pub(super) struct Ndjson<R> {
    lines: Lines<R>,
    /// The fields whose values are the key and the id.
    names: Names,
}

impl<R: Read> Ndjson<R> {
    pub(super) fn new(lines: Lines<R>, names: Names) -> Self {
        Self { lines, names }
    }

    /// Checks a line and finds its key and id. Without a field for either, nothing is kept of what is
    /// parsed.
    fn names(&self, line: &[u8]) -> Result<Names, Error> {
        let no_json = |error: serde_json::Error| {
            // The error's own line number is always 1.
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or_default();
            self.lines.bad(&format!("is not JSON: {what} at column {}", error.column()))
        };
        let Names { key, id } = &self.names;
        if key.is_none() && id.is_none() {
            let checked = serde_json::from_slice::<serde::de::IgnoredAny>(line);
            return checked.map(|_| Names::default()).map_err(no_json);
        }
        let value = serde_json::from_slice::<Value>(line).map_err(no_json)?;
        let key = key.as_ref().map(|field| self.name(&value, field, "key")).transpose()?;
        let id = id.as_ref().map(|field| self.name(&value, field, "id")).transpose()?;
        if id.as_ref().is_some_and(String::is_empty) {
            return Err(self.lines.bad("has an empty id"));
        }
        Ok(Names { key, id })
    }

    /// The value of a field as a key or id.
    fn name(&self, value: &Value, field: &str, what: &str) -> Result<String, Error> {
        match value.get(field) {
            Some(Value::String(name)) => Ok(name.clone()),
            Some(Value::Null) => Ok(String::new()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            Some(_) => {
                Err(self.lines.bad(&format!("has an object or array in {field:?}, which is no {what}")))
            }
            None => Err(self.lines.bad(&format!("has no field {field:?} for the {what}"))),
        }
    }
}

impl<R: Read + Send> Source for Ndjson<R> {
    fn next(&mut self) -> Result<Option<Record>, Error> {
        while let Some(line) = self.lines.next_line()? {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let Names { key, id } = self.names(&line)?;
            return Ok(Some(Record { data: line.into(), key, id, position: self.lines.position }));
        }
        Ok(None)
    }

    fn at_hand(&self) -> bool {
        self.lines.has_line_buffered()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Lines<&[u8]> {
        Lines::new("in".into(), BufReader::new(input))
    }

    fn all(mut source: impl Source) -> (Vec<(String, Option<String>)>, Option<String>) {
        let mut records = Vec::new();
        loop {
            match source.next() {
                Ok(Some(record)) => {
                    records.push((String::from_utf8(record.data.into()).unwrap(), record.key));
                }
                Ok(None) => return (records, None),
                Err(error) => return (records, Some(error.to_string())),
            }
        }
    }

    fn ndjson(input: &str, key: Option<&str>) -> (Vec<(String, Option<String>)>, Option<String>) {
        let names = Names { key: key.map(Into::into), id: None };
        all(Ndjson::new(lines(input.as_bytes()), names))
    }

    #[test]
    fn lines_end_with_or_without_carriage_return() {
        let (records, error) = all(lines(b"a\r\nb\n\nc\r"));
        let data: Vec<_> = records.iter().map(|(data, _)| data.as_str()).collect();
        assert_eq!((data, error), (vec!["a", "b", "", "c\r"], None));
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        let longest = vec![b'x'; MAX_MESSAGE_BYTES as usize];
        for (extra, fits) in [("", true), ("\n", true), ("\r\n", true), ("x", false), ("x\n", false)] {
            let input = [&longest, extra.as_bytes()].concat();
            let (records, error) = all(lines(&input));
            assert_eq!((records.len(), error.is_none()), (usize::from(fits), fits), "{extra:?}");
        }
    }

    #[test]
    fn only_whole_lines_are_at_hand() {
        let mut source = lines(b"a\nb\nc");
        assert!(!source.at_hand(), "nothing is buffered before the first read");
        source.next().unwrap();
        assert!(source.at_hand());
        source.next().unwrap();
        assert!(!source.at_hand(), "half a line would have to be waited for");
    }

    #[test]
    fn json_is_checked_and_kept_as_it_came() {
        let (records, error) = ndjson("{\"a\": 1.50}\n\n[1]\n{\"a\":\n", None);
        let data: Vec<_> = records.iter().map(|(data, _)| data.as_str()).collect();
        assert_eq!(data, ["{\"a\": 1.50}", "[1]"]);
        assert_eq!(error.unwrap(), "in line 4 is not JSON: EOF while parsing a value at column 5");
    }

    #[test]
    fn ids_come_from_a_field_and_are_never_empty() {
        let names = || Names { key: Some("k".into()), id: Some("i".into()) };
        let mut source =
            Ndjson::new(lines(b"{\"i\":7,\"k\":null}\n{\"i\":null,\"k\":1}\n{\"k\":1}"), names());
        let record = source.next().unwrap().unwrap();
        assert_eq!((record.id.as_deref(), record.key.as_deref()), (Some("7"), Some("")));
        assert_eq!(source.next().unwrap_err().to_string(), "in line 2 has an empty id");
        assert_eq!(source.next().unwrap_err().to_string(), "in line 3 has no field \"i\" for the id");
    }

    #[test]
    fn keys_come_from_a_field() {
        let (records, error) =
            ndjson("{\"k\":\"x\"}\n{\"k\":7}\n{\"k\":null}\n{\"k\":true}\n{\"a\":1}", Some("k"));
        let keys: Vec<_> = records.iter().map(|(_, key)| key.as_deref().unwrap()).collect();
        assert_eq!(keys, ["x", "7", "", "true"]);
        assert_eq!(error.unwrap(), "in line 5 has no field \"k\" for the key");
        assert!(ndjson("{\"k\":[]}", Some("k")).1.unwrap().contains("no key"));
        assert!(ndjson("7", Some("k")).1.unwrap().contains("no field"));
    }
}
