//! Commands, queries and key-value views.

use std::time::Duration;

use columba::proto::v1::command_service_client::CommandServiceClient;
use columba::proto::v1::complete_command_request::Outcome;
use columba::proto::v1::{
    AnswerQueryRequest, Bucket, CachePolicy, Command, CommandFailure, CompleteCommandRequest,
    CreateBucketRequest, HandleCommandsRequest, HandleQueriesRequest, PutRequest, QueryRequest, QueryResult,
    SendCommandRequest, answer_query_request, handle_commands_response, handle_queries_response,
};

use crate::Server;
use crate::common::within;

#[tokio::test(flavor = "multi_thread")]
async fn commands_count_by_outcome() {
    let server = Server::start().await;
    let mut client = CommandServiceClient::new(server.channel());
    let handle = HandleCommandsRequest {
        types: vec!["orders.place".into()],
        handler: "test".into(),
        max_outstanding: 2,
    };
    let mut events = within(client.handle_commands(handle)).await.unwrap().into_inner();
    within(events.message()).await.unwrap().unwrap();
    for id in ["a", "b", "c", "d"] {
        let command = Command { id: id.into(), r#type: "orders.place".into(), ..Command::default() };
        let request = SendCommandRequest { command: Some(command), wait: None };
        within(client.send_command(request)).await.unwrap();
    }
    for number in 0..2 {
        let delivery = loop {
            let event = within(events.message()).await.unwrap().unwrap().event.unwrap();
            if let handle_commands_response::Event::Delivery(delivery) = event {
                break delivery;
            }
        };
        let outcome = if number == 0 {
            Outcome::Result(bytes::Bytes::new())
        } else {
            Outcome::Failure(CommandFailure { code: "SOLD_OUT".into(), ..CommandFailure::default() })
        };
        let request =
            CompleteCommandRequest { ack_id: delivery.ack_id, outcome: Some(outcome), ..Default::default() };
        within(client.complete_command(request)).await.unwrap();
    }
    let running = "columba_commands_running";
    let scrape = server.until(|scrape| scrape.value(running) == 2.).await;
    let ended =
        |outcome: &str| scrape.value(&format!("columba_commands_ended_total{{outcome=\"{outcome}\"}}"));
    assert_eq!(["succeeded", "failed", "cancelled", "expired"].map(ended), [1., 1., 0., 0.]);
    assert_eq!(scrape.value("columba_commands_pending"), 0.);
    assert_eq!(scrape.value("columba_command_handlers"), 1.);
    assert_eq!(scrape.value("columba_command_duration_seconds_count"), 2.);
    // Each type is a topic and a subscription of the server's own.
    let backlog = "columba_subscription_backlog_messages{subscription=\"_commands.orders.place\"}";
    assert_eq!(scrape.value(backlog), 2.);
    drop(events);
    server.until(|scrape| scrape.value("columba_commands_pending") == 2.).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_count_by_outcome_and_by_what_the_cache_had() {
    let server = Server::start().await;
    let mut handler = server.queries();
    let handle =
        HandleQueriesRequest { types: vec!["orders.get".into()], handler: "test".into(), max_outstanding: 2 };
    let mut events = within(handler.handle_queries(handle)).await.unwrap().into_inner();
    within(events.message()).await.unwrap().unwrap();
    let answering = tokio::spawn(async move {
        while let Ok(Some(event)) = events.message().await {
            let Some(handle_queries_response::Event::Delivery(delivery)) = event.event else { continue };
            let outcome = answer_query_request::Outcome::Result(QueryResult::default());
            let request = AnswerQueryRequest { query_id: delivery.query_id, outcome: Some(outcome) };
            handler.answer_query(request).await.unwrap();
        }
    });
    let ask = |kind: &str, ttl: Option<u64>| {
        let ttl = ttl.map(|seconds| Duration::from_secs(seconds).try_into().unwrap());
        let cache = ttl.map(|ttl| CachePolicy { ttl: Some(ttl), ..CachePolicy::default() });
        let timeout = Some(Duration::from_millis(200).try_into().unwrap());
        QueryRequest { r#type: kind.into(), cache, timeout, ..QueryRequest::default() }
    };
    for ttl in [None, Some(60), Some(60), Some(60)] {
        let request = QueryRequest { timeout: None, ..ask("orders.get", ttl) };
        within(server.queries().query(request)).await.unwrap();
    }
    within(server.queries().query(ask("orders.nobody", None))).await.unwrap_err();
    let scrape = server.scrape().await;
    let outcomes = ["answered", "failed"];
    let outcomes = outcomes.map(|it| scrape.value(&format!("columba_queries_total{{outcome=\"{it}\"}}")));
    assert_eq!(outcomes, [4., 1.]);
    assert_eq!(scrape.value("columba_query_cache_hits_total"), 2.);
    assert_eq!(scrape.value("columba_query_cache_misses_total"), 1.);
    assert_eq!(scrape.value("columba_query_handlers"), 1.);
    answering.abort();
    server.until(|scrape| scrape.value("columba_query_handlers") == 0.).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_comes_to_lag_behind_by_nothing() {
    let server = Server::start().await;
    let bucket = Some(Bucket { name: "scores".into(), ..Bucket::default() });
    server.key_values().create_bucket(CreateBucketRequest { bucket }).await.unwrap();
    for key in ["a", "b"] {
        let put = PutRequest { bucket: "scores".into(), key: key.into(), ..PutRequest::default() };
        within(server.key_values().put(put)).await.unwrap();
    }
    let scrape =
        server.until(|scrape| scrape.find("columba_kv_view_lag_messages{topic=\"_kv.scores\"}") == Some(0.));
    assert_eq!(scrape.await.value("columba_topic_published_messages_total{topic=\"_kv.scores\"}"), 2.);
}
