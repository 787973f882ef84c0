//! What a filter is told of a message.

use std::sync::OnceLock;

use cel::common::types::{CelInt, CelString, CelTimestamp};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use chrono::{DateTime, TimeDelta};
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use super::Uses;
use super::values::{Attributes, json};
use crate::model::header::bytes;
use crate::model::message::{Offset, StoredMessage};
use crate::model::time::Timestamp;

/// A message, and where and for which time it is delivered.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    topic: &'a str,
    offset: Offset,
    attempt: u32,
    publish_time: Timestamp,
    envelope: &'a [u8],
}

impl<'a> Facts<'a> {
    /// A stored message that is about to be delivered; for the first time if `attempt` is 1.
    #[must_use]
    pub fn new(message: &'a StoredMessage, attempt: u32) -> Self {
        Self {
            topic: message.topic.as_str(),
            offset: message.offset,
            attempt,
            publish_time: message.publish_time,
            envelope: &message.envelope.0,
        }
    }

    /// A message with nothing in it.
    pub(super) fn sample() -> Facts<'static> {
        Facts { topic: "topic", offset: 1, attempt: 1, publish_time: Timestamp(0), envelope: &[] }
    }
}

/// What an expression can look up.
pub(super) struct Known<'a> {
    facts: Facts<'a>,
    fields: Fields<'a>,
    attributes: Attributes<'a>,
    /// The data as JSON, once it was asked for.
    json: OnceLock<Box<dyn Val>>,
}

#[derive(Default)]
struct Fields<'a> {
    data: &'a [u8],
    key: &'a str,
    id: &'a str,
    message_type: &'a str,
    content_type: &'a str,
    correlation_id: &'a str,
    causation_id: &'a str,
}

impl<'a> Known<'a> {
    /// Goes through the message once; its data is only looked at when it is asked for.
    pub(super) fn read(facts: &Facts<'a>, uses: Uses) -> Self {
        let mut known = Self {
            facts: *facts,
            fields: Fields::default(),
            attributes: Attributes::default(),
            json: OnceLock::new(),
        };
        let mut encoded = facts.envelope;
        // What is stored was checked: a field that cannot be read ends a message that is not one of ours.
        while encoded.has_remaining() && known.read_field(&mut encoded, uses).is_some() {}
        known
    }

    /// As in every decoder, a later field of the same number replaces an earlier one.
    fn read_field(&mut self, encoded: &mut &'a [u8], uses: Uses) -> Option<()> {
        let (number, wire) = decode_key(encoded).ok()?;
        if wire != WireType::LengthDelimited {
            return skip_field(wire, number, encoded, DecodeContext::default()).ok();
        }
        let content = bytes(wire, encoded)?;
        let text = || str::from_utf8(content).ok();
        match number {
            1 => self.fields.data = content,
            2 => self.fields.key = text()?,
            3 if uses.attributes => self.attributes.read(content)?,
            4 => self.fields.id = text()?,
            5 => self.fields.message_type = text()?,
            6 => self.fields.content_type = text()?,
            7 => self.fields.correlation_id = text()?,
            8 => self.fields.causation_id = text()?,
            _ => {}
        }
        Some(())
    }
}

impl VariableResolver for Known<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let text = |text: &'b str| Some(CowVal::owned(CelString::from(text)));
        let number =
            |number: u64| Some(CowVal::owned(CelInt::from(i64::try_from(number).unwrap_or(i64::MAX))));
        match variable {
            "message.key" => text(self.fields.key),
            "message.type" => text(self.fields.message_type),
            "message.content_type" => text(self.fields.content_type),
            "message.id" => text(self.fields.id),
            "message.correlation_id" => text(self.fields.correlation_id),
            "message.causation_id" => text(self.fields.causation_id),
            "message.attributes" => Some(CowVal::Borrowed(&self.attributes)),
            "message.data_json" => {
                Some(CowVal::Borrowed(self.json.get_or_init(|| json(self.fields.data)).as_ref()))
            }
            "topic" => text(self.facts.topic),
            "offset" => number(self.facts.offset),
            "attempt" => number(self.facts.attempt.into()),
            "publish_time" => Some(CowVal::owned(time(self.facts.publish_time))),
            _ => None,
        }
    }
}

fn time(Timestamp(micros): Timestamp) -> CelTimestamp {
    let since_epoch = TimeDelta::microseconds(i64::try_from(micros).unwrap_or(i64::MAX));
    let time =
        DateTime::UNIX_EPOCH.checked_add_signed(since_epoch).unwrap_or(DateTime::<chrono::Utc>::MAX_UTC);
    CelTimestamp::from(time.fixed_offset())
}
