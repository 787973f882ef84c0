//! `PublishStream`: publishes in a pipeline.

use std::future::ready;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, stream};
use tonic::{Status, Streaming};

use super::access::Access;
use super::status::{Refusal, explain};
use super::wire::v1::publish_stream_response::Result as Outcome;
use super::wire::v1::{PublishError, PublishStreamRequest, PublishStreamResponse};
use super::{Context, convert, publisher};
use crate::model::limits::MAX_PUBLISH_STREAM_IN_FLIGHT;

type Answer = Result<PublishStreamResponse, Status>;

/// The answers to a stream of publishes, in the order of the requests.
///
/// `then` submits one request after the other, so their order is the order of arrival; `buffered`
/// awaits their receipts together and lets no more than its number be under way. Nothing runs unless
/// the transport asks for an answer, so a client that does not read is not read from either. When the
/// server stops, what was submitted is answered before the stream ends.
pub(super) fn answers(
    context: Context,
    access: Access,
    requests: Streaming<PublishStreamRequest>,
) -> impl Stream<Item = Answer> + Send {
    let stop = context.stop.clone();
    let farewell = stream::once(ready(()))
        .filter_map(move |()| ready(stop.is_cancelled().then(|| Err(Refusal::shutting_down().into()))));
    requests
        .take_until(context.stop.clone().cancelled_owned())
        .then(move |request| submit(context.clone(), access.clone(), request))
        .buffered(MAX_PUBLISH_STREAM_IN_FLIGHT)
        .chain(farewell)
}

/// Submits one request and returns what will be its answer.
async fn submit(
    context: Context,
    access: Access,
    request: Result<PublishStreamRequest, Status>,
) -> BoxFuture<'static, Answer> {
    let PublishStreamRequest { request_id, publish } = match request {
        Ok(request) => request,
        Err(status) => return ready(Err(explain(&status))).boxed(),
    };
    let submitted = match publish {
        Some(publish) => match access.check(&publish) {
            Ok(()) => publisher::submit(&*context.engine, publish).await,
            Err(refusal) => Err(refusal),
        },
        None => Err(Refusal::field("publish", "REQUIRED", "is required; say what to publish")),
    };
    async move {
        let receipt = match submitted {
            Ok(pending) => pending.await.map_err(Refusal::from),
            Err(refusal) => Err(refusal),
        };
        let outcome = match receipt {
            Ok(receipt) => Outcome::Receipt(convert::receipt(receipt)),
            Err(refusal) => Outcome::Error(PublishError {
                code: refusal.code(),
                message: refusal.message(),
                reason: refusal.reason().into(),
                metadata: refusal.metadata().clone(),
            }),
        };
        Ok(PublishStreamResponse { request_id, result: Some(outcome) })
    }
    .boxed()
}
