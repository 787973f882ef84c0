//! `KeyValueService`.

use std::sync::Arc;
use std::time::Duration;

use columba::embedded::{EmbeddedEngine, Options as EngineOptions};
use columba::proto::v1::batch_write::Action;
use columba::proto::v1::watch_entries_response::Event;
use columba::proto::v1::{
    BatchDelete, BatchPut, BatchWrite, Bucket, CreateBucketRequest, DeleteBucketRequest, DeleteRequest,
    EntriesChanged, Entry, GetBucketRequest, GetRequest, HistoryRequest, ListBucketsRequest,
    ListEntriesRequest, ListEntriesResponse, ListTopicsRequest, PutBatchRequest, PutRequest,
    UpdateBucketRequest, WatchEntriesRequest, WatchEntriesResponse, WatchTopicsRequest,
    watch_topics_response,
};
use columba::server::Options;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, bad_fields, within};

const BUCKET: &str = "scores";

async fn create(server: &TestServer, bucket: Bucket) -> Result<Bucket, Status> {
    let request = CreateBucketRequest { bucket: Some(bucket) };
    Ok(server.key_values().create_bucket(request).await?.into_inner().bucket.unwrap())
}

fn named(name: &str) -> Bucket {
    Bucket { name: name.into(), ..Bucket::default() }
}

async fn ready() -> TestServer {
    let server = TestServer::start().await;
    create(&server, named(BUCKET)).await.unwrap();
    server
}

fn put(key: &str, value: &str, score: Option<f64>) -> PutRequest {
    let value = value.to_owned().into();
    PutRequest { bucket: BUCKET.into(), key: key.into(), value, score, ..PutRequest::default() }
}

async fn send(server: &TestServer, request: PutRequest) -> Result<u64, Status> {
    Ok(within(server.key_values().put(request)).await?.into_inner().revision)
}

async fn set(server: &TestServer, key: &str, score: impl Into<Option<f64>>) -> u64 {
    send(server, put(key, key, score.into())).await.unwrap()
}

async fn delete(server: &TestServer, key: &str, expected_revision: Option<u64>) -> Result<u64, Status> {
    let request =
        DeleteRequest { bucket: BUCKET.into(), key: key.into(), expected_revision, ..Default::default() };
    Ok(within(server.key_values().delete(request)).await?.into_inner().revision)
}

async fn get(server: &TestServer, key: &str, min_revision: u64) -> Result<Entry, Status> {
    let request = GetRequest { bucket: BUCKET.into(), key: key.into(), min_revision };
    Ok(within(server.key_values().get(request)).await?.into_inner().entry.unwrap())
}

fn all() -> ListEntriesRequest {
    ListEntriesRequest { bucket: BUCKET.into(), ..ListEntriesRequest::default() }
}

fn by(order_by: &str) -> ListEntriesRequest {
    ListEntriesRequest { order_by: order_by.into(), ..all() }
}

async fn list(server: &TestServer, request: ListEntriesRequest) -> Result<ListEntriesResponse, Status> {
    Ok(within(server.key_values().list_entries(request)).await?.into_inner())
}

async fn keys(server: &TestServer, request: ListEntriesRequest) -> Vec<String> {
    list(server, request).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "it is for fields that may be left out")]
fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn metadata(status: &Status, name: &str) -> String {
    status.get_details_error_info().unwrap().metadata[name].clone()
}

#[tokio::test]
async fn what_was_put_is_read_back_with_its_revision() {
    let server = ready().await;
    let first = send(&server, put("a", "one", Some(1.5))).await.unwrap();
    let entry = get(&server, "a", first).await.unwrap();
    assert_eq!((entry.value.as_ref(), entry.score, entry.revision), (&b"one"[..], Some(1.5), first));
    assert!(entry.update_time.is_some() && entry.expire_time.is_none());
    let second = send(&server, put("a", "", None)).await.unwrap();
    assert!(second > first);
    let entry = get(&server, "a", second).await.unwrap();
    assert_eq!((entry.value.len(), entry.score, entry.revision), (0, None, second), "empty is not deleted");
    let third = delete(&server, "a", None).await.unwrap();
    let status = assert_refused(get(&server, "a", third).await, Code::NotFound, "ENTRY_NOT_FOUND");
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "a");
    assert!(delete(&server, "a", None).await.unwrap() > third, "it is no error that it is not there");
}

#[tokio::test]
async fn the_five_highest_above_a_bound_with_a_prefix() {
    let server = ready().await;
    for number in 0..20 {
        set(&server, &format!("eu.{number:02}"), f64::from(number)).await;
        set(&server, &format!("us.{number:02}"), f64::from(100 + number)).await;
    }
    let last = set(&server, "eu.none", None).await;
    let top = ListEntriesRequest {
        prefix: "eu.".into(),
        min_score: Some(16.0),
        page_size: 5,
        min_revision: last,
        ..by("score desc")
    };
    assert_eq!(keys(&server, top.clone()).await, ["eu.19", "eu.18", "eu.17", "eu.16"]);
    let lower = ListEntriesRequest { min_score: Some(0.0), max_score: Some(17.5), ..top };
    let page = list(&server, lower.clone()).await.unwrap();
    assert_eq!(page.entries.iter().map(|entry| &*entry.key).collect::<Vec<_>>()[..2], ["eu.17", "eu.16"]);
    assert!(page.revision >= last && !page.next_page_token.is_empty());
    let next = ListEntriesRequest { page_token: page.next_page_token, ..lower };
    assert_eq!(keys(&server, next).await[..2], ["eu.12", "eu.11"]);
}

#[tokio::test]
async fn every_order_and_its_pages() {
    let server = ready().await;
    for (key, score) in [("b", Some(2.0)), ("a", Some(2.0)), ("d", None), ("c", Some(f64::NEG_INFINITY))] {
        set(&server, key, score).await;
    }
    let last = set(&server, "e", -0.0).await;
    for (order, expected) in [
        ("", &["a", "b", "c", "d", "e"][..]),
        ("key", &["a", "b", "c", "d", "e"]),
        ("key desc", &["e", "d", "c", "b", "a"]),
        ("score", &["c", "e", "a", "b"]),
        ("score desc", &["b", "a", "e", "c"]),
    ] {
        for page_size in 1..6 {
            let mut request = ListEntriesRequest { page_size, min_revision: last, ..by(order) };
            let mut found = Vec::new();
            loop {
                let page = list(&server, request.clone()).await.unwrap();
                assert!(page.entries.len() <= page_size as usize);
                found.extend(page.entries.into_iter().map(|entry| entry.key));
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            assert_eq!(found, expected, "{order} by {page_size}");
        }
    }
    let zero = get(&server, "e", 0).await.unwrap().score.unwrap();
    assert!(zero == 0.0 && zero.is_sign_positive(), "-0 is 0");
}

#[tokio::test]
async fn a_page_token_works_for_its_own_query_only() {
    let server = ready().await;
    set(&server, "a", 1.0).await;
    let last = set(&server, "b", 2.0).await;
    let request = ListEntriesRequest { page_size: 1, min_revision: last, ..by("score") };
    let token = list(&server, request.clone()).await.unwrap().next_page_token;
    for other in [
        ListEntriesRequest { order_by: "score desc".into(), ..request.clone() },
        ListEntriesRequest { prefix: "a".into(), ..request.clone() },
        ListEntriesRequest { min_score: Some(0.0), ..request.clone() },
        ListEntriesRequest { max_score: Some(9.0), ..request.clone() },
    ] {
        let other = ListEntriesRequest { page_token: token.clone(), ..other };
        assert_refused(list(&server, other).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    }
    let garbage = ListEntriesRequest { page_token: "x".into(), ..request.clone() };
    assert_refused(list(&server, garbage).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    let larger = ListEntriesRequest { page_token: token, page_size: 9, ..request };
    assert_eq!(keys(&server, larger).await, ["b"]);
}

#[tokio::test]
async fn an_expected_revision_must_be_the_entrys() {
    let server = ready().await;
    let expecting =
        |expected, value| PutRequest { expected_revision: Some(expected), ..put("a", value, None) };
    let first = send(&server, expecting(0, "one")).await.unwrap();
    let status = assert_refused(send(&server, expecting(0, "x")).await, Code::Aborted, "REVISION_MISMATCH");
    assert_eq!(metadata(&status, "revision"), first.to_string());
    assert!(status.message().contains(&format!("is {first}, not 0")), "{}", status.message());
    let second = send(&server, expecting(first, "two")).await.unwrap();
    let status =
        assert_refused(send(&server, expecting(first, "x")).await, Code::Aborted, "REVISION_MISMATCH");
    assert_eq!(metadata(&status, "revision"), second.to_string());
    assert_refused(delete(&server, "a", Some(first)).await, Code::Aborted, "REVISION_MISMATCH");

    let deletion = delete(&server, "a", Some(second)).await.unwrap();
    for gone in [second, deletion] {
        let status =
            assert_refused(send(&server, expecting(gone, "x")).await, Code::Aborted, "REVISION_MISMATCH");
        assert_eq!(metadata(&status, "revision"), "0", "there is no entry");
    }
    send(&server, expecting(0, "again")).await.expect("what was deleted is not there");
    assert_refused(
        send(&server, PutRequest { key: "b".into(), ..expecting(1, "x") }).await,
        Code::Aborted,
        "REVISION_MISMATCH",
    );
}

#[tokio::test]
async fn of_many_writers_with_one_expectation_one_succeeds() {
    let server = ready().await;
    for round in 0..5 {
        let key = format!("key-{round}");
        if round % 2 == 1 {
            // As if it had never been there.
            set(&server, &key, None).await;
            delete(&server, &key, None).await.unwrap();
        }
        let write = async |n: usize| {
            let request = PutRequest { expected_revision: Some(0), ..put(&key, &n.to_string(), None) };
            send(&server, request).await
        };
        let answers = futures::future::join_all((0..16).map(write)).await;
        let won: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(won.len(), 1);
        for lost in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!((lost.code(), metadata(lost, "revision")), (Code::Aborted, won[0].to_string()));
        }
    }
}

#[tokio::test]
async fn a_write_with_an_id_is_done_once() {
    let server = ready().await;
    let request = PutRequest { id: "1".into(), expected_revision: Some(0), ..put("a", "x", None) };
    let first = send(&server, request.clone()).await.unwrap();
    assert_eq!(send(&server, request).await.unwrap(), first);
    assert_eq!(set(&server, "b", None).await, first + 1);
}

#[tokio::test]
async fn entries_vanish_at_their_time_and_nothing_older_comes_back() {
    let server = ready().await;
    let mut watch = watch(&server, WatchEntriesRequest::default()).await;
    assert!(next(&mut watch).await.reset);
    set(&server, "a", 1.0).await;
    assert_eq!(next(&mut watch).await.entries[0].key, "a");
    let ttl = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
    let revision = send(&server, PutRequest { ttl, ..put("a", "short", Some(2.0)) }).await.unwrap();
    let changed = next(&mut watch).await;
    assert_eq!((changed.entries[0].revision, changed.revision), (revision, revision));
    assert!(changed.entries[0].expire_time.is_some());
    assert_eq!(next(&mut watch).await.removed_keys, ["a"]);
    assert_refused(get(&server, "a", revision).await, Code::NotFound, "ENTRY_NOT_FOUND");
    assert!(list(&server, by("score")).await.unwrap().entries.is_empty());
    let expecting = |expected| PutRequest { expected_revision: Some(expected), ..put("a", "new", None) };
    let status = assert_refused(send(&server, expecting(revision)).await, Code::Aborted, "REVISION_MISMATCH");
    assert_eq!(metadata(&status, "revision"), "0");
    send(&server, expecting(0)).await.expect("what has expired is not there");
}

#[tokio::test]
async fn a_buckets_ttl_is_for_entries_that_have_none() {
    let server = TestServer::start().await;
    create(&server, Bucket { default_ttl: seconds(3_600), ..named(BUCKET) }).await.unwrap();
    let expires = async |ttl| {
        let revision = send(&server, PutRequest { ttl, ..put("a", "x", None) }).await.unwrap();
        let entry = get(&server, "a", revision).await.unwrap();
        entry.expire_time.map(|time| time.seconds - entry.update_time.unwrap().seconds)
    };
    assert!((3_599..=3_600).contains(&expires(None).await.unwrap()));
    assert_eq!(expires(seconds(0)).await, None);
    assert!((59..=60).contains(&expires(seconds(60)).await.unwrap()));
}

fn write(key: &str, value: Option<&str>, expected_revision: Option<u64>) -> BatchWrite {
    let action = match value {
        Some(value) => {
            Action::Put(BatchPut { value: value.to_owned().into(), score: Some(1.0), ..BatchPut::default() })
        }
        None => Action::Delete(BatchDelete {}),
    };
    BatchWrite { key: key.into(), action: Some(action), expected_revision }
}

async fn batch(server: &TestServer, writes: Vec<BatchWrite>) -> Result<(Vec<u64>, u64), Status> {
    let request = PutBatchRequest { bucket: BUCKET.into(), writes };
    let answer = within(server.key_values().put_batch(request)).await?.into_inner();
    Ok((answer.revisions, answer.revision))
}

#[tokio::test]
async fn a_batch_is_done_whole_or_not_at_all() {
    let server = ready().await;
    let old = set(&server, "old", None).await;
    delete(&server, "deleted", None).await.unwrap();
    set(&server, "gone", None).await;
    delete(&server, "gone", None).await.unwrap();
    let writes = vec![
        write("new", Some("1"), Some(0)),
        write("free", Some("2"), None),
        write("old", None, Some(old)),
        write("gone", Some("3"), Some(0)),
        write("deleted", Some("4"), Some(0)),
        write("also", Some("5"), None),
    ];
    let (revisions, last) = batch(&server, writes).await.unwrap();
    assert_eq!(revisions.len(), 6);
    assert_eq!(
        keys(&server, ListEntriesRequest { min_revision: last, ..all() }).await,
        ["also", "deleted", "free", "gone", "new"]
    );
    for (key, revision) in ["new", "free", "old", "gone", "deleted", "also"].iter().zip(&revisions) {
        if *key != "old" {
            assert_eq!(get(&server, key, 0).await.unwrap().revision, *revision);
        }
    }

    let writes = vec![
        write("x", Some("1"), None),
        write("new", None, Some(revisions[0])),
        write("free", None, Some(0)),
    ];
    let status = assert_refused(batch(&server, writes).await, Code::Aborted, "REVISION_MISMATCH");
    assert_eq!(
        (metadata(&status, "index"), metadata(&status, "revision")),
        ("2".into(), revisions[1].to_string())
    );
    let after = set(&server, "after", None).await;
    assert_eq!(after, last + 1, "nothing was written");
}

#[tokio::test]
async fn bad_batches_are_refused() {
    let server = ready().await;
    let refused = async |writes, reason| {
        bad_fields(&assert_refused(batch(&server, writes).await, Code::InvalidArgument, reason))
    };
    assert_eq!(refused(vec![], "REQUIRED").await, ["writes"]);
    let twice = vec![write("a", Some("1"), None), write("a", None, None)];
    assert_eq!(refused(twice, "DUPLICATE_KEY").await, ["writes[1].key"]);
    let many = |count, expected| (0..count).map(|n| write(&n.to_string(), None, expected)).collect();
    assert_eq!(refused(many(1_001, None), "TOO_MANY_WRITES").await, ["writes"]);
    assert_eq!(refused(many(101, Some(0)), "TOO_MANY_EXPECTATIONS").await, ["writes"]);
    let nothing = vec![BatchWrite { key: "a".into(), ..BatchWrite::default() }];
    assert_eq!(refused(nothing, "REQUIRED").await, ["writes[0].action"]);
    let put = BatchPut { score: Some(f64::NAN), ..BatchPut::default() };
    let nan = vec![BatchWrite { key: "a".into(), action: Some(Action::Put(put)), expected_revision: None }];
    assert_eq!(refused(nan, "NOT_A_NUMBER").await, ["writes[0].put.score"]);
    let (revisions, _) = batch(&server, many(1_000, None)).await.unwrap();
    assert!(revisions.iter().copied().eq(1..=1_000));
}

#[tokio::test]
async fn bad_input_is_refused_in_words_that_help() {
    let server = ready().await;
    let nan = Some(f64::NAN);
    let refused = async |request: PutRequest, reason| {
        bad_fields(&assert_refused(send(&server, request).await, Code::InvalidArgument, reason))
    };
    assert_eq!(refused(put("a", "", nan), "NOT_A_NUMBER").await, ["score"]);
    assert_eq!(refused(put("", "", None), "REQUIRED").await, ["key"]);
    assert_eq!(refused(put(&"k".repeat(1_025), "", None), "TOO_LONG").await, ["key"]);
    assert_eq!(
        refused(PutRequest { ttl: seconds(-1), ..put("a", "", None) }, "INVALID_DURATION").await,
        ["ttl"]
    );
    assert_eq!(refused(put("a", &"v".repeat((1 << 20) + 1), None), "VALUE_TOO_LARGE").await, ["value"]);
    assert_eq!(
        refused(PutRequest { bucket: "_x".into(), ..put("a", "", None) }, "INVALID_NAME").await,
        ["bucket"]
    );
    send(&server, put(&"k".repeat(1_024), &"v".repeat(1 << 20), Some(f64::MIN_POSITIVE))).await.unwrap();

    let listing = async |request, reason| {
        bad_fields(&assert_refused(list(&server, request).await, Code::InvalidArgument, reason))
    };
    assert_eq!(listing(by("value"), "INVALID_ORDER").await, ["order_by"]);
    assert_eq!(listing(by("score down"), "INVALID_ORDER").await, ["order_by"]);
    assert_eq!(listing(ListEntriesRequest { min_score: nan, ..all() }, "NOT_A_NUMBER").await, ["min_score"]);
    assert_eq!(listing(ListEntriesRequest { max_score: nan, ..all() }, "NOT_A_NUMBER").await, ["max_score"]);
    assert_eq!(listing(ListEntriesRequest { page_size: 1_001, ..all() }, "TOO_LARGE").await, ["page_size"]);
    let empty = ListEntriesRequest { min_score: Some(2.0), max_score: Some(1.0), ..all() };
    assert_eq!(listing(empty, "EMPTY_RANGE").await, ["min_score"]);

    let unknown = PutRequest { bucket: "nothing".into(), ..put("a", "", None) };
    let status = assert_refused(send(&server, unknown).await, Code::NotFound, "BUCKET_NOT_FOUND");
    assert!(status.message().contains("columba kv bucket create nothing"));
    let unknown = ListEntriesRequest { bucket: "nothing".into(), ..all() };
    assert_refused(list(&server, unknown).await, Code::NotFound, "BUCKET_NOT_FOUND");
}

#[tokio::test]
async fn a_revision_from_the_future_is_waited_for_until_the_deadline() {
    let server = ready().await;
    let last = set(&server, "a", None).await;
    let mut request =
        Request::new(GetRequest { bucket: BUCKET.into(), key: "a".into(), min_revision: last + 1 });
    request.set_timeout(Duration::from_millis(500));
    let answer = server.key_values().get(request).await;
    let status = assert_refused(answer, Code::DeadlineExceeded, "REVISION_NOT_REACHED");
    assert!(status.message().contains(&format!("is at revision {last}")), "{}", status.message());
    let waiting = get(&server, "a", last + 1);
    let (read, written) = tokio::join!(waiting, send(&server, put("a", "later", None)));
    assert_eq!(read.unwrap().revision, written.unwrap(), "it comes while a read waits");
}

#[tokio::test]
async fn buckets_are_created_listed_changed_and_deleted() {
    let server = TestServer::start().await;
    let labels = [("team".to_owned(), "x".to_owned())].into();
    let bucket = Bucket { labels, default_ttl: seconds(60), max_value_bytes: 10, ..named("b") };
    let created = create(&server, bucket.clone()).await.unwrap();
    assert_eq!((created.max_value_bytes, created.default_ttl, created.revision), (10, seconds(60), 0));
    assert_eq!(created.labels, bucket.labels);
    assert_eq!(create(&server, bucket.clone()).await.unwrap(), created, "the same again is no change");
    assert_refused(create(&server, named("b")).await, Code::AlreadyExists, "BUCKET_EXISTS");
    assert_eq!(create(&server, named("a")).await.unwrap().max_value_bytes, 1 << 20);
    let largest = Bucket { max_value_bytes: 8 << 20, ..named("c") };
    create(&server, largest).await.unwrap();

    let mut names = Vec::new();
    let mut request = ListBucketsRequest { page_size: 2, ..ListBucketsRequest::default() };
    loop {
        let page = server.key_values().list_buckets(request.clone()).await.unwrap().into_inner();
        names.extend(page.buckets.into_iter().map(|bucket| bucket.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);

    let update = async |bucket, path: &str| {
        let update_mask = Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
        let request = UpdateBucketRequest { bucket: Some(bucket), update_mask };
        Ok(server.key_values().update_bucket(request).await?.into_inner().bucket.unwrap())
    };
    let updated: Bucket =
        update(Bucket { default_ttl: None, ..created.clone() }, "default_ttl").await.unwrap();
    assert_eq!((updated.default_ttl, updated.max_value_bytes, &updated.labels), (None, 10, &bucket.labels));
    assert_ne!(updated.etag, created.etag);
    let stale: Result<Bucket, Status> = update(created.clone(), "max_value_bytes").await;
    let status = assert_refused(stale, Code::Aborted, "ETAG_MISMATCH");
    assert!(status.message().starts_with("b has changed"), "{}", status.message());
    assert_refused(update(updated.clone(), "name").await, Code::InvalidArgument, "INVALID_FIELD_MASK");
    assert_refused(update(named("x"), "labels").await, Code::NotFound, "BUCKET_NOT_FOUND");

    let delete = async |etag: &str| {
        let request = DeleteBucketRequest { bucket: "b".into(), etag: etag.to_owned() };
        server.key_values().delete_bucket(request).await
    };
    assert_refused(delete(&created.etag).await, Code::Aborted, "ETAG_MISMATCH");
    delete(&updated.etag).await.unwrap();
    assert_refused(delete("").await, Code::NotFound, "BUCKET_NOT_FOUND");
    let request = GetBucketRequest { bucket: "b".into() };
    assert_refused(server.key_values().get_bucket(request).await, Code::NotFound, "BUCKET_NOT_FOUND");
    assert_refused(create(&server, named(&"x".repeat(129))).await, Code::InvalidArgument, "TOO_LONG");
}

#[tokio::test]
async fn a_bucket_made_again_is_empty() {
    let server = ready().await;
    let last = set(&server, "a", 1.0).await;
    get(&server, "a", last).await.unwrap();
    let mut stream = watch(&server, WatchEntriesRequest::default()).await;
    next(&mut stream).await;
    let request = DeleteBucketRequest { bucket: BUCKET.into(), etag: String::new() };
    server.key_values().delete_bucket(request).await.unwrap();
    assert_refused(within(stream.message()).await, Code::FailedPrecondition, "BUCKET_DELETED");
    assert_refused(get(&server, "a", 0).await, Code::NotFound, "BUCKET_NOT_FOUND");
    create(&server, named(BUCKET)).await.unwrap();
    assert!(list(&server, all()).await.unwrap().entries.is_empty());
    let first = set(&server, "b", None).await;
    assert_eq!(keys(&server, ListEntriesRequest { min_revision: first, ..all() }).await, ["b"]);
}

#[tokio::test]
async fn the_topics_beneath_are_nobodys_business() {
    let server = ready().await;
    set(&server, "a", None).await;
    server.create_topic("orders").await;
    let topics = server.topics().list_topics(ListTopicsRequest::default()).await.unwrap().into_inner().topics;
    assert_eq!(topics.iter().map(|topic| &*topic.name).collect::<Vec<_>>(), ["orders"]);
    let spying = ListTopicsRequest { filter: "_kv.>".into(), ..ListTopicsRequest::default() };
    assert!(server.topics().list_topics(spying).await.unwrap().into_inner().topics.is_empty());
    let mut stream = server.topics().watch_topics(WatchTopicsRequest::default()).await.unwrap().into_inner();
    create(&server, named("another")).await.unwrap();
    server.create_topic("later").await;
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != "later") {
        match within(stream.message()).await.unwrap().unwrap().event.unwrap() {
            watch_topics_response::Event::Existing(topic) | watch_topics_response::Event::Created(topic) => {
                names.push(topic.name);
            }
            _ => {}
        }
    }
    names.dedup();
    assert_eq!(names, ["orders", "later"]);
    let deletion = columba::proto::v1::DeleteTopicRequest { topic: "_kv.scores".into(), etag: String::new() };
    assert_refused(server.topics().delete_topic(deletion).await, Code::InvalidArgument, "INVALID_NAME");
}

#[tokio::test]
async fn what_a_key_was_before() {
    // The reference engine forgets at once what was replaced.
    let dir = tempfile::tempdir().unwrap();
    let engine = EmbeddedEngine::open(dir.path(), EngineOptions::default()).await.unwrap();
    let server = TestServer::start_on(Arc::new(engine), Options::default()).await;
    create(&server, named(BUCKET)).await.unwrap();
    let first = send(&server, put("a", "one", Some(1.0))).await.unwrap();
    set(&server, "b", None).await;
    let second = delete(&server, "a", None).await.unwrap();
    let third = send(&server, put("a", "three", None)).await.unwrap();
    get(&server, "a", third).await.unwrap();
    let mut request =
        HistoryRequest { bucket: BUCKET.into(), key: "a".into(), page_size: 2, ..HistoryRequest::default() };
    let page = server.key_values().history(request.clone()).await.unwrap().into_inner();
    let shown = |versions: Vec<columba::proto::v1::EntryVersion>| {
        let one = |version: columba::proto::v1::EntryVersion| {
            let entry = version.entry.unwrap();
            (entry.revision, version.deleted, entry.value)
        };
        versions.into_iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(shown(page.versions), [(third, false, "three".into()), (second, true, "".into())]);
    request.page_token = page.next_page_token;
    let page = server.key_values().history(request.clone()).await.unwrap().into_inner();
    assert_eq!(shown(page.versions), [(first, false, "one".into())]);
    assert!(page.next_page_token.is_empty());
    let other = HistoryRequest { key: "b".into(), ..request };
    assert_refused(server.key_values().history(other).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
}

async fn watch(server: &TestServer, request: WatchEntriesRequest) -> Streaming<WatchEntriesResponse> {
    let request = WatchEntriesRequest { bucket: BUCKET.into(), ..request };
    within(server.key_values().watch_entries(request)).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchEntriesResponse>) -> EntriesChanged {
    loop {
        match within(stream.message()).await.unwrap().unwrap().event.unwrap() {
            Event::Changed(changed) => return changed,
            Event::Heartbeat(_) => {}
            Event::Goaway(goaway) => panic!("{goaway:?}"),
        }
    }
}

fn entered(changed: &EntriesChanged) -> Vec<&str> {
    changed.entries.iter().map(|entry| &*entry.key).collect()
}

#[tokio::test]
async fn a_watched_top_of_a_list_is_kept_in_step() {
    let server = ready().await;
    for (key, score) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
        set(&server, key, score).await;
    }
    let last = set(&server, "x", None).await;
    get(&server, "x", last).await.unwrap();
    let request = WatchEntriesRequest { order_by: "score desc".into(), limit: 2, ..Default::default() };
    let mut stream = watch(&server, request.clone()).await;
    let first = next(&mut stream).await;
    assert!(first.reset && !first.incomplete && first.revision >= last);
    assert_eq!(entered(&first), ["c", "b"]);
    set(&server, "d", 2.5).await;
    let step = next(&mut stream).await;
    assert_eq!(
        (entered(&step), step.removed_keys.clone(), step.reset),
        (vec!["d"], vec!["b".to_owned()], false)
    );
    let deletion = delete(&server, "c", None).await.unwrap();
    let step = next(&mut stream).await;
    assert_eq!(
        (entered(&step), step.removed_keys.clone(), step.revision),
        (vec!["b"], vec!["c".to_owned()], deletion)
    );

    drop(stream);
    let same = set(&server, "e", 9.0).await;
    delete(&server, "b", None).await.unwrap();
    let resumed = WatchEntriesRequest { resume_token: step.resume_token.clone(), ..request.clone() };
    let mut stream = watch(&server, resumed).await;
    let mut step = next(&mut stream).await;
    if step.revision == same {
        let later = next(&mut stream).await;
        assert!(later.entries.is_empty() && later.removed_keys.is_empty());
        step = later;
    }
    assert_eq!(
        (entered(&step), step.removed_keys.clone(), step.reset),
        (vec!["e"], vec!["b".to_owned()], false)
    );
    let other =
        WatchEntriesRequest { limit: 3, resume_token: step.resume_token, bucket: BUCKET.into(), ..request };
    let answer = server.key_values().watch_entries(other).await.map(drop);
    assert_refused(answer, Code::InvalidArgument, "INVALID_RESUME_TOKEN");
}

#[tokio::test]
async fn a_watch_without_a_limit_tells_of_everything() {
    let server = ready().await;
    let writes = (0..1_000).map(|n| write(&format!("k{n:04}"), Some("v"), None)).collect();
    batch(&server, writes).await.unwrap();
    let last = set(&server, "k9999", 5.0).await;
    get(&server, "k9999", last).await.unwrap();
    let request = WatchEntriesRequest { prefix: "k".into(), max_score: Some(5.0), ..Default::default() };
    let mut stream = watch(&server, request.clone()).await;
    let (mut count, mut first) = (0, true);
    loop {
        let step = next(&mut stream).await;
        assert_eq!(step.reset, std::mem::take(&mut first));
        count += step.entries.len();
        if !step.incomplete {
            assert_eq!((count, step.revision), (1_001, last));
            break;
        }
        assert!(step.resume_token.is_empty());
    }
    set(&server, "other", 1.0).await;
    set(&server, "k9999", 6.0).await;
    let step = next(&mut stream).await;
    assert_eq!(
        (entered(&step), &step.removed_keys[..]),
        (vec![], &["k9999".to_owned()][..]),
        "it left the selection"
    );
    drop(stream);
    set(&server, "k9999", 4.0).await;
    let resumed = WatchEntriesRequest { resume_token: step.resume_token, ..request };
    let step = next(&mut watch(&server, resumed).await).await;
    assert_eq!((entered(&step), step.reset), (vec!["k9999"], false));
}

#[tokio::test]
async fn a_watch_shows_that_it_is_alive_and_ends_with_the_server() {
    let options = Options { heartbeat: Duration::from_millis(20), ..Options::default() };
    let mut server = TestServer::start_with(options).await;
    create(&server, named(BUCKET)).await.unwrap();
    let mut stream = watch(&server, WatchEntriesRequest::default()).await;
    assert!(next(&mut stream).await.reset);
    let event = within(stream.message()).await.unwrap().unwrap().event;
    assert!(matches!(event, Some(Event::Heartbeat(_))));
    server.stop();
    let status = loop {
        match within(stream.message()).await {
            Ok(Some(WatchEntriesResponse { event: Some(Event::Heartbeat(_)) })) => {}
            Ok(event) => {
                assert!(matches!(event.unwrap().event, Some(Event::Goaway(_))));
                break within(stream.message()).await;
            }
            Err(status) => panic!("no Goaway before {status:?}"),
        }
    };
    assert_refused(status, Code::Unavailable, "SHUTTING_DOWN");
    server.stopped().await.unwrap();
}
