//! `TopicService` and `AdminService`.

use std::collections::HashMap;

use columba::proto::admin::GetServerInfoRequest;
use columba::proto::v1::start_position::Position;
use columba::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, Durability, GetTopicRequest, Latest, ListTopicsRequest,
    PurgeTopicRequest, RetentionPolicy, StartPosition, Topic, UpdateTopicRequest,
};
use prost_types::FieldMask;
use tonic::Code;
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, bad_fields, within};

fn create(topic: Topic) -> CreateTopicRequest {
    CreateTopicRequest { topic: Some(topic), validate_only: false }
}

fn named(name: &str) -> Topic {
    Topic { name: name.into(), ..Topic::default() }
}

fn update(topic: Topic, paths: &[&str]) -> UpdateTopicRequest {
    let paths = paths.iter().map(|&path| path.into()).collect();
    UpdateTopicRequest { topic: Some(topic), update_mask: Some(FieldMask { paths }), validate_only: false }
}

#[tokio::test]
async fn a_topic_is_created_found_changed_and_deleted() {
    let server = TestServer::start().await;
    let mut topics = server.topics();

    let created = topics.create_topic(create(named("orders"))).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((created.first_offset, created.last_offset), (1, 0));
    assert_eq!(created.durability(), Durability::Fsynced);
    assert_eq!(created.max_message_bytes, 1 << 20);
    assert!(created.create_time.is_some() && !created.etag.is_empty());

    server.publish("orders", &["a", "b"]).await;
    let request = GetTopicRequest { topic: "orders".into() };
    let found = topics.get_topic(request.clone()).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((found.first_offset, found.last_offset), (1, 2));

    let labels = HashMap::from([("team".to_owned(), "blue".to_owned())]);
    let change = Topic { labels: labels.clone(), max_message_bytes: 10, ..named("orders") };
    let changed = topics.update_topic(update(change, &["labels"])).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((changed.labels, changed.max_message_bytes), (labels, 1 << 20));
    assert_ne!(changed.etag, created.etag);

    let delete = DeleteTopicRequest { topic: "orders".into(), etag: changed.etag };
    topics.delete_topic(delete).await.unwrap();
    let status = assert_refused(topics.get_topic(request).await, Code::NotFound, "TOPIC_NOT_FOUND");
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "orders");
    assert!(status.message().contains("CreateTopic"), "{status:?}");
}

#[tokio::test]
async fn creating_again_succeeds_with_the_same_settings_only() {
    let server = TestServer::start().await;
    let mut topics = server.topics();
    let first = topics.create_topic(create(named("orders"))).await.unwrap().into_inner();
    let again = topics.create_topic(create(named("orders"))).await.unwrap().into_inner();
    assert_eq!(again, first);
    let other = Topic { max_message_bytes: 10, ..named("orders") };
    assert_refused(topics.create_topic(create(other)).await, Code::AlreadyExists, "TOPIC_EXISTS");
}

#[tokio::test]
async fn validate_only_creates_and_changes_nothing() {
    let server = TestServer::start().await;
    let mut topics = server.topics();
    let request = CreateTopicRequest { validate_only: true, ..create(named("orders")) };
    topics.create_topic(request).await.unwrap();
    let get = GetTopicRequest { topic: "orders".into() };
    assert_refused(topics.get_topic(get.clone()).await, Code::NotFound, "TOPIC_NOT_FOUND");

    server.create_topic("orders").await;
    let change = Topic { max_message_bytes: 10, ..named("orders") };
    let request = UpdateTopicRequest { validate_only: true, ..update(change, &["max_message_bytes"]) };
    let shown = topics.update_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(shown.max_message_bytes, 10);
    let kept = topics.get_topic(get).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(kept.max_message_bytes, 1 << 20);
}

#[tokio::test]
async fn an_etag_guards_against_lost_updates() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let mut topics = server.topics();
    for etag in ["ff", "no etag of ours", "-1"] {
        let change = Topic { etag: etag.into(), max_message_bytes: 10, ..named("orders") };
        let changed = topics.update_topic(update(change, &["max_message_bytes"])).await;
        assert_refused(changed, Code::Aborted, "ETAG_MISMATCH");
        let delete = DeleteTopicRequest { topic: "orders".into(), etag: etag.into() };
        assert_refused(topics.delete_topic(delete).await, Code::Aborted, "ETAG_MISMATCH");
    }
}

#[tokio::test]
async fn a_topic_with_subscriptions_stays() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    let delete = DeleteTopicRequest { topic: "orders".into(), etag: String::new() };
    let status =
        assert_refused(server.topics().delete_topic(delete).await, Code::FailedPrecondition, "TOPIC_IN_USE");
    assert!(status.message().contains("billing"), "{status:?}");
    assert!(status.get_details_precondition_failure().is_some());
}

#[tokio::test]
async fn hostile_names_are_refused_wherever_they_stand() {
    let server = TestServer::start().await;
    let mut topics = server.topics();
    let long = "x".repeat(256);
    for name in ["", "../etc/passwd", "a\0b", "naïve", "🕊", "a..b", ".a", "a/b", "_system", "a b", &long]
    {
        let status = assert_refused(
            topics.create_topic(create(named(name))).await,
            Code::InvalidArgument,
            "INVALID_NAME",
        );
        assert_eq!(bad_fields(&status), ["topic.name"], "{name:?}");
        let get = GetTopicRequest { topic: name.into() };
        assert_refused(topics.get_topic(get).await, Code::InvalidArgument, "INVALID_NAME");
        let delete = DeleteTopicRequest { topic: name.into(), etag: String::new() };
        assert_refused(topics.delete_topic(delete).await, Code::InvalidArgument, "INVALID_NAME");
    }
}

#[tokio::test]
async fn every_bad_field_is_named_at_once() {
    let server = TestServer::start().await;
    let topic = Topic {
        name: "a/b".into(),
        labels: HashMap::from([("n".repeat(64), "v".repeat(256))]),
        durability: 77,
        max_message_bytes: (8 << 20) + 1,
        ..Topic::default()
    };
    let status = assert_refused(
        server.topics().create_topic(create(topic)).await,
        Code::InvalidArgument,
        "INVALID_NAME",
    );
    let fields =
        ["topic.name", "topic.labels", "topic.labels", "topic.durability", "topic.max_message_bytes"];
    assert_eq!(bad_fields(&status), fields);
    assert!(status.message().contains("77"), "{status:?}");

    let nothing = CreateTopicRequest::default();
    let status =
        assert_refused(server.topics().create_topic(nothing).await, Code::InvalidArgument, "REQUIRED");
    assert_eq!(bad_fields(&status), ["topic"]);
}

#[tokio::test]
async fn an_update_mask_names_only_what_can_change() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let request = update(named("orders"), &["name", "stored_bytes", "nonsense"]);
    let refused = server.topics().update_topic(request).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD_MASK");
    assert_eq!(bad_fields(&status).len(), 3);
    assert!(status.message().contains("use labels, retention, durability, dedupe_window,"), "{status:?}");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = TestServer::start().await;
    for name in ["b.two", "a", "b.one", "b.three", "c"] {
        server.create_topic(name).await;
    }
    let mut topics = server.topics();
    let list = |page_token: String| ListTopicsRequest { page_size: 2, page_token, filter: "b.*".into() };
    let names = |topics: Vec<Topic>| topics.into_iter().map(|topic| topic.name).collect::<Vec<_>>();

    let first = topics.list_topics(list(String::new())).await.unwrap().into_inner();
    assert_eq!(names(first.topics), ["b.one", "b.three"]);
    let second = topics.list_topics(list(first.next_page_token.clone())).await.unwrap().into_inner();
    assert_eq!(names(second.topics), ["b.two"]);
    assert_eq!(second.next_page_token, "");

    let all = topics.list_topics(ListTopicsRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(all.topics), ["a", "b.one", "b.three", "b.two", "c"]);

    let of_another_list = ListTopicsRequest { page_token: first.next_page_token, ..Default::default() };
    let garbage = ListTopicsRequest { page_token: "🕊".into(), ..Default::default() };
    for request in [of_another_list, garbage] {
        assert_refused(topics.list_topics(request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    }
    let request = ListTopicsRequest { page_size: 1_001, filter: "a.>.b".into(), ..Default::default() };
    let status = assert_refused(topics.list_topics(request).await, Code::InvalidArgument, "TOO_LARGE");
    assert_eq!(bad_fields(&status), ["page_size", "filter"]);
}

#[tokio::test]
async fn the_server_says_what_it_is() {
    let server = TestServer::start().await;
    let info = server.admin().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert!(!info.engine.is_empty() && info.start_time.is_some() && info.capabilities.is_some());
    let limits = info.limits.unwrap();
    assert_eq!((limits.max_publish_messages, limits.max_ack_ids), (10_000, 10_000));
    assert_eq!(
        (limits.max_unfinished_commands, limits.max_unfinished_commands_per_type),
        (1_000_000, 500_000)
    );
    assert_eq!((limits.max_command_payload_bytes, limits.max_command_result_bytes), (1 << 20, 1 << 20));
    assert_eq!((limits.max_command_types, limits.max_handlers), (1_000, 10_000));
    assert_eq!((limits.max_query_bytes, limits.max_query_result_bytes), (1 << 20, (4 << 20) - (64 << 10)));
    assert_eq!((limits.max_open_queries, limits.max_query_watchers), (20_000, 10_000));
    assert_eq!((limits.max_buckets, limits.max_value_bytes), (1_000, 8 << 20));
    assert_eq!((limits.max_batch_entries, limits.max_entry_watches), (1_000, 1_000));
}

#[tokio::test]
async fn a_topic_keeps_what_its_retention_says() {
    let server = TestServer::start().await;
    let mut topics = server.topics();
    let age = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
    let policy = RetentionPolicy { max_age: age, max_messages: 2, ..RetentionPolicy::default() };
    let request = create(Topic { retention: Some(policy), ..named("orders") });
    let created = topics.create_topic(request.clone()).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(created.retention, Some(policy));
    topics.create_topic(request).await.unwrap();
    server.publish("orders", &["a", "b", "c"]).await;
    let first = async {
        loop {
            let request = GetTopicRequest { topic: "orders".into() };
            let topic = topics.get_topic(request).await.unwrap().into_inner().topic.unwrap();
            if topic.first_offset > 1 {
                return topic.first_offset;
            }
        }
    };
    assert_eq!(within(first).await, 2);
    let unlimited = update(named("orders"), &["retention"]);
    let changed = topics.update_topic(unlimited).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(changed.retention, None);
}

#[tokio::test]
async fn bad_retention_is_refused() {
    let server = TestServer::start().await;
    let mut topics = server.topics();
    let age = Some(prost_types::Duration { seconds: 0, nanos: 999_999_999 });
    let policy = RetentionPolicy { max_age: age, ..RetentionPolicy::default() };
    let request = create(Topic { retention: Some(policy), ..named("orders") });
    let status =
        assert_refused(topics.create_topic(request).await, Code::InvalidArgument, "INVALID_DURATION");
    assert_eq!(bad_fields(&status), ["topic.retention.max_age"]);

    let policy = RetentionPolicy { max_bytes: 1_000, ..RetentionPolicy::default() };
    let request = create(Topic { retention: Some(policy), ..named("orders") });
    let refused = topics.create_topic(request).await;
    let status = assert_refused(refused, Code::InvalidArgument, "CONTRADICTORY_SETTINGS");
    assert!(status.message().contains("retention.max_bytes is 1000"), "{status:?}");
}

#[tokio::test]
async fn a_purge_drops_what_came_before() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.publish("orders", &["a", "b", "c"]).await;
    let mut topics = server.topics();
    let purge = |topic: &str, position| PurgeTopicRequest {
        topic: topic.into(),
        position: Some(StartPosition { position: Some(position) }),
        validate_only: false,
    };
    let dry = PurgeTopicRequest { validate_only: true, ..purge("orders", Position::Latest(Latest {})) };
    let shown = topics.purge_topic(dry).await.unwrap().into_inner();
    assert_eq!((shown.first_offset, shown.purged_messages), (4, 3));
    let purged = topics.purge_topic(purge("orders", Position::Offset(3))).await.unwrap().into_inner();
    assert_eq!((purged.first_offset, purged.purged_messages), (3, 2));

    let refused = topics.purge_topic(purge("orders", Position::Offset(5))).await;
    let status = assert_refused(refused, Code::InvalidArgument, "OFFSET_BEYOND_END");
    assert_eq!(bad_fields(&status), ["position.offset"]);
    let refused =
        topics.purge_topic(PurgeTopicRequest { topic: "orders".into(), ..Default::default() }).await;
    assert_eq!(bad_fields(&assert_refused(refused, Code::InvalidArgument, "REQUIRED")), ["position"]);
    let refused = topics.purge_topic(purge("others", Position::Offset(1))).await;
    assert_refused(refused, Code::NotFound, "TOPIC_NOT_FOUND");
}
