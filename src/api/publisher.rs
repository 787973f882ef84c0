//! `PublisherService`.

use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::access::Access;
use super::status::Refusal;
use super::validate::{Violations, check};
use super::wire::v1::{self, publisher_service_server::PublisherService};
use super::{Context, commit, convert, envelope, publish_stream};
use crate::engine::{Engine, PendingReceipt, Terms};
use crate::model::limits::{MAX_PUBLISH_BYTES, MAX_PUBLISH_MESSAGES};
use crate::model::{Envelope, Name};

pub(super) struct Publisher(pub(super) Context);

#[async_trait]
impl PublisherService for Publisher {
    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let receipt = submit(&*self.0.engine, request.into_inner()).await?.await?;
        Ok(Response::new(convert::receipt(receipt)))
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        Ok(Response::new(commit::commit(&self.0, request.into_inner()).await?))
    }

    type PublishStreamStream = BoxStream<'static, Result<v1::PublishStreamResponse, Status>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (context, access) = (self.0.clone(), Access::of(&request));
        Ok(Response::new(Box::pin(publish_stream::answers(context, access, request.into_inner()))))
    }
}

/// Checks a publish and submits it; when this returns, its place among others is fixed.
pub(super) async fn submit(
    engine: &dyn Engine,
    request: v1::PublishRequest,
) -> Result<PendingReceipt, Refusal> {
    let (topic, messages, terms) = check(|violations| read(violations, request))?;
    Ok(engine.submit(&topic, messages, terms).await?)
}

/// Checks a publish.
pub(super) fn read(
    violations: &mut Violations,
    request: v1::PublishRequest,
) -> Option<(Name, Vec<Envelope>, Terms)> {
    let topic = violations.name("topic", &request.topic);
    let durability = violations.durability("durability", request.durability);
    match request.messages.len() {
        0 => violations.add("messages", "REQUIRED", "is empty; send 1 to 10,000 messages"),
        1..=MAX_PUBLISH_MESSAGES => {}
        many => {
            let description = format!("has {many} entries; send at most {MAX_PUBLISH_MESSAGES} at once");
            return violations.refuse("messages", "TOO_MANY_MESSAGES", description);
        }
    }
    let mut bytes = 0;
    for (index, message) in request.messages.iter().enumerate() {
        bytes += message.len();
        envelope::check(violations, index, message);
    }
    if bytes > MAX_PUBLISH_BYTES {
        let description = format!("has {bytes} bytes in all; send at most {MAX_PUBLISH_BYTES} at once");
        violations.add("messages", "TOO_MANY_BYTES", description);
    }
    let messages: Vec<_> = request.messages.into_iter().map(Envelope).collect();
    if request.expected_key_offset.is_some() {
        check_keys(violations, &messages);
    }
    let (expected_last, expected_key) = (request.expected_last_offset, request.expected_key_offset);
    Some((topic?, messages, Terms { durability, expected_last, expected_key }))
}

/// All messages must have one key for something to be expected of it.
fn check_keys(violations: &mut Violations, messages: &[Envelope]) {
    let key = messages.first().map_or("", |message| message.header().key);
    if key.is_empty() {
        let description = "is set, but messages[0] has no key; give all messages the key that is meant";
        violations.add("expected_key_offset", "KEY_REQUIRED", description);
    } else if let Some(at) = messages.iter().position(|message| message.header().key != key) {
        let description = format!(
            "is set, but messages[{at}] has another key than messages[0]; publish each key on its own"
        );
        violations.add("expected_key_offset", "KEYS_DIFFER", description);
    }
}
