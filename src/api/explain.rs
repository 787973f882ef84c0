//! What became of a message, as a wire message.

use super::convert::timestamp;
use super::watch::letter_place;
use super::wire::admin::{self, MessageEventKind as Kind, MessageState as State};
use crate::model::{Explanation, Happening, Journey, Moment, Standing};

/// `history` says whether the engine keeps one.
pub(super) fn explanation(explanation: Explanation, history: bool) -> admin::ExplainMessageResponse {
    let Explanation { message, journeys } = explanation;
    let header = message.envelope.header();
    admin::ExplainMessageResponse {
        topic: message.topic.to_string(),
        offset: message.offset,
        publish_time: Some(timestamp(message.publish_time)),
        size_bytes: message.envelope.len() as u64,
        key: header.key.to_owned(),
        only_for: header.only_for.to_owned(),
        journeys: journeys.into_iter().map(journey).collect(),
        history,
    }
}

fn journey(Journey { subscription, standing, attempts, history }: Journey) -> admin::MessageJourney {
    let mut journey = admin::MessageJourney {
        subscription: subscription.to_string(),
        attempts,
        events: history.into_iter().map(event).collect(),
        ..Default::default()
    };
    let state = match standing {
        Standing::NotReached => State::NotReached,
        Standing::InFlight { consumer, deadline } => {
            journey.consumer = consumer.unwrap_or_default();
            journey.until = Some(timestamp(deadline));
            State::InFlight
        }
        Standing::Waiting { until } => {
            journey.until = Some(timestamp(until));
            State::Waiting
        }
        Standing::GivenUp => State::GivenUp,
        Standing::Settled => State::Settled,
        Standing::Buried { letter } => {
            (journey.dead_letter_topic, journey.dead_letter_offset) = letter_place(letter);
            State::DeadLettered
        }
        Standing::Skipped => State::Skipped,
    };
    journey.set_state(state);
    journey
}

fn event(Moment { time, what }: Moment) -> admin::MessageEvent {
    let mut event = admin::MessageEvent { time: Some(timestamp(time)), ..Default::default() };
    let kind = match what {
        Happening::Delivered { consumer, attempt } => {
            event.consumer = consumer.map(|id| id.to_string()).unwrap_or_default();
            event.attempt = attempt;
            Kind::Delivered
        }
        Happening::Acked => Kind::Acked,
        Happening::Nacked { reason } => {
            event.reason = reason.to_string();
            Kind::Nacked
        }
        Happening::Extended => Kind::Extended,
        Happening::DeadlinePassed => Kind::DeadlinePassed,
        Happening::ConsumerLeft => Kind::ConsumerLeft,
        Happening::DeadLettered { .. } => Kind::DeadLettered,
        Happening::Dropped => Kind::Dropped,
        Happening::Skipped => Kind::Skipped,
    };
    event.set_kind(kind);
    event
}
