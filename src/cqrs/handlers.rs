//! The handlers that are connected now, of commands and of queries, for whoever wants to see them.
//!
//! Only a list: who gets what is decided elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::model::limits::MAX_HANDLERS;
use crate::model::{Kind, Name, Timestamp};

/// What a handler handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandlerKind {
    /// Commands.
    Command,
    /// Queries.
    Query,
}

/// One more handler would be too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server has {MAX_HANDLERS} handlers already, its limit; close some")]
pub(crate) struct TooManyHandlers;

impl TooManyHandlers {
    /// The kind of trouble, which decides the gRPC code.
    #[expect(clippy::unused_self, reason = "as with all errors")]
    pub(crate) fn kind(self) -> Kind {
        Kind::ResourceExhausted
    }
}

/// A connected handler as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HandlerInfo {
    /// Its place in the list: later ones have higher numbers.
    pub(crate) number: u64,
    /// The server's name for it.
    pub(crate) id: String,
    /// What it handles.
    pub(crate) kind: HandlerKind,
    /// The name that it gave itself; may be empty.
    pub(crate) name: String,
    /// The types that it handles.
    pub(crate) types: Vec<Name>,
    /// When it connected.
    pub(crate) since: Timestamp,
    /// How many commands or queries it may have at once.
    pub(crate) max_outstanding: u32,
    /// How many it has.
    pub(crate) outstanding: u32,
    /// How many it has answered with a result.
    pub(crate) answered: u64,
    /// How many it has answered with a failure.
    pub(crate) failed: u64,
}

/// All connected handlers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handlers(Arc<Mutex<Registry>>);

#[derive(Debug, Default)]
struct Registry {
    last_number: u64,
    entries: BTreeMap<u64, Arc<Entry>>,
}

/// What is known of one handler; its counts change while it works.
#[derive(Debug)]
struct Entry {
    kind: HandlerKind,
    name: String,
    types: Vec<Name>,
    since: Timestamp,
    max_outstanding: u32,
    /// It is to get nothing more.
    draining: CancellationToken,
    outstanding: AtomicU32,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Handlers {
    /// Lists a handler until the guard is dropped.
    pub(crate) fn join(
        &self,
        kind: HandlerKind,
        name: &str,
        types: Vec<Name>,
        max_outstanding: u32,
    ) -> Result<Listed, TooManyHandlers> {
        let mut registry = self.registry();
        if registry.entries.len() >= MAX_HANDLERS {
            return Err(TooManyHandlers);
        }
        registry.last_number += 1;
        let number = registry.last_number;
        let entry = Arc::new(Entry {
            kind,
            name: name.to_owned(),
            types,
            since: Timestamp::now(),
            max_outstanding,
            draining: CancellationToken::new(),
            outstanding: AtomicU32::new(0),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        registry.entries.insert(number, Arc::clone(&entry));
        drop(registry);
        Ok(Listed { number, tally: Tally(entry), handlers: self.clone() })
    }

    /// Handlers from this number on, the oldest first, at most so many: of a kind and of a type, if those
    /// are given.
    pub(crate) fn list(
        &self,
        first: u64,
        limit: usize,
        kind: Option<HandlerKind>,
        of: Option<&Name>,
    ) -> Vec<HandlerInfo> {
        let registry = self.registry();
        let entries = registry.entries.range(first..);
        let chosen = entries.filter(|(_, entry)| {
            kind.is_none_or(|kind| entry.kind == kind) && of.is_none_or(|of| entry.types.contains(of))
        });
        chosen.take(limit).map(|(&number, entry)| entry.info(number)).collect()
    }

    /// Wants a handler to get nothing more; says whether there is one of this kind and [id](Listed::id), and of
    /// types that the caller may handle.
    pub(crate) fn drain(&self, kind: HandlerKind, handler: &str, may: impl FnOnce(&[Name]) -> bool) -> bool {
        let registry = self.registry();
        let number = handler.strip_prefix('h').and_then(|number| number.parse().ok());
        let entry = number.and_then(|number: u64| registry.entries.get_key_value(&number));
        let entry = entry.filter(|(number, entry)| entry.kind == kind && id(**number) == handler);
        let entry = entry.filter(|(_, entry)| may(&entry.types));
        entry.inspect(|(_, entry)| entry.draining.cancel()).is_some()
    }

    /// How many of a kind there are.
    pub(crate) fn count(&self, kind: HandlerKind) -> u64 {
        self.registry().entries.values().filter(|entry| entry.kind == kind).count() as u64
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn info(&self, number: u64) -> HandlerInfo {
        HandlerInfo {
            number,
            id: id(number),
            kind: self.kind,
            name: self.name.clone(),
            types: self.types.clone(),
            since: self.since,
            max_outstanding: self.max_outstanding,
            outstanding: self.outstanding.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

fn id(number: u64) -> String {
    format!("h{number}")
}

/// A place in the list. Dropping it takes the handler off.
#[derive(Debug)]
pub(crate) struct Listed {
    number: u64,
    tally: Tally,
    handlers: Handlers,
}

impl Listed {
    /// The server's name for the handler, unique until the server restarts.
    pub(crate) fn id(&self) -> String {
        id(self.number)
    }

    /// Whether it is to get nothing more.
    pub(crate) fn is_draining(&self) -> bool {
        self.tally.0.draining.is_cancelled()
    }

    /// Resolves when it is to get nothing more.
    pub(crate) fn draining(&self) -> WaitForCancellationFutureOwned {
        self.tally.0.draining.clone().cancelled_owned()
    }

    /// What counts for it.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.handlers.registry().entries.remove(&self.number);
    }
}

/// Counts what one handler does. Cheap to clone; may outlive the place in the list.
#[derive(Debug, Clone)]
pub(crate) struct Tally(Arc<Entry>);

impl Tally {
    /// How many commands or queries it has now.
    pub(crate) fn set_outstanding(&self, outstanding: u32) {
        self.0.outstanding.store(outstanding, Ordering::Relaxed);
    }

    /// It answered with a result.
    pub(crate) fn answered(&self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// It answered with a failure.
    pub(crate) fn failed(&self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn lists_who_is_there_with_counts() {
        let handlers = Handlers::default();
        let join = |kind, name: &str, of: &str| handlers.join(kind, name, vec![self::name(of)], 7).unwrap();
        let first = join(HandlerKind::Command, "a", "orders.place");
        let second = join(HandlerKind::Query, "b", "orders.get");
        assert_ne!(first.id(), second.id());
        second.tally().set_outstanding(3);
        second.tally().answered();
        second.tally().answered();
        second.tally().failed();
        let listed = handlers.list(0, 10, None, None);
        assert_eq!(listed.iter().map(|info| &info.id).collect::<Vec<_>>(), [&first.id(), &second.id()]);
        let info = &listed[1];
        assert_eq!((info.kind, &*info.name, info.max_outstanding), (HandlerKind::Query, "b", 7));
        assert_eq!(info.types, [name("orders.get")]);
        assert_eq!((info.outstanding, info.answered, info.failed), (3, 2, 1));
        assert_eq!(handlers.list(0, 1, None, None), listed[..1]);
        assert_eq!(handlers.count(HandlerKind::Query), 1);
        assert_eq!(handlers.list(info.number, 10, None, None), listed[1..]);
        assert_eq!(handlers.list(0, 1, Some(HandlerKind::Query), None), listed[1..]);
        assert_eq!(handlers.list(0, 10, None, Some(&name("orders.get"))), listed[1..]);
        let tally = first.tally().clone();
        drop(first);
        tally.answered();
        assert_eq!(handlers.list(0, 10, None, None), listed[1..]);
    }

    #[test]
    fn a_handler_is_drained_by_its_id_and_kind() {
        let handlers = Handlers::default();
        let join = |kind| handlers.join(kind, "", Vec::new(), 1).unwrap();
        let (command, query) = (join(HandlerKind::Command), join(HandlerKind::Query));
        for unknown in ["", "h", "h7", "hh1", "h+1", "h01", &query.id()] {
            assert!(!handlers.drain(HandlerKind::Command, unknown, |_| true), "{unknown}");
        }
        assert!(!command.is_draining());
        assert!(
            !handlers.drain(HandlerKind::Command, &command.id(), |_| false),
            "of a type that is not theirs"
        );
        assert!(!command.is_draining());
        assert!(handlers.drain(HandlerKind::Command, &command.id(), |_| true));
        assert!(command.is_draining() && !query.is_draining());
    }

    #[test]
    fn has_a_limit_and_takes_others_when_some_have_left() {
        let handlers = Handlers::default();
        let join = || handlers.join(HandlerKind::Query, "", Vec::new(), 1);
        let mut all: Vec<_> = (0..MAX_HANDLERS).map(|_| join().unwrap()).collect();
        assert_eq!(join().unwrap_err(), TooManyHandlers);
        assert_eq!(TooManyHandlers.kind(), Kind::ResourceExhausted);
        let left = all.pop().unwrap().id();
        assert_ne!(join().unwrap().id(), left, "ids are given out once");
    }
}
