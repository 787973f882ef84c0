//! Messages as `subscribe` and `read` print them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::output::{Format, json_line, rfc3339};
use crate::proto::v1::{Message, StoredMessage};

/// Prints messages to standard output, one a line.
pub(super) struct Printer {
    format: Format,
    out: BufWriter<Stdout>,
    /// Whether text tells the topics.
    topics: bool,
}

impl Printer {
    pub(super) fn new(format: Format) -> Self {
        Self { format, out: BufWriter::with_capacity(1 << 16, io::stdout()), topics: false }
    }

    /// One that tells the topics as text, too: there may be several.
    pub(super) fn with_topics(self, topics: bool) -> Self {
        Self { topics, ..self }
    }

    /// Prints a message, which may stay in the buffer until [`Printer::flush`]. `attempt` is 0 where
    /// there is none.
    pub(super) fn print(&mut self, stored: &StoredMessage, attempt: u32) -> io::Result<()> {
        let empty = Message::default();
        let message = stored.message.as_ref().unwrap_or(&empty);
        match self.format {
            Format::Text => {
                let (key, data) = (printable(message.key.as_bytes()), printable(&message.data));
                if self.topics {
                    write!(self.out, "{}\t", stored.topic)?;
                }
                writeln!(self.out, "{}\t{key}\t{data}", stored.offset)
            }
            Format::Json => json_line(&mut self.out, &Line::new(stored, message, attempt)),
        }
    }

    /// Hands everything printed so far to the system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Data on one line and harmless to a terminal: text with control characters escaped, or base64.
pub(super) fn printable(data: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(data) {
        Ok(text) if !text.chars().any(char::is_control) => text.into(),
        Ok(text) => escaped(text).into(),
        Err(_) => format!("base64:{}", BASE64.encode(data)).into(),
    }
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len() + 8), |mut escaped, c| {
        if c.is_control() {
            let _ = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
        escaped
    })
}

/// A message as JSON. Empty strings are left out, except `data`.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    publish_time: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    attempt: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    causation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl<'a> Line<'a> {
    fn new(stored: &'a StoredMessage, message: &'a Message, attempt: u32) -> Self {
        let data = str::from_utf8(&message.data).ok();
        Self {
            topic: &stored.topic,
            offset: stored.offset,
            publish_time: rfc3339(stored.publish_time.as_ref()),
            attempt,
            key: &message.key,
            id: &message.id,
            kind: &message.r#type,
            content_type: &message.content_type,
            correlation_id: &message.correlation_id,
            causation_id: &message.causation_id,
            deliver_time: rfc3339(message.deliver_time.as_ref()),
            expire_time: rfc3339(message.expire_time.as_ref()),
            attributes: message.attributes.iter().map(|(name, value)| (&**name, &**value)).collect(),
            data,
            data_base64: data.is_none().then(|| BASE64.encode(&message.data)),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_on_one_line_and_off_the_terminal() {
        assert_eq!(printable(b"plain \xC3\xA9 \\n"), "plain é \\n");
        assert_eq!(printable(b"a\tb\nc\x1b[31m"), "a\\tb\\nc\\u{1b}[31m");
        assert_eq!(printable(b"\xff\x00"), "base64:/wA=");
    }

    #[test]
    fn json_has_the_id_and_the_times() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let message =
            Message { id: "i".into(), deliver_time: time(60), expire_time: time(120), ..Message::default() };
        let line = serde_json::to_value(Line::new(&StoredMessage::default(), &message, 0)).unwrap();
        let times = ["1970-01-01T00:01:00.000000Z", "1970-01-01T00:02:00.000000Z"];
        assert_eq!((&line["id"], &line["deliver_time"]), (&"i".into(), &times[0].into()));
        assert_eq!(line["expire_time"], times[1]);
    }

    #[test]
    fn json_has_text_or_base64() {
        let line = |data: &'static [u8], attempt| {
            let message = Message { data: data.into(), key: "k".into(), ..Message::default() };
            let stored = StoredMessage { topic: "t".into(), offset: 7, ..StoredMessage::default() };
            serde_json::to_string(&Line::new(&stored, &message, attempt)).unwrap()
        };
        assert_eq!(line(b"a\"b", 2), r#"{"topic":"t","offset":7,"attempt":2,"key":"k","data":"a\"b"}"#);
        assert_eq!(line(b"\xff", 0), r#"{"topic":"t","offset":7,"key":"k","data_base64":"/w=="}"#);
    }
}
