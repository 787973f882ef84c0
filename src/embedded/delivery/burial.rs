//! The way of one message from its subscription to the dead letters.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::leases::GivenUp;
use crate::embedded::log::reader::ReadBatch;
use crate::embedded::log::transaction::{Publication, Settle, Transaction};
use crate::embedded::log::{Log, Operation};
use crate::embedded::progress::Committed;
use crate::embedded::topic::TopicHandle;
use crate::engine::{Error, ReadLimit, Result, Terms};
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
        let ReadBatch { messages, next } = self.log.reader.read(&self.topic, offset, limit).await?;
        if next > offset && messages.first().is_none_or(|message| message.offset > offset) {
            let (topic, last) = (self.topic.name.clone(), self.topic.visible());
            return Err(Error::NoSuchMessage { topic, offset, last });
        }
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
        let accepted = Instant::now();
        let place = self.log.place(envelope.len()).await?;
        let (reply, receipt) = oneshot::channel();
        let envelopes = vec![envelope];
        let publication = Publication {
            topic: self.dead_letters,
            marks: self.log.marker.marks(&envelopes),
            envelopes,
            terms: Terms::default(),
            deduplicate: false,
            operation: None,
        };
        let (ranges, committed) = (vec![(offset, offset)], self.committed);
        self.log.submit(Operation::Commit(Transaction {
            publishes: vec![publication],
            settles: vec![Settle { subscription, ranges, committed, only_in: None }],
            durability: Durability::Fsynced,
            reply: Some(reply),
            accepted,
            place,
        }));
        let receipts = self.log.answer(receipt).await?;
        Ok(receipts.first().map_or(0, |receipt| receipt.first))
    }
}
