//! What a key was before.

use std::time::Duration;

use super::bucket::Bucket;
use super::entry::{Version, read};
use super::error::Result;
use super::tables::versions;
use crate::engine::{self, ReadLimit};
use crate::model::{Offset, Start};

impl Bucket {
    /// The versions of a key that the log still holds, the newest first; at most `limit`, and about so many
    /// bytes. Only those before a revision, if one is given. Says whether it ended for the bytes.
    pub(crate) async fn history(
        &self,
        key: String,
        before: Option<Offset>,
        limit: usize,
        bytes: usize,
        patience: Duration,
    ) -> Result<(Vec<Version>, bool)> {
        let known = self.read(0, patience, move |transaction| versions(transaction, &key)).await?;
        let (mut found, mut total) = (Vec::new(), 0);
        for revision in known.into_iter().filter(|&revision| before.is_none_or(|before| revision < before)) {
            if found.len() == limit {
                break;
            }
            if total >= bytes {
                return Ok((found, true));
            }
            let one = ReadLimit { messages: 1, bytes: 1 };
            let messages = match self.engine.read(&self.topic, Start::Offset(revision), one).await {
                Ok(messages) => messages,
                Err(engine::Error::Damaged { .. }) => continue,
                Err(error) => return Err(self.error(error)),
            };
            // What was superseded may be gone from the log.
            let Some(message) = messages.into_iter().find(|message| message.offset == revision) else {
                continue;
            };
            total += message.envelope.len();
            found.extend(read(&message));
        }
        Ok((found, false))
    }
}
