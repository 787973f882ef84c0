//! Requests of `QueryService` as what the layer of queries works with.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::super::validate::Violations;
use super::super::wire::v1::{self, answer_query_request};
use super::shared;
use crate::cqrs::queries::{Answer, CachePolicy, Failure, Parts, Scope, Terms};
use crate::model::Name;
use crate::model::limits::{
    DEFAULT_OUTSTANDING_QUERIES, DEFAULT_QUERY_TIMEOUT, MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_VALUE_BYTES,
    MAX_ATTRIBUTES, MAX_CACHE_TTL, MAX_FAILURE_CODE_BYTES, MAX_GATHERED_ANSWERS, MAX_HANDLED_TYPES,
    MAX_KEY_BYTES, MAX_MESSAGE_LABEL_BYTES, MAX_NAME_BYTES, MAX_OUTSTANDING_QUERIES, MAX_QUERY_BYTES,
    MAX_QUERY_FAILURE_MESSAGE_BYTES, MAX_QUERY_RESULT_BYTES, MAX_QUERY_TIMEOUT, MIN_QUERY_TIMEOUT,
};

/// Shortest `ttl` of a cache policy.
const MIN_CACHE_TTL: Duration = Duration::from_millis(1);

/// What a Query asks.
pub(super) struct Asked {
    pub(super) parts: Parts,
    pub(super) terms: Terms,
    /// `max_answers`, if it gathers.
    pub(super) gather: Option<usize>,
}

pub(super) fn query(violations: &mut Violations, request: v1::QueryRequest) -> Option<Asked> {
    let v1::QueryRequest { r#type, key, payload, content_type, attributes, .. } = request;
    let parts = parts(violations, &r#type, key, payload, content_type, attributes);
    let timeout = timeout(violations, request.timeout);
    let gathers = request.gather.is_some();
    let gather = request.gather.and_then(|gather| max_answers(violations, gather.max_answers));
    if gathers && request.cache.is_some() {
        let description =
            "cannot be set together with `gather`: gathered answers are not cached; leave it out";
        violations.add("cache", "CONTRADICTORY", description);
    }
    let cache = match request.cache {
        Some(cache) => cache_policy(violations, cache),
        None => Some(CachePolicy::default()),
    };
    let terms = Terms { timeout: timeout?, cache: cache?, min_revision: request.min_revision };
    Some(Asked { parts: parts?, terms, gather })
}

fn max_answers(violations: &mut Violations, max: u32) -> Option<usize> {
    if let Ok(max @ 1..=MAX_GATHERED_ANSWERS) = usize::try_from(max) {
        return Some(max);
    }
    let description = format!("is {max}; use 1 to {MAX_GATHERED_ANSWERS}");
    violations.refuse("gather.max_answers", "OUT_OF_RANGE", description)
}

fn cache_policy(violations: &mut Violations, cache: v1::CachePolicy) -> Option<CachePolicy> {
    let v1::CachePolicy { ttl, bypass } = cache;
    let ttl = match ttl {
        Some(ttl) => Some(violations.duration("cache.ttl", ttl, MIN_CACHE_TTL..=MAX_CACHE_TTL)?),
        None if bypass => None,
        None => {
            let description = "is required: how old may the answer be? Or set `bypass`, or leave `cache` out";
            return violations.refuse("cache.ttl", "REQUIRED", description);
        }
    };
    Some(CachePolicy { ttl, bypass })
}

fn timeout(violations: &mut Violations, timeout: Option<prost_types::Duration>) -> Option<Duration> {
    match timeout {
        Some(timeout) => violations.duration("timeout", timeout, MIN_QUERY_TIMEOUT..=MAX_QUERY_TIMEOUT),
        None => Some(DEFAULT_QUERY_TIMEOUT),
    }
}

pub(super) fn watch(
    violations: &mut Violations,
    request: v1::WatchQueryRequest,
) -> Option<(Parts, Duration, u64)> {
    let v1::WatchQueryRequest { r#type, key, payload, content_type, attributes, .. } = request;
    let parts = parts(violations, &r#type, key, payload, content_type, attributes);
    let timeout = timeout(violations, request.timeout);
    Some((parts?, timeout?, request.min_revision))
}

pub(super) fn update(
    violations: &mut Violations,
    request: v1::PublishQueryUpdateRequest,
) -> Option<(Parts, Answer)> {
    let v1::PublishQueryUpdateRequest { r#type, key, payload, content_type, attributes, result } = request;
    let parts = parts(violations, &r#type, key, payload, content_type, attributes);
    let result = violations.required("result", result);
    let result = result.and_then(|result| violations.within("result.", |part| self::result(part, result)));
    Some((parts?, result?))
}

pub(super) fn scope(violations: &mut Violations, request: v1::InvalidateQueriesRequest) -> Option<Scope> {
    let v1::InvalidateQueriesRequest { r#type, key, payload, .. } = request;
    let kind = violations.name("type", &r#type);
    let key_fits = violations.text("key", key.as_deref().unwrap_or_default(), MAX_KEY_BYTES);
    let payload_fits =
        payload.as_ref().is_none_or(|payload| fits(violations, "payload", payload, MAX_QUERY_BYTES));
    key_fits?;
    payload_fits.then_some(())?;
    Some(Scope { kind: kind?, key, payload })
}

pub(super) fn handle(
    violations: &mut Violations,
    request: &v1::HandleQueriesRequest,
) -> Option<(Vec<Name>, u32)> {
    let types = types(violations, &request.types);
    let name = violations.text("handler", &request.handler, MAX_NAME_BYTES);
    let max = violations.count(
        "max_outstanding",
        request.max_outstanding,
        DEFAULT_OUTSTANDING_QUERIES,
        MAX_OUTSTANDING_QUERIES,
    );
    name?;
    Some((types?, max?))
}

/// The types of a handler, each once.
fn types(violations: &mut Violations, types: &[String]) -> Option<Vec<Name>> {
    if !(1..=MAX_HANDLED_TYPES).contains(&types.len()) {
        let description = format!("has {} entries; name 1 to {MAX_HANDLED_TYPES} types", types.len());
        let reason = if types.is_empty() { "REQUIRED" } else { "TOO_MANY_TYPES" };
        return violations.refuse("types", reason, description);
    }
    let names =
        types.iter().enumerate().map(|(index, name)| violations.name(&format!("types[{index}]"), name));
    // All of them are looked at, so that everything bad is found.
    let names: Vec<_> = names.collect();
    let mut names = names.into_iter().collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

pub(super) fn answer(
    violations: &mut Violations,
    request: v1::AnswerQueryRequest,
) -> Option<(Bytes, Result<Answer, Failure>)> {
    let v1::AnswerQueryRequest { query_id, outcome } = request;
    if query_id.is_empty() {
        violations.add("query_id", "REQUIRED", "is required; set the one of the delivery");
    }
    let outcome = match outcome {
        Some(answer_query_request::Outcome::Result(result)) => {
            violations.within("result.", |part| self::result(part, result)).map(Ok)
        }
        Some(answer_query_request::Outcome::Failure(failure)) => {
            violations.within("failure.", |part| self::failure(part, failure)).map(Err)
        }
        None => violations.refuse("outcome", "REQUIRED", "is required; set `result` or `failure`"),
    };
    Some((query_id, outcome?))
}

fn result(violations: &mut Violations, result: v1::QueryResult) -> Option<Answer> {
    let v1::QueryResult { payload, content_type, revision } = result;
    let payload_fits = fits(violations, "payload", &payload, MAX_QUERY_RESULT_BYTES);
    violations.text("content_type", &content_type, MAX_MESSAGE_LABEL_BYTES)?;
    let answer = Answer { payload, content_type: shared(&content_type), revision, handler: shared("") };
    payload_fits.then_some(answer)
}

fn failure(violations: &mut Violations, failure: v1::QueryFailure) -> Option<Failure> {
    let v1::QueryFailure { code, message, retryable } = failure;
    let code_fits = violations.text("code", &code, MAX_FAILURE_CODE_BYTES);
    let message_fits = violations.text("message", &message, MAX_QUERY_FAILURE_MESSAGE_BYTES);
    if code.is_empty() {
        violations.add("code", "REQUIRED", "is required; set one for programs, such as ORDER_UNKNOWN");
    }
    code_fits?;
    message_fits?;
    Some(Failure { code, message, retryable, handler: shared("") })
}

/// What makes a question.
fn parts(
    violations: &mut Violations,
    kind: &str,
    key: String,
    payload: Bytes,
    content_type: String,
    attributes: HashMap<String, String>,
) -> Option<Parts> {
    let kind = violations.name("type", kind);
    let key_fits = violations.text("key", &key, MAX_KEY_BYTES);
    let content_type_fits = violations.text("content_type", &content_type, MAX_MESSAGE_LABEL_BYTES);
    let payload_fits = fits(violations, "payload", &payload, MAX_QUERY_BYTES);
    let attributes_fit = check_attributes(violations, &attributes);
    key_fits.and(content_type_fits)?;
    (payload_fits && attributes_fit).then_some(())?;
    let attributes = attributes.into_iter().collect();
    Some(Parts { kind: kind?, key, payload, content_type, attributes })
}

fn fits(violations: &mut Violations, field: &str, bytes: &Bytes, limit: usize) -> bool {
    if bytes.len() > limit {
        let description = format!("has {} bytes; at most {limit} are allowed", bytes.len());
        violations.add(field, "TOO_LARGE", description);
    }
    bytes.len() <= limit
}

fn check_attributes(violations: &mut Violations, attributes: &HashMap<String, String>) -> bool {
    let before = violations.count;
    if attributes.len() > MAX_ATTRIBUTES {
        let description = format!("has {} entries; at most {MAX_ATTRIBUTES} are allowed", attributes.len());
        violations.add("attributes", "TOO_MANY_ATTRIBUTES", description);
    }
    for (name, value) in attributes {
        if !(1..=MAX_ATTRIBUTE_NAME_BYTES).contains(&name.len()) {
            let description =
                format!("has a name of {} bytes; use 1 to {MAX_ATTRIBUTE_NAME_BYTES}", name.len());
            violations.add("attributes", "INVALID_ATTRIBUTE", description);
        }
        violations.text("attributes", value, MAX_ATTRIBUTE_VALUE_BYTES);
    }
    violations.count == before
}
