//! `columba info`.

use serde::Serialize;

use super::context::Context;
use super::error::Error;
use super::output::{self, rfc3339};
use crate::proto::admin::GetServerInfoRequest;
use crate::proto::admin::admin_service_client::AdminServiceClient;

/// Show the server's version, engine and limits
#[derive(Debug, clap::Args)]
pub(super) struct InfoArgs {}

#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "one for each capability")]
struct Info {
    version: String,
    engine: String,
    persistent: bool,
    exclusive: bool,
    key_ordered: bool,
    history: bool,
    commit: bool,
    start_time: Option<String>,
    limits: Limits,
}

#[derive(Serialize)]
struct Limits {
    max_message_bytes: u64,
    max_request_bytes: u64,
    max_publish_messages: u32,
    max_ack_ids: u32,
    max_topics: u32,
    max_subscriptions: u32,
    max_consumers: u32,
    max_page_size: u32,
    max_handlers: u32,
    max_command_types: u32,
    max_unfinished_commands: u32,
    max_unfinished_commands_per_type: u32,
    max_command_payload_bytes: u64,
    max_command_result_bytes: u64,
    max_query_bytes: u64,
    max_query_result_bytes: u64,
    max_open_queries: u32,
    max_query_watchers: u32,
    max_buckets: u32,
    max_value_bytes: u64,
    max_batch_entries: u32,
    max_entry_watches: u32,
}

pub(super) async fn run(_args: InfoArgs, context: &Context) -> Result<(), Error> {
    let mut client = AdminServiceClient::new(context.connect().await?);
    let response = client.get_server_info(context.request(GetServerInfoRequest {})).await?.into_inner();
    let capabilities = response.capabilities.unwrap_or_default();
    let limits = response.limits.unwrap_or_default();
    let info = Info {
        version: response.version,
        engine: response.engine,
        persistent: capabilities.persistent,
        exclusive: capabilities.exclusive,
        key_ordered: capabilities.key_ordered,
        history: capabilities.history,
        commit: capabilities.commit,
        start_time: rfc3339(response.start_time.as_ref()),
        limits: Limits {
            max_message_bytes: limits.max_message_bytes,
            max_request_bytes: limits.max_request_bytes,
            max_publish_messages: limits.max_publish_messages,
            max_ack_ids: limits.max_ack_ids,
            max_topics: limits.max_topics,
            max_subscriptions: limits.max_subscriptions,
            max_consumers: limits.max_consumers,
            max_page_size: limits.max_page_size,
            max_handlers: limits.max_handlers,
            max_command_types: limits.max_command_types,
            max_unfinished_commands: limits.max_unfinished_commands,
            max_unfinished_commands_per_type: limits.max_unfinished_commands_per_type,
            max_command_payload_bytes: limits.max_command_payload_bytes,
            max_command_result_bytes: limits.max_command_result_bytes,
            max_query_bytes: limits.max_query_bytes,
            max_query_result_bytes: limits.max_query_result_bytes,
            max_open_queries: limits.max_open_queries,
            max_query_watchers: limits.max_query_watchers,
            max_buckets: limits.max_buckets,
            max_value_bytes: limits.max_value_bytes,
            max_batch_entries: limits.max_batch_entries,
            max_entry_watches: limits.max_entry_watches,
        },
    };
    let fields = vec![
        ("version", info.version.clone()),
        ("engine", info.engine.clone()),
        ("persistent", info.persistent.to_string()),
        ("exclusive", info.exclusive.to_string()),
        ("key-ordered", info.key_ordered.to_string()),
        ("history", info.history.to_string()),
        ("commit", info.commit.to_string()),
        ("started", info.start_time.clone().unwrap_or_default()),
        ("largest message", output::size(info.limits.max_message_bytes)),
        ("largest request", output::size(info.limits.max_request_bytes)),
        ("messages a publish", info.limits.max_publish_messages.to_string()),
        ("ids an ack", info.limits.max_ack_ids.to_string()),
        ("topics", info.limits.max_topics.to_string()),
        ("subscriptions", info.limits.max_subscriptions.to_string()),
        ("consumers", info.limits.max_consumers.to_string()),
        ("handlers", info.limits.max_handlers.to_string()),
        ("types of commands", info.limits.max_command_types.to_string()),
        ("unfinished commands", info.limits.max_unfinished_commands.to_string()),
        ("unfinished of a type", info.limits.max_unfinished_commands_per_type.to_string()),
        ("largest command", output::size(info.limits.max_command_payload_bytes)),
        ("largest command result", output::size(info.limits.max_command_result_bytes)),
        ("largest query", output::size(info.limits.max_query_bytes)),
        ("largest query result", output::size(info.limits.max_query_result_bytes)),
        ("open queries", info.limits.max_open_queries.to_string()),
        ("watched queries", info.limits.max_query_watchers.to_string()),
        ("buckets", info.limits.max_buckets.to_string()),
        ("largest value", output::size(info.limits.max_value_bytes)),
        ("entries a batch", info.limits.max_batch_entries.to_string()),
        ("watches of entries", info.limits.max_entry_watches.to_string()),
    ];
    Ok(context.format.item(&info, fields)?)
}
