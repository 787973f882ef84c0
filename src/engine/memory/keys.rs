//! The order of the messages of each key: who may have what, and what fails together.

use tokio::time::Instant;

use super::log::Log;
use super::queue::{Handed, Holder, Queue};
use crate::model::{Mode, Offset, Timestamp};

impl Queue {
    /// Whether the order of keys counts.
    pub(super) fn orders_keys(&self) -> bool {
        self.subscription.settings.mode == Mode::KeyOrdered
    }

    /// Whether a message may be handed to somebody, as far as its key goes: all that is in flight of the
    /// key is theirs, and was not delivered before; and nothing else of it comes first.
    pub(super) fn may_have(&self, holder: Holder, offset: Offset, log: &Log, now: Instant) -> bool {
        self.others_of_key(offset, log).all(|other| match self.handed.get(&other) {
            Some(handed) if handed.in_flight(now) => handed.holder == Some(holder) && handed.attempt == 1,
            _ => other > offset,
        })
    }

    /// Whether no unsettled message of its key comes before this one.
    pub(super) fn is_first(&self, offset: Offset, log: &Log) -> bool {
        self.others_of_key(offset, log).all(|other| other > offset)
    }

    /// The other messages of its key that are not settled and whose time has come; none where the order of
    /// keys does not count.
    fn others_of_key(&self, offset: Offset, log: &Log) -> impl Iterator<Item = Offset> {
        let key = if self.orders_keys() { log.header(offset).key } else { "" };
        let wall = Timestamp::now();
        let has_come = move |other| log.header(other).deliver_time.is_none_or(|time| time <= wall);
        log.of_key(key).iter().copied().filter(move |&other| {
            other != offset
                && !self.is_settled(other)
                && (self.handed.contains_key(&other) || has_come(other))
        })
    }

    /// A delivery failed: its message may be handed out again from `until` on. With it end those of the
    /// later messages of its key, which do not count.
    pub(super) fn fail(&mut self, offset: Offset, until: Instant, now: Instant) {
        let orders_keys = self.orders_keys();
        let failed = self.handed.get_mut(&offset).expect("it was handed out");
        (failed.leased, failed.until) = (false, until);
        let key = failed.key.clone();
        if !orders_keys || key.is_empty() {
            return;
        }
        let later = self.handed.range_mut(offset + 1..).map(|(_, handed)| handed);
        for handed in later.filter(|handed: &&mut Handed| handed.key == key && handed.leased) {
            (handed.leased, handed.until) = (false, now);
            handed.attempt -= 1;
        }
    }
}
