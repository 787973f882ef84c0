//! `Subscribe`: the stream of one consumer.
//!
//! The stream is pulled by the transport and has no task and no channel of its own. Messages are leased
//! only when the transport asks for the next event. It asks a little ahead of what the client has room
//! for, so a client that stops reading holds at most two batches that it has not seen. A stream that is
//! dropped drops its consumer, which gives its leases back at once.

use std::time::Duration;

use futures::{Stream, stream};
use tokio::time::sleep;
use tonic::Status;

use super::status::Refusal;
use super::validate::{Violations, check};
use super::wire::v1::subscribe_request::Target as WireTarget;
use super::wire::v1::subscribe_response::Event;
use super::wire::v1::{DeliveryBatch, Goaway, Heartbeat, Started, SubscribeRequest, SubscribeResponse};
use super::{Context, convert};
use crate::engine::{Consumer, Credit, Error, Target};
use crate::model::limits::{
    DEFAULT_OUTSTANDING_BYTES, DEFAULT_OUTSTANDING_MESSAGES, MAX_NAME_BYTES, MAX_OUTSTANDING_BYTES,
    MAX_OUTSTANDING_MESSAGES,
};
use crate::model::{Name, Start, Timestamp};

/// How long clients should wait before they connect to the next server.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// An open consumer.
pub(super) struct Opened {
    pub(super) consumer: Box<dyn Consumer>,
    pub(super) credit: Credit,
    /// The durable subscription; none for an ephemeral one.
    pub(super) subscription: Option<Name>,
}

/// Opens a consumer as the request asks.
pub(super) async fn open(context: &Context, request: SubscribeRequest) -> Result<Opened, Refusal> {
    let name = request.consumer.clone();
    let (target, credit) = check(|violations| read(violations, request))?;
    if context.stop.is_cancelled() {
        return Err(Refusal::shutting_down());
    }
    let subscription = match &target {
        Target::Durable(subscription) => Some(subscription.clone()),
        Target::Ephemeral { .. } => None,
    };
    let consumer = context.engine.subscribe_as(target, credit, &name).await?;
    tracing::debug!(consumer = consumer.id(), name, ?subscription, "consumer opened");
    Ok(Opened { consumer, credit, subscription })
}

fn read(violations: &mut Violations, request: SubscribeRequest) -> Option<(Target, Credit)> {
    let target = match request.target {
        Some(WireTarget::Subscription(name)) => violations.name("subscription", &name).map(Target::Durable),
        Some(WireTarget::Ephemeral(ephemeral)) => {
            let topic = violations.topics("ephemeral.topic", &ephemeral.topic);
            let start =
                violations.start_in("ephemeral.start", ephemeral.start, Start::Latest, topic.as_ref());
            let filter = violations.filter("ephemeral.filter", &ephemeral.filter);
            let target = |topic, start, filter| Target::Ephemeral { topic, start, filter };
            topic.zip(start).zip(filter).map(|((topic, start), filter)| target(topic, start, filter))
        }
        None => violations.refuse("target", "REQUIRED", "is required; set `subscription` or `ephemeral`"),
    };
    let consumer = violations.text("consumer", &request.consumer, MAX_NAME_BYTES);
    let credit = credit(
        violations,
        request.max_outstanding_messages,
        request.max_outstanding_bytes,
        Credit { messages: DEFAULT_OUTSTANDING_MESSAGES, bytes: DEFAULT_OUTSTANDING_BYTES },
    );
    consumer?;
    Some((target?, credit?))
}

/// Reads a credit; what is 0 takes its default.
pub(super) fn credit(
    violations: &mut Violations,
    messages: u32,
    bytes: u64,
    defaults: Credit,
) -> Option<Credit> {
    let messages =
        violations.count("max_outstanding_messages", messages, defaults.messages, MAX_OUTSTANDING_MESSAGES);
    let bytes = violations.count("max_outstanding_bytes", bytes, defaults.bytes, MAX_OUTSTANDING_BYTES);
    Some(Credit { messages: messages?, bytes: bytes? })
}

/// What happens on the stream.
pub(super) fn events(
    context: Context,
    opened: Opened,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> + Send {
    let first = Phase::Starting(started(&opened));
    let state = Subscription { context, opened, stored: convert::Stored::default(), phase: first };
    stream::unfold(state, async |mut state| {
        let event = state.next().await?;
        let response = event.map(|event| SubscribeResponse { event: Some(event) });
        Some((response.map_err(Status::from), state))
    })
}

struct Subscription {
    context: Context,
    opened: Opened,
    stored: convert::Stored,
    phase: Phase,
}

enum Phase {
    Starting(Started),
    Live,
    /// A Goaway was sent; the status follows.
    Leaving(Refusal),
    Ended,
}

impl Subscription {
    /// The next event, the error that ends the stream, or its end.
    async fn next(&mut self) -> Option<Result<Event, Refusal>> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Starting(started) => {
                self.phase = Phase::Live;
                Some(Ok(Event::Started(started)))
            }
            Phase::Live => Some(self.live().await),
            Phase::Leaving(refusal) => Some(Err(refusal)),
            Phase::Ended => None,
        }
    }

    async fn live(&mut self) -> Result<Event, Refusal> {
        let deliveries = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => Err(Error::Closed),
            next = self.opened.consumer.next() => next,
            () = sleep(self.context.heartbeat) => {
                self.phase = Phase::Live;
                return Ok(Event::Heartbeat(heartbeat()));
            }
        };
        match deliveries {
            Ok(deliveries) => {
                self.phase = Phase::Live;
                Ok(Event::Batch(DeliveryBatch { deliveries: self.stored.deliveries(deliveries) }))
            }
            Err(error) => match goaway(&error) {
                Some(goaway) => {
                    self.phase = Phase::Leaving(error.into());
                    Ok(Event::Goaway(goaway))
                }
                None => Err(error.into()),
            },
        }
    }
}

pub(super) fn started(opened: &Opened) -> Started {
    Started {
        consumer_id: opened.consumer.id().to_owned(),
        subscription: opened.subscription.as_ref().map(Name::to_string).unwrap_or_default(),
        server_time: Some(convert::timestamp(Timestamp::now())),
    }
}

pub(super) fn heartbeat() -> Heartbeat {
    Heartbeat { server_time: Some(convert::timestamp(Timestamp::now())) }
}

/// What to send before a stream ends with this error, if it is the server that leaves.
pub(super) fn goaway(error: &Error) -> Option<Goaway> {
    matches!(error, Error::Closed | Error::Failed(_)).then(|| Goaway {
        reason: error.to_string(),
        reconnect_after: Some(convert::duration(RECONNECT_AFTER)),
    })
}
