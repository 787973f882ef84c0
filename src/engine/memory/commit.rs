//! Several operations in one step: done on copies, which take the place of the originals if all went well.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::time::Instant;

use super::log::Log;
use super::state::State;
use crate::engine::{Error, Failure, Operation, Outcome, Result};
use crate::model::{Name, Offset};

/// What was done so far.
#[derive(Default)]
struct Done {
    /// Topics as they are after it.
    topics: BTreeMap<Name, Log>,
    /// Acks, and the messages that they settle.
    acks: Vec<(usize, Name, Vec<Bytes>)>,
    acked: BTreeSet<(Name, Name, Offset)>,
}

impl State {
    pub(super) fn commit(&mut self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        // Before anything is copied: a dead letter must not be lost with what the copy replaces.
        for operation in &operations {
            if let Operation::Ack { subscription, .. } = operation {
                self.bury(subscription)?;
            }
        }
        let mut done = Done::default();
        let mut outcomes = Vec::new();
        for (index, operation) in operations.into_iter().enumerate() {
            let outcome = self.try_one(&mut done, index, operation);
            let located = |error| Error::InCommit { index, cause: Box::new(error) };
            outcomes.push(outcome.map_err(located)?);
        }
        for (name, log) in done.topics {
            *self.log_mut(&name)? = log;
        }
        for (_, name, ids) in &done.acks {
            self.ack(name, ids.clone())?;
        }
        // Again, for the floors: what comes later may raise those of what comes before.
        for (index, name, ids) in done.acks {
            outcomes[index] = Outcome::Acked(self.ack(&name, ids)?);
        }
        Ok(outcomes)
    }

    fn try_one(&self, done: &mut Done, index: usize, operation: Operation) -> Result<Outcome> {
        match operation {
            Operation::Publish { topic, messages, terms } => {
                let log = match done.topics.remove(&topic) {
                    Some(log) => log,
                    None => self.log(&topic)?.clone(),
                };
                let receipt = done.topics.entry(topic).or_insert(log).publish(messages, terms)?;
                Ok(Outcome::Published(receipt))
            }
            Operation::Ack { subscription, ids } => {
                self.check_acks(done, &subscription, &ids)?;
                done.acks.push((index, subscription, ids));
                Ok(Outcome::Acked(0))
            }
        }
    }

    fn check_acks(&self, done: &mut Done, subscription: &Name, ids: &[Bytes]) -> Result<()> {
        let group = self.group(subscription)?;
        for (index, id) in ids.iter().enumerate() {
            let found =
                group.find(id, &self.topics, &self.ids, Instant::now()).and_then(|(topic, offset)| {
                    let once = done.acked.insert((subscription.clone(), topic, offset));
                    if once { Ok(()) } else { Err(Failure::Expired) }
                });
            if let Err(failure) = found {
                return Err(Error::AckRefused { subscription: subscription.clone(), index, failure });
            }
        }
        Ok(())
    }
}
