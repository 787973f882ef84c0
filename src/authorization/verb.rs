//! The verbs of rules.

use std::fmt;

/// What somebody may do with the things of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Publish to a topic.
    Publish,
    /// Read the messages of a topic or a subscription, and settle them.
    Consume,
    /// Create, change, purge and delete topics, subscriptions and buckets, and move subscriptions.
    Manage,
    /// Send and cancel commands of a type.
    Send,
    /// Handle commands or queries of a type, and say when answers change.
    Handle,
    /// Ask queries of a type.
    Query,
    /// Look at topics, subscriptions and commands, and read the entries of buckets.
    Read,
    /// Write the entries of a bucket.
    Write,
    /// Look into the server: consumers, handlers, events, the lives of messages, decisions about others.
    Admin,
}

/// All verbs.
pub(super) const VERBS: [Verb; 9] = [
    Verb::Publish,
    Verb::Consume,
    Verb::Manage,
    Verb::Send,
    Verb::Handle,
    Verb::Query,
    Verb::Read,
    Verb::Write,
    Verb::Admin,
];

impl Verb {
    /// The verb as rules have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Manage => "manage",
            Self::Send => "send",
            Self::Handle => "handle",
            Self::Query => "query",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// Reads a verb.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        VERBS.into_iter().find(|verb| verb.as_str() == text)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Several verbs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Verbs(u16);

impl Verbs {
    pub(super) fn and(self, verb: Verb) -> Self {
        Self(self.0 | 1 << verb as u16)
    }

    pub(super) fn contains(self, verb: Verb) -> bool {
        self.0 & 1 << verb as u16 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_read_as_they_are_written() {
        for verb in VERBS {
            assert_eq!(Verb::parse(verb.as_str()), Some(verb));
            let only = Verbs::default().and(verb);
            assert!(VERBS.iter().all(|&other| only.contains(other) == (other == verb)));
        }
        assert_eq!(Verb::parse("Publish"), None);
    }
}
