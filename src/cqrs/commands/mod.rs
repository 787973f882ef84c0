//! Commands: stored before they are accepted, handled by one handler at a time, ended once.
//!
//! A command is a message in a topic of its type; handlers lease it through that topic's one subscription;
//! its outcome is a message in another topic, published in the same step that settles the command. These
//! topics are all that is stored. [`live`] holds what has not ended, [`index`] finds everything else, and is
//! kept up with the topics by [`following`].

mod ack;
mod completing;
mod ending;
mod error;
mod execution;
mod following;
mod handling;
mod holder;
mod index;
mod indexing;
mod lines;
mod live;
mod lookup;
mod record;
mod sending;
mod space;
#[cfg(test)]
mod tests;
mod types;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::execution::Execution;
use self::following::{Followed, Follower, Incomplete};
use self::index::Index;
use self::live::{Id, Live, Table};
use self::record::Fingerprint;
use self::space::Space;
use self::types::{Type, Types};
use super::handlers::{HandlerKind, Handlers};
use super::store;
use crate::engine::{self, Engine};
use crate::meter::Distribution;
use crate::model::{Name, Offset, Timestamp};

pub(crate) use self::completing::Completion;
pub(crate) use self::error::{Error, Result};
pub(crate) use self::execution::{Ending, State};
pub(crate) use self::handling::{Event, Handed, Handling};
pub(crate) use self::index::Listing;
pub(crate) use self::lookup::{Following, Parts, View};
pub(crate) use self::record::{Command, Failure};
pub(crate) use self::types::TypeStats;

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How often old executions are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How long a server waits with its start for the index.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How many executions are forgotten at once.
const FORGET_AT_ONCE: usize = 10_000;

/// All commands of a server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Commands(Arc<Inner>);

struct Inner {
    engine: Arc<dyn Engine>,
    handlers: Handlers,
    types: Types,
    /// What has not ended.
    table: Mutex<Table>,
    /// Everything else.
    followed: Followed,
    space: Space,
    /// Something is due before whoever ends what is due looks again.
    earlier: Notify,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl Commands {
    /// Takes up what the engine has stored. When this returns, every id that was ever accepted, and is not
    /// forgotten, is known; unless the index cannot be made up for now, or not in a minute: then lookups are
    /// refused until it is.
    pub(crate) async fn open(
        engine: &Arc<dyn Engine>,
        directory: Option<&Path>,
        retention: Duration,
        handlers: Handlers,
    ) -> engine::Result<Self> {
        let types = Types::open(&**engine, retention).await?;
        let index = Index::open(directory).await.map_err(unusable)?;
        let mut follower = Follower::new(Arc::clone(engine), &index).await.map_err(engine_error)?;
        if follower.is_of_another_log(&types).await {
            tracing::error!("the index of commands belongs to another log; it is made anew");
            index.store().reset().await.map_err(unusable)?;
            follower = Follower::new(Arc::clone(engine), &index).await.map_err(engine_error)?;
        }
        let inner = Arc::new(Inner {
            engine: Arc::clone(engine),
            handlers,
            types,
            table: Mutex::default(),
            followed: Followed::new(index),
            space: Space::look(&**engine).await,
            earlier: Notify::new(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        let incomplete = Some(inner.followed.incomplete().await);
        let (ready, is_ready) = oneshot::channel();
        inner.start(follower, (incomplete, ready), retention);
        tokio::select! {
            // It is dropped.
            _ = is_ready => {}
            () = inner.followed.failed() => tracing::error!("the server begins without its index of commands"),
            () = sleep(START_PATIENCE) => tracing::warn!("the index of commands is made while the server serves"),
        }
        Ok(Self(inner))
    }

    /// Opens a handler's stream.
    pub(crate) async fn handle(
        &self,
        types: Vec<Name>,
        name: &str,
        max_outstanding: u32,
    ) -> Result<Handling> {
        self.0.check_capabilities()?;
        Handling::open(Arc::clone(&self.0), types, name, max_outstanding).await
    }

    /// Gives a handler no more commands; it keeps what it has. What waits on its stream goes to others.
    pub(crate) fn drain(&self, handler: &str, may: impl FnOnce(&[Name]) -> bool) -> Result<()> {
        let is_there = self.0.handlers.drain(HandlerKind::Command, handler, may);
        if is_there { Ok(()) } else { Err(Error::HandlerNotFound(handler.to_owned())) }
    }

    /// The figures of all types, by name.
    pub(crate) fn stats(&self) -> Vec<TypeStats> {
        self.0.types.stats()
    }

    /// From accepting a command until it ended.
    pub(crate) fn durations(&self) -> Distribution {
        self.0.table().durations()
    }

    /// Stops what goes on by itself, and puts the index on disk.
    pub(crate) async fn close(&self) {
        self.0.stop.cancel();
        let tasks = std::mem::take(&mut *self.0.tasks());
        for task in tasks {
            drop(task.await);
        }
        // What is not in it is read from the topics again.
        drop(self.0.followed.index().store().sync().await);
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in there panics.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a command that has not ended.
    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Live) -> T) -> Option<T> {
        let mut table = self.table();
        let changed = table.change(id, Instant::now(), change);
        if table.is_armed_too_late() {
            self.earlier.notify_one();
        }
        changed
    }

    fn knows(&self, id: &str) -> bool {
        self.table().get(id).is_some()
    }

    /// Waits until something has happened to a command, or it is no longer here.
    async fn next_change(&self, id: &str) {
        let changes = {
            let mut table = self.table();
            let is_settled = table.get(id).is_none_or(|live| !live.execution.is_undecided());
            if is_settled { None } else { table.watch(id) }
        };
        if let Some(mut changes) = changes {
            drop(changes.changed().await);
        }
    }

    fn check_capabilities(&self) -> Result<()> {
        let capabilities = self.engine.capabilities();
        if capabilities.commit && capabilities.key_ordered {
            return Ok(());
        }
        let unsupported = engine::Error::Unsupported { engine: capabilities.engine, what: "take commands" };
        Err(Error::Engine(unsupported))
    }

    /// Adds a command that was accepted before.
    fn take_up(
        &self,
        kind: &Arc<Type>,
        id: &str,
        offset: Offset,
        content: Fingerprint,
        (accepted, timeout): (Timestamp, Duration),
    ) {
        let passed = Duration::from_micros(Timestamp::now().0.saturating_sub(accepted.0));
        let left = timeout.saturating_sub(passed);
        let id = Id::from(id);
        {
            let mut table = self.table();
            if table.get(&id).is_some() {
                return;
            }
            let mut execution = Execution::new(accepted, timeout, left, Instant::now());
            // What it was before is not known: what is known now counts as a change.
            execution.revision = execution.revision.max(Timestamp::now().0);
            table.insert(Arc::clone(&id), Arc::clone(kind), content, execution);
        }
        self.change(&id, |live| {
            live.execution.offset = offset;
            live.execution.attempts_unknown = true;
        });
    }

    /// Asks the engine how often a command was delivered, if that was in another process and is not known.
    async fn learn_attempts(&self, id: &str) {
        let unknown = {
            let table = self.table();
            let live = table.get(id).filter(|live| live.execution.attempts_unknown);
            live.map(|live| (Arc::clone(&live.kind), live.execution.offset))
        };
        let Some((kind, offset)) = unknown else { return };
        // Only for show: without an answer it is asked again.
        let Ok(explanation) = self.engine.explain(&kind.commands, offset).await else { return };
        let journey = explanation.journeys.into_iter().find(|journey| journey.subscription == kind.commands);
        let attempts = journey.map_or(0, |journey| journey.attempts);
        self.change(id, |live| live.execution.learn_attempts(attempts));
    }

    /// Takes up what had not ended when the server did.
    async fn take_up_unfinished(&self) -> store::Result<()> {
        for row in self.followed.index().unfinished().await? {
            let kind = Name::stored(&row.kind).ok().and_then(|kind| self.types.find(&kind).ok());
            let Some(kind) = kind else { continue };
            let timeout = Duration::from_micros(row.expires().0.saturating_sub(row.accepted().0));
            self.take_up(&kind, &row.id, row.offset, row.content(), (row.accepted(), timeout));
            if row.cancel_requested {
                self.change(&row.id, |live| live.execution.set_cancel_requested(Timestamp::now()));
            }
        }
        Ok(())
    }

    /// Starts what goes on by itself.
    fn start(
        self: &Arc<Self>,
        follower: Follower,
        starting: (Incomplete, oneshot::Sender<()>),
        retention: Duration,
    ) {
        let until_stop = |task: futures::future::BoxFuture<'static, ()>| {
            let stop = self.stop.clone();
            tokio::spawn(async move {
                stop.run_until_cancelled(task).await;
            })
        };
        let tasks = vec![
            until_stop(Box::pin(Arc::clone(self).follow(follower, starting))),
            until_stop(Box::pin(Arc::clone(self).end_what_is_due())),
            until_stop(Box::pin(Arc::clone(self).forget_what_is_old(retention))),
            until_stop(Box::pin(Arc::clone(self).keep_looking_for_space())),
        ];
        self.tasks().extend(tasks);
    }

    /// Keeps the index up with the topics; first of all, makes up for what came since it was written.
    async fn follow(
        self: Arc<Self>,
        mut follower: Follower,
        (mut incomplete, ready): (Incomplete, oneshot::Sender<()>),
    ) {
        let hand_over = |ended: following::HandedOver| {
            let mut table = self.table();
            for (id, outcome) in ended {
                table.hand_over(&id, outcome);
            }
        };
        self.followed.round(&mut follower, &self.types, hand_over, &mut incomplete).await;
        while let Err(error) = self.take_up_unfinished().await {
            tracing::error!(%error, "the commands that have not ended cannot be read; trying again");
            if self.followed.repair(&mut follower, &error.into()).await.is_err() {
                sleep(RETRY).await;
            }
            self.followed.round(&mut follower, &self.types, hand_over, &mut incomplete).await;
        }
        drop((incomplete.take(), ready));
        loop {
            self.followed.wait_for_work().await;
            self.followed.round(&mut follower, &self.types, hand_over, &mut incomplete).await;
            incomplete = None;
        }
    }

    async fn keep_looking_for_space(self: Arc<Self>) {
        self.space.keep(&*self.engine).await;
    }

    /// Forgets executions that ended so long ago.
    async fn forget_what_is_old(self: Arc<Self>, retention: Duration) {
        loop {
            match self.followed.index().forget(Timestamp::now().before(retention), FORGET_AT_ONCE).await {
                Ok(FORGET_AT_ONCE) => {}
                Ok(_) => sleep(FORGET_EVERY).await,
                Err(error) => {
                    tracing::warn!(%error, "old executions cannot be forgotten now");
                    sleep(FORGET_EVERY).await;
                }
            }
        }
    }
}

/// The index cannot be used at all.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unusable(error: store::Error) -> engine::Error {
    engine::Error::Disk { reason: error.to_string() }
}

fn engine_error(error: Error) -> engine::Error {
    match error {
        Error::Engine(error) => error,
        other => engine::Error::Disk { reason: other.to_string() },
    }
}

/// The result of a task that does not panic and is not cancelled, except by the end of the process.
fn joined<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.unwrap_or(Err(Error::Engine(engine::Error::Closed)))
}
