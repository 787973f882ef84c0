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
use super::segments::{self, BALLAST, SPARE, Segments};
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
    /// Nothing in these segments is needed any more.
    Removed {
        /// The segments that there are.
        all: Arc<Segments>,
        /// The ones to remove.
        gone: Vec<u64>,
    },
    /// The space kept for a full disk may be gone, or may never have been there.
    Ballast {
        /// Its size in bytes.
        bytes: u64,
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
            Task::Removed { all, gone } => ("remove segments", all.remove(fs, &gone)),
            Task::Ballast { bytes } => ("keep space for a full disk", ballast(fs, bytes, stop)),
            Task::Spare { bytes, reserve } => ("prepare the next segment", spare(fs, bytes, reserve, stop)),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "could not {what}; nothing is lost, and the next start makes up for it");
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
    remove_if_there(fs, &temporary)?;
    if write_zeros(fs, &temporary, bytes, stop)? { fs.rename(&temporary, SPARE) } else { Ok(()) }
}

/// Takes space that the writer gives free when there is no other.
fn ballast(fs: &dyn Fs, bytes: u64, stop: &AtomicBool) -> io::Result<()> {
    // Not the last of the space either: others write to the disk, too.
    if bytes == 0 || fs.exists(BALLAST)? || fs.available()? < 2 * bytes {
        return Ok(());
    }
    let temporary = format!("{BALLAST}.tmp");
    remove_if_there(fs, &temporary)?;
    if write_zeros(fs, &temporary, bytes, stop)? { fs.rename(&temporary, BALLAST) } else { Ok(()) }
}

fn remove_if_there(fs: &dyn Fs, path: &str) -> io::Result<()> {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a file of zeros; says whether it is complete. If there is no space for all of it, or no time
/// left, there is no file.
fn write_zeros(fs: &dyn Fs, path: &str, bytes: u64, stop: &AtomicBool) -> io::Result<bool> {
    let file = fs.create(path)?;
    let zeros = vec![0; ZEROS];
    let mut position = 0;
    while position < bytes {
        if stop.load(Ordering::Acquire) {
            fs.remove(path)?;
            return Ok(false);
        }
        let length = usize::try_from(bytes - position).unwrap_or(ZEROS).min(ZEROS);
        // In small steps, so that the writer's own syncs never wait for many of these bytes.
        if let Err(error) = file.write_at(&zeros[..length], position).and_then(|()| file.sync()) {
            fs.remove(path)?;
            return Err(error);
        }
        position += length as u64;
    }
    Ok(true)
}
