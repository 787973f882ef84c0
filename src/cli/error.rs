//! How a client command fails: what it prints, and its exit status.

use std::io;
use std::process::ExitCode;

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::output::Format;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// No connection.
    #[error(
        "cannot reach {server}: {cause}; {advice}",
        cause = root(&**cause),
        advice = advice(&root(&**cause))
    )]
    Unreachable {
        /// The address.
        server: String,
        /// What the network said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke, or the server was silent for too long.
    #[error("lost the connection to the server: {cause}{advice}", cause = .0, advice = lost_advice(.0))]
    Lost(String),
    /// The server said no.
    #[error("{message}")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The reason of the server's `ErrorInfo`; empty where there is none.
        reason: String,
        /// What the server said.
        message: String,
    },
    /// The input is bad; the message names file and line.
    #[error("{0}")]
    Input(String),
    /// Publishing ended early.
    #[error("{cause}; {note}")]
    Interrupted {
        /// Why.
        cause: Box<Error>,
        /// How far it came, and how to go on, for people.
        note: String,
        /// The same for programs.
        progress: Progress,
    },
    /// Ctrl-C, or SIGTERM.
    #[error("stopped by a signal")]
    Stopped,
    /// Standard output, or the system.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How far publishing came before it ended early.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Progress {
    /// Messages acknowledged without a gap from the first on.
    pub(super) acknowledged: u64,
    /// The offset of the last of them; 0 for none.
    pub(super) last_offset: u64,
    /// Messages that may be stored or not.
    pub(super) unknown: u64,
    /// Messages stored after the first one that is not.
    pub(super) stored_beyond: u64,
    /// The `--skip` to go on with.
    pub(super) skip: u64,
}

impl From<Status> for Error {
    /// A status with a source was made on this side, because the connection failed.
    fn from(status: Status) -> Self {
        if let Some(cause) = std::error::Error::source(&status) {
            if status.code() == Code::Cancelled {
                return Self::Lost("no answer in time; allow more with --timeout, and over TLS, if the server wants a client certificate, \
                 give one with --tls-cert and --tls-key"
                    .into());
            }
            return Self::Lost(root(cause));
        }
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        let (code, message) = (status.code(), status.message());
        let message = if message.is_empty() { code.description().into() } else { message.into() };
        Self::Refused { code, reason, message }
    }
}

impl Error {
    /// An answer that breaks the protocol.
    pub(super) fn protocol(what: &str) -> Self {
        Self::Lost(format!("the server answered against the protocol: {what}"))
    }

    /// Whether the same may work on another connection, later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) => true,
            Self::Refused { code, .. } => matches!(code, Code::Unavailable),
            _ => false,
        }
    }

    /// The gRPC code, or the nearest to it.
    fn code(&self) -> Code {
        match self {
            Self::Usage(_) | Self::Input(_) => Code::InvalidArgument,
            Self::Unreachable { .. } | Self::Lost(_) => Code::Unavailable,
            Self::Refused { code, .. } => *code,
            Self::Interrupted { cause, .. } => cause.code(),
            Self::Stopped => Code::Cancelled,
            Self::Io(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Usage(_) => "USAGE",
            Self::Input(_) => "BAD_INPUT",
            Self::Unreachable { .. } => "UNREACHABLE",
            Self::Lost(_) => "CONNECTION_LOST",
            Self::Refused { reason, .. } => reason,
            Self::Interrupted { cause, .. } => cause.reason(),
            Self::Stopped => "STOPPED",
            Self::Io(_) => "IO",
        }
    }

    fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Input(_) | Self::Io(_) | Self::Stopped => 1,
            Self::Interrupted { cause, .. } => cause.exit_status(),
            Self::Unreachable { .. } | Self::Lost(_) | Self::Refused { .. } => match self.code() {
                Code::NotFound => 3,
                Code::Unavailable => 4,
                Code::AlreadyExists => 5,
                _ => 1,
            },
        }
    }

    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Prints the error to standard error. A reader that has gone, as in `| head`, is none.
    pub(super) fn report(&self, format: Format) -> ExitCode {
        if self.is_broken_pipe() {
            return ExitCode::SUCCESS;
        }
        match format {
            Format::Text => eprintln!("error: {self}"),
            Format::Json => eprintln!("{}", self.to_json()),
        }
        self.exit_status().into()
    }

    fn to_json(&self) -> serde_json::Value {
        let mut error = serde_json::json!({
            "code": code_name(self.code()),
            "reason": self.reason(),
            "message": self.to_string(),
        });
        if let Self::Interrupted { progress, .. } = self {
            error["progress"] = serde_json::json!(progress);
        }
        serde_json::json!({ "error": error })
    }
}

/// What to do when there is no connection.
fn advice(cause: &str) -> &'static str {
    if cause.contains("peer certificate") {
        "the server's certificate is not trusted for this address: name its authority with --tls-ca, and the \
         host as in the certificate with --server"
    } else if cause.contains("HandshakeFailure") || cause.contains("InvalidContentType") {
        "the server may not speak TLS: try http:// in --server"
    } else {
        "start a server with `columba serve`, or name another with --server"
    }
}

/// What to do when a connection was lost for a reason that can be told.
fn lost_advice(cause: &str) -> &'static str {
    if cause.contains("CertificateRequired") {
        "; the server wants a client certificate: give one with --tls-cert and --tls-key"
    } else if cause.contains("fatal alert") {
        "; the server does not accept this client's certificate: give one that its client_ca has issued"
    } else if cause.contains("INADEQUATE_SECURITY") || cause.contains("security") {
        "; the server speaks TLS: use https:// in --server"
    } else if cause.contains("broken pipe") || cause.contains("onnection reset") || cause.contains("closed") {
        // What the server has said about it may not have been read.
        "; if that goes on, the server may want TLS (https://) or a client certificate (--tls-cert)"
    } else {
        ""
    }
}

/// The innermost error: the outer ones only say that something failed.
pub(super) fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The name of a code as gRPC's documents write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
