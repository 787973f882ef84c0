//! What becomes of a transaction: which offsets its messages get, and which of them are duplicates.
//!
//! Decided by the writer, from the state as of the frame before, so nothing can come between. It
//! changes no state: a transaction that fails half-way leaves nothing behind.

use std::collections::{BTreeMap, HashMap};

use super::transaction::{Epoch, Publication, Settle, Transaction, located};
use crate::embedded::names::{Mark, NameHash};
use crate::embedded::state::State;
use crate::engine::{Error, Failure, Result};
use crate::model::{Duplicate, Name, Offset, Timestamp};

/// What becomes of one publication.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// The offset of the first message that is stored, if there is one.
    pub(super) first: Offset,
    /// What is not stored.
    pub(super) duplicates: Vec<Duplicate>,
}

/// Plans a transaction to be written at `now` or a little later, and takes the duplicates out of it.
pub(super) fn plan(state: &State, transaction: &mut Transaction, now: Timestamp) -> Result<Vec<Planned>> {
    let mut plan = Plan { state, now, next: BTreeMap::new(), ids: HashMap::new(), keys: HashMap::new() };
    let mut planned = Vec::with_capacity(transaction.publishes.len());
    for publication in &mut transaction.publishes {
        let operation = publication.operation;
        planned.push(plan.publish(publication).map_err(|error| located(operation, error))?);
    }
    for settle in &transaction.settles {
        check_settle(state, settle)?;
    }
    Ok(planned)
}

/// Refuses messages without a key, which a compacted topic cannot tell when to drop.
fn check_keys(publication: &Publication) -> Result<()> {
    let keyless = |index: &usize| publication.marks.get(*index).is_none_or(|mark| mark.key.is_none());
    match (0..publication.envelopes.len()).find(keyless) {
        Some(index) => Err(Error::KeyRequired { topic: publication.topic.name.clone(), index }),
        None => Ok(()),
    }
}

/// The state, and what the transaction adds to it.
struct Plan<'a> {
    state: &'a State,
    now: Timestamp,
    next: BTreeMap<u64, Offset>,
    ids: HashMap<(u64, NameHash), Offset>,
    keys: HashMap<(u64, NameHash), Offset>,
}

impl Plan<'_> {
    fn publish(&mut self, publication: &mut Publication) -> Result<Planned> {
        let id = publication.topic.id;
        let Some(topic) = self.state.topics.get(&id) else {
            return Err(Error::TopicNotFound(publication.topic.name.clone()));
        };
        // What the server itself moves there is never compacted.
        if topic.record.compacted && publication.deduplicate {
            check_keys(publication)?;
        }
        let first = self.next.get(&id).copied().unwrap_or(topic.next);
        let duplicates = self.duplicates(publication, first);
        // A request that was accepted before is accepted again, whatever it expects.
        if duplicates.len() < publication.envelopes.len() {
            check_last(publication, first - 1)?;
            self.check_key(publication)?;
        }
        remove(publication, &duplicates);
        self.take_in(publication, first);
        Ok(Planned { first, duplicates })
    }

    /// The messages whose ids are known, of this transaction too.
    fn duplicates(&mut self, publication: &Publication, first: Offset) -> Vec<Duplicate> {
        let topic = publication.topic.id;
        let mut duplicates = Vec::new();
        if !publication.deduplicate || !self.state.names.remembers_ids(topic) {
            return duplicates;
        }
        let mut next = first;
        for (index, mark) in (0..).zip(&publication.marks) {
            let Some(id) = mark.id else {
                next += 1;
                continue;
            };
            let known = self.ids.get(&(topic, id)).copied();
            if let Some(offset) = known.or_else(|| self.state.names.find_id(topic, id, self.now)) {
                duplicates.push(Duplicate { index, offset });
            } else {
                self.ids.insert((topic, id), next);
                next += 1;
            }
        }
        duplicates
    }

    /// Whether the last message with the publication's key is the one that was expected.
    fn check_key(&self, publication: &Publication) -> Result<()> {
        let Some(expected) = publication.terms.expected_key else { return Ok(()) };
        let (id, name) = (publication.topic.id, || publication.topic.name.clone());
        let keys = self.state.names.keys(id).ok_or_else(|| Error::NoKeyIndex(name()))?;
        let key = publication.marks.first().and_then(|mark| mark.key);
        let known = |key| self.keys.get(&(id, key)).copied().or_else(|| keys.last(key));
        match key.and_then(known) {
            None => Err(Error::KeyNotIndexed(name())),
            Some(actual) if actual != expected => Err(Error::KeyMoved { topic: name(), expected, actual }),
            Some(_) => Ok(()),
        }
    }

    /// What comes later in the transaction comes after this.
    fn take_in(&mut self, publication: &Publication, first: Offset) {
        let topic = publication.topic.id;
        self.next.insert(topic, first + publication.envelopes.len() as Offset);
        // Only a publication of a commit has another after it.
        if publication.operation.is_some() && self.state.names.keys(topic).is_some() {
            let keys = (first..).zip(&publication.marks);
            let keys = keys.filter_map(|(offset, &Mark { key, .. })| Some(((topic, key?), offset)));
            self.keys.extend(keys);
        }
    }
}

fn check_last(publication: &Publication, actual: Offset) -> Result<()> {
    match publication.terms.expected_last {
        Some(expected) if expected != actual => {
            Err(Error::Moved { topic: publication.topic.name.clone(), expected, actual })
        }
        _ => Ok(()),
    }
}

fn remove(publication: &mut Publication, duplicates: &[Duplicate]) {
    if duplicates.is_empty() {
        return;
    }
    let left_out: Vec<_> = duplicates.iter().map(|duplicate| duplicate.index as usize).collect();
    keep_others(&mut publication.envelopes, &left_out);
    keep_others(&mut publication.marks, &left_out);
}

/// Removes the items at some places, which are in order.
fn keep_others<T>(items: &mut Vec<T>, left_out: &[usize]) {
    let (mut at, mut left_out) = (0.., left_out.iter().peekable());
    items.retain(|_| {
        let here = at.next();
        left_out.next_if(|place| Some(**place) == here).is_none()
    });
}

/// A seek or the end of the subscription came before: what was delivered then does not count.
fn check_settle(state: &State, settle: &Settle) -> Result<()> {
    let Some(Epoch { epoch, name, operation, whole }) = &settle.only_in else { return Ok(()) };
    let error = match state.subscriptions.get(&settle.subscription) {
        None if !state.subscriptions.contains_key(whole) => Error::SubscriptionDeleted(name.clone()),
        None => expired(name),
        Some(subscription) if subscription.epoch != *epoch => expired(name),
        Some(_) => return Ok(()),
    };
    Err(located(Some(*operation), error))
}

fn expired(subscription: &Name) -> Error {
    Error::AckRefused { subscription: subscription.clone(), index: 0, failure: Failure::Expired }
}
