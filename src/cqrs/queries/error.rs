//! What can go wrong with a query.

use std::sync::Arc;
use std::time::Duration;

use super::question::Failure;
use crate::model::limits::{
    MAX_HANDLERS_PER_QUERY_TYPE, MAX_LOST_HANDLERS, MAX_OPEN_QUERIES, MAX_OPEN_QUERY_BYTES,
    MAX_QUERY_WATCHERS, MAX_WAITING_QUERIES, MAX_WATCHED_BYTES,
};
use crate::model::{Kind, Name};

/// Why there is no answer. The message says what was wrong and what to do; it reaches the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody answers queries of the type.
    #[error(
        "no handler of query type {0} is connected; start one, such as with \
         `columba query handle {0} --exec PROGRAM`"
    )]
    NoHandler(Name),
    /// The handlers that had the query went away, and there is no other.
    #[error("the handler that had the query left, and no other of query type {0} is connected; retry")]
    HandlerLost(Name),
    /// One handler after the other went away with the query.
    #[error(
        "{lost} handlers of query type {0} left while they had this query; see whether it makes them fail",
        lost = MAX_LOST_HANDLERS + 1
    )]
    HandlersLost(Name),
    /// Every handler is busy, and so is the queue.
    #[error(
        "all handlers of query type {0} are busy, and {MAX_WAITING_QUERIES} queries wait already; retry in a \
         second, or connect more handlers"
    )]
    TooManyWaiting(Name),
    /// Too many queries at once.
    #[error("{MAX_OPEN_QUERIES} queries are under way already, the server's limit; retry in a second")]
    TooManyQueries,
    /// Too large queries at once.
    #[error(
        "queries of {MAX_OPEN_QUERY_BYTES} bytes are under way already, the server's limit; retry in a second"
    )]
    TooManyBytes,
    /// Too many handlers of one type.
    #[error("query type {0} has {MAX_HANDLERS_PER_QUERY_TYPE} handlers already, its limit; close some")]
    TooManyHandlersOf(Name),
    /// Too many handlers.
    #[error(transparent)]
    TooManyHandlers(#[from] crate::cqrs::handlers::TooManyHandlers),
    /// Too many watchers.
    #[error("{MAX_QUERY_WATCHERS} streams watch queries already, the server's limit; close some")]
    TooManyWatchers,
    /// Watched queries and their answers take too much memory.
    #[error(
        "watched queries and their answers take {MAX_WATCHED_BYTES} bytes, the server's limit; watch fewer, or \
         make the answers smaller"
    )]
    TooManyWatchedBytes,
    /// An answer that a watcher was being told was taken away: it read too slowly.
    #[error(
        "the answer was replaced by newer ones before all of it was read, and watched queries and their answers \
         take {MAX_WATCHED_BYTES} bytes, the server's limit; watch again, and read faster"
    )]
    ReadTooSlowly,
    /// Nobody answered in time.
    #[error("no handler of query type {kind} answered within {}; {}", shown(*.timeout), hint(*.busy))]
    TimedOut {
        /// The type.
        kind: Name,
        /// How long the caller was ready to wait.
        timeout: Duration,
        /// No handler was free to take it.
        busy: bool,
    },
    /// The handlers' answers are older than the caller needs.
    #[error(
        "the answer has revision {seen}, and the query needs {wanted}: what its handler reads from did not get \
         that far within {}; retry, or ask for less",
        shown(*.timeout)
    )]
    RevisionNotReached {
        /// What the caller needs.
        wanted: u64,
        /// The newest that was answered.
        seen: u64,
        /// How long the caller was ready to wait.
        timeout: Duration,
    },
    /// A revision is needed, and the handler gives none.
    #[error(
        "handlers of query type {0} do not say what revision they answer from, so min_revision cannot be \
         kept; have them set `revision`, or leave min_revision out"
    )]
    NoRevision(Name),
    /// The handler said that it failed.
    #[error("the handler{} failed: {}: {}", named(&.0.handler), .0.code, .0.message)]
    Failed(Arc<Failure>),
    /// The answer is to a query that this server never handed out.
    #[error("the query id is none that this server gave out; answer with the one of the delivery")]
    UnknownQuery,
    /// The query is over for this handler.
    #[error("{0}; the answer has no effect")]
    Over(Over),
}

/// Why a query that was handed out is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Over {
    /// It has its answer.
    #[error("the query was answered already with this id")]
    Answered,
    /// Its time ran out.
    #[error("the query's deadline has passed")]
    Expired,
    /// The stream that it was handed out on has ended, so it is another handler's, or nobody's.
    #[error("the stream that the query came from has ended")]
    Reassigned,
    /// So long ago that it is forgotten which.
    #[error("the query was answered, or its deadline has passed")]
    Forgotten,
}

impl Error {
    /// The kind of trouble, which decides the gRPC code.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NoHandler(_) | Self::HandlerLost(_) | Self::HandlersLost(_) => Kind::Unavailable,
            Self::TooManyWaiting(_)
            | Self::TooManyQueries
            | Self::TooManyBytes
            | Self::TooManyHandlersOf(_)
            | Self::TooManyWatchers
            | Self::TooManyWatchedBytes
            | Self::ReadTooSlowly => Kind::ResourceExhausted,
            Self::TooManyHandlers(error) => error.kind(),
            Self::TimedOut { .. } | Self::RevisionNotReached { .. } => Kind::DeadlineExceeded,
            Self::Failed(failure) if failure.retryable => Kind::Conflict,
            Self::NoRevision(_) | Self::Failed(_) | Self::Over(_) => Kind::FailedPrecondition,
            Self::UnknownQuery => Kind::NotFound,
        }
    }

    /// The machine-readable reason, as in `google.rpc.ErrorInfo`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoHandler(_) => "NO_HANDLER",
            Self::HandlerLost(_) | Self::HandlersLost(_) => "HANDLER_LOST",
            Self::TooManyWaiting(_) | Self::TooManyQueries | Self::TooManyBytes => "TOO_MANY_QUERIES",
            Self::TooManyHandlersOf(_)
            | Self::TooManyHandlers(_)
            | Self::TooManyWatchers
            | Self::TooManyWatchedBytes => "LIMIT_REACHED",
            Self::ReadTooSlowly => "SLOW_WATCHER",
            Self::TimedOut { .. } => "QUERY_TIMED_OUT",
            Self::RevisionNotReached { .. } => "REVISION_NOT_REACHED",
            Self::NoRevision(_) => "NO_REVISION",
            Self::Failed(_) => "QUERY_FAILED",
            Self::UnknownQuery => "UNKNOWN_QUERY",
            Self::Over(Over::Answered) => "QUERY_ALREADY_ANSWERED",
            Self::Over(Over::Expired | Over::Forgotten) => "QUERY_EXPIRED",
            Self::Over(Over::Reassigned) => "QUERY_REASSIGNED",
        }
    }

    /// When retrying makes sense, if it does.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::HandlerLost(_)
            | Self::TooManyWaiting(_)
            | Self::TooManyQueries
            | Self::TooManyBytes
            | Self::ReadTooSlowly => Some(Duration::from_secs(1)),
            Self::Failed(failure) if failure.retryable => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

fn shown(span: Duration) -> String {
    format!("{} s", span.as_secs_f64())
}

fn hint(busy: bool) -> &'static str {
    if busy {
        "all were busy with others: connect more handlers, or allow more time"
    } else {
        "allow more time, or see what holds the handler up"
    }
}

/// The handler's name after the word handler.
fn named(handler: &str) -> String {
    if handler.is_empty() { String::new() } else { format!(" {handler}") }
}
