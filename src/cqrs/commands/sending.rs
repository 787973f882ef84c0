//! Accepts commands, each id once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::execution::Execution;
use super::index::Row;
use super::live::Id;
use super::lookup::View;
use super::record::{Command, Fingerprint, StoredCommand};
use super::types::Type;
use super::{Commands, Inner, joined};
use crate::engine::Terms;
use crate::model::{Durability, Kind, Timestamp};

/// What claiming an id comes to.
enum Claimed {
    /// It is new here: store the command.
    New,
    /// It was used for the same command before.
    Same,
    /// Somebody is just storing the same command: look again.
    Storing,
}

impl Commands {
    /// Accepts a command, durably, unless it was accepted before. With `wait`, answers once it has ended, or
    /// after so long, or when there is to be no more waiting.
    pub(crate) async fn send(
        &self,
        mut command: Command,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<View> {
        let inner = &self.0;
        inner.check_capabilities()?;
        let kind = inner.types.find(&command.kind)?;
        // Nobody has used this id.
        let is_fresh = command.id.is_empty();
        if is_fresh {
            command.id = uuid::Uuid::now_v7().to_string();
        }
        let id = Id::from(command.id.as_str());
        let stored = StoredCommand::new(&command, Timestamp::now());
        let content = stored.fingerprint(&kind.name);
        if !is_fresh {
            // Nothing is claimed that cannot be looked up.
            drop(inner.followed.complete().await?);
        }
        loop {
            let claimed = match inner.claim(&id, &kind, content, &stored) {
                Err(full) if !is_fresh && full.kind() == Kind::ResourceExhausted => {
                    // There is room for an answer.
                    let row = inner.followed.get(&id).await?.ok_or(full)?;
                    check_row(&row, content)?;
                    break;
                }
                claimed => claimed?,
            };
            match claimed {
                Claimed::New => {
                    // Once it is under way, it ends, whether or not the caller waits for it.
                    let store = Arc::clone(inner).store(id.clone(), kind.clone(), stored, content, is_fresh);
                    joined(tokio::spawn(store).await)?;
                    break;
                }
                Claimed::Same => break,
                Claimed::Storing => inner.next_change(&id).await,
            }
        }
        self.wait_for_own(&id, command, wait, stop).await
    }
}

impl Inner {
    /// Takes an id for a command that is to be stored.
    fn claim(
        &self,
        id: &Id,
        kind: &Arc<Type>,
        content: Fingerprint,
        stored: &StoredCommand,
    ) -> Result<Claimed> {
        let mut table = self.table();
        if let Some(live) = table.get(id) {
            check_same(id, live.content == content, live.kind.name == kind.name)?;
            return Ok(if live.execution.is_stored() { Claimed::Same } else { Claimed::Storing });
        }
        table.check_room(kind)?;
        let (accepted, timeout) = (stored.accepted(), stored.timeout());
        let execution = Execution::new(accepted, timeout, timeout, Instant::now());
        table.insert(Arc::clone(id), Arc::clone(kind), content, execution);
        Ok(Claimed::New)
    }

    /// Stores a command whose id is claimed, unless the index knows it.
    async fn store(
        self: Arc<Self>,
        id: Id,
        kind: Arc<Type>,
        stored: StoredCommand,
        content: Fingerprint,
        is_fresh: bool,
    ) -> Result<()> {
        let known = if is_fresh { Ok(None) } else { self.followed.get(&id).await };
        let known = known.and_then(|row| row.map(|row| check_row(&row, content)).transpose());
        match known {
            Ok(None) => {}
            Ok(Some(())) => {
                self.table().withdraw(&id);
                return Ok(());
            }
            Err(error) => {
                self.table().withdraw(&id);
                return Err(error);
            }
        }
        let terms = Terms::from(Durability::Fsynced);
        let receipt = match self.engine.submit(&kind.commands, vec![stored.envelope()], terms).await {
            Ok(pending) => pending.await,
            Err(error) => Err(error),
        };
        match receipt {
            Ok(receipt) => {
                self.change(&id, |live| live.execution.offset = receipt.first);
                kind.command_at(receipt.first);
                self.followed.notify();
                Ok(())
            }
            Err(error) => {
                self.table().withdraw(&id);
                Err(error.into())
            }
        }
    }
}

fn check_row(row: &Row, content: Fingerprint) -> Result<()> {
    check_same(&row.id, row.content() == content, true)
}

fn check_same(id: &str, same: bool, same_type: bool) -> Result<()> {
    match (same, same_type) {
        (true, _) => Ok(()),
        (false, true) => Err(Error::Exists { id: id.to_owned(), what: "content" }),
        (false, false) => Err(Error::Exists { id: id.to_owned(), what: "type" }),
    }
}
