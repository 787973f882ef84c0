//! kill -9 at random moments while entries are put: every acknowledged one is there afterwards, and the view
//! is what the log says.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::{Bucket, CreateBucketRequest, DeleteRequest, Entry, ListEntriesRequest, PutRequest};
use process::ServerProcess;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const KILLS: u64 = 8;
const WRITERS: usize = 4;
const KEYS: u32 = 20;
const BUCKET: &str = "scores";
const PATIENCE: Duration = Duration::from_secs(60);

/// What a writer did to a key: the value put, or `None` for a deletion.
type Done = Option<String>;

/// What a writer knows of a key: what was acknowledged last, with its revision, and what was asked for since.
#[derive(Debug, Default)]
struct Known {
    acknowledged: Option<(u64, Done)>,
    unknown: Vec<Done>,
}

type Client = KeyValueServiceClient<Channel>;

#[expect(clippy::single_match_else, reason = "the two are alike")]
async fn write(client: &mut Client, key: &str, what: &Done, round: u32) -> Result<u64, Status> {
    let (bucket, key) = (BUCKET.to_owned(), key.to_owned());
    match what {
        Some(value) => {
            let (value, score) = (value.clone().into(), Some(f64::from(round % 7)));
            let request = PutRequest { bucket, key, value, score, ..PutRequest::default() };
            Ok(client.put(request).await?.into_inner().revision)
        }
        None => {
            let request = DeleteRequest { bucket, key, ..DeleteRequest::default() };
            Ok(client.delete(request).await?.into_inner().revision)
        }
    }
}

/// Writes to keys of its own until told to end; returns what it knows of them.
async fn produce(
    mut client: Client,
    writer: usize,
    acknowledged: Arc<AtomicUsize>,
    mut starts: watch::Receiver<u64>,
) -> BTreeMap<String, Known> {
    let mut known = BTreeMap::<String, Known>::new();
    let mut random = StdRng::seed_from_u64(writer as u64);
    for round in 0.. {
        if *starts.borrow() == 0 {
            break;
        }
        let key = format!("{writer}.{}", random.random_range(0..KEYS));
        let what = random.random_bool(0.85).then(|| format!("{writer}/{round}"));
        let of_key = known.entry(key.clone()).or_default();
        if let Ok(revision) = write(&mut client, &key, &what, round).await {
            *of_key = Known { acknowledged: Some((revision, what)), unknown: Vec::new() };
            acknowledged.fetch_add(1, Ordering::Relaxed);
        } else {
            of_key.unknown.push(what);
            if starts.changed().await.is_err() {
                break;
            }
        }
    }
    known
}

async fn list(client: &mut Client, order_by: &str) -> Vec<Entry> {
    let mut request = ListEntriesRequest {
        bucket: BUCKET.into(),
        order_by: order_by.into(),
        page_size: 7,
        ..ListEntriesRequest::default()
    };
    let mut entries = Vec::new();
    loop {
        let page = client.list_entries(request.clone()).await.unwrap().into_inner();
        entries.extend(page.entries);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return entries;
        }
    }
}

fn check(known: &BTreeMap<String, Known>, entries: &[Entry]) {
    let entries: BTreeMap<_, _> = entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    for (key, Known { acknowledged, unknown }) in known {
        let entry = entries.get(key.as_str());
        let found = entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap());
        let is_acknowledged = acknowledged.as_ref().is_some_and(|(revision, what)| {
            found == *what && entry.is_none_or(|entry| entry.revision == *revision)
        });
        let never_was = acknowledged.is_none() && found.is_none();
        assert!(
            is_acknowledged || never_was || unknown.contains(&found),
            "{key}: {found:?}; acknowledged {acknowledged:?}, unknown {unknown:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_entry_outlives_kills_and_the_view_is_what_the_log_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(dir.path());
    let channel = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy();
    let mut client = Client::new(channel.clone());
    let bucket = Bucket { name: BUCKET.into(), ..Bucket::default() };
    client.create_bucket(CreateBucketRequest { bucket: Some(bucket) }).await.unwrap();

    let (starts, receiver) = watch::channel(1);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writers = (0..WRITERS).map(|writer| {
        let (client, receiver) = (Client::new(channel.clone()), receiver.clone());
        tokio::spawn(produce(client, writer, Arc::clone(&acknowledged), receiver))
    });
    let writers: Vec<_> = writers.collect();
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 1..=KILLS {
        let goal = acknowledged.load(Ordering::Relaxed) + random.random_range(1..300);
        let reached = async {
            while acknowledged.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("writes go on after a kill");
        server.kill();
        server.restart();
        starts.send_replace(kill + 1);
    }
    starts.send_replace(0);
    let mut known = BTreeMap::new();
    for writer in writers {
        known.extend(tokio::time::timeout(PATIENCE, writer).await.expect("writers end").unwrap());
    }

    server.kill();
    server.restart();
    let entries = list(&mut client, "key").await;
    check(&known, &entries);
    let by_score = list(&mut client, "score desc").await;
    server.kill();
    // The log alone says the same.
    std::fs::remove_dir_all(dir.path().join("views")).unwrap();
    server.restart();
    assert_eq!(list(&mut client, "key").await, entries, "seed {seed}");
    assert_eq!(list(&mut client, "score desc").await, by_score, "seed {seed}");
    println!(
        "{KILLS} kills; {} writes acknowledged, {} entries",
        acknowledged.load(Ordering::Relaxed),
        entries.len()
    );
}
