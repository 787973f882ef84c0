//! Commands and executions as wire messages.

use bytes::Bytes;

use crate::api::convert::{duration, timestamp};
use crate::api::wire::v1;
use crate::cqrs::commands::{Command, Ending, Failure, Handed, State, View};

pub(super) fn execution(view: View) -> v1::CommandExecution {
    v1::CommandExecution {
        state: state(view.state).into(),
        result: view.result,
        failure: view.failure.map(failure),
        attempts: view.attempts,
        revision: view.revision,
        cancel_requested: view.cancel_requested,
        create_time: Some(timestamp(view.accepted)),
        expire_time: Some(timestamp(view.expires)),
        end_time: view.ended.map(timestamp),
        command: Some(command(view.command)),
    }
}

pub(super) fn delivery(handed: Handed) -> v1::CommandDelivery {
    v1::CommandDelivery {
        ack_id: handed.ack_id,
        attempt: handed.attempt,
        expire_time: Some(timestamp(handed.expires)),
        command: Some(command(handed.command)),
    }
}

pub(super) fn cancel_requested(id: String, ack_id: Bytes) -> v1::CancelRequested {
    v1::CancelRequested { id, ack_id }
}

fn command(command: Command) -> v1::Command {
    v1::Command {
        id: command.id,
        r#type: command.kind.to_string(),
        key: command.key,
        payload: command.payload,
        content_type: command.content_type,
        attributes: command.attributes.into_iter().collect(),
        timeout: Some(duration(command.timeout)),
        correlation_id: command.correlation_id,
        causation_id: command.causation_id,
    }
}

fn failure(Failure { code, message, retryable }: Failure) -> v1::CommandFailure {
    v1::CommandFailure { code, message, retryable }
}

fn state(state: State) -> v1::CommandState {
    match state {
        State::Pending => v1::CommandState::Pending,
        State::Running => v1::CommandState::Running,
        State::Ended(Ending::Succeeded) => v1::CommandState::Succeeded,
        State::Ended(Ending::Failed) => v1::CommandState::Failed,
        State::Ended(Ending::Cancelled) => v1::CommandState::Cancelled,
        State::Ended(Ending::Expired) => v1::CommandState::Expired,
    }
}
