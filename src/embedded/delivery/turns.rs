//! Whose turn it is among the topics of one subscription.
//!
//! A plain struct: no I/O, no clock, no lock.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

/// The topics, or what is done to each, by number; whoever had no turn for the longest is first.
#[derive(Debug, Default)]
pub(crate) struct Turns(VecDeque<u64>);

impl Turns {
    /// One more; it has its turn after the others.
    pub(crate) fn add(&mut self, id: u64) {
        self.0.push_back(id);
    }

    /// One is gone.
    pub(crate) fn remove(&mut self, id: u64) {
        self.0.retain(|&other| other != id);
    }

    /// Those that have something, in the order of their turns.
    pub(crate) fn ready(&self, mut has_something: impl FnMut(u64) -> bool) -> Vec<u64> {
        self.0.iter().copied().filter(|&id| has_something(id)).collect()
    }

    /// All of them, in the order of their turns.
    pub(crate) fn order(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }

    /// One has had its turn.
    pub(crate) fn served(&mut self, id: u64) {
        self.remove(id);
        self.0.push_back(id);
    }

    /// Divides room for so many messages among those that are [ready](Self::ready): as evenly as they can
    /// fill it. `take` is told who may take how many, and says how many it took; who takes less has no more
    /// for now. If it breaks off, there is more, but not enough room for it: what is left is for nobody else,
    /// or others might take it for ever.
    pub(crate) fn divide(
        &mut self,
        room: usize,
        mut ready: Vec<u64>,
        mut take: impl FnMut(u64, usize) -> ControlFlow<usize, usize>,
    ) {
        let (mut left, mut served, mut seen) = (room, Vec::new(), BTreeSet::new());
        while left > 0 && !ready.is_empty() {
            let share = left.div_ceil(ready.len());
            ready.retain(|&id| {
                let offered = share.min(left);
                if offered == 0 {
                    return true;
                }
                let answer = take(id, offered);
                let (ControlFlow::Continue(taken) | ControlFlow::Break(taken)) = answer;
                left = if answer.is_break() { 0 } else { left - taken };
                if taken > 0 && seen.insert(id) {
                    served.push(id);
                }
                taken == offered
            });
        }
        self.0.retain(|id| !seen.contains(id));
        self.0.extend(served);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What happens between two divisions.
    #[derive(Debug, Clone)]
    enum Step {
        /// So many messages come to a topic.
        Arrive(u64, usize),
        /// There is room for so many.
        Divide(usize),
        /// A topic is made anew: it is empty, and last.
        Renew(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..6, 0usize..40).prop_map(|(id, count)| Step::Arrive(id, count)),
            (0usize..30).prop_map(Step::Divide),
            (0u64..6).prop_map(Step::Renew),
        ]
    }

    proptest! {
        #[test]
        fn room_is_filled_evenly_and_nobody_waits_for_long(steps in prop::collection::vec(step(), 1..80)) {
            let mut turns = Turns::default();
            let mut waiting: BTreeMap<u64, usize> = (0..6).map(|id| (id, 0)).collect();
            // How many turns others had while this one had something.
            let mut passed: BTreeMap<u64, BTreeMap<u64, usize>> = BTreeMap::new();
            (0..6).for_each(|id| turns.add(id));
            for step in steps {
                match step {
                    Step::Arrive(id, count) => *waiting.get_mut(&id).unwrap() += count,
                    Step::Renew(id) => {
                        turns.remove(id);
                        turns.add(id);
                        waiting.insert(id, 0);
                        passed.remove(&id);
                    }
                    Step::Divide(room) => {
                        let before = waiting.clone();
                        let mut taken = BTreeMap::<u64, usize>::new();
                        let ready = turns.ready(|id| before[&id] > 0);
                        turns.divide(room, ready, |id, offered| {
                            let count = waiting[&id].min(offered);
                            *waiting.get_mut(&id).unwrap() -= count;
                            *taken.entry(id).or_default() += count;
                            ControlFlow::Continue(count)
                        });
                        taken.retain(|_, count| *count > 0);
                        let all: usize = before.values().sum();
                        prop_assert_eq!(taken.values().sum::<usize>(), room.min(all), "no room is left empty");
                        let most = taken.values().copied().max().unwrap_or(0);
                        for (&id, &had) in before.iter().filter(|(_, had)| **had > 0) {
                            let got = taken.get(&id).copied().unwrap_or(0);
                            let fair = room.div_ceil(before.values().filter(|had| **had > 0).count());
                            // Whoever got less than all got about as much as anybody: the last one served may
                            // miss what rounding gave to those before.
                            let is_last = got + ready_count(&before) > most || got == had;
                            prop_assert!(is_last || got + fair >= most, "{got} of {had}, others {most}");
                            if got > 0 {
                                passed.remove(&id);
                            } else {
                                for other in taken.keys() {
                                    *passed.entry(id).or_default().entry(*other).or_default() += 1;
                                }
                            }
                        }
                        for (id, others) in &passed {
                            prop_assert!(others.values().all(|count| *count <= 1), "{id} was passed over: {others:?}");
                        }
                    }
                }
            }
        }
    }

    fn ready_count(waiting: &BTreeMap<u64, usize>) -> usize {
        waiting.values().filter(|had| **had > 0).count()
    }

    #[test]
    fn who_gets_nothing_for_want_of_bytes_is_next() {
        let mut turns = Turns::default();
        (1..=3).for_each(|id| turns.add(id));
        let ready = turns.ready(|_| true);
        let mut asked = Vec::new();
        turns.divide(30, ready, |id, offered| {
            asked.push(id);
            if id == 1 { ControlFlow::Continue(offered) } else { ControlFlow::Break(0) }
        });
        assert_eq!(asked, [1, 2], "what it cannot use is not for those after it");
        assert_eq!(turns.ready(|_| true), [2, 3, 1]);
    }
}
