//! Checks an encoded `Message` without decoding it into fields.
//!
//! The server keeps the producer's bytes, so all it needs to know is that every client can decode
//! them and that they are within the limits. Walking the wire format does that with no allocation.

use prost::Message as _;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::validate::{self, Violations};
use crate::model::limits::{
    MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES, MAX_DELIVERY_DELAY, MAX_KEY_BYTES,
    MAX_MESSAGE_ID_BYTES, MAX_MESSAGE_LABEL_BYTES,
};
use crate::model::{Header, Timestamp};

/// What is wrong with a message.
struct Problem {
    /// The field of the message; empty for the message itself.
    field: &'static str,
    reason: &'static str,
    description: String,
}

/// What was found on a walk over a message.
#[derive(Default)]
struct Problems(Vec<Problem>);

type Result<T> = std::result::Result<T, Problem>;

/// Checks the encoded message at this place of a publish; notes all that is wrong.
pub(super) fn check(violations: &mut Violations, index: usize, encoded: &[u8]) {
    for Problem { field, reason, description } in problems(encoded) {
        let dot = if field.is_empty() { "" } else { "." };
        violations.add(&format!("messages[{index}]{dot}{field}"), reason, description);
    }
}

/// All that is wrong with an encoded `columba.v1.Message`.
fn problems(encoded: &[u8]) -> Vec<Problem> {
    let mut problems = Problems::default();
    // What cannot be decoded ends the walk: nothing tells where the next field begins.
    if let Err(malformed) = problems.walk(encoded) {
        problems.0.push(malformed);
    } else {
        problems.schedule(encoded);
    }
    problems.0
}

impl Problems {
    /// The fields of `columba.v1.Message`, by number.
    fn walk(&mut self, mut encoded: &[u8]) -> Result<()> {
        let mut attributes = 0;
        while encoded.has_remaining() {
            let (number, wire) = key(&mut encoded)?;
            match number {
                1 => _ = bytes(wire, &mut encoded, "data")?,
                2 => self.text(wire, &mut encoded, "key", MAX_KEY_BYTES)?,
                3 => {
                    attributes += 1;
                    self.attribute(bytes(wire, &mut encoded, "attributes")?)?;
                }
                4 => self.text(wire, &mut encoded, "id", MAX_MESSAGE_ID_BYTES)?,
                5 => self.text(wire, &mut encoded, "type", MAX_MESSAGE_LABEL_BYTES)?,
                6 => self.text(wire, &mut encoded, "content_type", MAX_MESSAGE_LABEL_BYTES)?,
                7 => self.text(wire, &mut encoded, "correlation_id", MAX_MESSAGE_LABEL_BYTES)?,
                8 => self.text(wire, &mut encoded, "causation_id", MAX_MESSAGE_LABEL_BYTES)?,
                9 => self.time(wire, &mut encoded, "deliver_time")?,
                10 => self.time(wire, &mut encoded, "expire_time")?,
                unknown => skip(wire, unknown, &mut encoded)?,
            }
        }
        if attributes > MAX_ATTRIBUTES {
            let description = format!("has {attributes} entries; at most {MAX_ATTRIBUTES} are allowed");
            self.0.push(Problem { field: "attributes", reason: "TOO_MANY_ATTRIBUTES", description });
        }
        Ok(())
    }

    /// A `google.protobuf.Timestamp`.
    fn time(&mut self, wire: WireType, encoded: &mut &[u8], field: &'static str) -> Result<()> {
        let time = bytes(wire, encoded, field)?;
        let time =
            prost_types::Timestamp::decode(time).map_err(|error| malformed(field, &error.to_string()))?;
        if let Err(description) = validate::timestamp(time) {
            self.0.push(Problem { field, reason: "INVALID_TIMESTAMP", description });
        }
        Ok(())
    }

    /// What the times of a message say about each other, and about the time now.
    fn schedule(&mut self, encoded: &[u8]) {
        let Header { deliver_time, expire_time, .. } = Header::read(encoded);
        let latest = Timestamp::now().after(MAX_DELIVERY_DELAY);
        if deliver_time.is_some_and(|time| time > latest) {
            let description = "is more than 10 years ahead; use a nearer time".into();
            self.0.push(Problem { field: "deliver_time", reason: "OUT_OF_RANGE", description });
        }
        if let (Some(deliver), Some(expire)) = (deliver_time, expire_time)
            && expire <= deliver
        {
            let description = "is not after deliver_time, so nobody would ever get the message".into();
            self.0.push(Problem { field: "expire_time", reason: "OUT_OF_RANGE", description });
        }
    }

    /// One entry of the attributes, which on the wire is a message of a name and a value.
    fn attribute(&mut self, mut entry: &[u8]) -> Result<()> {
        let mut named = false;
        while entry.has_remaining() {
            let (number, wire) = key(&mut entry)?;
            match number {
                1 => {
                    let name = bytes(wire, &mut entry, "attributes")?;
                    self.limited_text(name, "attributes", MAX_ATTRIBUTE_NAME_BYTES)?;
                    named = !name.is_empty();
                }
                2 => self.text(wire, &mut entry, "attributes", MAX_ATTRIBUTE_VALUE_BYTES)?,
                unknown => skip(wire, unknown, &mut entry)?,
            }
        }
        if !named {
            let description = "has an entry without a name; give it one of 1 to 255 bytes".into();
            self.0.push(Problem { field: "attributes", reason: "INVALID_ATTRIBUTE", description });
        }
        Ok(())
    }

    fn text(&mut self, wire: WireType, encoded: &mut &[u8], field: &'static str, max: usize) -> Result<()> {
        self.limited_text(bytes(wire, encoded, field)?, field, max)
    }

    fn limited_text(&mut self, content: &[u8], field: &'static str, max_bytes: usize) -> Result<()> {
        if content.len() > max_bytes {
            let description =
                format!("has a text of {} bytes; at most {max_bytes} are allowed", content.len());
            self.0.push(Problem { field, reason: "TOO_LONG", description });
        } else {
            str::from_utf8(content).map_err(|error| malformed(field, &error.to_string()))?;
        }
        Ok(())
    }
}

fn key(encoded: &mut &[u8]) -> Result<(u32, WireType)> {
    let (number, wire) = decode_key(encoded).map_err(|error| malformed("", &error.to_string()))?;
    Ok((number, wire))
}

fn skip(wire: WireType, number: u32, encoded: &mut &[u8]) -> Result<()> {
    skip_field(wire, number, encoded, DecodeContext::default())
        .map_err(|error| malformed("", &error.to_string()))
}

/// The content of a length-delimited field.
fn bytes<'a>(wire: WireType, encoded: &mut &'a [u8], field: &'static str) -> Result<&'a [u8]> {
    if wire != WireType::LengthDelimited {
        return Err(malformed(field, &format!("wire type {wire:?} where bytes belong")));
    }
    let length = decode_varint(encoded).map_err(|error| malformed(field, &error.to_string()))?;
    usize::try_from(length)
        .ok()
        .and_then(|length| encoded.split_off(..length))
        .ok_or_else(|| malformed(field, "the message ends within the field"))
}

fn malformed(field: &'static str, problem: &str) -> Problem {
    let description = format!("is not an encoded columba.v1.Message: {problem}");
    Problem { field, reason: "MALFORMED_MESSAGE", description }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto::v1::Message;

    fn problem(message: &Message) -> (&'static str, &'static str) {
        let problems = problems(&message.encode_to_vec());
        assert_eq!(problems.len(), 1);
        (problems[0].field, problems[0].reason)
    }

    #[test]
    fn accepts_messages_at_their_limits() {
        let attribute = |n: usize| (format!("{n:0>255}"), "v".repeat(8_192));
        let message = Message {
            data: vec![0; 100].into(),
            key: "k".repeat(1_024),
            attributes: (0..64).map(attribute).collect(),
            r#type: "t".repeat(255),
            content_type: "t".repeat(255),
            correlation_id: "t".repeat(255),
            causation_id: "t".repeat(255),
            id: "i".repeat(255),
            deliver_time: Some(prost_types::Timestamp { seconds: 0, nanos: 999_999_999 }),
            expire_time: Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 0 }),
        };
        assert!(problems(&message.encode_to_vec()).is_empty());
        assert!(problems(&[]).is_empty());
    }

    #[test]
    fn names_the_field_beyond_its_limit() {
        let of = Message::default;
        let long = || "t".repeat(256);
        assert_eq!(problem(&Message { key: "k".repeat(1_025), ..of() }), ("key", "TOO_LONG"));
        assert_eq!(problem(&Message { r#type: long(), ..of() }), ("type", "TOO_LONG"));
        assert_eq!(problem(&Message { content_type: long(), ..of() }), ("content_type", "TOO_LONG"));
        assert_eq!(problem(&Message { correlation_id: long(), ..of() }), ("correlation_id", "TOO_LONG"));
        assert_eq!(problem(&Message { causation_id: long(), ..of() }), ("causation_id", "TOO_LONG"));
        assert_eq!(problem(&Message { id: long(), ..of() }), ("id", "TOO_LONG"));
        let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        let bad = "INVALID_TIMESTAMP";
        assert_eq!(problem(&Message { deliver_time: at(0, -1), ..of() }), ("deliver_time", bad));
        assert_eq!(problem(&Message { expire_time: at(i64::MAX, 0), ..of() }), ("expire_time", bad));
        let far = Message { deliver_time: at(253_402_300_799, 0), ..of() };
        assert_eq!(problem(&far), ("deliver_time", "OUT_OF_RANGE"));
        let never = Message { deliver_time: at(9, 0), expire_time: at(9, 0), ..of() };
        assert_eq!(problem(&never), ("expire_time", "OUT_OF_RANGE"));
        let with = |attributes: HashMap<String, String>| Message { attributes, ..of() };
        let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(problem(&with(many)), ("attributes", "TOO_MANY_ATTRIBUTES"));
        let unnamed = [(String::new(), "v".into())].into();
        assert_eq!(problem(&with(unnamed)), ("attributes", "INVALID_ATTRIBUTE"));
        let value = [("n".into(), "v".repeat(8_193))].into();
        assert_eq!(problem(&with(value)), ("attributes", "TOO_LONG"));
    }

    #[test]
    fn names_everything_that_is_wrong() {
        let message = Message {
            key: "k".repeat(1_025),
            r#type: "t".repeat(256),
            attributes: [(String::new(), "v".repeat(8_193))].into(),
            ..Message::default()
        };
        let mut found: Vec<_> = problems(&message.encode_to_vec())
            .iter()
            .map(|problem| (problem.field, problem.reason))
            .collect();
        found.sort_unstable();
        let long = "TOO_LONG";
        assert_eq!(
            found,
            [("attributes", "INVALID_ATTRIBUTE"), ("attributes", long), ("key", long), ("type", long)]
        );
    }

    #[test]
    fn accepts_unknown_fields() {
        let mut encoded = Vec::new();
        prost::encoding::uint64::encode(100, &42, &mut encoded);
        assert!(problems(&encoded).is_empty());
    }

    proptest! {
        /// Whatever is accepted here can be decoded by every client, and the other way round.
        #[test]
        fn agrees_with_a_decoder(
            key in ".{0,8}",
            attributes in proptest::collection::hash_map("[a-z]{1,4}", ".{0,4}", 0..4),
            data in proptest::collection::vec(any::<u8>(), 0..16),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let message = Message { data: data.into(), key, attributes, ..Message::default() };
            let mut encoded = message.encode_to_vec();
            for (place, byte) in damage.into_iter().filter(|_| !message.encode_to_vec().is_empty()) {
                let place = place.index(encoded.len());
                encoded[place] = byte;
            }
            let decoded = Message::decode(&*encoded);
            let problems = problems(&encoded);
            match problems.iter().find(|problem| problem.reason == "MALFORMED_MESSAGE") {
                Some(malformed) => prop_assert!(decoded.is_err(), "{}: {decoded:?}", malformed.description),
                // A text that is too long is not looked at any further.
                None if problems.is_empty() => prop_assert!(decoded.is_ok(), "{decoded:?}"),
                None => {}
            }
        }
    }
}
