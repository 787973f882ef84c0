//! A live list of the worst delays: one stream instead of polling.

use std::collections::BTreeMap;

use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::watch_entries_response::Event;
use columba::proto::v1::{EntriesChanged, WatchEntriesRequest};
use tonic::transport::Channel;

use crate::rows::{WORST, Worst};
use crate::{BUCKET, Error};

/// The list as it is after each change.
#[derive(Default)]
pub(crate) struct Live {
    scores: BTreeMap<String, i32>,
    /// How often it changed.
    pub(crate) changes: u64,
}

impl Live {
    fn apply(&mut self, changed: EntriesChanged) {
        if changed.reset {
            self.scores.clear();
        }
        for key in changed.removed_keys {
            self.scores.remove(&key);
        }
        for entry in changed.entries {
            #[allow(clippy::cast_possible_truncation, reason = "delays are whole minutes")]
            let minutes = entry.score() as i32;
            self.scores.insert(entry.key, minutes);
        }
        self.changes += 1;
    }

    /// The worst first.
    pub(crate) fn worst(&self) -> Vec<Worst> {
        let mut worst: Vec<_> = self.scores.iter().map(|(key, &minutes)| (minutes, key.clone())).collect();
        worst.sort_unstable_by(|one, other| other.cmp(one));
        worst
    }
}

/// Follows the worst delays of all carriers until they are these.
pub(crate) async fn follow_until(channel: Channel, expected: Vec<Worst>) -> Result<Live, Error> {
    let watch = WatchEntriesRequest {
        bucket: BUCKET.into(),
        order_by: "score desc".into(),
        limit: u32::try_from(WORST)?,
        ..WatchEntriesRequest::default()
    };
    let mut events = KeyValueServiceClient::new(channel).watch_entries(watch).await?.into_inner();
    let mut live = Live::default();
    while live.worst() != expected {
        if let Some(Event::Changed(changed)) = events.message().await?.ok_or("the watch ended")?.event {
            live.apply(changed);
        }
    }
    Ok(live)
}
