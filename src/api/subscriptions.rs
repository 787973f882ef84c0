//! `SubscriptionService`.

use std::time::Duration;

use tonic::{Request, Response, Status, async_trait};

use super::status::Refusal;
use super::topics::intent;
use super::validate::{Violations, check, etag};
use super::wire::v1::{self, subscription_service_server::SubscriptionService};
use super::{Context, convert, page};
use crate::engine::SubscriptionChange;
use crate::model::limits::{
    DEFAULT_ACK_DEADLINE, DEFAULT_MAX_BACKOFF, DEFAULT_MAX_IN_FLIGHT, MAX_ACK_DEADLINE, MAX_ATTEMPTS,
    MAX_IDLE_EXPIRY, MAX_IN_FLIGHT, MIN_ACK_DEADLINE, MIN_IDLE_EXPIRY,
};
use crate::model::{Backoff, Name, RetryPolicy, Start, SubscriptionSettings, Timestamp};

pub(super) struct Subscriptions(pub(super) Context);

/// What an update may change.
const UPDATABLE: [&str; 7] =
    ["ack_deadline", "max_in_flight", "retry", "filter", "idle_expiry", "paused", "labels"];

#[async_trait]
impl SubscriptionService for Subscriptions {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        let v1::CreateSubscriptionRequest { subscription, validate_only } = request.into_inner();
        let (name, settings) = check(|violations| {
            let subscription = violations.required("subscription", subscription)?;
            let name = violations.name("subscription.name", &subscription.name);
            let settings = settings(violations, &subscription);
            Some((name?, settings?))
        })?;
        let created = self.0.engine.create_subscription(name, settings, intent(validate_only)).await?;
        let subscription = Some(convert::subscription(created));
        Ok(Response::new(v1::CreateSubscriptionResponse { subscription }))
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let name = name(&request.into_inner().subscription)?;
        let subscription = Some(convert::subscription(self.0.engine.subscription(&name).await?));
        Ok(Response::new(v1::GetSubscriptionResponse { subscription }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        let v1::ListSubscriptionsRequest { page_size, page_token, filter, topic } = request.into_inner();
        let ((page, cut), topic) = check(|violations| {
            let query = ["subscriptions", &topic];
            let page = page::read(violations, page_size, &page_token, &filter, &query);
            let topic = violations.optional_name("topic", &topic);
            Some((page?, topic))
        })?;
        let mut subscriptions = self.0.engine.subscriptions(page, topic).await?;
        let next_page_token = cut.apply(&mut subscriptions, |subscription| &subscription.name);
        let subscriptions = subscriptions.into_iter().map(convert::subscription).collect();
        Ok(Response::new(v1::ListSubscriptionsResponse { subscriptions, next_page_token }))
    }

    async fn update_subscription(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::UpdateSubscriptionResponse>, Status> {
        let v1::UpdateSubscriptionRequest { subscription, update_mask, validate_only } = request.into_inner();
        let (name, change, expected) = check(|violations| {
            let subscription = violations.required("subscription", subscription)?;
            let name = violations.name("subscription.name", &subscription.name);
            let paths = violations.update_mask(update_mask, &UPDATABLE);
            let change = change(violations, &subscription, &paths?);
            Some((name?, change, etag(&subscription.etag)))
        })?;
        let changed =
            self.0.engine.update_subscription(&name, change, expected, intent(validate_only)).await?;
        let subscription = Some(convert::subscription(changed));
        Ok(Response::new(v1::UpdateSubscriptionResponse { subscription }))
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        let request = request.into_inner();
        let name = name(&request.subscription)?;
        self.0.engine.delete_subscription(&name, etag(&request.etag)).await?;
        Ok(Response::new(v1::DeleteSubscriptionResponse {}))
    }

    async fn seek_subscription(
        &self,
        request: Request<v1::SeekSubscriptionRequest>,
    ) -> Result<Response<v1::SeekSubscriptionResponse>, Status> {
        let v1::SeekSubscriptionRequest { subscription, position } = request.into_inner();
        let (name, start) = check(|violations| {
            let name = violations.name("subscription", &subscription);
            let position = violations.required("position", position);
            let start = violations.start("position", Some(position?), Start::Earliest);
            Some((name?, start?))
        })?;
        let committed_offset = self.0.engine.seek(&name, start).await?;
        Ok(Response::new(v1::SeekSubscriptionResponse { committed_offset }))
    }

    async fn get_subscription_stats(
        &self,
        request: Request<v1::GetSubscriptionStatsRequest>,
    ) -> Result<Response<v1::GetSubscriptionStatsResponse>, Status> {
        let name = name(&request.into_inner().subscription)?;
        let stats = self.0.engine.stats(&name).await?;
        let stats = Some(convert::stats(&stats, Timestamp::now()));
        Ok(Response::new(v1::GetSubscriptionStatsResponse { stats }))
    }
}

fn name(subscription: &str) -> Result<Name, Refusal> {
    check(|violations| violations.name("subscription", subscription))
}

fn settings(violations: &mut Violations, wire: &v1::Subscription) -> Option<SubscriptionSettings> {
    let change = change(violations, wire, &UPDATABLE);
    let topic = violations.topics("subscription.topic", &wire.topic);
    let mode = violations.mode("subscription.mode", wire.mode);
    let start = violations.start_in("subscription.start", wire.start, Start::Earliest, topic.as_ref());
    Some(SubscriptionSettings {
        topic: topic?,
        mode: mode?,
        start: start?,
        ack_deadline: change.ack_deadline?,
        max_in_flight: change.max_in_flight?,
        retry: change.retry?,
        filter: change.filter?,
        idle_expiry: change.idle_expiry?,
        paused: change.paused?,
        labels: change.labels?,
    })
}

/// The fields at `paths`; those left unset take their defaults.
fn change(violations: &mut Violations, wire: &v1::Subscription, paths: &[&str]) -> SubscriptionChange {
    let mut change = SubscriptionChange::default();
    for &path in paths {
        match path {
            "ack_deadline" => {
                change.ack_deadline = match wire.ack_deadline {
                    None => Some(DEFAULT_ACK_DEADLINE),
                    Some(deadline) => violations.duration(
                        "subscription.ack_deadline",
                        deadline,
                        MIN_ACK_DEADLINE..=MAX_ACK_DEADLINE,
                    ),
                };
            }
            "max_in_flight" => {
                let (default, highest) = (DEFAULT_MAX_IN_FLIGHT, MAX_IN_FLIGHT);
                change.max_in_flight =
                    violations.count("subscription.max_in_flight", wire.max_in_flight, default, highest);
            }
            "retry" => change.retry = retry(violations, wire.retry.as_ref()),
            "filter" => change.filter = violations.filter("subscription.filter", &wire.filter),
            "idle_expiry" => {
                change.idle_expiry = match wire.idle_expiry {
                    None => Some(Duration::ZERO),
                    Some(span) => violations.duration(
                        "subscription.idle_expiry",
                        span,
                        MIN_IDLE_EXPIRY..=MAX_IDLE_EXPIRY,
                    ),
                };
            }
            "paused" => change.paused = Some(wire.paused),
            _ => change.labels = violations.labels("subscription.labels", &wire.labels),
        }
    }
    change
}

/// A retry policy; the default one if it is unset.
fn retry(violations: &mut Violations, wire: Option<&v1::RetryPolicy>) -> Option<RetryPolicy> {
    let Some(wire) = wire else { return Some(RetryPolicy::default()) };
    let min = match wire.min_backoff {
        None => Some(Duration::ZERO),
        Some(span) => {
            violations.duration("subscription.retry.min_backoff", span, Duration::ZERO..=MAX_ACK_DEADLINE)
        }
    };
    let least = min.unwrap_or_default();
    let max = match wire.max_backoff {
        None => Some(DEFAULT_MAX_BACKOFF.max(least)),
        Some(span) => violations.duration("subscription.retry.max_backoff", span, least..=MAX_ACK_DEADLINE),
    };
    let max_attempts =
        violations.count("subscription.retry.max_attempts", wire.max_attempts, 0, MAX_ATTEMPTS);
    let topic = violations.optional_name("subscription.retry.dead_letter_topic", &wire.dead_letter_topic);
    let backoff = Backoff { min: min?, max: max? };
    Some(RetryPolicy { backoff, max_attempts: max_attempts?, dead_letter_topic: topic })
}
