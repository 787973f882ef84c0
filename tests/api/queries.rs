//! `QueryService`: routing, sharing, failing over, and what is refused.

use std::time::Duration;

use columba::proto::admin::{HandlerKind, ListHandlersRequest};
use columba::proto::v1::query_service_client::QueryServiceClient;
use columba::proto::v1::{
    AnswerQueryRequest, CachePolicy, Gather, HandleQueriesRequest, HandleQueriesResponse, QueryDelivery,
    QueryFailure, QueryRequest, QueryResponse, QueryResult, WatchQueryRequest, answer_query_request,
    handle_queries_response,
};
use columba::server::Options;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, bad_fields, within};

/// A handler as a test plays it.
pub(crate) struct Handler {
    client: QueryServiceClient<Channel>,
    stream: Streaming<HandleQueriesResponse>,
    pub(crate) id: String,
}

impl Handler {
    pub(crate) async fn start(server: &TestServer, name: &str, types: &[&str], max: u32) -> Self {
        let mut client = server.queries();
        let mut stream = within(client.handle_queries(handle(name, types, max))).await.unwrap().into_inner();
        let first = within(stream.message()).await.unwrap().unwrap().event.unwrap();
        let handle_queries_response::Event::Started(started) = first else { panic!("{first:?}") };
        assert!(started.server_time.is_some());
        Self { client, stream, id: started.handler_id }
    }

    /// What comes next, which is not a query.
    async fn event(&mut self) -> Result<Option<HandleQueriesResponse>, Status> {
        within(self.stream.message()).await
    }

    pub(crate) async fn next(&mut self) -> QueryDelivery {
        match within(self.stream.message()).await.unwrap().unwrap().event.unwrap() {
            handle_queries_response::Event::Delivery(delivery) => delivery,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn answer(&mut self, delivery: &QueryDelivery, text: &str, revision: u64) {
        self.try_answer(delivery, text, revision).await.unwrap();
    }

    pub(crate) async fn try_answer(
        &mut self,
        delivery: &QueryDelivery,
        text: &str,
        revision: u64,
    ) -> Result<(), Status> {
        let result = result(text, revision);
        let outcome = Some(answer_query_request::Outcome::Result(result));
        let request = AnswerQueryRequest { query_id: delivery.query_id.clone(), outcome };
        within(self.client.answer_query(request)).await.map(|_| ())
    }

    pub(crate) async fn fail(&mut self, delivery: &QueryDelivery, code: &str, retryable: bool) {
        let failure = QueryFailure { code: code.into(), message: "it is so".into(), retryable };
        let outcome = Some(answer_query_request::Outcome::Failure(failure));
        let request = AnswerQueryRequest { query_id: delivery.query_id.clone(), outcome };
        within(self.client.answer_query(request)).await.unwrap();
    }

    /// How many queries the server has given it.
    pub(crate) async fn idle(&self, server: &TestServer) -> u32 {
        outstanding(server, &self.id).await.unwrap()
    }

    /// Waits until the server holds this many queries for it.
    pub(crate) async fn has(&self, server: &TestServer, count: u32) {
        within(async {
            while outstanding(server, &self.id).await != Some(count) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

async fn outstanding(server: &TestServer, id: &str) -> Option<u32> {
    let listed = server.admin().list_handlers(ListHandlersRequest::default()).await.unwrap().into_inner();
    listed.handlers.into_iter().find(|handler| handler.id == id).map(|handler| handler.outstanding)
}

pub(crate) fn result(text: &str, revision: u64) -> QueryResult {
    QueryResult { payload: text.to_owned().into(), content_type: "text/plain".into(), revision }
}

fn handle(name: &str, types: &[&str], max: u32) -> HandleQueriesRequest {
    let types = types.iter().map(|&kind| kind.to_owned()).collect();
    HandleQueriesRequest { types, handler: name.into(), max_outstanding: max }
}

/// A query of `orders.get` with this key.
pub(crate) fn query(key: &str) -> QueryRequest {
    QueryRequest { r#type: "orders.get".into(), key: key.into(), payload: "{}".into(), ..Default::default() }
}

pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn millis(millis: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 }
}

type Asking = tokio::task::JoinHandle<Result<QueryResponse, Status>>;

/// Asks while the test goes on.
pub(crate) fn ask(server: &TestServer, request: QueryRequest) -> Asking {
    let mut client = server.queries();
    tokio::spawn(async move { client.query(request).await.map(tonic::Response::into_inner) })
}

pub(crate) async fn answered(asking: Asking) -> QueryResponse {
    within(asking).await.unwrap().unwrap()
}

async fn refused(asking: Asking, code: Code, reason: &str) -> Status {
    assert_refused(within(asking).await.unwrap(), code, reason)
}

pub(crate) fn text(response: &QueryResponse) -> &str {
    str::from_utf8(&response.payload).unwrap()
}

#[tokio::test]
async fn a_handler_answers() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "orders", &["orders.get", "orders.list"], 0).await;
    let mut request = query("o-1");
    request.content_type = "application/json".into();
    request.attributes.insert("tenant".into(), "a".into());
    let asking = ask(&server, request);
    let delivery = handler.next().await;
    assert_eq!((&*delivery.r#type, &*delivery.key, &*delivery.payload), ("orders.get", "o-1", &b"{}"[..]));
    assert_eq!(delivery.content_type, "application/json");
    assert_eq!(delivery.attributes["tenant"], "a");
    let left = Duration::try_from(delivery.time_left.unwrap()).unwrap();
    assert!(left <= Duration::from_secs(10) && left > Duration::from_secs(5), "{left:?}");
    assert!(delivery.deadline.is_some() && !delivery.query_id.is_empty());
    handler.answer(&delivery, "paid", 7).await;
    let response = answered(asking).await;
    assert_eq!((text(&response), &*response.content_type, response.revision), ("paid", "text/plain", 7));
    assert_eq!((response.from_cache, response.age), (false, Some(seconds(0))));
    assert_eq!(response.handler, "orders");
}

#[tokio::test]
async fn without_a_handler_there_is_an_error_at_once() {
    let server = TestServer::start().await;
    let handler = Handler::start(&server, "", &["orders.list"], 0).await;
    let status = refused(ask(&server, query("o-1")), Code::Unavailable, "NO_HANDLER").await;
    assert!(status.message().contains("columba query handle orders.get --exec"), "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().metadata["type"], "orders.get");
    drop(handler);
}

#[tokio::test]
async fn handlers_share_the_work_by_what_they_have() {
    let server = TestServer::start().await;
    let mut first = Handler::start(&server, "first", &["orders.get"], 2).await;
    let mut second = Handler::start(&server, "second", &["orders.get"], 1).await;
    let mut asking = Vec::new();
    for key in ["1", "2", "3", "4"] {
        asking.push(ask(&server, query(key)));
    }
    let held = [first.next().await, first.next().await];
    let other = second.next().await;
    first.has(&server, 2).await;
    second.has(&server, 1).await;
    // The fourth waits for the first that is free.
    second.answer(&other, "b", 0).await;
    let last = second.next().await;
    second.answer(&last, "b", 0).await;
    for delivery in &held {
        first.answer(delivery, "a", 0).await;
    }
    let mut answers = Vec::new();
    for asking in asking {
        answers.push(text(&answered(asking).await).to_owned());
    }
    answers.sort();
    assert_eq!(answers, ["a", "a", "b", "b"]);
}

#[tokio::test]
async fn another_handler_takes_over() {
    let server = TestServer::start().await;
    let mut dying = Handler::start(&server, "dying", &["orders.get"], 0).await;
    let asking = ask(&server, query("o-1"));
    let lost = dying.next().await;
    let mut other = Handler::start(&server, "other", &["orders.get"], 0).await;
    let Handler { stream, client, .. } = dying;
    drop(stream);
    let delivery = other.next().await;
    assert_eq!((&delivery.key, &delivery.payload), (&lost.key, &lost.payload));
    assert_ne!(delivery.query_id, lost.query_id);
    // What the first still says has no effect.
    let outcome = Some(answer_query_request::Outcome::Result(result("late", 0)));
    let late = AnswerQueryRequest { query_id: lost.query_id, outcome };
    let refused = client.clone().answer_query(late).await;
    assert_refused(refused, Code::FailedPrecondition, "QUERY_REASSIGNED");
    other.answer(&delivery, "other", 0).await;
    assert_eq!(text(&answered(asking).await), "other");
}

#[tokio::test]
async fn when_the_last_handler_dies_there_is_an_error_at_once() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 1).await;
    let (taken, waiting) = (ask(&server, query("1")), ask(&server, query("2")));
    handler.next().await;
    drop(handler);
    let mut reasons = Vec::new();
    for asking in [taken, waiting] {
        let status = within(asking).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        reasons.push(status.get_details_error_info().unwrap().reason);
    }
    reasons.sort();
    assert!(reasons.contains(&"HANDLER_LOST".to_owned()), "{reasons:?}");
}

#[tokio::test]
async fn failures_are_told_as_they_are() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "orders", &["orders.get"], 0).await;
    for (retryable, code) in [(false, Code::FailedPrecondition), (true, Code::Aborted)] {
        let asking = ask(&server, query("o-1"));
        let delivery = handler.next().await;
        handler.fail(&delivery, "ORDER_UNKNOWN", retryable).await;
        let status = refused(asking, code, "QUERY_FAILED").await;
        assert_eq!(status.message(), "the handler orders failed: ORDER_UNKNOWN: it is so");
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!((&*metadata["failure_code"], &*metadata["handler"]), ("ORDER_UNKNOWN", "orders"));
        assert_eq!(metadata["retryable"], retryable.to_string());
        assert_eq!(details.retry_info().is_some(), retryable);
    }
}

#[tokio::test]
async fn a_handler_that_does_not_answer_costs_the_timeout_only() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 1).await;
    let asking = ask(&server, QueryRequest { timeout: Some(millis(50)), ..query("o-1") });
    let delivery = handler.next().await;
    let status = refused(asking, Code::DeadlineExceeded, "QUERY_TIMED_OUT").await;
    assert!(status.message().contains("what holds the handler up"), "{status:?}");
    // It is free for the next one, and its answer comes too late.
    let asking = ask(&server, query("o-2"));
    let next = handler.next().await;
    assert_eq!(next.key, "o-2");
    let late = handler.try_answer(&delivery, "late", 0).await;
    assert_refused(late, Code::FailedPrecondition, "QUERY_EXPIRED");
    handler.answer(&next, "ok", 0).await;
    answered(asking).await;
}

#[tokio::test]
async fn whoever_finds_all_handlers_busy_is_told_so() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 1).await;
    let first = ask(&server, query("1"));
    let delivery = handler.next().await;
    let waiting = ask(&server, QueryRequest { timeout: Some(millis(30)), ..query("2") });
    let status = refused(waiting, Code::DeadlineExceeded, "QUERY_TIMED_OUT").await;
    assert!(status.message().contains("all were busy"), "{status:?}");
    handler.answer(&delivery, "ok", 0).await;
    answered(first).await;
    // The one that waited is forgotten.
    handler.has(&server, 0).await;
}

#[tokio::test]
async fn answers_without_effect_say_why() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let asking = ask(&server, query("o-1"));
    let delivery = handler.next().await;
    for forged in [&b"x"[..], &[0; 16], &[7; 200]] {
        let forged = QueryDelivery { query_id: forged.to_vec().into(), ..Default::default() };
        assert_refused(handler.try_answer(&forged, "x", 0).await, Code::NotFound, "UNKNOWN_QUERY");
    }
    // One of another server is as good as forged.
    let other = TestServer::start().await;
    let mut elsewhere = Handler::start(&other, "", &["orders.get"], 0).await;
    let _asking = ask(&other, query("o-1"));
    let foreign = elsewhere.next().await;
    assert_refused(handler.try_answer(&foreign, "x", 0).await, Code::NotFound, "UNKNOWN_QUERY");
    handler.answer(&delivery, "first", 0).await;
    let twice = handler.try_answer(&delivery, "second", 0).await;
    assert_refused(twice, Code::FailedPrecondition, "QUERY_ALREADY_ANSWERED");
    assert_eq!(text(&answered(asking).await), "first");
}

#[tokio::test]
async fn equal_queries_share_a_call() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let first = ask(&server, query("o-1"));
    let delivery = handler.next().await;
    let mut others: Vec<_> = (0..50).map(|_| ask(&server, query("o-1"))).collect();
    let mut traced = query("o-1");
    traced.attributes.insert("traceparent".into(), "00-1".into());
    others.push(ask(&server, traced));
    // Different ones do not, and show that the others have come.
    let mut different = query("o-1");
    different.attributes.insert("tenant".into(), "b".into());
    let different = ask(&server, different);
    let second = handler.next().await;
    assert_eq!(second.attributes["tenant"], "b");
    // One that is short of time, and one that goes away, disturb nobody.
    let short = ask(&server, QueryRequest { timeout: Some(millis(1)), ..query("o-1") });
    refused(short, Code::DeadlineExceeded, "QUERY_TIMED_OUT").await;
    first.abort();
    handler.answer(&second, "b", 0).await;
    assert_eq!(text(&answered(different).await), "b");
    handler.answer(&delivery, "a", 0).await;
    let mut calls = 0;
    for other in others {
        // Those that came only after the answer make calls of their own.
        let mut other = other;
        let answer = loop {
            tokio::select! {
                answer = &mut other => break answer.unwrap().unwrap(),
                delivery = handler.next() => {
                    calls += 1;
                    handler.answer(&delivery, "a", 0).await;
                }
            }
        };
        assert_eq!(text(&answer), "a");
    }
    assert!(calls <= 1, "{calls} calls");
}

#[tokio::test]
async fn a_call_goes_on_for_those_who_have_more_time() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 1).await;
    let short = ask(&server, QueryRequest { timeout: Some(millis(50)), ..query("o-1") });
    let silent = handler.next().await;
    let long = ask(&server, query("o-1"));
    refused(short, Code::DeadlineExceeded, "QUERY_TIMED_OUT").await;
    // The deadline that the handler was told has passed, and the other still waits: it is asked again.
    let again = handler.next().await;
    assert_ne!(again.query_id, silent.query_id);
    handler.answer(&again, "at last", 0).await;
    assert_eq!(text(&answered(long).await), "at last");
}

#[tokio::test]
async fn all_that_is_wrong_is_named() {
    let server = TestServer::start().await;
    let mut client = server.queries();
    let mut bad = QueryRequest {
        r#type: "no name".into(),
        key: "k".repeat(1_025),
        payload: vec![0; (1 << 20) + 1].into(),
        content_type: "c".repeat(256),
        timeout: Some(seconds(301)),
        cache: Some(CachePolicy::default()),
        gather: Some(Gather::default()),
        ..Default::default()
    };
    bad.attributes.insert(String::new(), "v".into());
    let status = assert_refused(client.query(bad).await, Code::InvalidArgument, "INVALID_NAME");
    let fields = bad_fields(&status);
    assert_eq!(
        fields[..8],
        ["type", "key", "content_type", "payload", "attributes", "timeout", "gather.max_answers", "cache"]
    );
    for timeout in [seconds(0), seconds(-1), prost_types::Duration { seconds: 1, nanos: -5 }] {
        let request = QueryRequest { timeout: Some(timeout), ..query("") };
        assert_refused(client.query(request).await, Code::InvalidArgument, "INVALID_DURATION");
    }
    let watch = WatchQueryRequest { r#type: "_internal".into(), ..Default::default() };
    assert_refused(client.watch_query(watch).await, Code::InvalidArgument, "INVALID_NAME");
    for (types, reason) in
        [(vec![], "REQUIRED"), (vec!["a"; 101], "TOO_MANY_TYPES"), (vec!["a", "b c"], "INVALID_NAME")]
    {
        let request = handle("", &types, 0);
        assert_refused(client.handle_queries(request).await, Code::InvalidArgument, reason);
    }
    let request = handle("", &["a"], 10_001);
    assert_refused(client.handle_queries(request).await, Code::InvalidArgument, "TOO_LARGE");
}

#[tokio::test]
async fn bad_answers_are_refused_and_the_query_lives_on() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let asking = ask(&server, query("o-1"));
    let delivery = handler.next().await;
    let mut client = server.queries();
    let answer = |outcome| AnswerQueryRequest { query_id: delivery.query_id.clone(), outcome };
    let status = client.answer_query(answer(None)).await;
    assert_refused(status, Code::InvalidArgument, "REQUIRED");
    let unnamed = answer_query_request::Outcome::Failure(QueryFailure::default());
    let status =
        assert_refused(client.answer_query(answer(Some(unnamed))).await, Code::InvalidArgument, "REQUIRED");
    assert_eq!(bad_fields(&status), ["failure.code"]);
    let large = QueryResult { payload: vec![0; (4 << 20) - (64 << 10) + 1].into(), ..Default::default() };
    let large = answer_query_request::Outcome::Result(large);
    let status =
        assert_refused(client.answer_query(answer(Some(large))).await, Code::InvalidArgument, "TOO_LARGE");
    assert_eq!(bad_fields(&status), ["result.payload"]);
    // The largest that is allowed fits what clients take by default.
    let largest = QueryResult { payload: vec![7; (4 << 20) - (64 << 10)].into(), ..Default::default() };
    let largest = answer_query_request::Outcome::Result(largest);
    within(client.answer_query(answer(Some(largest)))).await.unwrap();
    assert_eq!(answered(asking).await.payload.len(), (4 << 20) - (64 << 10));
}

#[tokio::test]
async fn handlers_are_listed() {
    let server = TestServer::start().await;
    let mut first = Handler::start(&server, "first", &["orders.list", "orders.get", "orders.get"], 3).await;
    let second = Handler::start(&server, "second", &["users.get"], 0).await;
    let asking = [ask(&server, query("1")), ask(&server, query("2")), ask(&server, query("3"))];
    let deliveries = [first.next().await, first.next().await, first.next().await];
    first.answer(&deliveries[0], "ok", 0).await;
    first.fail(&deliveries[1], "NO", false).await;
    let list = async |request: ListHandlersRequest| {
        server.admin().list_handlers(request).await.unwrap().into_inner()
    };
    let all = list(ListHandlersRequest::default()).await;
    assert_eq!(all.handlers.iter().map(|handler| &handler.id).collect::<Vec<_>>(), [&first.id, &second.id]);
    let shown = &all.handlers[0];
    assert_eq!((&*shown.name, shown.kind()), ("first", HandlerKind::Query));
    assert_eq!(shown.types, ["orders.get", "orders.list"]);
    assert_eq!((shown.outstanding, shown.max_outstanding, shown.answered, shown.failed), (1, 3, 1, 1));
    assert!(shown.connect_time.is_some());
    assert_eq!(all.handlers[1].max_outstanding, 16);
    let page = list(ListHandlersRequest { page_size: 1, ..Default::default() }).await;
    assert_eq!(page.handlers, all.handlers[..1]);
    let page_token = page.next_page_token;
    let next = list(ListHandlersRequest { page_size: 1, page_token, ..Default::default() }).await;
    assert_eq!((&next.handlers[..], &*next.next_page_token), (&all.handlers[1..], ""));
    let of_type = ListHandlersRequest { r#type: "users.get".into(), ..Default::default() };
    assert_eq!(list(of_type).await.handlers, all.handlers[1..]);
    let commands = ListHandlersRequest { kind: HandlerKind::Command.into(), ..Default::default() };
    assert!(list(commands).await.handlers.is_empty());
    let bad =
        ListHandlersRequest { kind: 9, r#type: "a b".into(), page_token: "x".into(), ..Default::default() };
    let status = server.admin().list_handlers(bad).await;
    let status = assert_refused(status, Code::InvalidArgument, "UNKNOWN_ENUM_VALUE");
    assert_eq!(bad_fields(&status), ["kind", "type", "page_token"]);
    drop((asking, second));
    within(async { while outstanding(&server, &all.handlers[1].id).await.is_some() {} }).await;
}

#[tokio::test]
async fn silence_is_broken_and_the_end_is_announced() {
    let options = Options { heartbeat: Duration::from_millis(10), ..Options::default() };
    let mut server = TestServer::start_with(options).await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let event = handler.event().await.unwrap().unwrap().event;
    assert!(matches!(event, Some(handle_queries_response::Event::Heartbeat(_))), "{event:?}");
    let asking = ask(&server, query("o-1"));
    loop {
        let event = handler.event().await.unwrap().unwrap().event;
        if let Some(handle_queries_response::Event::Delivery(_)) = event {
            break;
        }
    }
    server.stop();
    let goaway = loop {
        match handler.event().await.unwrap().unwrap().event.unwrap() {
            handle_queries_response::Event::Heartbeat(_) => {}
            other => break other,
        }
    };
    assert!(matches!(goaway, handle_queries_response::Event::Goaway(_)), "{goaway:?}");
    assert_refused(handler.event().await, Code::Unavailable, "SHUTTING_DOWN");
    let status = within(asking).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn handlers_of_a_type_are_limited() {
    let server = TestServer::start().await;
    let mut handlers = Vec::new();
    for _ in 0..1_000 {
        handlers.push(server.queries().handle_queries(handle("", &["orders.get"], 0)).await.unwrap());
    }
    let refused = server.queries().handle_queries(handle("", &["orders.get", "other"], 0)).await;
    assert_refused(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    // A refused one leaves nothing behind.
    let of_type = ListHandlersRequest { r#type: "other".into(), ..Default::default() };
    let listed = server.admin().list_handlers(of_type).await.unwrap().into_inner();
    assert!(listed.handlers.is_empty());
}
