//! Topics as users see them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::{DEFAULT_DEDUPE_WINDOW, DEFAULT_MAX_MESSAGE_BYTES};
use super::message::{Durability, Offset};
use super::name::Name;
use super::retention::Retention;
use super::time::Timestamp;

/// What a user chooses about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// For people and tools; the server does not read them.
    pub labels: BTreeMap<String, String>,
    /// The durability of publishes that name none.
    pub durability: Durability,
    /// The largest encoded message accepted, in bytes.
    pub max_message_bytes: u32,
    /// Which messages are kept.
    pub retention: Retention,
    /// How long the ids of messages are remembered, so that one published twice is stored once; zero
    /// for not at all.
    pub dedupe_window: Duration,
    /// The last message of each key is known, so that a publish can depend on it; fixed at creation.
    pub key_index: bool,
    /// Of the messages with the same key only the last is kept, in the end; fixed at creation. Every message
    /// must have a key, and the last of each is known.
    pub compacted: bool,
}

impl TopicSettings {
    /// What in these settings cannot be had together, if anything.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        let Retention { max_bytes, max_messages, delete_acked, .. } = self.retention;
        if self.compacted && (max_bytes.is_some() || max_messages.is_some() || delete_acked) {
            let reason = "a compacted topic keeps the last message of every key, but retention limits bytes or \
                          messages, or deletes what is acked; leave that out, or use max_age";
            return Some(reason.into());
        }
        let max_bytes = max_bytes.filter(|&max| max < self.max_message_bytes.into())?;
        Some(format!(
            "retention.max_bytes is {max_bytes}, less than max_message_bytes, {}; raise one or lower the other",
            self.max_message_bytes
        ))
    }
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            durability: Durability::Fsynced,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            retention: Retention::default(),
            dedupe_window: DEFAULT_DEDUPE_WINDOW,
            key_index: false,
            compacted: false,
        }
    }
}

/// A topic and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Name,
    /// What its owner chose.
    pub settings: TopicSettings,
    /// Rises with every change of the settings, from 1. The API's `etag`.
    pub revision: u64,
    /// When it was created.
    pub create_time: Timestamp,
    /// The oldest message held; `last_offset + 1` when there is none.
    pub first_offset: Offset,
    /// The newest message that readers can see; 0 before the first.
    pub last_offset: Offset,
    /// Size of the stored messages in bytes.
    pub stored_bytes: u64,
}
