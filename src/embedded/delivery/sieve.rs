//! What a subscription's filter says of messages on their way to consumers.
//!
//! A plain struct: no I/O, no clock, no lock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::filter::{Facts, Unclear};
use crate::model::{Filter, Offset, StoredMessage};

/// How long one turn may evaluate filters, before others have theirs.
pub(crate) const SIFT_TIME: Duration = Duration::from_millis(5);
/// How long it may take until the log hears of messages that are not wanted: many at once are cheaper.
const WRITE_AFTER: Duration = Duration::from_millis(100);
/// As many ranges of them are written earlier.
const MANY_RANGES: usize = 1_000;
/// How often at most the log of the server tells of messages that a filter cannot decide on.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// A filter, and what is to be done about it.
pub(crate) struct Sieve {
    filter: Filter,
    /// Fetched messages that were never handed out and are still to be looked at, in order.
    pub(crate) unsifted: VecDeque<StoredMessage>,
    /// What is not wanted and not written down yet, in ranges.
    unwanted: Vec<(Offset, Offset)>,
    /// When the first of those came.
    since: Option<Instant>,
    /// The end of this turn's time.
    until: Instant,
    /// Whether the turn ended before all messages were looked at that could be handed out again.
    pub(crate) cut_short: bool,
    undecided: u64,
    warned: Option<Instant>,
}

impl Sieve {
    pub(crate) fn new(filter: Filter, now: Instant) -> Self {
        Self {
            filter,
            unsifted: VecDeque::new(),
            unwanted: Vec::new(),
            since: None,
            until: now,
            cut_short: false,
            undecided: 0,
            warned: None,
        }
    }

    /// Whether it lets everything pass.
    pub(crate) fn is_open(&self) -> bool {
        self.filter.is_empty()
    }

    /// Another filter. What waits to be handed out, in order, is looked at again.
    pub(crate) fn replace(&mut self, filter: Filter, ready: VecDeque<StoredMessage>) {
        self.filter = filter;
        let unsifted = std::mem::replace(&mut self.unsifted, ready);
        self.unsifted.extend(unsifted);
    }

    /// Forgets all messages.
    pub(crate) fn clear(&mut self) {
        self.unsifted.clear();
        self.unwanted.clear();
        self.since = None;
    }

    /// A turn begins, with this much time.
    pub(crate) fn begin(&mut self, now: Instant, time: Duration) {
        self.until = now + time;
        self.cut_short = false;
    }

    /// Whether the turn's time is over.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Whether a message is wanted, the attempt being the one for which it would be handed out.
    pub(crate) fn wants(&mut self, message: &StoredMessage, attempt: u32) -> Result<bool, Unclear> {
        match self.filter.decide(&Facts::new(message, attempt)) {
            // So are filters on attributes meant that only some messages have.
            Err(Unclear::Absent) => Ok(false),
            decided => decided,
        }
    }

    /// Counts a message that could not be decided on; says how many there were if it is time to tell.
    pub(crate) fn count_undecided(&mut self, now: Instant) -> Option<u64> {
        self.undecided += 1;
        let is_time = self.warned.is_none_or(|before| now >= before + WARN_EVERY);
        if is_time {
            self.warned = Some(now);
        }
        is_time.then_some(self.undecided)
    }

    /// Notes messages that are not wanted and are settled by that.
    pub(crate) fn note(&mut self, ranges: &[(Offset, Offset)], now: Instant) {
        for &(first, last) in ranges {
            match self.unwanted.last_mut() {
                Some((_, end)) if *end + 1 == first => *end = last,
                _ => self.unwanted.push((first, last)),
            }
            self.since.get_or_insert(now);
        }
    }

    /// What is to be written down now, if it is time.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Vec<(Offset, Offset)>> {
        let is_due = self.write_at().is_some_and(|at| at <= now) || self.unwanted.len() >= MANY_RANGES;
        is_due.then(|| self.take())
    }

    /// What is not written down yet.
    pub(crate) fn take(&mut self) -> Vec<(Offset, Offset)> {
        self.since = None;
        std::mem::take(&mut self.unwanted)
    }

    /// When something is to be written down.
    pub(crate) fn write_at(&self) -> Option<Instant> {
        self.since.map(|since| since + WRITE_AFTER)
    }
}
