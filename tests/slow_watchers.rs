//! What clients that watch and do not read cost the server.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::time::Duration;

use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::query_service_client::QueryServiceClient;
use columba::proto::v1::{
    AnswerQueryRequest, Bucket, CreateBucketRequest, HandleQueriesRequest, PublishQueryUpdateRequest,
    PutRequest, QueryResult, WatchEntriesRequest, WatchQueryRequest, WatchQueryResponse,
    answer_query_request, handle_queries_response, watch_query_response,
};
use process::ServerProcess;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Clients that do not read.
const WATCHERS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);
/// More than a server needs at all, and far less than an answer for each watcher.
const ENOUGH_MEMORY: u64 = 192 << 20;

struct Server {
    process: ServerProcess,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { process: ServerProcess::start(&dir.path().join("data")), _dir: dir }
    }

    fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.process.address)).unwrap();
        endpoint.connect_lazy()
    }

    /// A connection of a client that takes little ahead.
    fn idle(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.process.address)).unwrap();
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535).connect_lazy()
    }

    /// The most memory that it ever had, in bytes.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    fn assert_enough_memory(&self, what: &str) {
        let peak = self.peak();
        println!("{WATCHERS} {what} that nobody reads: {} MiB at most", peak >> 20);
        assert!(peak < ENOUGH_MEMORY, "{} MiB", peak >> 20);
    }
}

async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

fn large(revision: u64) -> QueryResult {
    QueryResult { payload: vec![b'x'; 4_000_000].into(), revision, ..QueryResult::default() }
}

/// Answers every query.
async fn handle(mut client: QueryServiceClient<Channel>) {
    let request = HandleQueriesRequest { types: vec!["report".into()], ..Default::default() };
    let mut stream = client.handle_queries(request).await.unwrap().into_inner();
    while let Ok(Some(response)) = stream.message().await {
        if let Some(handle_queries_response::Event::Delivery(delivery)) = response.event {
            let outcome = Some(answer_query_request::Outcome::Result(large(1)));
            client.answer_query(AnswerQueryRequest { query_id: delivery.query_id, outcome }).await.unwrap();
        }
    }
}

async fn watch(server: &Server) -> Streaming<WatchQueryResponse> {
    let request = WatchQueryRequest { r#type: "report".into(), ..Default::default() };
    loop {
        // No handler, no watch: it may come in a moment.
        let mut stream = QueryServiceClient::new(server.channel())
            .watch_query(request.clone())
            .await
            .unwrap()
            .into_inner();
        if revision(&mut stream).await == Some(1) {
            return stream;
        }
    }
}

/// The revision of the next answer.
async fn revision(stream: &mut Streaming<WatchQueryResponse>) -> Option<u64> {
    match within(stream.message()).await.ok()??.event? {
        watch_query_response::Event::Answer(answer) => Some(answer.revision),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_a_query_and_does_not_read_holds_no_answers_of_its_own() {
    let server = Server::start();
    let mut client = QueryServiceClient::new(server.channel());
    let handler = tokio::spawn(handle(client.clone()));
    let mut reader = within(watch(&server)).await;
    let mut streams = Vec::new();
    for _ in 0..WATCHERS {
        let request = WatchQueryRequest { r#type: "report".into(), ..Default::default() };
        let mut client = QueryServiceClient::new(server.idle());
        streams.push(within(client.watch_query(request)).await.unwrap().into_inner());
    }
    for next in 2..20 {
        let request = PublishQueryUpdateRequest {
            r#type: "report".into(),
            result: Some(large(next)),
            ..Default::default()
        };
        let updated = within(client.publish_query_update(request)).await.unwrap().into_inner();
        assert_eq!((updated.applied, updated.watchers), (true, u32::try_from(WATCHERS).unwrap() + 1));
        // Whoever reads gets it all the same.
        while revision(&mut reader).await.unwrap() < next {}
    }
    server.assert_enough_memory("watches of a query");
    // And who begins to read after all gets the newest.
    while revision(&mut streams[0]).await.unwrap() < 19 {}
    handler.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_entries_and_does_not_read_holds_few_of_them() {
    let server = Server::start();
    let mut client = KeyValueServiceClient::new(server.channel());
    let bucket = Bucket { name: "blobs".into(), ..Bucket::default() };
    client.create_bucket(CreateBucketRequest { bucket: Some(bucket) }).await.unwrap();
    for number in 0..96 {
        let request = PutRequest {
            bucket: "blobs".into(),
            key: format!("{number:02}"),
            value: vec![b'x'; 64 << 10].into(),
            ..PutRequest::default()
        };
        within(client.put(request)).await.unwrap();
    }
    let mut streams = Vec::new();
    let request = WatchEntriesRequest { bucket: "blobs".into(), ..Default::default() };
    for _ in 0..WATCHERS {
        let mut client = KeyValueServiceClient::new(server.idle());
        streams.push(within(client.watch_entries(request.clone())).await.unwrap().into_inner());
    }
    // By when this has read all of it, the others have been given what they are given.
    let mut reader = within(client.watch_entries(request)).await.unwrap().into_inner();
    let mut entries = 0;
    while entries < 96 {
        let event = within(reader.message()).await.unwrap().unwrap().event.unwrap();
        if let columba::proto::v1::watch_entries_response::Event::Changed(changed) = event {
            entries += changed.entries.len();
        }
    }
    server.assert_enough_memory("watches of entries");
}
