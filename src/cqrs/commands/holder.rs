//! What a handler holds, for its stream and for those who complete its commands.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::lines::Line;
use super::live::Id;
use crate::cqrs::handlers::Tally;

/// What a stream and those who complete its commands share.
#[derive(Debug)]
pub(super) struct Holder {
    tally: Tally,
    held: Mutex<Held>,
    /// There is something to tell.
    told: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// What it carries out, by id.
    commands: HashMap<Id, Holding>,
    /// Which of those are to be cancelled, and it was not told yet.
    cancelled: BTreeSet<Id>,
    /// Keys that it has carried out a command of; with whether that has ended, or was given back.
    freed: Vec<(Line, Id, bool)>,
}

#[derive(Debug)]
struct Holding {
    /// The delivery.
    ack: Bytes,
    /// Its key, if it has one.
    line: Option<Line>,
}

impl Holder {
    pub(super) fn new(tally: Tally) -> Self {
        Self { tally, held: Mutex::default(), told: Notify::new() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It carries out a command from now on.
    pub(super) fn hold(&self, id: Id, ack: Bytes, line: Option<Line>) {
        let mut held = self.held();
        held.commands.insert(id, Holding { ack, line });
        self.count(&held);
    }

    /// It does not hold this delivery any more: the command has ended, or was given back.
    pub(super) fn let_go(&self, id: &str, ack: &[u8], ended: bool) {
        let mut held = self.held();
        if held.commands.get(id).is_none_or(|holding| holding.ack != ack) {
            return;
        }
        held.cancelled.remove(id);
        if let Some((id, Holding { line: Some(line), .. })) = held.commands.remove_entry(id) {
            held.freed.push((line, id, ended));
            self.told.notify_one();
        }
        self.count(&held);
    }

    fn count(&self, held: &Held) {
        self.tally.set_outstanding(u32::try_from(held.commands.len()).unwrap_or(u32::MAX));
    }

    /// Somebody wants a command cancelled that it holds.
    pub(super) fn cancel(&self, id: &Id) {
        let mut held = self.held();
        if held.commands.contains_key(id) {
            held.cancelled.insert(Arc::clone(id));
            self.told.notify_one();
        }
    }

    /// Resolves when there may be something to tell.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    /// A delivery that it holds and was not yet told to cancel.
    pub(super) fn next_cancelled(&self) -> Option<(Id, Bytes)> {
        let mut held = self.held();
        let id = held.cancelled.pop_first()?;
        let ack = held.commands.get(&id)?.ack.clone();
        Some((id, ack))
    }

    /// Whether it holds this delivery.
    pub(super) fn holds(&self, id: &str, ack: &[u8]) -> bool {
        self.held().commands.get(id).is_some_and(|holding| holding.ack == ack)
    }

    /// A key is not held up any more, as the command has ended or was given back.
    pub(super) fn free(&self, line: Line, id: Id, ended: bool) {
        self.held().freed.push((line, id, ended));
    }

    /// A key that is to be gone on with.
    pub(super) fn next_freed(&self) -> Option<(Line, Id, bool)> {
        self.held().freed.pop()
    }

    /// Lets go of all deliveries.
    pub(super) fn take(&self) -> Vec<(Id, Bytes)> {
        let commands = std::mem::take(&mut self.held().commands);
        commands.into_iter().map(|(id, holding)| (id, holding.ack)).collect()
    }

    /// What counts for it.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl PartialEq for Holder {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
