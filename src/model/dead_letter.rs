//! What is remembered of a message that nobody could handle.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use prost::Message as _;

use super::message::{Envelope, Offset};
use super::name::Name;
use super::time::Timestamp;

/// Why and whence a message came to a dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The subscription that gave it up.
    pub subscription: Name,
    /// The topic it was published to.
    pub topic: Name,
    /// Its offset there.
    pub offset: Offset,
    /// How often it was delivered.
    pub attempts: u32,
    /// What its last consumer said, or what happened to its last delivery.
    pub reason: String,
    /// When it was given up.
    pub time: Timestamp,
}

/// What the names of all its attributes begin with.
pub(super) const PREFIX: &str = "columba-dead-letter-";

/// The attributes of a `columba.v1.Message`, and nothing else of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Attributes {
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) attributes: BTreeMap<String, String>,
}

impl DeadLetter {
    /// The message with this written into its attributes, each name beginning with
    /// `columba-dead-letter-`. Everything that the producer sent stays: in protobuf's wire format a
    /// message is extended by appending to it.
    #[must_use]
    pub fn mark(&self, envelope: &Envelope) -> Envelope {
        let values = [
            ("subscription", self.subscription.to_string()),
            ("topic", self.topic.to_string()),
            ("offset", self.offset.to_string()),
            ("attempts", self.attempts.to_string()),
            ("reason", self.reason.clone()),
            ("time-micros", self.time.0.to_string()),
        ];
        let named = values.map(|(name, value)| (format!("{PREFIX}{name}"), value));
        let mut bytes = BytesMut::from(&envelope.0[..]);
        bytes.put_slice(&Attributes { attributes: named.into() }.encode_to_vec());
        Envelope(bytes.freeze())
    }

    /// What [`mark`](Self::mark) has written into a message; `None` if it is no dead letter.
    #[must_use]
    pub fn read(envelope: &Envelope) -> Option<Self> {
        let attributes = Attributes::decode(envelope.0.clone()).ok()?.attributes;
        let value = |name: &str| attributes.get(&format!("{PREFIX}{name}"));
        Some(Self {
            subscription: Name::parse(value("subscription")?).ok()?,
            topic: Name::parse(value("topic")?).ok()?,
            offset: value("offset")?.parse().ok()?,
            attempts: value("attempts")?.parse().ok()?,
            reason: value("reason")?.clone(),
            time: Timestamp(value("time-micros")?.parse().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_a_message_and_keeps_the_rest_of_it() {
        // data = "x" and the attribute a = b.
        let envelope = Envelope(bytes::Bytes::from_static(b"\x0a\x01x\x1a\x06\x0a\x01a\x12\x01b"));
        let name = |text| Name::parse(text).unwrap();
        let letter = DeadLetter {
            subscription: name("billing"),
            topic: name("orders"),
            offset: 7,
            attempts: 3,
            reason: "no such customer".into(),
            time: Timestamp(9),
        };
        let marked = letter.mark(&envelope);
        assert!(marked.0.starts_with(&envelope.0));
        let attributes = Attributes::decode(marked.0).unwrap().attributes;
        let value = |name: &str| attributes[&format!("columba-dead-letter-{name}")].as_str();
        assert_eq!(attributes["a"], "b");
        assert_eq!([value("topic"), value("offset"), value("attempts")], ["orders", "7", "3"]);
        assert_eq!([value("subscription"), value("reason")], ["billing", "no such customer"]);
        assert_eq!(value("time-micros"), "9");
    }

    #[test]
    fn reads_what_it_marked_and_nothing_else() {
        let name = |text| Name::parse(text).unwrap();
        let letter = |offset| DeadLetter {
            subscription: name("billing"),
            topic: name("orders"),
            offset,
            attempts: 0,
            reason: String::new(),
            time: Timestamp(9),
        };
        let plain = Envelope(bytes::Bytes::from_static(b"\x0a\x01x\x1a\x06\x0a\x01a\x12\x01b"));
        assert_eq!(DeadLetter::read(&plain), None);
        let marked = letter(7).mark(&plain);
        assert_eq!(DeadLetter::read(&marked), Some(letter(7)));
        assert_eq!(DeadLetter::read(&letter(8).mark(&marked)), Some(letter(8)), "the last death counts");
        let broken = Envelope(bytes::Bytes::from_static(b"\x0a\xff"));
        assert_eq!(DeadLetter::read(&broken), None);
    }
}
