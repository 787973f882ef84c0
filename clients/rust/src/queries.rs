//! Asks queries, and answers them.

use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Channel;

use crate::columba::answer_query_request::Outcome;
use crate::columba::handle_queries_response::Event;
use crate::columba::query_service_client::QueryServiceClient;
use crate::columba::{AnswerQueryRequest, HandleQueriesRequest, QueryFailure, QueryRequest, QueryResult};
use crate::connection::{Next, is_unreachable, keep_open, retry, settled};
use crate::{Error, emit, key_values};

/// A query as a JSON line.
#[derive(Deserialize)]
pub struct Line {
    r#type: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    revision: u64,
}

pub async fn ask(channel: &Channel, line: Line) -> Result<(), Error> {
    let request = QueryRequest {
        r#type: line.r#type,
        key: line.key,
        // The answer is no older than this: give the revision of a write to read what was written.
        min_revision: line.revision,
        ..Default::default()
    };
    let queries = QueryServiceClient::new(channel.clone());
    let answer = retry(async || queries.clone().query(request.clone()).await).await?;
    let entries: Value = serde_json::from_slice(&answer.payload)?;
    emit(&json!({ "answer": entries, "revision": answer.revision }));
    Ok(())
}

/// Answers queries of the type `<bucket>.top`: the five highest entries whose keys begin with the query's key.
pub async fn handle(channel: &Channel, bucket: &str) -> Result<(), Status> {
    let queries = QueryServiceClient::new(channel.clone());
    let types = vec![format!("{bucket}.top")];
    let request = HandleQueriesRequest { types, handler: "rust".into(), ..Default::default() };
    let open = async || queries.clone().handle_queries(request.clone()).await;
    keep_open(open, async |response| {
        match response.event {
            Some(Event::Started(_)) => emit(&json!({ "handling": format!("{bucket}.top") })),
            Some(Event::Delivery(delivery)) => {
                let outcome = Some(answer(channel, bucket, &delivery.key).await?);
                let answer = AnswerQueryRequest { query_id: delivery.query_id, outcome };
                settled(retry(async || queries.clone().answer_query(answer.clone()).await).await)?;
            }
            Some(Event::Goaway(goaway)) => return Ok(Next::ComeBack(goaway)),
            _ => {}
        }
        Ok(Next::GoOn)
    })
    .await
}

async fn answer(channel: &Channel, bucket: &str, prefix: &str) -> Result<Outcome, Status> {
    match key_values::top(channel, bucket, prefix, 0).await {
        Ok(top) => Ok(Outcome::Result(QueryResult {
            payload: json!(top.entries).to_string().into(),
            content_type: "application/json".into(),
            revision: top.revision,
        })),
        Err(status) if is_unreachable(&status) => Err(status),
        Err(status) => {
            let (code, message) = ("TOP_REFUSED".into(), status.message().into());
            Ok(Outcome::Failure(QueryFailure { code, message, retryable: false }))
        }
    }
}
