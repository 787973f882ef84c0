//! What every call asks for: the one table from RPCs to verbs and names.

use std::iter::once;

use super::{Asks, Rpc};
use crate::api::wire::admin;
use crate::api::wire::v1;
use crate::api::wire::v1::operation::Operation;
use crate::api::wire::v1::subscribe_request::Target as Subscribed;
use crate::authorization::Target::{self, Any};
use crate::authorization::Verb;

/// A name that the request gives.
fn name(text: &str) -> Target<'_> {
    Target::Names(text)
}

/// A name or pattern; all names, if it is left empty.
fn all_of(text: &str) -> Target<'_> {
    Target::Names(if text.is_empty() { ">" } else { text })
}

/// A name in a part of the request. Without the part it is empty: then the request is refused later.
fn within<'r, T>(part: Option<&'r T>, text: impl FnOnce(&'r T) -> &'r str) -> Target<'r> {
    Target::Names(part.map_or("", text))
}

/// A name that may be left out.
fn given(text: &str) -> Option<Target<'_>> {
    (!text.is_empty()).then_some(Target::Names(text))
}

/// Several names. Without any, the request is refused later.
fn each(texts: &[String]) -> impl Iterator<Item = Target<'_>> {
    let none = texts.is_empty().then_some(Target::Names(""));
    texts.iter().map(|text| name(text)).chain(none)
}

/// The names of two fields, of which one should be set.
fn either<'r>(one: &'r str, other: &'r str) -> impl Iterator<Item = Target<'r>> {
    let none = (one.is_empty() && other.is_empty()).then_some(Target::Names(""));
    given(one).into_iter().chain(given(other)).chain(none)
}

fn dead_letter_topic(subscription: Option<&v1::Subscription>) -> Option<Target<'_>> {
    given(&subscription?.retry.as_ref()?.dead_letter_topic)
}

fn subscribed(request: &v1::SubscribeRequest) -> Target<'_> {
    match &request.target {
        Some(Subscribed::Subscription(subscription)) => name(subscription),
        Some(Subscribed::Ephemeral(ephemeral)) => name(&ephemeral.topic),
        None => name(""),
    }
}

fn published(request: &v1::CommitRequest) -> impl Iterator<Item = Target<'_>> {
    request.operations.iter().filter_map(|operation| match &operation.operation {
        Some(Operation::Publish(publish)) => Some(name(&publish.topic)),
        _ => None,
    })
}

fn acked(request: &v1::CommitRequest) -> impl Iterator<Item = Target<'_>> {
    request.operations.iter().filter_map(|operation| match &operation.operation {
        Some(Operation::Ack(ack)) => Some(name(&ack.subscription)),
        _ => None,
    })
}

/// Somebody else than the caller is asked about.
fn about_others(request: &admin::ExplainAuthorizationRequest) -> Option<Target<'_>> {
    (!request.principal.is_empty() || !request.groups.is_empty()).then(|| name(&request.name))
}

/// Makes [`Asks`] of each line, and the list of all. A line has the method, the request, `stream` if it
/// stays open, `changes if` where it changes what there is, and what it asks for: verbs, the fields that say of
/// which names, and how they are got.
macro_rules! table {
    ($(
        $service:literal {$(
            $method:ident($request:ty $(, $stream:ident)?), |$r:ident| $(changes if $changes:expr,)?
            [$( $verb:ident $fields:literal => $targets:expr ),*];
        )*}
    )*) => {
        $($(
            impl Asks for $request {
                const RPC: &'static Rpc = &Rpc {
                    service: $service,
                    method: stringify!($method),
                    streams: !stringify!($($stream)?).is_empty(),
                    asks: &[$((Verb::$verb, $fields)),*],
                };

                #[allow(unused_variables, unused_mut, reason = "some ask for nothing")]
                fn ask<E>(&self, mut ask: impl FnMut(Verb, Target<'_>) -> Result<(), E>) -> Result<(), E> {
                    let $r = self;
                    $(for target in IntoIterator::into_iter($targets) {
                        ask(Verb::$verb, target)?;
                    })*
                    Ok(())
                }

                $(#[allow(unused_variables, reason = "some always do")]
                fn changes(&self) -> bool {
                    let $r = self;
                    $changes
                })?
            }
        )*)*

        /// Every RPC of the server's own services.
        #[cfg(test)]
        pub(super) const TABLE: &[&Rpc] = &[$($(<$request as Asks>::RPC),*),*];
    };
}

table! {
    "columba.v1.TopicService" {
        CreateTopic(v1::CreateTopicRequest), |r| changes if !r.validate_only,
            [Manage "topic.name" => once(within(r.topic.as_ref(), |topic| &topic.name))];
        GetTopic(v1::GetTopicRequest), |r|
            [Read "topic" => once(name(&r.topic))];
        ListTopics(v1::ListTopicsRequest), |r|
            [Read "filter, or all" => once(all_of(&r.filter))];
        UpdateTopic(v1::UpdateTopicRequest), |r| changes if !r.validate_only,
            [Manage "topic.name" => once(within(r.topic.as_ref(), |topic| &topic.name))];
        DeleteTopic(v1::DeleteTopicRequest), |r| changes if true,
            [Manage "topic" => once(name(&r.topic))];
        PurgeTopic(v1::PurgeTopicRequest), |r| changes if !r.validate_only,
            [Manage "topic" => once(name(&r.topic))];
        WatchTopics(v1::WatchTopicsRequest, stream), |r|
            [Read "filter, or all" => once(all_of(&r.filter))];
    }
    "columba.v1.PublisherService" {
        Publish(v1::PublishRequest), |r|
            [Publish "topic" => once(name(&r.topic))];
        // Each publish is asked about on its own.
        PublishStream(v1::PublishStreamRequest, stream), |r|
            [Publish "publish.topic, of each request" => once(Any)];
        Commit(v1::CommitRequest), |r|
            [Publish "operations.publish.topic" => published(r),
             Consume "operations.ack.subscription" => acked(r)];
    }
    "columba.v1.SubscriptionService" {
        // Whoever creates a subscription decides which messages its consumers get.
        CreateSubscription(v1::CreateSubscriptionRequest), |r| changes if !r.validate_only,
            [Manage "subscription.name" => once(within(r.subscription.as_ref(), |one| &one.name)),
             Consume "subscription.topic" => once(within(r.subscription.as_ref(), |one| &one.topic)),
             Publish "subscription.retry.dead_letter_topic" => dead_letter_topic(r.subscription.as_ref())];
        GetSubscription(v1::GetSubscriptionRequest), |r|
            [Read "subscription" => once(name(&r.subscription))];
        ListSubscriptions(v1::ListSubscriptionsRequest), |r|
            [Read "filter, or all" => once(all_of(&r.filter))];
        UpdateSubscription(v1::UpdateSubscriptionRequest), |r| changes if !r.validate_only,
            [Manage "subscription.name" => once(within(r.subscription.as_ref(), |one| &one.name)),
             Publish "subscription.retry.dead_letter_topic" => dead_letter_topic(r.subscription.as_ref())];
        DeleteSubscription(v1::DeleteSubscriptionRequest), |r| changes if true,
            [Manage "subscription" => once(name(&r.subscription))];
        SeekSubscription(v1::SeekSubscriptionRequest), |r| changes if true,
            [Manage "subscription" => once(name(&r.subscription))];
        GetSubscriptionStats(v1::GetSubscriptionStatsRequest), |r|
            [Read "subscription" => once(name(&r.subscription))];
    }
    "columba.v1.SubscriberService" {
        Subscribe(v1::SubscribeRequest, stream), |r|
            [Consume "subscription or ephemeral.topic" => once(subscribed(r))];
        Ack(v1::AckRequest), |r|
            [Consume "subscription" => once(name(&r.subscription))];
        Nack(v1::NackRequest), |r|
            [Consume "subscription" => once(name(&r.subscription))];
        ExtendAckDeadline(v1::ExtendAckDeadlineRequest), |r|
            [Consume "subscription" => once(name(&r.subscription))];
        Pull(v1::PullRequest), |r|
            [Consume "subscription" => once(name(&r.subscription))];
        // The first request is asked about on its own, and the others are about the same.
        Consume(v1::ConsumeRequest, stream), |r|
            [Consume "subscribe.subscription or subscribe.ephemeral.topic" => once(Any)];
        ReadMessages(v1::ReadMessagesRequest), |r|
            [Consume "topic" => once(name(&r.topic))];
    }
    "columba.v1.DeadLetterService" {
        ListDeadLetters(v1::ListDeadLettersRequest), |r|
            [Consume "subscription or topic" => either(&r.subscription, &r.topic)];
        RedriveDeadLetters(v1::RedriveDeadLettersRequest), |r| changes if !r.dry_run,
            [Manage "subscription or topic" => either(&r.subscription, &r.topic),
             Publish "target_topic" => given(&r.target_topic)];
        PurgeDeadLetters(v1::PurgeDeadLettersRequest), |r| changes if !r.dry_run,
            [Manage "subscription or topic" => either(&r.subscription, &r.topic)];
    }
    "columba.v1.CommandService" {
        SendCommand(v1::SendCommandRequest), |r|
            [Send "command.type" => once(within(r.command.as_ref(), |command| &command.r#type))];
        // The type is known once the command is found.
        GetCommand(v1::GetCommandRequest), |r|
            [Read "the type of the command" => once(Any)];
        WaitCommand(v1::WaitCommandRequest), |r|
            [Read "the type of the command" => once(Any)];
        WatchCommand(v1::WatchCommandRequest, stream), |r|
            [Read "the type of the command" => once(Any)];
        CancelCommand(v1::CancelCommandRequest), |r|
            [Send "the type of the command" => once(Any)];
        ListCommands(v1::ListCommandsRequest), |r|
            [Read "type, or all" => once(all_of(&r.r#type))];
        HandleCommands(v1::HandleCommandsRequest, stream), |r|
            [Handle "types" => each(&r.types)];
        // Nobody can make up an `ack_id`: it came to one who may handle the type.
        CompleteCommand(v1::CompleteCommandRequest), |r|
            [Handle "any" => once(Any),
             Publish "events.topic" => r.events.iter().map(|events| name(&events.topic))];
        ExtendCommand(v1::ExtendCommandRequest), |r|
            [Handle "any" => once(Any)];
        // Its types, which are known once it is found, must all be allowed.
        DrainHandler(v1::DrainHandlerRequest), |r|
            [Handle "any" => once(Any)];
    }
    "columba.v1.QueryService" {
        Query(v1::QueryRequest), |r|
            [Query "type" => once(name(&r.r#type))];
        WatchQuery(v1::WatchQueryRequest, stream), |r|
            [Query "type" => once(name(&r.r#type))];
        HandleQueries(v1::HandleQueriesRequest, stream), |r|
            [Handle "types" => each(&r.types)];
        // Nobody can make up a `query_id`: it came to one who may handle the type.
        AnswerQuery(v1::AnswerQueryRequest), |r|
            [Handle "any" => once(Any)];
        PublishQueryUpdate(v1::PublishQueryUpdateRequest), |r|
            [Handle "type" => once(name(&r.r#type))];
        InvalidateQueries(v1::InvalidateQueriesRequest), |r|
            [Handle "type" => once(name(&r.r#type))];
    }
    "columba.v1.KeyValueService" {
        CreateBucket(v1::CreateBucketRequest), |r| changes if true,
            [Manage "bucket.name" => once(within(r.bucket.as_ref(), |bucket| &bucket.name))];
        GetBucket(v1::GetBucketRequest), |r|
            [Read "bucket" => once(name(&r.bucket))];
        ListBuckets(v1::ListBucketsRequest), |r|
            [Read "all" => once(all_of(""))];
        UpdateBucket(v1::UpdateBucketRequest), |r| changes if true,
            [Manage "bucket.name" => once(within(r.bucket.as_ref(), |bucket| &bucket.name))];
        DeleteBucket(v1::DeleteBucketRequest), |r| changes if true,
            [Manage "bucket" => once(name(&r.bucket))];
        Put(v1::PutRequest), |r|
            [Write "bucket" => once(name(&r.bucket))];
        Delete(v1::DeleteRequest), |r|
            [Write "bucket" => once(name(&r.bucket))];
        PutBatch(v1::PutBatchRequest), |r|
            [Write "bucket" => once(name(&r.bucket))];
        Get(v1::GetRequest), |r|
            [Read "bucket" => once(name(&r.bucket))];
        ListEntries(v1::ListEntriesRequest), |r|
            [Read "bucket" => once(name(&r.bucket))];
        WatchEntries(v1::WatchEntriesRequest, stream), |r|
            [Read "bucket" => once(name(&r.bucket))];
        History(v1::HistoryRequest), |r|
            [Read "bucket" => once(name(&r.bucket))];
    }
    "columba.admin.v1.AdminService" {
        GetServerInfo(admin::GetServerInfoRequest), |r| [];
        ExplainMessage(admin::ExplainMessageRequest), |r|
            [Admin "topic" => once(name(&r.topic))];
        ListConsumers(admin::ListConsumersRequest), |r|
            [Admin "subscription, or all" => once(all_of(&r.subscription))];
        ListHandlers(admin::ListHandlersRequest), |r|
            [Admin "type, or all" => once(all_of(&r.r#type))];
        WatchEvents(admin::WatchEventsRequest, stream), |r|
            [Admin "all" => once(all_of(""))];
        ExplainAuthorization(admin::ExplainAuthorizationRequest), |r|
            [Admin "name, if it is about somebody else" => about_others(r)];
    }
}
