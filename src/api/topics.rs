//! `TopicService`.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures::stream::BoxStream;
use tonic::{Request, Response, Status, async_trait};

use super::status::Refusal;
use super::validate::{Violations, check, etag};
use super::wire::v1::{self, topic_service_server::TopicService};
use super::{Context, convert, page, watch};
use crate::engine::{Intent, TopicChange};
use crate::model::limits::{
    DEFAULT_DEDUPE_WINDOW, DEFAULT_MAX_MESSAGE_BYTES, MAX_DEDUPE_WINDOW, MAX_MESSAGE_BYTES,
    MAX_RETENTION_AGE, MIN_RETENTION_AGE,
};
use crate::model::{Name, Retention, Start, TopicSettings};

/// Windows for ids; none at all is the shortest.
const WINDOWS: RangeInclusive<Duration> = Duration::ZERO..=MAX_DEDUPE_WINDOW;

pub(super) struct Topics(pub(super) Context);

/// What an update may change.
const UPDATABLE: [&str; 5] = ["labels", "retention", "durability", "dedupe_window", "max_message_bytes"];

#[async_trait]
impl TopicService for Topics {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let v1::CreateTopicRequest { topic, validate_only } = request.into_inner();
        let (name, settings) = check(|violations| {
            let topic = violations.required("topic", topic)?;
            let name = violations.name("topic.name", &topic.name);
            let settings = settings(violations, &topic);
            Some((name?, settings?))
        })?;
        let topic = self.0.engine.create_topic(name, settings, intent(validate_only)).await?;
        Ok(Response::new(v1::CreateTopicResponse { topic: Some(convert::topic(topic)) }))
    }

    async fn get_topic(
        &self,
        request: Request<v1::GetTopicRequest>,
    ) -> Result<Response<v1::GetTopicResponse>, Status> {
        let name = name(&request.into_inner().topic)?;
        let topic = self.0.engine.topic(&name).await?;
        Ok(Response::new(v1::GetTopicResponse { topic: Some(convert::topic(topic)) }))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let request = request.into_inner();
        let (page, cut) = check(|violations| {
            page::read(violations, request.page_size, &request.page_token, &request.filter, &["topics"])
        })?;
        let mut topics = self.0.engine.topics(page).await?;
        let next_page_token = cut.apply(&mut topics, |topic| &topic.name);
        let topics = topics.into_iter().map(convert::topic).collect();
        Ok(Response::new(v1::ListTopicsResponse { topics, next_page_token }))
    }

    async fn update_topic(
        &self,
        request: Request<v1::UpdateTopicRequest>,
    ) -> Result<Response<v1::UpdateTopicResponse>, Status> {
        let v1::UpdateTopicRequest { topic, update_mask, validate_only } = request.into_inner();
        let (name, change, expected) = check(|violations| {
            let topic = violations.required("topic", topic)?;
            let name = violations.name("topic.name", &topic.name);
            let paths = violations.update_mask(update_mask, &UPDATABLE);
            let change = change(violations, &topic, &paths?);
            Some((name?, change, etag(&topic.etag)))
        })?;
        let topic = self.0.engine.update_topic(&name, change, expected, intent(validate_only)).await?;
        Ok(Response::new(v1::UpdateTopicResponse { topic: Some(convert::topic(topic)) }))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let request = request.into_inner();
        let name = name(&request.topic)?;
        self.0.engine.delete_topic(&name, etag(&request.etag)).await?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }

    async fn purge_topic(
        &self,
        request: Request<v1::PurgeTopicRequest>,
    ) -> Result<Response<v1::PurgeTopicResponse>, Status> {
        let v1::PurgeTopicRequest { topic, position, validate_only } = request.into_inner();
        let (name, before) = check(|violations| {
            let name = violations.name("topic", &topic);
            let position = violations.required("position", position)?;
            let before = violations.start("position", Some(position), Start::Earliest);
            Some((name?, before?))
        })?;
        let purged = self.0.engine.purge(&name, before, intent(validate_only)).await?;
        let (first_offset, purged_messages) = (purged.first, purged.messages);
        Ok(Response::new(v1::PurgeTopicResponse { first_offset, purged_messages }))
    }

    type WatchTopicsStream = BoxStream<'static, Result<v1::WatchTopicsResponse, Status>>;

    async fn watch_topics(
        &self,
        request: Request<v1::WatchTopicsRequest>,
    ) -> Result<Response<Self::WatchTopicsStream>, Status> {
        let filter = request.into_inner().filter;
        // Without a pattern, every topic: `check` tells that from a bad one.
        let pattern = check(|violations| Some(violations.pattern("filter", &filter)))?;
        let changes = self.0.engine.topic_changes()?;
        Ok(Response::new(Box::pin(watch::topics(self.0.clone(), changes, pattern))))
    }
}

fn retention(violations: &mut Violations, policy: v1::RetentionPolicy) -> Option<Retention> {
    let limit = |value: u64| (value > 0).then_some(value);
    let max_age = match policy.max_age {
        Some(age) => {
            let allowed = MIN_RETENTION_AGE..=MAX_RETENTION_AGE;
            Some(violations.duration("topic.retention.max_age", age, allowed)?)
        }
        None => None,
    };
    Some(Retention {
        max_age,
        max_bytes: limit(policy.max_bytes),
        max_messages: limit(policy.max_messages),
        delete_acked: policy.delete_acked,
    })
}

pub(super) fn intent(validate_only: bool) -> Intent {
    if validate_only { Intent::Validate } else { Intent::Apply }
}

fn name(topic: &str) -> Result<Name, Refusal> {
    check(|violations| violations.name("topic", topic))
}

fn settings(violations: &mut Violations, topic: &v1::Topic) -> Option<TopicSettings> {
    let change = change(violations, topic, &UPDATABLE);
    Some(TopicSettings {
        labels: change.labels?,
        durability: change.durability?,
        max_message_bytes: change.max_message_bytes?,
        retention: change.retention?,
        dedupe_window: change.dedupe_window?,
        key_index: topic.key_index,
        compacted: topic.compacted,
    })
}

/// The fields at `paths`; those left unset take their defaults.
fn change(violations: &mut Violations, topic: &v1::Topic, paths: &[&str]) -> TopicChange {
    let mut change = TopicChange::default();
    for &path in paths {
        match path {
            "labels" => change.labels = violations.labels("topic.labels", &topic.labels),
            "retention" => change.retention = retention(violations, topic.retention.unwrap_or_default()),
            "durability" => {
                let durability = violations.durability("topic.durability", topic.durability);
                change.durability = Some(durability.unwrap_or_default());
            }
            "dedupe_window" => {
                change.dedupe_window = match topic.dedupe_window {
                    Some(window) => violations.duration("topic.dedupe_window", window, WINDOWS),
                    None => Some(DEFAULT_DEDUPE_WINDOW),
                };
            }
            _ => {
                let (default, highest) = (DEFAULT_MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES);
                change.max_message_bytes =
                    violations.count("topic.max_message_bytes", topic.max_message_bytes, default, highest);
            }
        }
    }
    change
}
