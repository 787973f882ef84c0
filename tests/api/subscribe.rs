//! `Subscribe`, `Pull` and the settling of deliveries.

use std::time::Duration;

use bytes::Bytes;
use columba::proto::v1::start_position::Position;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::subscribe_response::Event;
use columba::proto::v1::{
    AckFailureReason, AckRequest, CreateSubscriptionRequest, DeleteSubscriptionRequest, Delivery,
    DeliveryMode, Earliest, EphemeralSubscription, ExtendAckDeadlineRequest, NackRequest, PullRequest,
    ReadMessagesRequest, RetryPolicy, StartPosition, SubscribeRequest, SubscribeResponse, Subscription,
};
use columba::server::Options;
use prost_types::Duration as WireDuration;
use tonic::{Code, Status, Streaming};

use crate::common::{TestServer, assert_refused, bad_fields, within};

fn durable(subscription: &str) -> SubscribeRequest {
    SubscribeRequest { target: Some(Target::Subscription(subscription.into())), ..Default::default() }
}

async fn subscribe(server: &TestServer, request: SubscribeRequest) -> Streaming<SubscribeResponse> {
    server.subscriber().subscribe(request).await.unwrap().into_inner()
}

async fn event(stream: &mut Streaming<SubscribeResponse>) -> Result<Option<Event>, Status> {
    let response = within(stream.message()).await?;
    Ok(response.map(|response| response.event.expect("every response has an event")))
}

/// The next deliveries, after the first event.
async fn batch(stream: &mut Streaming<SubscribeResponse>) -> Vec<Delivery> {
    loop {
        match event(stream).await.unwrap() {
            Some(Event::Started(_)) => {}
            Some(Event::Batch(batch)) => return batch.deliveries,
            other => panic!("a batch, not {other:?}"),
        }
    }
}

fn data(deliveries: &[Delivery]) -> Vec<&[u8]> {
    deliveries
        .iter()
        .map(|delivery| &*delivery.message.as_ref().unwrap().message.as_ref().unwrap().data)
        .collect()
}

fn ids(deliveries: &[Delivery]) -> Vec<Bytes> {
    deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect()
}

fn ack(subscription: &str, ack_ids: Vec<Bytes>) -> AckRequest {
    AckRequest { subscription: subscription.into(), ack_ids, cumulative: false }
}

fn pull(subscription: &str) -> PullRequest {
    PullRequest { subscription: subscription.into(), ..Default::default() }
}

async fn orders() -> TestServer {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    server
}

#[tokio::test]
async fn messages_are_streamed_and_acked() {
    let server = orders().await;
    server.publish("orders", &["a", "b"]).await;
    let mut stream = subscribe(&server, durable("billing")).await;
    let Some(Event::Started(started)) = event(&mut stream).await.unwrap() else { panic!("started first") };
    assert_eq!(started.subscription, "billing");
    assert!(!started.consumer_id.is_empty() && started.server_time.is_some());

    let deliveries = batch(&mut stream).await;
    assert_eq!(data(&deliveries), [b"a", b"b"]);
    assert!(deliveries.iter().all(|delivery| delivery.attempt == 1 && !delivery.ack_id.is_empty()));
    let stored = deliveries[1].message.as_ref().unwrap();
    assert_eq!((stored.topic.as_str(), stored.offset), ("orders", 2));

    let acked = server.subscriber().ack(ack("billing", ids(&deliveries))).await.unwrap().into_inner();
    assert_eq!((acked.committed_offset, acked.failures.len()), (2, 0));

    server.publish("orders", &["c"]).await;
    assert_eq!(data(&batch(&mut stream).await), [b"c"]);
}

#[tokio::test]
async fn one_bad_ack_id_does_not_fail_the_others() {
    let server = orders().await;
    server.publish("orders", &["a"]).await;
    let mut stream = subscribe(&server, durable("billing")).await;
    let good = ids(&batch(&mut stream).await);
    let forged = [Bytes::from_static(b"forged"), Bytes::new()];
    let all = [&forged[..], &good].concat();
    let acked = server.subscriber().ack(ack("billing", all)).await.unwrap().into_inner();
    assert_eq!(acked.committed_offset, 1);
    let failures: Vec<_> = acked.failures.iter().map(|failure| (&failure.ack_id, failure.reason())).collect();
    let unknown = AckFailureReason::Unknown;
    assert_eq!(failures, [(&forged[0], unknown), (&forged[1], unknown)]);

    let again = server.subscriber().ack(ack("billing", good)).await.unwrap().into_inner();
    assert_eq!(again.failures[0].reason(), AckFailureReason::AlreadySettled);
}

#[tokio::test]
async fn a_cumulative_ack_covers_what_came_before() {
    let server = orders().await;
    server.publish("orders", &["a", "b", "c"]).await;
    let pulled = server.subscriber().pull(pull("billing")).await.unwrap().into_inner().deliveries;
    let request = AckRequest { cumulative: true, ..ack("billing", ids(&pulled[1..2])) };
    assert_eq!(server.subscriber().ack(request).await.unwrap().into_inner().committed_offset, 2);
}

#[tokio::test]
async fn a_nacked_message_comes_again() {
    let server = orders().await;
    server.publish("orders", &["a"]).await;
    let mut stream = subscribe(&server, durable("billing")).await;
    let first = batch(&mut stream).await;
    let nack = NackRequest { subscription: "billing".into(), ack_ids: ids(&first), ..NackRequest::default() };
    assert_eq!(server.subscriber().nack(nack).await.unwrap().into_inner().failures, []);
    let second = batch(&mut stream).await;
    assert_eq!((data(&second), second[0].attempt), (vec![&b"a"[..]], 2));
    assert_ne!(second[0].ack_id, first[0].ack_id);
}

#[tokio::test]
async fn a_dropped_stream_gives_its_messages_back() {
    let server = orders().await;
    server.publish("orders", &["a"]).await;
    let mut stream = subscribe(&server, durable("billing")).await;
    batch(&mut stream).await;
    drop(stream);
    let again = batch(&mut subscribe(&server, durable("billing")).await).await;
    assert_eq!(again[0].attempt, 2);
}

#[tokio::test]
async fn deadlines_are_extended() {
    let server = orders().await;
    server.publish("orders", &["a"]).await;
    let pulled = server.subscriber().pull(pull("billing")).await.unwrap().into_inner().deliveries;
    for deadline in [None, Some(WireDuration { seconds: 600, nanos: 0 })] {
        let request =
            ExtendAckDeadlineRequest { subscription: "billing".into(), ack_ids: ids(&pulled), deadline };
        let answer = server.subscriber().extend_ack_deadline(request).await.unwrap().into_inner();
        assert_eq!(answer.failures, []);
    }
}

#[tokio::test]
async fn credit_is_kept() {
    let server = orders().await;
    server.publish("orders", &["a", "b", "c"]).await;
    let request = SubscribeRequest { max_outstanding_messages: 2, ..durable("billing") };
    let mut stream = subscribe(&server, request).await;
    let mut held = batch(&mut stream).await;
    while held.len() < 2 {
        held.extend(batch(&mut stream).await);
    }
    assert_eq!(data(&held), [b"a", b"b"]);
    server.subscriber().ack(ack("billing", ids(&held[..1]))).await.unwrap();
    assert_eq!(data(&batch(&mut stream).await), [b"c"]);
}

#[tokio::test]
async fn an_ephemeral_subscription_needs_no_acks() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.publish("orders", &["before"]).await;
    let ephemeral = |start: Option<Position>| SubscribeRequest {
        target: Some(Target::Ephemeral(EphemeralSubscription {
            topic: "orders".into(),
            start: start.map(|position| StartPosition { position: Some(position) }),
            ..EphemeralSubscription::default()
        })),
        ..Default::default()
    };
    let mut latest = subscribe(&server, ephemeral(None)).await;
    let Some(Event::Started(started)) = event(&mut latest).await.unwrap() else { panic!("started first") };
    assert_eq!(started.subscription, "");
    let mut earliest = subscribe(&server, ephemeral(Some(Position::Earliest(Earliest {})))).await;
    let first = batch(&mut earliest).await;
    assert_eq!((data(&first), &first[0].ack_id[..]), (vec![&b"before"[..]], &b""[..]));
    server.publish("orders", &["after"]).await;
    assert_eq!(data(&batch(&mut latest).await), [b"after"]);
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats() {
    let options = Options { heartbeat: Duration::from_millis(10), ..Options::default() };
    let server = TestServer::start_with(options).await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    let mut stream = subscribe(&server, durable("billing")).await;
    assert!(matches!(event(&mut stream).await.unwrap(), Some(Event::Started(_))));
    for _ in 0..2 {
        let Some(Event::Heartbeat(heartbeat)) = event(&mut stream).await.unwrap() else {
            panic!("a heartbeat")
        };
        assert!(heartbeat.server_time.is_some());
    }
    server.publish("orders", &["a"]).await;
    loop {
        match event(&mut stream).await.unwrap() {
            Some(Event::Heartbeat(_)) => {}
            Some(Event::Batch(batch)) => break assert_eq!(data(&batch.deliveries), [b"a"]),
            other => panic!("a batch, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn deleting_a_subscription_ends_its_streams() {
    let server = orders().await;
    let mut stream = subscribe(&server, durable("billing")).await;
    assert!(matches!(event(&mut stream).await.unwrap(), Some(Event::Started(_))));
    let delete = DeleteSubscriptionRequest { subscription: "billing".into(), etag: String::new() };
    server.subscriptions().delete_subscription(delete).await.unwrap();
    assert_refused(event(&mut stream).await, Code::FailedPrecondition, "SUBSCRIPTION_DELETED");
}

#[tokio::test]
async fn an_exclusive_subscription_held_by_a_stream_cannot_be_pulled() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let subscription = Subscription {
        name: "billing".into(),
        topic: "orders".into(),
        mode: DeliveryMode::Exclusive.into(),
        ..Default::default()
    };
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    server.subscriptions().create_subscription(request).await.unwrap();
    let _stream = subscribe(&server, durable("billing")).await;
    let pulled = server.subscriber().pull(pull("billing")).await;
    assert_refused(pulled, Code::FailedPrecondition, "SUBSCRIPTION_HELD");
}

#[tokio::test]
async fn pulls_wait_for_the_first_message() {
    let server = orders().await;
    let none = server.subscriber().pull(pull("billing")).await.unwrap().into_inner();
    assert_eq!(none.deliveries, []);
    let waiting = PullRequest { wait: Some(WireDuration { seconds: 60, nanos: 0 }), ..pull("billing") };
    let mut subscriber = server.subscriber();
    let (pulled, _) =
        within(futures::future::join(subscriber.pull(waiting), server.publish("orders", &["a"]))).await;
    assert_eq!(data(&pulled.unwrap().into_inner().deliveries), [b"a"]);
}

#[tokio::test]
async fn bad_subscribes_are_refused() {
    let server = orders().await;
    let mut subscriber = server.subscriber();
    let ephemeral = EphemeralSubscription {
        topic: "a\0b".into(),
        start: Some(StartPosition { position: Some(Position::Offset(0)) }),
        filter: "message.key ==".into(),
    };
    for (request, fields) in [
        (SubscribeRequest::default(), vec!["target"]),
        (durable("../"), vec!["subscription"]),
        (
            SubscribeRequest { target: Some(Target::Ephemeral(ephemeral)), ..Default::default() },
            vec!["ephemeral.topic", "ephemeral.start.offset", "ephemeral.filter"],
        ),
        (
            SubscribeRequest {
                consumer: "c".repeat(256),
                max_outstanding_messages: 100_001,
                max_outstanding_bytes: (256 << 20) + 1,
                ..durable("billing")
            },
            vec!["consumer", "max_outstanding_messages", "max_outstanding_bytes"],
        ),
    ] {
        let status = subscriber.subscribe(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(bad_fields(&status), fields);
    }
    let unknown = subscriber.subscribe(durable("nothing")).await;
    assert_refused(unknown, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
}

#[tokio::test]
async fn bad_settlements_and_pulls_are_refused() {
    let server = orders().await;
    let mut subscriber = server.subscriber();
    let id = || vec![Bytes::from_static(b"id")];
    assert_refused(subscriber.ack(ack("billing", vec![])).await, Code::InvalidArgument, "REQUIRED");
    let many = ack("billing", vec![Bytes::new(); 10_001]);
    assert_refused(subscriber.ack(many).await, Code::InvalidArgument, "TOO_MANY_ACK_IDS");
    assert_refused(subscriber.ack(ack("é", id())).await, Code::InvalidArgument, "INVALID_NAME");
    assert_refused(subscriber.ack(ack("nothing", id())).await, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");

    let span = |seconds| Some(WireDuration { seconds, nanos: 0 });
    for seconds in [-1, 43_201] {
        let nack = NackRequest {
            subscription: "billing".into(),
            ack_ids: id(),
            retry_delay: span(seconds),
            ..NackRequest::default()
        };
        assert_refused(subscriber.nack(nack).await, Code::InvalidArgument, "INVALID_DURATION");
    }
    for seconds in [0, 43_201] {
        let extend = ExtendAckDeadlineRequest {
            subscription: "billing".into(),
            ack_ids: id(),
            deadline: span(seconds),
        };
        let refused = subscriber.extend_ack_deadline(extend).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_DURATION");
    }
    let greedy = PullRequest {
        subscription: "billing".into(),
        max_messages: 10_001,
        max_bytes: u64::MAX,
        wait: span(61),
    };
    let status = subscriber.pull(greedy).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["max_messages", "max_bytes", "wait"]);
}

#[tokio::test]
async fn a_message_that_nobody_can_handle_goes_to_the_dead_letters() {
    let server = orders().await;
    server.create_topic("dead").await;
    let retry = RetryPolicy { dead_letter_topic: "dead".into(), ..RetryPolicy::default() };
    let subscription = Subscription {
        name: "mail".into(),
        topic: "orders".into(),
        retry: Some(retry),
        ..Subscription::default()
    };
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    server.subscriptions().create_subscription(request).await.unwrap();
    server.publish("orders", &["poison"]).await;
    let pull = PullRequest { subscription: "mail".into(), ..PullRequest::default() };
    let delivered = server.subscriber().pull(pull).await.unwrap().into_inner().deliveries;
    let nack = NackRequest {
        subscription: "mail".into(),
        ack_ids: ids(&delivered),
        dead_letter: true,
        reason: "no such customer".into(),
        ..NackRequest::default()
    };
    let both = NackRequest { retry_delay: Some(WireDuration { seconds: 1, nanos: 0 }), ..nack.clone() };
    assert_refused(server.subscriber().nack(both).await, Code::InvalidArgument, "CONTRADICTION");
    let long = NackRequest { reason: "x".repeat(1_025), ..nack.clone() };
    assert_refused(server.subscriber().nack(long).await, Code::InvalidArgument, "TOO_LONG");
    assert!(server.subscriber().nack(nack).await.unwrap().into_inner().failures.is_empty());

    let letters = ReadMessagesRequest { topic: "dead".into(), ..ReadMessagesRequest::default() };
    let read = server.subscriber().read_messages(letters).await.unwrap().into_inner();
    let letter = read.messages[0].message.clone().unwrap();
    assert_eq!(letter.data, "poison");
    let attribute = |name: &str| letter.attributes[&format!("columba-dead-letter-{name}")].clone();
    assert_eq!([attribute("subscription"), attribute("topic")], ["mail", "orders"]);
    assert_eq!([attribute("attempts"), attribute("reason")], ["1", "no such customer"]);
}
