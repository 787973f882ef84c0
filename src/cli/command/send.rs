//! `columba command send`.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use super::connect;
use super::execution::{exit_code, print};
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::parse;
use crate::model::limits::{MAX_COMMAND_PAYLOAD_BYTES, MAX_COMMAND_WAIT};
use crate::proto::v1::{Command, SendCommandRequest};

/// Send a command, and print what became of it
///
/// With --id it is safe to send again: the same command is carried out once. Exits with 1 if it FAILED, was
/// CANCELLED or EXPIRED; with 0 if it SUCCEEDED, or was accepted and has not ended yet.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba command send account.deposit '{\"deposit\": 5}' --key ada --id deposit-17 --wait 10s
  columba command send report.make - --expire-after 10m < report.json")]
pub(in crate::cli) struct SendArgs {
    /// What is to be done
    #[arg(value_name = "TYPE")]
    kind: String,
    /// The payload; - reads it from standard input
    #[arg(value_name = "DATA", default_value = "", hide_default_value = true)]
    data: String,
    /// Commands with the same key are handled one after the other, in order
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// Names the command; the same id again runs nothing [default: a new one]
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    /// Wait so long for the outcome, 60s at most [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    wait: Option<Duration>,
    /// How long it may take, retries included, before it is EXPIRED, 24h at most [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = parse::positive_duration)]
    expire_after: Option<Duration>,
    /// An attribute for handlers; may be given more than once
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = parse::key_value)]
    attributes: Vec<(String, String)>,
    /// What the payload is, such as application/json
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// Ties together what belongs together
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    correlation_id: String,
    /// The id of what caused the command
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    causation_id: String,
}

pub(super) async fn run(args: SendArgs, context: &Context) -> Result<ExitCode, Error> {
    let wait = args.wait.unwrap_or_default();
    if wait > MAX_COMMAND_WAIT {
        return Err(Error::Usage(
            "--wait is at most 60s; send without it, then wait longer with: columba command wait ID --for \
             DURATION"
                .into(),
        ));
    }
    let payload = if args.data == "-" { from_stdin()? } else { args.data.into_bytes() };
    let span = |span: Option<Duration>| span.and_then(|span| prost_types::Duration::try_from(span).ok());
    let command = Command {
        id: args.id,
        r#type: args.kind,
        key: args.key,
        payload: payload.into(),
        content_type: args.content_type,
        attributes: parse::key_values("--attribute", args.attributes)?,
        timeout: span(args.expire_after),
        correlation_id: args.correlation_id,
        causation_id: args.causation_id,
    };
    let message = SendCommandRequest { command: Some(command), wait: span(args.wait) };
    let mut request = context.request(message);
    request.set_timeout(wait + context.timeout);
    let response = connect(context).await?.send_command(request).await?.into_inner();
    let execution = super::some(response.execution)?;
    print(&execution, context.format)?;
    Ok(exit_code(&execution))
}

/// The payload on standard input; one byte beyond the limit is enough to be refused.
fn from_stdin() -> Result<Vec<u8>, Error> {
    let mut payload = Vec::new();
    std::io::stdin().lock().take(MAX_COMMAND_PAYLOAD_BYTES as u64 + 1).read_to_end(&mut payload)?;
    Ok(payload)
}
