//! `columba explain`.

use std::fmt::Write as _;

use serde::Serialize;

use super::context::Context;
use super::error::Error;
use super::message::printable;
use super::output::{self, rfc3339};
use crate::proto::admin::admin_service_client::AdminServiceClient;
use crate::proto::admin::{
    ExplainMessageRequest, ExplainMessageResponse, MessageEvent, MessageEventKind as Kind, MessageJourney,
    MessageState as State,
};

/// Tell what became of a message: who got it, when, and how that ended
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  columba explain orders.created 42")]
pub(super) struct ExplainArgs {
    /// The message's topic
    topic: String,
    /// Its offset there
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    offset: u64,
}

pub(super) async fn run(args: ExplainArgs, context: &Context) -> Result<(), Error> {
    let mut client = AdminServiceClient::new(context.connect().await?);
    let request = ExplainMessageRequest { topic: args.topic, offset: args.offset };
    let story = client.explain_message(context.request(request)).await?.into_inner();
    let text = text(&story);
    Ok(context.format.sentence(&Story::from(story), text.trim_end())?)
}

/// The story for people.
fn text(story: &ExplainMessageResponse) -> String {
    let mut text = format!(
        "message {} of topic {}\npublished {}, {}",
        story.offset,
        story.topic,
        rfc3339(story.publish_time.as_ref()).unwrap_or_default(),
        output::size(story.size_bytes),
    );
    if !story.key.is_empty() {
        let _ = write!(text, ", key {}", printable(story.key.as_bytes()));
    }
    if !story.only_for.is_empty() {
        let _ = write!(text, "\nredriven, for subscription {} only", story.only_for);
    }
    if story.journeys.is_empty() {
        text.push_str("\nno subscription reads this topic");
    }
    for journey in &story.journeys {
        let _ = write!(text, "\n\n{}: {}", journey.subscription, standing(journey));
        for event in &journey.events {
            let time = rfc3339(event.time.as_ref()).unwrap_or_default();
            let _ = write!(text, "\n  {time}  {}", happening(event));
        }
    }
    if !story.history {
        text.push_str("\n\nthis server's engine does not remember what happened");
    }
    text
}

/// Where a message is, as people say it.
fn standing(journey: &MessageJourney) -> String {
    let until = rfc3339(journey.until.as_ref()).unwrap_or_default();
    let attempts = match journey.attempts {
        0 => String::new(),
        attempts => format!(", attempt {attempts}"),
    };
    match journey.state() {
        State::Unspecified => "in a state that this program does not know".into(),
        State::NotReached if journey.attempts > 0 => {
            format!("to be handed out again; handed out {} times before the server started", journey.attempts)
        }
        State::NotReached => "not handed out yet".into(),
        State::InFlight if journey.consumer.is_empty() => {
            format!("pulled{attempts}, to be settled by {until}")
        }
        State::InFlight => format!("with consumer {}{attempts}, to be settled by {until}", journey.consumer),
        State::Waiting => format!("waits to be handed out again, from {until} on"),
        State::GivenUp => "given up, on its way to the dead letters".into(),
        State::Settled => "settled".into(),
        State::DeadLettered if journey.dead_letter_topic.is_empty() => "given up and dropped".into(),
        State::DeadLettered => {
            format!(
                "given up; its dead letter is {} of topic {}",
                journey.dead_letter_offset, journey.dead_letter_topic
            )
        }
        State::Skipped => "passed over: it is for another subscription".into(),
    }
}

/// What happened, as people say it.
fn happening(event: &MessageEvent) -> String {
    match event.kind() {
        Kind::Unspecified => "something that this program does not know".into(),
        Kind::Delivered if event.consumer.is_empty() => format!("pulled, attempt {}", event.attempt),
        Kind::Delivered => format!("delivered to {}, attempt {}", event.consumer, event.attempt),
        Kind::Acked => "acknowledged".into(),
        Kind::Nacked if event.reason.is_empty() => "nacked".into(),
        Kind::Nacked => format!("nacked: {}", printable(event.reason.as_bytes())),
        Kind::Extended => "its deadline was moved".into(),
        Kind::DeadlinePassed => "its deadline passed".into(),
        Kind::ConsumerLeft => "its consumer left".into(),
        Kind::DeadLettered => "went to the dead letters".into(),
        Kind::Dropped => "dropped".into(),
        Kind::Skipped => "passed over".into(),
    }
}

/// The story for programs.
#[derive(Serialize)]
struct Story {
    topic: String,
    offset: u64,
    publish_time: Option<String>,
    size_bytes: u64,
    key: String,
    only_for: String,
    history: bool,
    journeys: Vec<Journey>,
}

#[derive(Serialize)]
struct Journey {
    subscription: String,
    state: String,
    attempts: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    consumer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    dead_letter_topic: String,
    #[serde(skip_serializing_if = "output::is_zero")]
    dead_letter_offset: u64,
    events: Vec<Happened>,
}

#[derive(Serialize)]
struct Happened {
    time: Option<String>,
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    consumer: String,
    #[serde(skip_serializing_if = "output::is_zero")]
    attempt: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// An enum's value in small letters, without the enum's name.
fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_ascii_lowercase()
}

impl From<ExplainMessageResponse> for Story {
    fn from(story: ExplainMessageResponse) -> Self {
        Self {
            topic: story.topic,
            offset: story.offset,
            publish_time: rfc3339(story.publish_time.as_ref()),
            size_bytes: story.size_bytes,
            key: story.key,
            only_for: story.only_for,
            history: story.history,
            journeys: story.journeys.into_iter().map(Journey::from).collect(),
        }
    }
}

impl From<MessageJourney> for Journey {
    fn from(journey: MessageJourney) -> Self {
        Self {
            state: word(journey.state().as_str_name(), "MESSAGE_STATE_"),
            until: rfc3339(journey.until.as_ref()),
            subscription: journey.subscription,
            attempts: journey.attempts,
            consumer: journey.consumer,
            dead_letter_topic: journey.dead_letter_topic,
            dead_letter_offset: journey.dead_letter_offset,
            events: journey.events.into_iter().map(Happened::from).collect(),
        }
    }
}

impl From<MessageEvent> for Happened {
    fn from(event: MessageEvent) -> Self {
        Self {
            time: rfc3339(event.time.as_ref()),
            kind: word(event.kind().as_str_name(), "MESSAGE_EVENT_KIND_"),
            consumer: event.consumer,
            attempt: event.attempt.into(),
            reason: event.reason,
        }
    }
}
