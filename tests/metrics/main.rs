//! `/metrics`: what it tells is what has happened, and docs/metrics.md tells all of it.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]
#![allow(clippy::float_cmp, reason = "what is counted is whole")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/scrape.rs"]
mod scrape;

mod calls;
mod layers;
mod limit;
mod messages;
mod page;

use std::ops::Deref;
use std::sync::Arc;

use columba::embedded::{EmbeddedEngine, Options as EngineOptions};
use columba::server::Options;
use tempfile::TempDir;

use common::TestServer;
use scrape::Scrape;

/// A server with a log on disk.
struct Server {
    server: TestServer,
    _data: TempDir,
}

impl Server {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let engine = EmbeddedEngine::open(data.path(), EngineOptions::default()).await.unwrap();
        let server = TestServer::start_on(Arc::new(engine), Options::default()).await;
        Self { server, _data: data }
    }

    async fn scrape(&self) -> Scrape {
        Scrape::take(self.server.admin).await
    }

    /// Scrapes until something holds, which happens at once.
    async fn until(&self, holds: impl Fn(&Scrape) -> bool) -> Scrape {
        common::within(async {
            loop {
                let scrape = self.scrape().await;
                if holds(&scrape) {
                    return scrape;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

impl Deref for Server {
    type Target = TestServer;

    fn deref(&self) -> &TestServer {
        &self.server
    }
}
