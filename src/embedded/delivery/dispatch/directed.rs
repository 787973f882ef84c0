//! Messages that are for one subscription only, in all others.

use std::time::Instant;

use super::Lane;
use super::settle::Ranges;
use crate::model::{Happening, StoredMessage};

impl Lane {
    /// Takes out the messages that are for another subscription: they count as settled here.
    pub(super) fn skip_directed(&mut self, messages: Vec<StoredMessage>) -> Vec<StoredMessage> {
        let own = self.subject.name.as_str();
        let is_foreign = |message: &StoredMessage| {
            let only_for = message.envelope.header().only_for;
            !only_for.is_empty() && only_for != own
        };
        if !messages.iter().any(is_foreign) {
            return messages;
        }
        let (foreign, own): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_foreign);
        let mut ranges = Ranges::default();
        for message in foreign.iter().filter(|message| self.leases.is_new(message.offset)) {
            ranges.add(message.offset, message.offset);
        }
        let now = Instant::now();
        for &(first, last) in &ranges.0 {
            self.leases.history.push(first, last, Happening::Skipped, now);
        }
        self.settle_unwanted(&ranges.0);
        own
    }
}
