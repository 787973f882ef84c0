//! `columba kv put` and `rm`.

use std::io::{Read as _, stdin};
use std::time::Duration;

use super::Client;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::message::printable;
use crate::cli::parse;
use crate::proto::v1::{DeleteRequest, PutRequest};

/// Set an entry
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba kv put scores eu.ann Ann --score 17.5
  columba kv put sessions 4711 - --ttl 30m < session.json
  columba kv put config rate 20 --if-revision 7
  columba kv put locks leader me --if-revision 0 --ttl 10s")]
pub(in crate::cli) struct PutArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// The value; - reads it from standard input
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// What to order the entry by
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    score: Option<f64>,
    /// How long to keep it, such as 30s; 0s for ever [default: as the bucket says]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    ttl: Option<Duration>,
    /// Only if the entry has this revision; 0 for only if there is none
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Names the write: done twice with the same id, within two minutes, it is done once
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    id: String,
}

/// Remove an entry; that it is not there is no error
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RemoveArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// Only if the entry has this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
}

pub(super) async fn put(args: PutArgs, mut client: Client, context: &Context) -> Result<(), Error> {
    let PutArgs { bucket, key, value, score, ttl, if_revision, id } = args;
    let value = if value == "-" {
        let mut bytes = Vec::new();
        stdin().lock().read_to_end(&mut bytes)?;
        bytes
    } else {
        value.into_bytes()
    };
    let ttl = ttl.map(prost_types::Duration::try_from).transpose();
    let ttl = ttl.map_err(|error| Error::Usage(format!("--ttl: {error}")))?;
    let shown = (bucket.clone(), key.clone());
    let (value, expected_revision) = (value.into(), if_revision);
    let request = PutRequest { bucket, key, value, score, expected_revision, ttl, id };
    let revision = client.put(context.request(request)).await?.into_inner().revision;
    print(shown, revision, "is set", context)
}

pub(super) async fn remove(args: RemoveArgs, mut client: Client, context: &Context) -> Result<(), Error> {
    let RemoveArgs { bucket, key, if_revision } = args;
    let shown = (bucket.clone(), key.clone());
    let request = DeleteRequest { bucket, key, expected_revision: if_revision, id: String::new() };
    let revision = client.delete(context.request(request)).await?.into_inner().revision;
    print(shown, revision, "is removed", context)
}

fn print((bucket, key): (String, String), revision: u64, what: &str, context: &Context) -> Result<(), Error> {
    let shown_key = printable(key.as_bytes());
    let sentence = format!("{shown_key} {what} in {bucket}, revision {revision}");
    let shown = serde_json::json!({ "bucket": bucket, "key": key, "revision": revision });
    Ok(context.format.sentence(&shown, &sentence)?)
}
