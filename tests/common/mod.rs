//! A server of its own for each test, on a port of its own, and clients for it.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use columba::engine::{Engine, MemoryEngine};
use columba::proto::admin::admin_service_client::AdminServiceClient;
use columba::proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::publisher_service_client::PublisherServiceClient;
use columba::proto::v1::query_service_client::QueryServiceClient;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::subscription_service_client::SubscriptionServiceClient;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{
    CreateSubscriptionRequest, CreateTopicRequest, Message, PublishRequest, Subscription, Topic,
};
use columba::server::{Listeners, Options, ServeError, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How long anything in a test may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The engine that the API tests run on.
fn engine() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::default())
}

/// A server in this process. Dropping it leaves it to the test's runtime, which ends it.
pub struct TestServer {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    channel: Channel,
    shutdown: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Self {
        Self::start_on(engine(), options).await
    }

    pub async fn start_on(engine: Arc<dyn Engine>, options: Options) -> Self {
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, admin_address) = (grpc.local_addr().unwrap(), admin.local_addr().unwrap());
        let (shutdown, signal) = oneshot::channel();
        let listeners = Listeners { grpc, admin: Some(admin) };
        let signal = async {
            // A test that drops its server wants it gone too.
            let _ = signal.await;
        };
        let served = tokio::spawn(serve(engine, listeners, options, signal));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { address, admin: admin_address, channel, shutdown: Some(shutdown), served }
    }

    /// Asks the server to stop.
    pub fn stop(&mut self) {
        let _ = self.shutdown.take().expect("stopped once").send(());
    }

    /// Waits until the server has stopped.
    pub async fn stopped(self) -> Result<(), ServeError> {
        within(self.served).await.expect("the server does not panic")
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn topics(&self) -> TopicServiceClient<Channel> {
        TopicServiceClient::new(self.channel())
    }

    pub fn publisher(&self) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(self.channel())
    }

    pub fn subscriptions(&self) -> SubscriptionServiceClient<Channel> {
        SubscriptionServiceClient::new(self.channel())
    }

    pub fn subscriber(&self) -> SubscriberServiceClient<Channel> {
        SubscriberServiceClient::new(self.channel())
    }

    pub fn dead_letters(&self) -> DeadLetterServiceClient<Channel> {
        DeadLetterServiceClient::new(self.channel())
    }

    pub fn key_values(&self) -> KeyValueServiceClient<Channel> {
        KeyValueServiceClient::new(self.channel())
    }

    pub fn queries(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel())
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel())
    }

    pub async fn create_topic(&self, name: &str) {
        let topic = Topic { name: name.into(), ..Topic::default() };
        let request = CreateTopicRequest { topic: Some(topic), validate_only: false };
        self.topics().create_topic(request).await.unwrap();
    }

    pub async fn create_subscription(&self, name: &str, topic: &str) {
        let subscription = Subscription { name: name.into(), topic: topic.into(), ..Subscription::default() };
        let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
        self.subscriptions().create_subscription(request).await.unwrap();
    }

    /// Publishes messages whose data are these texts; returns the last offset.
    pub async fn publish(&self, topic: &str, data: &[&str]) -> u64 {
        let request = publish(topic, data);
        self.publisher().publish(request).await.unwrap().into_inner().last_offset
    }
}

/// A request to publish messages whose data are these texts.
pub fn publish(topic: &str, data: &[&str]) -> PublishRequest {
    let messages = data.iter().map(|data| message(data)).collect();
    PublishRequest { topic: topic.into(), messages, durability: 0, ..PublishRequest::default() }
}

/// A message whose data is this text.
pub fn message(data: &str) -> Message {
    Message { data: Bytes::copy_from_slice(data.as_bytes()), ..Message::default() }
}

/// What should happen at once, or the test fails instead of hanging.
pub async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

/// Checks an error: its code, its reason, and that it says so in `ErrorInfo`.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> Status {
    let status = answer.expect_err("the request is refused");
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("columba", reason), "{status:?}");
    assert!(!status.message().is_empty());
    status
}

/// The fields that a refusal names, in order.
pub fn bad_fields(status: &Status) -> Vec<String> {
    let request = status.get_details_bad_request().expect("BadRequest");
    request.field_violations.into_iter().map(|violation| violation.field).collect()
}
