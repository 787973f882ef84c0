//! `CommandService`.

mod handle;
mod read;
mod show;

use std::time::Duration;

use futures::stream::{self, BoxStream};
use tokio::time::sleep;
use tonic::{Request, Response, Status, async_trait};

use super::access::Access;
use super::status::Refusal;
use super::subscribe::heartbeat;
use super::validate::{Violations, check};
use super::wire::v1::watch_command_response::Event;
use super::wire::v1::{self, command_service_server::CommandService};
use super::{Context, page};
use crate::authorization::Verb;
use crate::cqrs::commands::{Error, Following, Parts, View};
use crate::model::Name;
use crate::model::limits::{
    DEFAULT_COMMAND_WAIT, MAX_ACK_DEADLINE, MAX_COMMAND_ID_BYTES, MAX_COMMAND_WAIT, MAX_NAME_BYTES,
    MIN_ACK_DEADLINE,
};

pub(super) struct Commands(pub(super) Context);

#[async_trait]
impl CommandService for Commands {
    async fn send_command(
        &self,
        request: Request<v1::SendCommandRequest>,
    ) -> Result<Response<v1::SendCommandResponse>, Status> {
        let v1::SendCommandRequest { command, wait } = request.into_inner();
        let (command, wait) = check(|violations| {
            let command = match violations.required("command", command) {
                Some(command) => {
                    violations.within("command.", |violations| read::command(violations, command))
                }
                None => None,
            };
            let wait = read_wait(violations, wait, Duration::ZERO);
            Some((command?, wait?))
        })?;
        let view = self.0.cqrs.commands.send(command, wait, &self.0.stop).await?;
        Ok(Response::new(v1::SendCommandResponse { execution: Some(show::execution(view)) }))
    }

    async fn get_command(
        &self,
        request: Request<v1::GetCommandRequest>,
    ) -> Result<Response<v1::GetCommandResponse>, Status> {
        let access = Access::of(&request);
        let id = read_id(request.into_inner().id)?;
        let view = self.0.cqrs.commands.view(&id, Parts::Whole).await?;
        let view = seen(&access, Verb::Read, view)?;
        Ok(Response::new(v1::GetCommandResponse { execution: Some(show::execution(view)) }))
    }

    async fn wait_command(
        &self,
        request: Request<v1::WaitCommandRequest>,
    ) -> Result<Response<v1::WaitCommandResponse>, Status> {
        let access = Access::of(&request);
        let v1::WaitCommandRequest { id, wait } = request.into_inner();
        let (id, wait) = check(|violations| {
            let id = given_id(violations, id);
            let wait = read_wait(violations, wait, DEFAULT_COMMAND_WAIT);
            Some((id?, wait?))
        })?;
        self.look(&access, Verb::Read, &id).await?;
        let view = self.0.cqrs.commands.wait(&id, wait, &self.0.stop).await?;
        Ok(Response::new(v1::WaitCommandResponse { execution: Some(show::execution(view)) }))
    }

    type WatchCommandStream = BoxStream<'static, Result<v1::WatchCommandResponse, Status>>;

    async fn watch_command(
        &self,
        request: Request<v1::WatchCommandRequest>,
    ) -> Result<Response<Self::WatchCommandStream>, Status> {
        let access = Access::of(&request);
        let id = read_id(request.into_inner().id)?;
        // So that an unknown command is an error of the call.
        let view = seen(&access, Verb::Read, self.0.cqrs.commands.view(&id, Parts::Summary).await?)?;
        access.hold(Verb::Read, &view.command.kind);
        let following = self.0.cqrs.commands.follow(id);
        let state = Some((self.0.clone(), following));
        let events = stream::unfold(state, async |state| {
            let (context, mut following) = state?;
            match next_state(&context, &mut following).await {
                Ok(Some(event)) => {
                    let response = v1::WatchCommandResponse { event: Some(event) };
                    Some((Ok(response), Some((context, following))))
                }
                Ok(None) => None,
                Err(refusal) => Some((Err(Status::from(refusal)), None)),
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn cancel_command(
        &self,
        request: Request<v1::CancelCommandRequest>,
    ) -> Result<Response<v1::CancelCommandResponse>, Status> {
        let access = Access::of(&request);
        let id = read_id(request.into_inner().id)?;
        self.look(&access, Verb::Send, &id).await?;
        let view = self.0.cqrs.commands.cancel(&id).await?;
        Ok(Response::new(v1::CancelCommandResponse { execution: Some(show::execution(view)) }))
    }

    async fn list_commands(
        &self,
        request: Request<v1::ListCommandsRequest>,
    ) -> Result<Response<v1::ListCommandsResponse>, Status> {
        let request = request.into_inner();
        let (mut listing, state, page) = check(|violations| {
            let listing = read::listing(violations, &request);
            let state = read::state(violations, request.state);
            let query = read::query(&request);
            let query: Vec<&str> = query.iter().map(String::as_str).collect();
            let page = page::read_placed(violations, request.page_size, &request.page_token, &query);
            Some((listing?, state?, page?))
        })?;
        (listing.from, listing.limit) = (page.from.clone(), page.size);
        let (views, next) = self.0.cqrs.commands.list(listing, state).await?;
        let executions = views.into_iter().map(show::execution).collect();
        let next_page_token = next.map(|place| page.token(&place)).unwrap_or_default();
        Ok(Response::new(v1::ListCommandsResponse { executions, next_page_token }))
    }

    type HandleCommandsStream = BoxStream<'static, Result<v1::HandleCommandsResponse, Status>>;

    async fn handle_commands(
        &self,
        request: Request<v1::HandleCommandsRequest>,
    ) -> Result<Response<Self::HandleCommandsStream>, Status> {
        let handling = handle::open(&self.0, request.into_inner()).await?;
        Ok(Response::new(Box::pin(handle::events(self.0.clone(), handling))))
    }

    async fn complete_command(
        &self,
        request: Request<v1::CompleteCommandRequest>,
    ) -> Result<Response<v1::CompleteCommandResponse>, Status> {
        let request = request.into_inner();
        let (ack_id, completion, events) = check(|violations| read::completion(violations, request))?;
        let view = self.0.cqrs.commands.complete(ack_id, completion, events).await?;
        Ok(Response::new(v1::CompleteCommandResponse { execution: Some(show::execution(view)) }))
    }

    async fn drain_handler(
        &self,
        request: Request<v1::DrainHandlerRequest>,
    ) -> Result<Response<v1::DrainHandlerResponse>, Status> {
        let access = Access::of(&request);
        let v1::DrainHandlerRequest { handler_id } = request.into_inner();
        let handler_id = check(|violations| {
            if handler_id.is_empty() {
                let description = "is required; give the handler_id that the stream began with";
                return violations.refuse("handler_id", "REQUIRED", description);
            }
            violations.text("handler_id", &handler_id, MAX_NAME_BYTES).map(|()| handler_id)
        })?;
        let may = |types: &[Name]| types.iter().all(|kind| access.allows(Verb::Handle, kind));
        self.0.cqrs.commands.drain(&handler_id, may)?;
        Ok(Response::new(v1::DrainHandlerResponse {}))
    }

    async fn extend_command(
        &self,
        request: Request<v1::ExtendCommandRequest>,
    ) -> Result<Response<v1::ExtendCommandResponse>, Status> {
        let v1::ExtendCommandRequest { ack_id, lease } = request.into_inner();
        // Without a lease, the usual one: `check` tells that from a bad one.
        let lease = check(|violations| {
            let span = |span| violations.duration("lease", span, MIN_ACK_DEADLINE..=MAX_ACK_DEADLINE);
            Some(lease.map(span).and_then(|span| span))
        })?;
        let cancel_requested = self.0.cqrs.commands.extend(ack_id, lease).await?;
        Ok(Response::new(v1::ExtendCommandResponse { cancel_requested }))
    }
}

impl Commands {
    /// Looks whether the caller may know of a command, where anything may be forbidden at all.
    async fn look(&self, access: &Access, verb: Verb, id: &str) -> Result<(), Refusal> {
        if access.is_limited() {
            seen(access, verb, self.0.cqrs.commands.view(id, Parts::Summary).await?)?;
        }
        Ok(())
    }
}

/// A command of a type that the caller may do this with. Another one looks as if it were not there.
fn seen(access: &Access, verb: Verb, view: View) -> Result<View, Refusal> {
    if access.allows(verb, &view.command.kind) {
        return Ok(view);
    }
    Err(Error::NotFound(view.command.id).into())
}

/// The next event of a stream of states; `None` at its end.
async fn next_state(context: &Context, following: &mut Following) -> Result<Option<Event>, Refusal> {
    tokio::select! {
        biased;
        () = context.stop.cancelled() => Err(Refusal::shutting_down()),
        view = following.next() => Ok(view?.map(|view| Event::Execution(show::execution(view)))),
        () = sleep(context.heartbeat) => Ok(Some(Event::Heartbeat(heartbeat()))),
    }
}

fn read_id(id: String) -> Result<String, Refusal> {
    check(|violations| given_id(violations, id))
}

/// The id of a command that there should be.
fn given_id(violations: &mut Violations, id: String) -> Option<String> {
    if id.is_empty() {
        return violations.refuse("id", "REQUIRED", "is required; give the id of a command");
    }
    violations.text("id", &id, MAX_COMMAND_ID_BYTES).map(|()| id)
}

fn read_wait(
    violations: &mut Violations,
    wait: Option<prost_types::Duration>,
    default: Duration,
) -> Option<Duration> {
    match wait {
        None => Some(default),
        Some(wait) => violations.duration("wait", wait, Duration::ZERO..=MAX_COMMAND_WAIT),
    }
}
