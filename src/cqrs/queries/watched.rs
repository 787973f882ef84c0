//! Watched questions: the newest answer to each, and whether it is out of date.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::error::Error;
use super::freshness::{Scope, Seq, replaces};
use super::question::{Answer, Question};
use crate::model::Name;
use crate::model::limits::{MAX_QUERY_WATCHERS, MAX_WATCHED_BYTES};

/// Watchers of one type that ask at once; the others wait, so that an invalidation does not flood handlers.
const MAX_ASKING: usize = 16;

/// What is known of a watched question.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) latest: Option<Latest>,
    /// The answer is out of date.
    pub(super) stale: Option<Stale>,
    /// Nobody can watch it any longer.
    pub(super) ended: Option<Error>,
}

/// The newest answer.
#[derive(Debug, Clone)]
pub(super) struct Latest {
    pub(super) answer: Answer,
    seq: Seq,
    /// Rises when the answer changes.
    pub(super) version: u64,
}

/// Since when an answer is out of date, and what will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) since: Seq,
    pub(super) min_revision: u64,
    /// Take any answer from then on, even of a lower revision than there was.
    forget: bool,
}

#[derive(Debug)]
struct Watch {
    sender: watch::Sender<Snapshot>,
    watchers: usize,
    bytes: usize,
}

#[derive(Debug)]
struct OfType {
    asking: Arc<Semaphore>,
    questions: HashMap<Question, Watch>,
}

/// All watched questions.
#[derive(Debug, Default)]
pub(super) struct Watched {
    types: HashMap<Name, OfType>,
    watchers: usize,
    bytes: usize,
}

impl Watched {
    /// One more watches. Returns what tells of changes, and who may ask at once.
    pub(super) fn join(
        &mut self,
        question: &Question,
    ) -> Result<(watch::Receiver<Snapshot>, Arc<Semaphore>), Error> {
        if self.watchers >= MAX_QUERY_WATCHERS {
            return Err(Error::TooManyWatchers);
        }
        let size = question.size();
        if self.bytes + size > MAX_WATCHED_BYTES {
            return Err(Error::TooManyWatchedBytes);
        }
        let of_type = self.types.entry(question.kind().clone()).or_insert_with(|| OfType {
            asking: Arc::new(Semaphore::new(MAX_ASKING)),
            questions: HashMap::new(),
        });
        let watch = match of_type.questions.entry(question.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.bytes += size;
                let sender = watch::Sender::new(Snapshot::default());
                entry.insert(Watch { sender, watchers: 0, bytes: size })
            }
        };
        watch.watchers += 1;
        self.watchers += 1;
        Ok((watch.sender.subscribe(), Arc::clone(&of_type.asking)))
    }

    /// One watches no longer.
    pub(super) fn leave(&mut self, question: &Question) {
        let Some(of_type) = self.types.get_mut(question.kind()) else { return };
        let Some(watch) = of_type.questions.get_mut(question) else { return };
        watch.watchers -= 1;
        self.watchers -= 1;
        if watch.watchers == 0 {
            self.bytes -= watch.bytes;
            of_type.questions.remove(question);
        }
        if of_type.questions.is_empty() {
            self.types.remove(question.kind());
        }
    }

    /// An answer from this place in the sequence, which nothing has declared out of date. Returns how many
    /// watchers it is for, if it is the newest.
    pub(super) fn offer(&mut self, question: &Question, answer: &Answer, seq: Seq) -> Option<usize> {
        let watch = self.types.get_mut(question.kind())?.questions.get_mut(question)?;
        let others = self.bytes - watch.bytes;
        let bytes = question.size() + answer.size();
        let mut newest = false;
        watch.sender.send_if_modified(|known| {
            let stale = known.stale;
            let will_do = |stale: Stale| seq > stale.since && answer.revision >= stale.min_revision;
            let replaced = known.latest.as_ref();
            newest = stale.is_some_and(|stale| stale.forget && will_do(stale))
                || replaced
                    .is_none_or(|old| replaces((seq, answer.revision), (old.seq, old.answer.revision)));
            if !newest {
                return false;
            }
            if others + bytes > MAX_WATCHED_BYTES {
                known.ended = Some(Error::TooManyWatchedBytes);
                return true;
            }
            let same = replaced.is_some_and(|old| {
                (&old.answer.payload, &old.answer.content_type, old.answer.revision)
                    == (&answer.payload, &answer.content_type, answer.revision)
            });
            let version = replaced.map_or(0, |old| old.version) + u64::from(!same);
            known.latest = Some(Latest { answer: answer.clone(), seq, version });
            known.stale = stale.filter(|&stale| !will_do(stale));
            !same || known.stale != stale
        });
        if newest && watch.sender.borrow().ended.is_none() {
            watch.bytes = bytes;
            self.bytes = others + bytes;
        }
        newest.then_some(watch.watchers)
    }

    /// What is in the scope is out of date; with a revision, only what is older than that. Returns how many
    /// watchers that concerns.
    pub(super) fn invalidate(&mut self, scope: &Scope, revision: u64, since: Seq) -> usize {
        let Some(of_type) = self.types.get(&scope.kind) else { return 0 };
        let concerned = of_type.questions.iter().filter(|(question, _)| scope.has(question));
        let mark = |watch: &Watch| {
            watch.mark(|latest, before| match before {
                // Whatever was needed before, any answer from now on will do.
                _ if revision == 0 => Some(Stale { since, min_revision: 0, forget: true }),
                Some(stale) => Some(Stale { since, min_revision: stale.min_revision.max(revision), ..stale }),
                None if latest.answer.revision >= revision => None,
                None => Some(Stale { since, min_revision: revision, forget: false }),
            })
        };
        concerned.map(|(_, watch)| if mark(watch) { watch.watchers } else { 0 }).sum()
    }

    /// A handler of the type came after there was none: what there is may have changed in between. It may
    /// not have caught up yet, so nothing older than what is known will do.
    pub(super) fn stir(&mut self, kind: &Name, since: Seq) {
        let Some(of_type) = self.types.get(kind) else { return };
        for watch in of_type.questions.values() {
            watch.mark(|latest, before| {
                let new = Stale { since, min_revision: latest.answer.revision, forget: false };
                Some(before.map_or(new, |stale| Stale { since, ..stale }))
            });
        }
    }
}

impl Watch {
    /// Marks the answer out of date, if there is one and `how` says so. Says whether it did.
    fn mark(&self, how: impl FnOnce(&Latest, Option<Stale>) -> Option<Stale>) -> bool {
        self.sender.send_if_modified(|known| {
            let stale = known.latest.as_ref().and_then(|latest| how(latest, known.stale));
            known.stale = stale.or(known.stale);
            stale.is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::super::question::tests::parts;
    use super::*;

    struct Fixture {
        watched: Watched,
        question: Question,
        receiver: watch::Receiver<Snapshot>,
    }

    fn answer(text: &'static str, revision: u64) -> Answer {
        Answer { payload: text.into(), content_type: "".into(), revision, handler: "".into() }
    }

    impl Fixture {
        fn new() -> Self {
            let question = Question::new(parts("orders.get", "k", "p"), &RandomState::new());
            let mut watched = Watched::default();
            let (receiver, _) = watched.join(&question).unwrap();
            Self { watched, question, receiver }
        }

        fn offer(&mut self, text: &'static str, revision: u64, seq: Seq) -> bool {
            self.watched.offer(&self.question, &answer(text, revision), seq).is_some()
        }

        fn invalidate(&mut self, revision: u64, seq: Seq) -> usize {
            let scope = Scope { kind: self.question.kind().clone(), key: None, payload: None };
            self.watched.invalidate(&scope, revision, seq)
        }

        /// The newest answer, whether it changed, and whether it is out of date.
        fn seen(&mut self) -> (String, bool, bool) {
            let changed = self.receiver.has_changed().unwrap();
            let known = self.receiver.borrow_and_update().clone();
            let text = known.latest.map(|latest| latest.answer.payload).unwrap_or_default();
            (String::from_utf8(text.to_vec()).unwrap(), changed, known.stale.is_some())
        }
    }

    #[test]
    fn only_newer_answers_are_told_and_only_once() {
        let mut it = Fixture::new();
        assert!(it.offer("a", 5, 1));
        assert_eq!(it.seen(), ("a".into(), true, false));
        assert!(it.offer("a", 5, 2), "the same again is the newest");
        assert!(!it.offer("old", 4, 3));
        assert_eq!(it.seen(), ("a".into(), false, false));
        assert!(it.offer("b", 6, 4));
        assert_eq!(it.seen(), ("b".into(), true, false));
    }

    #[test]
    fn an_invalidation_takes_any_answer_from_then_on() {
        let mut it = Fixture::new();
        it.offer("a", 5, 1);
        assert_eq!(it.invalidate(0, 2), 1);
        assert_eq!(it.seen(), ("a".into(), true, true));
        assert!(it.offer("b", 1, 3), "a lower revision, but from after");
        assert_eq!(it.seen(), ("b".into(), true, false));
    }

    #[test]
    fn an_invalidation_with_a_revision_spares_what_has_it() {
        let mut it = Fixture::new();
        it.offer("a", 5, 1);
        assert_eq!(it.invalidate(5, 2), 0);
        assert_eq!(it.invalidate(7, 3), 1);
        it.offer("b", 6, 4);
        assert_eq!(it.seen(), ("b".into(), true, true), "newer, and still too old");
        it.offer("c", 7, 5);
        assert_eq!(it.seen(), ("c".into(), true, false));
    }

    #[test]
    fn a_handler_that_returns_does_not_take_watchers_back() {
        let mut it = Fixture::new();
        it.offer("a", 5, 1);
        let kind = it.question.kind().clone();
        it.watched.stir(&kind, 2);
        assert!(!it.offer("lags", 4, 3));
        assert_eq!(it.seen(), ("a".into(), true, true));
        assert!(it.offer("a", 5, 4));
        assert_eq!(it.seen(), ("a".into(), true, false), "confirmed");
    }

    #[test]
    fn nothing_is_kept_of_what_nobody_watches() {
        let mut it = Fixture::new();
        it.offer("a", 5, 1);
        it.watched.join(&it.question.clone()).unwrap();
        it.watched.leave(&it.question);
        assert!(it.offer("b", 6, 2));
        it.watched.leave(&it.question);
        assert!(!it.offer("c", 7, 3));
        assert!(it.watched.types.is_empty());
        assert_eq!((it.watched.watchers, it.watched.bytes), (0, 0));
    }

    #[test]
    fn too_large_answers_end_the_watching() {
        let mut it = Fixture::new();
        it.offer("a", 5, 1);
        it.watched.bytes += MAX_WATCHED_BYTES;
        it.offer("b", 6, 2);
        assert_eq!(it.receiver.borrow().ended, Some(Error::TooManyWatchedBytes));
    }
}
