//! What a stream holds of a topic without a subscription: its place in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::sieve::SIFT_TIME;
use crate::embedded::log::Log;
use crate::embedded::log::reader::ReadBatch;
use crate::embedded::topic::TopicHandle;
use crate::engine::{Consumer, Credit, Error, ReadLimit, Result};
use crate::model::filter::Facts;
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES};
use crate::model::{Delivery, Filter, Offset, StoredMessage, Timestamp};

/// How much is read at once of what may not be wanted.
const UNSIFTED: ReadLimit = ReadLimit { messages: MAX_BATCH_MESSAGES, bytes: MAX_BATCH_BYTES };

/// A reader of a topic, for as long as it lives.
pub(crate) struct EphemeralConsumer {
    name: String,
    topic: Arc<TopicHandle>,
    log: Log,
    /// The next message to read.
    next: Offset,
    filter: Filter,
    /// What was read, and may not be wanted.
    unsifted: VecDeque<StoredMessage>,
    credit: Credit,
    visible: watch::Receiver<Offset>,
    end: watch::Receiver<Option<Error>>,
    _permit: OwnedSemaphorePermit,
}

impl EphemeralConsumer {
    /// Reads from `next` on, until the engine ends.
    pub(crate) fn new(
        name: String,
        (topic, log): (Arc<TopicHandle>, Log),
        (next, filter, credit): (Offset, Filter, Credit),
        end: watch::Receiver<Option<Error>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let visible = topic.watch();
        Self {
            name,
            topic,
            log,
            next,
            filter,
            unsifted: VecDeque::new(),
            credit,
            visible,
            end,
            _permit: permit,
        }
    }

    async fn read(&mut self) -> Result<Vec<Delivery>> {
        let limit = ReadLimit {
            messages: MAX_BATCH_MESSAGES.min(self.credit.messages as usize),
            bytes: MAX_BATCH_BYTES.min(usize::try_from(self.credit.bytes).unwrap_or(usize::MAX)),
        };
        loop {
            if self.topic.is_deleted() {
                return Err(Error::TopicDeleted(self.topic.name.clone()));
            }
            if limit.messages > 0 && !self.unsifted.is_empty() {
                let deliveries = self.sift(limit);
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
                // There may be a long way to the next message that is wanted.
                tokio::task::yield_now().await;
                continue;
            }
            if limit.messages > 0 && self.next <= *self.visible.borrow_and_update() {
                let limit = if self.filter.is_empty() { limit } else { UNSIFTED };
                let ReadBatch { mut messages, next } =
                    self.log.reader.read(&self.topic, self.next, limit).await?;
                self.next = next;
                let now = Timestamp::now();
                messages.retain(|message| !message.envelope.header().is_expired(now));
                if !self.filter.is_empty() || messages.is_empty() {
                    self.unsifted = messages.into();
                    continue;
                }
                return Ok(messages.into_iter().map(deliver).collect());
            }
            if self.visible.changed().await.is_err() {
                return Err(Error::Closed);
            }
        }
    }

    /// Keeps what is wanted of the messages that were read, as far as the limit and the time for it allow.
    fn sift(&mut self, limit: ReadLimit) -> Vec<Delivery> {
        let until = Instant::now() + SIFT_TIME;
        let (mut deliveries, mut bytes) = (Vec::new(), 0);
        while let Some(message) = self.unsifted.pop_front() {
            if self.filter.matches(&Facts::new(&message, 1)) {
                bytes += message.envelope.len();
                if deliveries.len() == limit.messages || (bytes > limit.bytes && !deliveries.is_empty()) {
                    self.unsifted.push_front(message);
                    break;
                }
                deliveries.push(deliver(message));
            }
            if Instant::now() >= until {
                break;
            }
        }
        deliveries
    }
}

fn deliver(message: StoredMessage) -> Delivery {
    Delivery { ack_id: Bytes::new(), attempt: 1, message }
}

#[async_trait]
impl Consumer for EphemeralConsumer {
    fn id(&self) -> &str {
        &self.name
    }

    async fn next(&mut self) -> Result<Vec<Delivery>> {
        let mut end = self.end.clone();
        tokio::select! {
            reason = end.wait_for(Option::is_some) => {
                Err(reason.ok().and_then(|reason| reason.clone()).unwrap_or(Error::Closed))
            }
            read = self.read() => read,
        }
    }

    async fn set_credit(&mut self, credit: Credit) {
        self.credit = credit;
    }
}
