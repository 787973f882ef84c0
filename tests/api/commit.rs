//! `Commit`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use columba::embedded::{EmbeddedEngine, Options as EngineOptions};
use columba::proto::v1::operation::Operation as What;
use columba::proto::v1::operation_result::Result as Done;
use columba::proto::v1::{
    CommitAck, CommitAckResult, CommitRequest, CommitResponse, Delivery, Operation, PublishRequest,
    PullRequest, ReadMessagesRequest, SubscribeRequest, subscribe_request::Target, subscribe_response::Event,
};
use columba::server::Options;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, bad_fields, publish, within};

fn to(topic: &str, data: &str) -> Operation {
    Operation { operation: Some(What::Publish(publish(topic, &[data]))) }
}

fn ack(subscription: &str, deliveries: &[Delivery]) -> Operation {
    let ack_ids = deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect();
    Operation { operation: Some(What::Ack(CommitAck { subscription: subscription.into(), ack_ids })) }
}

async fn commit(server: &TestServer, operations: Vec<Operation>) -> Result<Response<CommitResponse>, Status> {
    within(server.publisher().commit(CommitRequest { operations })).await
}

async fn pull(server: &TestServer, subscription: &str) -> Vec<Delivery> {
    let request = PullRequest { subscription: subscription.into(), ..PullRequest::default() };
    within(server.subscriber().pull(request)).await.unwrap().into_inner().deliveries
}

async fn texts(server: &TestServer, topic: &str) -> Vec<String> {
    let request = ReadMessagesRequest { topic: topic.into(), max_messages: 1_000, ..Default::default() };
    let messages = server.subscriber().read_messages(request).await.unwrap().into_inner().messages;
    messages.into_iter().map(|stored| text(stored.message.unwrap().data)).collect()
}

fn text(data: Bytes) -> String {
    String::from_utf8(data.into()).unwrap()
}

async fn ready(server: &TestServer) {
    server.create_topic("orders").await;
    server.create_topic("invoices").await;
    server.create_subscription("billing", "orders").await;
}

/// Takes orders as they come and makes an invoice of each, until all have one. It dies again and again with
/// work in its hands.
async fn make_invoices(server: &TestServer, worker: usize, orders: usize) {
    let mut taken = 0;
    while texts(server, "invoices").await.len() < orders {
        let target = Some(Target::Subscription("billing".into()));
        let request = SubscribeRequest { target, max_outstanding_messages: 5, ..SubscribeRequest::default() };
        let mut stream = server.subscriber().subscribe(request).await.unwrap().into_inner();
        'stream: while let Ok(Some(event)) = within(stream.message()).await {
            let batch = match event.event.unwrap() {
                Event::Batch(batch) => batch,
                Event::Started(_) | Event::Heartbeat(_) if texts(server, "invoices").await.len() < orders => {
                    continue;
                }
                _ => return,
            };
            for delivery in batch.deliveries {
                taken += 1;
                if (taken + worker).is_multiple_of(4) {
                    // Gone before the commit: others get what it held.
                    break 'stream;
                }
                let order = text(delivery.message.as_ref().unwrap().message.as_ref().unwrap().data.clone());
                let operations =
                    vec![to("invoices", &format!("invoice of {order}")), ack("billing", &[delivery])];
                let committed = commit(server, operations).await;
                if (taken + worker).is_multiple_of(7) {
                    // Gone before it knows what became of it.
                    break 'stream;
                }
                if let Err(status) = committed {
                    assert_eq!(status.code(), Code::Aborted, "{status:?}");
                }
            }
            if texts(server, "invoices").await.len() >= orders {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_gets_exactly_one_invoice() {
    const ORDERS: usize = 60;
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions { disk_reserve_bytes: 0, ..EngineOptions::default() };
    let engine = EmbeddedEngine::open(dir.path(), options).await.unwrap();
    // A worker without work looks at each heartbeat whether there will be more.
    let options = Options { heartbeat: Duration::from_millis(20), ..Options::default() };
    let server = TestServer::start_on(Arc::new(engine), options).await;
    ready(&server).await;
    let orders: Vec<_> = (0..ORDERS).map(|n| format!("order {n}")).collect();
    for order in &orders {
        server.publish("orders", &[order]).await;
    }
    let server = Arc::new(server);
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..3 {
        let server = Arc::clone(&server);
        workers.spawn(async move { make_invoices(&server, worker, ORDERS).await });
    }
    within(workers.join_all()).await;
    let invoices = texts(&server, "invoices").await;
    assert_eq!(invoices.len(), ORDERS);
    let distinct: BTreeSet<_> = invoices.into_iter().collect();
    assert_eq!(distinct, orders.iter().map(|order| format!("invoice of {order}")).collect());
    assert_eq!(pull(&server, "billing").await, []);
}

#[tokio::test]
async fn results_come_in_the_order_of_the_operations() {
    let server = TestServer::start().await;
    ready(&server).await;
    server.publish("orders", &["a", "b"]).await;
    let held = pull(&server, "billing").await;
    let operations = vec![ack("billing", &held[..1]), to("invoices", "a"), ack("billing", &held[1..])];
    let results = commit(&server, operations).await.unwrap().into_inner().results;
    let results: Vec<_> = results.into_iter().map(|result| result.result.unwrap()).collect();
    let acked = Done::Ack(CommitAckResult { committed_offset: 2 });
    assert_eq!([&results[0], &results[2]], [&acked, &acked]);
    let Done::Publish(receipt) = &results[1] else { panic!("{results:?}") };
    assert_eq!((receipt.first_offset, receipt.last_offset), (1, 1));
}

#[tokio::test]
async fn a_commit_that_fails_says_which_operation_and_changes_nothing() {
    let server = TestServer::start().await;
    ready(&server).await;
    server.publish("orders", &["a", "b"]).await;
    let held = pull(&server, "billing").await;
    let forged = Delivery { ack_id: Bytes::from_static(b"forged"), ..Delivery::default() };
    let expecting = PublishRequest { expected_last_offset: Some(7), ..publish("orders", &["x"]) };
    let expecting = Operation { operation: Some(What::Publish(expecting)) };
    let large = to("orders", &"x".repeat(2 << 20));
    let bad = || [held[0].clone(), forged.clone()];
    for (last, code, reason, key, value) in [
        (expecting, Code::Aborted, "LAST_OFFSET_MISMATCH", "last_offset", "2"),
        (to("nothing", "x"), Code::NotFound, "TOPIC_NOT_FOUND", "topic", "nothing"),
        (ack("nobody", &held), Code::NotFound, "SUBSCRIPTION_NOT_FOUND", "subscription", "nobody"),
        (ack("billing", &bad()), Code::FailedPrecondition, "ACK_ID_UNKNOWN", "ack_id_index", "1"),
        (ack("billing", &held[..1]), Code::Aborted, "ACK_ID_EXPIRED", "ack_id_index", "0"),
        (large, Code::InvalidArgument, "MESSAGE_TOO_LARGE", "limit", "1048576"),
    ] {
        // The first of the acks, so that the last of them is one too many.
        let first = if reason == "ACK_ID_UNKNOWN" { &held[1..] } else { &held[..1] };
        let operations = vec![to("invoices", "a"), ack("billing", first), last];
        let status = assert_refused(commit(&server, operations).await, code, reason);
        let metadata = status.get_details_error_info().unwrap().metadata;
        assert_eq!((metadata["operation"].as_str(), metadata[key].as_str()), ("2", value), "{metadata:?}");
        if reason == "MESSAGE_TOO_LARGE" {
            assert_eq!(bad_fields(&status), ["operations[2].publish.messages[0]"]);
        }
    }
    assert_eq!(texts(&server, "invoices").await, Vec::<String>::new());
    commit(&server, vec![ack("billing", &held)]).await.unwrap();
    let again = commit(&server, vec![ack("billing", &held)]).await;
    assert_refused(again, Code::Aborted, "ACK_ID_ALREADY_SETTLED");
}

#[tokio::test]
async fn a_bad_commit_says_what_is_bad() {
    let server = TestServer::start().await;
    ready(&server).await;
    let nothing = Operation { operation: None };
    let empty = Operation { operation: Some(What::Publish(publish("../", &[]))) };
    let status = commit(&server, vec![to("orders", "x"), nothing, empty, ack("", &[])]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        bad_fields(&status),
        [
            "operations[1].operation",
            "operations[2].publish.topic",
            "operations[2].publish.messages",
            "operations[3].ack.subscription",
            "operations[3].ack.ack_ids",
        ]
    );
    let full = Operation { operation: Some(What::Publish(publish("orders", &vec![""; 6_000]))) };
    for (operations, reason) in [
        (vec![], "REQUIRED"),
        (vec![to("orders", "x"); 101], "TOO_MANY_OPERATIONS"),
        (vec![full; 2], "TOO_MANY_MESSAGES"),
        (vec![ack("billing", &vec![Delivery::default(); 6_000]); 2], "TOO_MANY_ACK_IDS"),
    ] {
        let status = assert_refused(commit(&server, operations).await, Code::InvalidArgument, reason);
        assert_eq!(bad_fields(&status), ["operations"]);
    }
    assert_eq!(texts(&server, "orders").await, Vec::<String>::new());
}
