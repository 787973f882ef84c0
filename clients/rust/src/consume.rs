//! Consumes the messages of a subscription.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tonic::Status;
use tonic::transport::Channel;

use crate::columba::subscribe_request::Target;
use crate::columba::subscribe_response::Event;
use crate::columba::subscriber_service_client::SubscriberServiceClient;
use crate::columba::{AckRequest, Delivery, SubscribeRequest};
use crate::connection::{Next, keep_open, retry};
use crate::emit;

/// Consumes so many messages, or all that will ever come.
pub async fn consume(channel: &Channel, subscription: &str, count: Option<usize>) -> Result<(), Status> {
    let subscriber = SubscriberServiceClient::new(channel.clone());
    let request = SubscribeRequest {
        target: Some(Target::Subscription(subscription.into())),
        consumer: "rust".into(),
        // No more than this is on its way to this consumer, or with it, at once.
        max_outstanding_messages: 100,
        ..Default::default()
    };
    let open = async || subscriber.clone().subscribe(request.clone()).await;
    let mut consumed = 0;
    keep_open(open, async |response| {
        let deliveries = match response.event {
            Some(Event::Batch(batch)) => batch.deliveries,
            Some(Event::Goaway(goaway)) => return Ok(Next::ComeBack(goaway)),
            _ => return Ok(Next::GoOn),
        };
        deliveries.iter().for_each(work);
        consumed += deliveries.len();
        let ack = AckRequest {
            subscription: subscription.into(),
            ack_ids: deliveries.into_iter().map(|delivery| delivery.ack_id).collect(),
            ..Default::default()
        };
        let answer = retry(async || subscriber.clone().ack(ack.clone()).await).await?;
        // Now that this is answered, no crash brings the messages back.
        for failure in answer.failures {
            eprintln!("not acknowledged: {}", failure.reason().as_str_name());
        }
        Ok(if count.is_some_and(|count| consumed >= count) { Next::Stop } else { Next::GoOn })
    })
    .await
}

/// The work is to print it. After a fault a message may come again: doing it twice must do no harm.
fn work(delivery: &Delivery) {
    let stored = delivery.message.clone().unwrap_or_default();
    let message = stored.message.unwrap_or_default();
    emit(&json!({
        "topic": stored.topic,
        "offset": stored.offset,
        "attempt": delivery.attempt,
        "id": message.id,
        "key": message.key,
        "attributes": message.attributes,
        "data": BASE64_STANDARD.encode(message.data),
    }));
}
