//! What `AdminService` tells about messages and consumers.

use columba::proto::admin::{
    ExplainMessageRequest, ExplainMessageResponse, ListConsumersRequest, MessageState,
};
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::{AckRequest, PullRequest, SubscribeRequest};
use tonic::Code;

use crate::common::{TestServer, assert_refused, bad_fields};

async fn explain(server: &TestServer, topic: &str, offset: u64) -> ExplainMessageResponse {
    let request = ExplainMessageRequest { topic: topic.into(), offset };
    server.admin().explain_message(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_message_is_explained() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    for name in ["audit", "billing"] {
        server.create_subscription(name, "orders").await;
    }
    server.publish("orders", &["a", "b"]).await;
    let pull = PullRequest { subscription: "billing".into(), ..Default::default() };
    let deliveries = server.subscriber().pull(pull).await.unwrap().into_inner().deliveries;
    let ack = AckRequest {
        subscription: "billing".into(),
        ack_ids: vec![deliveries[1].ack_id.clone()],
        cumulative: false,
    };
    server.subscriber().ack(ack).await.unwrap();

    let first = explain(&server, "orders", 1).await;
    assert_eq!((first.topic.as_str(), first.offset, first.size_bytes), ("orders", 1, 3));
    assert!(first.publish_time.is_some());
    let [audit, billing] = &first.journeys[..] else { panic!("{first:?}") };
    assert_eq!((audit.subscription.as_str(), audit.state()), ("audit", MessageState::NotReached));
    assert_eq!((billing.subscription.as_str(), billing.state()), ("billing", MessageState::InFlight));
    assert!(billing.attempts == 1 && billing.until.is_some() && billing.consumer.is_empty());
    let second = explain(&server, "orders", 2).await;
    assert_eq!(second.journeys[1].state(), MessageState::Settled);
}

#[tokio::test]
async fn what_cannot_be_explained_is_refused() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.publish("orders", &["a"]).await;
    let mut admin = server.admin();
    let bad = ExplainMessageRequest { topic: "a/b".into(), offset: 0 };
    let status = assert_refused(admin.explain_message(bad).await, Code::InvalidArgument, "INVALID_NAME");
    assert_eq!(bad_fields(&status), ["topic", "offset"]);
    for offset in [2, u64::MAX] {
        let missing = ExplainMessageRequest { topic: "orders".into(), offset };
        let status =
            assert_refused(admin.explain_message(missing).await, Code::NotFound, "MESSAGE_NOT_FOUND");
        assert!(status.message().contains("its last one is 1"), "{status:?}");
    }
    let unknown = ExplainMessageRequest { topic: "none".into(), offset: 1 };
    assert_refused(admin.explain_message(unknown).await, Code::NotFound, "TOPIC_NOT_FOUND");
}

#[tokio::test]
async fn consumers_are_listed_in_pages() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    for name in ["audit", "billing"] {
        server.create_subscription(name, "orders").await;
    }
    let mut streams = Vec::new();
    for (subscription, consumer) in [("billing", "one"), ("audit", "two"), ("billing", "three")] {
        let request = SubscribeRequest {
            target: Some(Target::Subscription(subscription.into())),
            consumer: consumer.into(),
            max_outstanding_messages: 7,
            ..Default::default()
        };
        streams.push(server.subscriber().subscribe(request).await.unwrap().into_inner());
    }
    let list = async |subscription: &str, page_size, page_token: &str| {
        let request = ListConsumersRequest {
            subscription: subscription.into(),
            page_size,
            page_token: page_token.into(),
        };
        let page = server.admin().list_consumers(request).await.unwrap().into_inner();
        let names: Vec<_> = page.consumers.iter().map(|consumer| consumer.name.clone()).collect();
        (names, page)
    };
    let (names, page) = list("", 2, "").await;
    assert_eq!(names, ["one", "two"]);
    let one = &page.consumers[0];
    assert_eq!((one.subscription.as_str(), one.max_outstanding_messages), ("billing", 7));
    assert!(!one.id.is_empty() && one.connect_time.is_some() && one.max_outstanding_bytes == 16 << 20);
    let (names, last) = list("", 2, &page.next_page_token).await;
    assert_eq!((names, last.next_page_token), (vec!["three".to_owned()], String::new()));
    assert_eq!(list("billing", 0, "").await.0, ["one", "three"]);

    let request = |subscription: &str, page_token: &str| ListConsumersRequest {
        subscription: subscription.into(),
        page_size: 0,
        page_token: page_token.into(),
    };
    let mut admin = server.admin();
    let refused = admin.list_consumers(request("billing", &page.next_page_token)).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    assert_refused(admin.list_consumers(request("_own", "")).await, Code::InvalidArgument, "INVALID_NAME");
    assert_refused(admin.list_consumers(request("none", "")).await, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
}
