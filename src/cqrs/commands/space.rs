//! Whether what becomes of a command could be stored. While it could not, none is handed out: it would be
//! carried out in vain, and then again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::engine::{self, Engine};

/// How often the engine is asked, as long as there are handlers.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whether there is space, for all who want to know.
#[derive(Debug)]
pub(super) struct Space(watch::Sender<bool>);

impl Space {
    /// Asks the engine.
    pub(super) async fn look(engine: &dyn Engine) -> Self {
        Self(watch::Sender::new(has_space(engine).await))
    }

    /// Follows it from now on. What is there now counts as seen.
    pub(super) fn follow(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }

    /// A completion was refused.
    pub(super) fn refused(&self, error: &engine::Error) {
        if matches!(error, engine::Error::DiskFull { .. }) {
            self.set(false);
        }
    }

    /// Asks the engine again and again.
    pub(super) async fn keep(&self, engine: &dyn Engine) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.0.receiver_count() > 0 {
                self.set(has_space(engine).await);
            }
        }
    }

    fn set(&self, has_space: bool) {
        let is_new = self.0.send_if_modified(|known| std::mem::replace(known, has_space) != has_space);
        match (is_new, has_space) {
            (true, true) => tracing::info!("there is space on the disk: commands are handed out again"),
            (true, false) => tracing::warn!(
                "the disk's reserve is reached: no commands are handed out, as what became of them could not be stored"
            ),
            (false, _) => {}
        }
    }
}

/// An engine that fails otherwise says so elsewhere.
async fn has_space(engine: &dyn Engine) -> bool {
    !matches!(engine.check_space().await, Err(engine::Error::DiskFull { .. }))
}
