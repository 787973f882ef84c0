//! `Consume`.

use std::time::Duration;

use bytes::Bytes;
use columba::proto::v1::consume_request::Action;
use columba::proto::v1::consume_response::Event;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::{
    AckRequest, ConsumeRequest, ConsumeResponse, Delivery, EphemeralSubscription, ExtendAckDeadlineRequest,
    NackRequest, SetCredit, SubscribeRequest,
};
use columba::server::Options;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::common::{TestServer, assert_refused, within};

/// Both sides of a Consume stream.
struct Consumer {
    requests: Option<mpsc::Sender<ConsumeRequest>>,
    events: Streaming<ConsumeResponse>,
}

impl Consumer {
    async fn connect(server: &TestServer) -> Self {
        let (requests, receiver) = mpsc::channel(200);
        let events = server.subscriber().consume(ReceiverStream::new(receiver)).await.unwrap();
        Self { requests: Some(requests), events: events.into_inner() }
    }

    /// Connects and subscribes, as request 1.
    async fn open(server: &TestServer, subscribe: SubscribeRequest) -> Self {
        let mut consumer = Self::connect(server).await;
        consumer.send(1, Action::Subscribe(subscribe));
        let Some(ConsumeResponse { request_id: 1, event: Some(Event::Started(started)) }) =
            consumer.next().await.unwrap()
        else {
            panic!("started first")
        };
        assert!(!started.consumer_id.is_empty());
        consumer
    }

    fn send(&self, request_id: u64, action: Action) {
        self.ask(ConsumeRequest { request_id, action: Some(action) });
    }

    fn ask(&self, request: ConsumeRequest) {
        self.requests.as_ref().expect("open").try_send(request).unwrap();
    }

    fn half_close(&mut self) {
        self.requests = None;
    }

    async fn next(&mut self) -> Result<Option<ConsumeResponse>, Status> {
        within(self.events.message()).await
    }

    async fn event(&mut self) -> (u64, Event) {
        let response = self.next().await.unwrap().expect("the stream goes on");
        (response.request_id, response.event.expect("every response has an event"))
    }

    async fn batch(&mut self) -> Vec<Delivery> {
        match self.event().await {
            (0, Event::Batch(batch)) => batch.deliveries,
            other => panic!("a batch, not {other:?}"),
        }
    }

    async fn refused(&mut self, id: u64, code: Code, reason: &str) {
        match self.event().await {
            (request_id, Event::Error(error)) => {
                assert_eq!((request_id, error.code, error.reason.as_str()), (id, code as i32, reason));
                assert!(!error.message.is_empty());
            }
            other => panic!("an error, not {other:?}"),
        }
    }
}

fn billing() -> SubscribeRequest {
    SubscribeRequest { target: Some(Target::Subscription("billing".into())), ..Default::default() }
}

fn ids(deliveries: &[Delivery]) -> Vec<Bytes> {
    deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect()
}

fn ack(ack_ids: Vec<Bytes>) -> Action {
    Action::Ack(AckRequest { ack_ids, ..Default::default() })
}

async fn orders(messages: &[&str]) -> TestServer {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    if !messages.is_empty() {
        server.publish("orders", messages).await;
    }
    server
}

#[tokio::test]
async fn settles_on_the_same_stream_in_order() {
    let server = orders(&["a", "b", "c"]).await;
    let mut consumer = Consumer::open(&server, billing()).await;
    let mut held = consumer.batch().await;
    while held.len() < 3 {
        held.extend(consumer.batch().await);
    }
    let ids = ids(&held);
    let nack_delay = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
    consumer.send(10, ack(ids[..1].to_vec()));
    let extend = ExtendAckDeadlineRequest { ack_ids: ids[1..2].to_vec(), ..Default::default() };
    consumer.send(11, Action::Extend(extend));
    let nack = NackRequest { ack_ids: ids[2..].to_vec(), retry_delay: nack_delay, ..Default::default() };
    consumer.send(12, Action::Nack(nack));
    consumer.send(13, ack(ids[1..2].to_vec()));

    let (10, Event::Ack(acked)) = consumer.event().await else { panic!("the ack first") };
    assert_eq!((acked.committed_offset, acked.failures.len()), (1, 0));
    let (11, Event::Extend(extended)) = consumer.event().await else { panic!("then the extension") };
    assert_eq!(extended.failures, []);
    let (12, Event::Nack(nacked)) = consumer.event().await else { panic!("then the nack") };
    assert_eq!(nacked.failures, []);
    let (13, Event::Ack(acked)) = consumer.event().await else { panic!("then the second ack") };
    assert_eq!(acked.committed_offset, 2);
}

#[tokio::test]
async fn a_refused_request_is_answered_and_the_stream_lives_on() {
    let server = orders(&[]).await;
    let mut consumer = Consumer::open(&server, billing()).await;
    consumer.send(2, ack(vec![]));
    consumer.refused(2, Code::InvalidArgument, "REQUIRED").await;
    let foreign = AckRequest { subscription: "other".into(), ack_ids: vec![Bytes::new()], cumulative: false };
    consumer.send(3, Action::Ack(foreign));
    consumer.refused(3, Code::InvalidArgument, "WRONG_SUBSCRIPTION").await;
    consumer.send(4, Action::Subscribe(billing()));
    consumer.refused(4, Code::InvalidArgument, "ALREADY_OPEN").await;
    consumer.ask(ConsumeRequest { request_id: 5, action: None });
    consumer.refused(5, Code::InvalidArgument, "REQUIRED").await;
    consumer.send(
        6,
        Action::SetCredit(SetCredit { max_outstanding_messages: 100_001, max_outstanding_bytes: 0 }),
    );
    consumer.refused(6, Code::InvalidArgument, "TOO_LARGE").await;
    server.publish("orders", &["a"]).await;
    assert_eq!(consumer.batch().await.len(), 1);
}

#[tokio::test]
async fn credit_can_be_taken_away_and_given_back() {
    let server = orders(&[]).await;
    let mut consumer = Consumer::open(&server, billing()).await;
    consumer.send(2, Action::SetCredit(SetCredit::default()));
    assert!(matches!(consumer.event().await, (2, Event::SetCredit(_))));
    server.publish("orders", &["a"]).await;
    // Not delivered: the next event is the answer to the next request.
    consumer.send(3, Action::SetCredit(SetCredit { max_outstanding_messages: 1, max_outstanding_bytes: 0 }));
    assert!(matches!(consumer.event().await, (3, Event::SetCredit(_))));
    assert_eq!(consumer.batch().await.len(), 1);
}

#[tokio::test]
async fn half_closing_ends_the_stream_after_the_answers() {
    let server = orders(&["a"]).await;
    let mut consumer = Consumer::open(&server, billing()).await;
    let held = consumer.batch().await;
    for id in 2..100 {
        consumer.send(id, ack(ids(&held)));
    }
    consumer.half_close();
    for id in 2..100 {
        assert!(matches!(consumer.event().await, (answered, Event::Ack(_)) if answered == id));
    }
    assert_eq!(consumer.next().await.unwrap(), None);
}

#[tokio::test]
async fn the_first_request_must_subscribe() {
    let server = orders(&[]).await;
    let mut consumer = Consumer::connect(&server).await;
    consumer.send(1, ack(vec![Bytes::new()]));
    assert_refused(consumer.next().await, Code::InvalidArgument, "REQUIRED");

    let mut silent = Consumer::connect(&server).await;
    silent.half_close();
    assert_refused(silent.next().await, Code::InvalidArgument, "REQUIRED");

    let mut unknown = Consumer::connect(&server).await;
    let target = Some(Target::Subscription("nothing".into()));
    unknown.send(1, Action::Subscribe(SubscribeRequest { target, ..Default::default() }));
    assert_refused(unknown.next().await, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
}

#[tokio::test]
async fn an_ephemeral_stream_takes_no_acks() {
    let server = orders(&[]).await;
    let ephemeral = EphemeralSubscription { topic: "orders".into(), ..EphemeralSubscription::default() };
    let target = Some(Target::Ephemeral(ephemeral));
    let mut consumer = Consumer::open(&server, SubscribeRequest { target, ..Default::default() }).await;
    consumer.send(2, ack(vec![Bytes::new()]));
    consumer.refused(2, Code::InvalidArgument, "EPHEMERAL_SUBSCRIPTION").await;
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats() {
    let options = Options { heartbeat: Duration::from_millis(10), ..Options::default() };
    let server = TestServer::start_with(options).await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    let mut consumer = Consumer::open(&server, billing()).await;
    assert!(matches!(consumer.event().await, (0, Event::Heartbeat(_))));
}
