//! Which messages a topic does not keep any longer.

use std::io;

use super::walk::{Until, walk};
use crate::embedded::log::format::Trim;
use crate::embedded::log::reader::Reader;
use crate::embedded::topic::TopicHandle;
use crate::model::{Offset, Timestamp};

/// What is to be dropped from a topic now, if anything is. `acked` is the first message that some
/// subscription has not settled, if there is a subscription.
pub(super) fn due(
    reader: &Reader,
    topic: &TopicHandle,
    acked: Option<Offset>,
    now: Timestamp,
) -> io::Result<Option<Trim>> {
    let retention = topic.record().retention();
    if retention.keeps_all() {
        return Ok(None);
    }
    let end = topic.visible() + 1;
    let mut first = topic.first();
    if let Some(max) = retention.max_messages {
        first = first.max(end.saturating_sub(max));
    }
    if let Some(acked) = acked.filter(|_| retention.delete_acked) {
        first = first.max(acked.min(end));
    }
    if let Some(excess) = retention.max_bytes.and_then(|max| topic.bytes().checked_sub(max + 1)) {
        first = first.max(walk(reader, topic, Until::Bytes(excess + 1))?.next);
    }
    if let Some(max_age) = retention.max_age {
        let oldest = Timestamp(now.0.saturating_sub(u64::try_from(max_age.as_micros()).unwrap_or(u64::MAX)));
        first = first.max(walk(reader, topic, Until::Time(oldest))?.next);
    }
    trim(reader, topic, first)
}

/// What drops the messages before `first`; `None` if there are none.
pub(crate) fn trim(reader: &Reader, topic: &TopicHandle, first: Offset) -> io::Result<Option<Trim>> {
    if first <= topic.first() {
        return Ok(None);
    }
    let bytes = walk(reader, topic, Until::Offset(first))?.bytes;
    Ok(Some(Trim { topic: topic.id, first, bytes }))
}
