//! What can wait: sidecars and checkpoints of sealed segments, and the next segment ahead of need.
//!
//! A thread of its own, so that the writer never waits for it, unless it falls several segments
//! behind. Everything it makes is derived or empty: its failures are logged and cost only time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::fs::{Fs, write_atomically};
use super::segments::{self, SPARE};
use super::sidecar::{self, SegmentIndex, Source};
use crate::embedded::checkpoint;
use crate::embedded::topic::TopicHandle;

/// Tasks that may wait before the writer waits for the housekeeper.
const QUEUE: usize = 8;
/// How much of a spare segment is written at once.
const ZEROS: usize = 1 << 20;

/// Something to do.
pub(crate) enum Task {
    /// A segment was sealed.
    Sealed {
        /// Which one.
        source: Source,
        /// What it holds.
        index: SegmentIndex,
        /// The topics it holds messages of.
        topics: Vec<Arc<TopicHandle>>,
    },
    /// A checkpoint was encoded.
    Checkpoint {
        /// The first frame that is not in it.
        sequence: u64,
        /// The checkpoint.
        bytes: Vec<u8>,
    },
    /// A new segment will be needed.
    Spare {
        /// Its size in bytes.
        bytes: u64,
        /// Free bytes that must be left.
        reserve: u64,
    },
}

/// Holds the lock of the data directory for as long as it lives.
pub(crate) type DirectoryLock = Arc<dyn Send + Sync>;

/// Starts the thread; it ends when the sender is dropped. What takes long is given up on `stop`. The
/// directory stays locked until the thread has ended: it writes there too.
pub(crate) fn start(
    fs: Arc<dyn Fs>,
    stop: Arc<AtomicBool>,
    lock: DirectoryLock,
) -> io::Result<(SyncSender<Task>, thread::JoinHandle<()>)> {
    let (tasks, queue) = sync_channel(QUEUE);
    let run = move || {
        run(&*fs, &queue, &stop);
        drop(lock);
    };
    let handle = thread::Builder::new().name("columba-keeper".into()).spawn(run)?;
    Ok((tasks, handle))
}

fn run(fs: &dyn Fs, queue: &Receiver<Task>, stop: &AtomicBool) {
    for task in queue {
        let (what, done) = match task {
            Task::Sealed { source, index, topics } => {
                ("write the index of a sealed segment", sealed(fs, source, &index, &topics))
            }
            Task::Checkpoint { sequence, bytes } => {
                ("write a checkpoint", checkpoint::store(fs, &bytes, sequence))
            }
            Task::Spare { bytes, reserve } => ("prepare the next segment", spare(fs, bytes, reserve, stop)),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "could not {what}; nothing is lost, but the next start may take longer");
        }
    }
}

fn sealed(fs: &dyn Fs, source: Source, index: &SegmentIndex, topics: &[Arc<TopicHandle>]) -> io::Result<()> {
    let name = segments::sidecar_name(source.segment);
    write_atomically(fs, segments::DIR, &name, &sidecar::encode(source, index))?;
    for topic in topics {
        topic.index_mut().release(source.segment);
    }
    Ok(())
}

/// Writes a file of zeros: overwriting blocks that exist takes half the time of appending, because
/// the sync then has no metadata to write.
fn spare(fs: &dyn Fs, bytes: u64, reserve: u64, stop: &AtomicBool) -> io::Result<()> {
    if fs.exists(SPARE)? || fs.available()? < bytes.saturating_add(reserve) {
        return Ok(());
    }
    let temporary = format!("{SPARE}.tmp");
    match fs.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = fs.create(&temporary)?;
    let zeros = vec![0; ZEROS];
    let mut position = 0;
    while position < bytes {
        if stop.load(Ordering::Acquire) {
            return fs.remove(&temporary);
        }
        let length = usize::try_from(bytes - position).unwrap_or(ZEROS).min(ZEROS);
        file.write_at(&zeros[..length], position)?;
        // In small steps, so that the writer's own syncs never wait for many of these bytes.
        file.sync()?;
        position += length as u64;
    }
    fs.rename(&temporary, SPARE)
}
