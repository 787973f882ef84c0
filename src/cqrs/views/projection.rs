//! Keeps the view of a bucket in step with its topic.
//!
//! It reads the topic itself instead of subscribing to it: a subscription leaves out what has expired, and
//! then what was there before would be taken for the newest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redb::WriteTransaction;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Progress, Stage};
use super::changes::Changes;
use super::entry::read;
use super::error::{Error, Result};
use super::tables::{self, Place, Tables, set_place};
use crate::cqrs::store;
use crate::engine::{self, ReadLimit};
use crate::model::{Offset, Start, StoredMessage, Timestamp};

/// How much is read and written at once.
const BATCH: ReadLimit = ReadLimit { messages: 10_000, bytes: 4 << 20 };
/// Entries whose time is over that are removed at once.
const EXPIRE_AT_ONCE: usize = 1_000;
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the view until the bucket is gone or the server stops, then has it written to disk.
pub(super) async fn run(bucket: Arc<Bucket>, stop: CancellationToken) {
    let mut is_open = false;
    let end = loop {
        let failure = tokio::select! {
            biased;
            () = stop.cancelled() => break Stage::Closed,
            failure = follow(&bucket, is_open) => failure,
        };
        // Opening reads the whole file: not for trouble of the log.
        is_open = !matches!(failure, Err(Error::Store(_)));
        if let Err(Error::Store(error)) = &failure {
            bucket.set_trouble(Some(error.clone()));
        }
        match failure {
            Err(Error::BucketNotFound(_) | Error::BucketDeleted(_)) => break Stage::Deleted,
            Err(Error::Engine(engine::Error::Closed | engine::Error::Failed(_))) => break Stage::Closed,
            Err(Error::Store(error @ store::Error::Damaged(_))) => {
                tracing::error!(bucket = %bucket.name, %error, "the view of a bucket is made anew");
                set_stage(&bucket, Stage::Starting);
                if let Err(error) = bucket.store.reset().await {
                    tracing::error!(bucket = %bucket.name, %error, "cannot remove a damaged view; trying again");
                    sleep(RETRY).await;
                }
            }
            Err(error) => {
                tracing::error!(bucket = %bucket.name, %error, "the view of a bucket stalls; trying again");
                tokio::select! {
                    () = stop.cancelled() => break Stage::Closed,
                    () = sleep(RETRY) => {}
                }
            }
            Ok(never) => match never {},
        }
    };
    bucket.progress.send_modify(|progress| {
        if progress.stage != Stage::Deleted {
            progress.stage = end;
        }
    });
    if end == Stage::Closed
        && let Err(error) = bucket.store.sync().await
    {
        tracing::warn!(bucket = %bucket.name, %error, "the next start reads the topic again in part");
    }
    bucket.store.close();
}

fn set_stage(bucket: &Bucket, stage: Stage) {
    bucket.progress.send_modify(|progress| progress.stage = stage);
}

/// Opens the view and follows the topic until something fails.
async fn follow(bucket: &Bucket, is_open: bool) -> Result<std::convert::Infallible> {
    let was_ready = bucket.progress.borrow().stage == Stage::Ready;
    if !is_open {
        // It may come back empty: what is damaged is removed.
        set_stage(bucket, Stage::Starting);
        let _turn = bucket.opening.acquire().await.expect("it is never closed");
        bucket.store.reopen().await?;
    }
    let topic = bucket.engine.topic(&bucket.topic).await.map_err(|error| bucket.error(error))?;
    let mut place = trusted(bucket, &topic).await?;
    bucket.changes.begin(place.changes);
    let goal = topic.last_offset;
    // It may have gone back, or be empty.
    let stage = if was_ready && !place.is_fresh() { Stage::Ready } else { Stage::Starting };
    bucket.progress.send_modify(|progress| *progress = Progress { stage, place, last: goal });
    // Also finds what has expired meanwhile.
    let mut step = Step { messages: Vec::new(), position: place.position };
    loop {
        let (now, changes) = (bucket.clock.now(), Arc::clone(&bucket.changes));
        let before = place;
        let write = move |transaction: &WriteTransaction| step.write(transaction, before, now, &changes);
        let (after, next_expiry) = bucket.store.write(write).await?;
        // Writing nothing succeeds on a full disk, too.
        if after.position > place.position || after.position >= goal {
            bucket.set_trouble(None);
        }
        place = after;
        bucket.progress.send_modify(|progress| {
            // What could be read before can still be, although it may have to catch up.
            let is_ready = progress.stage == Stage::Ready || place.position >= goal;
            let stage = if is_ready { Stage::Ready } else { Stage::Starting };
            *progress = Progress { stage, place, last: goal.max(place.position) };
        });
        step = next(bucket, place.position, next_expiry).await?;
    }
}

/// How far the view is, if it is of this topic; else it is emptied.
async fn trusted(bucket: &Bucket, topic: &crate::model::Topic) -> Result<Place> {
    let place = bucket.store.write(tables::place).await?;
    let fresh = Place { created: topic.create_time, ..Place::default() };
    if place.is_nowhere() {
        return Ok(fresh);
    }
    let is_same = place.created == topic.create_time && place.position <= topic.last_offset;
    if is_same && is_last_read_there(bucket, place).await? {
        return Ok(place);
    }
    tracing::warn!(
        bucket = %bucket.name,
        position = place.position,
        last = topic.last_offset,
        "the view of a bucket is of another history, such as that of a backup; it is made anew from the log"
    );
    set_stage(bucket, Stage::Starting);
    bucket.store.reset().await?;
    Ok(fresh)
}

/// Whether the message that was read last is still the one that it was, as far as can be told.
async fn is_last_read_there(bucket: &Bucket, place: Place) -> Result<bool> {
    if place.position == 0 || place.read_time == Timestamp(0) {
        return Ok(true);
    }
    let limit = ReadLimit { messages: 1, ..BATCH };
    let read = bucket.engine.read(&bucket.topic, Start::Offset(place.position), limit).await;
    let there = match read {
        Ok(messages) => messages.into_iter().find(|message| message.offset == place.position),
        Err(engine::Error::Damaged { .. }) => None,
        Err(error) => return Err(bucket.error(error)),
    };
    Ok(there.is_none_or(|message| message.publish_time == place.read_time))
}

/// What is to be done next to a view.
struct Step {
    messages: Vec<StoredMessage>,
    /// How far the view is then.
    position: Offset,
}

/// Waits for something to do: new messages, or entries whose time is over.
async fn next(bucket: &Bucket, position: Offset, next_expiry: Option<Timestamp>) -> Result<Step> {
    loop {
        if bucket.is_damaged.swap(false, Ordering::Relaxed) {
            return Err(store::Error::Damaged("a reader has found it so".into()).into());
        }
        // Before the read: a read after it sees all of it.
        let topic = bucket.engine.topic(&bucket.topic).await.map_err(|error| bucket.error(error))?;
        let read = bucket.engine.read(&bucket.topic, Start::Offset(position + 1), BATCH).await;
        match read {
            Ok(messages) if messages.is_empty() && topic.last_offset > position => {
                return Ok(Step { messages, position: topic.last_offset });
            }
            Ok(messages) => {
                if let Some(last) = messages.last() {
                    return Ok(Step { position: last.offset, messages });
                }
            }
            Err(error @ engine::Error::Damaged { last, .. }) => {
                tracing::error!(bucket = %bucket.name, %error, "entries of a bucket are lost");
                return Ok(Step { messages: Vec::new(), position: last });
            }
            Err(error) => return Err(bucket.error(error)),
        }
        let expiry = async {
            match next_expiry {
                Some(time) => sleep(Duration::from_micros(time.0.saturating_sub(bucket.clock.now().0))).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = bucket.poke.notified() => {}
            () = expiry => return Ok(Step { messages: Vec::new(), position }),
        }
    }
}

impl Step {
    /// Writes it; returns where the view stands then, and when its next entry vanishes.
    fn write(
        &self,
        transaction: &WriteTransaction,
        place: Place,
        now: Timestamp,
        changes: &Changes,
    ) -> store::Result<(Place, Option<Timestamp>)> {
        let mut tables = Tables::open(transaction)?;
        let mut done = Vec::new();
        for message in &self.messages {
            match read(message) {
                Some(version) => done.push(tables.apply(version, now)?),
                None => {
                    tracing::warn!(topic = %message.topic, offset = message.offset, "not an entry; left out");
                }
            }
        }
        done.extend(tables.expire(now, EXPIRE_AT_ONCE)?);
        let last = self.messages.last().map(|message| message.publish_time);
        let kept_time = if self.position == place.position { place.read_time } else { Timestamp(0) };
        let place = Place {
            position: self.position,
            read_time: last.unwrap_or(kept_time),
            changes: place.changes + done.len() as u64,
            ..place
        };
        let next_expiry = tables.next_expiry()?;
        tables.finish()?;
        set_place(transaction, place)?;
        // Before the commit, so that whoever sees the change finds it here. If it fails, a new life begins.
        changes.add(&done);
        Ok((place, next_expiry))
    }
}
