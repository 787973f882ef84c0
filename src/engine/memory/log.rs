//! The messages of one topic, in a vector.

use std::collections::BTreeMap;

use crate::engine::{Error, ReadLimit, Result};
use crate::model::{Envelope, Header, Name, Offset, Start, StoredMessage, Timestamp, Topic, TopicSettings};

/// A topic and its messages. Offset `n` is at index `n - 1`; nothing is ever removed.
pub(super) struct Log {
    /// No later topic of the same name shares it.
    pub(super) number: u64,
    pub(super) name: Name,
    pub(super) settings: TopicSettings,
    pub(super) revision: u64,
    create_time: Timestamp,
    messages: Vec<StoredMessage>,
    /// The messages that are to be delivered or expire at some time.
    timed: Vec<Offset>,
    /// The messages with a key, by it.
    keyed: BTreeMap<String, Vec<Offset>>,
}

impl Log {
    pub(super) fn new(number: u64, name: Name, settings: TopicSettings) -> Self {
        Self {
            number,
            name,
            settings,
            revision: 1,
            create_time: Timestamp::now(),
            messages: Vec::new(),
            timed: Vec::new(),
            keyed: BTreeMap::new(),
        }
    }

    /// The topic as users see it.
    pub(super) fn topic(&self) -> Topic {
        Topic {
            name: self.name.clone(),
            settings: self.settings.clone(),
            revision: self.revision,
            create_time: self.create_time,
            first_offset: 1,
            last_offset: self.last(),
            stored_bytes: self.messages.iter().map(|message| message.envelope.len() as u64).sum(),
        }
    }

    /// Offset of the newest message; 0 before the first.
    pub(super) fn last(&self) -> Offset {
        self.messages.len() as Offset
    }

    /// The message at this offset, if there is one.
    pub(super) fn get(&self, offset: Offset) -> Option<&StoredMessage> {
        self.messages.get(index(offset))
    }

    /// What a message says of itself; it must exist.
    pub(super) fn header(&self, offset: Offset) -> Header<'_> {
        self.get(offset).expect("it is stored").envelope.header()
    }

    /// The messages that are to be delivered or expire at some time.
    pub(super) fn timed(&self) -> impl Iterator<Item = (Offset, Header<'_>)> {
        self.timed.iter().map(|&offset| (offset, self.header(offset)))
    }

    /// The messages with this key; none without one.
    pub(super) fn of_key(&self, key: &str) -> &[Offset] {
        self.keyed.get(key).map_or(&[], Vec::as_slice)
    }

    /// Refuses what was to follow another message than the newest.
    pub(super) fn check_last(&self, expected: Option<Offset>) -> Result<()> {
        let (topic, actual) = (self.name.clone(), self.last());
        match expected {
            Some(expected) if expected != actual => Err(Error::Moved { topic, expected, actual }),
            _ => Ok(()),
        }
    }

    /// Adds all the messages or, if one is too large, none.
    pub(super) fn append(&mut self, messages: Vec<Envelope>) -> Result<()> {
        let limit = self.settings.max_message_bytes;
        let too_large = |message: &Envelope| message.len() > limit as usize;
        if let Some(index) = messages.iter().position(too_large) {
            let size = messages[index].len();
            return Err(Error::MessageTooLarge { topic: self.name.clone(), index, size, limit });
        }
        self.append_any(messages);
        Ok(())
    }

    /// Adds messages of any size.
    pub(super) fn append_any(&mut self, messages: Vec<Envelope>) {
        let newest = self.messages.last().map_or(Timestamp(0), |message| message.publish_time);
        let publish_time = Timestamp::now().max(newest);
        for envelope in messages {
            let offset = self.last() + 1;
            let Header { key, deliver_time, expire_time, .. } = envelope.header();
            if !key.is_empty() {
                self.keyed.entry(key.to_owned()).or_default().push(offset);
            }
            if deliver_time.or(expire_time).is_some() {
                self.timed.push(offset);
            }
            self.messages.push(StoredMessage { topic: self.name.clone(), offset, publish_time, envelope });
        }
    }

    /// The offset that a reader from `start` gets first, which may not exist yet.
    pub(super) fn resolve(&self, start: Start) -> Offset {
        match start {
            Start::Earliest => 1,
            Start::Latest => self.last() + 1,
            Start::Offset(offset) => offset.max(1),
            Start::Time(time) => {
                self.messages.partition_point(|message| message.publish_time < time) as Offset + 1
            }
        }
    }

    /// The messages from an offset on, up to the limit; the first of them whatever its size.
    pub(super) fn read(&self, from: Offset, limit: ReadLimit) -> Vec<StoredMessage> {
        let mut bytes = 0;
        let mut messages = Vec::new();
        for message in self.messages.iter().skip(index(from)).take(limit.messages) {
            bytes += message.envelope.len();
            if bytes > limit.bytes && !messages.is_empty() {
                break;
            }
            messages.push(message.clone());
        }
        messages
    }
}

/// Offsets start at 1. One beyond memory is past every end.
fn index(offset: Offset) -> usize {
    usize::try_from(offset.saturating_sub(1)).unwrap_or(usize::MAX)
}
