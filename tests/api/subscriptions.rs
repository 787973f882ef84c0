//! `SubscriptionService`.

use std::collections::HashMap;

use columba::proto::v1::start_position::Position;
use columba::proto::v1::{
    CreateSubscriptionRequest, DeleteSubscriptionRequest, DeliveryMode, Earliest, GetSubscriptionRequest,
    GetSubscriptionStatsRequest, ListSubscriptionsRequest, PullRequest, RetryPolicy, SeekSubscriptionRequest,
    StartPosition, SubscribeRequest, Subscription, UpdateSubscriptionRequest, subscribe_request::Target,
};
use prost_types::{Duration, FieldMask};
use tonic::Code;

use crate::common::{TestServer, assert_refused, bad_fields, within};

fn named(name: &str, topic: &str) -> Subscription {
    Subscription { name: name.into(), topic: topic.into(), ..Subscription::default() }
}

fn create(subscription: Subscription) -> CreateSubscriptionRequest {
    CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false }
}

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

#[tokio::test]
async fn a_subscription_is_created_found_changed_and_deleted() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let mut subscriptions = server.subscriptions();

    let made = subscriptions.create_subscription(create(named("billing", "orders"))).await.unwrap();
    let made = made.into_inner().subscription.unwrap();
    assert_eq!(
        (made.mode(), made.ack_deadline, made.max_in_flight),
        (DeliveryMode::Shared, Some(seconds(30)), 10_000)
    );
    assert!(matches!(made.start, Some(StartPosition { position: Some(Position::Earliest(_)) })));

    let get = GetSubscriptionRequest { subscription: "billing".into() };
    let found = subscriptions.get_subscription(get.clone()).await.unwrap().into_inner().subscription;
    assert_eq!(found.as_ref(), Some(&made));

    let change = Subscription {
        ack_deadline: Some(seconds(60)),
        labels: HashMap::from([("team".into(), "blue".into())]),
        etag: made.etag.clone(),
        ..named("billing", "")
    };
    let mask = FieldMask { paths: vec!["ack_deadline".into()] };
    let request = UpdateSubscriptionRequest {
        subscription: Some(change),
        update_mask: Some(mask),
        validate_only: false,
    };
    let changed = subscriptions.update_subscription(request.clone()).await.unwrap();
    let changed = changed.into_inner().subscription.unwrap();
    assert_eq!((changed.ack_deadline, changed.labels.len()), (Some(seconds(60)), 0));
    let stale = subscriptions.update_subscription(request).await;
    assert_refused(stale, Code::Aborted, "ETAG_MISMATCH");

    let delete = DeleteSubscriptionRequest { subscription: "billing".into(), etag: changed.etag };
    subscriptions.delete_subscription(delete).await.unwrap();
    let gone = subscriptions.get_subscription(get).await;
    assert_refused(gone, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
}

#[tokio::test]
async fn creating_again_succeeds_with_the_same_settings_only() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let mut subscriptions = server.subscriptions();
    for _ in 0..2 {
        subscriptions.create_subscription(create(named("billing", "orders"))).await.unwrap();
    }
    let other = Subscription { max_in_flight: 1, ..named("billing", "orders") };
    let refused = subscriptions.create_subscription(create(other)).await;
    assert_refused(refused, Code::AlreadyExists, "SUBSCRIPTION_EXISTS");
    let nowhere = subscriptions.create_subscription(create(named("other", "nothing"))).await;
    assert_refused(nowhere, Code::NotFound, "TOPIC_NOT_FOUND");
}

#[tokio::test]
async fn bad_settings_are_refused_together() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let bad = Subscription {
        name: "../billing".into(),
        topic: String::new(),
        mode: 9,
        start: Some(StartPosition { position: None }),
        ack_deadline: Some(seconds(-5)),
        max_in_flight: 1_000_001,
        ..Subscription::default()
    };
    let refused = server.subscriptions().create_subscription(create(bad)).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_NAME");
    let mut fields = bad_fields(&status);
    fields.sort();
    let suffixes = ["ack_deadline", "max_in_flight", "mode", "name", "start", "topic"];
    assert_eq!(fields, suffixes.map(|field| format!("subscription.{field}")));
}

#[tokio::test]
async fn invalid_durations_are_refused() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    for (seconds, nanos) in [
        (0, 999_999_999),
        (43_200, 1),
        (-1, 0),
        (5, -1),
        (5, 1_000_000_000),
        (i64::MAX, 0),
        (i64::MIN, i32::MIN),
    ] {
        let ack_deadline = Some(Duration { seconds, nanos });
        let bad = Subscription { ack_deadline, ..named("billing", "orders") };
        let refused = server.subscriptions().create_subscription(create(bad)).await;
        let status = assert_refused(refused, Code::InvalidArgument, "INVALID_DURATION");
        assert!(status.message().contains("1s to 12h"), "{status:?}");
    }
}

#[tokio::test]
async fn lists_can_be_cut_to_a_topic() {
    let server = TestServer::start().await;
    for topic in ["orders", "users"] {
        server.create_topic(topic).await;
        for name in ["one", "two"] {
            server.create_subscription(&format!("{topic}.{name}"), topic).await;
        }
    }
    let mut subscriptions = server.subscriptions();
    let request = ListSubscriptionsRequest { topic: "users".into(), page_size: 1, ..Default::default() };
    let first = subscriptions.list_subscriptions(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.subscriptions[0].name, "users.one");
    let next = ListSubscriptionsRequest { page_token: first.next_page_token, ..request };
    let second = subscriptions.list_subscriptions(next.clone()).await.unwrap().into_inner();
    assert_eq!((second.subscriptions[0].name.as_str(), second.next_page_token.as_str()), ("users.two", ""));
    let of_another_topic = ListSubscriptionsRequest { topic: "orders".into(), ..next };
    let refused = subscriptions.list_subscriptions(of_another_topic).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
}

#[tokio::test]
async fn stats_count_what_is_left() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    server.publish("orders", &["a", "b"]).await;
    let request = GetSubscriptionStatsRequest { subscription: "billing".into() };
    let stats = server.subscriptions().get_subscription_stats(request).await.unwrap().into_inner();
    let stats = stats.stats.unwrap();
    assert_eq!((stats.backlog_messages, stats.in_flight, stats.committed_offset), (2, 0, 0));
    assert!(stats.oldest_unacked_age.is_some() && stats.time.is_some());
    let request = GetSubscriptionStatsRequest { subscription: "nothing".into() };
    let unknown = server.subscriptions().get_subscription_stats(request).await;
    assert_refused(unknown, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
}

fn seek(subscription: &str, position: Option<Position>) -> SeekSubscriptionRequest {
    let position = Some(StartPosition { position });
    SeekSubscriptionRequest { subscription: subscription.into(), position }
}

#[tokio::test]
async fn a_subscription_is_moved() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    server.publish("orders", &["a", "b", "c"]).await;
    let mut subscriptions = server.subscriptions();
    let moved = subscriptions.seek_subscription(seek("billing", Some(Position::Offset(3)))).await.unwrap();
    assert_eq!(moved.into_inner().committed_offset, 2);
    let moved = subscriptions.seek_subscription(seek("billing", Some(Position::Earliest(Earliest {}))));
    assert_eq!(moved.await.unwrap().into_inner().committed_offset, 0);

    let beyond = subscriptions.seek_subscription(seek("billing", Some(Position::Offset(5)))).await;
    let status = assert_refused(beyond, Code::InvalidArgument, "OFFSET_BEYOND_END");
    assert_eq!(bad_fields(&status), ["position.offset"]);
    assert!(status.message().contains("use at most 4"), "{status:?}");
    let zero = subscriptions.seek_subscription(seek("billing", Some(Position::Offset(0)))).await;
    assert_refused(zero, Code::InvalidArgument, "INVALID_OFFSET");
    let nowhere = SeekSubscriptionRequest { subscription: "billing".into(), position: None };
    let nowhere = subscriptions.seek_subscription(nowhere).await;
    assert_eq!(bad_fields(&assert_refused(nowhere, Code::InvalidArgument, "REQUIRED")), ["position"]);
    let unknown = subscriptions.seek_subscription(seek("nothing", Some(Position::Offset(1)))).await;
    assert_refused(unknown, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
}

#[tokio::test]
async fn pausing_ends_streams_and_refuses_more() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    let request = SubscribeRequest {
        target: Some(Target::Subscription("billing".into())),
        ..SubscribeRequest::default()
    };
    let mut stream = server.subscriber().subscribe(request.clone()).await.unwrap().into_inner();
    within(stream.message()).await.unwrap().expect("Started");
    let pause = |paused| UpdateSubscriptionRequest {
        subscription: Some(Subscription { paused, ..named("billing", "") }),
        update_mask: Some(FieldMask { paths: vec!["paused".into()] }),
        validate_only: false,
    };
    server.subscriptions().update_subscription(pause(true)).await.unwrap();
    let ended = within(stream.message()).await;
    assert_refused(ended, Code::FailedPrecondition, "SUBSCRIPTION_PAUSED");
    let again = server.subscriber().subscribe(request.clone()).await;
    assert_refused(again, Code::FailedPrecondition, "SUBSCRIPTION_PAUSED");
    let pull = PullRequest { subscription: "billing".into(), ..PullRequest::default() };
    let pulled = server.subscriber().pull(pull).await;
    assert_refused(pulled, Code::FailedPrecondition, "SUBSCRIPTION_PAUSED");
    server.subscriptions().update_subscription(pause(false)).await.unwrap();
    server.subscriber().subscribe(request).await.unwrap();
}

#[tokio::test]
async fn a_retry_policy_is_kept_as_it_was_set() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_topic("dead").await;
    let mut subscriptions = server.subscriptions();
    let with = |retry| create(Subscription { retry: Some(retry), ..named("billing", "orders") });
    let policy = RetryPolicy {
        min_backoff: Some(seconds(1)),
        max_backoff: None,
        max_attempts: 5,
        dead_letter_topic: "dead".into(),
    };
    let made = subscriptions.create_subscription(with(policy.clone())).await.unwrap();
    let made = made.into_inner().subscription.unwrap().retry.unwrap();
    assert_eq!(made, RetryPolicy { max_backoff: Some(seconds(600)), ..policy.clone() });

    let contradictory =
        RetryPolicy { max_backoff: Some(Duration { seconds: 0, nanos: 1 }), ..policy.clone() };
    let refused = subscriptions.create_subscription(with(contradictory)).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_DURATION");
    assert_eq!(bad_fields(&status), ["subscription.retry.max_backoff"]);
    assert!(status.message().contains("use 1s to 12h"), "{status:?}");
    let endless = RetryPolicy { max_attempts: 100_001, ..policy.clone() };
    let refused = subscriptions.create_subscription(with(endless)).await;
    assert_refused(refused, Code::InvalidArgument, "TOO_LARGE");
    for (topic, code, reason) in [
        ("orders", Code::InvalidArgument, "DEAD_LETTER_LOOP"),
        ("nothing", Code::NotFound, "TOPIC_NOT_FOUND"),
        ("dead.*", Code::InvalidArgument, "INVALID_NAME"),
    ] {
        let policy = RetryPolicy { dead_letter_topic: topic.into(), ..policy.clone() };
        let other = create(Subscription { retry: Some(policy), ..named("other", "orders") });
        assert_refused(subscriptions.create_subscription(other).await, code, reason);
    }
}
