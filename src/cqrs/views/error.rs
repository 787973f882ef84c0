//! What can go wrong with buckets and their entries.

use std::time::Duration;

use crate::cqrs::store;
use crate::engine;
use crate::model::limits::{MAX_BUCKETS, MAX_ENTRY_WATCHES};
use crate::model::{Kind, Name, Offset};

/// The result of every call.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// An error of the views. The message says what was wrong and what to do; it reaches the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The topic beneath refused.
    #[error(transparent)]
    Engine(engine::Error),
    /// The read side cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// No such bucket.
    #[error("bucket {0} does not exist; create it with CreateBucket or `columba kv bucket create {0}`")]
    BucketNotFound(Name),
    /// The bucket exists with other settings.
    #[error("bucket {0} exists with other settings; change it with UpdateBucket, or choose another name")]
    BucketExists(Name),
    /// The bucket went away under a stream.
    #[error("bucket {0} was deleted")]
    BucketDeleted(Name),
    /// As many buckets as there may be.
    #[error("the server has {MAX_BUCKETS} buckets already, its limit; delete some")]
    TooManyBuckets,
    /// As many watches as there may be.
    #[error("the server has {MAX_ENTRY_WATCHES} watches of entries already, its limit; close some")]
    TooManyWatches,
    /// No such entry.
    #[error("bucket {bucket} has no entry {key:?}")]
    EntryNotFound { bucket: Name, key: String },
    /// The entry is not what the writer expected.
    #[error(
        "the revision of {key:?} in bucket {bucket} is {actual}, not {expected} (0 stands for no entry); read it \
         again, then retry"
    )]
    Conflict {
        bucket: Name,
        key: String,
        expected: Offset,
        actual: Offset,
        /// Its place in the batch, from 0.
        index: usize,
    },
    /// The engine has lost count of keys.
    #[error(
        "bucket {0} has more keys than are kept track of, 1,000,000 with the deleted ones, and cannot tell the \
         revision of this one; write it without expected_revision"
    )]
    KeyNotTracked(Name),
    /// The view is being made from the log.
    #[error(
        "the view of bucket {bucket} is being made from the log: it is at {position} of {last}; retry soon"
    )]
    NotReady { bucket: Name, position: Offset, last: Offset },
    /// A revision that has not come.
    #[error(
        "bucket {bucket} is at revision {position}; revision {wanted} did not come within {} s: it is from the \
         future, or of another bucket",
        waited.as_secs_f32()
    )]
    FutureRevision { bucket: Name, wanted: Offset, position: Offset, waited: Duration },
}

impl Error {
    /// The kind of trouble, which decides the gRPC code.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Engine(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::BucketNotFound(_) | Self::EntryNotFound { .. } => Kind::NotFound,
            Self::BucketExists(_) => Kind::AlreadyExists,
            Self::BucketDeleted(_) | Self::KeyNotTracked(_) => Kind::FailedPrecondition,
            Self::TooManyBuckets | Self::TooManyWatches => Kind::ResourceExhausted,
            Self::Conflict { .. } => Kind::Conflict,
            Self::NotReady { .. } => Kind::Unavailable,
            Self::FutureRevision { .. } => Kind::DeadlineExceeded,
        }
    }

    /// The machine-readable reason, as in `google.rpc.ErrorInfo`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Engine(error) => error.reason(),
            Self::Store(error) => error.reason(),
            Self::BucketNotFound(_) => "BUCKET_NOT_FOUND",
            Self::BucketExists(_) => "BUCKET_EXISTS",
            Self::BucketDeleted(_) => "BUCKET_DELETED",
            Self::TooManyBuckets | Self::TooManyWatches => "LIMIT_REACHED",
            Self::EntryNotFound { .. } => "ENTRY_NOT_FOUND",
            Self::Conflict { .. } => "REVISION_MISMATCH",
            Self::KeyNotTracked(_) => "KEY_NOT_TRACKED",
            Self::NotReady { .. } => "VIEW_NOT_READY",
            Self::FutureRevision { .. } => "REVISION_NOT_REACHED",
        }
    }

    /// When retrying makes sense, if it does.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Engine(error) => error.retry_after(),
            Self::Store(_) | Self::NotReady { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// An error of the engine about the topic of a bucket, in terms of the bucket.
    pub(super) fn of(bucket: &Name, error: engine::Error) -> Self {
        use engine::Error as E;
        match error {
            E::TopicNotFound(_) | E::TopicDeleted(_) => Self::BucketNotFound(bucket.clone()),
            E::TopicExists(_) => Self::BucketExists(bucket.clone()),
            E::KeyNotIndexed(_) => Self::KeyNotTracked(bucket.clone()),
            E::Changed { expected, actual, .. } => {
                Self::Engine(E::Changed { name: bucket.clone(), expected, actual })
            }
            E::InCommit { cause, .. } => Self::of(bucket, *cause),
            other => Self::Engine(other),
        }
    }
}
