//! Keeps the index up with the topics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, RwLock, RwLockReadGuard, watch};
use tokio::time::{sleep, timeout};

use super::error::{Error, Result};
use super::index::{Index, Row, Told};
use super::live::Id;
use super::record::{StoredCommand, StoredOutcome};
use super::types::{Type, Types};
use crate::cqrs::store;
use crate::engine::{self, Engine, ReadLimit};
use crate::model::{Name, Offset, Start, StoredMessage};

/// What one read takes.
const READ: ReadLimit = ReadLimit { messages: 1_000, bytes: 4 << 20 };
/// What is written to the index at once, at least while there is more.
const BATCH: usize = 4_000;
/// How long changes gather before they are written to the index.
const GATHER: Duration = Duration::from_millis(20);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long callers wait for an index that is being made anew.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long callers wait until the index knows all that is stored.
const CATCH_UP: Duration = Duration::from_secs(10);

/// The index, and how far it is.
#[derive(Debug)]
pub(super) struct Followed {
    index: Index,
    /// Held for writing while the index is made anew: then it does not know what it should.
    complete: RwLock<()>,
    /// There is something to do.
    work: Notify,
    /// Somebody waits: do it now.
    hurry: Notify,
    /// How many rounds were asked for.
    asked: AtomicU64,
    /// How many of those are done.
    done: watch::Sender<u64>,
}

/// What reads the topics: one task.
pub(super) struct Follower {
    engine: Arc<dyn Engine>,
    /// Where to go on, by topic.
    positions: BTreeMap<Name, Offset>,
}

/// Executions that the index now knows to have ended, with the places of their outcomes.
pub(super) type HandedOver = Vec<(Id, Offset)>;

impl Followed {
    pub(super) fn new(index: Index) -> Self {
        Self {
            index,
            complete: RwLock::default(),
            work: Notify::new(),
            hurry: Notify::new(),
            asked: AtomicU64::new(0),
            done: watch::Sender::new(0),
        }
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// What the index knows of a command, as of some time after everything that this process no longer
    /// has in its table.
    pub(super) async fn get(&self, id: &str) -> Result<Option<Row>> {
        let _complete = self.complete().await?;
        Ok(self.index.get(id).await?)
    }

    /// Waits, not for long, until the index knows what it should; it does while the guard is held.
    pub(super) async fn complete(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let complete = timeout(PATIENCE, self.complete.read()).await;
        complete.map_err(|_| Error::Store(store::Error::Disk("the index of commands is made anew".into())))
    }

    /// As while it is made anew.
    #[cfg(test)]
    pub(super) async fn make_anew(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.complete.write().await
    }

    /// Something was stored.
    pub(super) fn notify(&self) {
        self.work.notify_one();
    }

    /// Waits until the index knows all that is stored now.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let mut done = self.done.subscribe();
        let round = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.hurry.notify_one();
        match timeout(CATCH_UP, done.wait_for(|&done| done >= round)).await {
            Ok(caught_up) => caught_up.map(drop).map_err(|_| Error::Engine(engine::Error::Closed)),
            Err(_) => Err(Error::Store(store::Error::Disk("the index of commands is behind".into()))),
        }
    }

    /// Waits until there is something to do.
    pub(super) async fn wait_for_work(&self) {
        tokio::select! {
            () = self.hurry.notified() => {}
            () = self.work.notified() => tokio::select! {
                () = self.hurry.notified() => {}
                () = sleep(GATHER) => {}
            },
        }
    }

    /// Reads all types to their ends, and tells `handed_over` what has ended. Goes on until it has worked,
    /// or the engine is closed.
    pub(super) async fn round(
        &self,
        follower: &mut Follower,
        types: &Types,
        mut handed_over: impl FnMut(HandedOver),
    ) {
        let asked = self.asked.load(Ordering::Acquire);
        // Once a write is lost, nobody may be told that a command is unknown before it is made up for.
        let mut incomplete = None;
        loop {
            match self.follow_all(follower, types, &mut handed_over).await {
                Ok(()) => break,
                Err(Error::Engine(engine::Error::Closed | engine::Error::Failed(_))) => return,
                Err(error) => {
                    tracing::warn!(%error, "the index of commands does not keep up");
                    if let (Error::Store(_), None) = (&error, &incomplete) {
                        incomplete = Some(self.complete.write().await);
                    }
                    if let Err(error) = self.repair(follower, &error).await {
                        tracing::error!(%error, "the index of commands cannot be repaired; trying again");
                        sleep(RETRY).await;
                    }
                }
            }
        }
        drop(incomplete);
        self.done.send_if_modified(|done| std::mem::replace(done, asked) != asked);
    }

    async fn follow_all(
        &self,
        follower: &mut Follower,
        types: &Types,
        handed_over: &mut impl FnMut(HandedOver),
    ) -> Result<()> {
        for kind in types.all() {
            self.follow(follower, &kind, handed_over).await?;
        }
        Ok(())
    }

    /// Reads one type to its end.
    async fn follow(
        &self,
        follower: &mut Follower,
        kind: &Arc<Type>,
        handed_over: &mut impl FnMut(HandedOver),
    ) -> Result<()> {
        while follower.is_behind(kind) {
            let (told, positions) = follower.read(kind).await?;
            let ended = told.iter().filter_map(|told| match told {
                Told::Ended(of, end) => Some((Id::from(of.id.as_str()), end.ended.outcome)),
                _ => None,
            });
            let ended: Vec<_> = ended.collect();
            let nothing =
                told.is_empty() && positions.iter().all(|(topic, next)| follower.next(topic) == *next);
            if nothing {
                // A receipt may come a moment before readers see the message.
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            self.index.apply(told, positions.clone()).await?;
            follower.positions.extend(positions);
            handed_over(ended);
        }
        Ok(())
    }

    /// After a failure: a damaged index is made anew, everything else tried again.
    async fn repair(&self, follower: &mut Follower, error: &Error) -> Result<()> {
        let store = self.index.store();
        match error {
            Error::Store(store::Error::Damaged(_)) => store.reset().await?,
            Error::Store(store::Error::Disk(_)) => {
                sleep(RETRY).await;
                store.reopen().await?;
            }
            _ => sleep(RETRY).await,
        }
        follower.positions = self.index.positions().await?;
        Ok(())
    }
}

impl Follower {
    /// Goes on from where the index is.
    pub(super) async fn new(engine: Arc<dyn Engine>, index: &Index) -> Result<Self> {
        Ok(Self { engine, positions: index.positions().await? })
    }

    /// Whether the index has read more than there is: it belongs to another log.
    pub(super) fn is_ahead(&self, kind: &Type) -> bool {
        self.next(&kind.commands) > kind.last_command.load(Ordering::Relaxed) + 1
            || self.next(&kind.outcomes) > kind.last_outcome.load(Ordering::Relaxed) + 1
    }

    fn is_behind(&self, kind: &Type) -> bool {
        self.next(&kind.commands) <= kind.last_command.load(Ordering::Relaxed)
            || self.next(&kind.outcomes) <= kind.last_outcome.load(Ordering::Relaxed)
    }

    fn next(&self, topic: &Name) -> Offset {
        self.positions.get(topic).copied().unwrap_or(1)
    }

    /// What comes next of a type: commands, then outcomes of commands that were read.
    async fn read(&self, kind: &Type) -> Result<(Vec<Told>, Vec<(Name, Offset)>)> {
        let mut told = Vec::new();
        let mut commands = self.next(&kind.commands);
        while told.len() < BATCH {
            let (messages, next) = self.read_on(&kind.commands, commands).await?;
            if next == commands {
                break;
            }
            commands = next;
            told.extend(messages.iter().filter_map(|message| {
                let command = StoredCommand::read(&message.envelope)?;
                Some(Told::command(&kind.name, message.offset, command))
            }));
        }
        let mut outcomes = self.next(&kind.outcomes);
        'outcomes: while told.len() < 2 * BATCH {
            let (messages, next) = self.read_on(&kind.outcomes, outcomes).await?;
            if next == outcomes {
                break;
            }
            for message in messages {
                let Some(outcome) = StoredOutcome::read(&message.envelope) else { continue };
                if outcome.command_offset >= commands {
                    break 'outcomes;
                }
                outcomes = message.offset + 1;
                told.extend(Told::outcome(&kind.name, message.offset, outcome));
            }
            outcomes = next;
        }
        Ok((told, vec![(kind.commands.clone(), commands), (kind.outcomes.clone(), outcomes)]))
    }

    /// Reads on in a topic, past what is damaged. Returns where to go on, which is `from` at the end.
    async fn read_on(&self, topic: &Name, from: Offset) -> Result<(Vec<StoredMessage>, Offset)> {
        match self.engine.read(topic, Start::Offset(from), READ).await {
            Ok(messages) => match messages.last().map(|last| last.offset + 1) {
                Some(next) => Ok((messages, next)),
                // The end; or retention took all that there was.
                None => Ok((messages, from.max(self.engine.topic(topic).await?.first_offset))),
            },
            Err(engine::Error::Damaged { topic, first, last }) => {
                tracing::error!(%topic, first, last, "damaged records of commands are passed over");
                Ok((Vec::new(), last + 1))
            }
            Err(error) => Err(error.into()),
        }
    }
}
