//! The order of the messages of each key: which is the next, and who may have it.
//!
//! The unsettled messages of a key stand in a line, in the order of their offsets. Those leased are all
//! with one holder; of the others only the first may be handed out, so that none passes an earlier one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use super::Who;
use crate::model::Offset;

/// A message's key, as far as order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// A hash of it, so that it takes the same space whatever its length. Should two keys ever share
    /// one, each waits for the other, and both keep their order.
    Hash(u64),
    /// There is none: this message has no order with any other.
    Alone(Offset),
}

/// Why a message of a line is not leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It was not handed out yet.
    Parked,
    /// Its delivery ended; it is due then.
    Waiting(Instant),
    /// It is not to be handed out any more.
    GivenUp,
}

/// The lines of all keys with unsettled messages.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: HashMap<Key, Line>,
    keys: HashMap<Offset, Key>,
    /// What may be handed out, by who alone may have it; under `None`, what anybody may have.
    heads: BTreeMap<Option<Who>, Heads>,
}

#[derive(Debug, Default)]
struct Line {
    /// The leased messages.
    out: BTreeSet<Offset>,
    /// Who has them.
    holder: Option<Who>,
    /// The one of them that was delivered before: until it is settled, no other joins it.
    alone: Option<Offset>,
    /// The other messages.
    kept: BTreeMap<Offset, Kept>,
}

/// The first message of each line that is not leased, where it may be handed out.
#[derive(Debug, Default)]
struct Heads {
    due: BTreeSet<(Instant, Offset)>,
    parked: BTreeSet<Offset>,
}

/// A message that may be handed out, and to whom.
type Head = (Option<Who>, Offset, Kept);

impl Line {
    fn head(&self) -> Option<Head> {
        let (&offset, &kept) = self.kept.first_key_value()?;
        (self.alone.is_none() && kept != Kept::GivenUp).then_some((self.holder, offset, kept))
    }
}

impl Lines {
    /// A message has this key. What is done to a message that has none is done to no line.
    pub(super) fn enter(&mut self, offset: Offset, key: Key) {
        self.keys.insert(offset, key);
    }

    /// Whether a message that is in no line yet may be handed out.
    pub(super) fn admits(&self, key: Key, who: Who) -> bool {
        self.lines.get(&key).is_none_or(|line| {
            line.kept.is_empty() && line.alone.is_none() && line.holder.is_none_or(|holder| holder == who)
        })
    }

    /// A message is leased. One that was delivered before goes alone.
    pub(super) fn hand(&mut self, offset: Offset, who: Who, again: bool) {
        self.change(offset, |line| {
            line.kept.remove(&offset);
            line.out.insert(offset);
            line.holder = Some(who);
            line.alone = line.alone.or(again.then_some(offset));
        });
    }

    /// A message is not leased.
    pub(super) fn keep(&mut self, offset: Offset, kept: Kept) {
        self.change(offset, |line| {
            line.out.remove(&offset);
            line.kept.insert(offset, kept);
        });
    }

    /// A message leaves its line.
    pub(super) fn remove(&mut self, offset: Offset) {
        self.change(offset, |line| {
            line.out.remove(&offset);
            line.kept.remove(&offset);
        });
        if !self.keys.is_empty() {
            self.keys.remove(&offset);
        }
    }

    /// Whether no unsettled message of its key comes before this one.
    pub(super) fn is_first(&self, offset: Offset) -> bool {
        let line = self.keys.get(&offset).and_then(|key| self.lines.get(key));
        line.is_none_or(|line| {
            let kept = line.kept.range(..offset).next().map(|(&earlier, _)| earlier);
            kept.or_else(|| line.out.range(..offset).next().copied()).is_none()
        })
    }

    /// Whether an earlier message of its key waits.
    pub(super) fn is_behind(&self, offset: Offset) -> bool {
        let line = self.keys.get(&offset).and_then(|key| self.lines.get(key));
        line.is_some_and(|line| line.kept.range(..offset).next().is_some())
    }

    /// The leased messages of its key that come after this one.
    pub(super) fn out_after(&self, offset: Offset) -> Vec<Offset> {
        let line = self.keys.get(&offset).and_then(|key| self.lines.get(key));
        line.map_or_else(Vec::new, |line| line.out.range(offset + 1..).copied().collect())
    }

    /// Of what somebody may have again, that which is due first, and when.
    pub(super) fn due(&self, who: Who) -> Option<(Instant, Offset)> {
        self.of(who).filter_map(|heads| heads.due.first().copied()).min()
    }

    /// Of what somebody may have for the first time, the oldest.
    pub(super) fn parked(&self, who: Who) -> Option<Offset> {
        self.of(who).filter_map(|heads| heads.parked.first().copied()).min()
    }

    /// Whether there is anything for anybody.
    pub(super) fn has_due(&self, now: Instant) -> bool {
        let due = |heads: &Heads| heads.due.first().is_some_and(|&(due, _)| due <= now);
        self.heads.values().any(|heads| due(heads) || !heads.parked.is_empty())
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn of(&self, who: Who) -> impl Iterator<Item = &Heads> {
        [None, Some(who)].into_iter().filter_map(|whose| self.heads.get(&whose))
    }

    fn change(&mut self, offset: Offset, change: impl FnOnce(&mut Line)) {
        let Some(&key) = self.keys.get(&offset) else { return };
        let line = self.lines.entry(key).or_default();
        let before = line.head();
        change(line);
        line.alone = line.alone.filter(|alone| line.out.contains(alone));
        line.holder = line.holder.filter(|_| !line.out.is_empty());
        let after = line.head();
        if line.out.is_empty() && line.kept.is_empty() {
            self.lines.remove(&key);
        }
        if before != after {
            self.unlist(before);
            self.list(after);
        }
    }

    fn list(&mut self, head: Option<Head>) {
        let Some((whose, offset, kept)) = head else { return };
        let heads = self.heads.entry(whose).or_default();
        match kept {
            Kept::Waiting(due) => heads.due.insert((due, offset)),
            Kept::Parked | Kept::GivenUp => heads.parked.insert(offset),
        };
    }

    fn unlist(&mut self, head: Option<Head>) {
        let Some((whose, offset, kept)) = head else { return };
        let Some(heads) = self.heads.get_mut(&whose) else { return };
        match kept {
            Kept::Waiting(due) => heads.due.remove(&(due, offset)),
            Kept::Parked | Kept::GivenUp => heads.parked.remove(&offset),
        };
        if heads.due.is_empty() && heads.parked.is_empty() {
            self.heads.remove(&whose);
        }
    }
}
