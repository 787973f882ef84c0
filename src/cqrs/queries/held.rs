//! Answers that are held for those who watch, and the memory that they take.
//!
//! An answer is held once, however many it is told to: by the watched question while it is the newest, and by each
//! stream that is telling it. A client that does not read would hold an old one for ever, so what is not the
//! newest any more can be taken away.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::question::Answer;

/// An answer, counted until nobody holds it, or it was taken away.
#[derive(Debug)]
pub(crate) struct Held {
    answer: Mutex<Option<Answer>>,
    bytes: usize,
    /// Of all that are held.
    total: Arc<AtomicUsize>,
}

impl Held {
    /// The answer, unless it was taken away.
    pub(crate) fn answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One that is held by nobody else.
    #[cfg(test)]
    pub(crate) fn alone(answer: Answer) -> Arc<Self> {
        Holdings::default().hold(answer)
    }

    fn take_away(&self) {
        if self.answer.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.total.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.take_away();
    }
}

/// All answers that are held.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    total: Arc<AtomicUsize>,
    /// Those that are the newest no more, the oldest first; and some that nobody holds.
    superseded: VecDeque<Weak<Held>>,
    /// How many of them to have before those that nobody holds are sorted out.
    sort_out_at: usize,
}

impl Holdings {
    /// How much memory they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    pub(super) fn hold(&self, answer: Answer) -> Arc<Held> {
        let bytes = answer.size();
        self.total.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Held { answer: Mutex::new(Some(answer)), bytes, total: Arc::clone(&self.total) })
    }

    /// An answer is the newest no more: only those who are telling it still hold it.
    pub(super) fn supersede(&mut self, held: Arc<Held>) {
        const FEW: usize = 64;
        let left = Arc::downgrade(&held);
        drop(held);
        if left.strong_count() == 0 {
            return;
        }
        self.superseded.push_back(left);
        if self.superseded.len() >= self.sort_out_at.max(FEW) {
            self.superseded.retain(|left| left.strong_count() > 0);
            self.sort_out_at = 2 * self.superseded.len();
        }
    }

    /// Takes superseded answers away, the oldest first, until `bytes` more do not exceed the limit. Whether
    /// that was enough.
    pub(super) fn make_room(&mut self, bytes: usize, limit: usize) -> bool {
        while self.bytes() + bytes > limit {
            let Some(oldest) = self.superseded.pop_front() else { return false };
            if let Some(held) = oldest.upgrade() {
                held.take_away();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Answer {
        Answer { payload: vec![0; bytes].into(), content_type: "".into(), revision: 1, handler: "".into() }
    }

    #[test]
    fn what_is_held_counts_until_the_last_lets_it_go() {
        let mut holdings = Holdings::default();
        let newest = holdings.hold(answer(1_000));
        let size = answer(1_000).size();
        let teller = Arc::clone(&newest);
        assert_eq!(holdings.bytes(), size);
        holdings.supersede(newest);
        assert_eq!(holdings.bytes(), size, "it is being told");
        drop(teller);
        assert_eq!(holdings.bytes(), 0);
    }

    #[test]
    fn room_is_made_by_taking_away_the_oldest() {
        let (mut holdings, size) = (Holdings::default(), answer(1_000).size());
        let tellers: Vec<_> = (0..10)
            .map(|_| {
                let held = holdings.hold(answer(1_000));
                holdings.supersede(Arc::clone(&held));
                held
            })
            .collect();
        let newest = holdings.hold(answer(1_000));
        assert!(holdings.make_room(3 * size, 11 * size));
        let left: Vec<_> = tellers.iter().map(|held| held.answer().is_some()).collect();
        assert_eq!(left, [&[false; 3][..], &[true; 7]].concat());
        assert!(!holdings.make_room(11 * size, 11 * size), "the newest stays");
        assert!(newest.answer().is_some());
        assert_eq!(holdings.bytes(), size);
        drop(tellers);
        assert_eq!(holdings.bytes(), size, "nothing is taken off twice");
    }

    #[test]
    fn what_nobody_holds_is_not_remembered() {
        let mut holdings = Holdings::default();
        let slow = holdings.hold(answer(1));
        holdings.supersede(Arc::clone(&slow));
        for _ in 0..10_000 {
            let held = holdings.hold(answer(1));
            let teller = Arc::clone(&held);
            holdings.supersede(held);
            drop(teller);
        }
        assert!(holdings.superseded.len() <= 128, "{}", holdings.superseded.len());
        assert_eq!(holdings.bytes(), answer(1).size());
    }
}
