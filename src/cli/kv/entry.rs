//! Entries as they are printed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::cli::message::printable;
use crate::cli::output::rfc3339;
use crate::proto::v1::{Entry, EntryVersion};

/// How long a value is shown in a table, in characters.
const SHOWN: usize = 60;

/// An entry, or a version of one.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Where the value is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// JSON has no infinities; they are `inf` and `-inf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<serde_json::Value>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip)]
    text: String,
    #[serde(skip)]
    shown_score: String,
}

impl From<Entry> for Shown {
    fn from(entry: Entry) -> Self {
        let value = str::from_utf8(&entry.value).ok().map(str::to_owned);
        let value_base64 = value.is_none().then(|| BASE64.encode(&entry.value));
        let number = |score: f64| {
            serde_json::Number::from_f64(score).map_or_else(|| score.to_string().into(), Into::into)
        };
        Self {
            text: printable(&entry.value).into_owned(),
            key: entry.key,
            value,
            value_base64,
            score: entry.score.map(number),
            shown_score: entry.score.map(|score| score.to_string()).unwrap_or_default(),
            revision: entry.revision,
            update_time: rfc3339(entry.update_time.as_ref()),
            expire_time: rfc3339(entry.expire_time.as_ref()),
            deleted: false,
        }
    }
}

impl Shown {
    pub(super) fn of_version(version: EntryVersion) -> Option<Self> {
        let shown = Self::from(version.entry?);
        let value = shown.value.clone().filter(|_| !version.deleted);
        Some(Self { deleted: version.deleted, value, ..shown })
    }

    /// The value for people.
    pub(super) fn text(&self) -> String {
        self.text.clone()
    }

    pub(super) fn row(&self) -> Vec<String> {
        let key = printable(self.key.as_bytes()).into_owned();
        vec![key, self.shown_score.clone(), self.revision.to_string(), self.clipped()]
    }

    pub(super) fn version_row(&self) -> Vec<String> {
        let value = if self.deleted { "(deleted)".to_owned() } else { self.clipped() };
        let time = self.update_time.clone().unwrap_or_default();
        vec![self.revision.to_string(), time, self.shown_score.clone(), value]
    }

    /// One line of a watch: key, score, revision and value, separated by tabs.
    pub(super) fn line(&self) -> String {
        let key = printable(self.key.as_bytes());
        format!("put\t{key}\t{}\t{}\t{}", self.shown_score, self.revision, self.text)
    }

    fn clipped(&self) -> String {
        if self.text.chars().count() <= SHOWN {
            return self.text.clone();
        }
        let mut clipped: String = self.text.chars().take(SHOWN - 1).collect();
        clipped.push('…');
        clipped
    }
}
