//! `columba subscription`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::context::Channel;
use clap::ValueEnum;
use serde::Serialize;

use super::context::Context;
use super::edit;
use super::error::Error;
use super::output::{self, rfc3339};
use super::{pages, parse, topic};
use crate::proto::v1::start_position::Position;
use crate::proto::v1::subscription_service_client::SubscriptionServiceClient;
use crate::proto::v1::{
    CreateSubscriptionRequest, DeleteSubscriptionRequest, DeliveryMode, GetSubscriptionRequest,
    GetSubscriptionStatsRequest, ListSubscriptionsRequest, RetryPolicy, SeekSubscriptionRequest,
    StartPosition, Subscription, SubscriptionStats, UpdateSubscriptionRequest,
};

/// Subscriptions asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// Create, list, show, change, move, pause and delete subscriptions, the durable readers of topics
#[derive(Debug, clap::Subcommand)]
pub(super) enum SubscriptionCommand {
    Create(CreateArgs),
    /// List subscriptions
    Ls {
        /// Only subscriptions whose names match: `*` stands for one part, `>` for all the rest
        pattern: Option<String>,
        /// Only subscriptions that read this topic, by name or by a pattern
        #[arg(long)]
        topic: Option<String>,
    },
    /// Show one subscription: its settings, and how far it has come
    Describe {
        /// The subscription
        name: String,
    },
    /// Show how far a subscription has come
    Stats {
        /// The subscription
        name: String,
    },
    /// Move a subscription: messages from the position on are delivered (again), those before are not
    #[command(after_help = "Examples:
  columba subscription seek billing earliest
  columba subscription seek billing 2026-11-24T08:00:00Z")]
    Seek {
        /// The subscription
        name: String,
        /// Where to: earliest, latest, an offset, or a time as in RFC 3339
        #[arg(value_parser = parse::position)]
        position: StartPosition,
    },
    #[command(visible_alias = "update")]
    Edit(edit::subscription::EditSubscriptionArgs),
    /// Stop deliveries; streams end, acks still count
    Pause {
        /// The subscription
        name: String,
    },
    /// Let a paused subscription deliver again
    Resume {
        /// The subscription
        name: String,
    },
    /// Delete a subscription and its progress
    Rm {
        /// The subscription
        name: String,
    },
}

/// Create a subscription; if it exists with the same settings, nothing changes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba subscription create billing --topic orders.created --ack-deadline 1m
  columba subscription create audit --topic orders.created --mode exclusive --from latest
  columba subscription create stock --topic orders.created --mode key-ordered
  columba subscription create all --topic 'orders.>'
  columba subscription create mail --topic orders.created --max-attempts 5 --dead-letter-topic dead.mail \\
    --min-backoff 1s
  columba subscription create eu --topic orders.created --idle-expiry 1d \\
    --filter 'message.attributes.region == \"eu\"'")]
pub(super) struct CreateArgs {
    /// Letters, digits, `_` and `-`, in parts joined by dots
    name: String,
    /// The topic to read; or a pattern: * stands for one part of a name, > at the end for the rest, and topics
    /// created later are read, too
    #[arg(long)]
    topic: String,
    /// How messages are divided among consumers [default: shared]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Where to begin: earliest, latest, an offset, or a time as in RFC 3339 [default: earliest]
    #[arg(long, value_name = "POSITION", value_parser = parse::position)]
    from: Option<StartPosition>,
    /// How long a consumer has to acknowledge a message, 1s to 12h [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse::positive_duration)]
    ack_deadline: Option<Duration>,
    /// How many messages may be unacknowledged at once [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: Option<u32>,
    /// Only the messages for which this is true, as CEL; others count as settled [default: all]
    #[arg(long, value_name = "CEL", default_value = "", hide_default_value = true)]
    filter: String,
    /// Delete it when nobody has used it for so long, 1m to 366d; or `never` [default: never]
    #[arg(long, value_name = "DURATION")]
    idle_expiry: Option<parse::Expiry>,
    #[command(flatten)]
    retry: RetryArgs,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse::key_value)]
    labels: Vec<(String, String)>,
}

/// What becomes of deliveries that are not acknowledged.
#[derive(Debug, clap::Args)]
struct RetryArgs {
    /// Deliveries after which a message is given up [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: Option<u32>,
    /// The topic for messages that are given up; it must exist [default: they are dropped]
    #[arg(long, value_name = "TOPIC")]
    dead_letter_topic: Option<String>,
    /// Wait after the first failed delivery; doubles with each further one [default: none]
    #[arg(long, value_name = "DURATION", value_parser = parse::positive_duration)]
    min_backoff: Option<Duration>,
    /// The longest wait [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = parse::positive_duration)]
    max_backoff: Option<Duration>,
}

impl RetryArgs {
    /// The policy; none if no flag was given.
    fn policy(self) -> Result<Option<RetryPolicy>, Error> {
        let Self { max_attempts, dead_letter_topic, min_backoff, max_backoff } = self;
        if max_attempts.is_none()
            && dead_letter_topic.is_none()
            && min_backoff.is_none()
            && max_backoff.is_none()
        {
            return Ok(None);
        }
        Ok(Some(RetryPolicy {
            min_backoff: span("--min-backoff", min_backoff)?,
            max_backoff: span("--max-backoff", max_backoff)?,
            max_attempts: max_attempts.unwrap_or_default(),
            dead_letter_topic: dead_letter_topic.unwrap_or_default(),
        }))
    }
}

/// A flag's span of time on the wire.
pub(super) fn span(flag: &str, value: Option<Duration>) -> Result<Option<prost_types::Duration>, Error> {
    let converted = value.map(prost_types::Duration::try_from).transpose();
    converted.map_err(|error| Error::Usage(format!("{flag}: {error}")))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Any consumer gets the next message
    Shared,
    /// Only the oldest consumer gets messages, in order
    Exclusive,
    /// Any consumer gets the next message, each key in order
    KeyOrdered,
}

impl From<Mode> for DeliveryMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Shared => Self::Shared,
            Mode::Exclusive => Self::Exclusive,
            Mode::KeyOrdered => Self::KeyOrdered,
        }
    }
}

pub(super) async fn run(command: SubscriptionCommand, context: &Context) -> Result<(), Error> {
    match command {
        SubscriptionCommand::Create(args) => create(args, context).await,
        SubscriptionCommand::Ls { pattern, topic } => {
            list(pattern.unwrap_or_default(), topic.unwrap_or_default(), context).await
        }
        SubscriptionCommand::Describe { name } => describe(name, context).await,
        SubscriptionCommand::Stats { name } => stats(name, context).await,
        SubscriptionCommand::Seek { name, position } => seek(name, position, context).await,
        SubscriptionCommand::Edit(args) => edit::subscription::edit(args, context).await,
        SubscriptionCommand::Pause { name } => set_paused(name, true, context).await,
        SubscriptionCommand::Resume { name } => set_paused(name, false, context).await,
        SubscriptionCommand::Rm { name } => remove(name, context).await,
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<(), Error> {
    let subscription = Subscription {
        name: args.name,
        topic: args.topic,
        mode: args.mode.map_or(DeliveryMode::Unspecified, Into::into).into(),
        start: args.from,
        ack_deadline: span("--ack-deadline", args.ack_deadline)?,
        max_in_flight: args.max_in_flight.unwrap_or_default(),
        retry: args.retry.policy()?,
        filter: args.filter,
        idle_expiry: span("--idle-expiry", args.idle_expiry.and_then(|parse::Expiry(expiry)| expiry))?,
        labels: parse::key_values("--label", args.labels)?,
        ..Subscription::default()
    };
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    let mut client = SubscriptionServiceClient::new(context.connect().await?);
    let created = client.create_subscription(context.request(request)).await?.into_inner().subscription;
    let created = Shown::from(created.ok_or_else(|| Error::protocol("no subscription"))?);
    Ok(context.format.item(&created, created.fields())?)
}

async fn list(filter: String, topic: String, context: &Context) -> Result<(), Error> {
    let mut client = SubscriptionServiceClient::new(context.connect().await?);
    let subscriptions = pages::all(usize::MAX, async |page_token| {
        let (filter, topic) = (filter.clone(), topic.clone());
        let request = ListSubscriptionsRequest { page_size: PAGE_SIZE, page_token, filter, topic };
        let page = client.list_subscriptions(context.request(request)).await?.into_inner();
        Ok((page.subscriptions.into_iter().map(Shown::from).collect(), page.next_page_token))
    });
    let subscriptions = subscriptions.await?;
    let header = ["SUBSCRIPTION", "TOPIC", "MODE", "ACK DEADLINE", "MAX IN FLIGHT"];
    context.format.list(&subscriptions, &header, &[4], |shown| {
        let deadline = shown.ack_deadline.clone().unwrap_or_default();
        let (mode, in_flight) = (shown.mode.to_owned(), shown.max_in_flight.to_string());
        vec![shown.name.clone(), shown.topic.clone(), mode, deadline, in_flight]
    })?;
    Ok(())
}

async fn describe(name: String, context: &Context) -> Result<(), Error> {
    let channel = context.connect().await?;
    let settings = Shown::from(get(channel.clone(), name.clone(), context).await?);
    let stats = ShownStats::from(get_stats(channel.clone(), name, context).await?);
    let topic_last_offset = if parse::is_pattern(&settings.topic) {
        None
    } else {
        Some(topic::get(channel, settings.topic.clone(), context).await?.last_offset)
    };

    let mut fields = settings.fields();
    fields.extend(topic_last_offset.map(|offset| ("topic's last offset", offset.to_string())));
    fields.extend(stats.fields());
    let all = Description { settings, topic_last_offset, stats };
    Ok(context.format.item(&all, fields)?)
}

/// Asks for one subscription.
pub(super) async fn get(
    channel: Channel,
    subscription: String,
    context: &Context,
) -> Result<Subscription, Error> {
    let mut client = SubscriptionServiceClient::new(channel);
    let request = context.request(GetSubscriptionRequest { subscription });
    let response = client.get_subscription(request).await?.into_inner();
    response.subscription.ok_or_else(|| Error::protocol("no subscription"))
}

async fn stats(name: String, context: &Context) -> Result<(), Error> {
    let stats = ShownStats::from(get_stats(context.connect().await?, name, context).await?);
    Ok(context.format.item(&stats, stats.fields())?)
}

async fn get_stats(
    channel: Channel,
    subscription: String,
    context: &Context,
) -> Result<SubscriptionStats, Error> {
    let mut client = SubscriptionServiceClient::new(channel);
    let request = context.request(GetSubscriptionStatsRequest { subscription });
    let response = client.get_subscription_stats(request).await?.into_inner();
    response.stats.ok_or_else(|| Error::protocol("no stats"))
}

async fn seek(name: String, position: StartPosition, context: &Context) -> Result<(), Error> {
    let mut client = SubscriptionServiceClient::new(context.connect().await?);
    let request = SeekSubscriptionRequest { subscription: name.clone(), position: Some(position) };
    let committed = client.seek_subscription(context.request(request)).await?.into_inner().committed_offset;
    let moved = serde_json::json!({ "subscription": name, "committed_offset": committed });
    let next = committed + 1;
    Ok(context.format.sentence(&moved, &format!("subscription {name} goes on at offset {next}"))?)
}

async fn set_paused(name: String, paused: bool, context: &Context) -> Result<(), Error> {
    let mut client = SubscriptionServiceClient::new(context.connect().await?);
    let subscription = Subscription { name: name.clone(), paused, ..Subscription::default() };
    let request = UpdateSubscriptionRequest {
        subscription: Some(subscription),
        update_mask: Some(prost_types::FieldMask { paths: vec!["paused".into()] }),
        validate_only: false,
    };
    client.update_subscription(context.request(request)).await?;
    let changed = serde_json::json!({ "subscription": name, "paused": paused });
    let what = if paused { "paused" } else { "delivering" };
    Ok(context.format.sentence(&changed, &format!("subscription {name} is {what}"))?)
}

async fn remove(name: String, context: &Context) -> Result<(), Error> {
    let mut client = SubscriptionServiceClient::new(context.connect().await?);
    let request = DeleteSubscriptionRequest { subscription: name.clone(), etag: String::new() };
    client.delete_subscription(context.request(request)).await?;
    let deleted = serde_json::json!({ "deleted": name });
    Ok(context.format.sentence(&deleted, &format!("subscription {name} is deleted"))?)
}

#[derive(Serialize)]
struct Description {
    #[serde(flatten)]
    settings: Shown,
    /// None for a pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_last_offset: Option<u64>,
    stats: ShownStats,
}

/// A subscription's settings as they are printed.
#[derive(Serialize)]
pub(super) struct Shown {
    name: String,
    topic: String,
    mode: &'static str,
    start: Option<String>,
    ack_deadline: Option<String>,
    max_in_flight: u32,
    retry: Option<ShownRetry>,
    filter: String,
    idle_expiry: Option<String>,
    paused: bool,
    labels: BTreeMap<String, String>,
    create_time: Option<String>,
    etag: String,
}

impl Shown {
    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("subscription", self.name.clone()),
            ("topic", self.topic.clone()),
            ("mode", self.mode.to_owned()),
            ("start", self.start.clone().unwrap_or_default()),
            ("ack deadline", self.ack_deadline.clone().unwrap_or_default()),
            ("max in flight", self.max_in_flight.to_string()),
            ("retry", self.retry.as_ref().map_or("at once, no limit".into(), ShownRetry::sentence)),
            ("filter", self.filter.clone()),
            ("idle expiry", self.idle_expiry.clone().unwrap_or_else(|| "never".into())),
            ("paused", if self.paused { "yes" } else { "no" }.to_owned()),
            ("labels", output::pairs(&self.labels)),
            ("created", self.create_time.clone().unwrap_or_default()),
            ("etag", self.etag.clone()),
        ]
    }
}

impl From<Subscription> for Shown {
    fn from(subscription: Subscription) -> Self {
        let mode = match subscription.mode() {
            DeliveryMode::Unspecified => "default",
            DeliveryMode::Shared => "shared",
            DeliveryMode::Exclusive => "exclusive",
            DeliveryMode::KeyOrdered => "key-ordered",
        };
        Self {
            mode,
            start: subscription.start.as_ref().and_then(position),
            ack_deadline: output::duration(subscription.ack_deadline.as_ref()),
            create_time: rfc3339(subscription.create_time.as_ref()),
            name: subscription.name,
            topic: subscription.topic,
            max_in_flight: subscription.max_in_flight,
            retry: subscription.retry.map(Into::into),
            filter: subscription.filter,
            idle_expiry: output::duration(subscription.idle_expiry.as_ref()),
            paused: subscription.paused,
            labels: subscription.labels.into_iter().collect(),
            etag: subscription.etag,
        }
    }
}

/// A retry policy as it is printed.
#[derive(Serialize)]
struct ShownRetry {
    min_backoff: Option<String>,
    max_backoff: Option<String>,
    /// `None` for no limit.
    max_attempts: Option<u32>,
    dead_letter_topic: Option<String>,
}

impl ShownRetry {
    fn sentence(&self) -> String {
        let attempts = self.max_attempts.map_or("no limit".into(), |limit| format!("{limit} attempts"));
        let (min, max) = (self.min_backoff.as_deref(), self.max_backoff.as_deref());
        let waits = format!("{} to {} apart", min.unwrap_or("0s"), max.unwrap_or("0s"));
        let then = self.dead_letter_topic.as_ref().map(|topic| format!(", then to {topic}"));
        format!("{attempts}, {waits}{}", then.unwrap_or_default())
    }
}

impl From<RetryPolicy> for ShownRetry {
    fn from(policy: RetryPolicy) -> Self {
        Self {
            min_backoff: output::duration(policy.min_backoff.as_ref()),
            max_backoff: output::duration(policy.max_backoff.as_ref()),
            max_attempts: (policy.max_attempts > 0).then_some(policy.max_attempts),
            dead_letter_topic: Some(policy.dead_letter_topic).filter(|topic| !topic.is_empty()),
        }
    }
}

/// A position as `--from` takes it.
fn position(start: &StartPosition) -> Option<String> {
    match start.position.as_ref()? {
        Position::Earliest(_) => Some("earliest".into()),
        Position::Latest(_) => Some("latest".into()),
        Position::Offset(offset) => Some(offset.to_string()),
        Position::Time(time) => rfc3339(Some(time)),
    }
}

/// How far a subscription has come, as it is printed.
#[derive(Serialize)]
struct ShownStats {
    backlog_messages: u64,
    in_flight: u64,
    scheduled: u64,
    oldest_unacked_age: Option<String>,
    committed_offset: u64,
    redelivered: u64,
    dead_lettered: u64,
    consumers: u32,
    time: Option<String>,
}

impl ShownStats {
    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("lag", output::messages(self.backlog_messages)),
            ("oldest unacked", self.oldest_unacked_age.clone().unwrap_or_default()),
            ("committed offset", self.committed_offset.to_string()),
            ("in flight", self.in_flight.to_string()),
            ("scheduled", self.scheduled.to_string()),
            ("redelivered", self.redelivered.to_string()),
            ("dead-lettered", self.dead_lettered.to_string()),
            ("consumers", self.consumers.to_string()),
        ]
    }
}

impl From<SubscriptionStats> for ShownStats {
    fn from(stats: SubscriptionStats) -> Self {
        Self {
            backlog_messages: stats.backlog_messages,
            in_flight: stats.in_flight,
            scheduled: stats.scheduled,
            oldest_unacked_age: output::duration(stats.oldest_unacked_age.as_ref()),
            committed_offset: stats.committed_offset,
            redelivered: stats.redelivered,
            dead_lettered: stats.dead_lettered,
            consumers: stats.consumers,
            time: rfc3339(stats.time.as_ref()),
        }
    }
}
