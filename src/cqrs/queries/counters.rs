//! What has happened to queries since the server started.

/// Counts of queries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Asked, by callers and by watchers.
    pub(crate) asked: u64,
    /// Answered with a result, from cache or by a handler.
    pub(crate) answered: u64,
    /// Of those, from cache.
    pub(crate) from_cache: u64,
    /// Not found in the cache, though the caller allowed a kept answer.
    pub(crate) missed: u64,
    /// Joined a call under way instead of making one.
    pub(crate) shared: u64,
    /// Not answered with a result.
    pub(crate) failed: u64,
    /// Handed out again: the handler left, did not answer, or was too far behind.
    pub(crate) retried: u64,
}
