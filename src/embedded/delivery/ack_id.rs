//! Ack ids: which delivery of which message, signed.

use std::hash::Hasher as _;

use bytes::{BufMut, Bytes, BytesMut};
use siphasher::sip::SipHasher24;

use crate::embedded::log::format::{u32_at, u64_at};
use crate::model::Offset;

/// The length of an ack id: version, subscription, epoch, offset, delivery, attempt, tag.
const LENGTH: usize = 41;
const VERSION: u8 = 1;

/// What an ack id says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AckId {
    /// The subscription's number.
    pub(crate) subscription: u64,
    /// How often the subscription had been moved by a seek.
    pub(crate) epoch: u32,
    /// The message.
    pub(crate) offset: Offset,
    /// The delivery's number in its subscription.
    pub(crate) delivery: u64,
    /// How often the message had been handed out with it.
    pub(crate) attempt: u32,
}

/// Makes and checks ack ids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signer(pub(crate) [u8; 16]);

impl Signer {
    /// Encodes ids into one buffer, in order.
    pub(crate) fn sign(&self, ids: impl ExactSizeIterator<Item = AckId>) -> impl Iterator<Item = Bytes> {
        let mut all = BytesMut::with_capacity(ids.len() * LENGTH);
        for id in ids {
            let start = all.len();
            all.put_u8(VERSION);
            all.put_u64_le(id.subscription);
            all.put_u32_le(id.epoch);
            all.put_u64_le(id.offset);
            all.put_u64_le(id.delivery);
            all.put_u32_le(id.attempt);
            let tag = self.hash(&all[start..]);
            all.put_u64_le(tag);
        }
        let mut all = all.freeze();
        std::iter::from_fn(move || (!all.is_empty()).then(|| all.split_to(LENGTH)))
    }

    /// Reads an id; `None` if this server did not make it.
    pub(crate) fn open(&self, bytes: &[u8]) -> Option<AckId> {
        let (content, tag) = bytes.split_at_checked(LENGTH - 8)?;
        if tag.len() != 8 || content[0] != VERSION || u64_at(tag, 0) != self.hash(content) {
            return None;
        }
        let id = AckId {
            subscription: u64_at(content, 1),
            epoch: u32_at(content, 9),
            offset: u64_at(content, 13),
            delivery: u64_at(content, 21),
            attempt: u32_at(content, 29),
        };
        Some(id)
    }

    /// A hash that nobody can foresee.
    pub(crate) fn hash(&self, content: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(content);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_it_signed() {
        let signer = Signer([3; 16]);
        let ids = [1, 2, 3].map(|n| AckId {
            subscription: n,
            epoch: 7,
            offset: 10 * n,
            delivery: 100 * n,
            attempt: 3,
        });
        let signed: Vec<_> = signer.sign(ids.into_iter()).collect();
        assert_eq!(signed.iter().filter_map(|id| signer.open(id)).collect::<Vec<_>>(), ids);
        assert_eq!(Signer([4; 16]).open(&signed[0]), None);
        for bit in 0..LENGTH * 8 {
            let mut forged = signed[0].to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(signer.open(&forged), None);
        }
        for length in 0..LENGTH {
            assert_eq!(signer.open(&signed[0][..length]), None);
        }
        assert_eq!(signer.open(&[&signed[0][..], b"x"].concat()), None);
    }
}
