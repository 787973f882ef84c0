//! What a stream holds of a topic without a subscription: its place in it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::embedded::log::Log;
use crate::embedded::log::reader::ReadBatch;
use crate::embedded::topic::TopicHandle;
use crate::engine::{Consumer, Credit, Error, ReadLimit, Result};
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES};
use crate::model::{Delivery, Offset, Timestamp};

/// A reader of a topic, for as long as it lives.
pub(crate) struct EphemeralConsumer {
    name: String,
    topic: Arc<TopicHandle>,
    log: Log,
    next: Offset,
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
        (next, credit): (Offset, Credit),
        end: watch::Receiver<Option<Error>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let visible = topic.watch();
        Self { name, topic, log, next, credit, visible, end, _permit: permit }
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
            if limit.messages > 0 && self.next <= *self.visible.borrow_and_update() {
                let ReadBatch { mut messages, next } =
                    self.log.reader.read(&self.topic, self.next, limit).await?;
                self.next = next;
                let now = Timestamp::now();
                messages.retain(|message| !message.envelope.header().is_expired(now));
                if messages.is_empty() {
                    continue;
                }
                let deliver = |message| Delivery { ack_id: Bytes::new(), attempt: 1, message };
                return Ok(messages.into_iter().map(deliver).collect());
            }
            if self.visible.changed().await.is_err() {
                return Err(Error::Closed);
            }
        }
    }
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
