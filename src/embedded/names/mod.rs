//! The ids and keys of messages that the state remembers, topic by topic.
//!
//! Only hashes are kept: 128 bits, keyed with the log's random id. Two different ids of a topic would
//! have to meet in all of them for a message to be dropped by mistake. With a million ids that happens
//! once in 10^26 publishes, far below the error rate of the memory they are kept in, and nobody can
//! bring it about on purpose without the key. The ids themselves would take up to eight times the
//! memory, and as much more of every checkpoint.

pub(crate) mod ids;
pub(crate) mod keys;
pub(crate) mod stored;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use siphasher::sip128::SipHasher24;

use self::ids::Ids;
use self::keys::Keys;
use super::log::format::LogId;
use crate::model::limits::{MAX_IDS, MAX_IDS_PER_TOPIC, MAX_KEYS, MAX_KEYS_PER_TOPIC};
use crate::model::{Header, Offset, Timestamp};

/// When memory for ids runs out, every topic forgets one part in so many of its own, the oldest.
const FORGOTTEN_PART: usize = 8;

/// The hash of an id or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NameHash(pub(crate) u64, pub(crate) u64);

/// What is remembered of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Its id, if it has one.
    pub(crate) id: Option<NameHash>,
    /// Its key, if it has one.
    pub(crate) key: Option<NameHash>,
}

/// Makes marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker(LogId);

impl Marker {
    pub(crate) fn new(log: LogId) -> Self {
        Self(log)
    }

    /// The marks of encoded messages; empty if not one of them has an id or a key.
    pub(crate) fn marks(&self, envelopes: &[Bytes]) -> Vec<Mark> {
        let mut marks = Vec::new();
        for (at, envelope) in envelopes.iter().enumerate() {
            let mark = self.mark(envelope);
            if marks.is_empty() && mark != Mark::default() {
                marks.resize(envelopes.len(), Mark::default());
            }
            if let Some(place) = marks.get_mut(at) {
                *place = mark;
            }
        }
        marks
    }

    /// The mark of an encoded message.
    pub(crate) fn mark(&self, envelope: &[u8]) -> Mark {
        let Header { id, key, only_for, .. } = Header::read(envelope);
        // What is meant for one subscription is nobody else's last message of its key.
        let key = if only_for.is_empty() { key } else { "" };
        Mark { id: self.hash(id), key: self.hash(key) }
    }

    fn hash(&self, name: &str) -> Option<NameHash> {
        let hash = || SipHasher24::new_with_key(&self.0.0).hash(name.as_bytes());
        (!name.is_empty()).then(hash).map(|hash| NameHash(hash.h1, hash.h2))
    }
}

/// How many ids and keys are remembered at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) ids_per_topic: usize,
    pub(crate) ids: usize,
    pub(crate) keys_per_topic: usize,
    pub(crate) keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ids_per_topic: MAX_IDS_PER_TOPIC,
            ids: MAX_IDS,
            keys_per_topic: MAX_KEYS_PER_TOPIC,
            keys: MAX_KEYS,
        }
    }
}

/// What is remembered of one topic's messages.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct TopicNames {
    /// How long ids are remembered; zero for not at all.
    window: Duration,
    pub(crate) ids: Ids,
    /// The topic's key index, if it has one.
    pub(crate) keys: Option<Keys>,
}

impl TopicNames {
    /// Whether nothing is remembered, nor is there an index.
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.len() == 0 && self.keys.is_none()
    }
}

/// What is remembered of all topics' messages. A fold over the log, like the rest of the state: it
/// goes by the times that are written there and by no clock.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Names {
    limits: Limits,
    topics: BTreeMap<u64, TopicNames>,
    /// Ids remembered in all.
    ids: usize,
    /// Keys in all indexes.
    keys: usize,
}

impl Names {
    /// Nothing, and no room for more than this.
    #[cfg(test)]
    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// A topic was created or changed. An index that begins when the topic has messages already is not
    /// complete.
    pub(crate) fn configure(&mut self, topic: u64, window: Duration, key_index: bool, next: Offset) {
        let names = self.topics.entry(topic).or_default();
        names.window = window;
        if window.is_zero() {
            self.ids -= names.ids.len();
            names.ids = Ids::default();
        }
        if !key_index {
            self.keys -= names.keys.take().map_or(0, |keys| keys.len());
        } else if names.keys.is_none() {
            names.keys = Some(Keys::new(next <= 1));
        }
    }

    /// A topic is gone.
    pub(crate) fn remove(&mut self, topic: u64) {
        if let Some(names) = self.topics.remove(&topic) {
            self.ids -= names.ids.len();
            self.keys -= names.keys.map_or(0, |keys| keys.len());
        }
    }

    /// Messages of a topic are missing from the log: they may have been the last of their keys.
    pub(crate) fn lose(&mut self, topic: u64) {
        if let Some(keys) = self.topics.get_mut(&topic).and_then(|names| names.keys.as_mut()) {
            keys.set_incomplete();
        }
    }

    /// Whether anything of a topic's messages is remembered.
    pub(crate) fn wants(&self, topic: u64) -> bool {
        let wants = |names: &TopicNames| !names.window.is_zero() || names.keys.is_some();
        self.topics.get(&topic).is_some_and(wants)
    }

    /// Messages from `first` on were appended to a topic.
    pub(crate) fn remember(
        &mut self,
        topic: u64,
        first: Offset,
        marks: impl Iterator<Item = Mark>,
        time: Timestamp,
    ) {
        let limits = self.limits;
        let Some(names) = self.topics.get_mut(&topic) else { return };
        self.ids -= names.ids.len();
        names.ids.expire(time, names.window);
        for (offset, mark) in (first..).zip(marks) {
            if let Some(id) = mark.id.filter(|_| !names.window.is_zero()) {
                names.ids.forget_all_but(limits.ids_per_topic - 1);
                names.ids.note(id, offset, time);
            }
            if let (Some(keys), Some(key)) = (&mut names.keys, mark.key) {
                let before = keys.len();
                let has_room = before < limits.keys_per_topic && self.keys < limits.keys;
                keys.note(key, offset, has_room);
                self.keys += keys.len() - before;
            }
        }
        self.ids += names.ids.len();
        if self.ids > limits.ids {
            self.make_room(time);
        }
    }

    /// Forgets what is out of its window, and if that is not enough, the oldest of every topic.
    fn make_room(&mut self, time: Timestamp) {
        for names in self.topics.values_mut() {
            names.ids.expire(time, names.window);
        }
        self.ids = self.topics.values().map(|names| names.ids.len()).sum();
        if self.ids > self.limits.ids {
            for names in self.topics.values_mut() {
                let count = names.ids.len();
                names.ids.forget_all_but(count - count / FORGOTTEN_PART);
            }
            self.ids = self.topics.values().map(|names| names.ids.len()).sum();
        }
    }

    /// Whether a topic's ids are remembered.
    pub(crate) fn remembers_ids(&self, topic: u64) -> bool {
        self.topics.get(&topic).is_some_and(|names| !names.window.is_zero())
    }

    /// The message of a topic that had this id, if it was published within the window before `now`.
    pub(crate) fn find_id(&self, topic: u64, id: NameHash, now: Timestamp) -> Option<Offset> {
        let names = self.topics.get(&topic).filter(|names| !names.window.is_zero())?;
        names.ids.find(id, now, names.window)
    }

    /// A topic's key index, if it has one.
    pub(crate) fn keys(&self, topic: u64) -> Option<&Keys> {
        self.topics.get(&topic)?.keys.as_ref()
    }

    /// What is remembered of each topic, to store it.
    pub(crate) fn topics(&self) -> impl Iterator<Item = (u64, &TopicNames)> {
        self.topics.iter().map(|(&topic, names)| (topic, names))
    }

    /// Puts back what was stored of a topic that is configured, in place of what is remembered.
    pub(crate) fn restore(&mut self, topic: u64, ids: Ids, keys: Option<Keys>) {
        let Some(names) = self.topics.get_mut(&topic) else { return };
        self.ids -= names.ids.len();
        self.keys -= names.keys.as_ref().map_or(0, Keys::len);
        (names.ids, names.keys) = (ids, keys);
        self.ids += names.ids.len();
        self.keys += names.keys.as_ref().map_or(0, Keys::len);
    }

    /// What is remembered of one topic, if anything is.
    pub(crate) fn topic(&self, topic: u64) -> Option<&TopicNames> {
        self.topics.get(&topic).filter(|names| !names.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const LIMITS: Limits = Limits { ids_per_topic: 100, ids: 160, keys_per_topic: 3, keys: 4 };

    fn marks(names: std::ops::Range<u64>) -> impl Iterator<Item = Mark> {
        names.map(|n| Mark { id: Some(NameHash(n, 0)), key: Some(NameHash(n, 1)) })
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn a_topic_forgets_its_oldest_ids_first() {
        let mut names = Names::with_limits(LIMITS);
        names.configure(1, WINDOW, false, 1);
        names.remember(1, 1, marks(0..120), at(1));
        let found = |n| names.find_id(1, NameHash(n, 0), at(1));
        assert_eq!((found(19), found(20), found(119)), (None, Some(21), Some(120)));
    }

    #[test]
    fn topics_share_the_room_for_all_ids() {
        let mut names = Names::with_limits(LIMITS);
        for topic in 1..=3 {
            names.configure(topic, WINDOW, false, 1);
        }
        names.remember(1, 1, marks(0..50), at(1));
        // Out of their window by the time that room is needed.
        names.remember(2, 1, marks(0..50), at(100));
        names.remember(3, 1, marks(0..80), at(100));
        let found = |names: &Names, topic, n| names.find_id(topic, NameHash(n, 0), at(100)).is_some();
        assert!((0..50).all(|n| found(&names, 2, n)) && (0..80).all(|n| found(&names, 3, n)));
        assert_eq!(names.ids, 130, "the first topic's are gone");
        names.remember(2, 51, marks(50..90), at(100));
        assert_eq!(names.ids, 90 - 90 / 8 + 80 - 80 / 8);
        assert!(
            !found(&names, 2, 10) && found(&names, 2, 11) && !found(&names, 3, 9) && found(&names, 3, 10)
        );
    }

    #[test]
    fn an_index_without_room_says_that_it_does_not_know() {
        let mut names = Names::with_limits(LIMITS);
        names.configure(1, WINDOW, true, 1);
        names.configure(2, WINDOW, true, 1);
        names.configure(3, WINDOW, true, 5);
        let last = |names: &Names, topic, n| names.keys(topic).unwrap().last(NameHash(n, 1));
        assert_eq!((last(&names, 1, 0), last(&names, 3, 0)), (Some(0), None), "the third is not complete");
        names.remember(1, 1, marks(0..4), at(1));
        assert_eq!((last(&names, 1, 2), last(&names, 1, 3)), (Some(3), None));
        names.remember(2, 1, marks(0..2), at(1));
        assert_eq!((last(&names, 2, 0), last(&names, 2, 1)), (Some(1), None), "there is room for one more");
        names.remember(1, 5, marks(2..3), at(1));
        assert_eq!(last(&names, 1, 2), Some(5), "what is known is kept up");
        names.remove(1);
        names.remember(2, 3, marks(5..6), at(1));
        assert_eq!(last(&names, 2, 5), Some(3));
        names.configure(2, WINDOW, false, 4);
        assert!(names.keys(2).is_none());
        assert_eq!(names.keys, 0);
    }

    #[test]
    fn a_window_that_is_closed_forgets() {
        let mut names = Names::default();
        names.configure(1, WINDOW, false, 1);
        names.remember(1, 1, marks(0..1), at(1));
        names.configure(1, WINDOW / 2, false, 2);
        let found = |names: &Names, now| names.find_id(1, NameHash(0, 0), at(now));
        assert_eq!((found(&names, 31), found(&names, 32)), (Some(1), None));
        names.configure(1, Duration::ZERO, false, 2);
        names.configure(1, WINDOW, false, 2);
        assert_eq!((found(&names, 1), names.ids), (None, 0));
        assert!(names.wants(1));
    }

    #[test]
    fn marks_tell_names_apart() {
        let (marker, other) = (Marker::new(LogId([1; 16])), Marker::new(LogId([2; 16])));
        // Fields 2 (the key) and 4 (the id) of a `columba.v1.Message`.
        let envelopes =
            [b"\x0a\x01x".as_slice(), b"\x12\x01a\x22\x01a", b"\x22\x01b"].map(Bytes::from_static);
        let marks = marker.marks(&envelopes);
        assert_eq!(marks[0], Mark::default());
        assert_eq!(marks[1].id, marks[1].key, "the same text");
        assert!(marks[2].key.is_none() && marks[2].id.is_some() && marks[2].id != marks[1].id);
        assert_ne!(other.marks(&envelopes)[1], marks[1]);
        assert!(marker.marks(&envelopes[..1]).is_empty());
        // Field 3 is an attribute.
        let name = "columba-redrive-subscription";
        let entry = [b"\x0a", &[28][..], name.as_bytes(), b"\x12\x01s"].concat();
        let directed = [b"\x12\x01a\x1a", &[33][..], &entry].concat();
        assert_eq!(marker.mark(&directed).key, None, "it is not the last message of its key for everybody");
    }
}
