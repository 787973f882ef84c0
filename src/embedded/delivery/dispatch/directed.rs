//! Messages that are for one subscription only, in all others.

use std::time::Instant;

use super::Dispatcher;
use crate::model::{Happening, Header, Offset};

impl Dispatcher {
    /// Whether a message is for another subscription.
    pub(super) fn is_for_another(&self, header: &Header<'_>) -> bool {
        !header.only_for.is_empty() && header.only_for != self.subject.name.as_str()
    }

    /// Settles a message that is for another subscription.
    pub(super) fn skip_directed(&mut self, offset: Offset, now: Instant) {
        self.leases.history.push(offset, offset, Happening::Skipped, now);
        self.settle_unwanted(&[(offset, offset)]);
    }
}
