//! `WatchQuery`: the stream of one watcher.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::super::body::Outgoing;
use super::super::status::Refusal;
use super::super::wire::v1::watch_query_response::Event;
use super::super::wire::v1::{Goaway, Heartbeat, QueryAnswer, QueryStale, WatchQueryResponse};
use super::feed::Source;
use crate::cqrs::queries::{Answer, Error, Held, Seen, Watcher};

/// The number of `WatchQueryResponse.answer`.
const ANSWER: u32 = 1;
/// The number of `QueryAnswer.payload`.
const PAYLOAD: u32 = 1;

/// Somebody who watches.
pub(super) struct Watching(pub(super) Watcher);

impl Source for Watching {
    type Event = Outgoing;

    async fn next(&mut self) -> Result<Self::Event, Refusal> {
        match self.0.next().await? {
            Seen::Answer(held) => Ok(answer(held)?),
            Seen::Stale(error) => {
                let refusal = Refusal::from(error);
                let stale = QueryStale { message: refusal.message(), reason: refusal.reason().into() };
                Ok(event(Event::Stale(stale)))
            }
        }
    }

    fn heartbeat(heartbeat: Heartbeat) -> Self::Event {
        event(Event::Heartbeat(heartbeat))
    }

    fn goaway(goaway: Goaway) -> Self::Event {
        event(Event::Goaway(goaway))
    }
}

fn event(event: Event) -> Outgoing {
    Outgoing::own(&WatchQueryResponse { event: Some(event) })
}

/// The answer as an event, with its payload as all who watch share it.
fn answer(held: Arc<Held>) -> Result<Outgoing, Error> {
    let Answer { payload, content_type, revision, handler } = held.answer().ok_or(Error::ReadTooSlowly)?;
    let (content_type, handler) = (content_type.to_string(), handler.to_string());
    let rest = QueryAnswer { payload: Bytes::new(), content_type, revision, handler }.encode_to_vec();
    let mut head = Vec::new();
    if !payload.is_empty() {
        begin(PAYLOAD, payload.len(), &mut head);
    }
    let mut all = Vec::with_capacity(head.len() + 1 + encoded_len_varint(payload.len() as u64));
    begin(ANSWER, head.len() + payload.len() + rest.len(), &mut all);
    all.extend(head);
    Ok(Outgoing::around(&all, held, payload.len(), rest.into()))
}

/// What comes before a field of so many bytes.
fn begin(field: u32, length: usize, buffer: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(length as u64, buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_on_the_wire_as_it_would_be_in_one_piece() {
        for (payload, revision, handler) in [(0, 0, ""), (1, 1, "h"), (200, 7, ""), (100_000, u64::MAX, "h")]
        {
            let payload = Bytes::from(vec![b'x'; payload]);
            let (content_type, handler) = ("text/plain", handler);
            let held = Held::alone(Answer {
                payload: payload.clone(),
                content_type: content_type.into(),
                revision,
                handler: handler.into(),
            });
            let (content_type, handler) = (content_type.into(), handler.into());
            let whole = Event::Answer(QueryAnswer { payload, content_type, revision, handler });
            assert_eq!(answer(held).unwrap().bytes(), event(whole).bytes());
        }
    }
}
