//! The last message of each key of one topic.

use std::collections::HashMap;

use super::NameHash;
use crate::model::Offset;

/// The key index of one topic. About 50 bytes a key.
///
/// It may not know every key: it began when the topic had messages already, had no room for more, or
/// some messages are lost. It says so of a key that it does not know, and is right about all others.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Keys {
    offsets: HashMap<NameHash, Offset>,
    /// A key that is not here is in no message.
    complete: bool,
}

impl Keys {
    /// An index that knows no key; of a topic without messages, if it is complete.
    pub(crate) fn new(complete: bool) -> Self {
        Self { offsets: HashMap::new(), complete }
    }

    /// How many keys it knows.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether a key that it does not know is in no message.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// From now on it says of keys that it does not know that it does not know them.
    pub(crate) fn set_incomplete(&mut self) {
        self.complete = false;
    }

    /// All keys and their last messages, in no order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (NameHash, Offset)> {
        self.offsets.iter().map(|(&key, &offset)| (key, offset))
    }

    /// The last message with a key; 0 if there never was one, `None` if that is not known. A message
    /// counts even when retention or a purge has removed it.
    pub(crate) fn last(&self, key: NameHash) -> Option<Offset> {
        self.offsets.get(&key).copied().or(self.complete.then_some(0))
    }

    /// Whether no later message with the key is known, so that this one must be kept.
    pub(crate) fn is_last(&self, key: NameHash, offset: Offset) -> bool {
        self.offsets.get(&key).is_none_or(|&last| last <= offset)
    }

    /// Takes a message in; a key that is not known yet only if there is room.
    pub(crate) fn note(&mut self, key: NameHash, offset: Offset, has_room: bool) {
        if let Some(last) = self.offsets.get_mut(&key) {
            *last = offset.max(*last);
        } else if has_room {
            self.offsets.insert(key, offset);
        } else {
            self.complete = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_message_replaces_the_last() {
        let (key, other) = (NameHash(1, 0), NameHash(2, 0));
        let mut keys = Keys::new(true);
        keys.note(key, 5, true);
        keys.note(key, 3, true);
        assert_eq!((keys.last(key), keys.last(other)), (Some(5), Some(0)));
        assert!(keys.is_last(key, 5) && !keys.is_last(key, 3) && keys.is_last(other, 1));
        keys.note(other, 6, false);
        keys.note(key, 7, false);
        assert_eq!((keys.last(key), keys.last(other)), (Some(7), None));
        assert!(keys.is_last(other, 6), "what is not known is kept");
    }
}
