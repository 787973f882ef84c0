//! Checks of what senders and handlers of commands say.

use bytes::Bytes;

use crate::api::validate::Violations;
use crate::api::wire::v1;
use crate::api::wire::v1::complete_command_request::Outcome;
use crate::api::{envelope, handled};
use crate::cqrs::commands::{Command, Completion, Ending, Failure, Listing, State};
use crate::model::limits::{
    DEFAULT_COMMAND_TIMEOUT, MAX_COMMAND_ID_BYTES, MAX_COMMAND_PAYLOAD_BYTES, MAX_COMMAND_RESULT_BYTES,
    MAX_COMMAND_TIMEOUT, MAX_COMPLETION_EVENT_BYTES, MAX_COMPLETION_TOPICS, MAX_FAILURE_CODE_BYTES,
    MAX_FAILURE_MESSAGE_BYTES, MAX_KEY_BYTES, MAX_MESSAGE_LABEL_BYTES, MAX_PUBLISH_MESSAGES,
    MIN_COMMAND_TIMEOUT,
};
use crate::model::{Envelope, Name};

/// What to publish with an outcome, by topic.
type Events = Vec<(Name, Vec<Envelope>)>;

/// A command as a sender gives it.
pub(super) fn command(violations: &mut Violations, command: v1::Command) -> Option<Command> {
    let before = violations.count;
    if command.id.chars().any(char::is_control) {
        violations.add("id", "INVALID_ID", "has a control character; use printable text");
    }
    violations.text("id", &command.id, MAX_COMMAND_ID_BYTES);
    let kind = violations.name("type", &command.r#type);
    violations.text("key", &command.key, MAX_KEY_BYTES);
    handled::size(violations, "payload", command.payload.len(), MAX_COMMAND_PAYLOAD_BYTES);
    violations.text("content_type", &command.content_type, MAX_MESSAGE_LABEL_BYTES);
    violations.text("correlation_id", &command.correlation_id, MAX_MESSAGE_LABEL_BYTES);
    violations.text("causation_id", &command.causation_id, MAX_MESSAGE_LABEL_BYTES);
    let timeout = match command.timeout {
        None => Some(DEFAULT_COMMAND_TIMEOUT),
        Some(span) => violations.duration("timeout", span, MIN_COMMAND_TIMEOUT..=MAX_COMMAND_TIMEOUT),
    };
    let attributes = handled::attributes(violations, command.attributes);
    let (kind, timeout, attributes) = (kind?, timeout?, attributes?);
    (violations.count == before).then_some(Command {
        id: command.id,
        kind,
        key: command.key,
        payload: command.payload,
        content_type: command.content_type,
        attributes,
        timeout,
        correlation_id: command.correlation_id,
        causation_id: command.causation_id,
    })
}

/// What a handler says of a command.
pub(super) fn completion(
    violations: &mut Violations,
    request: v1::CompleteCommandRequest,
) -> Option<(Bytes, Completion, Events)> {
    let v1::CompleteCommandRequest { ack_id, outcome, events } = request;
    if ack_id.is_empty() {
        violations.add("ack_id", "REQUIRED", "is required; give the ack_id of a delivery");
    }
    let completion = match outcome {
        Some(Outcome::Result(result)) => {
            handled::size(violations, "result", result.len(), MAX_COMMAND_RESULT_BYTES);
            Some(Completion::Result(result))
        }
        Some(Outcome::Failure(failure)) => {
            violations.within("failure.", |violations| self::failure(violations, failure))
        }
        None => violations.refuse("outcome", "REQUIRED", "is required; set `result` or `failure`"),
    };
    let is_retried = matches!(&completion, Some(Completion::Failure(failure)) if failure.retryable);
    if is_retried && !events.is_empty() {
        let description = "are given with a failure that is retried; leave them to the attempt that ends it";
        violations.add("events", "CONTRADICTION", description);
    }
    let events = self::events(violations, events);
    Some((ack_id, completion?, events?))
}

fn failure(violations: &mut Violations, failure: v1::CommandFailure) -> Option<Completion> {
    let v1::CommandFailure { code, message, retryable } = failure;
    if code.is_empty() {
        violations.add("code", "REQUIRED", "is required; say why in a word, such as OUT_OF_STOCK");
    }
    let short = violations.text("code", &code, MAX_FAILURE_CODE_BYTES);
    violations.text("message", &message, MAX_FAILURE_MESSAGE_BYTES);
    short.map(|()| Completion::Failure(Failure { code, message, retryable }))
}

fn events(violations: &mut Violations, events: Vec<v1::CommandEvents>) -> Option<Events> {
    if events.len() > MAX_COMPLETION_TOPICS {
        let description =
            format!("has {} entries; at most {MAX_COMPLETION_TOPICS} are allowed", events.len());
        return violations.refuse("events", "TOO_MANY_EVENTS", description);
    }
    let messages: usize = events.iter().map(|events| events.messages.len()).sum();
    if messages > MAX_PUBLISH_MESSAGES {
        let description =
            format!("have {messages} messages in all; at most {MAX_PUBLISH_MESSAGES} are allowed");
        return violations.refuse("events", "TOO_MANY_EVENTS", description);
    }
    let bytes: usize = events.iter().flat_map(|events| &events.messages).map(Bytes::len).sum();
    if bytes > MAX_COMPLETION_EVENT_BYTES {
        let description = format!("have {bytes} bytes; at most {MAX_COMPLETION_EVENT_BYTES} are allowed");
        violations.add("events", "TOO_MANY_BYTES", description);
    }
    let read = events.into_iter().enumerate().map(|(at, events)| {
        violations.within(&format!("events[{at}]."), |violations| {
            let topic = violations.name("topic", &events.topic);
            if events.messages.is_empty() {
                violations.add("messages", "REQUIRED", "is empty; give at least one message");
            }
            for (index, message) in events.messages.iter().enumerate() {
                envelope::check(violations, index, message);
            }
            Some((topic?, events.messages.into_iter().map(Envelope).collect()))
        })
    });
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

/// Which executions to list, without paging and state.
pub(super) fn listing(violations: &mut Violations, request: &v1::ListCommandsRequest) -> Option<Listing> {
    let before = violations.count;
    let kind = violations.optional_name("type", &request.r#type);
    violations.text("key", &request.key, MAX_KEY_BYTES);
    let since = request.since.and_then(|time| violations.timestamp("since", time));
    let until = request.until.and_then(|time| violations.timestamp("until", time));
    let key = (!request.key.is_empty()).then(|| request.key.clone());
    (violations.count == before).then(|| Listing { kind, key, since, until, ..Listing::default() })
}

/// What a page token goes with.
pub(super) fn query(request: &v1::ListCommandsRequest) -> [String; 6] {
    let time = |time: Option<prost_types::Timestamp>| format!("{time:?}");
    let (kind, key) = (request.r#type.clone(), request.key.clone());
    ["commands".into(), kind, key, request.state.to_string(), time(request.since), time(request.until)]
}

/// A state to list; `None` inside for any.
#[expect(clippy::option_option, reason = "a bad state, any state, or one")]
pub(super) fn state(violations: &mut Violations, value: i32) -> Option<Option<State>> {
    let state = match v1::CommandState::try_from(value) {
        Ok(v1::CommandState::Unspecified) => None,
        Ok(v1::CommandState::Pending) => Some(State::Pending),
        Ok(v1::CommandState::Running) => Some(State::Running),
        Ok(v1::CommandState::Succeeded) => Some(State::Ended(Ending::Succeeded)),
        Ok(v1::CommandState::Failed) => Some(State::Ended(Ending::Failed)),
        Ok(v1::CommandState::Cancelled) => Some(State::Ended(Ending::Cancelled)),
        Ok(v1::CommandState::Expired) => Some(State::Ended(Ending::Expired)),
        Err(_) => {
            let description =
                format!("is {value}, which is not known; use COMMAND_STATE_PENDING (1) to EXPIRED (6)");
            return violations.refuse("state", "UNKNOWN_ENUM_VALUE", description);
        }
    };
    Some(state)
}
