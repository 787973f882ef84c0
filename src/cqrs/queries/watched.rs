//! Watched questions: the newest answer to each, and whether it is out of date.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::error::Error;
use super::freshness::{Scope, Seq, replaces};
use super::held::{Held, Holdings};
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
    pub(super) held: Arc<Held>,
    revision: u64,
    seq: Seq,
    /// From when it is what it is; it may have been confirmed since.
    pub(super) version: Seq,
}

/// Since when an answer is out of date, and what will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) since: Seq,
    pub(super) min_revision: u64,
    /// Take any answer from then on, even of a lower revision than there was.
    forget: bool,
}

/// What an answer that was offered is to those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// Nobody watches the question.
    Unwatched,
    /// So many do, and know a newer one.
    Old(usize),
    /// So many do, and it is the newest.
    Newest(usize),
}

#[derive(Debug)]
struct Watch {
    sender: watch::Sender<Snapshot>,
    watchers: usize,
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
    /// Of the questions.
    bytes: usize,
    answers: Holdings,
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
        if !self.answers.make_room(self.bytes + size, MAX_WATCHED_BYTES) {
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
                entry.insert(Watch { sender, watchers: 0 })
            }
        };
        // Some for whom it ended may not have heard of it, as they do not read: that is not for all times.
        watch.sender.send_if_modified(|known| known.ended.take().is_some());
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
            // As it was counted: an equal question may be larger, as what traces it does not count.
            let counted = of_type.questions.remove_entry(question);
            self.bytes -= counted.map_or(0, |(first, _)| first.size());
        }
        if of_type.questions.is_empty() {
            self.types.remove(question.kind());
        }
    }

    /// An answer from this place in the sequence, which nothing has declared out of date.
    pub(super) fn offer(&mut self, question: &Question, answer: &Answer, seq: Seq) -> Offered {
        let of_type = self.types.get_mut(question.kind());
        let watch = of_type.and_then(|of_type| of_type.questions.get_mut(question));
        let Some(watch) = watch else { return Offered::Unwatched };
        let will_do = |stale: Stale| seq > stale.since && answer.revision >= stale.min_revision;
        let (answers, questions) = (&mut self.answers, self.bytes);
        let mut newest = false;
        watch.sender.send_if_modified(|known| {
            let (stale, replaced) = (known.stale, known.latest.as_ref());
            newest = stale.is_some_and(|stale| stale.forget && will_do(stale))
                || replaced.is_none_or(|old| replaces((seq, answer.revision), (old.seq, old.revision)));
            if !newest {
                return false;
            }
            let left = stale.filter(|&stale| !will_do(stale));
            if let Some(same) = known.latest.as_mut().filter(|old| old.is(answer)) {
                (same.seq, known.stale) = (seq, left);
                return left != stale;
            }
            if let Some(old) = known.latest.take() {
                answers.supersede(old.held);
            }
            if !answers.make_room(questions + answer.size(), MAX_WATCHED_BYTES) {
                known.ended = Some(Error::TooManyWatchedBytes);
                return true;
            }
            let held = answers.hold(answer.clone());
            known.latest = Some(Latest { held, revision: answer.revision, seq, version: seq });
            known.stale = left;
            true
        });
        if newest { Offered::Newest(watch.watchers) } else { Offered::Old(watch.watchers) }
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
                None if latest.revision >= revision => None,
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
                let new = Stale { since, min_revision: latest.revision, forget: false };
                Some(before.map_or(new, |stale| Stale { since, ..stale }))
            });
        }
    }
}

impl Latest {
    /// Whether it is this answer, whoever gave it.
    fn is(&self, other: &Answer) -> bool {
        self.held.answer().is_some_and(|answer| {
            (&answer.payload, &answer.content_type, answer.revision)
                == (&other.payload, &other.content_type, other.revision)
        })
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
        hashing: RandomState,
        receiver: watch::Receiver<Snapshot>,
    }

    fn answer(text: &'static str, revision: u64) -> Answer {
        Answer { payload: text.into(), content_type: "".into(), revision, handler: "".into() }
    }

    impl Fixture {
        fn new() -> Self {
            let hashing = RandomState::new();
            let question = Question::new(parts("orders.get", "k", "p"), &hashing);
            let mut watched = Watched::default();
            let (receiver, _) = watched.join(&question).unwrap();
            Self { watched, question, hashing, receiver }
        }

        fn offer(&mut self, text: &'static str, revision: u64, seq: Seq) -> bool {
            matches!(self.watched.offer(&self.question, &answer(text, revision), seq), Offered::Newest(_))
        }

        fn invalidate(&mut self, revision: u64, seq: Seq) -> usize {
            let scope = Scope { kind: self.question.kind().clone(), key: None, payload: None };
            self.watched.invalidate(&scope, revision, seq)
        }

        /// The newest answer, whether it changed, and whether it is out of date.
        fn seen(&mut self) -> (String, bool, bool) {
            let changed = self.receiver.has_changed().unwrap();
            let known = self.receiver.borrow_and_update().clone();
            let text = known.latest.and_then(|latest| latest.held.answer());
            let text = text.map(|answer| answer.payload).unwrap_or_default();
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
        drop(it.receiver);
        assert_eq!((it.watched.watchers, it.watched.bytes, it.watched.answers.bytes()), (0, 0, 0));
    }

    #[test]
    fn what_traces_a_question_does_not_disturb_the_count() {
        let mut it = Fixture::new();
        let mut traced = it.question.parts().clone();
        traced.attributes.insert("traceparent".into(), "x".repeat(1_000));
        let traced = Question::new(traced, &it.hashing);
        it.watched.join(&traced).unwrap();
        it.watched.leave(&it.question);
        it.watched.leave(&traced);
        assert_eq!((it.watched.watchers, it.watched.bytes), (0, 0));
    }

    #[test]
    fn too_large_answers_end_the_watching_until_somebody_tries_again() {
        let mut it = Fixture::new();
        it.offer("a", 5, 1);
        it.watched.bytes += MAX_WATCHED_BYTES;
        it.offer("b", 6, 2);
        assert_eq!(it.receiver.borrow().ended, Some(Error::TooManyWatchedBytes));
        it.watched.bytes -= MAX_WATCHED_BYTES;
        it.watched.join(&it.question.clone()).unwrap();
        assert!(it.receiver.borrow().ended.is_none() && it.offer("b", 6, 3));
        assert_eq!(it.seen(), ("b".into(), true, false));
    }

    #[test]
    fn who_does_not_read_holds_no_more_than_there_is_room_for() {
        let mut it = Fixture::new();
        // All of it is one piece of memory here; what counts is what is counted.
        let payload = bytes::Bytes::from(vec![0; 4 << 20]);
        let mut tellers = Vec::new();
        for version in 1..=1_000 {
            let answer = Answer { payload: payload.clone(), ..answer("", version) };
            assert_eq!(it.watched.offer(&it.question, &answer, version), Offered::Newest(1));
            let latest = it.receiver.borrow_and_update().latest.clone().unwrap();
            assert!(latest.held.answer().is_some(), "the newest is there");
            tellers.push(latest.held);
            let counted = it.watched.bytes + it.watched.answers.bytes();
            assert!(counted <= MAX_WATCHED_BYTES, "{counted} bytes after {version}");
        }
        let left = tellers.iter().filter(|held| held.answer().is_some()).count();
        assert_eq!(left, MAX_WATCHED_BYTES / (4 << 20) - 1, "as many as fit");
        assert!(tellers[1_000 - left..].iter().all(|held| held.answer().is_some()), "and these are the last");
    }
}
