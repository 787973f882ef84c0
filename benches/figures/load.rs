//! The client side: the same requests, whatever server answers them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use columba::proto::v1::publisher_service_client::PublisherServiceClient;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::subscribe_response::Event;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::{AckRequest, Message, PublishRequest, SubscribeRequest};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{Error, MESSAGE_BYTES, TOPIC};

/// Largest response taken.
const MAX_RESPONSE_BYTES: usize = 32 << 20;
/// Acks under way at once.
const ACKS_IN_FLIGHT: usize = 4;

/// One measurement.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) messages: usize,
    pub(crate) elapsed: Duration,
    /// Of each request.
    pub(crate) latencies: Vec<Duration>,
}

/// How to publish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublishLoad {
    /// Callers that each have one request under way, on one connection.
    pub(crate) callers: usize,
    /// Messages a request.
    pub(crate) batch: usize,
}

impl PublishLoad {
    /// Messages under way at once.
    pub(crate) fn in_flight(self) -> usize {
        self.callers * self.batch
    }

    /// Publishes for a time.
    pub(crate) async fn run(self, channel: Channel, time: Duration) -> Result<Sample, Error> {
        let end = Instant::now() + time;
        self.publish(channel, Arc::new(move || Instant::now() < end)).await
    }

    /// Publishes so many requests.
    pub(crate) async fn run_requests(self, channel: Channel, requests: usize) -> Result<Sample, Error> {
        let left = AtomicUsize::new(requests);
        let take = move || {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        };
        self.publish(channel, Arc::new(take)).await
    }

    async fn publish(
        self,
        channel: Channel,
        more: Arc<impl Fn() -> bool + Send + Sync + 'static>,
    ) -> Result<Sample, Error> {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..self.callers {
            let mut client = PublisherServiceClient::new(channel.clone());
            let (more, request) = (Arc::clone(&more), self.request());
            callers.spawn(async move {
                let mut latencies = Vec::new();
                while more() {
                    let sent = Instant::now();
                    client.publish(request.clone()).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, tonic::Status>(latencies)
            });
        }
        let mut latencies = Vec::new();
        for caller in callers.join_all().await {
            latencies.extend(caller?);
        }
        Ok(Sample { messages: latencies.len() * self.batch, elapsed: began.elapsed(), latencies })
    }

    fn request(self) -> PublishRequest {
        let data = Bytes::from(vec![b'x'; MESSAGE_BYTES]);
        let message = Message { data, ..Message::default() };
        PublishRequest {
            topic: TOPIC.into(),
            messages: vec![message; self.batch],
            ..PublishRequest::default()
        }
    }
}

/// Consumes so many messages on one stream, and acknowledges each batch with one call.
pub(crate) async fn consume(channel: Channel, subscription: &str, count: usize) -> Result<Sample, Error> {
    let mut client = SubscriberServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let request = SubscribeRequest {
        target: Some(Target::Subscription(subscription.into())),
        max_outstanding_messages: 10_000,
        max_outstanding_bytes: 64 << 20,
        ..SubscribeRequest::default()
    };
    let began = Instant::now();
    let mut events = client.subscribe(request).await?.into_inner();
    let places = Arc::new(Semaphore::new(ACKS_IN_FLIGHT));
    let (mut acks, mut messages) = (JoinSet::new(), 0);
    while messages < count {
        let event = events.message().await?.ok_or("the stream ended")?;
        let Some(Event::Batch(batch)) = event.event else { continue };
        messages += batch.deliveries.len();
        let ack_ids = batch.deliveries.into_iter().map(|delivery| delivery.ack_id).collect();
        let request = AckRequest { subscription: subscription.into(), ack_ids, cumulative: false };
        let (mut client, place) = (client.clone(), Arc::clone(&places).acquire_owned().await?);
        acks.spawn(async move {
            let answer = client.ack(request).await;
            drop(place);
            answer
        });
    }
    for ack in acks.join_all().await {
        if !ack?.into_inner().failures.is_empty() {
            return Err("an ack had no effect".into());
        }
    }
    Ok(Sample { messages, elapsed: began.elapsed(), latencies: Vec::new() })
}

/// Measures the servers one after the other.
pub(crate) async fn in_turns<F: Future<Output = Result<Sample, Error>>>(
    servers: &[Channel; 2],
    run: impl Fn(Channel) -> F,
) -> Result<[Sample; 2], Error> {
    Ok([run(servers[0].clone()).await?, run(servers[1].clone()).await?])
}
