//! Buckets: created, listed, changed, deleted.

use std::time::Duration;

use super::{input, output};
use crate::api::page;
use crate::api::status::Refusal;
use crate::api::validate::{Violations, check, etag};
use crate::api::wire::v1;
use crate::cqrs::views::{Settings, SettingsChange, Views};
use crate::model::limits::{DEFAULT_MAX_VALUE_BYTES, MAX_TTL, MAX_VALUE_BYTES, MIN_TTL};

/// What an update may change.
const UPDATABLE: [&str; 3] = ["labels", "max_value_bytes", "default_ttl"];

pub(super) async fn create(views: &Views, request: v1::CreateBucketRequest) -> Result<v1::Bucket, Refusal> {
    let (name, settings) = check(|violations| {
        let bucket = violations.required("bucket", request.bucket)?;
        let name = input::bucket(violations, "bucket.name", &bucket.name);
        let change = change(violations, &bucket, &UPDATABLE);
        let settings = Settings {
            labels: change.labels?,
            max_value_bytes: change.max_value_bytes?,
            default_ttl: change.default_ttl?,
        };
        Some((name?, settings))
    })?;
    Ok(output::bucket(views.create(name, settings).await?))
}

pub(super) async fn list(
    views: &Views,
    request: &v1::ListBucketsRequest,
) -> Result<v1::ListBucketsResponse, Refusal> {
    let (page, cut) =
        check(|violations| page::read(violations, request.page_size, &request.page_token, "", &["buckets"]))?;
    let mut buckets = views.list(page.after.as_ref(), page.limit).await?;
    let next_page_token = cut.apply(&mut buckets, |bucket| &bucket.name);
    Ok(v1::ListBucketsResponse {
        buckets: buckets.into_iter().map(output::bucket).collect(),
        next_page_token,
    })
}

pub(super) async fn update(views: &Views, request: v1::UpdateBucketRequest) -> Result<v1::Bucket, Refusal> {
    let v1::UpdateBucketRequest { bucket, update_mask } = request;
    let (name, change, expected) = check(|violations| {
        let bucket = violations.required("bucket", bucket)?;
        let name = input::bucket(violations, "bucket.name", &bucket.name);
        let paths = violations.update_mask(update_mask, &UPDATABLE);
        let change = change(violations, &bucket, &paths?);
        Some((name?, change, etag(&bucket.etag)))
    })?;
    Ok(output::bucket(views.update(&name, change, expected).await?))
}

pub(super) async fn delete(views: &Views, request: &v1::DeleteBucketRequest) -> Result<(), Refusal> {
    let name = check(|violations| input::bucket(violations, "bucket", &request.bucket))?;
    Ok(views.delete(&name, etag(&request.etag)).await?)
}

/// The fields at `paths`; those left unset take their defaults.
fn change(violations: &mut Violations, bucket: &v1::Bucket, paths: &[&str]) -> SettingsChange {
    let mut change = SettingsChange::default();
    for &path in paths {
        match path {
            "labels" => change.labels = violations.labels("bucket.labels", &bucket.labels),
            "default_ttl" => change.default_ttl = default_ttl(violations, bucket.default_ttl),
            _ => {
                let (default, highest) = (DEFAULT_MAX_VALUE_BYTES, MAX_VALUE_BYTES);
                change.max_value_bytes =
                    violations.count("bucket.max_value_bytes", bucket.max_value_bytes, default, highest);
            }
        }
    }
    change
}

#[expect(clippy::option_option, reason = "none at all is a setting, too")]
fn default_ttl(violations: &mut Violations, ttl: Option<prost_types::Duration>) -> Option<Option<Duration>> {
    match ttl {
        None => Some(None),
        Some(ttl) => violations.duration("bucket.default_ttl", ttl, MIN_TTL..=MAX_TTL).map(Some),
    }
}
