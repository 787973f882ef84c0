//! Meters of things with names: each has its own, as long as there are not too many.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::model::Name;

/// Gives out meters. Whoever comes when all are given out shares one with the others who do, for good:
/// what they have counted together cannot be taken apart later. So memory is bounded, and no count ever
/// goes back.
#[derive(Debug)]
pub(crate) struct Labels<M> {
    limit: usize,
    given: Arc<AtomicUsize>,
    others: Arc<Labelled<M>>,
}

/// Meters, and whose they are.
#[derive(Debug)]
pub(crate) struct Labelled<M> {
    /// None, if they are of all who came too late for their own.
    pub(crate) name: Option<Name>,
    meters: M,
    given: Arc<AtomicUsize>,
    is_over: AtomicBool,
}

impl<M: Default> Labels<M> {
    /// At most so many have meters of their own at once.
    pub(crate) fn new(limit: usize) -> Self {
        let given = Arc::new(AtomicUsize::new(0));
        let others = Arc::new(Labelled::new(None, &given));
        Self { limit, given, others }
    }

    /// The meters of something new. Once they are [over](Labelled::end), or nobody has them any more, others may
    /// have theirs.
    pub(crate) fn give(&self, name: &Name) -> Arc<Labelled<M>> {
        let one_more = |given: usize| (given < self.limit).then_some(given + 1);
        if self.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            return Arc::clone(&self.others);
        }
        Arc::new(Labelled::new(Some(name.clone()), &self.given))
    }

    /// Those that are shared.
    pub(crate) fn others(&self) -> &Labelled<M> {
        &self.others
    }
}

impl<M> Deref for Labelled<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.meters
    }
}

impl<M> Labelled<M> {
    fn new(name: Option<Name>, given: &Arc<AtomicUsize>) -> Self
    where
        M: Default,
    {
        Self { name, meters: M::default(), given: Arc::clone(given), is_over: AtomicBool::new(false) }
    }

    /// What they are of is gone, though somebody may still have them for a while.
    pub(crate) fn end(&self) {
        if self.name.is_some() && !self.is_over.swap(true, Ordering::Relaxed) {
            self.given.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<M> Drop for Labelled<M> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Counter;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn who_comes_too_late_shares_and_places_of_those_gone_are_given_again() {
        let labels = Labels::<Counter>::new(2);
        let give = |text: &str| labels.give(&name(text));
        let mut own = vec![give("a"), give("b")];
        assert_eq!(own.iter().map(|it| it.name.clone().unwrap()).collect::<Vec<_>>(), [name("a"), name("b")]);
        let shared = [give("c"), give("d")];
        assert!(Arc::ptr_eq(&shared[0], &shared[1]) && shared[0].name.is_none());
        shared[0].add(1);
        shared[1].add(2);
        assert_eq!(labels.others().get(), 3);
        drop(shared);
        assert!(give("e").name.is_none(), "the shared one takes no place");
        own.remove(0);
        own.push(give("f"));
        assert_eq!(own[1].name, Some(name("f")));
        own[0].end();
        own.push(give("g"));
        assert_eq!(own[2].name, Some(name("g")), "though somebody still has those of b");
        own.remove(0);
        assert!(give("h").name.is_none(), "no place is given twice");
    }
}
