//! `PUT key value` as a command, and "the five highest values of at least n among the keys that begin with
//! prefix" as a query: durable on the way in, indexed on the way out, and live.
//!
//! ```text
//! cargo run --release -- serve &
//! cargo run --release --example put_and_top
//! ```
//!
//! One task handles the commands and queries; it could as well be another process, in another language.
//! The rest is a client, which reads what it has just written.

use columba::proto::v1::command_service_client::CommandServiceClient;
use columba::proto::v1::complete_command_request::Outcome;
use columba::proto::v1::handle_commands_response::Event as CommandEvent;
use columba::proto::v1::handle_queries_response::Event as QueryEvent;
use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::query_service_client::QueryServiceClient;
use columba::proto::v1::{
    AnswerQueryRequest, Bucket, Command, CommandDelivery, CompleteCommandRequest, CreateBucketRequest,
    HandleCommandsRequest, HandleQueriesRequest, ListEntriesRequest, PutRequest, QueryDelivery, QueryRequest,
    QueryResult, SendCommandRequest, answer_query_request,
};
use tonic::transport::Channel;

type Error = Box<dyn std::error::Error + Send + Sync>;

const BUCKET: &str = "put-and-top";
const PUT: &str = "scores.Put";
const TOP: &str = "scores.Top";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:7171".into());
    let channel = Channel::from_shared(server)?.connect().await?;
    let bucket = Bucket { name: BUCKET.into(), ..Bucket::default() };
    let create = CreateBucketRequest { bucket: Some(bucket) };
    KeyValueServiceClient::new(channel.clone()).create_bucket(create).await?;

    // Both streams are open before anything is sent: a query finds nobody otherwise.
    let commands = HandleCommandsRequest { types: vec![PUT.into()], ..Default::default() };
    let mut commands =
        CommandServiceClient::new(channel.clone()).handle_commands(commands).await?.into_inner();
    let queries = HandleQueriesRequest { types: vec![TOP.into()], ..Default::default() };
    let mut queries = QueryServiceClient::new(channel.clone()).handle_queries(queries).await?.into_inner();
    let handler = channel.clone();
    let handling: tokio::task::JoinHandle<Result<(), Error>> = tokio::spawn(async move {
        loop {
            tokio::select! {
                event = commands.message() => match event?.and_then(|event| event.event) {
                    Some(CommandEvent::Delivery(delivery)) => handle_put(&handler, delivery).await?,
                    Some(_) => {}
                    None => return Ok(()),
                },
                event = queries.message() => match event?.and_then(|event| event.event) {
                    Some(QueryEvent::Delivery(delivery)) => answer_top(&handler, delivery).await?,
                    Some(_) => {}
                    None => return Ok(()),
                },
            }
        }
    });

    let mut revision = 0;
    for (key, value) in [("ada/1", 7.0), ("ada/2", 42.0), ("bob/1", 99.0), ("ada/3", 19.0), ("ada/2", 23.0)] {
        revision = put(&channel, key, value).await?;
        println!("PUT {key} {value}: revision {revision}");
    }
    println!("the five highest of at least 10 that begin with ada/:");
    print!("{}", top(&channel, "ada/", 10.0, revision).await?);
    handling.abort();
    Ok(())
}

/// Sends the command and waits for its outcome: the revision that holds the value.
async fn put(channel: &Channel, key: &str, value: f64) -> Result<u64, Error> {
    let command = Command {
        r#type: PUT.into(),
        // Commands with one key are handled in order, those with others at the same time.
        key: key.into(),
        payload: value.to_string().into(),
        ..Command::default()
    };
    let wait = Some(prost_types::Duration { seconds: 10, nanos: 0 });
    let request = SendCommandRequest { command: Some(command), wait };
    let sent = CommandServiceClient::new(channel.clone()).send_command(request).await?.into_inner();
    let execution = sent.execution.ok_or("no execution")?;
    Ok(std::str::from_utf8(&execution.result)?.parse()?)
}

/// Carries out a command. Should it come again because this program died before it had answered, the same
/// value is put again, which changes nothing for anybody.
async fn handle_put(channel: &Channel, delivery: CommandDelivery) -> Result<(), Error> {
    let command = delivery.command.ok_or("no command")?;
    let score: f64 = std::str::from_utf8(&command.payload)?.parse()?;
    let put = PutRequest {
        bucket: BUCKET.into(),
        key: command.key,
        value: command.payload,
        score: Some(score),
        ..PutRequest::default()
    };
    let revision = KeyValueServiceClient::new(channel.clone()).put(put).await?.into_inner().revision;
    let outcome = Some(Outcome::Result(revision.to_string().into()));
    let complete = CompleteCommandRequest { ack_id: delivery.ack_id, outcome, events: Vec::new() };
    CommandServiceClient::new(channel.clone()).complete_command(complete).await?;
    Ok(())
}

/// Asks. The answer is no older than `revision`: what was put before is in it.
async fn top(channel: &Channel, prefix: &str, least: f64, revision: u64) -> Result<String, Error> {
    let query = QueryRequest {
        r#type: TOP.into(),
        key: prefix.into(),
        payload: least.to_string().into(),
        min_revision: revision,
        ..QueryRequest::default()
    };
    let answer = QueryServiceClient::new(channel.clone()).query(query).await?.into_inner();
    Ok(String::from_utf8(answer.payload.to_vec())?)
}

/// Answers a query from the bucket's index, which does not look at more entries than it has to.
async fn answer_top(channel: &Channel, delivery: QueryDelivery) -> Result<(), Error> {
    let list = ListEntriesRequest {
        bucket: BUCKET.into(),
        prefix: delivery.key,
        min_score: Some(std::str::from_utf8(&delivery.payload)?.parse()?),
        order_by: "score desc".into(),
        page_size: 5,
        ..ListEntriesRequest::default()
    };
    let list = KeyValueServiceClient::new(channel.clone()).list_entries(list).await?.into_inner();
    let lines = list.entries.iter().map(|entry| format!("  {} {}\n", entry.key, entry.score()));
    let result = QueryResult {
        payload: lines.collect::<String>().into(),
        content_type: "text/plain".into(),
        revision: list.revision,
    };
    let outcome = Some(answer_query_request::Outcome::Result(result));
    let answer = AnswerQueryRequest { query_id: delivery.query_id, outcome };
    QueryServiceClient::new(channel.clone()).answer_query(answer).await?;
    Ok(())
}
