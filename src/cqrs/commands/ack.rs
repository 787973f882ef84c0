//! The names of deliveries as handlers know them.

use bytes::Bytes;
use prost::Message as _;

use super::error::{Error, Result};

/// Which delivery of which command.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ack {
    /// The command.
    #[prost(string, tag = "1")]
    pub(super) id: String,
    /// The engine's name for the delivery, which nobody else can make up.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) ack: Bytes,
}

impl Ack {
    pub(super) fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    pub(super) fn read(bytes: Bytes) -> Result<Self> {
        let ack = Self::decode(bytes).ok();
        ack.filter(|ack| !ack.id.is_empty() && !ack.ack.is_empty()).ok_or(Error::UnknownAck)
    }
}
