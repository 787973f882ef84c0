//! `SubscriberService`.

use std::time::Duration;

use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::access::Access;
use super::settle::{Of, Settle, acked, extended, nacked};
use super::status::Refusal;
use super::validate::{Violations, check};
use super::wire::v1::{self, subscriber_service_server::SubscriberService};
use super::{Context, consume, convert, subscribe};
use crate::engine::ReadLimit;
use crate::model::Start;
use crate::model::limits::{
    DEFAULT_READ_BYTES, DEFAULT_READ_MESSAGES, MAX_PULL_WAIT, MAX_READ_BYTES, MAX_READ_MESSAGES,
};

pub(super) struct Subscriber(pub(super) Context);

#[async_trait]
impl SubscriberService for Subscriber {
    type SubscribeStream = BoxStream<'static, Result<v1::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let opened = subscribe::open(&self.0, request.into_inner()).await?;
        Ok(Response::new(Box::pin(subscribe::events(self.0.clone(), opened))))
    }

    async fn ack(&self, request: Request<v1::AckRequest>) -> Result<Response<v1::AckResponse>, Status> {
        let settled = Settle::ack(request.into_inner(), Of::Request)?.run(&*self.0.engine).await?;
        Ok(Response::new(acked(settled)))
    }

    async fn nack(&self, request: Request<v1::NackRequest>) -> Result<Response<v1::NackResponse>, Status> {
        let settled = Settle::nack(request.into_inner(), Of::Request)?.run(&*self.0.engine).await?;
        Ok(Response::new(nacked(settled)))
    }

    async fn extend_ack_deadline(
        &self,
        request: Request<v1::ExtendAckDeadlineRequest>,
    ) -> Result<Response<v1::ExtendAckDeadlineResponse>, Status> {
        let settled = Settle::extend(request.into_inner(), Of::Request)?.run(&*self.0.engine).await?;
        Ok(Response::new(extended(settled)))
    }

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<v1::PullResponse>, Status> {
        let v1::PullRequest { subscription, max_messages, max_bytes, wait } = request.into_inner();
        let (subscription, limit, wait) = check(|violations| {
            let subscription = violations.name("subscription", &subscription);
            let limit = read_limit(violations, max_messages, max_bytes);
            let wait = match wait {
                None => Some(Duration::ZERO),
                Some(wait) => violations.duration("wait", wait, Duration::ZERO..=MAX_PULL_WAIT),
            };
            Some((subscription?, limit?, wait?))
        })?;
        let deliveries = tokio::select! {
            biased;
            pulled = self.0.engine.pull(&subscription, limit, wait) => pulled?,
            () = self.0.stop.cancelled() => return Err(Refusal::shutting_down().into()),
        };
        let deliveries = convert::Stored::default().deliveries(deliveries);
        Ok(Response::new(v1::PullResponse { deliveries }))
    }

    type ConsumeStream = BoxStream<'static, Result<v1::ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (context, access) = (self.0.clone(), Access::of(&request));
        Ok(Response::new(Box::pin(consume::events(context, access, request.into_inner()))))
    }

    async fn read_messages(
        &self,
        request: Request<v1::ReadMessagesRequest>,
    ) -> Result<Response<v1::ReadMessagesResponse>, Status> {
        let v1::ReadMessagesRequest { topic, start, max_messages, max_bytes } = request.into_inner();
        let (topic, start, limit) = check(|violations| {
            let topic = violations.name("topic", &topic);
            let start = violations.start("start", start, Start::Earliest);
            let limit = read_limit(violations, max_messages, max_bytes);
            Some((topic?, start?, limit?))
        })?;
        let read = self.0.engine.read(&topic, start, limit).await?;
        let mut stored = convert::Stored::default();
        let messages = read.into_iter().map(|message| stored.message(message)).collect();
        Ok(Response::new(v1::ReadMessagesResponse { messages }))
    }
}

fn read_limit(violations: &mut Violations, max_messages: u32, max_bytes: u64) -> Option<ReadLimit> {
    let messages = usize::try_from(max_messages).unwrap_or(usize::MAX);
    let messages = violations.count("max_messages", messages, DEFAULT_READ_MESSAGES, MAX_READ_MESSAGES);
    let bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    let bytes = violations.count("max_bytes", bytes, DEFAULT_READ_BYTES, MAX_READ_BYTES);
    Some(ReadLimit { messages: messages?, bytes: bytes? })
}
