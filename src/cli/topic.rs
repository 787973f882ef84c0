//! `columba topic`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::context::Channel;
use serde::Serialize;

use super::context::Context;
use super::edit;
use super::error::Error;
use super::output::{self, rfc3339};
use super::pages;
use super::parse::{self, Durability};
use super::retention::{self, RetentionArgs};
use super::signals;
use crate::proto::v1::topic_service_client::TopicServiceClient;
use crate::proto::v1::watch_topics_response::Event;
use crate::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, ListTopicsRequest, PurgeTopicRequest,
    StartPosition, Topic, WatchTopicsRequest,
};

/// Topics asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// Create, list, show, watch, change and delete topics
#[derive(Debug, clap::Subcommand)]
pub(super) enum TopicCommand {
    Create(CreateArgs),
    /// List topics
    #[command(after_help = "Example:\n  columba topic ls 'orders.>'")]
    Ls {
        /// Only topics whose names match: `*` stands for one part, `>` for all the rest
        pattern: Option<String>,
    },
    /// Show one topic
    Describe {
        /// The topic
        name: String,
    },
    Purge(PurgeArgs),
    #[command(visible_alias = "update")]
    Edit(edit::topic::EditTopicArgs),
    /// Print the topics there are, then every change to them as it happens, until Ctrl-C
    Watch {
        /// Only topics whose names match: `*` stands for one part, `>` for all the rest
        pattern: Option<String>,
    },
    /// Delete a topic with its messages; its subscriptions must be gone
    Rm {
        /// The topic
        name: String,
    },
}

/// Drop the oldest messages of a topic; its subscriptions pass over them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba topic purge orders.created --before 2026-01-31T12:00:00Z
  columba topic purge orders.created --before latest --dry-run")]
pub(super) struct PurgeArgs {
    /// The topic
    name: String,
    /// The first message to keep: an offset, a time as in RFC 3339, or latest to drop all there are
    #[arg(long, value_name = "POSITION", value_parser = parse::position)]
    before: StartPosition,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

/// Create a topic; if it exists with the same settings, nothing changes
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  columba topic create orders.eu.created --label team=billing")]
pub(super) struct CreateArgs {
    /// Letters, digits, `_` and `-`, in parts joined by dots
    name: String,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse::key_value)]
    labels: Vec<(String, String)>,
    /// The durability of publishes that name none [default: fsynced]
    #[arg(long, value_enum)]
    durability: Option<Durability>,
    /// The largest message, such as 64KiB [default: 1MiB, highest: 8MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    max_message_bytes: Option<u32>,
    #[command(flatten)]
    retention: RetentionArgs,
    /// How long ids are remembered, so that a message published twice is stored once; 0s for not at all
    /// [default: 2m, highest: 7d]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    dedupe_window: Option<Duration>,
    /// Keep track of the last message of each key, for `expected_key_offset`; cannot be changed
    #[arg(long)]
    key_index: bool,
    /// Keep only the last message of each key; cannot be changed
    #[arg(long)]
    compacted: bool,
}

pub(super) async fn run(command: TopicCommand, context: &Context) -> Result<(), Error> {
    match command {
        TopicCommand::Create(args) => create(args, context).await,
        TopicCommand::Ls { pattern } => list(pattern.unwrap_or_default(), context).await,
        TopicCommand::Describe { name } => describe(name, context).await,
        TopicCommand::Purge(args) => purge(args, context).await,
        TopicCommand::Edit(args) => edit::topic::edit(args, context).await,
        TopicCommand::Watch { pattern } => watch(pattern.unwrap_or_default(), context).await,
        TopicCommand::Rm { name } => remove(name, context).await,
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<(), Error> {
    let topic = Topic {
        name: args.name,
        labels: parse::key_values("--label", args.labels)?,
        durability: parse::durability_number(args.durability),
        max_message_bytes: args.max_message_bytes.unwrap_or_default(),
        retention: args.retention.policy()?,
        dedupe_window: window(args.dedupe_window)?,
        key_index: args.key_index,
        compacted: args.compacted,
        ..Topic::default()
    };
    let request = CreateTopicRequest { topic: Some(topic), validate_only: false };
    let mut client = TopicServiceClient::new(context.connect().await?);
    let created = client.create_topic(context.request(request)).await?.into_inner().topic;
    show(created, context)
}

/// A window as it is sent.
pub(super) fn window(value: Option<Duration>) -> Result<Option<prost_types::Duration>, Error> {
    let converted = value.map(prost_types::Duration::try_from).transpose();
    converted.map_err(|error| Error::Usage(format!("--dedupe-window: {error}")))
}

async fn list(filter: String, context: &Context) -> Result<(), Error> {
    let mut client = TopicServiceClient::new(context.connect().await?);
    let topics = pages::all(usize::MAX, async |page_token| {
        let request = ListTopicsRequest { page_size: PAGE_SIZE, page_token, filter: filter.clone() };
        let page = client.list_topics(context.request(request)).await?.into_inner();
        Ok((page.topics.into_iter().map(Shown::from).collect(), page.next_page_token))
    });
    let topics = topics.await?;
    let header = ["TOPIC", "MESSAGES", "FIRST", "LAST", "SIZE"];
    context.format.list(&topics, &header, &[1, 2, 3, 4], |topic| {
        let (first, last) = (topic.first_offset.to_string(), topic.last_offset.to_string());
        vec![topic.name.clone(), topic.messages.to_string(), first, last, output::size(topic.stored_bytes)]
    })?;
    Ok(())
}

async fn describe(name: String, context: &Context) -> Result<(), Error> {
    show(Some(get(context.connect().await?, name, context).await?), context)
}

/// Asks for one topic.
pub(super) async fn get(channel: Channel, topic: String, context: &Context) -> Result<Topic, Error> {
    let mut client = TopicServiceClient::new(channel);
    let response = client.get_topic(context.request(GetTopicRequest { topic })).await?.into_inner();
    response.topic.ok_or_else(|| Error::protocol("no topic"))
}

async fn purge(args: PurgeArgs, context: &Context) -> Result<(), Error> {
    let PurgeArgs { name, before, dry_run } = args;
    let mut client = TopicServiceClient::new(context.connect().await?);
    let request = PurgeTopicRequest { topic: name.clone(), position: Some(before), validate_only: dry_run };
    let purged = client.purge_topic(context.request(request)).await?.into_inner();
    let (messages, first) = (purged.purged_messages, purged.first_offset);
    let shown = serde_json::json!({
        "topic": name, "purged_messages": messages, "first_offset": first, "dry_run": dry_run,
    });
    let went = if dry_run { "would go" } else { "went" };
    let sentence =
        format!("topic {name}: {} {went}; the first one left is {first}", output::messages(messages));
    Ok(context.format.sentence(&shown, &sentence)?)
}

async fn remove(name: String, context: &Context) -> Result<(), Error> {
    let mut client = TopicServiceClient::new(context.connect().await?);
    let request = DeleteTopicRequest { topic: name.clone(), etag: String::new() };
    client.delete_topic(context.request(request)).await?;
    let deleted = serde_json::json!({ "deleted": name });
    Ok(context.format.sentence(&deleted, &format!("topic {name} is deleted"))?)
}

async fn watch(filter: String, context: &Context) -> Result<(), Error> {
    let stop = signals::stop()?;
    let mut client = TopicServiceClient::new(context.connect().await?);
    let opening = tokio::time::timeout(context.timeout, client.watch_topics(WatchTopicsRequest { filter }));
    let opened =
        opening.await.map_err(|_| Error::Lost("the server did not open the stream in time".into()))?;
    let mut events = opened?.into_inner();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = events.message() => event?,
        };
        let Some(response) = event else { return Err(Error::Lost("the server ended the stream".into())) };
        let (event, name, topic) = match response.event {
            Some(Event::Existing(topic)) => ("existing", topic.name.clone(), Some(topic)),
            Some(Event::Created(topic)) => ("created", topic.name.clone(), Some(topic)),
            Some(Event::Updated(topic)) => ("updated", topic.name.clone(), Some(topic)),
            Some(Event::Deleted(deleted)) => ("deleted", deleted.topic, None),
            Some(Event::SnapshotEnd(_) | Event::Heartbeat(_)) | None => continue,
        };
        let value = serde_json::json!({ "event": event, "name": name, "topic": topic.map(Shown::from) });
        context.format.sentence(&value, &format!("{event}  {name}"))?;
    }
}

fn show(topic: Option<Topic>, context: &Context) -> Result<(), Error> {
    let topic = Shown::from(topic.ok_or_else(|| Error::protocol("no topic"))?);
    let fields = vec![
        ("topic", topic.name.clone()),
        ("messages", topic.messages.to_string()),
        ("first offset", topic.first_offset.to_string()),
        ("last offset", topic.last_offset.to_string()),
        ("stored", output::size(topic.stored_bytes)),
        ("durability", topic.durability.to_owned()),
        ("kept", retention::describe(topic.retention.as_ref())),
        ("largest message", output::size(topic.max_message_bytes.into())),
        ("dedupe window", topic.dedupe_window.clone().unwrap_or_default()),
        ("compacted", if topic.compacted { "yes" } else { "no" }.to_owned()),
        ("key index", if topic.key_index { "yes" } else { "no" }.to_owned()),
        ("labels", output::pairs(&topic.labels)),
        ("created", topic.create_time.clone().unwrap_or_default()),
        ("etag", topic.etag.clone()),
    ];
    Ok(context.format.item(&topic, fields)?)
}

/// A topic as it is printed.
#[derive(Serialize)]
pub(super) struct Shown {
    name: String,
    labels: BTreeMap<String, String>,
    durability: &'static str,
    max_message_bytes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<retention::Shown>,
    dedupe_window: Option<String>,
    compacted: bool,
    key_index: bool,
    messages: u64,
    first_offset: u64,
    last_offset: u64,
    stored_bytes: u64,
    create_time: Option<String>,
    etag: String,
}

impl From<Topic> for Shown {
    fn from(topic: Topic) -> Self {
        Self {
            durability: output::durability(topic.durability),
            create_time: rfc3339(topic.create_time.as_ref()),
            name: topic.name,
            labels: topic.labels.into_iter().collect(),
            max_message_bytes: topic.max_message_bytes,
            retention: topic.retention.map(Into::into),
            dedupe_window: output::duration(topic.dedupe_window.as_ref()),
            key_index: topic.key_index,
            compacted: topic.compacted,
            messages: (topic.last_offset + 1).saturating_sub(topic.first_offset),
            first_offset: topic.first_offset,
            last_offset: topic.last_offset,
            stored_bytes: topic.stored_bytes,
            etag: topic.etag,
        }
    }
}
