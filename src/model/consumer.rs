//! Open consumers as users see them.

use super::name::Name;
use super::time::Timestamp;

/// An open consumer of a durable subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Rises with each consumer that connects.
    pub number: u64,
    /// The server's name for it.
    pub id: String,
    /// What it calls itself; may be empty.
    pub name: String,
    /// What it reads.
    pub subscription: Name,
    /// When it connected.
    pub since: Timestamp,
    /// Messages that it holds.
    pub outstanding_messages: u32,
    /// Bytes of them.
    pub outstanding_bytes: u64,
    /// How many messages it may hold.
    pub max_messages: u32,
    /// How many bytes.
    pub max_bytes: u64,
}
