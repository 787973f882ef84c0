//! Messages that are not handed out any more: to the dead letters, or away.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::settle::Ranges;
use super::{DeadLetters, Lane, READ_RETRY};
use crate::embedded::delivery::burial::{Burial, Buried};
use crate::engine::Error;
use crate::model::Offset;

impl Lane {
    /// Sees to the messages that were given up, one at a time.
    pub(super) fn bury(&mut self, now: Instant) {
        let waits = self.burial.is_some() || self.bury_again.is_some_and(|at| at > now);
        if waits || self.is_stalled() {
            return;
        }
        self.bury_again = None;
        match self.subject.dead_letters.clone() {
            DeadLetters::Dropped => self.drop_given_up(),
            DeadLetters::Lost => {
                if let Some((offset, _)) = self.leases.next_given_up() {
                    self.not_buried(offset, "the dead-letter topic is lost; give the subscription another");
                }
            }
            DeadLetters::Topic(dead_letters) => {
                let Some((offset, given_up)) = self.leases.next_given_up() else { return };
                let burial = Burial {
                    log: self.subject.log.clone(),
                    dead_letters,
                    topic: Arc::clone(&self.subject.topic),
                    subscription: (self.subject.id, self.subject.name.clone()),
                    committed: Arc::clone(&self.subject.committed),
                };
                let to = burial.dead_letters.name.clone();
                self.burial = Some(Box::pin(async move {
                    (offset, burial.run(offset, given_up).await.map(|letter| (to, letter)))
                }));
            }
        }
    }

    fn drop_given_up(&mut self) {
        let (mut ranges, mut count) = (Ranges::default(), 0);
        while let Some((offset, given_up)) = self.leases.next_given_up() {
            self.note_given_up(offset, &given_up, None);
            self.leases.settle(offset, offset);
            ranges.add(offset, offset);
            count += 1;
        }
        if count > 0 {
            let name = &self.subject.name;
            tracing::warn!(subscription = %name, count, "dropped messages that were given up");
            self.dead_lettered += count;
            self.subject.meters.dead_letters.add(count);
            self.commit(ranges.0, oneshot::channel().0);
        }
    }

    fn not_buried(&mut self, offset: Offset, reason: &str) {
        let name = &self.subject.name;
        tracing::error!(subscription = %name, offset, reason, "no dead letter yet; trying again");
        self.leases.unbury(offset);
        self.bury_again = Some(Instant::now() + READ_RETRY);
    }

    pub(super) fn buried(&mut self, offset: Offset, result: Buried) {
        match result {
            Ok(letter) => {
                if let Some(given_up) = self.leases.given_up(offset).cloned() {
                    self.note_given_up(offset, &given_up, Some(letter));
                }
                self.leases.settle(offset, offset);
                self.dead_lettered += 1;
                self.subject.meters.dead_letters.add(1);
            }
            Err(Error::Damaged { .. }) => self.skip_damaged(offset, offset),
            // It was dropped from the topic meanwhile.
            Err(Error::NoSuchMessage { .. }) => self.settle_unwanted(&[(offset, offset)]),
            Err(error) => self.not_buried(offset, &error.to_string()),
        }
    }
}
