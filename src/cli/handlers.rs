//! `columba handlers`.

use clap::ValueEnum;
use serde::Serialize;

use super::context::Context;
use super::error::Error;
use super::message::printable;
use super::output::rfc3339;
use super::pages;
use crate::proto::admin::admin_service_client::AdminServiceClient;
use crate::proto::admin::{Handler, HandlerKind, ListHandlersRequest};

/// Handlers asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// What a handler handles.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Commands
    Command,
    /// Queries
    Query,
}

/// List the connected handlers of commands and queries, and what they have
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  columba handlers --type orders.total")]
pub(super) struct HandlersArgs {
    /// Only handlers of this kind
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only handlers of this type of commands or queries
    #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
    of: String,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    kind: &'static str,
    name: String,
    types: Vec<String>,
    connect_time: Option<String>,
    outstanding: u32,
    max_outstanding: u32,
    answered: u64,
    failed: u64,
}

impl From<Handler> for Shown {
    fn from(handler: Handler) -> Self {
        Self {
            kind: match handler.kind() {
                HandlerKind::Command => "command",
                HandlerKind::Query => "query",
                HandlerKind::Unspecified => "",
            },
            connect_time: rfc3339(handler.connect_time.as_ref()),
            id: handler.id,
            name: handler.name,
            types: handler.types,
            outstanding: handler.outstanding,
            max_outstanding: handler.max_outstanding,
            answered: handler.answered,
            failed: handler.failed,
        }
    }
}

pub(super) async fn run(args: HandlersArgs, context: &Context) -> Result<(), Error> {
    let mut client = AdminServiceClient::new(context.connect().await?);
    let kind = match args.kind {
        None => HandlerKind::Unspecified,
        Some(Kind::Command) => HandlerKind::Command,
        Some(Kind::Query) => HandlerKind::Query,
    };
    let handlers = pages::all(usize::MAX, async |page_token| {
        let (kind, r#type) = (kind.into(), args.of.clone());
        let request = ListHandlersRequest { kind, r#type, page_size: PAGE_SIZE, page_token };
        let page = client.list_handlers(context.request(request)).await?.into_inner();
        Ok((page.handlers.into_iter().map(Shown::from).collect(), page.next_page_token))
    });
    let handlers = handlers.await?;
    let header = ["HANDLER", "KIND", "NAME", "TYPES", "CONNECTED", "HAS", "OF", "ANSWERED", "FAILED"];
    context.format.list(&handlers, &header, &[5, 6, 7, 8], |shown| {
        vec![
            shown.id.clone(),
            shown.kind.into(),
            printable(shown.name.as_bytes()).into_owned(),
            shown.types.join(","),
            shown.connect_time.clone().unwrap_or_default(),
            shown.outstanding.to_string(),
            shown.max_outstanding.to_string(),
            shown.answered.to_string(),
            shown.failed.to_string(),
        ]
    })?;
    Ok(())
}
