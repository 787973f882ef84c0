//! What has become of commands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::execution::{Ended, Ending, State};
use super::index::{Listing, Row};
use super::live::Live;
use super::record::{Command, Failure, StoredCommand, StoredOutcome};
use super::types::Type;
use super::{Commands, Inner};
use crate::engine::ReadLimit;
use crate::model::{Name, Offset, Start, StoredMessage, Timestamp};

/// How soon to look again for a command between the table and the index.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A command and what has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The command.
    pub(crate) command: Command,
    /// How far it is.
    pub(crate) state: State,
    /// What it returned.
    pub(crate) result: Bytes,
    /// Why it, or its last attempt, failed.
    pub(crate) failure: Option<Failure>,
    /// Deliveries.
    pub(crate) attempts: u32,
    /// Grows with each change.
    pub(crate) revision: u64,
    /// Somebody wants it cancelled.
    pub(crate) cancel_requested: bool,
    /// When it was accepted.
    pub(crate) accepted: Timestamp,
    /// When its time is over.
    pub(crate) expires: Timestamp,
    /// When it ended.
    pub(crate) ended: Option<Timestamp>,
}

/// How much of it to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// All.
    Whole,
    /// What is known without reading the topics.
    Summary,
}

/// What is known without reading the topics.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    id: String,
    pub(super) kind: Arc<Type>,
    offset: Offset,
    key: String,
    state: State,
    failure: Option<Failure>,
    attempts: u32,
    revision: u64,
    cancel_requested: bool,
    accepted: Timestamp,
    expires: Timestamp,
    ended: Option<Ended>,
}

/// Executions, and where the next ones are.
pub(crate) type ViewPage = (Vec<View>, Option<(Name, Offset)>);

impl State {
    /// How it ended, if it has.
    pub(crate) fn ending(self) -> Option<Ending> {
        match self {
            Self::Ended(ending) => Some(ending),
            Self::Pending | Self::Running => None,
        }
    }
}

impl Ending {
    /// As people know it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
        }
    }
}

impl Commands {
    /// What has become of a command.
    pub(crate) async fn view(&self, id: &str, parts: Parts) -> Result<View> {
        let summary = self.0.summary(id).await?;
        self.0.fill(summary, parts).await
    }

    /// What has become of a command once it has ended, or after so long, or when there is to be no more
    /// waiting.
    pub(crate) async fn wait(&self, id: &str, wait: Duration, stop: &CancellationToken) -> Result<View> {
        let summary = self.0.ended_within(id, wait, stop).await?;
        self.0.fill(summary, Parts::Whole).await
    }

    /// As [`wait`](Self::wait), for the one who knows the command.
    pub(super) async fn wait_for_own(
        &self,
        id: &str,
        command: Command,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<View> {
        let summary = self.0.ended_within(id, wait, stop).await?;
        self.0.fill_with(summary, command).await
    }

    /// Follows a command.
    pub(crate) fn follow(&self, id: String) -> Following {
        Following { commands: self.clone(), id, changes: None, last: None }
    }

    /// Lists executions in this state, without payloads and results.
    pub(crate) async fn list(&self, mut listing: Listing, state: Option<State>) -> Result<ViewPage> {
        let inner = &self.0;
        listing.ending = state.map(State::ending);
        inner.followed.catch_up().await?;
        let listed = inner.followed.index().list(listing).await?;
        let mut views = Vec::with_capacity(listed.rows.len());
        for row in listed.rows {
            let key = row.key.clone();
            let live = inner.table().get(&row.id).map(|live| summary_of_live(&row.id, live));
            let summary = match live.filter(|live| live.offset == row.offset) {
                Some(live) => Summary { key, ..live },
                // Nobody can look up what is of a type that there is not.
                None => match inner.summary_of_row(row) {
                    Ok(summary) => summary,
                    Err(_) => continue,
                },
            };
            if state.is_none_or(|state| state == summary.state) {
                views.push(inner.fill(summary, Parts::Summary).await?);
            }
        }
        Ok((views, listed.next))
    }
}

/// The states of a command, one after the other.
pub(crate) struct Following {
    commands: Commands,
    id: String,
    changes: Option<watch::Receiver<()>>,
    last: Option<(u64, State)>,
}

impl Following {
    /// The next state; `None` after the last. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<View>> {
        let inner = Arc::clone(&self.commands.0);
        loop {
            if self.last.is_some_and(|(_, state)| state.ending().is_some()) {
                return Ok(None);
            }
            // Before looking, so that no change is missed.
            if self.changes.is_none() {
                self.changes = inner.table().watch(&self.id);
            }
            let summary = inner.summary(&self.id).await?;
            if self.last != Some((summary.revision, summary.state)) {
                let now = (summary.revision, summary.state);
                let view = inner.fill(summary, Parts::Whole).await?;
                self.last = Some(now);
                return Ok(Some(view));
            }
            match &mut self.changes {
                Some(changes) => {
                    if changes.changed().await.is_err() {
                        self.changes = None;
                    }
                }
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

impl Inner {
    /// What is known of a command.
    pub(super) async fn summary(&self, id: &str) -> Result<Summary> {
        self.learn_attempts(id).await;
        // One that is just being stored is none yet; what there is with its id the index knows.
        let stored = self
            .table()
            .get(id)
            .filter(|live| live.execution.is_stored())
            .map(|live| summary_of_live(id, live));
        if let Some(summary) = stored {
            return Ok(summary);
        }
        match self.followed.get(id).await? {
            Some(row) => self.summary_of_row(row),
            None => Err(Error::NotFound(id.to_owned())),
        }
    }

    async fn ended_within(&self, id: &str, wait: Duration, stop: &CancellationToken) -> Result<Summary> {
        let until = Instant::now() + wait;
        loop {
            let changes = self.table().watch(id);
            let summary = self.summary(id).await?;
            if summary.ended.is_some() || wait.is_zero() {
                return Ok(summary);
            }
            let changed = async {
                match changes {
                    Some(mut changes) => drop(changes.changed().await),
                    // It has just left the table: the index knows its end.
                    None => tokio::time::sleep(LOOK_AGAIN).await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(until) => return Ok(summary),
                () = stop.cancelled() => return Ok(summary),
            }
        }
    }

    fn summary_of_row(&self, row: Row) -> Result<Summary> {
        let kind = Name::stored(&row.kind).ok().and_then(|kind| self.types.find(&kind).ok());
        let kind = kind.ok_or_else(|| Error::NotFound(row.id.clone()))?;
        let ended = row.ended();
        let revision = ended.map_or(row.accepted(), |ended| ended.time.max(row.accepted())).0;
        let failure = (!row.failure_code.is_empty()).then(|| Failure {
            code: row.failure_code.clone(),
            message: row.failure_message.clone(),
            retryable: false,
        });
        Ok(Summary {
            kind,
            offset: row.offset,
            state: ended.map_or(State::Pending, |ended| State::Ended(ended.ending)),
            failure,
            attempts: row.attempts,
            revision,
            cancel_requested: row.cancel_requested,
            accepted: row.accepted(),
            expires: row.expires(),
            ended,
            id: row.id,
            key: row.key,
        })
    }

    async fn fill(&self, summary: Summary, parts: Parts) -> Result<View> {
        let stored = match parts {
            Parts::Summary => None,
            Parts::Whole => self.read_one(&summary.kind.commands, summary.offset).await?,
        };
        let stored = stored.and_then(|message| StoredCommand::read(&message.envelope));
        let command = match stored {
            Some(stored) => stored.into_command(&summary.kind.name),
            None => summary.command(),
        };
        match parts {
            Parts::Whole => self.fill_with(summary, command).await,
            Parts::Summary => Ok(summary.view(command, Bytes::new(), None)),
        }
    }

    async fn fill_with(&self, summary: Summary, command: Command) -> Result<View> {
        let outcome = match summary.ended {
            Some(ended) => self.outcome(&summary.kind, ended.outcome).await?,
            None => None,
        };
        let (result, failure) =
            outcome.map_or_else(Default::default, |outcome| (outcome.result.clone(), outcome.failure()));
        Ok(summary.view(command, result, failure))
    }

    /// What is stored as the outcome of a command.
    pub(super) async fn outcome(&self, kind: &Type, offset: Offset) -> Result<Option<StoredOutcome>> {
        let message = self.read_one(&kind.outcomes, offset).await?;
        Ok(message.and_then(|message| StoredOutcome::read(&message.envelope)))
    }

    async fn read_one(&self, topic: &Name, offset: Offset) -> Result<Option<StoredMessage>> {
        let one = ReadLimit { messages: 1, bytes: 1 };
        let read = self.engine.read(topic, Start::Offset(offset), one).await?;
        Ok(read.into_iter().next().filter(|message| message.offset == offset))
    }
}

fn summary_of_live(id: &str, live: &Live) -> Summary {
    let execution = &live.execution;
    Summary {
        id: id.to_owned(),
        kind: Arc::clone(&live.kind),
        offset: execution.offset,
        key: String::new(),
        state: execution.state(Instant::now()),
        failure: execution.last_failure.as_deref().cloned(),
        attempts: execution.attempts,
        revision: execution.revision,
        cancel_requested: execution.cancel_requested,
        accepted: execution.accepted,
        expires: execution.expires,
        ended: execution.ended(),
    }
}

impl Summary {
    /// What of the command is known.
    fn command(&self) -> Command {
        Command {
            id: self.id.clone(),
            kind: self.kind.name.clone(),
            key: self.key.clone(),
            payload: Bytes::new(),
            content_type: String::new(),
            attributes: std::collections::BTreeMap::new(),
            timeout: Duration::from_micros(self.expires.0.saturating_sub(self.accepted.0)),
            correlation_id: String::new(),
            causation_id: String::new(),
        }
    }

    /// All together. What is stored of its end says more than what is known of its last attempt.
    fn view(self, command: Command, result: Bytes, failure: Option<Failure>) -> View {
        let last =
            self.failure.filter(|_| !matches!(self.state, State::Ended(Ending::Succeeded | Ending::Expired)));
        View {
            command,
            state: self.state,
            result,
            failure: failure.or(last),
            attempts: self.attempts,
            revision: self.revision,
            cancel_requested: self.cancel_requested,
            accepted: self.accepted,
            expires: self.expires,
            ended: self.ended.map(|ended| ended.time),
        }
    }
}
