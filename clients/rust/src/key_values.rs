//! Puts entries into a bucket, and reads the highest.

use serde::{Deserialize, Serialize};
use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::columba::key_value_service_client::KeyValueServiceClient;
use crate::columba::{Entry, ListEntriesRequest, PutRequest};
use crate::connection::retry;

/// An entry as a JSON line; not each has a score.
#[derive(Deserialize, Serialize)]
pub struct Line {
    pub key: String,
    pub value: String,
    pub score: Option<f64>,
}

/// Entries, and the revision that they are of.
pub struct Top {
    pub entries: Vec<Line>,
    pub revision: u64,
}

/// Returns the revision of the write.
pub async fn put(channel: &Channel, bucket: &str, entry: Line) -> Result<u64, Status> {
    let request = PutRequest {
        bucket: bucket.into(),
        key: entry.key,
        value: entry.value.into(),
        score: entry.score,
        // Makes it safe to send again.
        id: Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let key_values = KeyValueServiceClient::new(channel.clone());
    Ok(retry(async || key_values.clone().put(request.clone()).await).await?.revision)
}

/// The five highest entries with a prefix, as of a revision or later.
pub async fn top(channel: &Channel, bucket: &str, prefix: &str, revision: u64) -> Result<Top, Status> {
    let request = ListEntriesRequest {
        bucket: bucket.into(),
        prefix: prefix.into(),
        order_by: "score desc".into(),
        page_size: 5,
        min_revision: revision,
        ..Default::default()
    };
    let key_values = KeyValueServiceClient::new(channel.clone());
    let page = retry(async || key_values.clone().list_entries(request.clone()).await).await?;
    Ok(Top { entries: page.entries.into_iter().map(line).collect(), revision: page.revision })
}

fn line(entry: Entry) -> Line {
    let value = String::from_utf8_lossy(&entry.value).into_owned();
    Line { key: entry.key, value, score: entry.score }
}
