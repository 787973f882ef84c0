//! Checks of what clients send about entries.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::token;
use crate::api::page;
use crate::api::validate::Violations;
use crate::api::wire::v1::{self, batch_write::Action};
use crate::cqrs::views::{By, Mark, Order, Score, Seen, Selection, Settings, What};
use crate::model::limits::{
    DEFAULT_PAGE_SIZE, MAX_BATCH_ENTRIES, MAX_BATCH_EXPECTATIONS, MAX_BUCKET_NAME_BYTES, MAX_KEY_BYTES,
    MAX_MESSAGE_ID_BYTES, MAX_PAGE_SIZE, MAX_TTL, MAX_VERSIONS, MAX_WATCHED_ENTRIES, MIN_TTL,
};
use crate::model::{Name, Timestamp};

const BAD_RESUME_TOKEN: &str = "is not a token of a watch of this selection; give the last `resume_token` of a \
                                watch of the same one, or leave it empty to begin anew";

/// The name of a bucket.
pub(super) fn bucket(violations: &mut Violations, field: &str, name: &str) -> Option<Name> {
    violations.text(field, name, MAX_BUCKET_NAME_BYTES)?;
    violations.name(field, name)
}

/// A key.
pub(super) fn key(violations: &mut Violations, field: &str, key: &str) {
    if key.is_empty() {
        violations.add(field, "REQUIRED", format!("is empty; give a key of 1 to {MAX_KEY_BYTES} bytes"));
    }
    violations.text(field, key, MAX_KEY_BYTES);
}

/// The id of a write.
pub(super) fn id(violations: &mut Violations, id: &str) {
    violations.text("id", id, MAX_MESSAGE_ID_BYTES);
}

#[expect(clippy::option_option, reason = "the outer one is what the checks go by")]
fn score(violations: &mut Violations, field: &str, number: Option<f64>) -> Option<Option<Score>> {
    let Some(number) = number else { return Some(None) };
    match Score::new(number) {
        Some(score) => Some(Some(score)),
        None => {
            violations.refuse(field, "NOT_A_NUMBER", "is NaN, which has no place in an order; give a number")
        }
    }
}

/// How long an entry is kept.
enum Ttl {
    AsTheBucketSays,
    Always,
    For(Duration),
}

/// An entry to set, before the bucket's settings are known.
pub(super) struct PutInput {
    value: Bytes,
    score: Option<Score>,
    ttl: Ttl,
}

impl PutInput {
    pub(super) fn read(
        violations: &mut Violations,
        value: Bytes,
        number: Option<f64>,
        ttl: Option<prost_types::Duration>,
    ) -> Option<Self> {
        let score = score(violations, "score", number);
        let ttl = match ttl {
            None => Some(Ttl::AsTheBucketSays),
            Some(prost_types::Duration { seconds: 0, nanos: 0 }) => Some(Ttl::Always),
            Some(ttl) => violations.duration("ttl", ttl, MIN_TTL..=MAX_TTL).map(Ttl::For),
        };
        Some(Self { value, score: score?, ttl: ttl? })
    }

    pub(super) fn resolve(
        self,
        violations: &mut Violations,
        field: &str,
        settings: &Settings,
        now: Timestamp,
    ) -> Option<What> {
        let (size, limit) = (self.value.len(), settings.max_value_bytes);
        if u32::try_from(size).is_ok_and(|size| size <= limit) {
            let ttl = match self.ttl {
                Ttl::AsTheBucketSays => settings.default_ttl,
                Ttl::Always => None,
                Ttl::For(ttl) => Some(ttl),
            };
            let micros = |ttl: Duration| u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
            let expire_time = ttl.map(|ttl| Timestamp(now.0.saturating_add(micros(ttl))));
            return Some(What::Put { value: self.value, score: self.score, expire_time });
        }
        let description = format!("is {size} bytes long; the bucket takes at most {limit}");
        violations.refuse(field, "VALUE_TOO_LARGE", description)
    }
}

/// A batch.
pub(super) struct BatchInput {
    /// Key, whether it is a put, expected revision.
    pub(super) writes: Vec<(String, bool, Option<u64>)>,
    /// What is put, with the path of its value.
    pub(super) puts: Vec<(String, PutInput)>,
}

impl BatchInput {
    pub(super) fn read(violations: &mut Violations, writes: Vec<v1::BatchWrite>) -> Option<Self> {
        match writes.len() {
            0 => return violations.refuse("writes", "REQUIRED", "is empty; send 1 to 1,000 writes"),
            1..=MAX_BATCH_ENTRIES => {}
            many => {
                let description = format!("has {many} writes; send at most {MAX_BATCH_ENTRIES} at once");
                return violations.refuse("writes", "TOO_MANY_WRITES", description);
            }
        }
        let conditions = writes.iter().filter(|write| write.expected_revision.is_some()).count();
        if conditions > MAX_BATCH_EXPECTATIONS {
            let description = format!(
                "has {conditions} writes with an expected_revision; at most {MAX_BATCH_EXPECTATIONS} are allowed"
            );
            violations.add("writes", "TOO_MANY_EXPECTATIONS", description);
        }
        let mut seen = BTreeSet::new();
        for (index, write) in writes.iter().enumerate() {
            let field = format!("writes[{index}].key");
            key(violations, &field, &write.key);
            if !seen.insert(&write.key) {
                violations.add(&field, "DUPLICATE_KEY", "is there twice; write each key once in a batch");
            }
        }
        let mut batch = Self { writes: Vec::new(), puts: Vec::new() };
        for (index, v1::BatchWrite { key, expected_revision, action }) in writes.into_iter().enumerate() {
            let is_put = match action {
                None => {
                    let field = format!("writes[{index}].action");
                    violations.add(&field, "REQUIRED", "is required; set `put` or `delete`");
                    continue;
                }
                Some(Action::Delete(v1::BatchDelete {})) => false,
                Some(Action::Put(v1::BatchPut { value, score, ttl })) => {
                    let prefix = format!("writes[{index}].put.");
                    let put = violations.within(&prefix, |part| PutInput::read(part, value, score, ttl));
                    batch.puts.extend(put.map(|put| (format!("{prefix}value"), put)));
                    true
                }
            };
            batch.writes.push((key, is_put, expected_revision));
        }
        Some(batch)
    }
}

/// Which entries a request selects.
struct Select<'r> {
    prefix: &'r str,
    min: Option<f64>,
    max: Option<f64>,
    order_by: &'r str,
}

impl Select<'_> {
    fn read(&self, violations: &mut Violations) -> Option<Selection> {
        let prefix = violations.text("prefix", self.prefix, MAX_KEY_BYTES);
        let min = score(violations, "min_score", self.min);
        let max = score(violations, "max_score", self.max);
        let order = order(violations, self.order_by);
        if let (Some(Some(min)), Some(Some(max))) = (min, max)
            && min > max
        {
            let description = format!("is {}, above max_score, {}", min.number(), max.number());
            violations.add("min_score", "EMPTY_RANGE", description);
        }
        prefix?;
        Some(Selection { prefix: self.prefix.to_owned(), min: min?, max: max?, order: order? })
    }

    /// Tells it from others in tokens.
    fn fingerprint(&self, kind: &str, bucket: &str) -> u64 {
        let bits =
            |number: Option<f64>| number.map(|number| number.to_bits().to_string()).unwrap_or_default();
        let order = if self.order_by.is_empty() { "key" } else { self.order_by };
        let order = order.split_whitespace().collect::<Vec<_>>().join(" ");
        page::fingerprint(kind, &[bucket, self.prefix, &bits(self.min), &bits(self.max), &order])
    }
}

fn order(violations: &mut Violations, text: &str) -> Option<Order> {
    let words: Vec<_> = text.split_whitespace().collect();
    let (by, descending) = match words[..] {
        [] | ["key"] => (By::Key, false),
        ["key", "desc"] => (By::Key, true),
        ["score"] => (By::Score, false),
        ["score", "desc"] => (By::Score, true),
        _ => {
            let text = crate::api::status::clip(text, 40);
            let description = format!("is {text:?}; use `key`, `key desc`, `score` or `score desc`");
            return violations.refuse("order_by", "INVALID_ORDER", description);
        }
    };
    Some(Order { by, descending })
}

/// A request to list entries.
pub(super) struct ListInput {
    pub(super) bucket: Name,
    pub(super) selection: Selection,
    pub(super) after: Option<Mark>,
    pub(super) limit: usize,
    pub(super) fingerprint: u64,
}

impl ListInput {
    pub(super) fn read(violations: &mut Violations, request: &v1::ListEntriesRequest) -> Option<Self> {
        let bucket = bucket(violations, "bucket", &request.bucket);
        let select = Select {
            prefix: &request.prefix,
            min: request.min_score,
            max: request.max_score,
            order_by: &request.order_by,
        };
        let selection = select.read(violations);
        let fingerprint = select.fingerprint("entries", &request.bucket);
        let asked = usize::try_from(request.page_size).unwrap_or(usize::MAX);
        let limit = violations.count("page_size", asked, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
        let after = token::optional(&request.page_token, |text| token::mark(text, fingerprint));
        let after = after.or_else(|| violations.refuse("page_token", "INVALID_PAGE_TOKEN", page::BAD_TOKEN));
        Some(Self { bucket: bucket?, selection: selection?, after: after?, limit: limit?, fingerprint })
    }
}

/// A request to watch entries.
pub(super) struct WatchInput {
    pub(super) bucket: Name,
    pub(super) selection: Selection,
    pub(super) limit: Option<usize>,
    pub(super) seen: Option<Seen>,
    pub(super) fingerprint: u64,
}

impl WatchInput {
    pub(super) fn read(violations: &mut Violations, request: &v1::WatchEntriesRequest) -> Option<Self> {
        let bucket = bucket(violations, "bucket", &request.bucket);
        let select = Select {
            prefix: &request.prefix,
            min: request.min_score,
            max: request.max_score,
            order_by: &request.order_by,
        };
        let selection = select.read(violations);
        let kind = format!("watch {}", request.limit);
        let fingerprint = select.fingerprint(&kind, &request.bucket);
        let asked = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let limit = violations.count("limit", asked, 0, MAX_WATCHED_ENTRIES);
        let seen = token::optional(&request.resume_token, |text| token::seen(text, fingerprint));
        let seen =
            seen.or_else(|| violations.refuse("resume_token", "INVALID_RESUME_TOKEN", BAD_RESUME_TOKEN));
        let limit = limit.map(|limit| Some(limit).filter(|&limit| limit > 0));
        Some(Self { bucket: bucket?, selection: selection?, limit: limit?, seen: seen?, fingerprint })
    }
}

/// A page of a history.
pub(super) struct HistoryPage {
    pub(super) before: Option<u64>,
    pub(super) size: usize,
    pub(super) fingerprint: u64,
}

impl HistoryPage {
    pub(super) fn read(violations: &mut Violations, request: &v1::HistoryRequest) -> Option<Self> {
        let fingerprint = page::fingerprint("history", &[&request.bucket, &request.key]);
        let asked = usize::try_from(request.page_size).unwrap_or(usize::MAX);
        let size = violations.count("page_size", asked, MAX_VERSIONS, MAX_PAGE_SIZE);
        let before = token::optional(&request.page_token, |text| token::revision(text, fingerprint));
        let before =
            before.or_else(|| violations.refuse("page_token", "INVALID_PAGE_TOKEN", page::BAD_TOKEN));
        Some(Self { before: before?, size: size?, fingerprint })
    }
}
