//! Does what is due by the clock: handlers that have not answered in time, and answers to ask for again.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;

/// Runs for as long as it is let.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let due = shared.with(|state, now| {
            state.tick(now);
            state.armed = state.router.next_tick();
            state.armed
        });
        tokio::select! {
            () = until(due) => {}
            () = shared.earlier.notified() => {}
        }
    }
}

/// Waits for a moment; for ever, if there is none.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
