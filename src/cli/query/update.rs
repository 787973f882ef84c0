//! `columba query update` and `columba query invalidate`.

use serde_json::json;

use super::super::context::Context;
use super::super::error::Error;
use super::{Asked, Question, payload};
use crate::proto::v1::query_service_client::QueryServiceClient;
use crate::proto::v1::{InvalidateQueriesRequest, PublishQueryUpdateRequest, QueryResult};

/// Tell those who watch a question of a newer answer, and put it into the cache
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  columba query update orders.total --key customer-7 --result 120 --revision 43")]
pub(in crate::cli) struct UpdateArgs {
    #[command(flatten)]
    question: Question,
    /// The new answer; `-` is standard input
    #[arg(long, value_name = "DATA")]
    result: String,
    /// The media type of the answer
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    result_type: String,
    /// What the answer is read from is that far; an answer below the newest known one is ignored
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    revision: u64,
}

pub(in crate::cli) async fn update(args: UpdateArgs, context: &Context) -> Result<(), Error> {
    if args.question.data == "-" && args.result == "-" {
        return Err(Error::Usage("--data and --result cannot both be standard input".into()));
    }
    let Asked { kind, key, payload: data, content_type, attributes } = args.question.read().await?;
    let (content, revision) = (payload(args.result).await?, args.revision);
    let request = PublishQueryUpdateRequest {
        r#type: kind,
        key,
        payload: data,
        content_type,
        attributes,
        result: Some(QueryResult { payload: content, content_type: args.result_type, revision }),
    };
    let mut client = QueryServiceClient::new(context.connect().await?);
    let response = client.publish_query_update(context.request(request)).await?.into_inner();
    let text = match (response.applied, response.watchers) {
        (false, _) => "ignored: a newer answer is known".to_owned(),
        (true, watchers) => format!("updated; watchers: {watchers}"),
    };
    let value = json!({ "applied": response.applied, "watchers": response.watchers });
    Ok(context.format.sentence(&value, &text)?)
}

/// Declare answers out of date: cached ones are dropped, and watched questions are asked again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba query invalidate orders.total
  columba query invalidate orders.total --key customer-7 --min-revision 43")]
pub(in crate::cli) struct InvalidateArgs {
    /// The type of the queries
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Only queries with this key
    #[arg(long)]
    key: Option<String>,
    /// Only queries with these arguments; `-` is standard input
    #[arg(long)]
    data: Option<String>,
    /// Only answers below this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    min_revision: u64,
}

pub(in crate::cli) async fn invalidate(args: InvalidateArgs, context: &Context) -> Result<(), Error> {
    let payload = match args.data {
        Some(data) => Some(payload(data).await?),
        None => None,
    };
    let InvalidateArgs { kind, key, min_revision, .. } = args;
    let request = InvalidateQueriesRequest { r#type: kind, key, payload, min_revision };
    let mut client = QueryServiceClient::new(context.connect().await?);
    let response = client.invalidate_queries(context.request(request)).await?.into_inner();
    let text = format!("invalidated; watchers: {}", response.watchers);
    Ok(context.format.sentence(&json!({ "watchers": response.watchers }), &text)?)
}
