//! `columba query`.

mod ask;
mod handle;
mod update;
mod watch;

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::Subcommand;
use serde::Serialize;
use tokio::io::AsyncReadExt;

use super::context::Context;
use super::error::Error;
use super::output::is_zero;
use super::parse;

/// The longest wait that a leaving server can ask for.
const LONGEST_GOAWAY: Duration = Duration::from_secs(30);

/// Ask, and answer what others ask. Queries are never stored: a handler that is connected answers them
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:
  columba query handle orders.total --exec ./total.sh &
  columba query ask orders.total --key customer-7")]
pub(super) enum QueryCommand {
    Ask(ask::AskArgs),
    Watch(watch::WatchArgs),
    Handle(handle::HandleArgs),
    Update(update::UpdateArgs),
    Invalidate(update::InvalidateArgs),
}

pub(super) async fn run(command: QueryCommand, context: &Context) -> Result<(), Error> {
    match command {
        QueryCommand::Ask(args) => ask::run(args, context).await,
        QueryCommand::Watch(args) => watch::run(args, context).await,
        QueryCommand::Handle(args) => handle::run(args, context).await,
        QueryCommand::Update(args) => update::update(args, context).await,
        QueryCommand::Invalidate(args) => update::invalidate(args, context).await,
    }
}

/// What is asked.
#[derive(Debug, clap::Args)]
struct Question {
    /// The type of the query, such as orders.total
    #[arg(value_name = "TYPE")]
    kind: String,
    /// What is asked about, such as an order number
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// The arguments of the query; `-` is standard input
    #[arg(long, default_value = "", hide_default_value = true)]
    data: String,
    /// The media type of the data, such as application/json
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// A header for the handler, as NAME=VALUE; may be repeated
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = parse::key_value)]
    attributes: Vec<(String, String)>,
}

/// What is asked, read in.
struct Asked {
    kind: String,
    key: String,
    payload: Bytes,
    content_type: String,
    attributes: HashMap<String, String>,
}

impl Question {
    async fn read(self) -> Result<Asked, Error> {
        let Self { kind, key, data, content_type, attributes } = self;
        let attributes = parse::key_values("--attribute", attributes)?;
        Ok(Asked { kind, key, payload: payload(data).await?, content_type, attributes })
    }
}

/// Data of the command line; `-` is standard input.
async fn payload(data: String) -> Result<Bytes, Error> {
    // More than the server takes is enough for it to say so.
    const LIMIT: u64 = (8 << 20) + 1;
    if data != "-" {
        return Ok(data.into());
    }
    let mut read = Vec::new();
    tokio::io::stdin().take(LIMIT).read_to_end(&mut read).await?;
    Ok(read.into())
}

/// The timeout of a query for the server: that of the command line, as far as the server takes it.
fn timeout(context: &Context) -> prost_types::Duration {
    const LONGEST: Duration = Duration::from_secs(5 * 60);
    prost_types::Duration::try_from(context.timeout.min(LONGEST)).expect("five minutes fit")
}

/// An answer as JSON. Empty strings are left out, except the data.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    handler: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    revision: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl<'a> Line<'a> {
    fn new(payload: &'a [u8], content_type: &'a str, revision: u64, handler: &'a str) -> Self {
        let data = str::from_utf8(payload).ok();
        let data_base64 = data.is_none().then(|| BASE64.encode(payload));
        Self { handler, revision, content_type, data, data_base64 }
    }
}

/// How long to wait before connecting again, as the server asks.
fn goaway_wait(goaway: &crate::proto::v1::Goaway) -> Duration {
    let wait = goaway.reconnect_after.and_then(|wait| Duration::try_from(wait).ok());
    wait.unwrap_or_default().min(LONGEST_GOAWAY)
}
