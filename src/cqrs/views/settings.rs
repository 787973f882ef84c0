//! What the owner of a bucket chooses, and how it is written into the settings of its topic.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::limits::DEFAULT_MAX_VALUE_BYTES;
use crate::model::{Name, Offset, Timestamp, Topic, TopicSettings};

/// Before the names of the owner's labels.
const LABEL: &str = "label.";
const DEFAULT_TTL: &str = "default-ttl-micros";
const MAX_VALUE: &str = "max-value-bytes";
/// Room in a message for all but the value: the key, the id, the score, the type and the time.
const FRAME_BYTES: u32 = 4 << 10;

/// What the owner of a bucket chooses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Settings {
    pub(crate) labels: BTreeMap<String, String>,
    /// The longest value, in bytes.
    pub(crate) max_value_bytes: u32,
    /// How long entries are kept that do not say it; for ever, if `None`.
    pub(crate) default_ttl: Option<Duration>,
}

/// Which settings an update replaces.
#[expect(clippy::option_option, reason = "no ttl is a setting, too")]
#[derive(Debug, Clone, Default)]
pub(crate) struct SettingsChange {
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) max_value_bytes: Option<u32>,
    pub(crate) default_ttl: Option<Option<Duration>>,
}

/// A bucket and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) name: Name,
    pub(crate) settings: Settings,
    /// Rises with every change of the settings. The API's `etag`.
    pub(crate) settings_revision: u64,
    pub(crate) create_time: Timestamp,
    /// The revision of the last write.
    pub(crate) revision: Offset,
    /// Size of what is stored of it in the log, in bytes.
    pub(crate) stored_bytes: u64,
}

impl SettingsChange {
    pub(super) fn apply(self, settings: Settings) -> Settings {
        Settings {
            labels: self.labels.unwrap_or(settings.labels),
            max_value_bytes: self.max_value_bytes.unwrap_or(settings.max_value_bytes),
            default_ttl: self.default_ttl.unwrap_or(settings.default_ttl),
        }
    }
}

/// The settings of the topic of a bucket.
pub(super) fn topic_settings(settings: &Settings) -> TopicSettings {
    let own = settings.labels.iter().map(|(name, value)| (format!("{LABEL}{name}"), value.clone()));
    let ttl = settings.default_ttl.map(|ttl| (DEFAULT_TTL.to_owned(), ttl.as_micros().to_string()));
    let value = (MAX_VALUE.to_owned(), settings.max_value_bytes.to_string());
    TopicSettings {
        labels: own.chain(ttl).chain([value]).collect(),
        max_message_bytes: settings.max_value_bytes.saturating_add(FRAME_BYTES),
        key_index: true,
        compacted: true,
        ..TopicSettings::default()
    }
}

/// The settings of the bucket of a topic.
pub(super) fn settings(topic: &Topic) -> Settings {
    let labels = &topic.settings.labels;
    let own = |(name, value): (&String, &String)| Some((name.strip_prefix(LABEL)?.to_owned(), value.clone()));
    let number = |name: &str| labels.get(name).and_then(|number| number.parse::<u64>().ok());
    let max_value_bytes = number(MAX_VALUE).and_then(|bytes| u32::try_from(bytes).ok());
    Settings {
        labels: labels.iter().filter_map(own).collect(),
        max_value_bytes: max_value_bytes.unwrap_or(DEFAULT_MAX_VALUE_BYTES),
        default_ttl: number(DEFAULT_TTL).map(Duration::from_micros),
    }
}

pub(super) fn described(name: Name, topic: &Topic) -> Described {
    Described {
        name,
        settings: settings(topic),
        settings_revision: topic.revision,
        create_time: topic.create_time,
        revision: topic.last_offset,
        stored_bytes: topic.stored_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written() {
        for default_ttl in [None, Some(Duration::from_millis(1))] {
            let labels = [("label.x".to_owned(), "y".to_owned()), (DEFAULT_TTL.to_owned(), "z".to_owned())];
            let chosen = Settings { labels: labels.into(), max_value_bytes: 7, default_ttl };
            let topic = Topic {
                name: Name::parse("t").unwrap(),
                settings: topic_settings(&chosen),
                revision: 1,
                create_time: Timestamp(1),
                first_offset: 1,
                last_offset: 0,
                stored_bytes: 0,
            };
            assert_eq!(settings(&topic), chosen);
        }
    }
}
