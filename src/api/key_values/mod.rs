//! `KeyValueService`.

mod buckets;
mod input;
mod output;
mod token;
mod watch;

use std::time::Duration;

use futures::stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use self::input::{BatchInput, ListInput, PutInput, WatchInput};
use super::status::Refusal;
use super::validate::check;
use super::wire::v1::{self, key_value_service_server::KeyValueService};
use super::{Context, body, layers};
use crate::cqrs::views::{List, What, Write};
use crate::model::Name;
use crate::model::limits::{DEFAULT_READ_BYTES, MAX_REVISION_WAIT};

pub(super) struct KeyValues(pub(super) Context);

#[async_trait]
impl KeyValueService for KeyValues {
    async fn create_bucket(
        &self,
        request: Request<v1::CreateBucketRequest>,
    ) -> Result<Response<v1::CreateBucketResponse>, Status> {
        let bucket = Some(buckets::create(&self.0.cqrs.views, request.into_inner()).await?);
        Ok(Response::new(v1::CreateBucketResponse { bucket }))
    }

    async fn get_bucket(
        &self,
        request: Request<v1::GetBucketRequest>,
    ) -> Result<Response<v1::GetBucketResponse>, Status> {
        let name = check(|violations| input::bucket(violations, "bucket", &request.get_ref().bucket))?;
        let bucket = Some(output::bucket(self.0.cqrs.views.describe(&name).await?));
        Ok(Response::new(v1::GetBucketResponse { bucket }))
    }

    async fn list_buckets(
        &self,
        request: Request<v1::ListBucketsRequest>,
    ) -> Result<Response<v1::ListBucketsResponse>, Status> {
        Ok(Response::new(buckets::list(&self.0.cqrs.views, &request.into_inner()).await?))
    }

    async fn update_bucket(
        &self,
        request: Request<v1::UpdateBucketRequest>,
    ) -> Result<Response<v1::UpdateBucketResponse>, Status> {
        let bucket = Some(buckets::update(&self.0.cqrs.views, request.into_inner()).await?);
        Ok(Response::new(v1::UpdateBucketResponse { bucket }))
    }

    async fn delete_bucket(
        &self,
        request: Request<v1::DeleteBucketRequest>,
    ) -> Result<Response<v1::DeleteBucketResponse>, Status> {
        buckets::delete(&self.0.cqrs.views, &request.into_inner()).await?;
        Ok(Response::new(v1::DeleteBucketResponse {}))
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let v1::PutRequest { bucket, key, value, score, expected_revision, ttl, id } = request.into_inner();
        let (name, put) = check(|violations| {
            let name = input::bucket(violations, "bucket", &bucket);
            input::key(violations, "key", &key);
            input::id(violations, &id);
            let put = PutInput::read(violations, value, score, ttl);
            Some((name?, put?))
        })?;
        let what = self.resolve(&name, vec![("value".into(), put)]).await?.remove(0);
        let revision =
            self.write(&name, vec![Write { key, what, expected: expected_revision, id }]).await?[0];
        Ok(Response::new(v1::PutResponse { revision }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let v1::DeleteRequest { bucket, key, expected_revision, id } = request.into_inner();
        let name = check(|violations| {
            let name = input::bucket(violations, "bucket", &bucket);
            input::key(violations, "key", &key);
            input::id(violations, &id);
            name
        })?;
        let write = Write { key, what: What::Delete, expected: expected_revision, id };
        let revision = self.write(&name, vec![write]).await?[0];
        Ok(Response::new(v1::DeleteResponse { revision }))
    }

    async fn put_batch(
        &self,
        request: Request<v1::PutBatchRequest>,
    ) -> Result<Response<v1::PutBatchResponse>, Status> {
        let v1::PutBatchRequest { bucket, writes } = request.into_inner();
        let (name, batch) = check(|violations| {
            let name = input::bucket(violations, "bucket", &bucket);
            let batch = BatchInput::read(violations, writes);
            Some((name?, batch?))
        })?;
        let mut resolved = self.resolve(&name, batch.puts).await?.into_iter();
        let writes = batch.writes.into_iter().map(|(key, is_put, expected)| {
            let what = if is_put { resolved.next().expect("one for each put") } else { What::Delete };
            Write { key, what, expected, id: String::new() }
        });
        let revisions = self.write(&name, writes.collect()).await?;
        let revision = revisions.iter().copied().max().unwrap_or_default();
        Ok(Response::new(v1::PutBatchResponse { revisions, revision }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let patience = patience(&request);
        let v1::GetRequest { bucket, key, min_revision } = request.into_inner();
        let name = check(|violations| {
            let name = input::bucket(violations, "bucket", &bucket);
            input::key(violations, "key", &key);
            name
        })?;
        let entry = self.0.cqrs.views.bucket(&name)?.get(key, min_revision, patience).await?;
        Ok(Response::new(v1::GetResponse { entry: Some(output::entry(entry)) }))
    }

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        let patience = patience(&request);
        let request = request.into_inner();
        let ListInput { bucket, selection, after, limit, fingerprint } =
            check(|violations| ListInput::read(violations, &request))?;
        let list = List { selection, after, limit, bytes: DEFAULT_READ_BYTES };
        let listed = self.0.cqrs.views.bucket(&bucket)?.list(list, request.min_revision, patience).await?;
        Ok(Response::new(v1::ListEntriesResponse {
            entries: listed.entries.into_iter().map(output::entry).collect(),
            next_page_token: listed.next.map_or_else(String::new, |mark| token::of_mark(fingerprint, &mark)),
            revision: listed.revision,
        }))
    }

    type WatchEntriesStream = Empty<Result<v1::WatchEntriesResponse, Status>>;

    async fn watch_entries(
        &self,
        request: Request<v1::WatchEntriesRequest>,
    ) -> Result<Response<Self::WatchEntriesStream>, Status> {
        let WatchInput { bucket, selection, limit, seen, fingerprint } =
            check(|violations| WatchInput::read(violations, request.get_ref()))?;
        if self.0.stop.is_cancelled() {
            return Err(Refusal::shutting_down().into());
        }
        let watch = self.0.cqrs.views.watch(&bucket, selection, limit, seen)?;
        Ok(body::streamed(watch::events(self.0.clone(), watch, fingerprint)))
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let patience = patience(&request);
        let request = request.into_inner();
        let (name, page) = check(|violations| {
            let name = input::bucket(violations, "bucket", &request.bucket);
            input::key(violations, "key", &request.key);
            let page = input::HistoryPage::read(violations, &request);
            Some((name?, page?))
        })?;
        let bucket = self.0.cqrs.views.bucket(&name)?;
        // One more, to see whether there is another page.
        let history = bucket.history(request.key, page.before, page.size + 1, DEFAULT_READ_BYTES, patience);
        let (mut versions, is_cut) = history.await?;
        let more = is_cut || versions.len() > page.size;
        versions.truncate(page.size);
        let versions: Vec<_> = versions.into_iter().map(output::version).collect();
        let last = versions.last().and_then(|version| Some(version.entry.as_ref()?.revision));
        let next = last.filter(|_| more).map(|revision| token::of_revision(page.fingerprint, revision));
        Ok(Response::new(v1::HistoryResponse { versions, next_page_token: next.unwrap_or_default() }))
    }
}

impl KeyValues {
    /// Puts as the bucket's settings have them: with their time, and no larger than allowed.
    async fn resolve(&self, bucket: &Name, puts: Vec<(String, PutInput)>) -> Result<Vec<What>, Refusal> {
        if puts.is_empty() {
            return Ok(Vec::new());
        }
        let views = &self.0.cqrs.views;
        let settings = views.describe(bucket).await?.settings;
        check(|violations| {
            puts.into_iter()
                .map(|(field, put)| put.resolve(violations, &field, &settings, views.now()))
                .collect()
        })
    }

    async fn write(&self, bucket: &Name, writes: Vec<Write>) -> Result<Vec<u64>, Refusal> {
        Ok(self.0.cqrs.views.bucket(bucket)?.write(writes).await?)
    }
}

/// How long a call may wait: not quite to its deadline, so that it can say why.
fn patience<T>(request: &Request<T>) -> Duration {
    let deadline = layers::deadline(request.metadata().as_ref());
    deadline.map_or(MAX_REVISION_WAIT, |deadline| (deadline * 9 / 10).min(MAX_REVISION_WAIT))
}
