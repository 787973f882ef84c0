//! What a topic keeps, as flags and as it is printed.

use std::time::Duration;

use serde::Serialize;

use super::error::Error;
use super::output;
use super::parse::{self, Expiry};
use crate::proto::v1::RetentionPolicy;

/// What a topic keeps; everything, if no flag is given.
#[derive(Debug, Default, clap::Args)]
pub(super) struct RetentionArgs {
    /// Drop messages older than this, such as 7days
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
    /// Drop the oldest messages beyond this size, such as 10GiB
    #[arg(long, value_name = "SIZE", value_parser = parse::large_size)]
    max_bytes: Option<u64>,
    /// Drop the oldest messages beyond this number
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// Drop messages that every subscription has settled
    #[arg(long)]
    delete_acked: bool,
}

impl RetentionArgs {
    /// The policy, if any flag is given.
    pub(super) fn policy(&self) -> Result<Option<RetentionPolicy>, Error> {
        let policy = RetentionPolicy {
            max_age: self.max_age.map(age_on_the_wire).transpose()?,
            max_bytes: self.max_bytes.unwrap_or_default(),
            max_messages: self.max_messages.unwrap_or_default(),
            delete_acked: self.delete_acked,
        };
        Ok((policy != RetentionPolicy::default()).then_some(policy))
    }
}

/// Changes to what a topic keeps; limits not given stay as they are.
#[derive(Debug, clap::Args)]
pub(super) struct RetentionEdit {
    /// Drop messages older than this, such as 7days; never for no limit
    #[arg(long, value_name = "DURATION")]
    max_age: Option<Expiry>,
    /// Drop the oldest messages beyond this size, such as 10GiB; 0 for no limit
    #[arg(long, value_name = "SIZE", value_parser = parse::large_size)]
    max_bytes: Option<u64>,
    /// Drop the oldest messages beyond this number; 0 for no limit
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// Whether to drop messages that every subscription has settled
    #[arg(long, value_name = "BOOL")]
    delete_acked: Option<bool>,
}

impl RetentionEdit {
    /// The policy with the changes, if there are any.
    pub(super) fn apply(&self, policy: Option<RetentionPolicy>) -> Result<Option<RetentionPolicy>, Error> {
        let Self { max_age, max_bytes, max_messages, delete_acked } = self;
        let before = policy.unwrap_or_default();
        let max_age = match max_age {
            Some(Expiry(age)) => age.map(age_on_the_wire).transpose()?,
            None => before.max_age,
        };
        let changed = RetentionPolicy {
            max_age,
            max_bytes: max_bytes.unwrap_or(before.max_bytes),
            max_messages: max_messages.unwrap_or(before.max_messages),
            delete_acked: delete_acked.unwrap_or(before.delete_acked),
        };
        Ok((changed != before).then_some(changed))
    }
}

fn age_on_the_wire(age: Duration) -> Result<prost_types::Duration, Error> {
    age.try_into().map_err(|error| Error::Usage(format!("--max-age: {error}")))
}

/// A policy as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<String>,
    max_bytes: u64,
    max_messages: u64,
    delete_acked: bool,
}

impl From<RetentionPolicy> for Shown {
    fn from(policy: RetentionPolicy) -> Self {
        let age = policy.max_age.and_then(|age| Duration::try_from(age).ok());
        Self {
            max_age: age.map(|age| humantime::format_duration(age).to_string()),
            max_bytes: policy.max_bytes,
            max_messages: policy.max_messages,
            delete_acked: policy.delete_acked,
        }
    }
}

/// A policy in words.
pub(super) fn describe(policy: Option<&Shown>) -> String {
    let Some(policy) = policy else { return "everything".into() };
    let mut limits = Vec::new();
    limits.extend(policy.max_age.as_ref().map(|age| format!("for {age}")));
    limits.extend((policy.max_bytes > 0).then(|| format!("up to {}", output::size(policy.max_bytes))));
    limits.extend((policy.max_messages > 0).then(|| format!("up to {} messages", policy.max_messages)));
    limits.extend(policy.delete_acked.then(|| "until every subscription has settled it".to_owned()));
    limits.join(", ")
}
