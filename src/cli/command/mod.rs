//! `columba command`.

mod execution;
mod handle;
mod send;

use std::process::ExitCode;
use std::time::Duration;

use self::execution::{Shown, exit_code, print};
use super::context::{Channel, Context, MAX_RESPONSE_BYTES};
use super::error::Error;
use super::parse;
use crate::model::limits::MAX_COMMAND_WAIT;
use crate::proto::v1::command_service_client::CommandServiceClient;
use crate::proto::v1::watch_command_response::Event;
use crate::proto::v1::{
    CancelCommandRequest, CommandExecution, GetCommandRequest, ListCommandsRequest, WaitCommandRequest,
    WatchCommandRequest,
};

/// Executions asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// Send commands, handle them with a program, and look up what became of them
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  columba command handle account.deposit --exec ./deposit.sh
  columba command send account.deposit '{\"deposit\": 5}' --key ada --id deposit-17 --wait 10s
  columba command ls --type account.deposit --state failed
  columba command get deposit-17 -o json

send, wait and cancel exit with 1 when the command ended otherwise than asked for; see their help.")]
pub(super) enum CommandCommand {
    Send(send::SendArgs),
    /// Wait until a command has ended, and print what became of it
    ///
    /// Exits with 0 if it SUCCEEDED, and with 1 if it ended otherwise or has not ended in time.
    Wait {
        /// The command's id
        id: String,
        /// How long to wait
        #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = parse::duration)]
        wait: Duration,
    },
    /// Print what has become of a command
    Get {
        /// The command's id
        id: String,
    },
    /// List commands, by type and in the order in which they were accepted
    Ls(LsArgs),
    /// Print the states of a command until it has ended
    Watch {
        /// The command's id
        id: String,
    },
    /// Cancel a command that no handler has, or tell the handler that has it
    ///
    /// Exits with 0 if it is CANCELLED or the handler was told.
    Cancel {
        /// The command's id
        id: String,
    },
    Handle(handle::HandleArgs),
}

/// Which commands to list.
#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    /// Only commands of this type
    #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
    kind: String,
    /// Only commands in this state
    #[arg(long, value_enum)]
    state: Option<execution::StateArg>,
    /// Only commands with this key
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// Only those accepted then or later: a time as in RFC 3339, or how long ago, such as 1h
    #[arg(long, value_name = "TIME", value_parser = parse::time_or_ago)]
    since: Option<prost_types::Timestamp>,
    /// Only those accepted before then: a time as in RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", value_parser = parse::time_or_ago)]
    until: Option<prost_types::Timestamp>,
    /// Stop after so many commands
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
}

type Client = CommandServiceClient<Channel>;

async fn connect(context: &Context) -> Result<Client, Error> {
    Ok(CommandServiceClient::new(context.connect().await?).max_decoding_message_size(MAX_RESPONSE_BYTES))
}

pub(super) async fn run(command: CommandCommand, context: &Context) -> Result<ExitCode, Error> {
    match command {
        CommandCommand::Send(args) => return send::run(args, context).await,
        CommandCommand::Handle(args) => handle::run(args, context).await?,
        CommandCommand::Wait { id, wait } => return run_wait(id, wait, context).await,
        CommandCommand::Get { id } => {
            let request = context.request(GetCommandRequest { id });
            let response = connect(context).await?.get_command(request).await?.into_inner();
            print(&some(response.execution)?, context.format)?;
        }
        CommandCommand::Ls(args) => list(args, context).await?,
        CommandCommand::Watch { id } => watch(id, context).await?,
        CommandCommand::Cancel { id } => {
            let request = context.request(CancelCommandRequest { id });
            let response = connect(context).await?.cancel_command(request).await?.into_inner();
            print(&some(response.execution)?, context.format)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn some(execution: Option<CommandExecution>) -> Result<CommandExecution, Error> {
    execution.ok_or_else(|| Error::protocol("an answer without an execution"))
}

async fn run_wait(id: String, wait: Duration, context: &Context) -> Result<ExitCode, Error> {
    let mut client = connect(context).await?;
    let end = tokio::time::Instant::now() + wait;
    loop {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let part = left.min(MAX_COMMAND_WAIT);
        let wait = prost_types::Duration::try_from(part).ok();
        let mut request = context.request(WaitCommandRequest { id: id.clone(), wait });
        request.set_timeout(part + context.timeout);
        let execution = some(client.wait_command(request).await?.into_inner().execution)?;
        let has_ended = execution.end_time.is_some();
        if has_ended || left <= part {
            print(&execution, context.format)?;
            return Ok(if has_ended { exit_code(&execution) } else { ExitCode::FAILURE });
        }
    }
}

async fn watch(id: String, context: &Context) -> Result<(), Error> {
    let mut client = connect(context).await?;
    let mut events = client.watch_command(WatchCommandRequest { id }).await?.into_inner();
    while let Some(response) = events.message().await? {
        let Some(Event::Execution(execution)) = response.event else { continue };
        let shown = Shown::new(&execution);
        let failure = shown.failure_text().map(|text| format!("\t{text}")).unwrap_or_default();
        let line = format!("{}\tattempt {}{failure}", shown.state, shown.attempts);
        context.format.sentence(&shown, &line)?;
    }
    Ok(())
}

async fn list(args: LsArgs, context: &Context) -> Result<(), Error> {
    let mut client = connect(context).await?;
    let mut request = ListCommandsRequest {
        r#type: args.kind,
        state: args.state.map_or(0, execution::StateArg::number),
        key: args.key,
        since: args.since,
        until: args.until,
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    let most = args.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let mut all = Vec::new();
    loop {
        let page = client.list_commands(context.request(request.clone())).await?.into_inner();
        all.extend(page.executions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || all.len() >= most {
            break;
        }
    }
    all.truncate(most);
    let shown: Vec<_> = all.iter().map(Shown::new).collect();
    let header = ["ID", "TYPE", "KEY", "STATE", "ATTEMPTS", "ACCEPTED", "FAILURE"];
    context.format.list(&shown, &header, &[4], |shown| {
        vec![
            shown.id.to_owned(),
            shown.kind.to_owned(),
            shown.key.to_owned(),
            shown.state.to_owned(),
            shown.attempts.to_string(),
            shown.create_time.clone().unwrap_or_default(),
            shown.failure_text().unwrap_or_default(),
        ]
    })?;
    Ok(())
}
