//! A real file system of 64 MiB, filled to the last byte.
//!
//! The file system lives in a mount namespace of its own, which a holder process keeps alive while
//! servers come and go in it.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use columba::proto::v1::command_service_client::CommandServiceClient;
use columba::proto::v1::complete_command_request::Outcome;
use columba::proto::v1::handle_commands_response::Event;
use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::publisher_service_client::PublisherServiceClient;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::subscription_service_client::SubscriptionServiceClient;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{
    AckRequest, Bucket, Command, CommandDelivery, CommandState, CompleteCommandRequest, CreateBucketRequest,
    CreateSubscriptionRequest, CreateTopicRequest, GetRequest, HandleCommandsRequest, HandleCommandsResponse,
    ListEntriesRequest, Message, PublishRequest, PullRequest, PurgeTopicRequest, PutRequest,
    ReadMessagesRequest, SendCommandRequest, StartPosition, Subscription, Topic, start_position,
};
use process::ServerProcess;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

const MESSAGE_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// A small file system, and the process that keeps it.
struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    /// None where the kernel does not let this user mount one.
    fn mount(at: &Path) -> Option<Self> {
        let script = format!("mount -t tmpfs -o size=64m small {} && echo mounted && read end", at.display());
        let mut holder = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (line == "mounted\n").then(|| Self { holder, at: at.to_owned() })
    }

    /// What makes a program run where the file system is.
    fn inside(&self) -> [String; 6] {
        let holder = self.holder.id().to_string();
        ["nsenter", "--target", &holder, "--user", "--mount", "--preserve-credentials"].map(str::to_owned)
    }

    /// The path of one of its files for those who are outside.
    fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.at.strip_prefix("/").unwrap()).join(name)
    }

    /// Somebody else takes every byte that is free.
    fn fill(&self) {
        let mut file = File::create(self.path("others")).unwrap();
        for size in [1 << 20, 4 << 10] {
            let full = loop {
                if let Err(error) = file.write_all(&vec![b'x'; size]) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    fn empty(&self) {
        fs::remove_file(self.path("others")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

struct Client(Channel);

impl Client {
    fn new(server: &ServerProcess) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
        Self(endpoint.timeout(PATIENCE).connect_lazy())
    }

    async fn publish(&self) -> Result<u64, Status> {
        let message = Message { data: vec![b'x'; MESSAGE_BYTES].into(), ..Message::default() };
        let request = PublishRequest { topic: "bulk".into(), messages: vec![message], ..Default::default() };
        Ok(PublisherServiceClient::new(self.0.clone()).publish(request).await?.into_inner().last_offset)
    }

    /// Takes so many messages and acknowledges them; returns where the subscription then is.
    async fn consume(&self, messages: u32) -> u64 {
        let mut client = SubscriberServiceClient::new(self.0.clone());
        let (mut left, mut committed) = (messages, 0);
        while left > 0 {
            let request = PullRequest {
                subscription: "worker".into(),
                max_messages: left,
                wait: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
                ..PullRequest::default()
            };
            let deliveries = client.pull(request).await.unwrap().into_inner().deliveries;
            assert!(!deliveries.is_empty());
            left -= u32::try_from(deliveries.len()).unwrap();
            let ack_ids = deliveries.into_iter().map(|delivery| delivery.ack_id).collect();
            let request = AckRequest { subscription: "worker".into(), ack_ids, ..AckRequest::default() };
            let acked = client.ack(request).await.unwrap().into_inner();
            assert_eq!(acked.failures, []);
            committed = acked.committed_offset;
        }
        committed
    }

    async fn put(&self, key: &str) -> Result<u64, Status> {
        let (bucket, key) = ("blobs".into(), key.into());
        let request =
            PutRequest { bucket, key, value: vec![b'x'; MESSAGE_BYTES].into(), ..Default::default() };
        Ok(KeyValueServiceClient::new(self.0.clone()).put(request).await?.into_inner().revision)
    }

    /// How many entries a bucket has, as of a revision.
    async fn entries(&self, min_revision: u64) -> Result<usize, Status> {
        let mut request = ListEntriesRequest { bucket: "blobs".into(), min_revision, ..Default::default() };
        let mut count = 0;
        loop {
            let page = KeyValueServiceClient::new(self.0.clone()).list_entries(request.clone()).await?;
            let page = page.into_inner();
            count += page.entries.len();
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(count);
            }
        }
    }

    fn commands(&self) -> CommandServiceClient<Channel> {
        CommandServiceClient::new(self.0.clone())
    }

    async fn handle(&self) -> Streaming<HandleCommandsResponse> {
        let request = HandleCommandsRequest { types: vec!["t".into()], ..HandleCommandsRequest::default() };
        self.commands().handle_commands(request).await.unwrap().into_inner()
    }

    async fn complete(&self, delivery: &CommandDelivery) -> Result<CommandState, Status> {
        let (ack_id, outcome) = (delivery.ack_id.clone(), Some(Outcome::Result("r".into())));
        let request = CompleteCommandRequest { ack_id, outcome, events: Vec::new() };
        Ok(self.commands().complete_command(request).await?.into_inner().execution.unwrap().state())
    }

    async fn set_up(&self) {
        let topic = Topic { name: "bulk".into(), ..Topic::default() };
        let request = CreateTopicRequest { topic: Some(topic), ..CreateTopicRequest::default() };
        TopicServiceClient::new(self.0.clone()).create_topic(request).await.unwrap();
        let worker = Subscription { name: "worker".into(), topic: "bulk".into(), ..Default::default() };
        let request = CreateSubscriptionRequest { subscription: Some(worker), ..Default::default() };
        SubscriptionServiceClient::new(self.0.clone()).create_subscription(request).await.unwrap();
    }
}

/// A server on a small disk, with a reserve of 4 MiB.
fn start(disk: &SmallDisk, data: &Path) -> ServerProcess {
    let mut through = disk.inside().to_vec();
    through.extend(["env", "COLUMBA_STORAGE_DISK_RESERVE=4MiB"].map(str::to_owned));
    let through: Vec<_> = through.iter().map(String::as_str).collect();
    ServerProcess::start_through(&through, data)
}

/// The next command on a handler's stream.
async fn delivery(events: &mut Streaming<HandleCommandsResponse>) -> CommandDelivery {
    loop {
        if let Some(Event::Delivery(delivery)) = events.message().await.unwrap().unwrap().event {
            return delivery;
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_publishing_and_nothing_else_and_is_freed_by_a_purge() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path()) else {
        println!("skipped: this kernel lets nobody mount a file system of their own");
        return;
    };
    let mut server = start(&disk, &directory.path().join("data"));
    let client = Client::new(&server);
    client.set_up().await;

    let mut published = 0;
    let full = loop {
        match client.publish().await {
            Ok(last) => published = last,
            Err(full) => break full,
        }
    };
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    assert_eq!(full.get_details_error_info().unwrap().reason, "DISK_FULL");
    assert!(published * MESSAGE_BYTES as u64 > 16 << 20, "{published} messages are not much");
    assert_eq!(client.consume(10).await, 10);

    // At 100 %: acks work, it starts again, and knows all of it.
    disk.fill();
    assert_eq!(client.consume(10).await, 20);
    assert_eq!(client.publish().await.unwrap_err().code(), Code::ResourceExhausted);
    server.kill();
    server.restart();
    let client = Client::new(&server);
    assert_eq!(client.consume(10).await, 30);
    let last = StartPosition { position: Some(start_position::Position::Offset(published)) };
    let request = ReadMessagesRequest { topic: "bulk".into(), start: Some(last), ..Default::default() };
    let read = SubscriberServiceClient::new(client.0.clone()).read_messages(request).await.unwrap();
    assert_eq!(read.into_inner().messages.len(), 1);

    // A purge works, too, and then there is space, although not all that others have taken.
    let before =
        StartPosition { position: Some(start_position::Position::Latest(columba::proto::v1::Latest {})) };
    let purge = PurgeTopicRequest { topic: "bulk".into(), position: Some(before), ..Default::default() };
    TopicServiceClient::new(client.0.clone()).purge_topic(purge).await.unwrap();
    disk.empty();
    let resumed = async {
        loop {
            match client.publish().await {
                Ok(last) => return last,
                Err(error) => assert_eq!(error.code(), Code::ResourceExhausted, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let last = tokio::time::timeout(PATIENCE, resumed).await.expect("publishing resumes");
    assert_eq!(client.consume(1).await, published + 1);
    assert!(last > published);
}

#[tokio::test]
async fn a_full_disk_holds_up_a_view_and_loses_nothing() {
    const ENTRIES: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path()) else {
        println!("skipped: this kernel lets nobody mount a file system of their own");
        return;
    };
    let mut through = disk.inside().to_vec();
    through.extend(["env", "COLUMBA_STORAGE_DISK_RESERVE=4MiB"].map(str::to_owned));
    let through: Vec<_> = through.iter().map(String::as_str).collect();
    let mut server = ServerProcess::start_through(&through, &directory.path().join("data"));
    let client = Client::new(&server);
    let bucket = Some(Bucket { name: "blobs".into(), ..Bucket::default() });
    let request = CreateBucketRequest { bucket };
    KeyValueServiceClient::new(client.0.clone()).create_bucket(request).await.unwrap();
    let mut last = 0;
    for number in 0..ENTRIES {
        last = client.put(&number.to_string()).await.unwrap();
    }
    assert_eq!(client.entries(last).await.unwrap(), ENTRIES);

    // The view is lost, and there is no room to make it anew.
    server.kill();
    fs::remove_file(disk.path("data/views/kv-blobs.redb")).unwrap();
    disk.fill();
    server.restart();
    let client = Client::new(&server);
    for min_revision in [0, last] {
        let unreadable = async {
            loop {
                let refused = client.entries(min_revision).await.unwrap_err();
                assert_eq!(refused.code(), Code::Unavailable, "{refused}");
                match &*refused.get_details_error_info().unwrap().reason {
                    "VIEW_UNREADABLE" => return refused,
                    reason => assert_eq!(reason, "VIEW_NOT_READY", "{refused}"),
                }
            }
        };
        let refused = tokio::time::timeout(PATIENCE, unreadable).await.expect("it says why");
        let message = refused.message();
        assert!(
            message.contains("views/kv-blobs.redb") && message.contains("check the server's disk"),
            "{message}"
        );
    }
    let refused = client.put("more").await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "DISK_FULL", "{refused}");

    // With room, the view goes on, and so do writes.
    disk.empty();
    let back = async {
        loop {
            match client.entries(last).await {
                Ok(entries) => return entries,
                Err(error) => assert_eq!(error.code(), Code::Unavailable, "{error}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, back).await.expect("the view goes on"), ENTRIES);
    let more = async {
        loop {
            match client.put("more").await {
                Ok(revision) => return revision,
                Err(error) => assert_eq!(error.code(), Code::ResourceExhausted, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let min_revision = tokio::time::timeout(PATIENCE, more).await.expect("writing resumes");
    let request = GetRequest { bucket: "blobs".into(), key: "more".into(), min_revision };
    KeyValueServiceClient::new(client.0.clone()).get(request).await.unwrap();
}

#[tokio::test]
async fn commands_that_could_not_be_completed_are_not_handed_out() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path()) else {
        println!("skipped: this kernel lets nobody mount a file system of their own");
        return;
    };
    let server = start(&disk, &directory.path().join("data"));
    let client = Client::new(&server);
    let mut first = client.handle().await;
    let command = Command { id: "a".into(), r#type: "t".into(), ..Command::default() };
    let request = SendCommandRequest { command: Some(command), wait: None };
    client.commands().send_command(request).await.unwrap();
    let held = delivery(&mut first).await;
    let mut second = client.handle().await;
    disk.fill();
    let full = client.complete(&held).await.unwrap_err();
    assert_eq!(full.get_details_error_info().unwrap().reason, "DISK_FULL");

    drop(first);
    let too_soon = tokio::time::timeout(Duration::from_secs(1), delivery(&mut second)).await;
    assert_eq!(too_soon.map(|delivery| delivery.attempt).ok(), None, "the disk is full still");
    disk.empty();
    let again = tokio::time::timeout(PATIENCE, delivery(&mut second)).await.expect("it goes on by itself");
    // The second may have been asked for more before, and the engine have tried to hand it over.
    assert!((2..=3).contains(&again.attempt), "{}", again.attempt);
    assert_eq!(client.complete(&again).await.unwrap(), CommandState::Succeeded);
}
