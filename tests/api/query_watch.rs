//! `WatchQuery`: first answers, updates, invalidations, and handlers that come and go.

use std::time::Duration;

use columba::proto::admin::ListHandlersRequest;
use columba::proto::v1::{
    InvalidateQueriesRequest, PublishQueryUpdateRequest, QueryStale, WatchQueryRequest, WatchQueryResponse,
    watch_query_response,
};
use columba::server::Options;
use tonic::{Code, Status, Streaming};

use crate::common::{TestServer, assert_refused, within};
use crate::queries::{Handler, answered, ask, query, result};

struct Watch(Streaming<WatchQueryResponse>);

impl Watch {
    async fn start(server: &TestServer, key: &str) -> Self {
        let request = WatchQueryRequest {
            r#type: "orders.get".into(),
            key: key.into(),
            payload: "{}".into(),
            ..Default::default()
        };
        Self(within(server.queries().watch_query(request)).await.unwrap().into_inner())
    }

    async fn event(&mut self) -> Result<watch_query_response::Event, Status> {
        Ok(within(self.0.message()).await?.expect("a stream ends with a status").event.unwrap())
    }

    /// The next answer and its revision.
    async fn answer(&mut self) -> (String, u64) {
        match self.event().await.unwrap() {
            watch_query_response::Event::Answer(answer) => {
                (String::from_utf8(answer.payload.to_vec()).unwrap(), answer.revision)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn stale(&mut self) -> QueryStale {
        match self.event().await.unwrap() {
            watch_query_response::Event::Stale(stale) => stale,
            other => panic!("{other:?}"),
        }
    }
}

/// The next query that the handler gets is answered so.
async fn answers(handler: &mut Handler, text: &str, revision: u64) {
    let delivery = handler.next().await;
    handler.answer(&delivery, text, revision).await;
}

async fn update(server: &TestServer, key: &str, text: &str, revision: u64) -> u32 {
    let request = PublishQueryUpdateRequest {
        r#type: "orders.get".into(),
        key: key.into(),
        payload: "{}".into(),
        result: Some(result(text, revision)),
        ..Default::default()
    };
    server.queries().publish_query_update(request).await.unwrap().into_inner().watchers
}

async fn invalidate(server: &TestServer, key: Option<&str>, min_revision: u64) -> u32 {
    let (r#type, key) = ("orders.get".into(), key.map(Into::into));
    let request = InvalidateQueriesRequest { r#type, key, payload: None, min_revision };
    server.queries().invalidate_queries(request).await.unwrap().into_inner().watchers
}

fn answer(text: &str, revision: u64) -> (String, u64) {
    (text.to_owned(), revision)
}

#[tokio::test]
async fn the_answer_comes_first_and_then_every_newer_one() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let mut watch = Watch::start(&server, "1").await;
    answers(&mut handler, "a", 5).await;
    assert_eq!(watch.answer().await, answer("a", 5));
    assert_eq!(update(&server, "1", "b", 6).await, 1);
    assert_eq!(watch.answer().await, answer("b", 6));
    // What is older, the same, or of another query, is not told.
    update(&server, "1", "older", 4).await;
    update(&server, "1", "b", 6).await;
    assert_eq!(update(&server, "2", "other", 9).await, 0);
    update(&server, "1", "c", 7).await;
    assert_eq!(watch.answer().await, answer("c", 7));
    // What somebody else is answered is news as well.
    let asking = ask(&server, query("1"));
    answers(&mut handler, "d", 8).await;
    answered(asking).await;
    assert_eq!(watch.answer().await, answer("d", 8));
}

#[tokio::test]
async fn an_invalidation_costs_one_call_for_all_who_watch() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let mut watch = Watch::start(&server, "1").await;
        answers(&mut handler, "a", 0).await;
        assert_eq!(watch.answer().await.0, "a");
        watches.push(watch);
    }
    assert_eq!(invalidate(&server, Some("other"), 0).await, 0);
    assert_eq!(invalidate(&server, Some("1"), 0).await, 20);
    answers(&mut handler, "b", 0).await;
    for watch in &mut watches {
        assert_eq!(watch.answer().await.0, "b");
    }
    // If there had been more calls, one of them would come before this.
    let asking = ask(&server, query("other"));
    let delivery = handler.next().await;
    assert_eq!(delivery.key, "other");
    handler.answer(&delivery, "x", 0).await;
    answered(asking).await;
}

#[tokio::test]
async fn an_invalidation_with_a_revision_is_over_when_that_is_reached() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let mut watch = Watch::start(&server, "1").await;
    answers(&mut handler, "a", 5).await;
    watch.answer().await;
    assert_eq!(invalidate(&server, None, 5).await, 0);
    assert_eq!(invalidate(&server, None, 7).await, 1);
    answers(&mut handler, "b", 6).await;
    assert_eq!(watch.answer().await, answer("b", 6));
    answers(&mut handler, "c", 7).await;
    assert_eq!(watch.answer().await, answer("c", 7));
}

#[tokio::test]
async fn a_watch_without_a_handler_is_an_error_and_outlives_one() {
    let server = TestServer::start().await;
    let mut watch = Watch::start(&server, "1").await;
    assert_refused(watch.event().await, Code::Unavailable, "NO_HANDLER");
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let mut watch = Watch::start(&server, "1").await;
    answers(&mut handler, "a", 5).await;
    watch.answer().await;
    drop(handler);
    // Somebody else comes, and is asked, since things may have changed.
    within(async {
        let list = async || server.admin().list_handlers(ListHandlersRequest::default()).await.unwrap();
        while !list().await.into_inner().handlers.is_empty() {}
    })
    .await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    answers(&mut handler, "b", 6).await;
    assert_eq!(watch.answer().await, answer("b", 6));
}

#[tokio::test]
async fn who_watches_learns_that_there_is_nothing_newer() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let mut watch = Watch::start(&server, "1").await;
    answers(&mut handler, "a", 5).await;
    watch.answer().await;
    invalidate(&server, None, 0).await;
    let delivery = handler.next().await;
    handler.fail(&delivery, "NO", false).await;
    let stale = watch.stale().await;
    assert_eq!(stale.reason, "QUERY_FAILED");
    assert!(stale.message.contains("NO: it is so"), "{stale:?}");
    // It is asked again in a while, and an update would do as well.
    update(&server, "1", "b", 6).await;
    assert_eq!(watch.answer().await, answer("b", 6));
    invalidate(&server, None, 0).await;
    let delivery = handler.next().await;
    handler.fail(&delivery, "NO", false).await;
    watch.stale().await;
    answers(&mut handler, "c", 7).await;
    assert_eq!(watch.answer().await, answer("c", 7));
}

#[tokio::test]
async fn a_failing_first_answer_ends_the_watch() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let mut watch = Watch::start(&server, "1").await;
    let delivery = handler.next().await;
    handler.fail(&delivery, "NO", false).await;
    assert_refused(watch.event().await, Code::FailedPrecondition, "QUERY_FAILED");
}

#[tokio::test]
async fn who_reads_slowly_gets_the_newest() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let mut watch = Watch::start(&server, "1").await;
    answers(&mut handler, "a", 1).await;
    watch.answer().await;
    // More than the transport takes in advance.
    let large = "x".repeat(1 << 20);
    for revision in 2..=60 {
        update(&server, "1", &format!("{revision} {large}"), revision).await;
    }
    let (mut last, mut seen) = (0, 0);
    while last < 60 {
        let (_, revision) = watch.answer().await;
        assert!(revision > last, "never back");
        (last, seen) = (revision, seen + 1);
    }
    assert!(seen < 59, "{seen} were read, of 59");
}

#[tokio::test]
async fn watches_show_that_they_live_and_say_goodbye() {
    let options = Options { heartbeat: Duration::from_millis(10), ..Options::default() };
    let mut server = TestServer::start_with(options).await;
    let handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let mut watch = Watch::start(&server, "1").await;
    let event = watch.event().await.unwrap();
    assert!(matches!(event, watch_query_response::Event::Heartbeat(_)), "{event:?}");
    server.stop();
    loop {
        match watch.event().await.unwrap() {
            watch_query_response::Event::Heartbeat(_) => {}
            watch_query_response::Event::Goaway(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_refused(watch.event().await, Code::Unavailable, "SHUTTING_DOWN");
    drop(watch);
    drop(handler);
    server.stopped().await.unwrap();
}
