//! Which messages of a topic are kept.

use std::time::Duration;

/// What a topic keeps. A message goes when any of the limits is passed, whether it was delivered or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// Messages older than this go; `None` for no limit.
    pub max_age: Option<Duration>,
    /// The oldest messages go while all of them take more bytes than this; `None` for no limit.
    pub max_bytes: Option<u64>,
    /// The oldest messages go while there are more than this; `None` for no limit.
    pub max_messages: Option<u64>,
    /// Messages go that every subscription has settled, as long as there is one.
    pub delete_acked: bool,
}

impl Retention {
    /// Whether everything is kept.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        *self == Self::default()
    }
}
