//! Whoever writes reads, and asks queries for, no less than it wrote: through the view, a handler that lags, calls
//! that are shared, and the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use columba::cqrs;
use columba::embedded::{EmbeddedEngine, Options as EngineOptions};
use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::query_service_client::QueryServiceClient;
use columba::proto::v1::{
    AnswerQueryRequest, Bucket, CachePolicy, CreateBucketRequest, GetRequest, HandleQueriesRequest,
    ListEntriesRequest, PutRequest, QueryDelivery, QueryRequest, QueryResponse, QueryResult,
    answer_query_request, handle_queries_response,
};
use columba::server::Options;
use futures::future::join_all;
use tonic::transport::Channel;

use crate::common::{TestServer, within};
use crate::queries::seconds;

const BUCKET: &str = "levels";
const WRITERS: usize = 64;
/// Each is written by several, so that callers that need different revisions share calls and the cache.
const KEYS: usize = 16;

/// What was counted.
#[derive(Default)]
struct Counts {
    rounds: AtomicU64,
    /// Answers to queries.
    answers: AtomicU64,
    /// Those that came from the cache.
    cached: AtomicU64,
    /// Those of them to whom a revision mattered.
    cached_with_revision: AtomicU64,
    /// Answers that the handler gave.
    handled: AtomicU64,
}

fn note(count: &AtomicU64) -> u64 {
    count.fetch_add(1, Ordering::Relaxed)
}

fn total(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// Answers with what the bucket's view has now, however old that is: the revision of the entry, and as the
/// revision of the answer how far the view is.
async fn answer(channel: Channel, delivery: QueryDelivery, counts: Arc<Counts>) {
    let request = ListEntriesRequest {
        bucket: BUCKET.into(),
        prefix: delivery.key,
        page_size: 1,
        ..Default::default()
    };
    let mut entries = KeyValueServiceClient::new(channel.clone());
    let list = within(entries.list_entries(request)).await.unwrap().into_inner();
    let entry = list.entries.first().map_or(0, |entry| entry.revision);
    let result = QueryResult {
        payload: entry.to_string().into(),
        // 0 would say that it is not known.
        revision: list.revision.max(1),
        ..QueryResult::default()
    };
    let outcome = Some(answer_query_request::Outcome::Result(result));
    let request = AnswerQueryRequest { query_id: delivery.query_id, outcome };
    within(QueryServiceClient::new(channel).answer_query(request)).await.unwrap();
    note(&counts.handled);
}

/// A handler, which answers queries as they come.
async fn handler(channel: Channel, counts: Arc<Counts>) {
    let request = HandleQueriesRequest {
        types: vec!["level".into()],
        max_outstanding: 2 * u32::try_from(WRITERS).unwrap(),
        ..HandleQueriesRequest::default()
    };
    let mut queries = QueryServiceClient::new(channel.clone());
    let mut stream = within(queries.handle_queries(request)).await.unwrap().into_inner();
    while let Ok(Some(response)) = stream.message().await {
        if let Some(handle_queries_response::Event::Delivery(delivery)) = response.event {
            tokio::spawn(answer(channel.clone(), delivery, Arc::clone(&counts)));
        }
    }
}

/// Asks with the cache on; returns the revision of the entry in the answer.
async fn ask(
    queries: &mut QueryServiceClient<Channel>,
    key: &str,
    min_revision: u64,
    counts: &Counts,
) -> u64 {
    let request = QueryRequest {
        r#type: "level".into(),
        key: key.into(),
        cache: Some(CachePolicy { ttl: Some(seconds(3_600)), bypass: false }),
        min_revision,
        ..QueryRequest::default()
    };
    let QueryResponse { payload, from_cache, revision, .. } =
        within(queries.query(request)).await.unwrap().into_inner();
    assert!(revision >= min_revision, "{revision} is below {min_revision}");
    let entry = str::from_utf8(&payload).unwrap().parse().unwrap();
    assert!(entry <= revision, "an answer shows no more than it says: {entry}, {revision}");
    note(&counts.answers);
    if from_cache {
        note(&counts.cached);
        counts.cached_with_revision.fetch_add(u64::from(min_revision > 0), Ordering::Relaxed);
    }
    entry
}

/// Puts, reads and asks, so many times.
async fn writer(number: usize, rounds: usize, channel: Channel, counts: Arc<Counts>) {
    let mut entries = KeyValueServiceClient::new(channel.clone());
    let mut queries = QueryServiceClient::new(channel);
    let key = format!("{:02}", number % KEYS);
    for round in 0..rounds {
        let value = format!("{number}/{round}").into();
        let request = PutRequest { bucket: BUCKET.into(), key: key.clone(), value, ..PutRequest::default() };
        let written = within(entries.put(request)).await.unwrap().into_inner().revision;
        let request = GetRequest { bucket: BUCKET.into(), key: key.clone(), min_revision: written };
        let entry = within(entries.get(request)).await.unwrap().into_inner().entry.unwrap();
        assert!(entry.revision >= written, "read {} after {written}", entry.revision);
        // From the handler mostly; from the cache mostly; from the cache, which must not have gone back.
        for min_revision in [written, written, 0] {
            let answered = ask(&mut queries, &key, min_revision, &counts).await;
            assert!(answered >= written, "answered {answered} after {written}, asking for {min_revision}");
        }
        note(&counts.rounds);
    }
}

async fn read_your_writes(rounds: usize) {
    let dir = tempfile::tempdir().unwrap();
    let engine = EmbeddedEngine::open(&dir.path().join("log"), EngineOptions::default()).await.unwrap();
    let cqrs = cqrs::Options { directory: Some(dir.path().join("views")), ..cqrs::Options::default() };
    let options = Options { cqrs, ..Options::default() };
    let mut server = TestServer::start_on(Arc::new(engine), options).await;
    let bucket = Bucket { name: BUCKET.into(), ..Bucket::default() };
    server.key_values().create_bucket(CreateBucketRequest { bucket: Some(bucket) }).await.unwrap();
    let counts = Arc::new(Counts::default());
    // Of two handlers, one is always a little behind the other.
    let handlers = [(); 2].map(|()| tokio::spawn(handler(server.channel(), Arc::clone(&counts))));
    let start = Instant::now();
    let writers = (0..WRITERS).map(|number| {
        let rounds = rounds / WRITERS + usize::from(number < rounds % WRITERS);
        tokio::spawn(writer(number, rounds, server.channel(), Arc::clone(&counts)))
    });
    for done in join_all(writers.collect::<Vec<_>>()).await {
        done.unwrap();
    }
    let [rounds_done, answers, cached, cached_with_revision, handled] =
        [&counts.rounds, &counts.answers, &counts.cached, &counts.cached_with_revision, &counts.handled]
            .map(total);
    println!(
        "{rounds_done} rounds by {WRITERS} writers in {:?}: 0 stale of {answers} answers, {cached} from the cache, \
         {cached_with_revision} of these with a revision to keep to; {handled} calls to handlers",
        start.elapsed()
    );
    assert_eq!((rounds_done, answers), (rounds as u64, 3 * rounds as u64));
    assert!(cached_with_revision > 0 && cached > cached_with_revision && handled > 0);
    server.stop();
    for handler in handlers {
        handler.await.unwrap();
    }
    server.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_is_answered_no_less_than_it_wrote() {
    read_your_writes(192).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn whoever_writes_is_answered_no_less_than_it_wrote_a_hundred_thousand_times() {
    read_your_writes(100_000).await;
}
