//! A dead letter as it is printed.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::cli::message::printable;
use crate::cli::output::{self, rfc3339};
use crate::proto::v1::DeadLetter;

/// A dead letter, and the message in it.
#[derive(Serialize)]
pub(super) struct Letter {
    topic: String,
    offset: u64,
    subscription: String,
    original_topic: String,
    original_offset: u64,
    attempts: u32,
    reason: String,
    time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let message = letter.message.unwrap_or_default();
        let data = String::from_utf8(message.data.to_vec()).ok();
        Self {
            topic: letter.topic,
            offset: letter.offset,
            subscription: letter.subscription,
            original_topic: letter.original_topic,
            original_offset: letter.original_offset,
            attempts: letter.attempts,
            reason: letter.reason,
            time: rfc3339(letter.time.as_ref()),
            key: message.key,
            attributes: message.attributes.into_iter().collect(),
            data_base64: data.is_none().then(|| BASE64.encode(&message.data)),
            data,
        }
    }
}

impl Letter {
    pub(super) fn row(&self) -> Vec<String> {
        vec![
            self.offset.to_string(),
            self.subscription.clone(),
            self.original_topic.clone(),
            self.original_offset.to_string(),
            self.attempts.to_string(),
            self.time.clone().unwrap_or_default(),
            printable(self.reason.as_bytes()).into_owned(),
        ]
    }

    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let text = |text: &str| printable(text.as_bytes()).into_owned();
        let data = self.data.as_deref().map(text);
        let base64 = self.data_base64.as_ref().map(|data| format!("base64:{data}"));
        vec![
            ("dead letter", format!("{} of topic {}", self.offset, self.topic)),
            ("subscription", self.subscription.clone()),
            ("published as", format!("{} of topic {}", self.original_offset, self.original_topic)),
            ("attempts", self.attempts.to_string()),
            ("reason", text(&self.reason)),
            ("given up", self.time.clone().unwrap_or_default()),
            ("key", text(&self.key)),
            ("attributes", text(&output::pairs(&self.attributes))),
            ("data", data.or(base64).unwrap_or_default()),
        ]
    }
}
