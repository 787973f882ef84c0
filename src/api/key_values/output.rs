//! Buckets and entries as wire messages.

use crate::api::convert::{duration, timestamp};
use crate::api::wire::v1;
use crate::cqrs::views::{About, Described, Entry, Score, Version};

pub(super) fn bucket(bucket: Described) -> v1::Bucket {
    v1::Bucket {
        name: bucket.name.to_string(),
        labels: bucket.settings.labels.into_iter().collect(),
        max_value_bytes: bucket.settings.max_value_bytes,
        default_ttl: bucket.settings.default_ttl.map(duration),
        etag: format!("{:x}", bucket.settings_revision),
        create_time: Some(timestamp(bucket.create_time)),
        revision: bucket.revision,
        stored_bytes: bucket.stored_bytes,
    }
}

pub(super) fn entry(entry: Entry) -> v1::Entry {
    let About { revision, time, expire_time, score } = entry.about;
    v1::Entry {
        key: entry.key.to_string(),
        value: entry.value,
        score: score.map(Score::number),
        revision,
        update_time: Some(timestamp(time)),
        expire_time: expire_time.map(timestamp),
    }
}

pub(super) fn version(version: Version) -> v1::EntryVersion {
    match version {
        Version::Put(put) => v1::EntryVersion { entry: Some(entry(put)), deleted: false },
        Version::Deleted { key, revision, time } => {
            let update_time = Some(timestamp(time));
            let entry = v1::Entry { key: key.to_string(), revision, update_time, ..v1::Entry::default() };
            v1::EntryVersion { entry: Some(entry), deleted: true }
        }
    }
}
