//! What can be wrong with a filter, and what can go wrong in it.

use crate::model::limits::{MAX_FILTER_BYTES, MAX_FILTER_COST};

/// Why a text is not a filter. The message completes a sentence that begins with the filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is too long.
    #[error("is {0} bytes long; at most {MAX_FILTER_BYTES} are allowed")]
    TooLong(usize),
    /// It is not CEL, or asks for something that filters do not have. Both numbers count from 1, the
    /// column in characters.
    #[error("line {line}, column {column}: {message}")]
    Invalid {
        /// The line of the mistake.
        line: usize,
        /// Its place there.
        column: usize,
        /// What is wrong, and what to do.
        message: String,
    },
    /// It could take too long.
    #[error(
        "may take {0} steps for one message; at most {MAX_FILTER_COST} are allowed; compare, or look \
         through, less"
    )]
    TooCostly(u64),
    /// It does not decide.
    #[error("yields a value of type {0}; a filter yields true or false")]
    NotBool(String),
    /// It uses an operation on values that do not have it.
    #[error("does not fit the types of its values: {0}")]
    Types(String),
    /// Reading it failed, which is a bug.
    #[error("cannot be read by this server; write it in another way, and report it")]
    Unreadable,
}

impl FilterError {
    /// What is wrong, for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "TOO_LONG",
            Self::Invalid { .. } | Self::Types(_) | Self::Unreadable => "INVALID_FILTER",
            Self::TooCostly(_) => "FILTER_TOO_COSTLY",
            Self::NotBool(_) => "FILTER_NOT_BOOL",
        }
    }
}

/// Why a filter cannot decide on a message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unclear {
    /// The message lacks an attribute, or its data a field.
    #[error("the message has no such attribute or field")]
    Absent,
    /// An operation failed.
    #[error("{0}")]
    Failed(Box<cel::ExecutionError>),
    /// It yields something else than true or false.
    #[error("it yields a value of type {0}")]
    NotBool(String),
    /// Evaluating it panicked, which is a bug.
    #[error("evaluating it panicked")]
    Panicked,
    /// This version of the server cannot read it.
    #[error("the filter {0}")]
    Unreadable(FilterError),
}
