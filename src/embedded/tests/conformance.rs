//! The conformance suite on the embedded engine, on a real disk.

use std::sync::Arc;

use async_trait::async_trait;

use crate::embedded::{EmbeddedEngine, Options};
use crate::engine::Engine;
use crate::engine::conformance::{Harness, conformance_suite};

struct Disk {
    dir: tempfile::TempDir,
    engine: EmbeddedEngine,
}

impl Disk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = EmbeddedEngine::open(dir.path(), Options::default()).await.unwrap();
        Self { dir, engine }
    }
}

#[async_trait]
impl Harness for Disk {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine.clone())
    }

    async fn reopen(&mut self) {
        self.engine.close().await;
        self.engine = EmbeddedEngine::open(self.dir.path(), Options::default()).await.unwrap();
    }
}

conformance_suite!(Disk::new().await);
