//! Commands, queries and key-value views: thin layers over topics and subscriptions.
//!
//! Written against the [`Engine`] trait alone, so they work on every engine. What they store, they store
//! as messages; what they keep besides is derived from those and can be made anew.

mod store;
pub(crate) mod views;

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::{self, Engine};

/// How these layers work.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where projections are kept; in memory, if `None`.
    pub directory: Option<PathBuf>,
}

/// The layers of one server.
pub(crate) struct Cqrs {
    /// Buckets of keys and values.
    pub(crate) views: views::Views,
}

impl Cqrs {
    /// Takes up what the engine has stored.
    pub(crate) async fn open(engine: &Arc<dyn Engine>, options: &Options) -> engine::Result<Self> {
        Ok(Self { views: views::Views::open(engine, options.directory.clone()).await? })
    }

    /// Lets go of what is held in files. Called when no call is open any more, before the engine closes.
    pub(crate) async fn close(&self) {
        self.views.close().await;
    }
}
