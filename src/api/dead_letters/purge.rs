//! Marks letters as dealt with.

use super::selection::Letters;
use crate::api::wire::v1;
use crate::engine::Result;
use crate::model::Offset;

/// Letters purged in one step.
const BATCH: usize = 1_000;

/// A purge as it was asked for.
pub(super) struct Purge {
    pub(super) letters: Letters,
    pub(super) max: usize,
    pub(super) dry_run: bool,
}

impl Purge {
    pub(super) async fn run(mut self) -> Result<v1::PurgeDeadLettersResponse> {
        let (mut taken, mut purged, mut next) = (0, 0, None);
        let mut batch = Vec::new();
        while let Some(letter) = self.letters.next().await? {
            if taken == self.max {
                next = Some(letter.message.offset);
                break;
            }
            taken += 1;
            batch.push(letter.message.offset);
            if batch.len() == BATCH {
                purged += self.purge(std::mem::take(&mut batch)).await?;
            }
        }
        purged += self.purge(batch).await?;
        let next = next.or(self.letters.unseen());
        Ok(v1::PurgeDeadLettersResponse {
            purged: u32::try_from(purged).unwrap_or(u32::MAX),
            more: next.is_some(),
            next_offset: next.unwrap_or_default(),
            last_offset: self.letters.last,
        })
    }

    async fn purge(&mut self, offsets: Vec<Offset>) -> Result<u64> {
        if self.dry_run || offsets.is_empty() {
            return Ok(offsets.len() as u64);
        }
        self.letters.keep_record().await?;
        let purged = self.letters.engine.discard(&self.letters.record, offsets).await;
        purged.map_err(|error| self.letters.about_topic(error))
    }
}
