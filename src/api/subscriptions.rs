//! `SubscriptionService`.

use tonic::{Request, Response, Status, async_trait};

use super::status::Refusal;
use super::topics::intent;
use super::validate::{Violations, check, etag};
use super::wire::v1::{self, subscription_service_server::SubscriptionService};
use super::{Context, convert, page};
use crate::engine::SubscriptionChange;
use crate::model::limits::{
    DEFAULT_ACK_DEADLINE, DEFAULT_MAX_IN_FLIGHT, MAX_ACK_DEADLINE, MAX_IN_FLIGHT, MIN_ACK_DEADLINE,
};
use crate::model::{Name, Start, SubscriptionSettings, Timestamp};

pub(super) struct Subscriptions(pub(super) Context);

/// What an update may change.
const UPDATABLE: [&str; 4] = ["ack_deadline", "max_in_flight", "paused", "labels"];

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
    let topic = violations.name("subscription.topic", &wire.topic);
    let mode = violations.mode("subscription.mode", wire.mode);
    let start = violations.start("subscription.start", wire.start, Start::Earliest);
    Some(SubscriptionSettings {
        topic: topic?,
        mode: mode?,
        start: start?,
        ack_deadline: change.ack_deadline?,
        max_in_flight: change.max_in_flight?,
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
            "paused" => change.paused = Some(wire.paused),
            _ => change.labels = violations.labels("subscription.labels", &wire.labels),
        }
    }
    change
}
