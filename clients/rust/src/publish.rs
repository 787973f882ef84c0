//! Publishes messages.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::json;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::columba::publisher_service_client::PublisherServiceClient;
use crate::columba::{Message, PublishRequest};
use crate::connection::retry;
use crate::{Error, emit};

/// A message as a JSON line; the data is in base64.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Line {
    id: Option<String>,
    key: String,
    attributes: HashMap<String, String>,
    data: String,
}

pub async fn publish(channel: &Channel, topic: &str, line: Line) -> Result<(), Error> {
    let message = Message {
        // Sent again with the same id, a message is stored once.
        id: line.id.unwrap_or_else(|| Uuid::new_v4().to_string()),
        key: line.key,
        attributes: line.attributes,
        data: BASE64_STANDARD.decode(line.data)?,
        ..Message::default()
    };
    let request = PublishRequest { topic: topic.into(), messages: vec![message], ..Default::default() };
    let publisher = PublisherServiceClient::new(channel.clone());
    let receipt = retry(async || publisher.clone().publish(request.clone()).await).await?;
    // The message is on disk.
    let duplicate = receipt.duplicates.first();
    let offset = duplicate.map_or(receipt.first_offset, |duplicate| duplicate.offset);
    emit(&json!({ "offset": offset, "duplicate": duplicate.is_some() }));
    Ok(())
}
