//! Ack ids: which delivery an id names, with a tag that only this engine can make.

use bytes::{BufMut, Bytes, BytesMut};
use siphasher::sip::SipHasher24;

use crate::model::Offset;

/// Four numbers and the tag over them.
const BODY_BYTES: usize = 8 + 8 + 4 + 8;
const ID_BYTES: usize = BODY_BYTES + 8;

/// One handing-out of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeliveryRef {
    /// The subscription's number, which no later one of the same name shares.
    pub(super) subscription: u64,
    /// How often the subscription had been moved by a seek.
    pub(super) epoch: u32,
    pub(super) offset: Offset,
    /// The delivery's number in its subscription.
    pub(super) delivery: u64,
}

/// Makes and checks ids. Its key is random, so an id of another engine is as good as a forged one.
pub(super) struct AckIds(SipHasher24);

impl Default for AckIds {
    fn default() -> Self {
        Self(SipHasher24::new_with_key(&rand::random()))
    }
}

impl AckIds {
    /// The id of a delivery.
    pub(super) fn seal(&self, delivery: DeliveryRef) -> Bytes {
        let mut id = BytesMut::with_capacity(ID_BYTES);
        id.put_u64(delivery.subscription);
        id.put_u32(delivery.epoch);
        id.put_u64(delivery.offset);
        id.put_u64(delivery.delivery);
        id.put_u64(self.0.hash(&id));
        id.freeze()
    }

    /// The delivery an id names; `None` if this engine never made it.
    pub(super) fn open(&self, id: &[u8]) -> Option<DeliveryRef> {
        let (body, tag) = id.split_at_checked(BODY_BYTES)?;
        if tag != self.0.hash(body).to_be_bytes() {
            return None;
        }
        let (subscription, rest) = body.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (offset, delivery) = rest.split_first_chunk()?;
        Some(DeliveryRef {
            subscription: u64::from_be_bytes(*subscription),
            epoch: u32::from_be_bytes(*epoch),
            offset: u64::from_be_bytes(*offset),
            delivery: u64::from_be_bytes(delivery.try_into().ok()?),
        })
    }
}
