//! The one log: segments of frames, one writer, many readers.
//!
//! In reading order: [`mod@format`] has the bytes, a [`transaction`] becomes some of them, [`writer`]
//! appends them as [`plan`] says, [`reader`] finds messages by
//! [`index`] in the [`tail`] or on disk, [`recovery`] reads it all again after a crash with
//! [`scan`], [`housekeeper`] does what can wait, and all of them touch the disk through [`fs`].

pub(crate) mod format;
pub(crate) mod fs;
pub(crate) mod fs_real;
#[cfg(test)]
pub(crate) mod fs_sim;
pub(crate) mod housekeeper;
pub(crate) mod index;
mod plan;
pub(crate) mod reader;
pub(crate) mod recovery;
pub(crate) mod relocated;
pub(crate) mod scan;
pub(crate) mod segments;
pub(crate) mod sidecar;
pub(crate) mod space;
pub(crate) mod tail;
pub(crate) mod transaction;
pub(crate) mod writer;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use self::reader::Reader;
use self::space::Stall;
use self::transaction::{Settle, Transaction};
use super::attempts::Unwritten;
use super::meters::Meters;
use super::names::Marker;
use super::progress::Committed;
use crate::engine::{Error, Result};
use crate::model::Offset;

/// How long a call waits for a place in the write queue.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);
/// How many times the write queue's bytes may wait for a place in it.
const WAITING_PER_PLACE: usize = 4;
/// What a waiting operation counts beside its messages, in bytes.
const OPERATION_BYTES: usize = 256;

/// What the writer is asked to do. The answer comes when it is durable.
pub(crate) enum Operation {
    /// Append messages, and settle others in the same step.
    Commit(Transaction),
    /// Settle messages; answers with the subscription's floor.
    Settle {
        /// Which.
        settle: Settle,
        /// Gets the floor.
        reply: oneshot::Sender<Result<Offset>>,
    },
    /// Note what was handed out. Nobody waits for it, so it is written but not synced on its own.
    Hand {
        /// The subscription's number.
        subscription: u64,
        /// What to note.
        unwritten: Arc<Unwritten>,
    },
    /// Move a subscription; answers with its floor.
    Seek {
        /// Where to, in each of its parts, and where what is durable is kept for others to see; at least one.
        seeks: Vec<(format::Seek, Arc<Committed>)>,
        /// Gets the floor of the last.
        reply: oneshot::Sender<Result<Offset>>,
    },
    /// Create, change or delete topics or subscriptions, all or none.
    Change {
        /// What to record, in order.
        records: Vec<super::state::Record>,
        /// Says that it is durable.
        reply: oneshot::Sender<Result<()>>,
    },
    /// Keep the log from growing for ever.
    Upkeep(writer::Upkeep),
    /// Finish.
    Close {
        /// Says that everything before is durable.
        reply: oneshot::Sender<()>,
    },
}

/// A place in the write queue.
pub(crate) type Place = OwnedSemaphorePermit;

/// A handle on the log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    queue: mpsc::Sender<Operation>,
    places: Arc<Semaphore>,
    /// Bytes that may wait for a place.
    waiting: Arc<Semaphore>,
    capacity: usize,
    failure: watch::Receiver<Option<String>>,
    stall: Arc<Stall>,
    /// Reads messages.
    pub(crate) reader: Arc<Reader>,
    /// Makes marks of messages.
    pub(crate) marker: Marker,
    /// Counts and measures.
    pub(crate) meters: Arc<Meters>,
}

impl Log {
    /// A handle that sends operations to a writer.
    pub(crate) fn new(
        queue: mpsc::Sender<Operation>,
        capacity: usize,
        failure: watch::Receiver<Option<String>>,
        stall: Arc<Stall>,
        reader: Arc<Reader>,
        (marker, meters): (Marker, Arc<Meters>),
    ) -> Self {
        let waiting = Arc::new(Semaphore::new(WAITING_PER_PLACE * capacity));
        Self {
            queue,
            places: Arc::new(Semaphore::new(capacity)),
            waiting,
            capacity,
            failure,
            stall,
            reader,
            marker,
            meters,
        }
    }

    /// Waits for a place in the write queue for so many bytes; not long, nor with too many others, nor
    /// while the writer itself waits for space on the disk.
    pub(crate) async fn place(&self, bytes: usize) -> Result<Place> {
        self.check_stall()?;
        let wanted = (bytes + OPERATION_BYTES).min(self.capacity);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let overloaded = || Error::Overloaded { retry_after: Duration::from_secs(1) };
        let _waiting = self.waiting.try_acquire_many(wanted).map_err(|_| overloaded())?;
        let place = Arc::clone(&self.places).acquire_many_owned(wanted);
        match tokio::time::timeout(ADMISSION_TIMEOUT, place).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_closed)) => Err(self.closed()),
            Err(_elapsed) => Err(overloaded()),
        }
    }

    /// Refuses what would have to wait with a writer that waits for space on the disk.
    pub(crate) fn check_stall(&self) -> Result<()> {
        self.stall.check()
    }

    /// Refuses what the writer would refuse for want of space.
    pub(crate) fn check_space(&self) -> Result<()> {
        self.check_stall()?;
        self.stall.check_reserve(self.reader.fs())
    }

    /// Bytes that are accepted and not yet durable.
    pub(crate) fn queued_bytes(&self) -> u64 {
        (self.capacity - self.places.available_permits().min(self.capacity)) as u64
    }

    /// How many of those there may be.
    pub(crate) fn queue_limit_bytes(&self) -> u64 {
        self.capacity as u64
    }

    /// Free bytes on the disk below which nothing more is published.
    pub(crate) fn disk_reserve(&self) -> u64 {
        self.stall.reserve()
    }

    /// Hands an operation to the writer. Operations are done in the order of these calls.
    pub(crate) fn submit(&self, operation: Operation) {
        // After the writer has ended the operation is dropped, and with it its reply: the caller
        // sees that in `settled`.
        let _ = self.queue.send(operation);
    }

    /// Waits for the writer's answer to an operation.
    pub(crate) async fn answer<T>(&self, reply: oneshot::Receiver<Result<T>>) -> Result<T> {
        reply.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Why the log takes nothing more.
    pub(crate) fn closed(&self) -> Error {
        match &*self.failure.borrow() {
            Some(reason) => Error::Failed(reason.clone()),
            None => Error::Closed,
        }
    }

    /// Resolves when the log has failed, with the reason.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The writer ended without a failure.
            None => std::future::pending().await,
        }
    }

    /// Finishes everything submitted, and ends the writer.
    pub(crate) async fn close(&self) {
        self.stall.close();
        let (reply, done) = oneshot::channel();
        self.submit(Operation::Close { reply });
        let _ = done.await;
        self.places.close();
    }
}
