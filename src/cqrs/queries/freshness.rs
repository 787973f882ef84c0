//! Which answers count: what came after what, and what was declared out of date since.
//!
//! Everything that matters to this has a place in one sequence: the moment a handler was given the
//! question, an update, an invalidation. Of two answers, the higher revision is newer; where one has none,
//! the place in the sequence decides.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::question::{Parts, Question};
use crate::model::Name;

/// Invalidations remembered one by one; then everything from before counts as invalidated.
const MAX_CUTS: usize = 100_000;

/// A place in the sequence of what happened.
pub(super) type Seq = u64;

/// Whether the first answer is at least as new as the second.
pub(super) fn replaces(new: (Seq, u64), old: (Seq, u64)) -> bool {
    let ((new_seq, new_revision), (old_seq, old_revision)) = (new, old);
    if new_revision == 0 || old_revision == 0 || new_revision == old_revision {
        new_seq >= old_seq
    } else {
        new_revision > old_revision
    }
}

/// What an invalidation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Queries of this type,
    pub(crate) kind: Name,
    /// with this key only, if there is one,
    pub(crate) key: Option<String>,
    /// and this payload only, if there is one.
    pub(crate) payload: Option<bytes::Bytes>,
}

impl Scope {
    /// Whether a question is in it.
    pub(super) fn has(&self, question: &Question) -> bool {
        let Parts { kind, key, payload, .. } = question.parts();
        *kind == self.kind
            && self.key.as_ref().is_none_or(|wanted| wanted == key)
            && self.payload.as_ref().is_none_or(|wanted| wanted == payload)
    }
}

/// What was declared out of date.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    hashing: RandomState,
    /// By a hash of the scope: two that collide invalidate more than they should, which costs a call.
    cuts: HashMap<u64, Cut>,
    /// Everything from before is out of date.
    floor: Seq,
}

/// What was said of one scope.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    /// Everything from before is out of date.
    all: Seq,
    /// What is from before and has a lower revision is out of date.
    older: Seq,
    revision: u64,
}

impl Cuts {
    /// Declares out of date what is in the scope and from before `seq`; with a revision, only what is older
    /// than that.
    pub(super) fn add(&mut self, scope: &Scope, revision: u64, seq: Seq) {
        let hash = self.hash(&scope.kind, scope.key.as_deref(), scope.payload.as_deref());
        if self.cuts.len() >= MAX_CUTS && !self.cuts.contains_key(&hash) {
            self.cuts.clear();
            self.floor = seq;
        }
        let cut = self.cuts.entry(hash).or_default();
        if revision == 0 {
            cut.all = seq;
        } else {
            cut.older = seq;
            cut.revision = cut.revision.max(revision);
        }
    }

    /// Whether an answer from this place in the sequence, with this revision, is out of date.
    pub(super) fn cut(&self, question: &Question, seq: Seq, revision: u64) -> bool {
        seq < self.floor
            || self.about(question).any(|cut| seq < cut.all || (seq < cut.older && revision < cut.revision))
    }

    /// Whether anything was declared out of date that began at this place in the sequence.
    pub(super) fn since(&self, question: &Question, seq: Seq) -> bool {
        self.cut(question, seq, 0)
    }

    fn about(&self, question: &Question) -> impl Iterator<Item = &Cut> {
        let Parts { kind, key, payload, .. } = question.parts();
        let (key, payload): (_, &[u8]) = (key.as_str(), payload);
        let scopes = [(None, None), (Some(key), None), (None, Some(payload)), (Some(key), Some(payload))];
        // Hashing a payload takes time; most servers have no invalidations.
        let scopes = scopes.into_iter().filter(|_| !self.cuts.is_empty());
        scopes.filter_map(|(key, payload)| self.cuts.get(&self.hash(kind, key, payload)))
    }

    fn hash(&self, kind: &Name, key: Option<&str>, payload: Option<&[u8]>) -> u64 {
        self.hashing.hash_one((kind, key, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::super::question::tests::parts;
    use super::*;

    fn question(key: &str, payload: &'static str) -> Question {
        Question::new(parts("orders.get", key, payload), &RandomState::new())
    }

    fn scope(key: Option<&str>, payload: Option<&'static str>) -> Scope {
        let kind = Name::parse("orders.get").unwrap();
        Scope { kind, key: key.map(Into::into), payload: payload.map(Into::into) }
    }

    #[test]
    fn the_higher_revision_is_newer_and_without_one_the_later() {
        assert!(replaces((1, 8), (2, 7)));
        assert!(!replaces((2, 7), (1, 8)));
        assert!(replaces((2, 7), (1, 7)));
        assert!(!replaces((1, 7), (2, 7)));
        for revisions in [(0, 0), (0, 9), (9, 0)] {
            assert!(replaces((2, revisions.0), (1, revisions.1)));
            assert!(!replaces((1, revisions.0), (2, revisions.1)));
        }
    }

    #[test]
    fn cuts_what_is_in_scope_and_from_before() {
        let all =
            [scope(None, None), scope(Some("a"), None), scope(None, Some("p")), scope(Some("a"), Some("p"))];
        for scope in all {
            let mut cuts = Cuts::default();
            cuts.add(&scope, 0, 5);
            for (key, payload) in [("a", "p"), ("b", "p"), ("a", "q"), ("b", "q")] {
                let question = question(key, payload);
                assert_eq!(cuts.cut(&question, 4, 9), scope.has(&question), "{scope:?} {key} {payload}");
                assert!(!cuts.cut(&question, 5, 9));
            }
        }
        let other = Question::new(parts("orders.list", "a", "p"), &RandomState::new());
        let mut cuts = Cuts::default();
        cuts.add(&scope(None, None), 0, 5);
        assert!(!cuts.cut(&other, 1, 1));
    }

    #[test]
    fn a_revision_spares_what_has_it() {
        let mut cuts = Cuts::default();
        cuts.add(&scope(None, None), 7, 5);
        let question = question("a", "p");
        assert!(cuts.cut(&question, 4, 6) && cuts.cut(&question, 4, 0));
        assert!(!cuts.cut(&question, 4, 7) && !cuts.cut(&question, 5, 6));
        assert!(cuts.since(&question, 4) && !cuts.since(&question, 5));
    }

    #[test]
    fn too_many_become_one_for_all() {
        let mut cuts = Cuts::default();
        for number in 0..=MAX_CUTS as u64 {
            cuts.add(&scope(Some(&number.to_string()), None), 0, number);
        }
        assert_eq!(cuts.cuts.len(), 1);
        assert!(cuts.cut(&question("never said", "p"), MAX_CUTS as u64 - 1, 1));
        assert!(!cuts.cut(&question("never said", "p"), MAX_CUTS as u64, 1));
    }
}
