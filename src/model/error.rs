//! The closed set of error kinds that every module's errors fall into.

/// What kind of trouble an error is. `api::status` maps each kind to one gRPC code; nothing else
/// chooses codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request can never succeed as it is.
    InvalidArgument,
    /// It is not known who calls.
    Unauthenticated,
    /// It is known who calls, and they may not do it.
    PermissionDenied,
    /// What the request names does not exist.
    NotFound,
    /// It exists already, and differs from what was asked for.
    AlreadyExists,
    /// Somebody else changed it first; read again and retry.
    Conflict,
    /// The state of the system forbids it, and retrying alone will not help.
    FailedPrecondition,
    /// A limit is reached; retry later or with less.
    ResourceExhausted,
    /// Stored data is damaged.
    DataLoss,
    /// The server cannot serve now; retry later.
    Unavailable,
    /// The caller's time ran out; the outcome is unknown.
    DeadlineExceeded,
    /// A defect of the server.
    Internal,
}
