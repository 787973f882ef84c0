//! The in-memory reference engine.

/// Keeps everything in memory.
#[derive(Default)]
pub struct MemoryEngine;
