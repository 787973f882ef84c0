//! `columba kv bucket`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Client, PAGE_SIZE};
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::output::{self, rfc3339};
use crate::cli::parse;
use crate::proto::v1::{
    Bucket, CreateBucketRequest, DeleteBucketRequest, GetBucketRequest, ListBucketsRequest,
    UpdateBucketRequest,
};

#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum BucketCommand {
    /// Create a bucket; if it exists with the same settings, nothing changes
    #[command(after_help = "Example:\n  columba kv bucket create sessions --default-ttl 30m")]
    Create {
        /// Letters, digits, `_` and `-`, in parts joined by dots
        name: String,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// List buckets
    Ls,
    /// Show one bucket
    Describe {
        /// The bucket
        name: String,
    },
    /// Change settings of a bucket: those that are given, and no others
    #[command(visible_alias = "update")]
    #[command(after_help = "Example:\n  columba kv bucket edit sessions --default-ttl 0s")]
    Edit {
        /// The bucket
        name: String,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Only if its etag is still this one
        #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
        etag: String,
    },
    /// Delete a bucket with all its entries
    #[command(visible_alias = "delete")]
    Rm {
        /// The bucket
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SettingsArgs {
    /// A label; may be repeated, and all of them are replaced
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse::key_value)]
    labels: Vec<(String, String)>,
    /// The longest value, such as 64KiB [default: 1MiB, highest: 8MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    max_value_bytes: Option<u32>,
    /// How long entries are kept that do not say it; 0s for ever [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    default_ttl: Option<Duration>,
}

pub(super) async fn run(command: BucketCommand, mut client: Client, context: &Context) -> Result<(), Error> {
    match command {
        BucketCommand::Create { name, settings } => {
            let (bucket, _) = settings.bucket(name)?;
            let request = CreateBucketRequest { bucket: Some(bucket) };
            show(client.create_bucket(context.request(request)).await?.into_inner().bucket, context)
        }
        BucketCommand::Ls => list(client, context).await,
        BucketCommand::Describe { name } => {
            let request = GetBucketRequest { bucket: name };
            show(client.get_bucket(context.request(request)).await?.into_inner().bucket, context)
        }
        BucketCommand::Edit { name, settings, etag } => {
            let (bucket, paths) = settings.bucket(name)?;
            if paths.is_empty() {
                let text = "nothing to change; give --label, --max-value-bytes or --default-ttl";
                return Err(Error::Usage(text.into()));
            }
            let update_mask = Some(prost_types::FieldMask { paths });
            let request = UpdateBucketRequest { bucket: Some(Bucket { etag, ..bucket }), update_mask };
            show(client.update_bucket(context.request(request)).await?.into_inner().bucket, context)
        }
        BucketCommand::Rm { name } => {
            let request = DeleteBucketRequest { bucket: name.clone(), etag: String::new() };
            client.delete_bucket(context.request(request)).await?;
            let deleted = serde_json::json!({ "deleted": name });
            Ok(context.format.sentence(&deleted, &format!("bucket {name} is deleted"))?)
        }
    }
}

impl SettingsArgs {
    /// The bucket, and the paths of the settings that were given.
    fn bucket(self, name: String) -> Result<(Bucket, Vec<String>), Error> {
        let mut paths = Vec::new();
        let mut note = |given: bool, path: &str| given.then(|| paths.push(path.to_owned()));
        note(!self.labels.is_empty(), "labels");
        note(self.max_value_bytes.is_some(), "max_value_bytes");
        note(self.default_ttl.is_some(), "default_ttl");
        let ttl = self.default_ttl.filter(|ttl| !ttl.is_zero()).map(prost_types::Duration::try_from);
        let bucket = Bucket {
            name,
            labels: parse::key_values("--label", self.labels)?,
            max_value_bytes: self.max_value_bytes.unwrap_or_default(),
            default_ttl: ttl.transpose().map_err(|error| Error::Usage(format!("--default-ttl: {error}")))?,
            ..Bucket::default()
        };
        Ok((bucket, paths))
    }
}

async fn list(mut client: Client, context: &Context) -> Result<(), Error> {
    let mut buckets: Vec<Shown> = Vec::new();
    let mut request = ListBucketsRequest { page_size: PAGE_SIZE, ..ListBucketsRequest::default() };
    loop {
        let page = client.list_buckets(context.request(request.clone())).await?.into_inner();
        buckets.extend(page.buckets.into_iter().map(Shown::from));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let header = ["BUCKET", "REVISION", "SIZE", "TTL"];
    Ok(context.format.list(&buckets, &header, &[1, 2], |bucket| {
        let size = output::size(bucket.stored_bytes);
        vec![bucket.name.clone(), bucket.revision.to_string(), size, bucket.ttl()]
    })?)
}

fn show(bucket: Option<Bucket>, context: &Context) -> Result<(), Error> {
    let bucket = Shown::from(bucket.ok_or_else(|| Error::protocol("no bucket"))?);
    let fields = vec![
        ("bucket", bucket.name.clone()),
        ("revision", bucket.revision.to_string()),
        ("stored", output::size(bucket.stored_bytes)),
        ("largest value", output::size(bucket.max_value_bytes.into())),
        ("entries kept", bucket.ttl()),
        ("labels", output::pairs(&bucket.labels)),
        ("created", bucket.create_time.clone().unwrap_or_default()),
        ("etag", bucket.etag.clone()),
    ];
    Ok(context.format.item(&bucket, fields)?)
}

/// A bucket as it is printed.
#[derive(Serialize)]
struct Shown {
    name: String,
    labels: BTreeMap<String, String>,
    max_value_bytes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_ttl: Option<String>,
    revision: u64,
    stored_bytes: u64,
    create_time: Option<String>,
    etag: String,
}

impl Shown {
    fn ttl(&self) -> String {
        self.default_ttl.clone().unwrap_or_else(|| "for ever".into())
    }
}

impl From<Bucket> for Shown {
    fn from(bucket: Bucket) -> Self {
        Self {
            default_ttl: output::duration(bucket.default_ttl.as_ref()),
            create_time: rfc3339(bucket.create_time.as_ref()),
            name: bucket.name,
            labels: bucket.labels.into_iter().collect(),
            max_value_bytes: bucket.max_value_bytes,
            revision: bucket.revision,
            stored_bytes: bucket.stored_bytes,
            etag: bucket.etag,
        }
    }
}
