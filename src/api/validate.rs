//! Checks of what clients send. All bad fields of a request are reported together.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;

use super::status::{Refusal, clip};
use super::wire::v1::{self, start_position::Position};
use crate::model::limits::{MAX_ACK_IDS, MAX_ATTRIBUTES, MAX_LABEL_NAME_BYTES, MAX_LABEL_VALUE_BYTES};
use crate::model::{Durability, Filter, Mode, Name, Pattern, Start, Timestamp};

/// Most violations kept; the others are only counted.
const MAX_KEPT: usize = 32;
/// How much of a bad value is repeated to the caller.
const SHOWN_BYTES: usize = 40;
/// The last second of the year 9999, where protobuf timestamps end.
const MAX_TIMESTAMP_SECONDS: i64 = 253_402_300_799;
/// The first second of the year 1, where they begin.
const MIN_TIMESTAMP_SECONDS: i64 = -62_135_596_800;
const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// One bad field.
#[derive(Debug)]
pub(super) struct Violation {
    /// The path of the field in the request, such as `messages[3].key`.
    pub(super) field: String,
    /// What is wrong, for programs.
    pub(super) reason: &'static str,
    /// What is wrong, with the value, and what to do.
    pub(super) description: String,
}

/// The bad fields of a request. The checks return the value, or `None` after noting what is wrong;
/// where a value may be left out, `None` says that too, and [`check`] tells the cases apart.
#[derive(Debug, Default)]
pub(super) struct Violations {
    /// The first ones.
    pub(super) list: Vec<Violation>,
    /// How many there are.
    pub(super) count: usize,
}

/// Runs the checks of one request. They should all have run before the first `?`, so that the
/// caller learns of every bad field at once.
pub(super) fn check<T>(checks: impl FnOnce(&mut Violations) -> Option<T>) -> Result<T, Refusal> {
    let mut violations = Violations::default();
    match checks(&mut violations) {
        Some(value) if violations.count == 0 => Ok(value),
        _ => Err(violations.into()),
    }
}

impl Violations {
    /// Notes a bad field.
    pub(super) fn add(&mut self, field: &str, reason: &'static str, description: impl Into<String>) {
        self.count += 1;
        if self.list.len() < MAX_KEPT {
            self.list.push(Violation { field: field.to_owned(), reason, description: description.into() });
        }
    }

    /// Runs the checks of a part of the request, whose fields are named with this prefix.
    pub(super) fn within<T>(&mut self, prefix: &str, checks: impl FnOnce(&mut Self) -> T) -> T {
        let mut part = Self::default();
        let value = checks(&mut part);
        self.count += part.count;
        let room = MAX_KEPT.saturating_sub(self.list.len());
        let named =
            |violation: Violation| Violation { field: format!("{prefix}{}", violation.field), ..violation };
        self.list.extend(part.list.into_iter().take(room).map(named));
        value
    }

    /// Notes a bad field, in place of its value.
    pub(super) fn refuse<T>(
        &mut self,
        field: &str,
        reason: &'static str,
        description: impl Into<String>,
    ) -> Option<T> {
        self.add(field, reason, description);
        None
    }

    /// A field that must be set.
    pub(super) fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        value.or_else(|| self.refuse(field, "REQUIRED", "is required; set it"))
    }

    /// The name of a topic or subscription.
    pub(super) fn name(&mut self, field: &str, text: &str) -> Option<Name> {
        match Name::parse(text) {
            Ok(name) => Some(name),
            Err(error) => self.refuse(field, "INVALID_NAME", error.to_string()),
        }
    }

    /// A name that may be left out: `None` then, too.
    pub(super) fn optional_name(&mut self, field: &str, text: &str) -> Option<Name> {
        if text.is_empty() { None } else { self.name(field, text) }
    }

    /// A pattern over names; `None` if it is empty, which means all.
    pub(super) fn pattern(&mut self, field: &str, text: &str) -> Option<Pattern> {
        if text.is_empty() {
            return None;
        }
        match Pattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(error) => self.refuse(field, "INVALID_PATTERN", error.to_string()),
        }
    }

    /// A text with a longest length.
    pub(super) fn text(&mut self, field: &str, text: &str, max_bytes: usize) -> Option<()> {
        if text.len() <= max_bytes {
            return Some(());
        }
        let description = format!("is {} bytes long; at most {max_bytes} are allowed", text.len());
        self.refuse(field, "TOO_LONG", description)
    }

    /// A filter; an empty one lets everything pass.
    pub(super) fn filter(&mut self, field: &str, text: &str) -> Option<Filter> {
        match Filter::parse(text) {
            Ok(filter) => Some(filter),
            Err(error) => self.refuse(field, error.reason(), error.to_string()),
        }
    }

    /// Labels of a topic or subscription.
    pub(super) fn labels(
        &mut self,
        field: &str,
        labels: &HashMap<String, String>,
    ) -> Option<BTreeMap<String, String>> {
        let before = self.count;
        if labels.len() > MAX_ATTRIBUTES {
            let description = format!("has {} entries; at most {MAX_ATTRIBUTES} are allowed", labels.len());
            self.add(field, "TOO_MANY_LABELS", description);
        }
        for (name, value) in labels {
            if name.is_empty() || name.len() > MAX_LABEL_NAME_BYTES {
                let description = format!(
                    "has a name of {} bytes, {:?}; use 1 to {MAX_LABEL_NAME_BYTES}",
                    name.len(),
                    clip(name, SHOWN_BYTES)
                );
                self.add(field, "INVALID_LABEL", description);
            }
            if value.len() > MAX_LABEL_VALUE_BYTES {
                let description = format!(
                    "has a value of {} bytes at {:?}; at most {MAX_LABEL_VALUE_BYTES} are allowed",
                    value.len(),
                    clip(name, SHOWN_BYTES)
                );
                self.add(field, "INVALID_LABEL", description);
            }
        }
        (self.count == before).then(|| labels.clone().into_iter().collect())
    }

    /// A number with a highest value, where 0 stands for the default.
    pub(super) fn count<T: Copy + PartialOrd + Default + Display>(
        &mut self,
        field: &str,
        value: T,
        default: T,
        highest: T,
    ) -> Option<T> {
        if value > highest {
            let description = format!("is {value}; at most {highest} is allowed");
            return self.refuse(field, "TOO_LARGE", description);
        }
        Some(if value == T::default() { default } else { value })
    }

    /// A span of time within limits.
    pub(super) fn duration(
        &mut self,
        field: &str,
        value: prost_types::Duration,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let prost_types::Duration { seconds, nanos } = value;
        let well_formed = (0..NANOS_PER_SECOND).contains(&nanos) && seconds >= 0;
        let span = well_formed.then(|| Duration::new(seconds.unsigned_abs(), nanos.unsigned_abs()));
        if let Some(span) = span.filter(|span| allowed.contains(span)) {
            return Some(span);
        }
        let description = format!(
            "is {seconds} s and {nanos} ns; use {} to {}, and 0 to 999,999,999 ns",
            humantime::format_duration(*allowed.start()),
            humantime::format_duration(*allowed.end()),
        );
        self.refuse(field, "INVALID_DURATION", description)
    }

    /// A point in time, to the microsecond above. Times before 1970 mean 1970: no message is older.
    pub(super) fn timestamp(&mut self, field: &str, value: prost_types::Timestamp) -> Option<Timestamp> {
        match timestamp(value) {
            Ok(time) => Some(time),
            Err(description) => self.refuse(field, "INVALID_TIMESTAMP", description),
        }
    }

    /// Where reading begins.
    pub(super) fn start(
        &mut self,
        field: &str,
        value: Option<v1::StartPosition>,
        default: Start,
    ) -> Option<Start> {
        let Some(v1::StartPosition { position }) = value else { return Some(default) };
        match position {
            Some(Position::Earliest(_)) => Some(Start::Earliest),
            Some(Position::Latest(_)) => Some(Start::Latest),
            Some(Position::Offset(0)) => {
                let description = "is 0, but offsets start at 1; use 1, or `earliest`";
                self.refuse(&format!("{field}.offset"), "INVALID_OFFSET", description)
            }
            Some(Position::Offset(offset)) => Some(Start::Offset(offset)),
            Some(Position::Time(time)) => self.timestamp(&format!("{field}.time"), time).map(Start::Time),
            None => {
                let description =
                    "sets no position; set one of earliest, latest, offset and time, or leave the field out";
                self.refuse(field, "REQUIRED", description)
            }
        }
    }

    /// A durability; `None` also where the default is meant.
    pub(super) fn durability(&mut self, field: &str, value: i32) -> Option<Durability> {
        match v1::Durability::try_from(value) {
            Ok(v1::Durability::Unspecified) => None,
            Ok(v1::Durability::Buffered) => Some(Durability::Buffered),
            Ok(v1::Durability::Fsynced) => Some(Durability::Fsynced),
            Err(_) => self.unknown_enum(field, value, "DURABILITY_BUFFERED (1) or DURABILITY_FSYNCED (2)"),
        }
    }

    /// A delivery mode.
    pub(super) fn mode(&mut self, field: &str, value: i32) -> Option<Mode> {
        match v1::DeliveryMode::try_from(value) {
            Ok(v1::DeliveryMode::Unspecified | v1::DeliveryMode::Shared) => Some(Mode::Shared),
            Ok(v1::DeliveryMode::Exclusive) => Some(Mode::Exclusive),
            Ok(v1::DeliveryMode::KeyOrdered) => Some(Mode::KeyOrdered),
            Err(_) => {
                let known =
                    "DELIVERY_MODE_SHARED (1), DELIVERY_MODE_EXCLUSIVE (2) or DELIVERY_MODE_KEY_ORDERED (3)";
                self.unknown_enum(field, value, known)
            }
        }
    }

    fn unknown_enum<T>(&mut self, field: &str, value: i32, known: &str) -> Option<T> {
        self.refuse(field, "UNKNOWN_ENUM_VALUE", format!("is {value}, which is not known; use {known}"))
    }

    /// The ids of an ack, nack or extension.
    pub(super) fn ack_ids(&mut self, ids: Vec<Bytes>) -> Option<Vec<Bytes>> {
        match ids.len() {
            1..=MAX_ACK_IDS => Some(ids),
            0 => self.refuse("ack_ids", "REQUIRED", "is empty; send 1 to 10,000 ids"),
            many => {
                let description = format!("has {many} ids; send at most {MAX_ACK_IDS} at once");
                self.refuse("ack_ids", "TOO_MANY_ACK_IDS", description)
            }
        }
    }

    /// The paths of an update mask, or all that can be changed if there are none.
    pub(super) fn update_mask<'a>(
        &mut self,
        mask: Option<prost_types::FieldMask>,
        allowed: &[&'a str],
    ) -> Option<Vec<&'a str>> {
        let paths = mask.unwrap_or_default().paths;
        if paths.is_empty() {
            return Some(allowed.to_vec());
        }
        let mut known = Vec::with_capacity(paths.len().min(allowed.len()));
        let before = self.count;
        for path in &paths {
            if let Some(path) = allowed.iter().find(|&allowed| allowed == path) {
                known.push(*path);
            } else {
                let (path, allowed) = (clip(path, SHOWN_BYTES), allowed.join(", "));
                let description = format!("has {path:?}, which cannot be changed; use {allowed}");
                self.add("update_mask", "INVALID_FIELD_MASK", description);
            }
        }
        (self.count == before).then_some(known)
    }
}

/// A point in time, to the microsecond above, or what is wrong with it. Times before 1970 mean 1970.
pub(super) fn timestamp(value: prost_types::Timestamp) -> Result<Timestamp, String> {
    let prost_types::Timestamp { seconds, nanos } = value;
    let in_range = (MIN_TIMESTAMP_SECONDS..=MAX_TIMESTAMP_SECONDS).contains(&seconds);
    if !in_range || !(0..NANOS_PER_SECOND).contains(&nanos) {
        return Err(format!(
            "is {seconds} s and {nanos} ns; use a time of the years 1 to 9999, with 0 to 999,999,999 ns"
        ));
    }
    let micros = u64::from(nanos.unsigned_abs()).div_ceil(1_000);
    Ok(Timestamp(u64::try_from(seconds).map_or(0, |seconds| seconds * 1_000_000 + micros)))
}

/// The revision that an etag stands for; `None` if there is no etag. Revisions start at 1, so a text
/// that is no etag of ours becomes 0, which never matches.
pub(super) fn etag(text: &str) -> Option<u64> {
    let revision = u64::from_str_radix(text, 16).ok().filter(|revision| format!("{revision:x}") == text);
    if text.is_empty() { None } else { Some(revision.unwrap_or(0)) }
}
