//! `/metrics`: what the server has counted and measured, in the text format of `OpenMetrics`.
//!
//! Nothing is kept here. Each layer counts for itself; a scrape asks them all and writes down what they
//! say. The only place that knows the crate that writes the format.

mod families;
mod page;
mod readings;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::time::timeout;

pub use self::families::{FAMILIES, Family};

use self::families::PREFIX;
use self::readings::Readings;
use crate::api::Calls;
use crate::cqrs::Cqrs;
use crate::engine::{self, Engine};
use crate::meter::Level;
use crate::tls::Tls;

/// The content type of what a scrape returns.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a scrape may take. Whoever scrapes usually waits for 10 s.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Whom to ask.
pub(super) struct Metrics {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) cqrs: Arc<Cqrs>,
    pub(super) calls: Calls,
    /// The API's connections.
    pub(super) connections: Level,
    pub(super) max_connections: usize,
    pub(super) tls: Option<Arc<Tls>>,
    /// When the server started.
    pub(super) started: SystemTime,
    /// Held while everybody is asked: many who scrape at once ask one after the other.
    pub(super) asking: tokio::sync::Mutex<()>,
}

/// Why there are no metrics now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("no metrics: {0}")]
    Engine(#[from] engine::Error),
    #[error("no metrics: asking for them took more than {} s; scrape less often", TIMEOUT.as_secs())]
    TimedOut,
}

impl Metrics {
    /// Asks everybody, and writes down what they say.
    pub(super) async fn scrape(&self) -> Result<String, Unavailable> {
        let readings = async {
            let _asking = self.asking.lock().await;
            self.read().await
        };
        let readings = timeout(TIMEOUT, readings).await.map_err(|_| Unavailable::TimedOut)??;
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(readings));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes everything");
        Ok(text)
    }

    async fn read(&self) -> engine::Result<Readings> {
        Ok(Readings {
            engine_name: self.engine.capabilities().engine,
            started: self.started,
            engine: self.engine.readings().await?,
            cqrs: self.cqrs.readings().await,
            calls: self.calls.read(),
            connections: self.connections.get(),
            max_connections: self.max_connections as u64,
            tls: self.tls.as_deref().map(|tls| readings::Tls {
                expires_at: tls.expires_at(),
                reloads: tls.reloads(),
                failed_reloads: tls.failed_reloads(),
            }),
        })
    }
}
