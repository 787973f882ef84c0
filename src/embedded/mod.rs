//! The embedded engine: one log on the local disk.

use std::path::Path;

/// What a user may tune about the embedded engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of a segment file in bytes. Default: 128 MiB. From 32 MiB (larger than the largest
    /// transaction) to 1 GiB.
    pub segment_bytes: u64,
    /// How many bytes of the log's newest data are kept in memory for readers. Default: 64 MiB.
    pub tail_cache_bytes: usize,
    /// How many bytes may wait to be written before publishers wait. Default: 64 MiB.
    pub write_queue_bytes: usize,
    /// Free disk space in bytes below which publishing is refused, kept for acks and deletes.
    /// Default: 64 MiB.
    pub disk_reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 128 << 20,
            tail_cache_bytes: 64 << 20,
            write_queue_bytes: 64 << 20,
            disk_reserve_bytes: 64 << 20,
        }
    }
}

/// Why a data directory cannot be opened. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Tmp.
    #[error("not built yet")]
    Todo,
}

/// The engine.
pub struct EmbeddedEngine;

impl EmbeddedEngine {
    /// Opens the data directory, creating it if it does not exist, and recovers its log.
    pub async fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let _ = (dir, options);
        Err(OpenError::Todo)
    }
}
