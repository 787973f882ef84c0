//! Writing to a bucket: to its topic, that is. The view learns of it as it reads.

use std::sync::Arc;

use super::bucket::{Bucket, Stage};
use super::entry::{Version, Write, envelope, read};
use super::error::{Error, Result};
use crate::engine::{self, Operation, Outcome, ReadLimit, Terms};
use crate::model::{Offset, Receipt, Start};

/// How often a write is tried again while others change its key.
const ATTEMPTS: usize = 8;

/// What the last message with a key means.
enum Last {
    /// There is an entry.
    Entry,
    /// There is none: it was deleted, or has expired.
    Gone,
    /// It is the last no more.
    Superseded,
}

/// What an engine said of a write.
enum Refused {
    /// Another message is the last with the key of this write.
    Moved {
        index: usize,
        actual: Offset,
    },
    Other(engine::Error),
}

impl Bucket {
    /// Writes all or nothing; durable when this returns. Returns the revisions. The keys differ.
    ///
    /// Goes on to its end when it is dropped, so that the view hears of what was written.
    pub(crate) async fn write(self: &Arc<Self>, writes: Vec<Write>) -> Result<Vec<Offset>> {
        let bucket = Arc::clone(self);
        let done = tokio::spawn(async move {
            let done = bucket.write_to_its_end(writes).await;
            bucket.wake();
            done
        });
        done.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn write_to_its_end(&self, writes: Vec<Write>) -> Result<Vec<Offset>> {
        match self.progress.borrow().stage {
            Stage::Closed => return Err(Error::Engine(engine::Error::Closed)),
            Stage::Deleted => return Err(Error::BucketNotFound(self.name.clone())),
            Stage::Starting | Stage::Ready => {}
        }
        for (index, write) in writes.iter().enumerate() {
            let refused = self.refuse_vanished(index, write).await;
            if refused.is_err() && !write.id.is_empty() {
                // It may be a write that was done when the entry was still there.
                return match self.done_before(&writes).await? {
                    Some(revisions) => Ok(revisions),
                    None => refused.map(|()| Vec::new()),
                };
            }
            refused?;
        }
        let mut expected: Vec<_> = writes.iter().map(|write| write.expected).collect();
        let conditions = expected.iter().flatten().count();
        let mut attempts = conditions + ATTEMPTS;
        loop {
            attempts -= 1;
            let (index, actual) = match self.submit(&writes, &expected).await {
                Ok(revisions) => return Ok(revisions),
                Err(Refused::Moved { index, actual }) => (index, actual),
                Err(Refused::Other(error)) => return Err(self.error(error)),
            };
            // The engine counts the message that deleted an entry, or that has expired, as its last.
            match self.last(actual).await? {
                Last::Entry => return Err(self.conflict(index, &writes[index], actual)),
                Last::Gone if writes[index].expected != Some(0) => {
                    return Err(self.conflict(index, &writes[index], 0));
                }
                // Others are quicker, time and again.
                _ if attempts == 0 => return Err(self.conflict(index, &writes[index], actual)),
                Last::Gone => expected[index] = Some(actual),
                Last::Superseded => {}
            }
        }
    }

    /// Refuses a write that expects a revision which is that of a deletion, or of an entry that has expired.
    async fn refuse_vanished(&self, index: usize, write: &Write) -> Result<()> {
        let Some(expected) = write.expected.filter(|&expected| expected > 0) else { return Ok(()) };
        match self.last(expected).await? {
            Last::Gone => Err(self.conflict(index, write, 0)),
            Last::Entry | Last::Superseded => Ok(()),
        }
    }

    /// The revisions of what was written before under the same ids; `None` if it was not. Writes nothing.
    async fn done_before(&self, writes: &[Write]) -> Result<Option<Vec<Offset>>> {
        // Of duplicates nothing is expected; of all else, what never is.
        let never = vec![Some(Offset::MAX); writes.len()];
        match self.submit(writes, &never).await {
            Ok(revisions) => Ok(Some(revisions)),
            Err(Refused::Moved { .. } | Refused::Other(engine::Error::KeyNotIndexed(_))) => Ok(None),
            Err(Refused::Other(error)) => Err(self.error(error)),
        }
    }

    fn conflict(&self, index: usize, write: &Write, actual: Offset) -> Error {
        let expected = write.expected.unwrap_or_default();
        Error::Conflict { bucket: self.name.clone(), key: write.key.clone(), expected, actual, index }
    }

    async fn last(&self, revision: Offset) -> Result<Last> {
        if revision == 0 {
            return Ok(Last::Gone);
        }
        let limit = ReadLimit { messages: 1, bytes: 1 };
        let read_back = self.engine.read(&self.topic, Start::Offset(revision), limit).await;
        let messages = read_back.map_err(|error| self.error(error))?;
        let Some(message) = messages.into_iter().find(|message| message.offset == revision) else {
            return Ok(Last::Superseded);
        };
        Ok(match read(&message) {
            Some(Version::Put(entry)) if !entry.about.is_expired(self.clock.now()) => Last::Entry,
            _ => Last::Gone,
        })
    }

    async fn submit(
        &self,
        writes: &[Write],
        expected: &[Option<Offset>],
    ) -> std::result::Result<Vec<Offset>, Refused> {
        if let [write] = writes {
            let terms = Terms { expected_key: expected[0], ..Terms::default() };
            let receipt =
                async { self.engine.submit(&self.topic, vec![envelope(write)], terms).await?.await };
            return receipt.await.map(|receipt| revisions(&receipt, 1)).map_err(|error| refused(error, 0));
        }
        let (indices, operations) = self.operations(writes, expected);
        let outcomes = self.engine.commit(operations).await.map_err(|error| match error {
            engine::Error::InCommit { index, cause } => refused(*cause, indices[index][0]),
            other => Refused::Other(other),
        })?;
        let mut all = vec![0; writes.len()];
        for (indices, outcome) in indices.iter().zip(outcomes) {
            let Outcome::Published(receipt) = outcome else { continue };
            for (&index, revision) in indices.iter().zip(revisions(&receipt, indices.len())) {
                all[index] = revision;
            }
        }
        Ok(all)
    }

    /// What expects nothing is published together; the rest one by one. With the places in the batch of
    /// what each operation publishes.
    fn operations(&self, writes: &[Write], expected: &[Option<Offset>]) -> (Vec<Vec<usize>>, Vec<Operation>) {
        let (free, bound): (Vec<_>, Vec<_>) = (0..writes.len()).partition(|&index| expected[index].is_none());
        let free = Some(free).filter(|free| !free.is_empty());
        let indices: Vec<_> = free.into_iter().chain(bound.into_iter().map(|index| vec![index])).collect();
        let operation = |indices: &Vec<usize>| Operation::Publish {
            topic: self.topic.clone(),
            messages: indices.iter().map(|&index| envelope(&writes[index])).collect(),
            terms: Terms { expected_key: expected[indices[0]], ..Terms::default() },
        };
        let operations = indices.iter().map(operation).collect();
        (indices, operations)
    }
}

fn refused(error: engine::Error, index: usize) -> Refused {
    match error {
        engine::Error::KeyMoved { actual, .. } => Refused::Moved { index, actual },
        other => Refused::Other(other),
    }
}

/// The offsets of a publish's messages; of one that was there before, the one that it got then.
fn revisions(receipt: &Receipt, count: usize) -> Vec<Offset> {
    let mut next = receipt.first;
    let mut duplicates = receipt.duplicates.iter().peekable();
    let offset = |index: usize| {
        if let Some(duplicate) = duplicates.next_if(|it| usize::try_from(it.index) == Ok(index)) {
            return duplicate.offset;
        }
        next += 1;
        next - 1
    };
    (0..count).map(offset).collect()
}
