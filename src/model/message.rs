//! Messages on their way in and out, and places in a topic.

use bytes::Bytes;

use super::header::Header;
use super::name::Name;
use super::time::Timestamp;

/// A message's place in its topic. Dense, the first is 1; 0 stands for "none".
pub type Offset = u64;

/// A message as the producer encoded it: valid, within its limits, and from here on opaque.
///
/// The bytes are a `columba.v1.Message` in protobuf wire format, checked by `api` on the way in.
/// They are stored and delivered as they are, so fields that this server does not know survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope(pub Bytes);

impl Envelope {
    /// The encoded size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What of it the engine goes by.
    #[must_use]
    pub fn header(&self) -> Header<'_> {
        Header::read(&self.0)
    }

    /// Whether the producer sent a message with no field set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A message as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// The topic it was published to.
    pub topic: Name,
    /// Its place in the topic.
    pub offset: Offset,
    /// When the server accepted it; never runs backward within a topic.
    pub publish_time: Timestamp,
    /// What the producer sent.
    pub envelope: Envelope,
}

/// A message handed to a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Names this delivery when it is settled. Empty for an ephemeral subscription.
    pub ack_id: Bytes,
    /// How many times the message has been handed out, this time included.
    pub attempt: u32,
    /// The message.
    pub message: StoredMessage,
}

/// How safe a message is when its receipt is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Durability {
    /// In the operating system's page cache: survives a crash of the process, not of the machine.
    Buffered,
    /// On this node's disk.
    #[default]
    Fsynced,
}

/// A message that was published before, and not stored again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// Its place in the request, from 0.
    pub index: u32,
    /// Offset of the message that was stored.
    pub offset: Offset,
}

/// What a publisher gets for its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Offset of the first message that was stored; 0 if all are duplicates.
    pub first: Offset,
    /// Offset of the last message that was stored; 0 if all are duplicates.
    pub last: Offset,
    /// The others, in the order of the request.
    pub duplicates: Vec<Duplicate>,
    /// How safe the messages were when the receipt was made.
    pub durability: Durability,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest message the topic still holds.
    Earliest,
    /// Only what is published from now on.
    Latest,
    /// This offset (at least 1); the oldest message if that is later.
    Offset(Offset),
    /// The first message published at this time or later.
    Time(Timestamp),
}
