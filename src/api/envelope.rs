//! Checks an encoded `Message` without decoding it into fields.
//!
//! The server keeps the producer's bytes, so all it needs to know is that every client can decode
//! them and that they are within the limits. Walking the wire format does that with no allocation.

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::validate::Violations;
use crate::model::limits::{
    MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES, MAX_KEY_BYTES,
    MAX_MESSAGE_LABEL_BYTES,
};

/// What is wrong with a message.
struct Problem {
    /// The field of the message; empty for the message itself.
    field: &'static str,
    reason: &'static str,
    description: String,
}

type Result<T> = std::result::Result<T, Problem>;

/// Checks the encoded message at this place of a publish; notes the first thing that is wrong.
pub(super) fn check(violations: &mut Violations, index: usize, encoded: &[u8]) {
    if let Err(Problem { field, reason, description }) = walk(encoded) {
        let dot = if field.is_empty() { "" } else { "." };
        violations.add(&format!("messages[{index}]{dot}{field}"), reason, description);
    }
}

/// The fields of `columba.v1.Message`, by number.
fn walk(mut encoded: &[u8]) -> Result<()> {
    let mut attributes = 0;
    while encoded.has_remaining() {
        let (number, wire) = key(&mut encoded)?;
        match number {
            1 => _ = bytes(wire, &mut encoded, "data")?,
            2 => text(wire, &mut encoded, "key", MAX_KEY_BYTES)?,
            3 => {
                attributes += 1;
                attribute(bytes(wire, &mut encoded, "attributes")?)?;
            }
            5 => text(wire, &mut encoded, "type", MAX_MESSAGE_LABEL_BYTES)?,
            6 => text(wire, &mut encoded, "content_type", MAX_MESSAGE_LABEL_BYTES)?,
            7 => text(wire, &mut encoded, "correlation_id", MAX_MESSAGE_LABEL_BYTES)?,
            8 => text(wire, &mut encoded, "causation_id", MAX_MESSAGE_LABEL_BYTES)?,
            unknown => skip(wire, unknown, &mut encoded)?,
        }
    }
    if attributes > MAX_ATTRIBUTES {
        let description = format!("has {attributes} entries; at most {MAX_ATTRIBUTES} are allowed");
        return Err(Problem { field: "attributes", reason: "TOO_MANY_ATTRIBUTES", description });
    }
    Ok(())
}

/// One entry of the attributes, which on the wire is a message of a name and a value.
fn attribute(mut entry: &[u8]) -> Result<()> {
    let mut named = false;
    while entry.has_remaining() {
        let (number, wire) = key(&mut entry)?;
        match number {
            1 => {
                let name = bytes(wire, &mut entry, "attributes")?;
                limited_text(name, "attributes", MAX_ATTRIBUTE_NAME_BYTES)?;
                named = !name.is_empty();
            }
            2 => text(wire, &mut entry, "attributes", MAX_ATTRIBUTE_VALUE_BYTES)?,
            unknown => skip(wire, unknown, &mut entry)?,
        }
    }
    if named {
        return Ok(());
    }
    let description = "has an entry without a name; give it one of 1 to 255 bytes".into();
    Err(Problem { field: "attributes", reason: "INVALID_ATTRIBUTE", description })
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

fn text(wire: WireType, encoded: &mut &[u8], field: &'static str, max_bytes: usize) -> Result<()> {
    limited_text(bytes(wire, encoded, field)?, field, max_bytes)
}

fn limited_text(content: &[u8], field: &'static str, max_bytes: usize) -> Result<()> {
    if content.len() > max_bytes {
        let description = format!("has a text of {} bytes; at most {max_bytes} are allowed", content.len());
        return Err(Problem { field, reason: "TOO_LONG", description });
    }
    str::from_utf8(content).map_err(|error| malformed(field, &error.to_string()))?;
    Ok(())
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
        let problem = walk(&message.encode_to_vec()).map(|()| "accepted").expect_err("a problem");
        (problem.field, problem.reason)
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
        };
        assert!(walk(&message.encode_to_vec()).is_ok());
        assert!(walk(&[]).is_ok());
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
        let with = |attributes: HashMap<String, String>| Message { attributes, ..of() };
        let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(problem(&with(many)), ("attributes", "TOO_MANY_ATTRIBUTES"));
        let unnamed = [(String::new(), "v".into())].into();
        assert_eq!(problem(&with(unnamed)), ("attributes", "INVALID_ATTRIBUTE"));
        let value = [("n".into(), "v".repeat(8_193))].into();
        assert_eq!(problem(&with(value)), ("attributes", "TOO_LONG"));
    }

    #[test]
    fn accepts_unknown_fields() {
        let unknown = [(100 << 3) as u8 | 0x80, 6, 42];
        assert!(walk(&unknown).is_ok());
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
            match walk(&encoded) {
                Ok(()) => prop_assert!(decoded.is_ok(), "{decoded:?}"),
                Err(problem) if problem.reason == "MALFORMED_MESSAGE" => {
                    prop_assert!(decoded.is_err(), "{}: {decoded:?}", problem.description);
                }
                Err(_) => {}
            }
        }
    }
}
