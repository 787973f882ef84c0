//! Answers that are kept for those who allow it.

use std::time::{Duration, Instant};

use super::freshness::{Cuts, Seq, replaces};
use super::question::{Answer, Question};
use crate::model::limits::MAX_CACHE_TTL;

/// A kept answer.
#[derive(Debug, Clone)]
struct Entry {
    answer: Answer,
    /// When its handler was given the question.
    seq: Seq,
    /// When it was answered.
    at: Instant,
}

impl Entry {
    /// Whether it is good enough for somebody: not older than that, and of that revision at least.
    fn counts(&self, ttl: Duration, min_revision: u64, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= ttl && self.answer.revision >= min_revision
    }
}

/// Kept answers, as many as fit a number of bytes; those asked for most stay.
#[derive(Debug)]
pub(super) struct Cache(moka::sync::Cache<Question, Entry>);

impl Cache {
    pub(super) fn new(max_bytes: u64) -> Self {
        let weigh = |question: &Question, entry: &Entry| {
            u32::try_from(question.size() + entry.answer.size()).unwrap_or(u32::MAX)
        };
        let cache = moka::sync::Cache::builder().max_capacity(max_bytes).time_to_live(MAX_CACHE_TTL);
        Self(cache.weigher(weigh).build())
    }

    /// A kept answer that is good enough, and how old it is.
    pub(super) fn get(
        &self,
        question: &Question,
        ttl: Duration,
        min_revision: u64,
        cuts: &Cuts,
        now: Instant,
    ) -> Option<(Answer, Duration)> {
        let entry = self.0.get(question)?;
        let good = entry.counts(ttl, min_revision, now) && !entry.is_cut(question, cuts);
        good.then(|| (entry.answer, now.saturating_duration_since(entry.at)))
    }

    /// Keeps an answer, unless a newer one is kept. Says whether it does.
    pub(super) fn put(
        &self,
        question: &Question,
        answer: Answer,
        seq: Seq,
        cuts: &Cuts,
        now: Instant,
    ) -> bool {
        let entry = Entry { answer, seq, at: now };
        if entry.is_cut(question, cuts) {
            return false;
        }
        let old = self.0.get(question).filter(|old| !old.is_cut(question, cuts));
        let newer =
            old.is_none_or(|old| replaces((seq, entry.answer.revision), (old.seq, old.answer.revision)));
        if newer {
            self.0.insert(question.clone(), entry);
        }
        newer
    }
}

impl Entry {
    fn is_cut(&self, question: &Question, cuts: &Cuts) -> bool {
        cuts.cut(question, self.seq, self.answer.revision)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::super::freshness::Scope;
    use super::super::question::tests::parts;
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    struct Fixture {
        cache: Cache,
        cuts: Cuts,
        question: Question,
        start: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let question = Question::new(parts("orders.get", "k", "p"), &RandomState::new());
            Self { cache: Cache::new(1 << 20), cuts: Cuts::default(), question, start: Instant::now() }
        }

        fn put(&self, text: &'static str, seq: Seq, revision: u64, after: u64) -> bool {
            let answer =
                Answer { payload: text.into(), content_type: "".into(), revision, handler: "".into() };
            self.cache.put(&self.question, answer, seq, &self.cuts, self.at(after))
        }

        fn get(&self, ttl: Duration, min_revision: u64, after: u64) -> Option<(String, u64)> {
            let at = self.at(after);
            let (answer, age) = self.cache.get(&self.question, ttl, min_revision, &self.cuts, at)?;
            Some((String::from_utf8(answer.payload.to_vec()).unwrap(), age.as_secs()))
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }
    }

    #[test]
    fn answers_count_by_age_and_revision() {
        let fixture = Fixture::new();
        assert_eq!(fixture.get(TTL, 0, 0), None);
        assert!(fixture.put("a", 1, 5, 0));
        assert_eq!(fixture.get(TTL, 0, 3), Some(("a".into(), 3)));
        assert_eq!(fixture.get(TTL, 5, 10), Some(("a".into(), 10)));
        assert_eq!(fixture.get(TTL, 6, 3), None);
        assert_eq!(fixture.get(TTL, 0, 11), None);
        assert_eq!(fixture.get(TTL * 2, 0, 11), Some(("a".into(), 11)), "others may allow more");
    }

    #[test]
    fn an_older_answer_does_not_replace_a_newer_one() {
        let fixture = Fixture::new();
        assert!(fixture.put("new", 1, 5, 0));
        assert!(!fixture.put("old", 2, 4, 1));
        assert_eq!(fixture.get(TTL, 0, 1), Some(("new".into(), 1)));
        assert!(fixture.put("same revision", 3, 5, 2));
        assert!(!fixture.put("began earlier", 2, 5, 2));
        assert_eq!(fixture.get(TTL, 0, 2), Some(("same revision".into(), 0)));
    }

    #[test]
    fn what_was_invalidated_is_not_kept_and_can_be_replaced() {
        let mut fixture = Fixture::new();
        let kind = fixture.question.kind().clone();
        assert!(fixture.put("a", 1, 5, 0));
        fixture.cuts.add(&Scope { kind, key: None, payload: None }, 0, 4);
        assert_eq!(fixture.get(TTL, 0, 0), None);
        assert!(!fixture.put("began before", 3, 9, 1));
        assert!(fixture.put("lower, but valid", 4, 2, 1));
        assert_eq!(fixture.get(TTL, 0, 1), Some(("lower, but valid".into(), 0)));
    }
}
