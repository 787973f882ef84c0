//! What can wait: sidecars and checkpoints of sealed segments, and the next segment ahead of need.
//!
//! A thread of its own, so that the writer never waits for it, unless it falls several segments
//! behind. Everything it makes is derived or empty: its failures are logged and cost only time.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::fs::{Fs, write_atomically};
use super::segments::{self, SPARE};
use super::sidecar::{self, SegmentIndex};
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
        /// Its first sequence number.
        segment: u64,
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

/// Starts the thread; it ends when the sender is dropped.
pub(crate) fn start(fs: Arc<dyn Fs>) -> io::Result<(SyncSender<Task>, thread::JoinHandle<()>)> {
    let (tasks, queue) = sync_channel(QUEUE);
    let handle = thread::Builder::new().name("columba-keeper".into()).spawn(move || run(&*fs, &queue))?;
    Ok((tasks, handle))
}

fn run(fs: &dyn Fs, queue: &Receiver<Task>) {
    for task in queue {
        let (what, done) = match task {
            Task::Sealed { segment, index, topics } => {
                ("write the index of a sealed segment", sealed(fs, segment, &index, &topics))
            }
            Task::Checkpoint { sequence, bytes } => {
                ("write a checkpoint", checkpoint::store(fs, &bytes, sequence))
            }
            Task::Spare { bytes, reserve } => ("prepare the next segment", spare(fs, bytes, reserve)),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "could not {what}; nothing is lost, but the next start may take longer");
        }
    }
}

fn sealed(fs: &dyn Fs, segment: u64, index: &SegmentIndex, topics: &[Arc<TopicHandle>]) -> io::Result<()> {
    write_atomically(fs, segments::DIR, &segments::sidecar_name(segment), &sidecar::encode(index))?;
    for topic in topics {
        topic.index_mut().release(segment);
    }
    Ok(())
}

/// Writes a file of zeros: overwriting blocks that exist takes half the time of appending, because
/// the sync then has no metadata to write.
fn spare(fs: &dyn Fs, bytes: u64, reserve: u64) -> io::Result<()> {
    if fs.available()? < bytes.saturating_add(reserve) {
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
        let length = usize::try_from(bytes - position).unwrap_or(ZEROS).min(ZEROS);
        file.write_at(&zeros[..length], position)?;
        // In small steps, so that the writer's own syncs never wait for many of these bytes.
        file.sync()?;
        position += length as u64;
    }
    fs.rename(&temporary, SPARE)
}
