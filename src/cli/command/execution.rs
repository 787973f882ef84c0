//! Executions as they are printed.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use serde::Serialize;

use crate::cli::message::printable;
use crate::cli::output::{Format, duration, pairs, rfc3339};
use crate::proto::v1::{CommandExecution, CommandState};

/// States as arguments.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum StateArg {
    /// No handler has it
    Pending,
    /// A handler has it
    Running,
    /// Completed with a result
    Succeeded,
    /// Completed with a failure
    Failed,
    /// Cancelled
    Cancelled,
    /// Its time was over
    Expired,
}

impl StateArg {
    /// The state's number in the API.
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Pending => CommandState::Pending,
            Self::Running => CommandState::Running,
            Self::Succeeded => CommandState::Succeeded,
            Self::Failed => CommandState::Failed,
            Self::Cancelled => CommandState::Cancelled,
            Self::Expired => CommandState::Expired,
        }
        .into()
    }
}

/// A state as it is printed, such as `PENDING`.
pub(super) fn state_name(state: CommandState) -> &'static str {
    state.as_str_name().trim_start_matches("COMMAND_STATE_")
}

/// An execution as JSON. Empty fields are left out.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    pub(super) id: &'a str,
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) key: &'a str,
    pub(super) state: &'static str,
    pub(super) attempts: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancel_requested: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<ShownFailure<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    causation_id: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'a str, &'a str>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) create_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
}

/// A failure as JSON.
#[derive(Debug, Serialize)]
struct ShownFailure<'a> {
    code: &'a str,
    message: &'a str,
    retryable: bool,
}

/// Bytes as text, or else as base64; neither, if there are none.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match str::from_utf8(bytes) {
        _ if bytes.is_empty() => (None, None),
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(BASE64.encode(bytes))),
    }
}

impl<'a> Shown<'a> {
    pub(super) fn new(execution: &'a CommandExecution) -> Self {
        let command = execution.command.as_ref();
        let text = |field: fn(&crate::proto::v1::Command) -> &String| command.map_or("", |it| field(it));
        let (result, result_base64) = text_or_base64(&execution.result);
        let (payload, payload_base64) = text_or_base64(command.map_or(&[], |command| &command.payload));
        let attributes = command.into_iter().flat_map(|command| &command.attributes);
        Self {
            id: text(|it| &it.id),
            kind: text(|it| &it.r#type),
            key: text(|it| &it.key),
            state: state_name(execution.state()),
            attempts: execution.attempts,
            cancel_requested: execution.cancel_requested,
            result,
            result_base64,
            failure: execution.failure.as_ref().map(|failure| ShownFailure {
                code: &failure.code,
                message: &failure.message,
                retryable: failure.retryable,
            }),
            payload,
            payload_base64,
            content_type: text(|it| &it.content_type),
            correlation_id: text(|it| &it.correlation_id),
            causation_id: text(|it| &it.causation_id),
            attributes: attributes.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            revision: execution.revision,
            timeout: duration(command.and_then(|command| command.timeout.as_ref())),
            create_time: rfc3339(execution.create_time.as_ref()),
            expire_time: rfc3339(execution.expire_time.as_ref()),
            end_time: rfc3339(execution.end_time.as_ref()),
        }
    }

    /// Why it, or its last attempt, failed.
    pub(super) fn failure_text(&self) -> Option<String> {
        let failure = self.failure.as_ref()?;
        let separator = if failure.message.is_empty() { "" } else { ": " };
        Some(printable(format!("{}{separator}{}", failure.code, failure.message).as_bytes()).into_owned())
    }
}

/// Prints an execution.
pub(super) fn print(execution: &CommandExecution, format: Format) -> io::Result<()> {
    let shown = Shown::new(execution);
    let command = execution.command.clone().unwrap_or_default();
    let fields = vec![
        ("id", shown.id.to_owned()),
        ("type", shown.kind.to_owned()),
        ("key", shown.key.to_owned()),
        ("state", shown.state.to_owned()),
        ("result", printable(&execution.result).into_owned()),
        ("failure", shown.failure_text().unwrap_or_default()),
        ("cancel requested", if execution.cancel_requested { "yes".into() } else { String::new() }),
        ("attempts", shown.attempts.to_string()),
        ("payload", printable(&command.payload).into_owned()),
        ("content type", shown.content_type.to_owned()),
        ("attributes", pairs(&command.attributes)),
        ("correlation id", shown.correlation_id.to_owned()),
        ("causation id", shown.causation_id.to_owned()),
        ("accepted", shown.create_time.clone().unwrap_or_default()),
        ("expires", shown.expire_time.clone().unwrap_or_default()),
        ("ended", shown.end_time.clone().unwrap_or_default()),
    ];
    format.item(&shown, fields)
}

/// The exit status for one that has, or has not, ended: a failure unless it succeeded.
pub(super) fn exit_code(execution: &CommandExecution) -> ExitCode {
    match execution.state() {
        CommandState::Pending | CommandState::Running | CommandState::Succeeded => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
