//! A handler process: carries out commands, and answers queries from what that has left.

use std::sync::Arc;

use columba::proto::v1::command_service_client::CommandServiceClient;
use columba::proto::v1::complete_command_request::Outcome;
use columba::proto::v1::handle_commands_response::Event as CommandEvent;
use columba::proto::v1::handle_queries_response::Event as QueryEvent;
use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::query_service_client::QueryServiceClient;
use columba::proto::v1::{
    AnswerQueryRequest, CommandDelivery, CommandEvents, CommandFailure, CompleteCommandRequest,
    HandleCommandsRequest, HandleQueriesRequest, Message, PutRequest, QueryDelivery, QueryResult,
    answer_query_request,
};
use tonic::transport::Channel;

use crate::{BUCKET, DEPARTED, Error, NEVER_LEFT, READY, RECORD, WORST_DELAYS, connect, rows, worst};

/// Commands and queries that this process works on at once, of each.
const AT_ONCE: u32 = 32;

/// Works until it is killed, or the server ends.
pub(crate) async fn run(address: &str, name: &str) -> Result<(), Error> {
    let channel = connect(address).await?;
    let handle =
        HandleCommandsRequest { types: vec![RECORD.into()], handler: name.into(), max_outstanding: AT_ONCE };
    let mut commands = CommandServiceClient::new(channel.clone()).handle_commands(handle).await?.into_inner();
    let handle = HandleQueriesRequest {
        types: vec![WORST_DELAYS.into()],
        handler: name.into(),
        max_outstanding: AT_ONCE,
    };
    let mut queries = QueryServiceClient::new(channel.clone()).handle_queries(handle).await?.into_inner();
    println!("{READY}");
    let name: Arc<str> = name.into();
    // The server hands out no more than `AT_ONCE`, so no more tasks than that run.
    loop {
        tokio::select! {
            event = commands.message() => {
                let event = event?.ok_or("the server ended the stream")?.event;
                if let Some(CommandEvent::Delivery(delivery)) = event {
                    let (channel, name) = (channel.clone(), name.clone());
                    tokio::spawn(async move { tell(record(&channel, &name, delivery).await) });
                }
            }
            event = queries.message() => {
                let event = event?.ok_or("the server ended the stream")?.event;
                if let Some(QueryEvent::Delivery(delivery)) = event {
                    let channel = channel.clone();
                    tokio::spawn(async move { tell(answer(&channel, delivery).await) });
                }
            }
        }
    }
}

/// A command that is not completed comes again when its lease ends, and a query is asked elsewhere.
fn tell(done: Result<(), Error>) {
    if let Err(error) = done {
        eprintln!("handler: {error}");
    }
}

/// Puts the delay into the bucket, then completes the command with the event. Killed between the two, it gets
/// the command again, and puts the same once more. The outcome and the event go out together, or not at all.
async fn record(channel: &Channel, handler: &str, delivery: CommandDelivery) -> Result<(), Error> {
    let command = delivery.command.ok_or("a delivery without command")?;
    let delay = String::from_utf8(command.payload.to_vec())?;
    let Ok(minutes) = delay.parse::<i32>() else {
        let message = format!("{} never left: its delay is {delay:?}", command.id);
        let failure = CommandFailure { code: NEVER_LEFT.into(), message, retryable: false };
        return complete(channel, delivery.ack_id, Outcome::Failure(failure), Vec::new()).await;
    };
    let put = PutRequest {
        bucket: BUCKET.into(),
        key: rows::key(&command.key, &command.id),
        value: command.payload.clone(),
        score: Some(minutes.into()),
        ..PutRequest::default()
    };
    let revision = KeyValueServiceClient::new(channel.clone()).put(put).await?.into_inner().revision;
    let event = Message {
        data: command.payload,
        key: command.key,
        id: command.id.clone(),
        causation_id: command.id,
        attributes: [("handler".to_owned(), handler.to_owned())].into(),
        ..Message::default()
    };
    let events = vec![CommandEvents { topic: DEPARTED.into(), messages: vec![event] }];
    complete(channel, delivery.ack_id, Outcome::Result(revision.to_string().into()), events).await
}

async fn complete(
    channel: &Channel,
    ack_id: bytes::Bytes,
    outcome: Outcome,
    events: Vec<CommandEvents>,
) -> Result<(), Error> {
    let request = CompleteCommandRequest { ack_id, outcome: Some(outcome), events };
    CommandServiceClient::new(channel.clone()).complete_command(request).await?;
    Ok(())
}

/// The worst delays of the carrier that the query's key names, a line each.
async fn answer(channel: &Channel, delivery: QueryDelivery) -> Result<(), Error> {
    let (entries, revision) = worst(channel, &format!("{}/", delivery.key), 0).await?;
    let lines = entries.iter().map(|(minutes, key)| format!("{minutes} {key}\n"));
    let result = QueryResult {
        payload: lines.collect::<String>().into(),
        content_type: "text/plain".into(),
        revision,
    };
    let outcome = Some(answer_query_request::Outcome::Result(result));
    let request = AnswerQueryRequest { query_id: delivery.query_id, outcome };
    QueryServiceClient::new(channel.clone()).answer_query(request).await?;
    Ok(())
}
