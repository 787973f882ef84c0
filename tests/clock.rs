//! The wall clock jumps by an hour, both ways, under a running server: nothing is redelivered early, and
//! nothing is deleted that is not old.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use columba::proto::v1::publisher_service_client::PublisherServiceClient;
use columba::proto::v1::start_position::Position;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::subscription_service_client::SubscriptionServiceClient;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{
    CreateSubscriptionRequest, CreateTopicRequest, Delivery, GetTopicRequest, Message, PublishRequest,
    PullRequest, ReadMessagesRequest, RetentionPolicy, StartPosition, Subscription, Topic,
};
use process::ServerProcess;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);

#[allow(clippy::unnecessary_wraps, reason = "as the fields want it")]
fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// The library that makes a process see another wall clock, if it is there.
fn faketime() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/faketime");
    let library = tools.join("libfaketime/vendor/libfaketime/src/libfaketime.so.1");
    if library.exists() {
        return Some(library);
    }
    let why = "skipped: libfaketime is not in .tools; `make test` fetches it";
    assert!(std::env::var_os("CI").is_none(), "{why}");
    println!("{why}");
    None
}

/// A server whose wall clock is set by a file.
struct Server {
    clock: PathBuf,
    channel: Channel,
    _process: ServerProcess,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(faketime: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = directory.path().join("clock");
        fs::write(&clock, "+0").unwrap();
        let preload = format!("LD_PRELOAD={}", faketime.display());
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
        let through = ["env", &preload, &file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        let process = ServerProcess::start_through(&through, &directory.path().join("data"));
        let endpoint = Channel::from_shared(format!("http://{}", process.address)).unwrap();
        Self { clock, channel: endpoint.connect_lazy(), _process: process, _directory: directory }
    }

    fn set_clock(&self, ahead: &str) {
        // Renamed into place: it is read all the time.
        let new = self.clock.with_extension("new");
        fs::write(&new, ahead).unwrap();
        fs::rename(new, &self.clock).unwrap();
    }

    async fn create_topic(&self, name: &str, retention: RetentionPolicy) {
        let topic = Topic { name: name.into(), retention: Some(retention), ..Topic::default() };
        let request = CreateTopicRequest { topic: Some(topic), ..CreateTopicRequest::default() };
        TopicServiceClient::new(self.channel.clone()).create_topic(request).await.unwrap();
    }

    async fn create_subscription(&self, name: &str, topic: &str, ack_deadline: i64) {
        let subscription = Subscription {
            name: name.into(),
            topic: topic.into(),
            ack_deadline: seconds(ack_deadline),
            ..Subscription::default()
        };
        let request = CreateSubscriptionRequest { subscription: Some(subscription), ..Default::default() };
        SubscriptionServiceClient::new(self.channel.clone()).create_subscription(request).await.unwrap();
    }

    /// Returns when the server says that the last was published.
    async fn publish(&self, topic: &str, count: usize) -> prost_types::Timestamp {
        let message = Message { data: "x".into(), ..Message::default() };
        let request =
            PublishRequest { topic: topic.into(), messages: vec![message; count], ..Default::default() };
        let receipt = PublisherServiceClient::new(self.channel.clone()).publish(request).await.unwrap();
        let last = Position::Offset(receipt.into_inner().last_offset);
        let start = Some(StartPosition { position: Some(last) });
        let read = ReadMessagesRequest { topic: topic.into(), start, ..ReadMessagesRequest::default() };
        let read = SubscriberServiceClient::new(self.channel.clone()).read_messages(read).await.unwrap();
        read.into_inner().messages[0].publish_time.unwrap()
    }

    async fn pull(&self, subscription: &str, max_messages: u32, wait: i64) -> Vec<Delivery> {
        let request = PullRequest {
            subscription: subscription.into(),
            max_messages,
            wait: seconds(wait),
            ..PullRequest::default()
        };
        let pulled = SubscriberServiceClient::new(self.channel.clone()).pull(request).await.unwrap();
        pulled.into_inner().deliveries
    }

    async fn first_offset(&self, topic: &str) -> u64 {
        let request = GetTopicRequest { topic: topic.into() };
        let topic = TopicServiceClient::new(self.channel.clone()).get_topic(request).await.unwrap();
        topic.into_inner().topic.unwrap().first_offset
    }
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_neither_redelivers_early_nor_deletes() {
    let Some(faketime) = faketime() else { return };
    let server = Server::start(&faketime);
    let half_an_hour = RetentionPolicy { max_age: seconds(1_800), ..RetentionPolicy::default() };
    let last_only = RetentionPolicy { max_messages: 1, ..RetentionPolicy::default() };
    server.create_topic("orders", half_an_hour).await;
    server.create_topic("canary", last_only).await;
    server.create_subscription("billing", "orders", 600).await;
    server.create_subscription("short", "canary", 1).await;
    let published = server.publish("orders", 10).await;
    server.publish("canary", 1).await;
    assert_eq!(server.pull("billing", 9, 0).await.len(), 9);

    for (jump, (ahead, hours)) in [("+1h", 1), ("-1h", -1), ("+0", 0)].into_iter().enumerate() {
        server.set_clock(ahead);
        // Both canaries show that what they stand for has been looked at since the jump: the retention of
        // topics, and the leases of subscriptions.
        let seen = server.publish("canary", 1).await;
        if hours > 0 {
            assert!(seen.seconds - published.seconds > 3_000, "the server sees the clock jump");
        }
        let cleaned = async {
            while server.first_offset("canary").await < jump as u64 + 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, cleaned).await.expect("retention goes on");
        let attempts = async {
            loop {
                let pulled = server.pull("short", 1, 30).await;
                if pulled.iter().any(|delivery| delivery.attempt > 1) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, attempts).await.expect("leases end on time");

        assert_eq!(server.first_offset("orders").await, 1, "nothing is old: {ahead}");
        let pulled = server.pull("billing", 10, 0).await;
        let expected: &[u64] = if jump == 0 { &[10] } else { &[] };
        assert_eq!(
            pulled.iter().map(|one| one.message.as_ref().unwrap().offset).collect::<Vec<_>>(),
            expected
        );
    }
}
