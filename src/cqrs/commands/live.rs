//! All commands that have not ended, those that have ended a moment ago, and what is due when.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{Error, Result};
use super::execution::{Due, Ending, Execution, State};
use super::holder::Holder;
use super::record::Fingerprint;
use super::types::Type;
use crate::meter::{Distribution, Histogram, LONG_SECONDS};
use crate::model::Offset;
use crate::model::limits::{MAX_UNFINISHED_COMMANDS, MAX_UNFINISHED_PER_TYPE};

/// A command's id, shared.
pub(super) type Id = Arc<str>;

/// A command that has not ended.
#[derive(Debug)]
pub(super) struct Live {
    /// Its type.
    pub(super) kind: Arc<Type>,
    /// Of what its sender chose.
    pub(super) content: Fingerprint,
    /// What is going on with it.
    pub(super) execution: Execution<Arc<Holder>>,
    /// Told of each change, if anybody waits.
    changed: Option<watch::Sender<()>>,
    /// When it is looked at again.
    timer: Option<(Instant, u64)>,
    /// Whether it counts as running.
    counted_running: bool,
    /// The outcome that the index knows already, though whoever ends the command has not said so yet.
    indexed: Option<Offset>,
}

impl Live {
    /// Whether it has ended, and the index knows.
    fn is_handed_over(&self) -> bool {
        self.execution.ended().is_some_and(|ended| self.indexed == Some(ended.outcome))
    }
}

/// All of them. Nothing in here waits.
#[derive(Debug)]
pub(super) struct Table {
    commands: HashMap<Id, Live>,
    timers: BTreeMap<(Instant, u64), Id>,
    last_timer: u64,
    /// When whoever ends what is due looks again by itself.
    armed: Option<Instant>,
    /// From accepting a command until it ended.
    durations: Histogram,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            commands: HashMap::new(),
            timers: BTreeMap::new(),
            last_timer: 0,
            armed: None,
            durations: Histogram::new(&LONG_SECONDS),
        }
    }
}

impl Table {
    pub(super) fn get(&self, id: &str) -> Option<&Live> {
        self.commands.get(id)
    }

    /// Whether there is room for one more command of a type.
    pub(super) fn check_room(&self, kind: &Type) -> Result<()> {
        let of_type = kind.counts.unfinished.load(Ordering::Relaxed);
        if of_type >= MAX_UNFINISHED_PER_TYPE as u64 {
            return Err(Error::TypeFull(kind.name.clone()));
        }
        if self.commands.len() >= MAX_UNFINISHED_COMMANDS { Err(Error::Full) } else { Ok(()) }
    }

    /// Adds a command, whose id must be new here.
    pub(super) fn insert(
        &mut self,
        id: Id,
        kind: Arc<Type>,
        content: Fingerprint,
        execution: Execution<Arc<Holder>>,
    ) {
        kind.counts.unfinished.fetch_add(1, Ordering::Relaxed);
        let live = Live {
            kind,
            content,
            execution,
            changed: None,
            timer: None,
            counted_running: false,
            indexed: None,
        };
        self.commands.insert(id, live);
    }

    /// Takes out a command that was not stored after all.
    pub(super) fn withdraw(&mut self, id: &str) {
        self.take_out(id);
    }

    /// Forgets a command with this outcome, which others know of now: at once, or as soon as it is known here
    /// that it has ended.
    pub(super) fn hand_over(&mut self, id: &str, outcome: Offset) {
        let Some(live) = self.commands.get_mut(id) else { return };
        live.indexed = Some(outcome);
        if live.is_handed_over() {
            self.take_out(id);
        }
    }

    fn take_out(&mut self, id: &str) {
        let Some(live) = self.commands.remove(id) else { return };
        if let Some(timer) = live.timer {
            self.timers.remove(&timer);
        }
        if live.execution.ended().is_none() {
            live.kind.counts.unfinished.fetch_sub(1, Ordering::Relaxed);
        }
        // Whoever waits looks again.
        drop(live.changed);
    }

    /// Changes a command. Afterwards its timer is right, and who waits for it is told.
    pub(super) fn change<T>(
        &mut self,
        id: &str,
        now: Instant,
        change: impl FnOnce(&mut Live) -> T,
    ) -> Option<T> {
        let live = self.commands.get_mut(id)?;
        let was_over = live.execution.ended().is_some();
        let before = live.execution.version();
        let changed = change(live);
        if let (false, Some(ended)) = (was_over, live.execution.ended()) {
            count_end(&live.kind, ended.ending);
            let micros = ended.time.0.saturating_sub(live.execution.accepted.0);
            self.durations.time(Duration::from_micros(micros));
        }
        let running = live.execution.state(now) == State::Running;
        if running != live.counted_running {
            live.counted_running = running;
            let count = &live.kind.counts.running;
            if running {
                count.fetch_add(1, Ordering::Relaxed)
            } else {
                count.fetch_sub(1, Ordering::Relaxed)
            };
        }
        // Whoever waits for a change and finds none must not wake the others who do.
        if let (Some(watchers), true) = (&live.changed, live.execution.version() != before) {
            watchers.send_replace(());
        }
        if live.is_handed_over() {
            self.take_out(id);
        } else {
            self.set_timer(id, now);
        }
        Some(changed)
    }

    fn set_timer(&mut self, id: &str, now: Instant) {
        let Some((id, _)) = self.commands.get_key_value(id) else { return };
        let id = Arc::clone(id);
        let Some(live) = self.commands.get_mut(&id) else { return };
        // What is not stored yet ends by itself if it fails.
        let wanted = match live.execution.due(now) {
            _ if !live.execution.is_stored() => None,
            Due::End(_) => Some(now),
            Due::At(at) => Some(at),
            Due::Nothing => None,
        };
        if live.timer.map(|(at, _)| at) == wanted {
            return;
        }
        if let Some(timer) = live.timer.take() {
            self.timers.remove(&timer);
        }
        if let Some(at) = wanted {
            self.last_timer += 1;
            let timer = (at, self.last_timer);
            live.timer = Some(timer);
            self.timers.insert(timer, id);
        }
    }

    /// How long it took until commands ended.
    pub(super) fn durations(&self) -> Distribution {
        self.durations.read()
    }

    fn next_timer(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|(&(at, _), _)| at)
    }

    /// When the first timer is due, for the one who then looks again.
    pub(super) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.next_timer();
        self.armed
    }

    /// Whether something is due before that.
    pub(super) fn is_armed_too_late(&self) -> bool {
        self.next_timer().is_some_and(|next| self.armed.is_none_or(|armed| next < armed))
    }

    /// Takes up to `limit` commands that are to be ended by now.
    pub(super) fn take_due(&mut self, now: Instant, limit: usize) -> Vec<(Id, Ending)> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) else { break };
            let id = first.remove();
            let Some(live) = self.commands.get_mut(&id) else { continue };
            live.timer = None;
            match live.execution.due(now) {
                Due::End(ending) => due.push((id, ending)),
                Due::At(_) | Due::Nothing => self.set_timer(&id, now),
            }
        }
        due
    }

    /// Looks at a command again then.
    pub(super) fn look_again(&mut self, id: &str, at: Instant) {
        let Some((id, _)) = self.commands.get_key_value(id) else { return };
        let id = Arc::clone(id);
        let Some(live) = self.commands.get_mut(&id) else { return };
        if let Some(timer) = live.timer.take() {
            self.timers.remove(&timer);
        }
        self.last_timer += 1;
        let timer = (at, self.last_timer);
        live.timer = Some(timer);
        self.timers.insert(timer, id);
    }

    /// Follows a command's changes from now on; `None` if it is not here.
    pub(super) fn watch(&mut self, id: &str) -> Option<watch::Receiver<()>> {
        let live = self.commands.get_mut(id)?;
        Some(live.changed.get_or_insert_with(|| watch::Sender::new(())).subscribe())
    }
}

fn count_end(kind: &Type, ending: Ending) {
    kind.counts.unfinished.fetch_sub(1, Ordering::Relaxed);
    let at = Ending::ALL.iter().position(|&other| other == ending);
    let count: Option<&AtomicU64> = at.map(|at| &kind.counts.ended[at]);
    if let Some(count) = count {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cqrs::commands::execution::Ended;
    use crate::model::{Name, Timestamp};

    const LONG: Duration = Duration::from_secs(60);

    fn end(table: &mut Table, now: Instant, outcome: Offset) {
        let ended = Ended { ending: Ending::Succeeded, outcome, time: Timestamp(5) };
        table.change("a", now, |live| live.execution.end(ended));
    }

    /// A table with one command.
    fn table(now: Instant) -> (Table, Arc<Type>) {
        let kind = Arc::new(Type::new(Name::parse("t").unwrap()));
        let mut table = Table::default();
        let execution = Execution::new(Timestamp(1), LONG, LONG, now);
        table.insert("a".into(), Arc::clone(&kind), 7, execution);
        table.change("a", now, |live| live.execution.offset = 1);
        (table, kind)
    }

    #[test]
    fn what_has_ended_and_is_indexed_is_forgotten_whichever_is_known_first() {
        let now = Instant::now();
        for index_is_first in [false, true] {
            let (mut table, kind) = table(now);
            let mut watching = table.watch("a").unwrap();
            // Of an earlier command with this id.
            table.hand_over("a", 3);
            if index_is_first {
                table.hand_over("a", 4);
                assert!(table.get("a").is_some(), "nobody has said that it has ended");
                end(&mut table, now, 4);
            } else {
                end(&mut table, now, 4);
                assert!(table.get("a").is_some(), "the index does not know yet");
                table.hand_over("a", 4);
            }
            assert!(table.get("a").is_none() && table.timers.is_empty(), "{index_is_first}");
            assert!(watching.has_changed().is_err(), "whoever waits looks again");
            watching.mark_unchanged();
            assert_eq!(kind.counts.unfinished.load(Ordering::Relaxed), 0);
            assert_eq!(kind.counts.running.load(Ordering::Relaxed), 0);
        }
    }
}
