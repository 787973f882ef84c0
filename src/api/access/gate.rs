//! The gate around every service. It has all methods of each, so a new one does not compile without.

use std::future::ready;
use std::pin::Pin;

use futures::FutureExt;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Access, Asks, Audit, Security, Told};
use crate::api::authenticate::Peer;
use crate::api::status;
use crate::api::wire::admin;
use crate::api::wire::admin::admin_service_server::AdminService;
use crate::api::wire::v1;
use crate::api::wire::v1::command_service_server::CommandService;
use crate::api::wire::v1::dead_letter_service_server::DeadLetterService;
use crate::api::wire::v1::key_value_service_server::KeyValueService;
use crate::api::wire::v1::publisher_service_server::PublisherService;
use crate::api::wire::v1::query_service_server::QueryService;
use crate::api::wire::v1::subscriber_service_server::SubscriberService;
use crate::api::wire::v1::subscription_service_server::SubscriptionService;
use crate::api::wire::v1::topic_service_server::TopicService;
use crate::authorization::Target;

/// Longest list of names in the audit log, in bytes.
const MAX_TOLD_BYTES: usize = 255;

/// A service that sees only what its callers may do.
pub(in crate::api) struct Guarded<S> {
    inner: S,
    security: Security,
}

/// What lets a request through: nothing more to do, or something to tell afterwards.
enum Passed {
    Silent,
    Told(Change),
}

/// Who changes what.
struct Change {
    access: Access,
    peer: Option<std::net::SocketAddr>,
    names: String,
}

impl<S> Guarded<S> {
    pub(in crate::api) fn new(inner: S, security: Security) -> Self {
        Self { inner, security }
    }

    fn enter<R: Asks>(&self, request: &Request<R>) -> Result<Passed, Status> {
        let message = request.get_ref();
        if self.security.authorizer.is_some() {
            let access = Access::of(request);
            // Every way here goes past the authenticator; should there be another, it is shut.
            let caller = access.caller().ok_or_else(status::unknown_caller)?;
            caller.check(message, R::RPC.streams).map_err(|denied| {
                caller.tell_denied(R::RPC, &denied);
                Status::from(denied)
            })?;
        }
        if !message.changes() {
            return Ok(Passed::Silent);
        }
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address);
        Ok(Passed::Told(Change { access: Access::of(request), peer, names: names(message) }))
    }

    fn tell<R: Asks>(change: &Change, outcome: Code) {
        let principal = change.access.caller().map(|caller| &*caller.principal().name);
        let told = Told { principal, peer: change.peer, service: R::RPC.service, method: R::RPC.method };
        Audit::changed(&told, &change.names, outcome);
    }
}

/// The names that a request is about.
fn names<R: Asks>(message: &R) -> String {
    let mut names = String::new();
    let _ = message.ask(|_, target| {
        if let Target::Names(name) = target {
            let separator = if names.is_empty() { "" } else { " " };
            names.push_str(separator);
            names.push_str(name);
        }
        if names.len() > MAX_TOLD_BYTES { Err(()) } else { Ok(()) }
    });
    status::clip(&names, MAX_TOLD_BYTES)
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

/// A service's trait for its guarded self, as `async_trait` would write it. Requests that pass without a
/// word get the service's own future: the gate costs them no allocation.
macro_rules! guarded {
    ($service:ident($($stream:ident),*) { $($method:ident($request:ty) -> $answer:ty;)* }) => {
        impl<S: $service> $service for Guarded<S> {
            $(type $stream = S::$stream;)*

            $(fn $method<'life0, 'async_trait>(
                &'life0 self,
                request: Request<$request>,
            ) -> Answer<'async_trait, $answer>
            where
                'life0: 'async_trait,
                Self: 'async_trait,
            {
                match self.enter(&request) {
                    Ok(Passed::Silent) => self.inner.$method(request),
                    Ok(Passed::Told(change)) => async move {
                        let answer = self.inner.$method(request).await;
                        let outcome = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
                        Self::tell::<$request>(&change, outcome);
                        answer
                    }
                    .boxed(),
                    Err(status) => ready(Err(status)).boxed(),
                }
            })*
        }
    };
}

guarded! {
    TopicService(WatchTopicsStream) {
        create_topic(v1::CreateTopicRequest) -> v1::CreateTopicResponse;
        get_topic(v1::GetTopicRequest) -> v1::GetTopicResponse;
        list_topics(v1::ListTopicsRequest) -> v1::ListTopicsResponse;
        update_topic(v1::UpdateTopicRequest) -> v1::UpdateTopicResponse;
        delete_topic(v1::DeleteTopicRequest) -> v1::DeleteTopicResponse;
        purge_topic(v1::PurgeTopicRequest) -> v1::PurgeTopicResponse;
        watch_topics(v1::WatchTopicsRequest) -> Self::WatchTopicsStream;
    }
}

guarded! {
    PublisherService(PublishStreamStream) {
        publish(v1::PublishRequest) -> v1::PublishResponse;
        publish_stream(Streaming<v1::PublishStreamRequest>) -> Self::PublishStreamStream;
        commit(v1::CommitRequest) -> v1::CommitResponse;
    }
}

guarded! {
    SubscriptionService() {
        create_subscription(v1::CreateSubscriptionRequest) -> v1::CreateSubscriptionResponse;
        get_subscription(v1::GetSubscriptionRequest) -> v1::GetSubscriptionResponse;
        list_subscriptions(v1::ListSubscriptionsRequest) -> v1::ListSubscriptionsResponse;
        update_subscription(v1::UpdateSubscriptionRequest) -> v1::UpdateSubscriptionResponse;
        delete_subscription(v1::DeleteSubscriptionRequest) -> v1::DeleteSubscriptionResponse;
        seek_subscription(v1::SeekSubscriptionRequest) -> v1::SeekSubscriptionResponse;
        get_subscription_stats(v1::GetSubscriptionStatsRequest) -> v1::GetSubscriptionStatsResponse;
    }
}

guarded! {
    SubscriberService(SubscribeStream, ConsumeStream) {
        subscribe(v1::SubscribeRequest) -> Self::SubscribeStream;
        ack(v1::AckRequest) -> v1::AckResponse;
        nack(v1::NackRequest) -> v1::NackResponse;
        extend_ack_deadline(v1::ExtendAckDeadlineRequest) -> v1::ExtendAckDeadlineResponse;
        pull(v1::PullRequest) -> v1::PullResponse;
        consume(Streaming<v1::ConsumeRequest>) -> Self::ConsumeStream;
        read_messages(v1::ReadMessagesRequest) -> v1::ReadMessagesResponse;
    }
}

guarded! {
    DeadLetterService() {
        list_dead_letters(v1::ListDeadLettersRequest) -> v1::ListDeadLettersResponse;
        redrive_dead_letters(v1::RedriveDeadLettersRequest) -> v1::RedriveDeadLettersResponse;
        purge_dead_letters(v1::PurgeDeadLettersRequest) -> v1::PurgeDeadLettersResponse;
    }
}

guarded! {
    CommandService(WatchCommandStream, HandleCommandsStream) {
        send_command(v1::SendCommandRequest) -> v1::SendCommandResponse;
        get_command(v1::GetCommandRequest) -> v1::GetCommandResponse;
        wait_command(v1::WaitCommandRequest) -> v1::WaitCommandResponse;
        watch_command(v1::WatchCommandRequest) -> Self::WatchCommandStream;
        cancel_command(v1::CancelCommandRequest) -> v1::CancelCommandResponse;
        list_commands(v1::ListCommandsRequest) -> v1::ListCommandsResponse;
        handle_commands(v1::HandleCommandsRequest) -> Self::HandleCommandsStream;
        complete_command(v1::CompleteCommandRequest) -> v1::CompleteCommandResponse;
        extend_command(v1::ExtendCommandRequest) -> v1::ExtendCommandResponse;
        drain_handler(v1::DrainHandlerRequest) -> v1::DrainHandlerResponse;
    }
}

guarded! {
    QueryService(WatchQueryStream, HandleQueriesStream) {
        query(v1::QueryRequest) -> v1::QueryResponse;
        watch_query(v1::WatchQueryRequest) -> Self::WatchQueryStream;
        handle_queries(v1::HandleQueriesRequest) -> Self::HandleQueriesStream;
        answer_query(v1::AnswerQueryRequest) -> v1::AnswerQueryResponse;
        publish_query_update(v1::PublishQueryUpdateRequest) -> v1::PublishQueryUpdateResponse;
        invalidate_queries(v1::InvalidateQueriesRequest) -> v1::InvalidateQueriesResponse;
    }
}

guarded! {
    KeyValueService(WatchEntriesStream) {
        create_bucket(v1::CreateBucketRequest) -> v1::CreateBucketResponse;
        get_bucket(v1::GetBucketRequest) -> v1::GetBucketResponse;
        list_buckets(v1::ListBucketsRequest) -> v1::ListBucketsResponse;
        update_bucket(v1::UpdateBucketRequest) -> v1::UpdateBucketResponse;
        delete_bucket(v1::DeleteBucketRequest) -> v1::DeleteBucketResponse;
        put(v1::PutRequest) -> v1::PutResponse;
        delete(v1::DeleteRequest) -> v1::DeleteResponse;
        put_batch(v1::PutBatchRequest) -> v1::PutBatchResponse;
        get(v1::GetRequest) -> v1::GetResponse;
        list_entries(v1::ListEntriesRequest) -> v1::ListEntriesResponse;
        watch_entries(v1::WatchEntriesRequest) -> Self::WatchEntriesStream;
        history(v1::HistoryRequest) -> v1::HistoryResponse;
    }
}

guarded! {
    AdminService(WatchEventsStream) {
        get_server_info(admin::GetServerInfoRequest) -> admin::GetServerInfoResponse;
        explain_message(admin::ExplainMessageRequest) -> admin::ExplainMessageResponse;
        list_consumers(admin::ListConsumersRequest) -> admin::ListConsumersResponse;
        list_handlers(admin::ListHandlersRequest) -> admin::ListHandlersResponse;
        watch_events(admin::WatchEventsRequest) -> Self::WatchEventsStream;
        explain_authorization(admin::ExplainAuthorizationRequest) -> admin::ExplainAuthorizationResponse;
    }
}
