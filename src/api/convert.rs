//! Domain types as wire messages.

use std::time::Duration;

use bytes::Bytes;

use super::wire::admin;
use super::wire::v1::{self, start_position::Position};
use crate::cqrs::handlers::{HandlerInfo, HandlerKind};
use crate::engine::Failure;
use crate::model::{
    ConsumerInfo, Delivery, Duplicate, Durability, Mode, Name, Receipt, Retention, RetryPolicy, Start,
    StoredMessage, Subscription, SubscriptionStats, Timestamp, Topic,
};

pub(super) fn topic(topic: Topic) -> v1::Topic {
    v1::Topic {
        name: topic.name.to_string(),
        labels: topic.settings.labels.into_iter().collect(),
        retention: retention(&topic.settings.retention),
        durability: durability(topic.settings.durability),
        dedupe_window: Some(duration(topic.settings.dedupe_window)),
        max_message_bytes: topic.settings.max_message_bytes,
        etag: etag(topic.revision),
        create_time: Some(timestamp(topic.create_time)),
        first_offset: topic.first_offset,
        last_offset: topic.last_offset,
        stored_bytes: topic.stored_bytes,
        key_index: topic.settings.key_index,
        compacted: topic.settings.compacted,
    }
}

pub(super) fn subscription(subscription: Subscription) -> v1::Subscription {
    let settings = subscription.settings;
    v1::Subscription {
        name: subscription.name.to_string(),
        topic: settings.topic.to_string(),
        mode: match settings.mode {
            Mode::Shared => v1::DeliveryMode::Shared.into(),
            Mode::Exclusive => v1::DeliveryMode::Exclusive.into(),
            Mode::KeyOrdered => v1::DeliveryMode::KeyOrdered.into(),
        },
        start: Some(start(settings.start)),
        ack_deadline: Some(duration(settings.ack_deadline)),
        max_in_flight: settings.max_in_flight,
        retry: retry(settings.retry),
        filter: settings.filter.text().to_owned(),
        idle_expiry: (!settings.idle_expiry.is_zero()).then(|| duration(settings.idle_expiry)),
        paused: settings.paused,
        labels: settings.labels.into_iter().collect(),
        etag: etag(subscription.revision),
        create_time: Some(timestamp(subscription.create_time)),
    }
}

/// Unset, if everything is kept.
fn retention(retention: &Retention) -> Option<v1::RetentionPolicy> {
    (!retention.keeps_all()).then(|| v1::RetentionPolicy {
        max_age: retention.max_age.map(duration),
        max_bytes: retention.max_bytes.unwrap_or_default(),
        max_messages: retention.max_messages.unwrap_or_default(),
        delete_acked: retention.delete_acked,
    })
}

/// Unset, if everything is as it is without a policy.
fn retry(policy: RetryPolicy) -> Option<v1::RetryPolicy> {
    (policy != RetryPolicy::default()).then(|| v1::RetryPolicy {
        min_backoff: Some(duration(policy.backoff.min)),
        max_backoff: Some(duration(policy.backoff.max)),
        max_attempts: policy.max_attempts,
        dead_letter_topic: policy.dead_letter_topic.map(|topic| topic.to_string()).unwrap_or_default(),
    })
}

/// The figures as of `now`.
pub(super) fn stats(stats: &SubscriptionStats, now: Timestamp) -> v1::SubscriptionStats {
    let age = |published: Timestamp| duration(Duration::from_micros(now.0.saturating_sub(published.0)));
    v1::SubscriptionStats {
        backlog_messages: stats.backlog_messages,
        in_flight: stats.in_flight,
        oldest_unacked_age: stats.oldest_unacked.map(age),
        committed_offset: stats.committed_offset,
        redelivered: stats.redelivered,
        dead_lettered: stats.dead_lettered,
        consumers: stats.consumers,
        time: Some(timestamp(now)),
        scheduled: stats.scheduled,
    }
}

pub(super) fn consumer(consumer: ConsumerInfo) -> admin::Consumer {
    admin::Consumer {
        id: consumer.id,
        name: consumer.name,
        subscription: consumer.subscription.to_string(),
        connect_time: Some(timestamp(consumer.since)),
        outstanding_messages: consumer.outstanding_messages,
        outstanding_bytes: consumer.outstanding_bytes,
        max_outstanding_messages: consumer.max_messages,
        max_outstanding_bytes: consumer.max_bytes,
    }
}

pub(super) fn handler(handler: HandlerInfo) -> admin::Handler {
    admin::Handler {
        id: handler.id,
        kind: match handler.kind {
            HandlerKind::Command => admin::HandlerKind::Command.into(),
            HandlerKind::Query => admin::HandlerKind::Query.into(),
        },
        name: handler.name,
        types: handler.types.iter().map(Name::to_string).collect(),
        connect_time: Some(timestamp(handler.since)),
        outstanding: handler.outstanding,
        max_outstanding: handler.max_outstanding,
        answered: handler.answered,
        failed: handler.failed,
    }
}

pub(super) fn receipt(receipt: Receipt) -> v1::PublishResponse {
    v1::PublishResponse {
        first_offset: receipt.first,
        last_offset: receipt.last,
        duplicates: receipt.duplicates.into_iter().map(duplicate).collect(),
        durability: durability(receipt.durability),
    }
}

fn duplicate(Duplicate { index, offset }: Duplicate) -> v1::Duplicate {
    v1::Duplicate { index, offset }
}

pub(super) fn failure((ack_id, failure): (Bytes, Failure)) -> v1::AckFailure {
    let reason = match failure {
        Failure::Expired => v1::AckFailureReason::Expired,
        Failure::Unknown => v1::AckFailureReason::Unknown,
        Failure::AlreadySettled => v1::AckFailureReason::AlreadySettled,
        Failure::WrongSubscription => v1::AckFailureReason::WrongSubscription,
    };
    v1::AckFailure { ack_id, reason: reason.into() }
}

/// Makes wire messages of stored ones. Remembers the last topic as wire bytes, so that a run of
/// messages of one topic shares one buffer for its name.
#[derive(Default)]
pub(super) struct Stored {
    topic: Option<(Name, Bytes)>,
}

impl Stored {
    pub(super) fn message(&mut self, message: StoredMessage) -> v1::StoredMessage {
        v1::StoredMessage {
            topic: self.topic(message.topic),
            offset: message.offset,
            publish_time: Some(timestamp(message.publish_time)),
            message: Some(message.envelope.0),
        }
    }

    pub(super) fn delivery(&mut self, delivery: Delivery) -> v1::Delivery {
        v1::Delivery {
            ack_id: delivery.ack_id,
            attempt: delivery.attempt,
            message: Some(self.message(delivery.message)),
        }
    }

    pub(super) fn deliveries(&mut self, deliveries: Vec<Delivery>) -> Vec<v1::Delivery> {
        deliveries.into_iter().map(|delivery| self.delivery(delivery)).collect()
    }

    fn topic(&mut self, name: Name) -> Bytes {
        match &self.topic {
            Some((last, bytes)) if *last == name => bytes.clone(),
            _ => {
                let bytes = Bytes::copy_from_slice(name.as_str().as_bytes());
                self.topic = Some((name, bytes.clone()));
                bytes
            }
        }
    }
}

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, micros) = (time.0 / 1_000_000, time.0 % 1_000_000);
    prost_types::Timestamp {
        seconds: seconds.cast_signed(),
        nanos: i32::try_from(micros * 1_000).expect("less than a second"),
    }
}

/// Spans beyond what protobuf can say become the longest it can.
pub(super) fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span)
        .unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 999_999_999 })
}

fn durability(durability: Durability) -> i32 {
    match durability {
        Durability::Buffered => v1::Durability::Buffered.into(),
        Durability::Fsynced => v1::Durability::Fsynced.into(),
    }
}

fn start(start: Start) -> v1::StartPosition {
    let position = match start {
        Start::Earliest => Position::Earliest(v1::Earliest {}),
        Start::Latest => Position::Latest(v1::Latest {}),
        Start::Offset(offset) => Position::Offset(offset),
        Start::Time(time) => Position::Time(timestamp(time)),
    };
    v1::StartPosition { position: Some(position) }
}

/// Opaque to clients; see `validate::etag` for the way back.
fn etag(revision: u64) -> String {
    format!("{revision:x}")
}
