//! What can go wrong with commands.

use std::time::Duration;

use crate::cqrs::handlers::TooManyHandlers;
use crate::cqrs::store;
use crate::engine;
use crate::model::limits::{MAX_COMMAND_TYPES, MAX_UNFINISHED_COMMANDS, MAX_UNFINISHED_PER_TYPE};
use crate::model::{Kind, Name};

/// An error of the commands' layer. The message says what was wrong and what to do; it reaches the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// No handler ever asked for the type.
    #[error(
        "no handler has ever asked for commands of type {0}; check the name, or start one, such as \
         `columba command handle {0} --exec PROGRAM`"
    )]
    TypeNotFound(Name),
    /// No such command.
    #[error("there is no command {0:?}; it was never accepted, or ended so long ago that it is forgotten")]
    NotFound(String),
    /// The id was used for another command.
    #[error(
        "command {id:?} was accepted before with another {what}; send the same content again, or use another id"
    )]
    Exists {
        /// The id.
        id: String,
        /// What of it is known to differ.
        what: &'static str,
    },
    /// The type has too many commands that have not ended.
    #[error("{MAX_UNFINISHED_PER_TYPE} commands of type {0} have not ended, the limit; start more handlers")]
    TypeFull(Name),
    /// The server has too many.
    #[error("{MAX_UNFINISHED_COMMANDS} commands have not ended, the server's limit; start more handlers")]
    Full,
    /// One type would be too many.
    #[error("the server has {MAX_COMMAND_TYPES} types of commands already, its limit; use one of them")]
    TooManyTypes,
    /// The server has too many handlers.
    #[error(transparent)]
    TooManyHandlers(#[from] TooManyHandlers),
    /// No such handler of commands is connected.
    #[error("no handler of commands {0:?} is connected; give the handler_id of a stream that is open")]
    HandlerNotFound(String),
    /// Not an ack id of a command.
    #[error("the ack id is none that this server gave out with a command")]
    UnknownAck,
    /// The delivery is not the command's last one.
    #[error(
        "the lease on command {0:?} is lost: it was delivered again since, given back, or the server was \
         restarted; nothing was done"
    )]
    LeaseLost(String),
    /// The command has ended otherwise.
    #[error("command {id:?} has ended as {state} already; nothing was done")]
    Ended {
        /// The id.
        id: String,
        /// How, such as `EXPIRED`.
        state: &'static str,
    },
    /// An event could not be published.
    #[error("events[{index}]: {cause}; nothing was done, and the lease is kept")]
    Event {
        /// Its place in the completion, from 0.
        index: usize,
        /// Why.
        cause: Box<engine::Error>,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// What is derived from the log failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The result of what is done with commands.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of trouble, which decides the gRPC code.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::TypeNotFound(_) | Self::NotFound(_) | Self::HandlerNotFound(_) => Kind::NotFound,
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::TypeFull(_) | Self::Full | Self::TooManyTypes => Kind::ResourceExhausted,
            Self::TooManyHandlers(error) => error.kind(),
            Self::UnknownAck | Self::Ended { .. } => Kind::FailedPrecondition,
            Self::LeaseLost(_) => Kind::Conflict,
            Self::Event { cause, .. } => cause.kind(),
            Self::Engine(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    /// The machine-readable reason, as in `google.rpc.ErrorInfo`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::TypeNotFound(_) => "COMMAND_TYPE_NOT_FOUND",
            Self::NotFound(_) => "COMMAND_NOT_FOUND",
            Self::HandlerNotFound(_) => "HANDLER_NOT_FOUND",
            Self::Exists { .. } => "COMMAND_EXISTS",
            Self::TypeFull(_) | Self::Full => "TOO_MANY_COMMANDS",
            Self::TooManyTypes | Self::TooManyHandlers(_) => "LIMIT_REACHED",
            Self::UnknownAck => "ACK_ID_UNKNOWN",
            Self::LeaseLost(_) => "COMMAND_LEASE_LOST",
            Self::Ended { .. } => "COMMAND_ENDED",
            Self::Event { cause, .. } => cause.reason(),
            Self::Engine(error) => error.reason(),
            Self::Store(error) => error.reason(),
        }
    }

    /// When retrying makes sense, if it does.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TypeFull(_) | Self::Full | Self::Store(_) => Some(Duration::from_secs(1)),
            Self::Event { cause, .. } => cause.retry_after(),
            Self::Engine(error) => error.retry_after(),
            _ => None,
        }
    }
}
