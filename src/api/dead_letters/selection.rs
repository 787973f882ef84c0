//! Which letters a request is about, and the walk over them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::api::status::Refusal;
use crate::api::validate::Violations;
use crate::engine::{Engine, Error, Intent, ReadLimit, Result};
use crate::model::filter::Facts;
use crate::model::limits::{MAX_LETTERS_SCANNED, MAX_REASON_BYTES};
use crate::model::{DeadLetter, Filter, Name, Offset, Start, StoredMessage, SubscriptionSettings, Timestamp};

/// How much is read at once.
const CHUNK: ReadLimit = ReadLimit { messages: 1_000, bytes: 1 << 20 };

/// The fields that select letters, as every request has them.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) subscription: &'a str,
    pub(super) topic: &'a str,
    pub(super) reason: &'a str,
    pub(super) since: Option<prost_types::Timestamp>,
    pub(super) until: Option<prost_types::Timestamp>,
    pub(super) filter: &'a str,
    pub(super) first_offset: Offset,
    pub(super) last_offset: Offset,
}

impl Fields<'_> {
    /// Text that differs whenever the selection does.
    pub(super) fn fingerprint(&self) -> [String; 4] {
        let Self { subscription, topic, reason, since, until, filter, first_offset, last_offset } = self;
        let rest = format!("{since:?} {until:?} {first_offset} {last_offset} {filter}");
        [(*subscription).to_owned(), (*topic).to_owned(), (*reason).to_owned(), rest]
    }
}

/// Which letters a request is about.
pub(super) struct Selection {
    source: Source,
    criteria: Criteria,
    first: Offset,
    /// None for all there are when the walk begins.
    last: Option<Offset>,
}

enum Source {
    /// The letters of this subscription, wherever it leaves them.
    Subscription(Name),
    /// Those on this topic.
    Topic(Name),
}

/// What a letter must be like.
struct Criteria {
    subscription: Option<Name>,
    reason: String,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    filter: Filter,
}

impl Criteria {
    fn cover(&self, letter: &DeadLetter, message: &StoredMessage) -> bool {
        self.subscription.as_ref().is_none_or(|name| *name == letter.subscription)
            && letter.reason.contains(&self.reason)
            && self.since.is_none_or(|since| letter.time >= since)
            && self.until.is_none_or(|until| letter.time < until)
            && self.filter.matches(&Facts::new(message, letter.attempts))
    }
}

impl Selection {
    pub(super) fn read(violations: &mut Violations, fields: Fields<'_>) -> Option<Self> {
        let source = match (fields.subscription, fields.topic) {
            ("", "") => {
                violations.refuse("subscription", "REQUIRED", "and `topic` are empty; set one of them")
            }
            (name, "") => violations.name("subscription", name).map(Source::Subscription),
            ("", name) => violations.name("topic", name).map(Source::Topic),
            _ => {
                violations.refuse("topic", "CONTRADICTION", "is set, and `subscription`, too; leave one out")
            }
        };
        let before = violations.count;
        violations.text("reason", fields.reason, MAX_REASON_BYTES);
        let since = fields.since.and_then(|time| violations.timestamp("since", time));
        let until = fields.until.and_then(|time| violations.timestamp("until", time));
        let filter = violations.filter("filter", fields.filter);
        let last = Some(fields.last_offset).filter(|&last| last > 0);
        if last.is_some_and(|last| last < fields.first_offset) {
            violations.add("last_offset", "CONTRADICTION", "is before `first_offset`; swap the two");
        }
        let source = source.filter(|_| violations.count == before)?;
        let subscription = match &source {
            Source::Subscription(name) => Some(name.clone()),
            Source::Topic(_) => None,
        };
        let criteria =
            Criteria { subscription, reason: fields.reason.to_owned(), since, until, filter: filter? };
        Some(Self { source, criteria, first: fields.first_offset.max(1), last })
    }

    /// Begins a walk over the letters.
    pub(super) async fn open(self, engine: &Arc<dyn Engine>) -> std::result::Result<Letters, Refusal> {
        let name = match self.source {
            Source::Topic(topic) => topic,
            Source::Subscription(name) => {
                let letters = engine.subscription(&name).await?.settings.retry.dead_letter_topic;
                letters.ok_or_else(|| Refusal::no_dead_letter_topic(&name))?
            }
        };
        let topic = engine.topic(&name).await?;
        let end = topic.last_offset;
        let record = Name::internal("dead-letters", &name);
        let has_record = match engine.subscription(&record).await {
            Ok(_) => true,
            Err(Error::SubscriptionNotFound(_)) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(Letters {
            engine: Arc::clone(engine),
            topic: name,
            record,
            has_record,
            criteria: self.criteria,
            next: self.first,
            last: self.last.unwrap_or(end).min(end),
            read: VecDeque::new(),
            scanned: 0,
        })
    }
}

/// A dead letter that is not dealt with.
pub(super) struct Letter {
    pub(super) about: DeadLetter,
    pub(super) message: StoredMessage,
}

/// A walk over the letters of a selection that are not dealt with, in the order of their offsets.
pub(super) struct Letters {
    pub(super) engine: Arc<dyn Engine>,
    /// The dead-letter topic.
    pub(super) topic: Name,
    /// The server's own subscription, which has settled what is dealt with.
    pub(super) record: Name,
    /// It is made when first a letter is dealt with.
    has_record: bool,
    criteria: Criteria,
    /// The next message to read.
    next: Offset,
    /// The last one to read.
    pub(super) last: Offset,
    read: VecDeque<StoredMessage>,
    /// How many messages were looked at.
    scanned: usize,
}

impl Letters {
    /// Goes on from this offset, if it is further.
    pub(super) fn go_to(&mut self, offset: Offset) {
        self.next = self.next.max(offset);
    }

    /// The next letter; `None` at the end, or when enough was looked at for one request.
    pub(super) async fn next(&mut self) -> Result<Option<Letter>> {
        loop {
            while let Some(message) = self.read.pop_front() {
                if message.offset > self.last {
                    return Ok(None);
                }
                let about = DeadLetter::read(&message.envelope);
                if let Some(about) = about.filter(|letter| self.criteria.cover(letter, &message)) {
                    return Ok(Some(Letter { about, message }));
                }
            }
            if self.next > self.last || self.scanned >= MAX_LETTERS_SCANNED {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    /// Where to go on, if the walk stopped before its end.
    pub(super) fn unseen(&self) -> Option<Offset> {
        (self.next <= self.last).then_some(self.next)
    }

    async fn fill(&mut self) -> Result<()> {
        let read = if self.has_record {
            self.engine.browse(&self.record, self.next, CHUNK).await
        } else {
            self.engine.read(&self.topic, Start::Offset(self.next), CHUNK).await
        };
        match read {
            Ok(messages) => {
                self.scanned += messages.len();
                self.next = messages.last().map_or(self.last, |message| message.offset) + 1;
                self.read = messages.into();
                Ok(())
            }
            // What is damaged cannot be told to be a letter.
            Err(Error::Damaged { last, .. }) => {
                self.next = last + 1;
                Ok(())
            }
            Err(error) => Err(self.about_topic(error)),
        }
    }

    /// Makes the record of what is dealt with, if there is none yet.
    pub(super) async fn keep_record(&mut self) -> Result<()> {
        if !self.has_record {
            let settings = SubscriptionSettings::new(self.topic.clone());
            match self.engine.create_subscription(self.record.clone(), settings, Intent::Apply).await {
                Ok(_) | Err(Error::SubscriptionExists(_)) => self.has_record = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The record goes with the topic, and users know only that one.
    pub(super) fn about_topic(&self, error: Error) -> Error {
        match error {
            Error::SubscriptionNotFound(name) | Error::SubscriptionDeleted(name) if name == self.record => {
                Error::TopicNotFound(self.topic.clone())
            }
            error => error,
        }
    }
}
