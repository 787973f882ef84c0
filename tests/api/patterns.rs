//! Subscriptions that read all the topics that a pattern covers.

use bytes::Bytes;
use columba::proto::v1::start_position::Position;
use columba::proto::v1::subscribe_response::Event;
use columba::proto::v1::{
    AckRequest, CreateSubscriptionRequest, DeleteTopicRequest, Delivery, Earliest, EphemeralSubscription,
    GetSubscriptionStatsRequest, GetTopicRequest, ListDeadLettersRequest, ListSubscriptionsRequest,
    NackRequest, PullRequest, ReadMessagesRequest, RedriveDeadLettersRequest, RetryPolicy,
    SeekSubscriptionRequest, StartPosition, SubscribeRequest, Subscription, subscribe_request::Target,
};
use tonic::{Code, Status};

use crate::common::{TestServer, assert_refused, bad_fields, publish, within};

fn named(name: &str, topic: &str) -> Subscription {
    Subscription { name: name.into(), topic: topic.into(), ..Subscription::default() }
}

fn dead_letters_to(topic: &str) -> RetryPolicy {
    RetryPolicy { dead_letter_topic: topic.into(), ..RetryPolicy::default() }
}

async fn create(server: &TestServer, subscription: Subscription) -> Result<Subscription, Status> {
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    let response = server.subscriptions().create_subscription(request).await?.into_inner();
    Ok(response.subscription.unwrap())
}

async fn pull(server: &TestServer, subscription: &str) -> Vec<Delivery> {
    let request = PullRequest { subscription: subscription.into(), max_messages: 100, ..Default::default() };
    server.subscriber().pull(request).await.unwrap().into_inner().deliveries
}

fn topics(deliveries: &[Delivery]) -> Vec<&str> {
    let mut topics: Vec<_> =
        deliveries.iter().map(|delivery| &*delivery.message.as_ref().unwrap().topic).collect();
    topics.sort_unstable();
    topics
}

fn ids(deliveries: &[Delivery]) -> Vec<Bytes> {
    deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect()
}

fn ephemeral(topic: &str, position: Position) -> SubscribeRequest {
    let start = Some(StartPosition { position: Some(position) });
    let ephemeral = EphemeralSubscription { topic: topic.into(), start, filter: String::new() };
    SubscribeRequest { target: Some(Target::Ephemeral(ephemeral)), ..SubscribeRequest::default() }
}

#[tokio::test]
async fn every_topic_is_read_and_later_ones_too() {
    let server = TestServer::start().await;
    server.create_topic("orders.eu").await;
    server.publish("orders.eu", &["a"]).await;
    assert_eq!(create(&server, named("all", "orders.*")).await.unwrap().topic, "orders.*");
    server.create_topic("orders.us").await;
    server.publish("orders.us", &["b", "c"]).await;
    let all = pull(&server, "all").await;
    assert_eq!(topics(&all), ["orders.eu", "orders.us", "orders.us"]);

    let list = ListSubscriptionsRequest { topic: "orders.us".into(), ..Default::default() };
    let listed = server.subscriptions().list_subscriptions(list).await.unwrap().into_inner().subscriptions;
    assert_eq!(listed.len(), 1);

    let ack = AckRequest { subscription: "all".into(), ack_ids: ids(&all), cumulative: false };
    assert_eq!(server.subscriber().ack(ack).await.unwrap().into_inner().failures, []);
    let request = GetSubscriptionStatsRequest { subscription: "all".into() };
    let stats = server.subscriptions().get_subscription_stats(request).await.unwrap();
    let stats = stats.into_inner().stats.unwrap();
    assert_eq!((stats.backlog_messages, stats.committed_offset), (0, 0));
    // The pattern is not tied to the topic.
    let delete = DeleteTopicRequest { topic: "orders.us".into(), ..Default::default() };
    server.topics().delete_topic(delete).await.unwrap();
}

#[tokio::test]
async fn a_stream_without_a_subscription_takes_a_pattern() {
    let server = TestServer::start().await;
    server.create_topic("orders.eu").await;
    server.publish("orders.eu", &["a"]).await;
    let request = ephemeral("orders.>", Position::Earliest(Earliest {}));
    let mut stream = server.subscriber().subscribe(request).await.unwrap().into_inner();
    let mut read = Vec::new();
    while read.len() < 2 {
        match within(stream.message()).await.unwrap().unwrap().event {
            Some(Event::Batch(batch)) => {
                read.extend(batch.deliveries);
                if read.len() == 1 {
                    server.create_topic("orders.us.west").await;
                    server.publish("orders.us.west", &["b"]).await;
                }
            }
            Some(Event::Started(_) | Event::Heartbeat(_)) => {}
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(topics(&read), ["orders.eu", "orders.us.west"]);
}

#[tokio::test]
async fn bad_patterns_are_refused() {
    let server = TestServer::start().await;
    for bad in ["a.>.b", "**", "a..*", "*.", "_own.*", "a*"] {
        let refused = create(&server, named("s", bad)).await;
        let status = assert_refused(refused, Code::InvalidArgument, "INVALID_PATTERN");
        assert_eq!(bad_fields(&status), ["subscription.topic"], "{bad}");
        let refused = server.subscriber().subscribe(ephemeral(bad, Position::Earliest(Earliest {}))).await;
        assert_refused(refused.map(drop), Code::InvalidArgument, "INVALID_PATTERN");
    }
}

#[tokio::test]
async fn offsets_say_nothing_about_a_pattern() {
    let server = TestServer::start().await;
    server.create_topic("orders.eu").await;
    let start = Some(StartPosition { position: Some(Position::Offset(1)) });
    let refused = create(&server, Subscription { start, ..named("all", "orders.*") }).await;
    let status = assert_refused(refused, Code::InvalidArgument, "PATTERN_OFFSET");
    assert_eq!(bad_fields(&status), ["subscription.start.offset"]);
    assert!(status.message().contains("orders.* is a pattern"), "{}", status.message());
    let refused = server.subscriber().subscribe(ephemeral("orders.*", Position::Offset(1))).await;
    assert_refused(refused.map(drop), Code::InvalidArgument, "PATTERN_OFFSET");

    create(&server, named("all", "orders.*")).await.unwrap();
    let seek = SeekSubscriptionRequest { subscription: "all".into(), position: start };
    let refused = server.subscriptions().seek_subscription(seek).await;
    assert_refused(refused, Code::InvalidArgument, "PATTERN_OFFSET");
}

#[tokio::test]
async fn a_pattern_is_no_name() {
    let server = TestServer::start().await;
    let refused = server.publisher().publish(publish("orders.*", &["x"])).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_NAME");
    assert!(status.message().contains("is a pattern; give one name"), "{}", status.message());
    let get = GetTopicRequest { topic: "orders.>".into() };
    assert_refused(server.topics().get_topic(get).await, Code::InvalidArgument, "INVALID_NAME");
    let read = ReadMessagesRequest { topic: "orders.>".into(), ..Default::default() };
    assert_refused(server.subscriber().read_messages(read).await, Code::InvalidArgument, "INVALID_NAME");
    let retry = Some(dead_letters_to("dead.*"));
    let refused = create(&server, Subscription { retry, ..named("all", "orders.*") }).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_NAME");
    assert_eq!(bad_fields(&status), ["subscription.retry.dead_letter_topic"]);
}

#[tokio::test]
async fn dead_letters_come_back_to_the_subscription() {
    let server = TestServer::start().await;
    for topic in ["orders.eu", "orders.us", "dead"] {
        server.create_topic(topic).await;
    }
    let looping = Subscription { retry: Some(dead_letters_to("orders.us")), ..named("all", "orders.*") };
    assert_refused(create(&server, looping).await, Code::InvalidArgument, "DEAD_LETTER_LOOP");
    let all = Subscription { retry: Some(dead_letters_to("dead")), ..named("all", "orders.*") };
    create(&server, all).await.unwrap();
    create(&server, named("other", "orders.us")).await.unwrap();
    server.publish("orders.us", &["a"]).await;
    let nack = NackRequest {
        subscription: "all".into(),
        ack_ids: ids(&pull(&server, "all").await),
        dead_letter: true,
        ..Default::default()
    };
    server.subscriber().nack(nack).await.unwrap();

    let list = ListDeadLettersRequest { subscription: "all".into(), ..Default::default() };
    let letters = within(async {
        loop {
            let letters = server.dead_letters().list_dead_letters(list.clone()).await.unwrap();
            let letters = letters.into_inner().dead_letters;
            if !letters.is_empty() {
                return letters;
            }
        }
    });
    assert_eq!(letters.await[0].original_topic, "orders.us");
    let redrive = RedriveDeadLettersRequest { subscription: "all".into(), ..Default::default() };
    let redriven = server.dead_letters().redrive_dead_letters(redrive).await.unwrap().into_inner();
    assert_eq!((redriven.redriven, redriven.skipped), (1, 0), "{redriven:?}");
    assert_eq!(topics(&pull(&server, "all").await), ["orders.us"]);
    assert_eq!(pull(&server, "other").await.len(), 1, "only what was published to all");
}
