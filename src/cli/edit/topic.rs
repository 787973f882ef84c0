//! `columba topic edit`.

use std::time::Duration;

use super::{EditFlags, mask, show};
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::parse::{self, Durability};
use crate::cli::retention::RetentionEdit;
use crate::cli::topic::{Shown, get, window};
use crate::proto::v1::UpdateTopicRequest;
use crate::proto::v1::topic_service_client::TopicServiceClient;

/// Change single settings of a topic
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba topic edit orders.created --max-message-bytes 4MiB --dry-run
  columba topic edit orders.created --max-age 30days --max-bytes 0
  columba topic edit orders.created --label team=billing --remove-label owner")]
pub(in crate::cli) struct EditTopicArgs {
    /// The topic
    name: String,
    /// The durability of publishes that name none
    #[arg(long, value_enum)]
    durability: Option<Durability>,
    /// The largest message, such as 64KiB; what is stored stays
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    max_message_bytes: Option<u32>,
    /// How long ids are remembered; 0s forgets all of them
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    dedupe_window: Option<Duration>,
    #[command(flatten)]
    retention: RetentionEdit,
    #[command(flatten)]
    flags: EditFlags,
}

pub(in crate::cli) async fn edit(args: EditTopicArgs, context: &Context) -> Result<(), Error> {
    let EditTopicArgs { name, durability, max_message_bytes, dedupe_window, retention, flags } = args;
    let channel = context.connect().await?;
    let before = get(channel.clone(), name, context).await?;
    let mut topic = before.clone();
    let mut paths = Vec::new();
    if durability.is_some() {
        topic.durability = parse::durability_number(durability);
        paths.push("durability");
    }
    if let Some(bytes) = max_message_bytes {
        topic.max_message_bytes = bytes;
        paths.push("max_message_bytes");
    }
    if dedupe_window.is_some() {
        topic.dedupe_window = window(dedupe_window)?;
        paths.push("dedupe_window");
    }
    if let Some(policy) = retention.apply(topic.retention)? {
        topic.retention = Some(policy);
        paths.push("retention");
    }
    if let Some(labels) = flags.labels(topic.labels.clone())? {
        topic.labels = labels;
        paths.push("labels");
    }
    topic.etag = flags.etag(topic.etag);
    let request =
        UpdateTopicRequest { topic: Some(topic), update_mask: mask(paths)?, validate_only: flags.dry_run };
    let mut client = TopicServiceClient::new(channel);
    let after = client.update_topic(context.request(request)).await?.into_inner().topic;
    let after = after.ok_or_else(|| Error::protocol("no topic"))?;
    // What others do meanwhile is not of this edit's making.
    let mut settings = before.clone();
    (settings.labels, settings.durability) = (after.labels, after.durability);
    (settings.dedupe_window, settings.retention) = (after.dedupe_window, after.retention);
    (settings.max_message_bytes, settings.etag) = (after.max_message_bytes, after.etag);
    let name = before.name.clone();
    show(("topic", &name), (&Shown::from(before), &Shown::from(settings)), flags.dry_run, context)
}
