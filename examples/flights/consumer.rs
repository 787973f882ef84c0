//! One of the consumers that share the subscription.

use std::sync::Arc;

use bytes::Bytes;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::subscribe_response::Event;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::{AckFailureReason, AckRequest, DeliveryBatch, SubscribeRequest};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::ledger::{Ledger, Life};
use crate::{Error, MAX_RESPONSE_BYTES, SUBSCRIPTION, connect};

/// Reads and acknowledges until it is told to stop.
pub(crate) struct Consumer {
    name: String,
    address: String,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    /// Consumed, and not known to be acknowledged: the offsets and the ack ids.
    unconfirmed: Vec<(u64, Bytes)>,
}

impl Consumer {
    pub(crate) fn new(number: usize, address: String, ledger: Arc<Ledger>, stop: CancellationToken) -> Self {
        Self { name: format!("consumer-{number}"), address, ledger, stop, unconfirmed: Vec::new() }
    }

    /// Reads over as many connections as it takes.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let stop = self.stop.clone();
        loop {
            // Only between batches: an ack under way is always awaited.
            let channel = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                channel = connect(&self.address) => channel?,
            };
            match self.connection(channel).await {
                Ok(()) => return Ok(()),
                Err(status) if is_lost(&status) => {}
                Err(status) => return Err(status.into()),
            }
        }
    }

    async fn connection(&mut self, channel: Channel) -> Result<(), Status> {
        let stop = self.stop.clone();
        let mut client = SubscriberServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        self.confirm(&mut client).await?;
        let request = SubscribeRequest {
            target: Some(Target::Subscription(SUBSCRIPTION.into())),
            consumer: self.name.clone(),
            ..SubscribeRequest::default()
        };
        let opened = self.ledger.life();
        let mut events = client.subscribe(request).await?.into_inner();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.message() => event?,
            };
            let Some(event) = event else {
                return Err(Status::unavailable("the stream ended"));
            };
            if let Some(Event::Batch(batch)) = event.event {
                self.consume(batch, opened)?;
                self.confirm(&mut client).await?;
            }
        }
    }

    fn consume(&mut self, batch: DeliveryBatch, opened: Life) -> Result<(), Status> {
        for delivery in batch.deliveries {
            let message = delivery.message.ok_or_else(|| Status::data_loss("a delivery without message"))?;
            self.unconfirmed.push((message.offset, delivery.ack_id));
            self.ledger.consumed(&message, opened).map_err(|error| Status::data_loss(error.to_string()))?;
        }
        Ok(())
    }

    /// Acknowledges what is consumed. When the server dies first, the next connection does it again.
    async fn confirm(&mut self, client: &mut SubscriberServiceClient<Channel>) -> Result<(), Status> {
        if self.unconfirmed.is_empty() {
            return Ok(());
        }
        let ack_ids = self.unconfirmed.iter().map(|(_, ack_id)| ack_id.clone()).collect();
        let request = AckRequest { subscription: SUBSCRIPTION.into(), ack_ids, cumulative: false };
        let failures = client.ack(request).await?.into_inner().failures;
        let lost: Vec<_> = failures
            .into_iter()
            .filter(|failure| failure.reason() != AckFailureReason::AlreadySettled)
            .map(|failure| failure.ack_id)
            .collect();
        let confirmed = self.unconfirmed.drain(..).filter(|(_, ack_id)| !lost.contains(ack_id));
        self.ledger.confirmed(confirmed.map(|(offset, _)| offset));
        self.ledger.acks_lost(lost.len());
        Ok(())
    }
}

/// Whether the server went away. A status with a source was made on this side.
fn is_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}
