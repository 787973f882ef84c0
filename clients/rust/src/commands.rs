//! Sends commands, and carries them out.

use serde::Deserialize;
use serde_json::json;
use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::columba::command_service_client::CommandServiceClient;
use crate::columba::complete_command_request::Outcome;
use crate::columba::handle_commands_response::Event;
use crate::columba::{
    Command, CommandFailure, CommandState, CompleteCommandRequest, HandleCommandsRequest, SendCommandRequest,
};
use crate::connection::{Next, is_unreachable, keep_open, retry, settled};
use crate::{emit, key_values};

/// A command as a JSON line.
#[derive(Deserialize)]
pub struct Line {
    id: Option<String>,
    r#type: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    payload: String,
}

/// Sends a command, and waits for its outcome.
pub async fn send(channel: &Channel, line: Line) -> Result<(), Status> {
    let command = Command {
        id: line.id.unwrap_or_else(|| Uuid::new_v4().to_string()),
        r#type: line.r#type,
        // Commands with one key are carried out in order.
        key: line.key,
        payload: line.payload.into(),
        ..Default::default()
    };
    let wait = Some(prost_types::Duration { seconds: 10, nanos: 0 });
    let request = SendCommandRequest { command: Some(command), wait };
    let commands = CommandServiceClient::new(channel.clone());
    let execution = loop {
        // The same id again is the same command: it runs once.
        let answer = retry(async || commands.clone().send_command(request.clone()).await).await?;
        match answer.execution {
            Some(execution) if execution.end_time.is_some() => break execution,
            _ => {}
        }
    };
    if execution.state() == CommandState::Succeeded {
        emit(&json!({ "result": String::from_utf8_lossy(&execution.result) }));
    } else {
        let state = execution.state().as_str_name();
        let failure = execution.failure.unwrap_or_default();
        emit(&json!({ "state": state, "failure": failure.code }));
    }
    Ok(())
}

/// Carries out commands of the type `<bucket>.put`: the payload, a number, is put under the command's key.
pub async fn handle(channel: &Channel, bucket: &str) -> Result<(), Status> {
    let commands = CommandServiceClient::new(channel.clone());
    let types = vec![format!("{bucket}.put")];
    let request = HandleCommandsRequest { types, handler: "rust".into(), ..Default::default() };
    let open = async || commands.clone().handle_commands(request.clone()).await;
    keep_open(open, async |response| {
        match response.event {
            Some(Event::Started(_)) => emit(&json!({ "handling": format!("{bucket}.put") })),
            Some(Event::Delivery(delivery)) => {
                let outcome = carry_out(channel, bucket, delivery.command.unwrap_or_default()).await?;
                let ack_id = delivery.ack_id;
                let complete = CompleteCommandRequest { ack_id, outcome: Some(outcome), events: vec![] };
                settled(retry(async || commands.clone().complete_command(complete.clone()).await).await)?;
            }
            Some(Event::Goaway(goaway)) => return Ok(Next::ComeBack(goaway)),
            _ => {}
        }
        Ok(Next::GoOn)
    })
    .await
}

/// Does what a command asks. After an error, it comes again.
async fn carry_out(channel: &Channel, bucket: &str, command: Command) -> Result<Outcome, Status> {
    let value = String::from_utf8_lossy(&command.payload).into_owned();
    let score = match value.parse::<f64>() {
        Ok(score) if score.is_finite() => score,
        _ => return Ok(failed("NOT_A_NUMBER", &format!("the payload is {value:?}"))),
    };
    // Should the command come again, the same is put again.
    let entry = key_values::Line { key: command.key, value, score: Some(score) };
    match key_values::put(channel, bucket, entry).await {
        Ok(revision) => Ok(Outcome::Result(revision.to_string().into())),
        Err(status) if is_unreachable(&status) => Err(status),
        Err(status) => Ok(failed("PUT_REFUSED", status.message())),
    }
}

/// The command has failed for good, and its sender is told why.
fn failed(code: &str, message: &str) -> Outcome {
    Outcome::Failure(CommandFailure { code: code.into(), message: message.into(), retryable: false })
}
