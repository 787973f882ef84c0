//! Readers of topics that lease nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::consumer::Seat;
use super::log::Log;
use super::state::State;
use super::{Shared, Step};
use crate::engine::{Consumer, Credit, Error, ReadLimit, Result};
use crate::model::filter::Facts;
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, MAX_PATTERN_TOPICS};
use crate::model::{Delivery, Filter, Name, Offset, Pattern, Start, Timestamp};

/// A reader of a topic, or of all that a pattern covers.
pub(super) struct Ephemeral {
    seat: Seat,
    topics: Pattern,
    /// The topic's number, if it is one.
    only: Option<u64>,
    places: Places,
    filter: Filter,
    credit: Credit,
}

/// Where a reader is in each topic.
#[derive(Default)]
struct Places {
    /// The next message of each topic, by its number and name.
    next: BTreeMap<(Name, u64), Offset>,
    /// The topic that had its turn last.
    last_turn: Option<(Name, u64)>,
}

impl Ephemeral {
    pub(super) fn open(
        shared: &Arc<Shared>,
        topics: Pattern,
        start: Start,
        filter: Filter,
        credit: Credit,
    ) -> Result<Self> {
        let seat = Seat::take(shared)?;
        let (only, next) = shared.look(|state| {
            let only = topics.name().map(|topic| state.log(&topic)).transpose()?.map(|log| log.number);
            let starts = state.starts(&topics, start)?.into_iter();
            let next = starts.map(|(topic, next)| Ok(((topic.clone(), state.log(&topic)?.number), next)));
            Ok((only, next.collect::<Result<BTreeMap<_, _>>>()?))
        })?;
        check_covered(&topics, next.len())?;
        Ok(Self { seat, topics, only, places: Places { next, last_turn: None }, filter, credit })
    }
}

fn check_covered(topics: &Pattern, count: usize) -> Result<()> {
    if count > MAX_PATTERN_TOPICS {
        return Err(Error::PatternFull { pattern: topics.clone(), subscription: None });
    }
    Ok(())
}

impl Places {
    /// Forgets topics that are gone, and begins with those that are new.
    fn follow(&mut self, topics: &Pattern, state: &State) -> Result<()> {
        self.next.retain(|(topic, number), _| state.log_numbered(topic, *number).is_ok());
        for log in state.topics.values().filter(|log| topics.matches(&log.name)) {
            self.next.entry((log.name.clone(), log.number)).or_insert(1);
        }
        check_covered(topics, self.next.len())
    }

    /// The topic whose turn it is among those that have more.
    fn next_turn(&self, state: &State) -> Option<(Name, u64)> {
        let has_more = |((topic, _), next): &(&(Name, u64), &Offset)| {
            state.log(topic).is_ok_and(|log: &Log| **next <= log.last())
        };
        let ready: Vec<_> = self.next.iter().filter(has_more).map(|(place, _)| place).collect();
        let after = ready.iter().find(|place| Some(**place) > self.last_turn.as_ref());
        after.or(ready.first()).copied().cloned()
    }
}

#[async_trait]
impl Consumer for Ephemeral {
    fn id(&self) -> &str {
        &self.seat.id
    }

    async fn next(&mut self) -> Result<Vec<Delivery>> {
        let limit = ReadLimit {
            messages: (self.credit.messages as usize).min(MAX_BATCH_MESSAGES),
            bytes: usize::try_from(self.credit.bytes).unwrap_or(usize::MAX).min(MAX_BATCH_BYTES),
        };
        let (places, topics, filter) = (&mut self.places, &self.topics, &self.filter);
        let only = topics.name().zip(self.only);
        let read = self.seat.shared.wait_for(|state, _| {
            if limit.messages == 0 {
                return Ok(Step::Wait(None));
            }
            loop {
                match &only {
                    Some((topic, number)) => drop(state.log_numbered(topic, *number)?),
                    None => places.follow(topics, state)?,
                }
                let Some(place) = places.next_turn(state) else { return Ok(Step::Wait(None)) };
                let next = places.next.get_mut(&place).expect("it has its turn");
                let log = state.log_numbered(&place.0, place.1)?;
                let messages = log.read(*next, limit);
                *next = messages.last().map_or(log.last(), |last| last.offset) + 1;
                places.last_turn = Some(place);
                let now = Timestamp::now();
                let wanted = messages.into_iter().filter(|message| {
                    !message.envelope.header().is_expired(now) && filter.matches(&Facts::new(message, 1))
                });
                let deliver = |message| Delivery { ack_id: Bytes::new(), attempt: 1, message };
                let deliveries: Vec<_> = wanted.map(deliver).collect();
                if !deliveries.is_empty() {
                    return Ok(Step::Done(deliveries));
                }
            }
        });
        read.await
    }

    async fn set_credit(&mut self, credit: Credit) {
        self.credit = credit;
    }
}
