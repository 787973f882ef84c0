//! Commands, queries and key-value views: thin layers over topics and subscriptions.
//!
//! Written against the [`Engine`] trait alone, so they work on every engine. What they store, they store
//! as messages; what they keep besides is derived from those and can be made anew.

pub(crate) mod commands;
pub(crate) mod handlers;
pub(crate) mod queries;
mod readings;
mod store;
pub(crate) mod views;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::commands::Commands;
use self::handlers::Handlers;
use self::queries::Queries;
use self::views::Views;
use crate::engine::{self, Engine};
use crate::model::limits::DEFAULT_COMMAND_RETENTION;

pub(crate) use self::commands::Ending;
pub(crate) use self::readings::Readings;

/// How these layers work.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where projections are kept; in memory, if `None`.
    pub directory: Option<PathBuf>,
    /// How long executions of commands are kept after their end. Default: 24 h.
    pub command_retention: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { directory: None, command_retention: DEFAULT_COMMAND_RETENTION }
    }
}

/// The layers of one server.
pub(crate) struct Cqrs {
    /// Who handles commands and queries now.
    pub(crate) handlers: Handlers,
    /// What is to be done.
    pub(crate) commands: Commands,
    /// Buckets of keys and values.
    pub(crate) views: Views,
    /// Queries under way, their cache and their watchers.
    pub(crate) queries: Queries,
}

impl Cqrs {
    /// Takes up what the engine has stored.
    pub(crate) async fn open(engine: &Arc<dyn Engine>, options: &Options) -> engine::Result<Self> {
        let handlers = Handlers::default();
        let directory = options.directory.as_deref();
        let commands = Commands::open(engine, directory, options.command_retention, handlers.clone()).await?;
        let views = Views::open(engine, options.directory.clone()).await?;
        let queries = Queries::start(handlers.clone());
        Ok(Self { handlers, commands, views, queries })
    }

    /// Lets go of what is held in files. Called when no call is open any more, before the engine closes.
    pub(crate) async fn close(&self) {
        self.commands.close().await;
        self.views.close().await;
    }
}
