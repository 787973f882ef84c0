//! Keeps the index up with the topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedRwLockWriteGuard, RwLock, RwLockReadGuard, watch};
use tokio::time::{sleep, timeout};

use super::error::{Error, Result};
use super::index::{Index, Place, Row, Told};
use super::live::Id;
use super::record::{StoredCommand, StoredOutcome};
use super::types::{Type, Types};
use crate::cqrs::store;
use crate::engine::{self, Engine, ReadLimit};
use crate::model::{Name, Offset, Start, StoredMessage, Timestamp};

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
    complete: Arc<RwLock<()>>,
    /// There is something to do.
    work: Notify,
    /// Somebody waits: do it now.
    hurry: Notify,
    /// How many rounds were asked for.
    asked: AtomicU64,
    rounds: watch::Sender<Rounds>,
}

/// What has come of rounds.
#[derive(Debug, Clone, Copy, Default)]
struct Rounds {
    /// How many of those asked for are done.
    done: u64,
    /// How often one did not work.
    failures: u64,
}

/// Held while the index does not know what it should.
pub(super) type Incomplete = Option<OwnedRwLockWriteGuard<()>>;

/// What reads the topics: one task.
pub(super) struct Follower {
    engine: Arc<dyn Engine>,
    /// How far it is, by topic.
    places: BTreeMap<Name, Place>,
}

/// Executions that the index now knows to have ended, with the places of their outcomes.
pub(super) type HandedOver = Vec<(Id, Offset)>;

impl Followed {
    pub(super) fn new(index: Index) -> Self {
        Self {
            index,
            complete: Arc::default(),
            work: Notify::new(),
            hurry: Notify::new(),
            asked: AtomicU64::new(0),
            rounds: watch::Sender::default(),
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

    /// Until this is dropped, the index does not know what it should.
    pub(super) async fn incomplete(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.complete).write_owned().await
    }

    /// Something was stored.
    pub(super) fn notify(&self) {
        self.work.notify_one();
    }

    /// Waits until the index knows all that is stored now.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let mut rounds = self.rounds.subscribe();
        let failures = rounds.borrow_and_update().failures;
        let round = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.hurry.notify_one();
        let decided = rounds.wait_for(|rounds| rounds.done >= round || rounds.failures > failures);
        match timeout(CATCH_UP, decided).await {
            Ok(Ok(rounds)) if rounds.done >= round => Ok(()),
            _ => Err(Error::Store(store::Error::Disk("the index of commands is behind".into()))),
        }
    }

    /// Resolves when a round does not work.
    pub(super) async fn failed(&self) {
        let mut rounds = self.rounds.subscribe();
        // Its sender is here.
        drop(rounds.wait_for(|rounds| rounds.failures > 0).await);
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
    /// or the engine is closed. Once a write is lost, nobody may be told that a command is unknown before it
    /// is made up for: `incomplete` is held from then on.
    pub(super) async fn round(
        &self,
        follower: &mut Follower,
        types: &Types,
        mut handed_over: impl FnMut(HandedOver),
        incomplete: &mut Incomplete,
    ) {
        let asked = self.asked.load(Ordering::Acquire);
        loop {
            match self.follow_all(follower, types, &mut handed_over).await {
                Ok(()) => break,
                Err(error) if is_end(&error) => {
                    self.rounds.send_modify(|rounds| rounds.failures += 1);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the index of commands does not keep up");
                    self.rounds.send_modify(|rounds| rounds.failures += 1);
                    if let (Error::Store(_), None) = (&error, &incomplete) {
                        *incomplete = Some(self.incomplete().await);
                    }
                    if let Err(error) = self.repair(follower, &error).await {
                        tracing::error!(%error, "the index of commands cannot be repaired; trying again");
                        sleep(RETRY).await;
                    }
                }
            }
        }
        self.rounds.send_if_modified(|rounds| std::mem::replace(&mut rounds.done, asked) != asked);
    }

    async fn follow_all(
        &self,
        follower: &mut Follower,
        types: &Types,
        handed_over: &mut impl FnMut(HandedOver),
    ) -> Result<()> {
        let mut failure = Ok(());
        for kind in types.all() {
            match self.follow(follower, &kind, handed_over).await {
                // One that cannot be read holds up no other.
                Err(error @ Error::Engine(_)) if !is_end(&error) => {
                    tracing::warn!(kind = %kind.name, %error, "commands of a type cannot be read");
                    failure = Err(error);
                }
                followed => followed?,
            }
        }
        failure
    }

    /// Reads one type to its end.
    async fn follow(
        &self,
        follower: &mut Follower,
        kind: &Arc<Type>,
        handed_over: &mut impl FnMut(HandedOver),
    ) -> Result<()> {
        while follower.is_behind(kind) {
            let (told, places) = follower.read(kind).await?;
            let ended = told.iter().filter_map(|told| match told {
                Told::Ended(of, end) => Some((Id::from(of.id.as_str()), end.ended.outcome)),
                _ => None,
            });
            let ended: Vec<_> = ended.collect();
            let nothing =
                told.is_empty() && places.iter().all(|(topic, place)| follower.next(topic) == place.next);
            if nothing {
                // A receipt may come a moment before readers see the message.
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            self.index.apply(told, places.clone()).await?;
            follower.places.extend(places);
            handed_over(ended);
        }
        Ok(())
    }

    /// After a failure: a damaged index is made anew, everything else tried again.
    pub(super) async fn repair(&self, follower: &mut Follower, error: &Error) -> Result<()> {
        let store = self.index.store();
        match error {
            Error::Store(store::Error::Damaged(_)) => store.reset().await?,
            Error::Store(store::Error::Disk(_)) => {
                sleep(RETRY).await;
                store.reopen().await?;
            }
            _ => sleep(RETRY).await,
        }
        follower.places = self.index.places().await?;
        Ok(())
    }
}

impl Follower {
    /// Goes on from where the index is.
    pub(super) async fn new(engine: Arc<dyn Engine>, index: &Index) -> Result<Self> {
        Ok(Self { engine, places: index.places().await? })
    }

    /// Whether the index was made of another log, or of another history of this one, such as that of a backup.
    pub(super) async fn is_of_another_log(&self, types: &Types) -> bool {
        let all = types.all();
        let topics: Vec<_> = all.iter().flat_map(|kind| kind.topics()).collect();
        let known: BTreeSet<_> = topics.iter().map(|(topic, ..)| *topic).collect();
        if self.places.keys().any(|topic| !known.contains(topic)) {
            return true;
        }
        for (topic, created, last) in topics {
            let Some(place) = self.places.get(topic) else { continue };
            if place.created != created
                || place.next > last + 1
                || !self.is_last_read_there(topic, place).await
            {
                return true;
            }
        }
        false
    }

    /// Whether the message that was read last is still the one that it was, as far as can be told.
    async fn is_last_read_there(&self, topic: &Name, place: &Place) -> bool {
        if place.read == Timestamp(0) {
            return true;
        }
        let one = ReadLimit { messages: 1, bytes: 1 };
        let read = self.engine.read(topic, Start::Offset(place.next - 1), one).await.unwrap_or_default();
        let there = read.into_iter().find(|message| message.offset + 1 == place.next);
        there.is_none_or(|message| message.publish_time == place.read)
    }

    fn is_behind(&self, kind: &Type) -> bool {
        self.next(&kind.commands) <= kind.last_command.load(Ordering::Relaxed)
            || self.next(&kind.outcomes) <= kind.last_outcome.load(Ordering::Relaxed)
    }

    fn next(&self, topic: &Name) -> Offset {
        self.places.get(topic).map_or(1, |place| place.next)
    }

    /// What comes next of a type: commands, then outcomes of commands that were read.
    async fn read(&self, kind: &Type) -> Result<(Vec<Told>, Vec<(Name, Place)>)> {
        let mut told = Vec::new();
        let [mut commands, mut outcomes] = kind.topics().map(|(topic, created, _)| {
            let first = Place::first(created);
            self.places.get(topic).copied().unwrap_or(first)
        });
        while told.len() < BATCH {
            let (messages, next) = self.read_on(&kind.commands, commands.next).await?;
            if next == commands.next {
                break;
            }
            commands = commands.at(next, messages.last());
            told.extend(messages.iter().filter_map(|message| {
                let command = StoredCommand::read(&message.envelope)?;
                Some(Told::command(&kind.name, message.offset, command))
            }));
        }
        'outcomes: while told.len() < 2 * BATCH {
            let (messages, next) = self.read_on(&kind.outcomes, outcomes.next).await?;
            if next == outcomes.next {
                break;
            }
            for message in &messages {
                let Some(outcome) = StoredOutcome::read(&message.envelope) else { continue };
                if outcome.command_offset >= commands.next {
                    break 'outcomes;
                }
                outcomes = outcomes.at(message.offset + 1, Some(message));
                told.extend(Told::outcome(&kind.name, message.offset, outcome));
            }
            outcomes = outcomes.at(next, messages.last());
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

/// Whether the engine has ended.
fn is_end(error: &Error) -> bool {
    matches!(error, Error::Engine(engine::Error::Closed | engine::Error::Failed(_)))
}
