//! Topics, subscriptions and the log: after known traffic, exact values.

use std::time::Duration;

use bytes::Bytes;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::{
    AckRequest, CreateSubscriptionRequest, EphemeralSubscription, GetTopicRequest, Message, NackRequest,
    PublishRequest, PullRequest, SubscribeRequest, Subscription,
};

use crate::Server;
use crate::common::within;

async fn publish(server: &Server, topic: &str, messages: Vec<Message>) {
    let request = PublishRequest { topic: topic.into(), messages, ..PublishRequest::default() };
    within(server.publisher().publish(request)).await.unwrap();
}

fn message(id: &str) -> Message {
    Message { id: id.into(), data: "some data".into(), ..Message::default() }
}

/// A server with `orders`, read by `billing`.
async fn orders() -> Server {
    let server = Server::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    server
}

async fn pull(server: &Server, max_messages: u32) -> Vec<Bytes> {
    let wait = Some(Duration::from_secs(20).try_into().unwrap());
    let request = PullRequest { subscription: "billing".into(), max_messages, wait, ..Default::default() };
    let pulled = within(server.subscriber().pull(request)).await.unwrap().into_inner().deliveries;
    pulled.into_iter().map(|delivery| delivery.ack_id).collect()
}

async fn ack(server: &Server, ack_ids: Vec<Bytes>, cumulative: bool) {
    let request = AckRequest { subscription: "billing".into(), ack_ids, cumulative };
    let acked = within(server.subscriber().ack(request)).await.unwrap().into_inner();
    assert_eq!(acked.failures, []);
}

fn nack(ack_ids: Vec<Bytes>) -> NackRequest {
    NackRequest { subscription: "billing".into(), ack_ids, ..NackRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_counts_by_topic() {
    let server = orders().await;
    server.create_topic("empty").await;
    publish(&server, "orders", vec![message("a"), message("b")]).await;
    publish(&server, "orders", vec![message("b"), message("c")]).await;
    let scrape = server.scrape().await;
    let value = |name: &str| scrape.value(&format!("columba_{name}{{topic=\"orders\"}}"));
    assert_eq!([value("topic_published_messages_total"), value("topic_duplicate_messages_total")], [3., 1.]);
    let topic = server.topics().get_topic(GetTopicRequest { topic: "orders".into() }).await.unwrap();
    let stored = topic.into_inner().topic.unwrap().stored_bytes;
    assert!(stored > 0);
    assert_eq!(value("topic_published_bytes_total").to_string(), stored.to_string());
    assert_eq!(value("topic_stored_bytes").to_string(), stored.to_string());
    assert_eq!(scrape.value("columba_topic_published_messages_total{topic=\"empty\"}"), 0.);
    assert_eq!(scrape.value("columba_topics"), 2.);
    assert_eq!(scrape.value("columba_publish_duration_seconds_count"), 2.);
    assert!(scrape.value("columba_publish_duration_seconds_sum") > 0.);
    assert_eq!(scrape.value("columba_publish_duration_seconds_bucket{le=\"+Inf\"}"), 2.);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_deliveries_counts_by_subscription() {
    let server = orders().await;
    let ids = ["a", "b", "c", "d", "e", "f"];
    publish(&server, "orders", ids.map(message).to_vec()).await;
    let held = pull(&server, 5).await;
    assert_eq!(held.len(), 5);
    ack(&server, held[..1].to_vec(), false).await;
    // Of the messages up to the third, one is settled already.
    ack(&server, held[2..3].to_vec(), true).await;
    server.subscriber().nack(nack(held[3..4].to_vec())).await.unwrap();
    let give_up = NackRequest { dead_letter: true, ..nack(held[4..].to_vec()) };
    server.subscriber().nack(give_up).await.unwrap();
    // Again the fourth, and for the first time the sixth.
    let mut again = 0;
    while again < 2 {
        again += pull(&server, 5).await.len();
    }
    let name = |name: &str| format!("columba_subscription_{name}{{subscription=\"billing\"}}");
    let scrape = server.until(|scrape| scrape.value(&name("backlog_messages")) == 2.).await;
    let values = |names: &[&str]| names.iter().map(|it| scrape.value(&name(it))).collect::<Vec<_>>();
    let counted = ["deliveries_total", "redeliveries_total", "acks_total", "nacks_total"];
    assert_eq!(values(&counted), [7., 1., 3., 2.]);
    assert_eq!(values(&["dead_letters_total", "expired_messages_total"]), [1., 0.]);
    assert_eq!(values(&["in_flight_messages", "scheduled_messages", "consumers"]), [2., 0., 0.]);
    assert!(scrape.value(&name("oldest_unacked_age_seconds")) > 0.);
    assert_eq!(scrape.value("columba_subscriptions"), 1.);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_and_a_message_that_expires_count() {
    let server = Server::start().await;
    server.create_topic("orders").await;
    let second = Some(Duration::from_secs(1).try_into().unwrap());
    let billing = Subscription {
        name: "billing".into(),
        topic: "orders".into(),
        ack_deadline: second,
        ..Subscription::default()
    };
    let request = CreateSubscriptionRequest { subscription: Some(billing), validate_only: false };
    server.subscriptions().create_subscription(request).await.unwrap();
    let long_ago = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let over = Message { expire_time: long_ago, ..message("over") };
    publish(&server, "orders", vec![over, message("a")]).await;
    assert_eq!(pull(&server, 5).await.len(), 1);
    // Only when its deadline has passed, it comes again.
    assert_eq!(pull(&server, 5).await.len(), 1);
    let name = |name: &str| format!("columba_subscription_{name}_total{{subscription=\"billing\"}}");
    let scrape = server.scrape().await;
    assert_eq!(scrape.value(&name("ack_deadlines_passed")), 1.);
    assert_eq!(scrape.value(&name("expired_messages")), 1.);
    assert_eq!([scrape.value(&name("nacks")), scrape.value(&name("acks"))], [0., 0.]);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_are_there_as_long_as_their_streams() {
    let server = orders().await;
    publish(&server, "orders", vec![message("a")]).await;
    let durable = SubscribeRequest {
        target: Some(Target::Subscription("billing".into())),
        ..SubscribeRequest::default()
    };
    let ephemeral = EphemeralSubscription { topic: "orders".into(), ..EphemeralSubscription::default() };
    let ephemeral =
        SubscribeRequest { target: Some(Target::Ephemeral(ephemeral)), ..SubscribeRequest::default() };
    let mut streams = Vec::new();
    for request in [durable, ephemeral] {
        let mut stream = within(server.subscriber().subscribe(request)).await.unwrap().into_inner();
        // Started, and then a delivery or nothing.
        within(stream.message()).await.unwrap().unwrap();
        streams.push(stream);
    }
    publish(&server, "orders", vec![message("b")]).await;
    let consumers = "columba_subscription_consumers{subscription=\"billing\"}";
    let delivered = "columba_subscription_deliveries_total{subscription=\"billing\"}";
    let open = "columba_grpc_open_streams{method=\"columba.v1.SubscriberService/Subscribe\"}";
    let scrape = server.until(|scrape| scrape.value(delivered) == 2.).await;
    assert_eq!([scrape.value(consumers), scrape.value(open)], [1., 2.]);
    server.until(|scrape| scrape.value("columba_ephemeral_deliveries_total") > 0.).await;
    drop(streams);
    server.until(|scrape| scrape.value(consumers) == 0. && scrape.value(open) == 0.).await;
    let cancelled =
        "columba_grpc_requests_total{method=\"columba.v1.SubscriberService/Subscribe\",code=\"CANCELLED\"}";
    assert_eq!(server.scrape().await.value(cancelled), 2.);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_of_its_size_its_syncs_and_the_disk() {
    let server = orders().await;
    let before = server.scrape().await;
    publish(&server, "orders", vec![message("a"), message("b")]).await;
    let after = server.scrape().await;
    let grown = |name: &str| after.value(name) - before.value(name);
    assert!(grown("columba_log_bytes") > 0.);
    for counted in ["log_sync_duration_seconds", "log_batch_bytes", "log_batch_requests"] {
        assert_eq!(grown(&format!("columba_{counted}_count")), 1., "{counted}");
    }
    assert_eq!(grown("columba_log_batch_requests_sum"), 1.);
    assert!(
        grown("columba_log_batch_bytes_sum")
            >= grown("columba_topic_published_bytes_total{topic=\"orders\"}")
    );
    assert!(grown("columba_log_sync_duration_seconds_sum") > 0.);
    let values = ["log_segments", "log_stalled", "write_queue_bytes"];
    assert_eq!(values.map(|name| after.value(&format!("columba_{name}"))), [1., 0., 0.]);
    let sizes = ["disk_reserve_bytes", "write_queue_limit_bytes"];
    let mebibytes = 1024. * 1024.;
    assert_eq!(sizes.map(|name| after.value(&format!("columba_{name}")) / mebibytes), [64., 64.]);
    assert!(after.value("columba_disk_free_bytes") > 0.);
}
