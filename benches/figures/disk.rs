//! The disk alone: writes, each followed by an fdatasync, into a file that grows.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;
use crate::load::Sample;

/// The smallest write that a disk does.
pub(crate) const PAGE: usize = 4_096;

/// Writes `bytes` and syncs, again and again. One write stands for `messages` messages.
pub(crate) fn write_and_sync(
    dir: &Path,
    bytes: usize,
    time: Duration,
    messages: usize,
) -> Result<Sample, Error> {
    let path = dir.join("disk");
    let file = File::create(&path)?;
    let data = vec![0x55; bytes];
    let (began, mut position, mut latencies) = (Instant::now(), 0, Vec::new());
    while began.elapsed() < time {
        let write = Instant::now();
        file.write_all_at(&data, position)?;
        file.sync_data()?;
        latencies.push(write.elapsed());
        position += bytes as u64;
    }
    let elapsed = began.elapsed();
    std::fs::remove_file(path)?;
    Ok(Sample { messages: messages * latencies.len(), elapsed, latencies })
}
