//! What the streams of `QueryService` have in common: a beginning, signs of life, and a Goaway.
//!
//! A stream is pulled by the transport and has no task: what its client does not read stays where it is.

use futures::{Stream, stream};
use tokio::time::sleep;
use tonic::Status;

use super::super::status::Refusal;
use super::super::wire::v1::{Goaway, Heartbeat};
use super::super::{Context, subscribe};
use crate::engine;

/// Where a stream's events come from.
pub(super) trait Source: Send {
    /// One event on the wire.
    type Event: Send;

    /// What comes next. May be dropped and called again.
    fn next(&mut self) -> impl Future<Output = Result<Self::Event, Refusal>> + Send;
    fn heartbeat(heartbeat: Heartbeat) -> Self::Event;
    fn goaway(goaway: Goaway) -> Self::Event;
}

/// What comes before the end of a stream.
enum Phase<S> {
    Live(S),
    /// A Goaway was sent; the status follows.
    Leaving,
    Ended,
}

/// The stream of all events of a source until the server stops.
pub(super) fn events<S: Source>(
    context: Context,
    source: S,
) -> impl Stream<Item = Result<S::Event, Status>> + Send {
    stream::unfold((context, Phase::Live(source)), async |(context, phase)| match phase {
        Phase::Live(mut source) => {
            let event = tokio::select! {
                biased;
                () = context.stop.cancelled() => {
                    let goaway = subscribe::goaway(&engine::Error::Closed).unwrap_or_default();
                    // What the source holds is given back before the client hears that it is over.
                    drop(source);
                    return Some((Ok(S::goaway(goaway)), (context, Phase::Leaving)));
                }
                event = source.next() => event,
                () = sleep(context.heartbeat) => Ok(S::heartbeat(subscribe::heartbeat())),
            };
            match event {
                Ok(event) => Some((Ok(event), (context, Phase::Live(source)))),
                Err(refusal) => Some((Err(refusal.into()), (context, Phase::Ended))),
            }
        }
        Phase::Leaving => Some((Err(Refusal::shutting_down().into()), (context, Phase::Ended))),
        Phase::Ended => None,
    })
}
