//! `columba subscription edit`.

use std::time::Duration;

use super::{EditFlags, mask, show};
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::parse::{self, Expiry};
use crate::cli::subscription::{Shown, get, span};
use crate::proto::v1::subscription_service_client::SubscriptionServiceClient;
use crate::proto::v1::{RetryPolicy, Subscription, UpdateSubscriptionRequest};

/// Change single settings of a subscription
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba subscription edit billing --ack-deadline 2m --dry-run
  columba subscription edit billing --filter 'message.attributes.region == \"eu\"'
  columba subscription edit billing --filter '' --idle-expiry never --max-attempts 0")]
pub(in crate::cli) struct EditSubscriptionArgs {
    /// The subscription
    name: String,
    /// How long a consumer has to acknowledge a message, 1s to 12h
    #[arg(long, value_name = "DURATION", value_parser = parse::positive_duration)]
    ack_deadline: Option<Duration>,
    /// How many messages may be unacknowledged at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: Option<u32>,
    /// Only the messages for which this is true, as CEL; empty for all
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// Delete it when nobody has used it for so long, 1m to 366d; or `never`
    #[arg(long, value_name = "DURATION")]
    idle_expiry: Option<Expiry>,
    #[command(flatten)]
    retry: RetryFlags,
    #[command(flatten)]
    flags: EditFlags,
}

/// The parts of the retry policy; those not given stay as they are.
#[derive(Debug, clap::Args)]
struct RetryFlags {
    /// Deliveries after which a message is given up; 0 for no limit
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// The topic for messages that are given up; empty to drop them
    #[arg(long, value_name = "TOPIC")]
    dead_letter_topic: Option<String>,
    /// Wait after the first failed delivery; doubles with each further one
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    min_backoff: Option<Duration>,
    /// The longest wait
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    max_backoff: Option<Duration>,
}

impl RetryFlags {
    /// Changes a policy; says whether there was anything to change.
    fn apply(self, policy: &mut RetryPolicy) -> Result<bool, Error> {
        let Self { max_attempts, dead_letter_topic, min_backoff, max_backoff } = self;
        let is_any = max_attempts.is_some()
            || dead_letter_topic.is_some()
            || min_backoff.is_some()
            || max_backoff.is_some();
        policy.max_attempts = max_attempts.unwrap_or(policy.max_attempts);
        if let Some(topic) = dead_letter_topic {
            policy.dead_letter_topic = topic;
        }
        policy.min_backoff = span("--min-backoff", min_backoff)?.or(policy.min_backoff);
        policy.max_backoff = span("--max-backoff", max_backoff)?.or(policy.max_backoff);
        Ok(is_any)
    }
}

pub(in crate::cli) async fn edit(args: EditSubscriptionArgs, context: &Context) -> Result<(), Error> {
    let channel = context.connect().await?;
    let before = get(channel.clone(), args.name.clone(), context).await?;
    let dry_run = args.flags.dry_run;
    let (subscription, paths) = changed(args, before.clone())?;
    let request = UpdateSubscriptionRequest {
        subscription: Some(subscription),
        update_mask: mask(paths)?,
        validate_only: dry_run,
    };
    let mut client = SubscriptionServiceClient::new(channel);
    let after = client.update_subscription(context.request(request)).await?.into_inner().subscription;
    let after = after.ok_or_else(|| Error::protocol("no subscription"))?;
    let name = before.name.clone();
    show(("subscription", &name), (&Shown::from(before), &Shown::from(after)), dry_run, context)
}

/// The subscription as it is to be, and what of it is given.
fn changed(
    args: EditSubscriptionArgs,
    mut subscription: Subscription,
) -> Result<(Subscription, Vec<&'static str>), Error> {
    let EditSubscriptionArgs { ack_deadline, max_in_flight, filter, idle_expiry, retry, flags, .. } = args;
    let mut paths = Vec::new();
    if ack_deadline.is_some() {
        subscription.ack_deadline = span("--ack-deadline", ack_deadline)?;
        paths.push("ack_deadline");
    }
    if let Some(limit) = max_in_flight {
        subscription.max_in_flight = limit;
        paths.push("max_in_flight");
    }
    if let Some(filter) = filter {
        subscription.filter = filter;
        paths.push("filter");
    }
    if let Some(Expiry(expiry)) = idle_expiry {
        subscription.idle_expiry = span("--idle-expiry", expiry)?;
        paths.push("idle_expiry");
    }
    let mut policy = subscription.retry.take().unwrap_or_default();
    if retry.apply(&mut policy)? {
        paths.push("retry");
    }
    subscription.retry = Some(policy);
    if let Some(labels) = flags.labels(subscription.labels.clone())? {
        subscription.labels = labels;
        paths.push("labels");
    }
    subscription.etag = flags.etag(subscription.etag);
    Ok((subscription, paths))
}
