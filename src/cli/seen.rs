//! What was printed of several topics before the connection was lost, which comes again after it.

use std::collections::HashMap;

/// How far each topic was printed, by name.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<String, Topic>);

#[derive(Debug, Default)]
struct Topic {
    /// The last offset that was printed over earlier connections.
    before: u64,
    /// The last offset that came over this one.
    last: u64,
}

impl Seen {
    /// There is a new connection: each topic comes again, from where it began.
    pub(super) fn connect(&mut self) {
        for topic in self.0.values_mut() {
            *topic = Topic { before: topic.before.max(topic.last), last: 0 };
        }
    }

    /// Whether the next message of a topic was not printed before.
    pub(super) fn is_new(&mut self, topic: &str, offset: u64) -> bool {
        if !self.0.contains_key(topic) {
            self.0.insert(topic.to_owned(), Topic::default());
        }
        let Some(topic) = self.0.get_mut(topic) else { return true };
        // Offsets only go back where a topic was deleted, and made again under its name.
        if offset <= topic.last {
            topic.before = 0;
        }
        topic.last = offset;
        offset > topic.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_over_a_new_connection_is_left_out() {
        let mut seen = Seen::default();
        seen.connect();
        assert!(seen.is_new("a", 3) && seen.is_new("a", 4) && seen.is_new("b", 1));
        seen.connect();
        assert!(!seen.is_new("a", 3));
        // Lost again before all had come again.
        seen.connect();
        assert!(!seen.is_new("a", 3) && !seen.is_new("a", 4) && seen.is_new("a", 5));
        assert!(!seen.is_new("b", 1) && seen.is_new("b", 2));
    }

    #[test]
    fn a_topic_made_again_is_new() {
        let mut seen = Seen::default();
        seen.connect();
        assert!(seen.is_new("a", 1) && seen.is_new("a", 2));
        assert!(seen.is_new("a", 1) && seen.is_new("a", 2), "over the same connection");
        seen.connect();
        assert!(!seen.is_new("a", 1) && !seen.is_new("a", 2) && seen.is_new("a", 3));
        assert!(seen.is_new("a", 1) && seen.is_new("a", 2), "after a new connection");
    }
}
