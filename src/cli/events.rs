//! `columba events`.

use serde_json::{Value, json};

use super::context::Context;
use super::error::Error;
use super::message::printable;
use super::output::{self, rfc3339};
use super::signals;
use crate::proto::admin::admin_service_client::AdminServiceClient;
use crate::proto::admin::watch_events_response::Event;
use crate::proto::admin::{WatchEventsRequest, WatchEventsResponse};

/// Print what an operator should hear of, as it happens, until Ctrl-C: messages given up, slow consumers,
/// damage, lost messages, and a full disk
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  columba events -o json")]
pub(super) struct EventsArgs {}

pub(super) async fn run(_args: EventsArgs, context: &Context) -> Result<(), Error> {
    let stop = signals::stop()?;
    let mut client = AdminServiceClient::new(context.connect().await?);
    let opening = tokio::time::timeout(context.timeout, client.watch_events(WatchEventsRequest {}));
    let opened =
        opening.await.map_err(|_| Error::Lost("the server did not open the stream in time".into()))?;
    let mut events = opened?.into_inner();
    eprintln!("watching; Ctrl-C ends");
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = events.message() => event?,
        };
        let Some(response) = event else { return Err(Error::Lost("the server ended the stream".into())) };
        if let Some((text, value)) = shown(response) {
            context.format.sentence(&value, &text)?;
        }
    }
}

/// An event for people and for programs; nothing of a heartbeat.
fn shown(response: WatchEventsResponse) -> Option<(String, Value)> {
    let time = rfc3339(response.time.as_ref()).unwrap_or_default();
    let (text, name, fields) = sentence(response.event?)?;
    let mut value = json!({ "time": time, "event": name });
    if let (Value::Object(all), Value::Object(fields)) = (&mut value, fields) {
        all.extend(fields);
    }
    Some((format!("{time}  {text}"), value))
}

/// What happened, in words, by name, and in values.
fn sentence(event: Event) -> Option<(String, &'static str, Value)> {
    Some(match event {
        Event::MessageGivenUp(it) => {
            let letter = match &*it.dead_letter_topic {
                "" => "dropped".to_owned(),
                topic => format!("dead letter {} of {topic}", it.dead_letter_offset),
            };
            let text = format!(
                "{} gave up message {} of {} after {} attempts: {}; {letter}",
                it.subscription,
                it.offset,
                it.topic,
                it.attempts,
                printable(it.reason.as_bytes()),
            );
            let fields = json!({
                "subscription": it.subscription, "topic": it.topic, "offset": it.offset, "attempts": it.attempts,
                "reason": it.reason, "dead_letter_topic": it.dead_letter_topic,
                "dead_letter_offset": it.dead_letter_offset,
            });
            (text, "message_given_up", fields)
        }
        Event::SlowConsumer(it) => {
            let text = format!(
                "consumer {} {} of {} is slow: it holds {} messages, and settles none",
                it.consumer_id,
                printable(it.consumer.as_bytes()),
                it.subscription,
                it.outstanding_messages,
            );
            let fields = json!({
                "subscription": it.subscription, "consumer_id": it.consumer_id, "consumer": it.consumer,
                "outstanding_messages": it.outstanding_messages,
            });
            (text, "slow_consumer", fields)
        }
        Event::DataDamaged(it) => {
            let text =
                format!("messages {} to {} of {} are damaged", it.first_offset, it.last_offset, it.topic);
            let fields =
                json!({ "topic": it.topic, "first_offset": it.first_offset, "last_offset": it.last_offset });
            (text, "data_damaged", fields)
        }
        Event::RetentionLoss(it) => {
            let text = format!(
                "{} lost messages {} to {} of {} to retention",
                it.subscription, it.first_offset, it.last_offset, it.topic
            );
            let fields = json!({
                "subscription": it.subscription, "topic": it.topic, "first_offset": it.first_offset,
                "last_offset": it.last_offset,
            });
            (text, "retention_loss", fields)
        }
        Event::DiskLow(it) => {
            let (free, reserve) = (output::size(it.available_bytes), output::size(it.reserve_bytes));
            let text = format!("the disk is full: {free} are free, {reserve} are kept in reserve");
            let fields = json!({ "available_bytes": it.available_bytes, "reserve_bytes": it.reserve_bytes });
            (text, "disk_low", fields)
        }
        Event::DiskOk(_) => ("there is space on the disk again".to_owned(), "disk_ok", json!({})),
        Event::EventsMissed(it) => {
            (format!("{} events were missed", it.count), "events_missed", json!({ "count": it.count }))
        }
        Event::Heartbeat(_) => return None,
    })
}
