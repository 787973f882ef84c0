//! Handling: a handler's stream takes queries, and answers come back one by one.

use std::sync::Arc;

use tokio::sync::Notify;

use super::routing::HandlerNo;
use super::state::{Delivery, Outcome};
use super::{Error, Queries, Shared};
use crate::cqrs::handlers::{HandlerKind, Listed};
use crate::model::Name;

/// A connected handler. Dropping it hands what it has to others.
pub(crate) struct Handler {
    shared: Arc<Shared>,
    no: HandlerNo,
    given: Arc<Notify>,
    listed: Listed,
}

impl Queries {
    /// Connects a handler. `types` has each once.
    pub(crate) fn handle(
        &self,
        name: &str,
        types: Vec<Name>,
        max_outstanding: u32,
    ) -> Result<Handler, Error> {
        let listed = self.handlers.join(HandlerKind::Query, name, types.clone(), max_outstanding)?;
        let tally = listed.tally().clone();
        let joined =
            self.shared.with(|state, now| state.join(name.into(), types, max_outstanding, tally, now));
        let (no, given) = joined?;
        Ok(Handler { shared: Arc::clone(&self.shared), no, given, listed })
    }

    /// A handler answers a query by its id.
    pub(crate) fn answer(&self, id: &[u8], outcome: Outcome) -> Result<(), Error> {
        self.shared.with(|state, now| state.answer(id, outcome, now))
    }
}

impl Handler {
    /// The server's name for it.
    pub(crate) fn id(&self) -> String {
        self.listed.id()
    }

    /// The next query. May be dropped and called again.
    pub(crate) async fn next(&self) -> Delivery {
        loop {
            if let Some(delivery) = self.shared.with(|state, _| state.take(self.no)) {
                return delivery;
            }
            self.given.notified().await;
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.shared.with(|state, now| state.leave(self.no, now));
    }
}
