//! `WatchEntries`: a stream that is pulled by the transport. Nothing is read for it before it asks.

use futures::{Stream, stream};
use tokio::time::sleep;
use tonic::Status;

use super::{output, token};
use crate::api::body::Outgoing;
use crate::api::status::Refusal;
use crate::api::wire::v1::watch_entries_response::Event;
use crate::api::wire::v1::{EntriesChanged, WatchEntriesResponse};
use crate::api::{Context, subscribe};
use crate::cqrs::views::{Error, Part, Watch};
use crate::engine;

struct Watching {
    context: Context,
    watch: Watch,
    fingerprint: u64,
    /// The stream ends, with this status after the last event.
    end: Option<Refusal>,
}

/// What happens on the stream.
pub(super) fn events(
    context: Context,
    watch: Watch,
    fingerprint: u64,
) -> impl Stream<Item = Result<Outgoing, Status>> + Send {
    let state = Watching { context, watch, fingerprint, end: None };
    stream::unfold(Some(state), async |state| {
        let mut state = state?;
        if let Some(refusal) = state.end.take() {
            return Some((Err(refusal.into()), None));
        }
        match state.next().await {
            Ok(event) => {
                let response = WatchEntriesResponse { event: Some(event) };
                Some((Ok(Outgoing::own(&response)), Some(state)))
            }
            Err(refusal) => Some((Err(refusal.into()), None)),
        }
    })
}

impl Watching {
    async fn next(&mut self) -> Result<Event, Refusal> {
        let part = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => Err(Error::Engine(engine::Error::Closed)),
            part = self.watch.next() => part,
            () = sleep(self.context.heartbeat) => return Ok(Event::Heartbeat(subscribe::heartbeat())),
        };
        match part {
            Ok(part) => Ok(Event::Changed(changed(part, self.fingerprint))),
            Err(Error::Engine(error)) => match subscribe::goaway(&error) {
                Some(goaway) => {
                    self.end = Some(error.into());
                    Ok(Event::Goaway(goaway))
                }
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

fn changed(part: Part, fingerprint: u64) -> EntriesChanged {
    let resume_token = if part.incomplete { String::new() } else { token::of_seen(fingerprint, part.seen) };
    EntriesChanged {
        reset: part.reset,
        entries: part.entries.into_iter().map(output::entry).collect(),
        removed_keys: part.removed.iter().map(ToString::to_string).collect(),
        incomplete: part.incomplete,
        revision: part.revision,
        resume_token,
    }
}
