//! The messages of one topic, in a vector.

use crate::engine::{Error, ReadLimit, Result};
use crate::model::{
    Envelope, Name, Offset, Retention, Start, StoredMessage, Timestamp, Topic, TopicSettings,
};

/// A topic and its messages. Offset `n` is at index `n - 1`; what is dropped is only hidden.
pub(super) struct Log {
    /// No later topic of the same name shares it.
    pub(super) number: u64,
    pub(super) name: Name,
    pub(super) settings: TopicSettings,
    pub(super) revision: u64,
    create_time: Timestamp,
    messages: Vec<StoredMessage>,
    /// The oldest message that is left, or the next one if none is.
    first: Offset,
}

impl Log {
    pub(super) fn new(number: u64, name: Name, settings: TopicSettings) -> Self {
        let create_time = Timestamp::now();
        Self { number, name, settings, revision: 1, create_time, messages: Vec::new(), first: 1 }
    }

    /// The topic as users see it.
    pub(super) fn topic(&self) -> Topic {
        Topic {
            name: self.name.clone(),
            settings: self.settings.clone(),
            revision: self.revision,
            create_time: self.create_time,
            first_offset: self.first,
            last_offset: self.last(),
            stored_bytes: self.messages[index(self.first)..]
                .iter()
                .map(|message| message.envelope.len() as u64)
                .sum(),
        }
    }

    /// The oldest message that is left, or the next one if none is.
    pub(super) fn first(&self) -> Offset {
        self.first
    }

    /// Drops the messages before `first`.
    pub(super) fn drop_before(&mut self, first: Offset) {
        self.first = self.first.max(first);
    }

    /// Drops what need not be kept. `acked` is what every subscription has settled, if there is one.
    pub(super) fn retain(&mut self, acked: Option<Offset>, now: Timestamp) {
        let Retention { max_age, max_bytes, max_messages, delete_acked } = self.settings.retention.clone();
        self.drop_before(acked.filter(|_| delete_acked).map_or(0, |acked| acked + 1));
        let over = |log: &Self, oldest: &StoredMessage| {
            let topic = log.topic();
            max_messages.is_some_and(|max| topic.last_offset + 1 - topic.first_offset > max)
                || max_bytes.is_some_and(|max| topic.stored_bytes > max)
                || max_age.is_some_and(|max| oldest.publish_time.after(max) < now)
        };
        while let Some(oldest) = self.get(self.first)
            && over(self, oldest)
        {
            self.first += 1;
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
            self.messages.push(StoredMessage { topic: self.name.clone(), offset, publish_time, envelope });
        }
    }

    /// The offset that a reader from `start` gets first, which may not exist yet.
    pub(super) fn resolve(&self, start: Start) -> Offset {
        match start {
            Start::Earliest => self.first,
            Start::Latest => self.last() + 1,
            Start::Offset(offset) => offset.max(self.first),
            Start::Time(time) => {
                let older = self.messages.partition_point(|message| message.publish_time < time) as Offset;
                (older + 1).max(self.first)
            }
        }
    }

    /// The messages from an offset on, up to the limit; the first of them whatever its size.
    pub(super) fn read(&self, from: Offset, limit: ReadLimit) -> Vec<StoredMessage> {
        let mut bytes = 0;
        let mut messages = Vec::new();
        for message in self.messages.iter().skip(index(from.max(self.first))).take(limit.messages) {
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
