//! Query ids: which handing-out an answer belongs to, signed so that nobody can make one up; and how the
//! last ones ended, so that an answer without effect is told why.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher as _;

use bytes::{BufMut, Bytes, BytesMut};
use siphasher::sip::SipHasher24;

use super::error::Over;
use super::routing::DeliveryNo;

/// Number and tag.
const LENGTH: usize = 16;
/// How many ends are remembered.
const REMEMBERED: usize = 4_096;

/// Makes and checks ids with a key of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signer([u8; 16]);

impl Signer {
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    pub(super) fn sign(&self, delivery: DeliveryNo) -> Bytes {
        let mut id = BytesMut::with_capacity(LENGTH);
        id.put_u64_le(delivery.0);
        let tag = self.tag(&id);
        id.put_u64_le(tag);
        id.freeze()
    }

    /// Reads an id; `None` if it is not one of ours.
    pub(super) fn open(&self, id: &[u8]) -> Option<DeliveryNo> {
        let (number, tag) = id.split_first_chunk::<8>()?;
        let tag: [u8; 8] = tag.try_into().ok()?;
        let genuine = u64::from_le_bytes(tag) == self.tag(number);
        genuine.then(|| DeliveryNo(u64::from_le_bytes(*number)))
    }

    fn tag(&self, content: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(content);
        hasher.finish()
    }
}

/// How the last queries that were handed out ended.
#[derive(Debug, Default)]
pub(super) struct Ends {
    how: HashMap<DeliveryNo, Over>,
    order: VecDeque<DeliveryNo>,
}

impl Ends {
    pub(super) fn note(&mut self, delivery: DeliveryNo, over: Over) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.how.remove(&oldest);
        }
        self.how.insert(delivery, over);
        self.order.push_back(delivery);
    }

    pub(super) fn of(&self, delivery: DeliveryNo) -> Over {
        self.how.get(&delivery).copied().unwrap_or(Over::Forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_it_signed() {
        let signer = Signer::new([3; 16]);
        let id = signer.sign(DeliveryNo(7));
        assert_eq!(signer.open(&id), Some(DeliveryNo(7)));
        assert_eq!(Signer::new([4; 16]).open(&id), None);
        for bit in 0..LENGTH * 8 {
            let mut forged = id.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(signer.open(&forged), None);
        }
        for length in 0..LENGTH {
            assert_eq!(signer.open(&id[..length]), None);
        }
        assert_eq!(signer.open(&[&id[..], b"x"].concat()), None);
    }

    #[test]
    fn remembers_the_last_ends() {
        let mut ends = Ends::default();
        for number in 0..=REMEMBERED as u64 {
            ends.note(DeliveryNo(number), Over::Answered);
        }
        assert_eq!(ends.of(DeliveryNo(0)), Over::Forgotten);
        assert_eq!(ends.of(DeliveryNo(1)), Over::Answered);
        assert_eq!(ends.how.len(), ends.order.len());
    }
}
