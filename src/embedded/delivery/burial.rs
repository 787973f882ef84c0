//! The way of one message from its subscription to the dead letters.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::leases::GivenUp;
use crate::embedded::log::{Log, Operation, PublishOperation, Settle};
use crate::embedded::progress::Committed;
use crate::embedded::topic::TopicHandle;
use crate::engine::{Error, ReadLimit, Result};
use crate::model::{DeadLetter, Durability, Name, Offset, Timestamp};

/// What came of it: the place of the dead letter.
pub(crate) type Buried = Result<(Name, Offset)>;

/// What burying a message takes.
pub(crate) struct Burial {
    pub(crate) log: Log,
    /// Where it goes.
    pub(crate) dead_letters: Arc<TopicHandle>,
    /// Where it is.
    pub(crate) topic: Arc<TopicHandle>,
    /// The number and the name of the subscription that gave it up.
    pub(crate) subscription: (u64, Name),
    pub(crate) committed: Arc<Committed>,
}

impl Burial {
    /// Publishes the dead letter and settles the message, in one transaction; durable when this returns, with
    /// the letter's offset. After an error, neither has happened.
    pub(crate) async fn run(self, offset: Offset, given_up: GivenUp) -> Result<Offset> {
        let limit = ReadLimit { messages: 1, bytes: 1 };
        let messages = self.log.reader.read(&self.topic, offset, limit).await?;
        let damaged = || Error::Damaged { topic: self.topic.name.clone(), first: offset, last: offset };
        let message = messages.first().filter(|message| message.offset == offset).ok_or_else(damaged)?;
        let (subscription, name) = self.subscription;
        let letter = DeadLetter {
            subscription: name,
            topic: self.topic.name.clone(),
            offset,
            attempts: given_up.attempts,
            reason: given_up.reason.to_string(),
            time: Timestamp::now(),
        };
        let envelope = letter.mark(&message.envelope).0;
        let bytes = envelope.len();
        let place = self.log.place(bytes).await?;
        let (reply, receipt) = oneshot::channel();
        self.log.submit(Operation::Publish(PublishOperation {
            topic: self.dead_letters,
            envelopes: vec![envelope],
            bytes,
            durability: Durability::Fsynced,
            expected_last: None,
            settle: Some(Settle { subscription, ranges: vec![(offset, offset)], committed: self.committed }),
            reply: Some(reply),
            _place: place,
        }));
        self.log.answer(receipt).await.map(|receipt| receipt.first)
    }
}
