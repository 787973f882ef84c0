//! The messages of one topic, in a vector.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::engine::{Error, ReadLimit, Result, Terms};
use crate::model::{
    Duplicate, Durability, Envelope, Header, Name, Offset, Receipt, Retention, Start, StoredMessage,
    Timestamp, Topic, TopicSettings,
};

/// A topic and its messages. Offset `n` is at index `n - 1`; what is dropped is only hidden.
#[derive(Clone)]
pub(super) struct Log {
    /// No later topic of the same name shares it.
    pub(super) number: u64,
    pub(super) name: Name,
    pub(super) settings: TopicSettings,
    pub(super) revision: u64,
    create_time: Timestamp,
    /// The ids up to here are forgotten, however long the window is.
    forgotten: Offset,
    messages: Vec<StoredMessage>,
    /// The oldest message that is left, or the next one if none is.
    first: Offset,
    /// Messages after it that are gone.
    gone: BTreeSet<Offset>,
    /// The messages that are to be delivered or expire at some time.
    timed: Vec<Offset>,
    /// The messages with a key, by it.
    keyed: BTreeMap<String, Vec<Offset>>,
}

impl Log {
    pub(super) fn new(number: u64, name: Name, settings: TopicSettings) -> Self {
        let create_time = Timestamp::now();
        Self {
            number,
            name,
            settings,
            revision: 1,
            create_time,
            forgotten: 0,
            messages: Vec::new(),
            first: 1,
            gone: BTreeSet::new(),
            timed: Vec::new(),
            keyed: BTreeMap::new(),
        }
    }

    /// Replaces what its owner chose.
    pub(super) fn set_settings(&mut self, settings: TopicSettings) {
        let before = std::mem::replace(&mut self.settings, settings);
        if before.dedupe_window.is_zero() || self.settings.dedupe_window.is_zero() {
            self.forgotten = self.last();
        }
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
                .filter(|message| !self.gone.contains(&message.offset))
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

    /// The messages after the first that are gone.
    pub(super) fn gone(&self) -> impl Iterator<Item = Offset> {
        self.gone.iter().copied()
    }

    /// Drops the messages whose key has a later one, if it is a compacted topic.
    pub(super) fn compact(&mut self) {
        let mut last = HashMap::new();
        for message in self.messages.iter().filter(|_| self.settings.compacted) {
            self.gone.extend(last.insert(message.envelope.header().key, message.offset));
        }
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

    /// Adds the messages that are no duplicates or, if something is not as it must be, none.
    pub(super) fn publish(&mut self, messages: Vec<Envelope>, terms: Terms) -> Result<Receipt> {
        let limit = self.settings.max_message_bytes;
        let too_large = |message: &Envelope| message.len() > limit as usize;
        if let Some(index) = messages.iter().position(too_large) {
            let size = messages[index].len();
            return Err(Error::MessageTooLarge { topic: self.name.clone(), index, size, limit });
        }
        let keyless = |message: &Envelope| self.settings.compacted && message.header().key.is_empty();
        if let Some(index) = messages.iter().position(keyless) {
            return Err(Error::KeyRequired { topic: self.name.clone(), index });
        }
        let key = messages[0].header().key.to_owned();
        // What comes first in a request can make what comes later a duplicate, so all are added one by one.
        let (before, mut duplicates) = (self.messages.len(), Vec::new());
        for (index, message) in (0..).zip(messages) {
            match self.find_id(message.header().id) {
                Some(offset) => duplicates.push(Duplicate { index, offset }),
                None => self.append(vec![message]),
            }
        }
        let (first, last) = (before as Offset + 1, self.last());
        let (first, last) = if last < first { (0, 0) } else { (first, last) };
        if last > 0 {
            let unexpected = self.check_last(before, terms.expected_last);
            let unexpected = unexpected.and_then(|()| self.check_key(before, &key, terms.expected_key));
            if let Err(error) = unexpected {
                self.take_back(before);
                return Err(error);
            }
        }
        Ok(Receipt { first, last, duplicates, durability: Durability::Buffered })
    }

    /// The message published within the window that has this id.
    fn find_id(&self, id: &str) -> Option<Offset> {
        let window = self.settings.dedupe_window;
        if id.is_empty() || window.is_zero() {
            return None;
        }
        let now = self.next_time();
        let remembered = |message: &&StoredMessage| {
            message.offset > self.forgotten && message.publish_time.after(window) >= now
        };
        let mut newest_first = self.messages.iter().rev().take_while(remembered);
        newest_first.find(|message| message.envelope.header().id == id).map(|message| message.offset)
    }

    /// As if there had never been more than so many messages.
    fn take_back(&mut self, count: usize) {
        self.messages.truncate(count);
        let last = self.last();
        self.timed.retain(|&offset| offset <= last);
        self.keyed.values_mut().for_each(|offsets| offsets.retain(|&offset| offset <= last));
    }

    /// Whether the first `count` messages end as expected.
    fn check_last(&self, count: usize, expected: Option<Offset>) -> Result<()> {
        let (topic, actual) = (self.name.clone(), count as Offset);
        match expected {
            Some(expected) if expected != actual => Err(Error::Moved { topic, expected, actual }),
            _ => Ok(()),
        }
    }

    /// Whether the last of the first `count` messages with a key is the one expected.
    fn check_key(&self, count: usize, key: &str, expected: Option<Offset>) -> Result<()> {
        let Some(expected) = expected else { return Ok(()) };
        let topic = self.name.clone();
        if !(self.settings.key_index || self.settings.compacted) {
            return Err(Error::NoKeyIndex(topic));
        }
        let has_key = |message: &&StoredMessage| message.envelope.header().key == key;
        let last = self.messages[..count].iter().rev().find(has_key);
        let actual = last.map_or(0, |message| message.offset);
        if actual == expected { Ok(()) } else { Err(Error::KeyMoved { topic, expected, actual }) }
    }

    /// The time of a message that is published now.
    fn next_time(&self) -> Timestamp {
        let newest = self.messages.last().map_or(Timestamp(0), |message| message.publish_time);
        Timestamp::now().max(newest)
    }

    /// Adds messages as they are.
    pub(super) fn append(&mut self, messages: Vec<Envelope>) {
        let publish_time = self.next_time();
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
        let is_left = |message: &&StoredMessage| !self.gone.contains(&message.offset);
        for message in
            self.messages.iter().skip(index(from.max(self.first))).filter(is_left).take(limit.messages)
        {
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
