//! The few fields of a message that the engine itself goes by.

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::redrive::ONLY_FOR;
use super::time::Timestamp;

/// What the engine reads of a message, without decoding or copying it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header<'a> {
    /// Groups messages that belong together; empty for none.
    pub key: &'a str,
    /// Names the message among those of its topic; empty for none.
    pub id: &'a str,
    /// Not delivered before.
    pub deliver_time: Option<Timestamp>,
    /// Not delivered from then on.
    pub expire_time: Option<Timestamp>,
    /// The one subscription that it is for, after a redrive; empty for all.
    pub only_for: &'a str,
}

impl<'a> Header<'a> {
    /// Reads the header of an encoded `columba.v1.Message`. What a checked message never has, such as a
    /// field that is cut off, ends the header there.
    #[must_use]
    pub fn read(mut encoded: &'a [u8]) -> Self {
        let mut header = Self::default();
        while encoded.has_remaining() && header.read_field(&mut encoded).is_some() {}
        header
    }

    /// Whether the message is not to be delivered any more.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expire_time.is_some_and(|time| time <= now)
    }

    /// As in every decoder, a later field of the same number replaces an earlier one.
    fn read_field(&mut self, encoded: &mut &'a [u8]) -> Option<()> {
        let (number, wire) = decode_key(encoded).ok()?;
        match number {
            2 => self.key = str::from_utf8(bytes(wire, encoded)?).ok()?,
            3 => self.read_attribute(bytes(wire, encoded)?),
            4 => self.id = str::from_utf8(bytes(wire, encoded)?).ok()?,
            9 => self.deliver_time = Some(timestamp(bytes(wire, encoded)?)?),
            10 => self.expire_time = Some(timestamp(bytes(wire, encoded)?)?),
            _ if wire == WireType::LengthDelimited => drop(bytes(wire, encoded)?),
            other => skip_field(wire, other, encoded, DecodeContext::default()).ok()?,
        }
        Some(())
    }

    /// An entry of a map is on the wire a message of a name and a value. Only one name counts, and
    /// encoders write the name first; any other entry is told by its first bytes.
    fn read_attribute(&mut self, mut entry: &'a [u8]) {
        if !entry.get(2..).is_some_and(|rest| rest.starts_with(ONLY_FOR.as_bytes())) {
            return;
        }
        let mut field = || bytes(decode_key(&mut entry).ok()?.1, &mut entry);
        if let (Some(name), value) = (field(), field())
            && name == ONLY_FOR.as_bytes()
        {
            self.only_for = str::from_utf8(value.unwrap_or_default()).unwrap_or_default();
        }
    }
}

/// The content of a length-delimited field.
pub(super) fn bytes<'a>(wire: WireType, encoded: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = (wire == WireType::LengthDelimited).then(|| decode_varint(encoded).ok())??;
    encoded.split_off(..usize::try_from(length).ok()?)
}

/// A `google.protobuf.Timestamp`; fractions of a microsecond round up, times before 1970 are 1970.
fn timestamp(encoded: &[u8]) -> Option<Timestamp> {
    let time: prost_types::Timestamp = prost::Message::decode(encoded).ok()?;
    let micros = u64::try_from(time.nanos).unwrap_or(0).div_ceil(1_000);
    let seconds = u64::try_from(time.seconds).ok();
    Some(Timestamp(seconds.map_or(0, |seconds| seconds.saturating_mul(1_000_000).saturating_add(micros))))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::v1::Message;

    #[test]
    fn reads_what_was_sent_whatever_else_is_there() {
        let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        let message = Message {
            data: vec![1, 2, 3].into(),
            key: "k".into(),
            id: "i".into(),
            attributes: [("a".to_owned(), "b".to_owned()), (ONLY_FOR.to_owned(), "s".to_owned())].into(),
            r#type: "t".into(),
            deliver_time: time(5, 1),
            expire_time: time(-5, 0),
            ..Message::default()
        };
        let mut encoded = message.encode_to_vec();
        prost::encoding::uint64::encode(100, &42, &mut encoded);
        let header = Header::read(&encoded);
        let times = (Some(Timestamp(5_000_001)), Some(Timestamp(0)));
        let expected =
            Header { key: "k", id: "i", deliver_time: times.0, expire_time: times.1, only_for: "s" };
        assert_eq!(header, expected);
        assert_eq!(Header::read(&[]), Header::default());
    }

    #[test]
    fn only_the_attribute_itself_says_who_a_message_is_for() {
        let only_for = |name: &str, value: &str| {
            let attributes = [(name.to_owned(), value.to_owned())].into();
            let encoded = Message { attributes, ..Message::default() }.encode_to_vec();
            Header::read(&encoded).only_for.to_owned()
        };
        assert_eq!(only_for(ONLY_FOR, "billing"), "billing");
        assert_eq!(only_for(ONLY_FOR, ""), "");
        assert_eq!(only_for(&format!("{ONLY_FOR}s"), "billing"), "");
        assert_eq!(only_for("other", ONLY_FOR), "");
    }

    #[test]
    fn the_last_of_two_fields_counts() {
        let one = |key: &str| Message { key: key.into(), ..Message::default() }.encode_to_vec();
        assert_eq!(Header::read(&[one("a"), one("b")].concat()).key, "b");
    }
}
