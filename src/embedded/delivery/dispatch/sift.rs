//! Messages that the subscription's filter does not want: settled where they would have been handed out.

use std::time::Instant;

use tokio::sync::oneshot;

use super::settle::Ranges;
use super::{Dispatcher, Lane};
use crate::engine::Error;
use crate::model::{Filter, Offset, StoredMessage};

impl Dispatcher {
    /// Why nothing can be handed out to anybody, if nothing can.
    pub(super) fn unreadable_filter(&self) -> Option<Error> {
        let problem = self.common.filter.error()?.clone();
        Some(Error::UnreadableFilter { subscription: self.common.name.clone(), problem })
    }

    /// The owner has another filter.
    pub(super) fn set_filter(&mut self, filter: Filter) {
        for lane in self.lanes.values_mut() {
            lane.sieve.replace(filter.clone(), std::mem::take(&mut lane.ready));
        }
        self.common.filter = filter;
        self.check_filter();
    }

    /// Ends everybody's hopes if the filter cannot be read.
    pub(super) fn check_filter(&mut self) {
        if let Some(error) = self.unreadable_filter() {
            tracing::error!(subscription = %self.common.name, %error, "nothing is delivered");
            self.end_all(&error);
        }
    }

    /// Whether there are messages to look at for somebody who waits, and the turn was over before.
    pub(super) fn has_more_to_sift(&self) -> bool {
        !self.takers.is_empty() && self.lanes.values().any(Lane::has_more_to_sift)
    }
}

impl Lane {
    /// New messages, in order.
    pub(super) fn arrive(&mut self, messages: Vec<StoredMessage>) {
        if self.sieve.is_open() && self.sieve.unsifted.is_empty() {
            self.ready.extend(messages);
        } else {
            self.sieve.unsifted.extend(messages);
        }
    }

    /// Looks at new messages as long as there is time; says whether it did.
    pub(super) fn sift(&mut self) -> bool {
        let mut unwanted = Ranges::default();
        let mut has_sifted = false;
        while !self.sieve.is_over(Instant::now()) {
            let Some(message) = self.sieve.unsifted.pop_front() else { break };
            has_sifted = true;
            let offset = message.offset;
            if !self.leases.is_new(offset) {
                continue;
            }
            if self.is_wanted(&message) {
                self.ready.push_back(message);
            } else {
                unwanted.add(offset, offset);
            }
        }
        if has_sifted {
            self.used = Instant::now();
        }
        self.settle_unwanted(&unwanted.0);
        has_sifted
    }

    /// Looks at a message to be handed out again; returns it if it is wanted. There is always time for one,
    /// so that a long way through new messages holds up none.
    pub(super) fn sift_again(&mut self, message: StoredMessage) -> Option<StoredMessage> {
        if self.sieve.is_open() {
            return Some(message);
        }
        let is_wanted = self.is_wanted(&message);
        if !is_wanted {
            self.settle_unwanted(&[(message.offset, message.offset)]);
        }
        self.sieve.cut_short = self.sieve.is_over(Instant::now());
        is_wanted.then_some(message)
    }

    /// Whether a message may be handed out now, for the first time or again.
    fn is_wanted(&mut self, message: &StoredMessage) -> bool {
        let attempt = self.leases.next_attempt(message.offset);
        self.sieve.wants(message, attempt).unwrap_or_else(|error| {
            if let Some(count) = self.sieve.count_undecided(Instant::now()) {
                let (name, offset) = (&self.subject.name, message.offset);
                tracing::warn!(
                    subscription = %name, offset, %error, count,
                    "the filter cannot decide on messages, and leaves them out"
                );
            }
            false
        })
    }

    /// Settles messages without handing them out.
    pub(super) fn settle_unwanted(&mut self, ranges: &[(Offset, Offset)]) {
        for &(first, last) in ranges {
            self.leases.settle(first, last);
        }
        let now = Instant::now();
        self.sieve.note(ranges, now);
        if !self.is_stalled()
            && let Some(due) = self.sieve.due(now)
        {
            self.commit(due, oneshot::channel().0);
        }
    }

    /// Has the log know of all that is settled, before it is told of anything that came after.
    pub(super) fn write_unwanted(&mut self) {
        let unwanted = self.sieve.take();
        if !unwanted.is_empty() {
            self.commit(unwanted, oneshot::channel().0);
        }
    }

    /// Whether there are messages to look at, and the turn was over before.
    fn has_more_to_sift(&self) -> bool {
        (self.ready.is_empty() && !self.sieve.unsifted.is_empty()) || self.sieve.cut_short
    }
}
