//! What the server does when its engine fails.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use columba::engine::{
    Capabilities, Consumer, Credit, Engine, Error, Intent, Operation, Outcome, Page, PendingReceipt, Purged,
    ReadLimit, Result, Settled, Settlement, SubscriptionChange, Target, Terms, TopicChange, TopicChanged,
    Watch,
};
use columba::model::{
    Advisory, ConsumerInfo, Delivery, Envelope, Explanation, Name, Offset, Receipt, Start, StoredMessage,
    Subscription, SubscriptionSettings, SubscriptionStats, Topic, TopicSettings,
};
use columba::proto::v1::subscribe_request::Target as WireTarget;
use columba::proto::v1::{SubscribeRequest, subscribe_response::Event};
use columba::server::{Options, ServeError};
use futures::StreamExt;
use tokio::sync::watch;
use tonic::Code;
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, publish, within};

/// An engine whose disk fails when the test says so, and which never manages to close.
struct Failing {
    failed: watch::Receiver<bool>,
}

struct Silent;

fn failure<T>() -> Result<T> {
    Err(Error::Failed("fdatasync: input/output error".into()))
}

#[async_trait]
impl Engine for Failing {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "failing",
            persistent: false,
            exclusive: false,
            key_ordered: false,
            history: false,
            commit: false,
        }
    }
    async fn create_topic(&self, _: Name, _: TopicSettings, _: Intent) -> Result<Topic> {
        failure()
    }
    async fn topic(&self, _: &Name) -> Result<Topic> {
        failure()
    }
    async fn topics(&self, _: Page) -> Result<Vec<Topic>> {
        failure()
    }
    async fn internal_topics(&self, _: &str) -> Result<Vec<Topic>> {
        Ok(Vec::new())
    }
    async fn update_topic(&self, _: &Name, _: TopicChange, _: Option<u64>, _: Intent) -> Result<Topic> {
        failure()
    }
    async fn delete_topic(&self, _: &Name, _: Option<u64>) -> Result<()> {
        failure()
    }
    async fn submit(&self, _: &Name, _: Vec<Envelope>, _: Terms) -> Result<PendingReceipt> {
        Ok(Box::pin(async { failure() }))
    }
    async fn commit(&self, _: Vec<Operation>) -> Result<Vec<Outcome>> {
        failure()
    }
    async fn read(&self, _: &Name, _: Start, _: ReadLimit) -> Result<Vec<StoredMessage>> {
        failure()
    }
    async fn create_subscription(&self, _: Name, _: SubscriptionSettings, _: Intent) -> Result<Subscription> {
        failure()
    }
    async fn purge(&self, _: &Name, _: Start, _: Intent) -> Result<Purged> {
        failure()
    }

    async fn seek(&self, _: &Name, _: Start) -> Result<Offset> {
        failure()
    }
    async fn subscription(&self, _: &Name) -> Result<Subscription> {
        failure()
    }
    async fn subscriptions(&self, _: Page, _: Option<Name>) -> Result<Vec<Subscription>> {
        failure()
    }
    async fn update_subscription(
        &self,
        _: &Name,
        _: SubscriptionChange,
        _: Option<u64>,
        _: Intent,
    ) -> Result<Subscription> {
        failure()
    }
    async fn delete_subscription(&self, _: &Name, _: Option<u64>) -> Result<()> {
        failure()
    }
    async fn stats(&self, _: &Name) -> Result<SubscriptionStats> {
        failure()
    }
    async fn browse(&self, _: &Name, _: Offset, _: ReadLimit) -> Result<Vec<StoredMessage>> {
        failure()
    }
    async fn move_message(&self, _: &Name, _: Offset, _: &Name, _: Envelope) -> Result<Receipt> {
        failure()
    }
    async fn discard(&self, _: &Name, _: Vec<Offset>) -> Result<u64> {
        failure()
    }
    async fn consumers(&self, _: Option<&Name>) -> Result<Vec<ConsumerInfo>> {
        failure()
    }
    async fn explain(&self, _: &Name, _: Offset) -> Result<Explanation> {
        failure()
    }
    fn advisories(&self) -> Result<Watch<Advisory>> {
        failure()
    }
    fn topic_changes(&self) -> Result<Watch<TopicChanged>> {
        failure()
    }
    async fn subscribe_as(&self, _: Target, _: Credit, _: &str) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(Silent))
    }
    async fn pull(&self, _: &Name, _: ReadLimit, _: Duration) -> Result<Vec<Delivery>> {
        failure()
    }
    async fn settle(&self, _: &Name, _: Vec<Bytes>, _: Settlement) -> Result<Settled> {
        failure()
    }
    async fn failed(&self) -> String {
        let _ = self.failed.clone().wait_for(|failed| *failed).await;
        "fdatasync: input/output error".into()
    }
    async fn close(&self) {
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl Consumer for Silent {
    fn id(&self) -> &'static str {
        "silent"
    }
    async fn next(&mut self) -> Result<Vec<Delivery>> {
        std::future::pending().await
    }
    async fn set_credit(&mut self, _: Credit) {}
}

#[tokio::test]
async fn a_failed_engine_ends_streams_and_the_server() {
    let (fail, failed) = watch::channel(false);
    let server = TestServer::start_on(Arc::new(Failing { failed }), Options::default()).await;
    let refused = server.publisher().publish(publish("orders", &["x"])).await;
    let status = assert_refused(refused, Code::Unavailable, "LOG_FAILED");
    assert!(status.get_details_retry_info().is_some());
    let target = Some(WireTarget::Subscription("billing".into()));
    let request = SubscribeRequest { target, ..Default::default() };
    let stream = server.subscriber().subscribe(request).await.unwrap().into_inner();

    fail.send(true).unwrap();

    let mut events: Vec<_> = within(stream.collect()).await;
    assert_eq!(events.pop().unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(matches!(events.pop().unwrap().unwrap().event, Some(Event::Goaway(_))));
    match server.stopped().await {
        Err(ServeError::EngineFailed(reason)) => assert!(reason.contains("input/output error")),
        other => panic!("the engine's failure, not {other:?}"),
    }
}

#[tokio::test]
async fn an_engine_that_does_not_close_is_left_at_the_deadline() {
    let (_fail, failed) = watch::channel(false);
    let options = Options { shutdown_deadline: Duration::from_millis(20), ..Options::default() };
    let mut server = TestServer::start_on(Arc::new(Failing { failed }), options).await;
    server.stop();
    assert!(matches!(server.stopped().await, Err(ServeError::CloseTimedOut(_))));
}
