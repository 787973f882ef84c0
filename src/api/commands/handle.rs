//! `HandleCommands`: the stream of one handler, pulled by the transport as in [`crate::api::subscribe`].

use futures::{Stream, stream};
use tokio::time::sleep;
use tonic::Status;

use super::show;
use crate::api::status::Refusal;
use crate::api::subscribe::{goaway, heartbeat};
use crate::api::validate::check;
use crate::api::wire::v1::handle_commands_response::Event as Wire;
use crate::api::wire::v1::{HandleCommandsRequest, HandleCommandsResponse, HandlerStarted};
use crate::api::{Context, convert, handled};
use crate::cqrs::commands::{Error, Event, Handling};
use crate::engine;
use crate::model::Timestamp;
use crate::model::limits::{
    COMMAND_LEASE, DEFAULT_HANDLER_OUTSTANDING, MAX_HANDLER_OUTSTANDING, MAX_NAME_BYTES,
};

/// Opens a handler's stream as the request asks.
pub(super) async fn open(context: &Context, request: HandleCommandsRequest) -> Result<Handling, Refusal> {
    let (types, max_outstanding) = check(|violations| {
        let types = handled::types(violations, &request.types);
        let name = violations.text("handler", &request.handler, MAX_NAME_BYTES);
        let (default, highest) = (DEFAULT_HANDLER_OUTSTANDING, MAX_HANDLER_OUTSTANDING);
        let outstanding = violations.count("max_outstanding", request.max_outstanding, default, highest);
        name?;
        Some((types?, outstanding?))
    })?;
    if context.stop.is_cancelled() {
        return Err(Refusal::shutting_down());
    }
    Ok(context.cqrs.commands.handle(types, &request.handler, max_outstanding).await?)
}

/// What happens on the stream.
pub(super) fn events(
    context: Context,
    handling: Handling,
) -> impl Stream<Item = Result<HandleCommandsResponse, Status>> + Send {
    let state = State { context, handling, phase: Phase::Starting };
    stream::unfold(state, async |mut state| {
        let event = state.next().await?;
        let response = event.map(|event| HandleCommandsResponse { event: Some(event) });
        Some((response.map_err(Status::from), state))
    })
}

struct State {
    context: Context,
    handling: Handling,
    phase: Phase,
}

enum Phase {
    Starting,
    Live,
    /// A Goaway was sent; the status follows.
    Leaving(Refusal),
    Ended,
}

impl State {
    /// The next event, the error that ends the stream, or its end.
    async fn next(&mut self) -> Option<Result<Wire, Refusal>> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Starting => {
                self.phase = Phase::Live;
                Some(Ok(Wire::Started(HandlerStarted {
                    handler_id: self.handling.id(),
                    lease: Some(convert::duration(COMMAND_LEASE)),
                    server_time: Some(convert::timestamp(Timestamp::now())),
                })))
            }
            Phase::Live => Some(self.live().await),
            Phase::Leaving(refusal) => Some(Err(refusal)),
            Phase::Ended => None,
        }
    }

    async fn live(&mut self) -> Result<Wire, Refusal> {
        let event = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => Err(Error::Engine(engine::Error::Closed)),
            event = self.handling.next() => event,
            () = sleep(self.context.heartbeat) => {
                self.phase = Phase::Live;
                return Ok(Wire::Heartbeat(heartbeat()));
            }
        };
        match event {
            Ok(event) => {
                self.phase = Phase::Live;
                Ok(match event {
                    Event::Delivery(handed) => Wire::Delivery(show::delivery(*handed)),
                    Event::CancelRequested { id, ack_id } => {
                        Wire::CancelRequested(show::cancel_requested(id, ack_id))
                    }
                })
            }
            Err(Error::Engine(error)) => match goaway(&error) {
                Some(goaway) => {
                    self.phase = Phase::Leaving(error.into());
                    Ok(Wire::Goaway(goaway))
                }
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}
