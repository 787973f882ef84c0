//! Commands, queries and key-value views: thin layers over topics and subscriptions.
//!
//! Written against the [`Engine`] trait alone, so they work on every engine. What they store, they store
//! as messages; what they keep besides is derived from those and can be made anew.

pub(crate) mod handlers;
pub(crate) mod queries;

use std::path::PathBuf;
use std::sync::Arc;

use self::handlers::Handlers;
use self::queries::Queries;
use crate::engine::{self, Engine};

/// How these layers work.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where projections are kept; in memory, if `None`.
    pub directory: Option<PathBuf>,
}

/// The layers of one server.
pub(crate) struct Cqrs {
    /// Who handles commands and queries now.
    pub(crate) handlers: Handlers,
    /// Queries under way, their cache and their watchers.
    pub(crate) queries: Queries,
}

impl Cqrs {
    /// Takes up what the engine has stored.
    #[expect(clippy::unused_async, reason = "the layers read what is stored before they serve")]
    pub(crate) async fn open(_engine: &Arc<dyn Engine>, _options: &Options) -> engine::Result<Self> {
        let handlers = Handlers::default();
        Ok(Self { queries: Queries::start(handlers.clone()), handlers })
    }

    /// Lets go of what is held in files. Called when no call is open any more, before the engine closes.
    #[expect(clippy::unused_async, reason = "the layers write down how far they are")]
    pub(crate) async fn close(&self) {}
}
