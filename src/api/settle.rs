//! Acks, nacks and extensions, alone or on a Consume stream.

use std::time::Duration;

use bytes::Bytes;

use super::convert;
use super::status::Refusal;
use super::validate::{Violations, check};
use super::wire::v1;
use crate::engine::{Engine, Retry, Settled, Settlement};
use crate::model::Name;
use crate::model::limits::{MAX_ACK_DEADLINE, MAX_REASON_BYTES, MIN_ACK_DEADLINE};

/// What a client wants done with deliveries.
#[derive(Debug)]
pub(super) struct Settle {
    subscription: Name,
    ids: Vec<Bytes>,
    settlement: Settlement,
}

/// The subscription that settlements are for.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// The one that the request names.
    Request,
    /// This stream's; the request may name it again.
    Stream(&'a Name),
}

impl Settle {
    pub(super) fn ack(request: v1::AckRequest, of: Of<'_>) -> Result<Self, Refusal> {
        let v1::AckRequest { subscription, ack_ids, cumulative } = request;
        Self::read(&subscription, ack_ids, of, |_| Some(Settlement::Ack { cumulative }))
    }

    pub(super) fn nack(request: v1::NackRequest, of: Of<'_>) -> Result<Self, Refusal> {
        let v1::NackRequest { subscription, ack_ids, retry_delay, dead_letter, reason } = request;
        Self::read(&subscription, ack_ids, of, |violations| {
            let retry = match retry_delay {
                Some(_) if dead_letter => {
                    let description = "is set, and `dead_letter`, too; leave one of them out";
                    violations.refuse("retry_delay", "CONTRADICTION", description)
                }
                Some(delay) => violations
                    .duration("retry_delay", delay, Duration::ZERO..=MAX_ACK_DEADLINE)
                    .map(Retry::After),
                None if dead_letter => Some(Retry::Never),
                None => Some(Retry::ByPolicy),
            };
            violations.text("reason", &reason, MAX_REASON_BYTES);
            Some(Settlement::Nack { retry: retry?, reason: reason.into() })
        })
    }

    pub(super) fn extend(request: v1::ExtendAckDeadlineRequest, of: Of<'_>) -> Result<Self, Refusal> {
        let v1::ExtendAckDeadlineRequest { subscription, ack_ids, deadline } = request;
        Self::read(&subscription, ack_ids, of, |violations| {
            let deadline = match deadline {
                None => None,
                Some(span) => {
                    Some(violations.duration("deadline", span, MIN_ACK_DEADLINE..=MAX_ACK_DEADLINE)?)
                }
            };
            Some(Settlement::Extend { deadline })
        })
    }

    fn read(
        subscription: &str,
        ids: Vec<Bytes>,
        of: Of<'_>,
        settlement: impl FnOnce(&mut Violations) -> Option<Settlement>,
    ) -> Result<Self, Refusal> {
        check(|violations| {
            let subscription = match of {
                Of::Stream(own) if subscription.is_empty() || subscription == own.as_str() => {
                    Some(own.clone())
                }
                Of::Stream(own) => violations.refuse(
                    "subscription",
                    "WRONG_SUBSCRIPTION",
                    format!("is not {own}, which this stream reads; leave it empty, or use the unary call"),
                ),
                Of::Request => violations.name("subscription", subscription),
            };
            let ids = violations.ack_ids(ids);
            let settlement = settlement(violations);
            Some(Self { subscription: subscription?, ids: ids?, settlement: settlement? })
        })
    }

    /// Has the engine do it.
    pub(super) async fn run(self, engine: &dyn Engine) -> Result<Settled, Refusal> {
        Ok(engine.settle(&self.subscription, self.ids, self.settlement).await?)
    }
}

pub(super) fn acked(settled: Settled) -> v1::AckResponse {
    v1::AckResponse { committed_offset: settled.committed_offset, failures: failures(settled) }
}

pub(super) fn nacked(settled: Settled) -> v1::NackResponse {
    v1::NackResponse { failures: failures(settled) }
}

pub(super) fn extended(settled: Settled) -> v1::ExtendAckDeadlineResponse {
    v1::ExtendAckDeadlineResponse { failures: failures(settled) }
}

fn failures(settled: Settled) -> Vec<v1::AckFailure> {
    settled.failures.into_iter().map(convert::failure).collect()
}
