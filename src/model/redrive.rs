//! A dead letter on its way back to where it came from.

use bytes::{BufMut, BytesMut};
use prost::Message as _;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::dead_letter::{Attributes, PREFIX};
use super::header::bytes;
use super::message::Envelope;
use super::name::Name;

/// The attribute that names the one subscription that gets a redriven message. The others had it before.
pub const ONLY_FOR: &str = "columba-redrive-subscription";

/// The message of a dead letter as its producer sent it, byte for byte: what was added on its way is gone.
#[must_use]
pub fn original(letter: &Envelope) -> Envelope {
    let mut rest = &letter.0[..];
    let mut kept = BytesMut::with_capacity(rest.len());
    while rest.has_remaining() {
        let before = rest;
        match skip(&mut rest) {
            Some(added) if added => {}
            Some(_) => kept.put_slice(&before[..before.len() - rest.len()]),
            // Messages are checked when they are published; what cannot be read stays as it is.
            None => {
                kept.put_slice(before);
                break;
            }
        }
    }
    Envelope(kept.freeze())
}

/// The message with a note that it is for this subscription only.
#[must_use]
pub fn only_for(message: &Envelope, subscription: &Name) -> Envelope {
    let attributes = [(ONLY_FOR.to_owned(), subscription.to_string())].into();
    let mut bytes = BytesMut::from(&message.0[..]);
    bytes.put_slice(&Attributes { attributes }.encode_to_vec());
    Envelope(bytes.freeze())
}

/// Passes over one field; says whether it is an attribute that the server added.
fn skip(encoded: &mut &[u8]) -> Option<bool> {
    let (number, wire) = decode_key(encoded).ok()?;
    if number != 3 {
        skip_field(wire, number, encoded, DecodeContext::default()).ok()?;
        return Some(false);
    }
    let mut entry = bytes(wire, encoded)?;
    let (number, wire) = decode_key(&mut entry).ok()?;
    let name = bytes(wire, &mut entry).filter(|_| number == 1).unwrap_or_default();
    Some(name.starts_with(PREFIX.as_bytes()) || name == ONLY_FOR.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeadLetter, Timestamp};
    use crate::proto::v1::Message;

    #[test]
    fn a_letter_is_again_what_it_was_however_often_it_died() {
        let attributes = [("a".to_owned(), "b".to_owned()), (String::new(), "unnamed".to_owned())].into();
        let message = Message { data: "x".into(), key: "k".into(), attributes, ..Message::default() };
        let sent = Envelope(message.encode_to_vec().into());
        let name = |text| Name::parse(text).unwrap();
        let letter = DeadLetter {
            subscription: name("billing"),
            topic: name("orders"),
            offset: 7,
            attempts: 3,
            reason: "no such customer".into(),
            time: Timestamp(9),
        };
        let mut envelope = sent.clone();
        for _ in 0..3 {
            envelope = letter.mark(&envelope);
            assert_eq!(original(&envelope), sent);
            envelope = only_for(&envelope, &letter.subscription);
            assert_eq!(envelope.header().only_for, "billing");
            assert_eq!(original(&envelope), sent);
        }
        assert_eq!(original(&sent), sent);
        let broken = Envelope(bytes::Bytes::from_static(b"\x0a\xff"));
        assert_eq!(original(&broken), broken);
    }
}
