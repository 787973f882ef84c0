//! `WatchQuery`: the stream of one watcher.

use super::super::status::Refusal;
use super::super::wire::v1::watch_query_response::Event;
use super::super::wire::v1::{Goaway, Heartbeat, QueryAnswer, QueryStale, WatchQueryResponse};
use super::feed::Source;
use crate::cqrs::queries::{Answer, Seen, Watcher};

/// Somebody who watches.
pub(super) struct Watching(pub(super) Watcher);

impl Source for Watching {
    type Event = WatchQueryResponse;

    async fn next(&mut self) -> Result<Self::Event, Refusal> {
        Ok(response(match self.0.next().await? {
            Seen::Answer(Answer { payload, content_type, revision, handler }) => {
                let (content_type, handler) = (content_type.to_string(), handler.to_string());
                Event::Answer(QueryAnswer { payload, content_type, revision, handler })
            }
            Seen::Stale(error) => {
                let refusal = Refusal::from(error);
                Event::Stale(QueryStale { message: refusal.message(), reason: refusal.reason().into() })
            }
        }))
    }

    fn heartbeat(heartbeat: Heartbeat) -> Self::Event {
        response(Event::Heartbeat(heartbeat))
    }

    fn goaway(goaway: Goaway) -> Self::Event {
        response(Event::Goaway(goaway))
    }
}

fn response(event: Event) -> WatchQueryResponse {
    WatchQueryResponse { event: Some(event) }
}
