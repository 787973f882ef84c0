//! Queries: the cache, revisions, and gathering.

use columba::proto::v1::{
    CachePolicy, Gather, GatheredAnswer, InvalidateQueriesRequest, InvalidateQueriesResponse,
    PublishQueryUpdateRequest, PublishQueryUpdateResponse, QueryRequest, QueryResponse, WatchQueryRequest,
    gathered_answer,
};
use tonic::Code;

use crate::common::{TestServer, assert_refused, within};
use crate::queries::{Handler, answered, ask, query, result, seconds, text};

/// A query that takes answers up to a minute old.
fn cached(key: &str) -> QueryRequest {
    let cache = Some(CachePolicy { ttl: Some(seconds(60)), bypass: false });
    QueryRequest { cache, ..query(key) }
}

/// Asks, and plays the handler, which answers so.
async fn asked(
    server: &TestServer,
    handler: &mut Handler,
    request: QueryRequest,
    answer: (&str, u64),
) -> QueryResponse {
    let asking = ask(server, request);
    let delivery = handler.next().await;
    handler.answer(&delivery, answer.0, answer.1).await;
    answered(asking).await
}

/// Asks what no handler is asked.
async fn kept(server: &TestServer, request: QueryRequest) -> QueryResponse {
    let response = answered(ask(server, request)).await;
    assert!(response.from_cache);
    response
}

async fn invalidate(server: &TestServer, key: Option<&str>, min_revision: u64) -> InvalidateQueriesResponse {
    let key = key.map(Into::into);
    let request = InvalidateQueriesRequest { r#type: "orders.get".into(), key, payload: None, min_revision };
    server.queries().invalidate_queries(request).await.unwrap().into_inner()
}

async fn update(server: &TestServer, key: &str, answer: &str, revision: u64) -> PublishQueryUpdateResponse {
    let QueryRequest { r#type, key, payload, .. } = query(key);
    let result = Some(result(answer, revision));
    let request = PublishQueryUpdateRequest { r#type, key, payload, result, ..Default::default() };
    server.queries().publish_query_update(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn answers_are_kept_for_those_who_allow_it() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "h", &["orders.get"], 0).await;
    // Who sets no policy neither keeps nor takes.
    asked(&server, &mut handler, query("1"), ("a", 0)).await;
    let fresh = asked(&server, &mut handler, cached("1"), ("b", 3)).await;
    assert_eq!((text(&fresh), fresh.from_cache), ("b", false));
    let response = kept(&server, cached("1")).await;
    assert_eq!((text(&response), response.revision, &*response.handler), ("b", 3, "h"));
    let age = response.age.unwrap();
    assert!(age.seconds < 20 && (age.seconds, age.nanos) > (0, 0), "{age:?}");
    assert_eq!(text(&asked(&server, &mut handler, query("1"), ("c", 4)).await), "c");
    assert_eq!(text(&kept(&server, cached("1")).await), "b");
    // Another key is another query.
    asked(&server, &mut handler, cached("2"), ("d", 0)).await;
    // Whoever wants it fresh gets it fresh, for the others, too.
    let mut fresh = cached("1");
    fresh.cache.as_mut().unwrap().bypass = true;
    assert_eq!(text(&asked(&server, &mut handler, fresh, ("e", 5)).await), "e");
    assert_eq!(text(&kept(&server, cached("1")).await), "e");
    // It outlives its handlers.
    drop(handler);
    assert_eq!(text(&kept(&server, cached("1")).await), "e");
}

#[tokio::test]
async fn an_answer_older_than_the_asker_allows_does_not_count() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    asked(&server, &mut handler, cached("1"), ("a", 0)).await;
    let cache = Some(CachePolicy {
        ttl: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        bypass: false,
    });
    let strict = QueryRequest { cache, ..query("1") };
    // Sooner or later, a millisecond has passed.
    let old = within(async {
        loop {
            let asking = ask(&server, strict.clone());
            tokio::select! {
                delivery = handler.next() => break (asking, delivery),
                () = async { while !asking.is_finished() { tokio::task::yield_now().await } } => {}
            }
        }
    });
    let (asking, delivery) = old.await;
    assert_eq!(text(&kept(&server, cached("1")).await), "a", "others allow more");
    handler.answer(&delivery, "b", 0).await;
    assert_eq!(text(&answered(asking).await), "b");
}

#[tokio::test]
async fn a_cached_answer_below_the_wanted_revision_does_not_count() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    asked(&server, &mut handler, cached("1"), ("old", 5)).await;
    let wanting = |min_revision| QueryRequest { min_revision, ..cached("1") };
    assert_eq!(text(&kept(&server, wanting(5)).await), "old");
    assert_eq!(text(&asked(&server, &mut handler, wanting(6), ("new", 6)).await), "new");
    assert_eq!(text(&kept(&server, cached("1")).await), "new");
    // A handler that lags does not take the cache back.
    let lagging = asked(
        &server,
        &mut handler,
        QueryRequest { cache: Some(CachePolicy { ttl: Some(seconds(60)), bypass: true }), ..query("1") },
        ("old", 5),
    )
    .await;
    assert_eq!(text(&lagging), "old");
    assert_eq!(text(&kept(&server, cached("1")).await), "new");
}

#[tokio::test]
async fn failures_are_not_kept() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let asking = ask(&server, cached("1"));
    let delivery = handler.next().await;
    handler.fail(&delivery, "NO", false).await;
    assert_refused(within(asking).await.unwrap(), Code::FailedPrecondition, "QUERY_FAILED");
    assert_eq!(text(&asked(&server, &mut handler, cached("1"), ("yes", 0)).await), "yes");
}

#[tokio::test]
async fn what_is_invalidated_is_asked_again() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    for key in ["1", "2"] {
        asked(&server, &mut handler, cached(key), ("a", 5)).await;
    }
    invalidate(&server, Some("1"), 0).await;
    assert_eq!(text(&kept(&server, cached("2")).await), "a");
    assert_eq!(text(&asked(&server, &mut handler, cached("1"), ("b", 6)).await), "b");
    // Only what is older than the revision goes.
    invalidate(&server, None, 6).await;
    assert_eq!(text(&kept(&server, cached("1")).await), "b");
    assert_eq!(text(&asked(&server, &mut handler, cached("2"), ("b", 6)).await), "b");
    invalidate(&server, None, 0).await;
    for key in ["1", "2"] {
        assert_eq!(text(&asked(&server, &mut handler, cached(key), ("c", 1)).await), "c");
    }
}

#[tokio::test]
async fn a_call_from_before_an_invalidation_is_neither_kept_nor_shared() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let before = ask(&server, cached("1"));
    let old = handler.next().await;
    invalidate(&server, None, 0).await;
    let after = ask(&server, query("1"));
    let new = handler.next().await;
    handler.answer(&old, "old", 0).await;
    assert_eq!(text(&answered(before).await), "old");
    handler.answer(&new, "new", 0).await;
    assert_eq!(text(&answered(after).await), "new");
    assert_eq!(text(&asked(&server, &mut handler, cached("1"), ("newest", 0)).await), "newest");
}

#[tokio::test]
async fn an_update_is_as_good_as_an_answer() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "h", &["orders.get"], 0).await;
    asked(&server, &mut handler, cached("1"), ("a", 5)).await;
    assert!(update(&server, "1", "b", 6).await.applied);
    let response = kept(&server, QueryRequest { min_revision: 6, ..cached("1") }).await;
    assert_eq!((text(&response), response.revision, &*response.handler), ("b", 6, ""));
    assert!(!update(&server, "1", "older", 4).await.applied);
    assert_eq!(text(&kept(&server, cached("1")).await), "b");
    // A call from before the update is not shared with those who come after it.
    let before = ask(&server, query("2"));
    let old = handler.next().await;
    update(&server, "2", "new", 0).await;
    let after = ask(&server, query("2"));
    let new = handler.next().await;
    handler.answer(&old, "old", 0).await;
    handler.answer(&new, "new", 0).await;
    assert_eq!((text(&answered(before).await), text(&answered(after).await)), ("old", "new"));
    assert_eq!(text(&kept(&server, cached("2")).await), "new");
    let nothing = PublishQueryUpdateRequest { r#type: "a".into(), ..Default::default() };
    assert_refused(server.queries().publish_query_update(nothing).await, Code::InvalidArgument, "REQUIRED");
}

#[tokio::test]
async fn what_is_old_to_those_who_watch_is_not_kept_for_others() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let QueryRequest { r#type, key, payload, .. } = query("1");
    let request = WatchQueryRequest { r#type, key, payload, ..Default::default() };
    let mut watch = within(server.queries().watch_query(request)).await.unwrap().into_inner();
    let delivery = handler.next().await;
    handler.answer(&delivery, "newest", 7).await;
    within(watch.message()).await.unwrap();
    let ignored = update(&server, "1", "old", 6).await;
    assert_eq!((ignored.applied, ignored.watchers), (false, 1));
    // Nor is what a handler answers that lags.
    assert_eq!(text(&asked(&server, &mut handler, cached("1"), ("lags", 6)).await), "lags");
    assert_eq!(text(&asked(&server, &mut handler, cached("1"), ("newest", 7)).await), "newest");
    assert_eq!(text(&kept(&server, cached("1")).await), "newest");
}

#[tokio::test]
async fn a_handler_that_lags_is_asked_until_it_has_caught_up() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let asking = ask(&server, QueryRequest { min_revision: 7, ..query("1") });
    let first = handler.next().await;
    // Who does not need the revision shares the call, and is content.
    let content = ask(&server, query("1"));
    let other = ask(&server, query("other"));
    let other_delivery = handler.next().await;
    handler.answer(&other_delivery, "x", 0).await;
    answered(other).await;
    handler.answer(&first, "old", 5).await;
    let again = handler.next().await;
    handler.answer(&again, "older than wanted", 6).await;
    let again = handler.next().await;
    handler.answer(&again, "new", 7).await;
    let response = answered(asking).await;
    assert_eq!((text(&response), response.revision), ("new", 7));
    assert!(answered(content).await.revision >= 5);
}

#[tokio::test]
async fn a_revision_that_is_not_reached_is_told_with_both() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 900_000_000 });
    let mut asking = ask(&server, QueryRequest { min_revision: 9, timeout, ..query("1") });
    let status = loop {
        tokio::select! {
            result = &mut asking => break result.unwrap(),
            delivery = handler.next() => {
                let _ = handler.try_answer(&delivery, "old", 8).await;
            }
        }
    };
    let status = assert_refused(status, Code::DeadlineExceeded, "REVISION_NOT_REACHED");
    assert!(status.message().contains("revision 8") && status.message().contains("needs 9"), "{status:?}");
}

#[tokio::test]
async fn a_handler_without_revisions_cannot_keep_one() {
    let server = TestServer::start().await;
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let asking = ask(&server, QueryRequest { min_revision: 1, ..query("1") });
    let delivery = handler.next().await;
    handler.answer(&delivery, "x", 0).await;
    assert_refused(within(asking).await.unwrap(), Code::FailedPrecondition, "NO_REVISION");
}

fn gather(max_answers: u32) -> QueryRequest {
    QueryRequest { gather: Some(Gather { max_answers }), ..query("1") }
}

/// The names and texts of what was gathered, by name.
fn gathered(response: &QueryResponse) -> Vec<(&str, String)> {
    let shown = |answer| match answer {
        &GatheredAnswer { ref handler, outcome: Some(gathered_answer::Outcome::Result(ref result)) } => {
            (handler.as_str(), String::from_utf8(result.payload.to_vec()).unwrap())
        }
        GatheredAnswer { handler, outcome: Some(gathered_answer::Outcome::Failure(failure)) } => {
            (handler.as_str(), failure.code.clone())
        }
        GatheredAnswer { outcome: None, .. } => panic!("{answer:?}"),
    };
    let mut all: Vec<_> = response.answers.iter().map(shown).collect();
    all.sort();
    all
}

#[tokio::test]
async fn one_handler_of_each_name_is_asked() {
    let server = TestServer::start().await;
    let mut handlers = Vec::new();
    for name in ["eu", "us", "us", "", ""] {
        handlers.push(Handler::start(&server, name, &["orders.get"], 0).await);
    }
    let asking = ask(&server, gather(100));
    for (index, text) in [(0, "a"), (1, "b"), (3, "d"), (4, "e")] {
        let delivery = handlers[index].next().await;
        handlers[index].answer(&delivery, text, 0).await;
    }
    let response = answered(asking).await;
    let all = [("", "d"), ("", "e"), ("eu", "a"), ("us", "b")].map(|(name, text)| (name, text.to_owned()));
    assert_eq!(gathered(&response), all);
    assert_eq!((response.asked, response.unanswered), (4, 0));
    assert_eq!(handlers[2].idle(&server).await, 0, "its namesake was asked");
}

#[tokio::test]
async fn a_part_is_returned_with_what_is_missing() {
    let server = TestServer::start().await;
    let mut fast = Handler::start(&server, "fast", &["orders.get"], 0).await;
    let mut failing = Handler::start(&server, "failing", &["orders.get"], 0).await;
    let mut dying = Handler::start(&server, "dying", &["orders.get"], 0).await;
    let mut slow = Handler::start(&server, "slow", &["orders.get"], 0).await;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 900_000_000 });
    let asking = ask(&server, QueryRequest { timeout, ..gather(10) });
    let (a, b) = (fast.next().await, failing.next().await);
    fast.answer(&a, "a", 0).await;
    failing.fail(&b, "NO", false).await;
    dying.next().await;
    drop(dying);
    slow.next().await;
    let response = answered(asking).await;
    let all = [("dying", "HANDLER_LOST"), ("failing", "NO"), ("fast", "a")];
    assert_eq!(gathered(&response), all.map(|(name, text)| (name, text.to_owned())));
    assert_eq!((response.asked, response.unanswered), (4, 1));
}

#[tokio::test]
async fn enough_answers_are_enough() {
    let server = TestServer::start().await;
    let mut fast = Handler::start(&server, "fast", &["orders.get"], 0).await;
    let mut slow = Handler::start(&server, "slow", &["orders.get"], 0).await;
    let asking = ask(&server, gather(1));
    let delivery = fast.next().await;
    fast.answer(&delivery, "a", 0).await;
    let response = answered(asking).await;
    assert_eq!((gathered(&response).len(), response.asked, response.unanswered), (1, 2, 1));
    // What comes later is taken without harm.
    let delivery = slow.next().await;
    slow.answer(&delivery, "b", 0).await;
}

#[tokio::test]
async fn nothing_gathered_is_an_error() {
    let server = TestServer::start().await;
    assert_refused(within(ask(&server, gather(1))).await.unwrap(), Code::Unavailable, "NO_HANDLER");
    let mut handler = Handler::start(&server, "", &["orders.get"], 0).await;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 30_000_000 });
    let asking = ask(&server, QueryRequest { timeout, ..gather(1) });
    handler.next().await;
    assert_refused(within(asking).await.unwrap(), Code::DeadlineExceeded, "QUERY_TIMED_OUT");
}
