//! `columba kv`.

mod bucket;
mod entry;
mod watch;
mod write;

use self::entry::Shown;
use super::context::{Channel, Context, MAX_RESPONSE_BYTES};
use super::error::Error;
use crate::proto::v1::key_value_service_client::KeyValueServiceClient;
use crate::proto::v1::{GetRequest, HistoryRequest, ListEntriesRequest};

/// Entries asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// Put, get, list and watch entries in buckets: values and scores under keys
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  columba kv bucket create scores
  columba kv put scores eu.ann '{\"name\": \"Ann\"}' --score 17.5
  columba kv get scores eu.ann
  columba kv top scores --prefix eu. --min 10 -n 5
  columba kv watch scores --prefix eu. --order-by 'score desc' --limit 5")]
pub(in crate::cli) enum KvCommand {
    /// Create, list, show, change and delete buckets
    #[command(subcommand)]
    Bucket(bucket::BucketCommand),
    Put(write::PutArgs),
    Get(GetArgs),
    Ls(ListArgs),
    Top(TopArgs),
    Watch(watch::WatchArgs),
    Rm(write::RemoveArgs),
    History(HistoryArgs),
}

/// Print the value of an entry; with -o json, all of it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba kv get scores eu.ann
  columba kv get scores eu.ann --min-revision 42 -o json")]
pub(in crate::cli) struct GetArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// How up to date a read must be.
#[derive(Debug, clap::Args)]
struct ReadingArgs {
    /// Wait until this revision shows, such as that of your own last write [default: what there is]
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    min_revision: u64,
}

/// Which entries, in which order.
#[derive(Debug, Clone, clap::Args)]
struct SelectionArgs {
    /// Only keys that begin with this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only entries with a score of at least this
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min: Option<f64>,
    /// Only entries with a score of at most this
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    max: Option<f64>,
}

/// List entries
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba kv ls scores --prefix eu.
  columba kv ls scores --order-by 'score desc' --max-entries 10 -o json")]
pub(in crate::cli) struct ListArgs {
    /// The bucket
    bucket: String,
    #[command(flatten)]
    selection: SelectionArgs,
    /// key, 'key desc', score or 'score desc'; by score, only entries that have one
    #[arg(long, value_name = "ORDER", default_value = "key")]
    order_by: String,
    /// Stop after so many entries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_entries: Option<u64>,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// List the entries with the highest scores
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  columba kv top scores --prefix eu. --min 10 -n 5")]
pub(in crate::cli) struct TopArgs {
    /// The bucket
    bucket: String,
    #[command(flatten)]
    selection: SelectionArgs,
    /// How many
    #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// List what an entry was before, the newest first, as far as the log still holds it
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct HistoryArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
}

type Client = KeyValueServiceClient<Channel>;

pub(super) async fn run(command: KvCommand, context: &Context) -> Result<(), Error> {
    let client = Client::new(context.connect().await?).max_decoding_message_size(MAX_RESPONSE_BYTES);
    match command {
        KvCommand::Bucket(command) => bucket::run(command, client, context).await,
        KvCommand::Put(args) => write::put(args, client, context).await,
        KvCommand::Get(args) => get(args, client, context).await,
        KvCommand::Ls(args) => {
            let ListArgs { bucket, selection, order_by, max_entries, reading } = args;
            list(bucket, selection, order_by, max_entries, &reading, client, context).await
        }
        KvCommand::Top(args) => {
            let TopArgs { bucket, selection, count, reading } = args;
            list(bucket, selection, "score desc".into(), Some(count), &reading, client, context).await
        }
        KvCommand::Watch(args) => watch::run(args, context).await,
        KvCommand::Rm(args) => write::remove(args, client, context).await,
        KvCommand::History(args) => history(args, client, context).await,
    }
}

async fn get(args: GetArgs, mut client: Client, context: &Context) -> Result<(), Error> {
    let GetArgs { bucket, key, reading } = args;
    let request = GetRequest { bucket, key, min_revision: reading.min_revision };
    let entry = client.get(context.request(request)).await?.into_inner().entry;
    let entry = Shown::from(entry.ok_or_else(|| Error::protocol("no entry"))?);
    Ok(context.format.sentence(&entry, &entry.text())?)
}

async fn list(
    bucket: String,
    selection: SelectionArgs,
    order_by: String,
    max: Option<u64>,
    reading: &ReadingArgs,
    mut client: Client,
    context: &Context,
) -> Result<(), Error> {
    let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let SelectionArgs { prefix, min, max: max_score } = selection;
    let mut request = ListEntriesRequest {
        bucket,
        prefix,
        min_score: min,
        max_score,
        order_by,
        min_revision: reading.min_revision,
        ..ListEntriesRequest::default()
    };
    let mut entries: Vec<Shown> = Vec::new();
    loop {
        request.page_size = u32::try_from(max - entries.len()).unwrap_or(u32::MAX).min(PAGE_SIZE);
        let page = client.list_entries(context.request(request.clone())).await?.into_inner();
        entries.extend(page.entries.into_iter().map(Shown::from));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || entries.len() >= max {
            break;
        }
    }
    Ok(context.format.list(&entries, &["KEY", "SCORE", "REVISION", "VALUE"], &[1, 2], Shown::row)?)
}

async fn history(args: HistoryArgs, mut client: Client, context: &Context) -> Result<(), Error> {
    let HistoryArgs { bucket, key } = args;
    let mut request = HistoryRequest { bucket, key, ..HistoryRequest::default() };
    let mut versions: Vec<Shown> = Vec::new();
    loop {
        let page = client.history(context.request(request.clone())).await?.into_inner();
        versions.extend(page.versions.into_iter().filter_map(Shown::of_version));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    Ok(context.format.list(
        &versions,
        &["REVISION", "TIME", "SCORE", "VALUE"],
        &[0, 2],
        Shown::version_row,
    )?)
}
