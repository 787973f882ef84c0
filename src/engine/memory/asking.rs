//! What is asked of the state beside publishing and delivering: to browse, move and discard messages, and
//! what became of one.

use tokio::time::Instant;

use super::log::Log;
use super::queue::{Holder, Queue};
use super::state::State;
use crate::engine::{Error, ReadLimit, Result};
use crate::model::{
    ConsumerInfo, Durability, Envelope, Explanation, Journey, Name, Offset, Receipt, Standing, StoredMessage,
    Timestamp,
};

impl State {
    pub(super) fn browse(&self, name: &Name, from: Offset, limit: ReadLimit) -> Result<Vec<StoredMessage>> {
        let queue = self.group(name)?.only()?;
        let log = self.log(&queue.topic)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for offset in (from.max(1)..=log.last()).filter(|&offset| !queue.is_settled(offset)) {
            let message = stored(log, offset)?.clone();
            bytes += message.envelope.len();
            if found.len() == limit.messages || (bytes > limit.bytes && !found.is_empty()) {
                break;
            }
            found.push(message);
        }
        Ok(found)
    }

    pub(super) fn move_message(
        &mut self,
        name: &Name,
        offset: Offset,
        to: &Name,
        envelope: Envelope,
    ) -> Result<Receipt> {
        let queue = self.group(name)?.only()?;
        stored(self.log(&queue.topic)?, offset)?;
        if queue.is_settled(offset) {
            return Err(Error::AlreadySettled { subscription: name.clone(), offset });
        }
        let log = self.log_mut(to)?;
        log.append(vec![envelope]);
        let last = log.last();
        self.group_mut(name)?.only_mut()?.done(offset);
        Ok(Receipt { first: last, last, duplicates: Vec::new(), durability: Durability::Buffered })
    }

    pub(super) fn discard(&mut self, name: &Name, offsets: Vec<Offset>) -> Result<u64> {
        let last = self.log(&self.group(name)?.only()?.topic)?.last();
        let queue = self.group_mut(name)?.only_mut()?;
        let mut count = 0;
        for offset in offsets.into_iter().filter(|offset| (1..=last).contains(offset)) {
            count += u64::from(!queue.is_settled(offset));
            queue.done(offset);
        }
        Ok(count)
    }

    pub(super) fn consumers(&self, subscription: Option<&Name>) -> Result<Vec<ConsumerInfo>> {
        let now = Instant::now();
        let mut consumers = match subscription {
            Some(name) => self.group(name)?.infos(now),
            None => self.users_groups().flat_map(|group| group.infos(now)).collect(),
        };
        consumers.sort_by_key(|consumer| consumer.number);
        Ok(consumers)
    }

    pub(super) fn explain(&mut self, topic: &Name, offset: Offset) -> Result<Explanation> {
        let message = stored(self.log(topic)?, offset)?.clone();
        let own = topic.is_internal();
        let names: Vec<Name> = self.groups(own).map(|group| group.subscription().name.clone()).collect();
        for name in &names {
            self.bury(name)?;
        }
        let (now, wall) = (Instant::now(), Timestamp::now());
        let of_topic = self.groups(own).filter_map(|group| group.queues.get(topic));
        let journeys = of_topic.map(|queue| queue.journey(&message, now, wall)).collect();
        Ok(Explanation { message, journeys })
    }
}

fn stored(log: &Log, offset: Offset) -> Result<&StoredMessage> {
    let none = || Error::NoSuchMessage { topic: log.name.clone(), offset, last: log.last() };
    if offset == 0 { Err(none()) } else { log.get(offset).ok_or_else(none) }
}

impl Queue {
    fn journey(&self, message: &StoredMessage, now: Instant, wall: Timestamp) -> Journey {
        let later = |until: Instant| wall.after(until.saturating_duration_since(now));
        let handed = self.handed.get(&message.offset);
        let standing = match handed {
            Some(handed) if handed.in_flight(now) => {
                let consumer = handed.holder.and_then(|holder| match holder {
                    Holder::Consumer(number) => Some(format!("consumer-{number}")),
                    Holder::Pull(_) => None,
                });
                Standing::InFlight { consumer, deadline: later(handed.until) }
            }
            Some(handed) => Standing::Waiting { until: later(handed.until) },
            None if self.is_settled(message.offset) && self.is_foreign(message) => Standing::Skipped,
            None if self.is_settled(message.offset) => Standing::Settled,
            None => Standing::NotReached,
        };
        let attempts = handed.map_or(0, |handed| handed.attempt);
        Journey { subscription: self.subscription.name.clone(), standing, attempts, history: Vec::new() }
    }

    /// Whether a message is for another subscription only.
    pub(super) fn is_foreign(&self, message: &StoredMessage) -> bool {
        let only_for = message.envelope.header().only_for;
        !only_for.is_empty() && only_for != self.subscription.name.as_str()
    }

    /// Settles the messages that are for other subscriptions, as soon as they are there.
    pub(super) fn skip_foreign(&mut self, log: &Log) {
        for offset in self.seen + 1..=log.last() {
            if log.get(offset).is_some_and(|message| self.is_foreign(message)) {
                self.done(offset);
            }
        }
        self.seen = log.last();
    }
}
