//! Errors as callers see them. The only place that makes a [`Status`] or chooses a gRPC code.
//!
//! Every error carries `google.rpc.ErrorInfo`, and the other details of `google.rpc` where one fits.
//! Details travel in HTTP headers, which many proxies cap at 8 KiB, so texts and lists are clipped.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::validate::{Violation, Violations};
use crate::authorization::Denied;
use crate::cqrs::commands;
use crate::cqrs::queries;
use crate::cqrs::views;
use crate::engine;
use crate::identity;
use crate::model::Kind;

const DOMAIN: &str = "columba";
/// Longest message of a status, in bytes.
const MAX_MESSAGE_BYTES: usize = 512;
/// Most violations listed. With the lengths below and the message, the details stay under 5 KiB
/// once they are encoded as base64.
const MAX_VIOLATIONS: usize = 8;
const MAX_FIELD_BYTES: usize = 100;
const MAX_DESCRIPTION_BYTES: usize = 200;

/// Why a request was refused, before it becomes a [`Status`] or an answer on a stream. Boxed, since
/// it is large and rare.
#[derive(Debug)]
pub(super) struct Refusal(Box<Reasons>);

#[derive(Debug)]
struct Reasons {
    kind: Kind,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
    detail: Detail,
}

/// The standard detail that fits a refusal, beside `ErrorInfo` and `RetryInfo`.
#[derive(Debug)]
enum Detail {
    None,
    BadRequest(Vec<FieldViolation>),
    Resource { kind: &'static str, name: String },
    Precondition { subject: String },
    Quota { subject: String },
}

/// The one mapping from kinds of errors to gRPC codes.
fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::Conflict => Code::Aborted,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::DataLoss => Code::DataLoss,
        Kind::Unavailable => Code::Unavailable,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
    }
}

impl Refusal {
    fn new(kind: Kind, reason: &'static str, message: impl Into<String>) -> Self {
        let (metadata, retry_after, detail) = (HashMap::new(), None, Detail::None);
        Self(Box::new(Reasons { kind, reason, message: message.into(), metadata, retry_after, detail }))
    }

    /// One bad field.
    pub(super) fn field(field: &str, reason: &'static str, description: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.add(field, reason, description);
        violations.into()
    }

    /// Dead letters are asked for of a subscription that has no place for them.
    pub(super) fn no_dead_letter_topic(subscription: &crate::model::Name) -> Self {
        let message = format!(
            "subscription {subscription} has no dead-letter topic; set one with UpdateSubscription, or select \
             the letters by `topic`"
        );
        let mut refusal = Self::new(Kind::FailedPrecondition, "NO_DEAD_LETTER_TOPIC", message);
        refusal.0.detail = Detail::Precondition { subject: format!("subscription/{subscription}") };
        refusal
    }

    /// The server is shutting down.
    pub(super) fn shutting_down() -> Self {
        engine::Error::Closed.into()
    }

    /// The number of the gRPC code.
    pub(super) fn code(&self) -> i32 {
        code(self.0.kind) as i32
    }

    /// The reason as in `ErrorInfo`.
    pub(super) fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The values as in `ErrorInfo`.
    pub(super) fn metadata(&self) -> &HashMap<String, String> {
        &self.0.metadata
    }

    /// The text for people, clipped.
    pub(super) fn message(&self) -> String {
        clip(&self.0.message, MAX_MESSAGE_BYTES)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.message();
        let refusal = *refusal.0;
        let mut details = ErrorDetails::with_error_info(refusal.reason, DOMAIN, refusal.metadata);
        if refusal.retry_after.is_some() {
            details.set_retry_info(refusal.retry_after);
        }
        match refusal.detail {
            Detail::None => {}
            Detail::BadRequest(violations) => _ = details.set_bad_request(violations),
            Detail::Resource { kind, name } => _ = details.set_resource_info(kind, name, "", &message),
            Detail::Precondition { subject } => {
                details.add_precondition_failure_violation(refusal.reason, subject, &message);
            }
            Detail::Quota { subject } => _ = details.add_quota_failure_violation(subject, &message),
        }
        Status::with_error_details(code(refusal.kind), message, details)
    }
}

impl From<commands::Error> for Status {
    fn from(error: commands::Error) -> Self {
        Refusal::from(error).into()
    }
}

impl From<commands::Error> for Refusal {
    fn from(error: commands::Error) -> Self {
        use commands::Error as E;
        let (kind, reason, message) = (error.kind(), error.reason(), error.to_string());
        let retry_after = error.retry_after();
        let resource =
            |kind, name: String| (Detail::Resource { kind, name: name.clone() }, vec![(kind, name)]);
        let (detail, metadata) = match error {
            E::Engine(error) => return error.into(),
            E::TypeNotFound(name) => resource("command_type", name.to_string()),
            E::NotFound(id) | E::Exists { id, .. } => resource("command", id),
            E::HandlerNotFound(id) => resource("handler", id),
            E::Ended { id, state } => {
                let detail = Detail::Precondition { subject: format!("command/{id}") };
                (detail, vec![("command", id), ("state", state.to_owned())])
            }
            E::LeaseLost(id) => {
                (Detail::Precondition { subject: format!("command/{id}") }, vec![("command", id)])
            }
            E::TypeFull(name) => {
                (Detail::Quota { subject: "commands".into() }, vec![("command_type", name.to_string())])
            }
            E::Full | E::TooManyTypes | E::TooManyHandlers(_) => {
                (Detail::Quota { subject: "commands".into() }, Vec::new())
            }
            E::UnknownAck => {
                return Self::new(kind, reason, message);
            }
            E::Event { index, cause } => {
                let (detail, mut metadata) = engine_detail(&cause);
                metadata.push(("event", index.to_string()));
                (detail, metadata)
            }
            E::Store(_) => (Detail::None, Vec::new()),
        };
        let mut refusal = Self::new(kind, reason, message);
        refusal.0.metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        refusal.0.retry_after = retry_after;
        refusal.0.detail = detail;
        refusal
    }
}

impl From<engine::Error> for Status {
    fn from(error: engine::Error) -> Self {
        Refusal::from(error).into()
    }
}

impl From<engine::Error> for Refusal {
    fn from(error: engine::Error) -> Self {
        let (detail, metadata) = engine_detail(&error);
        let mut refusal = Self::new(error.kind(), error.reason(), error.to_string());
        refusal.0.metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        refusal.0.retry_after = error.retry_after();
        refusal.0.detail = detail;
        refusal
    }
}

impl From<views::Error> for Status {
    fn from(error: views::Error) -> Self {
        Refusal::from(error).into()
    }
}

impl From<views::Error> for Refusal {
    fn from(error: views::Error) -> Self {
        use views::Error as E;
        let mut refusal = Self::new(error.kind(), error.reason(), error.to_string());
        refusal.0.retry_after = error.retry_after();
        let mut metadata = Vec::new();
        match error {
            E::Engine(error) => return error.into(),
            E::BucketNotFound(name) | E::BucketExists(name) => {
                refusal.0.detail = Detail::Resource { kind: "bucket", name: name.to_string() };
                metadata.push(("bucket", name.to_string()));
            }
            E::BucketDeleted(name) | E::KeyNotTracked(name) => {
                refusal.0.detail = Detail::Precondition { subject: format!("bucket/{name}") };
                metadata.push(("bucket", name.to_string()));
            }
            E::EntryNotFound { bucket, key } => {
                refusal.0.detail = Detail::Resource { kind: "entry", name: key };
                metadata.push(("bucket", bucket.to_string()));
            }
            E::Conflict { bucket, actual, index, .. } => {
                refusal.0.detail = Detail::Precondition { subject: format!("bucket/{bucket}") };
                metadata.extend([("revision", actual.to_string()), ("index", index.to_string())]);
            }
            E::FutureRevision { bucket, position, .. } => {
                metadata.extend([("bucket", bucket.to_string()), ("revision", position.to_string())]);
            }
            E::TooManyBuckets => refusal.0.detail = Detail::Quota { subject: "buckets".into() },
            E::TooManyWatches => refusal.0.detail = Detail::Quota { subject: "watches".into() },
            E::Store(_) | E::NotReady { .. } => {}
        }
        refusal.0.metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        refusal
    }
}

/// The standard detail for an engine's error, and its values for programs.
#[expect(clippy::too_many_lines, reason = "one match from errors to details; a case is a few lines")]
fn engine_detail(error: &engine::Error) -> (Detail, Vec<(&'static str, String)>) {
    use engine::Error as E;
    let resource = |kind, name: &crate::model::Name| {
        (Detail::Resource { kind, name: name.to_string() }, vec![(kind, name.to_string())])
    };
    let precondition = |kind, name: &crate::model::Name| {
        (Detail::Precondition { subject: format!("{kind}/{name}") }, vec![(kind, name.to_string())])
    };
    match error {
        E::TopicNotFound(name) | E::TopicExists(name) => resource("topic", name),
        E::SubscriptionNotFound(name) | E::SubscriptionExists(name) => resource("subscription", name),
        E::TopicInUse { topic, .. } => precondition("topic", topic),
        E::TopicDeleted(name) => precondition("topic", name),
        E::SubscriptionDeleted(name) | E::Held(name) | E::Paused(name) => precondition("subscription", name),
        E::UnreadableFilter { subscription, .. } => precondition("subscription", subscription),
        E::Unsupported { engine, .. } => {
            (Detail::Precondition { subject: format!("engine/{engine}") }, vec![("engine", (*engine).into())])
        }
        E::Changed { name, actual, .. } => {
            let detail = Detail::Resource { kind: "etag", name: name.to_string() };
            (detail, vec![("name", name.to_string()), ("etag", format!("{actual:x}"))])
        }
        E::Moved { topic, actual, .. } => {
            let (detail, mut metadata) = precondition("topic", topic);
            metadata.push(("last_offset", actual.to_string()));
            (detail, metadata)
        }
        E::KeyMoved { topic, actual, .. } => {
            let (detail, mut metadata) = precondition("topic", topic);
            metadata.push(("last_key_offset", actual.to_string()));
            (detail, metadata)
        }
        E::NoKeyIndex(topic) | E::KeyNotIndexed(topic) => precondition("topic", topic),
        E::AckRefused { subscription, index, .. } => {
            let (detail, mut metadata) = precondition("subscription", subscription);
            metadata.push(("ack_id_index", index.to_string()));
            (detail, metadata)
        }
        E::InCommit { index, cause } => {
            let (mut detail, mut metadata) = engine_detail(cause);
            if let Detail::BadRequest(violations) = &mut detail {
                for violation in violations {
                    violation.field = format!("operations[{index}].publish.{}", violation.field);
                }
            }
            metadata.push(("operation", index.to_string()));
            (detail, metadata)
        }
        E::MessageTooLarge { index, limit, .. } => {
            let violation = Violation {
                field: format!("messages[{index}]"),
                reason: error.reason(),
                description: error.to_string(),
            };
            (Detail::BadRequest(vec![violation.into()]), vec![("limit", limit.to_string())])
        }
        E::BeyondEnd { topic, last, .. } => {
            let violation = Violation {
                field: "position.offset".into(),
                reason: error.reason(),
                description: error.to_string(),
            };
            let metadata = vec![("topic", topic.to_string()), ("last_offset", last.to_string())];
            (Detail::BadRequest(vec![violation.into()]), metadata)
        }
        E::KeyRequired { topic, index } => {
            let violation = Violation {
                field: format!("messages[{index}].key"),
                reason: error.reason(),
                description: error.to_string(),
            };
            (Detail::BadRequest(vec![violation.into()]), vec![("topic", topic.to_string())])
        }
        E::PatternOffset(pattern) => {
            let violation = Violation {
                field: "position.offset".into(),
                reason: error.reason(),
                description: error.to_string(),
            };
            (Detail::BadRequest(vec![violation.into()]), vec![("pattern", pattern.to_string())])
        }
        E::PatternFull { pattern, .. } => {
            (Detail::Quota { subject: "topics of a pattern".into() }, vec![("pattern", pattern.to_string())])
        }
        E::DeadLetterLoop(topic) | E::DeadLetterCompacted(topic) => {
            let violation = Violation {
                field: "subscription.retry.dead_letter_topic".into(),
                reason: error.reason(),
                description: error.to_string(),
            };
            (Detail::BadRequest(vec![violation.into()]), vec![("topic", topic.to_string())])
        }
        E::Contradiction { topic, .. } => {
            let violation =
                Violation { field: "topic".into(), reason: error.reason(), description: error.to_string() };
            (Detail::BadRequest(vec![violation.into()]), vec![("topic", topic.to_string())])
        }
        E::NoSuchMessage { topic, offset, last } => {
            let detail = Detail::Resource { kind: "message", name: format!("{topic}/{offset}") };
            (detail, vec![("topic", topic.to_string()), ("last_offset", last.to_string())])
        }
        E::AlreadySettled { subscription, .. } => precondition("subscription", subscription),
        E::WatcherTooSlow { missed } => {
            (Detail::Quota { subject: "watcher".into() }, vec![("missed", missed.to_string())])
        }
        E::TooMany { what, limit } => {
            (Detail::Quota { subject: (*what).into() }, vec![("limit", limit.to_string())])
        }
        E::DiskFull { available, reserve } => (
            Detail::Quota { subject: "disk".into() },
            vec![("available_bytes", available.to_string()), ("reserve_bytes", reserve.to_string())],
        ),
        E::Damaged { topic, first, last } => {
            let (detail, mut metadata) = resource("topic", topic);
            metadata.extend([("first_offset", first.to_string()), ("last_offset", last.to_string())]);
            (detail, metadata)
        }
        E::Unreadable { topic, offset, .. } => {
            let (_, mut metadata) = resource("topic", topic);
            metadata.push(("offset", offset.to_string()));
            (Detail::None, metadata)
        }
        E::Overloaded { .. } | E::Disk { .. } | E::Closed | E::Failed(_) => (Detail::None, Vec::new()),
    }
}

impl From<queries::Error> for Refusal {
    fn from(error: queries::Error) -> Self {
        use queries::Error as E;
        let mut refusal = Self::new(error.kind(), error.reason(), error.to_string());
        refusal.0.retry_after = error.retry_after();
        let of = |kind: &crate::model::Name| format!("query-type/{kind}");
        let (detail, metadata) = match &error {
            E::NoHandler(kind) | E::HandlerLost(kind) | E::HandlersLost(kind) | E::TimedOut { kind, .. } => {
                (Detail::None, vec![("type", kind.to_string())])
            }
            E::NoRevision(kind) => {
                (Detail::Precondition { subject: of(kind) }, vec![("type", kind.to_string())])
            }
            E::TooManyWaiting(kind) | E::TooManyHandlersOf(kind) => {
                (Detail::Quota { subject: of(kind) }, vec![("type", kind.to_string())])
            }
            E::TooManyQueries
            | E::TooManyBytes
            | E::TooManyHandlers(_)
            | E::TooManyWatchers
            | E::TooManyWatchedBytes
            | E::ReadTooSlowly => (Detail::Quota { subject: "server".into() }, Vec::new()),
            E::RevisionNotReached { wanted, seen, .. } => {
                let metadata = vec![("min_revision", wanted.to_string()), ("revision", seen.to_string())];
                (Detail::None, metadata)
            }
            E::Failed(failure) => {
                let metadata = vec![
                    ("failure_code", failure.code.clone()),
                    ("handler", failure.handler.to_string()),
                    ("retryable", failure.retryable.to_string()),
                ];
                (Detail::None, metadata)
            }
            E::UnknownQuery | E::Over(_) => (Detail::None, Vec::new()),
        };
        refusal.0.metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        refusal.0.detail = detail;
        refusal
    }
}

impl From<&identity::Refused> for Status {
    fn from(refused: &identity::Refused) -> Self {
        let mut refusal = Refusal::new(refused.kind(), refused.reason(), refused.to_string());
        if refused.kind() == Kind::Unavailable {
            refusal.0.retry_after = Some(Duration::from_secs(1));
        }
        refusal.into()
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        Refusal::from(denied).into()
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let mut refusal = Self::new(denied.kind(), denied.reason(), denied.to_string());
        refusal.0.metadata.insert("verb".into(), denied.verb.to_string());
        if let Some(name) = &denied.name {
            refusal.0.metadata.insert("name".into(), clip(name, MAX_DESCRIPTION_BYTES));
        }
        refusal
    }
}

impl From<Violations> for Refusal {
    fn from(violations: Violations) -> Self {
        let reason = violations.list.first().map_or("INVALID_REQUEST", |violation| violation.reason);
        let mut message = String::new();
        for violation in &violations.list {
            let separator = if message.is_empty() { "" } else { "; " };
            let _ = write!(message, "{separator}{}: {}", violation.field, violation.description);
        }
        let listed = violations.list.into_iter().take(MAX_VIOLATIONS).map(Into::into).collect();
        let mut refusal = Self::new(Kind::InvalidArgument, reason, message);
        refusal.0.metadata.insert("violations".into(), violations.count.to_string());
        refusal.0.detail = Detail::BadRequest(listed);
        refusal
    }
}

impl From<Violation> for FieldViolation {
    fn from(violation: Violation) -> Self {
        let mut field = FieldViolation::new(
            clip(&violation.field, MAX_FIELD_BYTES),
            clip(&violation.description, MAX_DESCRIPTION_BYTES),
        );
        field.reason = violation.reason.into();
        field
    }
}

/// Says the same in our own terms of a status that tonic made: it has no details, and some of its
/// codes are not the ones that the gRPC specification asks for.
pub(super) fn explain(status: &Status) -> Status {
    let message = status.message();
    let refusal = match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Refusal::new(
            Kind::ResourceExhausted,
            "REQUEST_TOO_LARGE",
            format!("{message}; send less at once"),
        ),
        Code::Internal if message.contains("decode") || message.contains("decompressing") => Refusal::new(
            Kind::InvalidArgument,
            "MALFORMED_REQUEST",
            format!("{message}; encode the request as the .proto files of this server say"),
        ),
        other => {
            let text = match (other, message) {
                (Code::Unimplemented, "") => "no such method; list what there is by server reflection",
                (_, message) => message,
            };
            let details = ErrorDetails::with_error_info(reason_of(other), DOMAIN, HashMap::new());
            let metadata = status.metadata().clone();
            let text = clip(text, MAX_MESSAGE_BYTES);
            return Status::with_error_details_and_metadata(other, text, details, metadata);
        }
    };
    refusal.into()
}

/// The answer to a call whose deadline passed before it was done.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the deadline passed before the call was done, and its outcome is unknown; \
                   retry with a longer deadline";
    Refusal::new(Kind::DeadlineExceeded, "DEADLINE_EXCEEDED", message).into()
}

/// The answer to a request for which there is no memory while it arrives.
pub(super) fn too_many_unfinished() -> Status {
    let message = "too many bytes of requests are arriving at once; retry in a second, with fewer at a time";
    let mut refusal = Refusal::new(Kind::ResourceExhausted, "TOO_MANY_UNFINISHED_REQUESTS", message);
    refusal.0.retry_after = Some(Duration::from_secs(1));
    refusal.into()
}

/// The answer to a request whose message does not come to its end.
pub(super) fn unfinished(limit: Duration) -> Status {
    let message =
        format!("the message was not complete after {} s; send it faster, or in parts", limit.as_secs());
    Refusal::new(Kind::DeadlineExceeded, "UNFINISHED_REQUEST", message).into()
}

/// The answer to a call that came past the authenticator, which should not be.
pub(super) fn unknown_caller() -> Status {
    Refusal::new(Kind::Internal, "UNKNOWN_CALLER", "it was not asked who calls; report this as a defect")
        .into()
}

/// The end of a helper service's stream when the server stops.
pub(super) fn shutting_down() -> Status {
    Refusal::shutting_down().into()
}

fn reason_of(code: Code) -> &'static str {
    match code {
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Cancelled => "CANCELLED",
        Code::NotFound => "NOT_FOUND",
        Code::Unavailable => "UNAVAILABLE",
        _ => "PROTOCOL_ERROR",
    }
}

/// The beginning of a text, cut between characters.
pub(super) fn clip(text: &str, bytes: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes - ELLIPSIS.len_utf8());
    let mut clipped = text[..end].to_owned();
    clipped.push(ELLIPSIS);
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_of_the_worst_request_stay_below_what_proxies_allow() {
        let mut violations = Violations::default();
        for _ in 0..10_000 {
            violations.add(&"é".repeat(500), "REASON", "é".repeat(500));
        }
        let status = Status::from(Refusal::from(violations));
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).expect("ASCII headers");
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(size < 7 << 10, "{size} bytes of headers");
        assert_eq!(status.get_details_error_info().unwrap().metadata["violations"], "10000");
    }

    #[test]
    fn clips_between_characters() {
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("ééé", 5), "é…");
    }
}
