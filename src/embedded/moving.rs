//! The engine's operations on single messages of a subscription: browse, move, discard.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Shared;
use super::delivery::dispatch::{Discarded, Event, Request};
use super::log::transaction::{Publication, Transaction};
use super::topics::only;
use crate::engine::{ReadLimit, Result, Terms};
use crate::model::{Durability, Envelope, Name, Offset, Receipt, StoredMessage};

/// What settling a message weighs in the write queue, in bytes.
const SETTLE_BYTES: usize = 16;

impl Shared {
    pub(super) async fn browse(
        &self,
        subscription: &Name,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<StoredMessage>> {
        let handle = self.find_subscription(subscription)?;
        let topic = Arc::clone(&handle.only()?.topic);
        let messages = limit.messages;
        let unsettled = handle.ask(|reply| Event::Request(Request::Unsettled { from, messages, reply }));
        let mut found: Vec<StoredMessage> = Vec::new();
        let mut bytes = 0;
        for (first, last) in unsettled.await? {
            let mut next = first;
            while next <= last {
                let messages = usize::try_from(last - next + 1).unwrap_or(usize::MAX);
                let left = ReadLimit { messages, bytes: limit.bytes - bytes };
                let read = match self.log.reader.read(&topic, next, left).await {
                    Ok(read) => read,
                    Err(_) if !found.is_empty() => return Ok(found),
                    Err(error) => return Err(error),
                };
                if read.next == next {
                    return Ok(found);
                }
                next = read.next;
                for message in read.messages.into_iter().filter(|message| message.offset <= last) {
                    bytes += message.envelope.len();
                    if bytes >= limit.bytes {
                        if bytes == limit.bytes || found.is_empty() {
                            found.push(message);
                        }
                        return Ok(found);
                    }
                    found.push(message);
                }
            }
        }
        Ok(found)
    }

    pub(super) async fn move_message(
        self: Arc<Self>,
        subscription: Name,
        offset: Offset,
        to: Name,
        envelope: Envelope,
    ) -> Result<Receipt> {
        let handle = self.find_subscription(&subscription)?;
        handle.only()?;
        let topic = self.find_topic(&to)?;
        let accepted = Instant::now();
        let place = self.log.place(envelope.len() + SETTLE_BYTES).await?;
        let (reply, receipt) = oneshot::channel();
        let envelopes = vec![envelope.0];
        let publication = Publication {
            topic,
            marks: self.log.marker.marks(&envelopes),
            envelopes,
            terms: Terms::default(),
            // It has the id of the message that it was.
            deduplicate: false,
            operation: None,
        };
        let publish = Transaction {
            publishes: vec![publication],
            settles: Vec::new(),
            durability: Durability::Fsynced,
            reply: Some(reply),
            accepted,
            place,
        };
        let moving = handle.ask(|reply| Event::Request(Request::Move { offset, publish, reply }));
        let epoch = moving.await??;
        let moved = self.log.answer(receipt).await.map(only);
        handle.tell(Event::Request(Request::Moved { offset, epoch, settled: moved.is_ok() })).await;
        moved
    }

    pub(super) async fn discard(&self, subscription: &Name, offsets: Vec<Offset>) -> Result<u64> {
        let handle = self.find_subscription(subscription)?;
        handle.only()?;
        let _place = self.log.place(offsets.len() * SETTLE_BYTES).await?;
        let discarding = handle.ask(|reply| Event::Request(Request::Discard { offsets, reply }));
        let Discarded { count, durable } = discarding.await?;
        if let Some(durable) = durable {
            self.log.answer(durable).await?;
        }
        Ok(count)
    }
}
