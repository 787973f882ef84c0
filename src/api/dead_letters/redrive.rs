//! Publishes letters again, each exactly once.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::LOOP;
use super::selection::{Letter, Letters};
use crate::api::Context;
use crate::api::status::Refusal;
use crate::api::wire::v1;
use crate::engine::{Error, Result};
use crate::model::limits::MAX_SKIPPED_LISTED;
use crate::model::redrive::{only_for, original};
use crate::model::{Envelope, Name, Timestamp, Topic};

/// A redrive as it was asked for.
pub(super) struct Redrive {
    letters: Letters,
    /// Where all letters go; where they came from, if it is none.
    target: Option<Topic>,
    stop: CancellationToken,
    done: v1::RedriveDeadLettersResponse,
}

/// What came of one letter.
enum Outcome {
    Redriven,
    Skipped {
        reason: &'static str,
        message: String,
    },
    /// Somebody else deals with it.
    Taken,
}

impl Outcome {
    fn skipped(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Skipped { reason, message: message.into() }
    }
}

impl Redrive {
    pub(super) async fn new(
        letters: Letters,
        target: Option<Name>,
        context: &Context,
    ) -> std::result::Result<Self, Refusal> {
        let target = match target {
            Some(target) if target == letters.topic => {
                return Err(Refusal::field("target_topic", "DEAD_LETTER_LOOP", LOOP));
            }
            Some(target) => Some(context.engine.topic(&target).await?),
            None => None,
        };
        let done = v1::RedriveDeadLettersResponse { last_offset: letters.last, ..Default::default() };
        Ok(Self { letters, target, stop: context.stop.clone(), done })
    }

    pub(super) async fn run(
        mut self,
        max: usize,
        per_second: u32,
        dry_run: bool,
    ) -> Result<v1::RedriveDeadLettersResponse> {
        let mut pace = Pace::new(if dry_run { 0 } else { per_second }, Instant::now());
        let mut next = None;
        loop {
            let letter = match self.letters.next().await {
                Ok(Some(letter)) => letter,
                Ok(None) => break,
                Err(_) if self.done.redriven > 0 => break,
                Err(error) => return Err(error),
            };
            if self.done.matched as usize == max || !pace.wait(&self.stop).await {
                next = Some(letter.message.offset);
                break;
            }
            match self.take(&letter, dry_run).await {
                Ok(outcome) => self.count(&letter, outcome),
                // What is done is done: the caller is told, and hears of the error when it goes on.
                Err(_) if self.done.redriven > 0 => {
                    next = Some(letter.message.offset);
                    break;
                }
                Err(error) => return Err(self.letters.about_topic(error)),
            }
        }
        let next = next.or(self.letters.unseen());
        self.done.more = next.is_some();
        self.done.next_offset = next.unwrap_or_default();
        Ok(self.done)
    }

    fn count(&mut self, letter: &Letter, outcome: Outcome) {
        match outcome {
            Outcome::Taken => return,
            Outcome::Redriven => self.done.redriven += 1,
            Outcome::Skipped { reason, message } => {
                self.done.skipped += 1;
                if self.done.skips.len() < MAX_SKIPPED_LISTED {
                    let (offset, reason) = (letter.message.offset, reason.to_owned());
                    self.done.skips.push(v1::SkippedDeadLetter { offset, reason, message });
                }
            }
        }
        self.done.matched += 1;
    }

    async fn take(&mut self, letter: &Letter, dry_run: bool) -> Result<Outcome> {
        let message = original(&letter.message.envelope);
        if message.header().expire_time.is_some_and(|time| time <= Timestamp::now()) {
            let why = "its expire_time is over, so nobody would get it; purge it";
            return Ok(Outcome::skipped("MESSAGE_EXPIRED", why));
        }
        let (to, message) = match self.destination(letter, message).await? {
            Ok(destination) => destination,
            Err(skipped) => return Ok(skipped),
        };
        if dry_run {
            return Ok(Outcome::Redriven);
        }
        self.letters.keep_record().await?;
        let Letters { engine, record, .. } = &self.letters;
        match engine.move_message(record, letter.message.offset, &to, message).await {
            Ok(_) => Ok(Outcome::Redriven),
            Err(Error::AlreadySettled { .. }) => Ok(Outcome::Taken),
            Err(error @ Error::TopicNotFound(_)) => {
                Ok(Outcome::skipped("TOPIC_NOT_FOUND", error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// Where a message goes, and as what; or why it does not go.
    async fn destination(
        &self,
        letter: &Letter,
        message: Envelope,
    ) -> Result<std::result::Result<(Name, Envelope), Outcome>> {
        if let Some(target) = &self.target {
            let limit = target.settings.max_message_bytes;
            if message.len() > limit as usize {
                let why =
                    format!("it is {} bytes encoded; topic {} takes {limit}", message.len(), target.name);
                return Ok(Err(Outcome::skipped("MESSAGE_TOO_LARGE", why)));
            }
            return Ok(Ok((target.name.clone(), message)));
        }
        let (topic, name) = (&letter.about.topic, &letter.about.subscription);
        match self.letters.engine.topic(topic).await {
            Ok(_) => {}
            Err(error @ Error::TopicNotFound(_)) => {
                return Ok(Err(Outcome::skipped("TOPIC_NOT_FOUND", error.to_string())));
            }
            Err(error) => return Err(error),
        }
        match self.letters.engine.subscription(name).await {
            Ok(found) if found.settings.topic.matches(topic) => {
                Ok(Ok((topic.clone(), only_for(&message, name))))
            }
            Ok(found) => {
                let why =
                    format!("subscription {name} reads {} now; give a target topic", found.settings.topic);
                Ok(Err(Outcome::skipped("SUBSCRIPTION_NOT_FOUND", why)))
            }
            Err(Error::SubscriptionNotFound(_)) => {
                let why =
                    format!("subscription {name} does not exist any more; give a target topic, or purge it");
                Ok(Err(Outcome::skipped("SUBSCRIPTION_NOT_FOUND", why)))
            }
            Err(error) => Err(error),
        }
    }
}

/// Lets so many through in a second, evenly.
struct Pace {
    next: Instant,
    step: Duration,
}

impl Pace {
    /// At this rate; 0 for no limit.
    fn new(per_second: u32, now: Instant) -> Self {
        let step = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { next: now, step }
    }

    /// When the next turn is. Time that was not used is not made up for by a burst.
    fn turn(&mut self, now: Instant) -> Instant {
        let turn = self.next.max(now);
        self.next = turn + self.step;
        turn
    }

    /// Waits for the next turn; `false` if the server stops first.
    async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let now = Instant::now();
        let turn = self.turn(now);
        (turn <= now || stop.run_until_cancelled(sleep_until(turn)).await.is_some()) && !stop.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_without_bursts() {
        let start = Instant::now();
        let mut pace = Pace::new(10, start);
        let tenths = |number: u64| start + Duration::from_millis(100 * number);
        for number in 0..20 {
            assert_eq!(pace.turn(start), tenths(number), "whoever comes early waits");
        }
        assert_eq!(pace.turn(tenths(60)), tenths(60), "whoever comes late need not");
        assert_eq!(pace.turn(tenths(60)), tenths(61));
        let mut free = Pace::new(0, start);
        assert!((0..20).all(|_| free.turn(start) == start));
    }
}
