//! `CommandService`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use columba::engine::MemoryEngine;
use columba::proto::v1::command_service_client::CommandServiceClient;
use columba::proto::v1::complete_command_request::Outcome;
use columba::proto::v1::handle_commands_response::Event;
use columba::proto::v1::watch_command_response::Event as Watched;
use columba::proto::v1::{
    CancelCommandRequest, Command, CommandDelivery, CommandEvents, CommandExecution, CommandFailure,
    CommandState, CompleteCommandRequest, DeleteTopicRequest, DrainHandlerRequest, ExtendCommandRequest,
    GetCommandRequest, GetTopicRequest, HandleCommandsRequest, HandleCommandsResponse, ListCommandsRequest,
    ListSubscriptionsRequest, ListTopicsRequest, SendCommandRequest, WaitCommandRequest, WatchCommandRequest,
};
use columba::server::Options;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::common::{TestServer, assert_refused, bad_fields, message, within};

const TYPE: &str = "orders.place";

type Client = CommandServiceClient<Channel>;

fn client(server: &TestServer) -> Client {
    CommandServiceClient::new(server.channel())
}

fn command(id: &str, payload: &'static str) -> Command {
    Command { id: id.into(), r#type: TYPE.into(), payload: payload.into(), ..Command::default() }
}

#[expect(clippy::unnecessary_wraps, reason = "as the fields of requests are")]
fn span(millis: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(millis).try_into().unwrap())
}

async fn send(client: &mut Client, command: Command) -> CommandExecution {
    let request = SendCommandRequest { command: Some(command), wait: None };
    within(client.send_command(request)).await.unwrap().into_inner().execution.unwrap()
}

async fn get(client: &mut Client, id: &str) -> CommandExecution {
    let request = GetCommandRequest { id: id.into() };
    within(client.get_command(request)).await.unwrap().into_inner().execution.unwrap()
}

async fn wait(client: &mut Client, id: &str) -> CommandExecution {
    let request = WaitCommandRequest { id: id.into(), wait: span(20_000) };
    within(client.wait_command(request)).await.unwrap().into_inner().execution.unwrap()
}

async fn cancel(client: &mut Client, id: &str) -> Result<CommandExecution, tonic::Status> {
    let answer = within(client.cancel_command(CancelCommandRequest { id: id.into() })).await?;
    Ok(answer.into_inner().execution.unwrap())
}

/// A handler's stream that is open.
struct Handler {
    events: Streaming<HandleCommandsResponse>,
}

impl Handler {
    async fn open(client: &mut Client, types: &[&str], max_outstanding: u32) -> Self {
        let types = types.iter().map(|&name| name.to_owned()).collect();
        let request = HandleCommandsRequest { types, handler: "test".into(), max_outstanding };
        let mut events = within(client.handle_commands(request)).await.unwrap().into_inner();
        let first = within(events.message()).await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::Started(_))), "{first:?}");
        Self { events }
    }

    async fn next(&mut self) -> Event {
        loop {
            let event = within(self.events.message()).await.unwrap().unwrap().event.unwrap();
            if !matches!(event, Event::Heartbeat(_)) {
                return event;
            }
        }
    }

    async fn delivery(&mut self) -> CommandDelivery {
        match self.next().await {
            Event::Delivery(delivery) => delivery,
            other => panic!("{other:?} is no delivery"),
        }
    }
}

fn done(delivery: &CommandDelivery, result: &'static str) -> CompleteCommandRequest {
    let outcome = Some(Outcome::Result(Bytes::from_static(result.as_bytes())));
    CompleteCommandRequest { ack_id: delivery.ack_id.clone(), outcome, events: Vec::new() }
}

fn failed(delivery: &CommandDelivery, code: &str, retryable: bool) -> CompleteCommandRequest {
    let failure = CommandFailure { code: code.into(), message: "because".into(), retryable };
    CompleteCommandRequest { outcome: Some(Outcome::Failure(failure)), ..done(delivery, "") }
}

async fn complete(
    client: &mut Client,
    request: CompleteCommandRequest,
) -> Result<CommandExecution, tonic::Status> {
    Ok(within(client.complete_command(request)).await?.into_inner().execution.unwrap())
}

async fn started(types: &[&str]) -> (TestServer, Client, Handler) {
    let server = TestServer::start().await;
    let mut client = client(&server);
    let handler = Handler::open(&mut client, types, 0).await;
    (server, client, handler)
}

#[tokio::test]
async fn a_command_is_handled_and_its_sender_gets_the_result() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    let mut sender = client.clone();
    let attributes = [("a".to_owned(), "b".to_owned())].into();
    let sent = Command { key: "k".into(), attributes, timeout: span(60_000), ..command("c-1", "beans") };
    let request = SendCommandRequest { command: Some(sent.clone()), wait: span(20_000) };
    let sending = tokio::spawn(async move { sender.send_command(request).await });
    let delivery = handler.delivery().await;
    assert_eq!((delivery.command.as_ref(), delivery.attempt), (Some(&sent), 1));
    assert_eq!(get(&mut client, "c-1").await.state(), CommandState::Running);
    let completed = complete(&mut client, done(&delivery, "sold")).await.unwrap();
    assert_eq!(completed.state(), CommandState::Succeeded);
    let execution = within(sending).await.unwrap().unwrap().into_inner().execution.unwrap();
    assert_eq!((execution.state(), &execution.result[..]), (CommandState::Succeeded, &b"sold"[..]));
    assert_eq!((execution.command.as_ref(), execution.attempts), (Some(&sent), 1));
    assert_eq!(get(&mut client, "c-1").await, execution);
    assert_eq!(wait(&mut client, "c-1").await, execution);
}

#[tokio::test]
async fn an_id_counts_once() {
    let (_server, mut client, mut handler) = started(&[TYPE, "other"]).await;
    let first = send(&mut client, command("c", "1")).await;
    assert_eq!(send(&mut client, command("c", "1")).await.create_time, first.create_time);
    let request = |command| SendCommandRequest { command: Some(command), wait: None };
    let others = [
        command("c", "2"),
        Command { key: "k".into(), ..command("c", "1") },
        Command { r#type: "other".into(), ..command("c", "1") },
        Command { timeout: span(5), ..command("c", "1") },
    ];
    for other in others.clone() {
        let refused = client.send_command(request(other)).await;
        assert_refused(refused, Code::AlreadyExists, "COMMAND_EXISTS");
    }
    let delivery = handler.delivery().await;
    complete(&mut client, done(&delivery, "r")).await.unwrap();
    // Listing waits for the index: from now on the index answers, and not what is in memory.
    client.list_commands(ListCommandsRequest::default()).await.unwrap();
    assert_eq!(send(&mut client, command("c", "1")).await.result, "r");
    for other in others {
        let refused = client.send_command(request(other)).await;
        assert_refused(refused, Code::AlreadyExists, "COMMAND_EXISTS");
    }
    let made = send(&mut client, command("", "1")).await;
    assert_eq!(made.command.unwrap().id.len(), 36);
    handler.delivery().await;
}

#[tokio::test]
async fn many_senders_of_one_id_run_it_once() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    let sends = (0..50).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move { send(&mut client, command("c", "1")).await })
    });
    for sent in sends.collect::<Vec<_>>() {
        within(sent).await.unwrap();
    }
    complete(&mut client, done(&handler.delivery().await, "r")).await.unwrap();
    send(&mut client, command("d", "1")).await;
    assert_eq!(handler.delivery().await.command.unwrap().id, "d");
}

#[tokio::test]
async fn commands_of_one_key_are_handled_in_order() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    let keyed = |id: &str| Command { key: "k".into(), ..command(id, "1") };
    for id in ["1", "2"] {
        send(&mut client, keyed(id)).await;
    }
    send(&mut client, command("3", "1")).await;
    let first = handler.delivery().await;
    let other = handler.delivery().await;
    assert_eq!((&*first.command.as_ref().unwrap().id, &*other.command.unwrap().id), ("1", "3"));
    // The one that fails is tried again before those after it.
    complete(&mut client, failed(&first, "BUSY", true)).await.unwrap();
    let again = handler.delivery().await;
    assert_eq!((&*again.command.as_ref().unwrap().id, again.attempt), ("1", 2));
    complete(&mut client, done(&again, "")).await.unwrap();
    let second = handler.delivery().await;
    assert_eq!(second.command.as_ref().unwrap().id, "2");
    send(&mut client, keyed("4")).await;
    complete(&mut client, failed(&second, "SOLD_OUT", false)).await.unwrap();
    assert_eq!(handler.delivery().await.command.unwrap().id, "4");
}

#[tokio::test]
async fn a_failure_is_retried_or_final() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    send(&mut client, command("c", "1")).await;
    let first = handler.delivery().await;
    let execution = complete(&mut client, failed(&first, "BUSY", true)).await.unwrap();
    assert_eq!((execution.state(), execution.failure.unwrap().code), (CommandState::Pending, "BUSY".into()));
    let again = complete(&mut client, done(&first, "late")).await;
    assert_refused(again, Code::Aborted, "COMMAND_LEASE_LOST");
    let second = handler.delivery().await;
    assert_eq!(second.attempt, 2);
    complete(&mut client, failed(&second, "SOLD_OUT", false)).await.unwrap();
    let execution = wait(&mut client, "c").await;
    let failure = execution.failure.clone().unwrap();
    assert_eq!((execution.state(), execution.attempts), (CommandState::Failed, 2));
    assert_eq!((&*failure.code, &*failure.message, failure.retryable), ("SOLD_OUT", "because", false));
}

#[tokio::test]
async fn events_come_out_with_the_outcome_or_not_at_all() {
    let (server, mut client, mut handler) = started(&[TYPE]).await;
    server.create_topic("sold").await;
    send(&mut client, command("c", "1")).await;
    let delivery = handler.delivery().await;
    let events = |topic: &str| CommandEvents { topic: topic.into(), messages: vec![message("e")] };
    let with = |events| CompleteCommandRequest { events, ..done(&delivery, "r") };
    let refused = complete(&mut client, with(vec![events("sold"), events("missing")])).await;
    assert_refused(refused, Code::NotFound, "TOPIC_NOT_FOUND");
    assert_eq!(last_offset(&server, "sold").await, 0);
    assert_eq!(get(&mut client, "c").await.state(), CommandState::Running);
    let too_many = complete(&mut client, with(vec![events("sold"); 99])).await;
    assert_refused(too_many, Code::InvalidArgument, "TOO_MANY_EVENTS");
    let retried = CompleteCommandRequest { events: vec![events("sold")], ..failed(&delivery, "BUSY", true) };
    assert_refused(complete(&mut client, retried).await, Code::InvalidArgument, "CONTRADICTION");
    complete(&mut client, with(vec![events("sold")])).await.unwrap();
    assert_eq!(last_offset(&server, "sold").await, 1);
    // The answer was lost; the handler says it again.
    let again = complete(&mut client, with(vec![events("sold")])).await.unwrap();
    assert_eq!(again.state(), CommandState::Succeeded);
    assert_eq!(last_offset(&server, "sold").await, 1);
    let other = assert_refused(
        complete(&mut client, done(&delivery, "other")).await,
        Code::FailedPrecondition,
        "COMMAND_ENDED",
    );
    assert!(other.message().contains("SUCCEEDED"), "{other:?}");
}

async fn last_offset(server: &TestServer, topic: &str) -> u64 {
    let topic = server.topics().get_topic(GetTopicRequest { topic: topic.into() }).await.unwrap();
    topic.into_inner().topic.unwrap().last_offset
}

#[tokio::test]
async fn a_result_that_is_too_large_keeps_the_lease() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    send(&mut client, command("c", "1")).await;
    let delivery = handler.delivery().await;
    let large = |bytes: usize| CompleteCommandRequest {
        outcome: Some(Outcome::Result(vec![b'x'; bytes].into())),
        ..done(&delivery, "")
    };
    let refused = complete(&mut client, large((1 << 20) + 1)).await;
    assert_eq!(bad_fields(&assert_refused(refused, Code::InvalidArgument, "TOO_LARGE")), ["result"]);
    complete(&mut client, large(1 << 20)).await.unwrap();
    assert_eq!(wait(&mut client, "c").await.result.len(), 1 << 20);
}

#[tokio::test]
async fn deliveries_of_nobody_are_refused() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    send(&mut client, command("c", "1")).await;
    let delivery = handler.delivery().await;
    for ack_id in [&b"nonsense"[..], &[0x0a, 1, b'c'], &delivery.ack_id[..4]] {
        let foreign = CommandDelivery { ack_id: ack_id.to_vec().into(), ..delivery.clone() };
        let refused = complete(&mut client, done(&foreign, "")).await;
        assert_refused(refused, Code::FailedPrecondition, "ACK_ID_UNKNOWN");
        let extend = ExtendCommandRequest { ack_id: foreign.ack_id, lease: None };
        assert_refused(client.extend_command(extend).await, Code::FailedPrecondition, "ACK_ID_UNKNOWN");
    }
    let mut other = delivery.ack_id.to_vec();
    *other.last_mut().unwrap() ^= 1;
    let foreign = CommandDelivery { ack_id: other.into(), ..delivery.clone() };
    let refused = complete(&mut client, done(&foreign, "")).await;
    assert_refused(refused, Code::Aborted, "COMMAND_LEASE_LOST");
    let extend = ExtendCommandRequest { ack_id: delivery.ack_id.clone(), lease: span(60_000) };
    assert!(!client.extend_command(extend).await.unwrap().into_inner().cancel_requested);
    complete(&mut client, done(&delivery, "")).await.unwrap();
}

#[tokio::test]
async fn what_a_handler_held_goes_to_another_when_it_leaves() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    send(&mut client, command("c", "1")).await;
    let lost = handler.delivery().await;
    drop(handler);
    let mut second = Handler::open(&mut client, &[TYPE], 1).await;
    let again = second.delivery().await;
    assert_eq!((again.attempt, &again.command), (2, &lost.command));
    assert_refused(complete(&mut client, done(&lost, "")).await, Code::Aborted, "COMMAND_LEASE_LOST");
    complete(&mut client, done(&again, "r")).await.unwrap();
    assert_eq!(get(&mut client, "c").await.attempts, 2);
}

#[tokio::test]
async fn a_handler_that_is_drained_keeps_what_it_has_and_gets_no_more() {
    let server = TestServer::start().await;
    let mut client = client(&server);
    let request = HandleCommandsRequest { types: vec![TYPE.into()], ..HandleCommandsRequest::default() };
    let events = client.handle_commands(request).await.unwrap().into_inner();
    let mut first = Handler { events };
    let Event::Started(started) = first.next().await else { panic!("it is the first event") };
    let keyed = |id: &str| Command { key: "k".into(), ..command(id, "1") };
    send(&mut client, keyed("has")).await;
    let has = first.delivery().await;
    // It waits on the stream, for its key.
    send(&mut client, keyed("waits")).await;
    let drain = |handler_id: &str| DrainHandlerRequest { handler_id: handler_id.into() };
    client.drain_handler(drain(&started.handler_id)).await.unwrap();
    client.drain_handler(drain(&started.handler_id)).await.unwrap();
    let mut second = Handler::open(&mut client, &[TYPE], 0).await;
    for id in ["a", "b", "c"] {
        send(&mut client, command(id, "1")).await;
        assert_eq!(second.delivery().await.command.unwrap().id, id);
    }
    assert_eq!(complete(&mut client, done(&has, "")).await.unwrap().state(), CommandState::Succeeded);
    assert_eq!(second.delivery().await.command.unwrap().id, "waits");
    drop(first);
    let gone = async {
        loop {
            if let Err(status) = client.drain_handler(drain(&started.handler_id)).await {
                return status;
            }
        }
    };
    let status = assert_refused(Err::<(), _>(within(gone).await), Code::NotFound, "HANDLER_NOT_FOUND");
    assert!(status.message().contains(&started.handler_id), "{status:?}");
    let none = client.drain_handler(drain("")).await;
    assert_refused(none, Code::InvalidArgument, "REQUIRED");
}

#[tokio::test]
async fn a_handler_that_never_answers_does_not_keep_a_command_beyond_its_timeout() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    let impatient = |id| Command { timeout: span(300), ..command(id, "1") };
    send(&mut client, impatient("running")).await;
    let delivery = handler.delivery().await;
    let execution = wait(&mut client, "running").await;
    assert_eq!((execution.state(), execution.attempts), (CommandState::Expired, 1));
    let late = complete(&mut client, done(&delivery, "late")).await;
    let status = assert_refused(late, Code::FailedPrecondition, "COMMAND_ENDED");
    assert!(status.message().contains("EXPIRED"), "{status:?}");
    drop(handler);
    send(&mut client, impatient("pending")).await;
    assert_eq!(wait(&mut client, "pending").await.state(), CommandState::Expired);
}

#[tokio::test]
async fn a_lease_that_runs_out_makes_another_attempt() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    send(&mut client, command("c", "1")).await;
    let first = handler.delivery().await;
    let extend = ExtendCommandRequest { ack_id: first.ack_id.clone(), lease: span(1_000) };
    client.extend_command(extend).await.unwrap();
    let second = handler.delivery().await;
    assert_eq!(second.attempt, 2);
    assert_refused(complete(&mut client, done(&first, "")).await, Code::Aborted, "COMMAND_LEASE_LOST");
    complete(&mut client, done(&second, "")).await.unwrap();
}

#[tokio::test]
async fn a_pending_command_is_cancelled_at_once() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    drop(handler);
    send(&mut client, command("c", "1")).await;
    assert_eq!(cancel(&mut client, "c").await.unwrap().state(), CommandState::Cancelled);
    assert_eq!(cancel(&mut client, "c").await.unwrap().state(), CommandState::Cancelled);
    handler = Handler::open(&mut client, &[TYPE], 0).await;
    send(&mut client, command("d", "1")).await;
    let delivery = handler.delivery().await;
    assert_eq!(delivery.command.as_ref().unwrap().id, "d");
    complete(&mut client, done(&delivery, "")).await.unwrap();
    let refused = cancel(&mut client, "d").await;
    assert_refused(refused, Code::FailedPrecondition, "COMMAND_ENDED");
    assert_refused(cancel(&mut client, "x").await, Code::NotFound, "COMMAND_NOT_FOUND");
}

#[tokio::test]
async fn a_handler_is_told_to_cancel_and_decides() {
    let (_server, mut client, mut handler) = started(&[TYPE]).await;
    for (id, answer, state) in [
        ("obeys", Some(("CANCELLED", false)), CommandState::Cancelled),
        ("retries", Some(("BUSY", true)), CommandState::Cancelled),
        ("fails", Some(("SOLD_OUT", false)), CommandState::Failed),
        ("finishes", None, CommandState::Succeeded),
    ] {
        send(&mut client, command(id, "1")).await;
        let delivery = handler.delivery().await;
        let execution = cancel(&mut client, id).await.unwrap();
        assert_eq!((execution.state(), execution.cancel_requested), (CommandState::Running, true));
        match handler.next().await {
            Event::CancelRequested(told) => {
                assert_eq!((told.id, told.ack_id), (id.into(), delivery.ack_id.clone()));
            }
            other => panic!("{other:?}"),
        }
        let request = match answer {
            Some((code, retryable)) => failed(&delivery, code, retryable),
            None => done(&delivery, "r"),
        };
        complete(&mut client, request).await.unwrap();
        assert_eq!(wait(&mut client, id).await.state(), state, "{id}");
    }
    // Its stream ends without an outcome.
    send(&mut client, command("leaves", "1")).await;
    handler.delivery().await;
    cancel(&mut client, "leaves").await.unwrap();
    drop(handler);
    assert_eq!(wait(&mut client, "leaves").await.state(), CommandState::Cancelled);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let (_server, mut client, handler) = started(&[TYPE]).await;
    drop(handler);
    let unknown = Command { r#type: "orders.plaec".into(), ..command("c", "1") };
    let request = |command: Command| SendCommandRequest { command: Some(command), wait: None };
    let refused = client.send_command(request(unknown)).await;
    let status = assert_refused(refused, Code::NotFound, "COMMAND_TYPE_NOT_FOUND");
    assert!(status.message().contains("columba command handle"), "{status:?}");
    let bad = Command {
        id: "a\nb".into(),
        r#type: "_x".into(),
        key: "k".repeat(1_025),
        payload: vec![0; (1 << 20) + 1].into(),
        timeout: span(24 * 60 * 60 * 1_000 + 1),
        attributes: [(String::new(), String::new())].into(),
        ..Command::default()
    };
    let status = client.send_command(request(bad)).await.unwrap_err();
    let fields = ["id", "type", "key", "payload", "timeout", "attributes"].map(|f| format!("command.{f}"));
    assert_eq!(bad_fields(&status), fields);
    let zero = Command { timeout: span(0), ..command("c", "1") };
    assert_refused(client.send_command(request(zero)).await, Code::InvalidArgument, "INVALID_DURATION");
    let long = SendCommandRequest { command: Some(command("c", "1")), wait: span(60_001) };
    assert_refused(client.send_command(long).await, Code::InvalidArgument, "INVALID_DURATION");
    assert_refused(
        client.send_command(SendCommandRequest::default()).await,
        Code::InvalidArgument,
        "REQUIRED",
    );
    let unknown = GetCommandRequest { id: "c".into() };
    assert_refused(client.get_command(unknown).await, Code::NotFound, "COMMAND_NOT_FOUND");
    let none = GetCommandRequest::default();
    assert_refused(client.get_command(none).await, Code::InvalidArgument, "REQUIRED");
    let unknown = WatchCommandRequest { id: "c".into() };
    assert_refused(client.watch_command(unknown).await, Code::NotFound, "COMMAND_NOT_FOUND");
    for types in [vec![], vec!["_x".to_owned()], vec!["x".to_owned(); 101]] {
        let request = HandleCommandsRequest { types, ..HandleCommandsRequest::default() };
        assert_eq!(client.handle_commands(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let nothing = CompleteCommandRequest::default();
    assert_eq!(bad_fields(&client.complete_command(nothing).await.unwrap_err()), ["ack_id", "outcome"]);
}

#[tokio::test]
async fn states_are_watched_to_the_end() {
    let (_server, mut client, handler) = started(&[TYPE]).await;
    drop(handler);
    send(&mut client, command("c", "1")).await;
    let watch = client.watch_command(WatchCommandRequest { id: "c".into() });
    let mut watch = within(watch).await.unwrap().into_inner();
    let mut states = Vec::new();
    let mut last = 0;
    let mut delivery = None;
    let mut handler = None;
    while let Some(event) = within(watch.message()).await.unwrap() {
        let Some(Watched::Execution(execution)) = event.event else { continue };
        assert!(execution.revision > last);
        last = execution.revision;
        states.push(execution.state());
        match execution.state() {
            CommandState::Pending => {
                let mut opened = Handler::open(&mut client, &[TYPE], 0).await;
                delivery = Some(opened.delivery().await);
                handler = Some(opened);
            }
            CommandState::Running => {
                complete(&mut client, done(delivery.as_ref().unwrap(), "")).await.unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(states, [CommandState::Pending, CommandState::Running, CommandState::Succeeded]);
    drop(handler);
}

#[tokio::test]
async fn executions_are_listed_by_type_state_key_and_time() {
    let (_server, mut client, mut handler) = started(&["b", "a"]).await;
    let of = |kind: &str, id: &str, key: &str| Command {
        r#type: kind.into(),
        key: key.into(),
        ..command(id, "payload")
    };
    for (kind, id, key) in [("b", "1", "x"), ("a", "2", "y"), ("b", "3", "y"), ("a", "4", "x")] {
        send(&mut client, of(kind, id, key)).await;
    }
    let mut deliveries = Vec::new();
    for _ in 0..4 {
        deliveries.push(handler.delivery().await);
    }
    let third = deliveries.iter().find(|it| it.command.as_ref().unwrap().id == "3").unwrap();
    complete(&mut client, failed(third, "SOLD_OUT", false)).await.unwrap();
    let base = ListCommandsRequest::default();
    let since = get(&mut client, "3").await.create_time;
    let key = || "y".to_owned();
    for (request, expected) in [
        (base.clone(), vec!["2", "4", "1", "3"]),
        (ListCommandsRequest { r#type: "b".into(), ..base.clone() }, vec!["1", "3"]),
        (ListCommandsRequest { state: CommandState::Failed.into(), ..base.clone() }, vec!["3"]),
        (ListCommandsRequest { state: CommandState::Running.into(), ..base.clone() }, vec!["2", "4", "1"]),
        (ListCommandsRequest { state: CommandState::Pending.into(), ..base.clone() }, vec![]),
        (ListCommandsRequest { key: key(), ..base.clone() }, vec!["2", "3"]),
        (ListCommandsRequest { since, ..base.clone() }, vec!["4", "3"]),
        (ListCommandsRequest { until: since, ..base.clone() }, vec!["2", "1"]),
    ] {
        let listed = client.list_commands(request.clone()).await.unwrap().into_inner();
        let ids: Vec<_> =
            listed.executions.iter().map(|it| it.command.as_ref().unwrap().id.clone()).collect();
        assert_eq!(ids, expected, "{request:?}");
        assert!(listed.executions.iter().all(|it| it.command.as_ref().unwrap().payload.is_empty()));
    }
    let mut ids = Vec::new();
    let mut request = ListCommandsRequest { page_size: 1, ..base.clone() };
    loop {
        let listed = client.list_commands(request.clone()).await.unwrap().into_inner();
        ids.extend(listed.executions.into_iter().map(|it| it.command.unwrap().id));
        request.page_token = listed.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        let other = ListCommandsRequest { key: key(), ..request.clone() };
        assert_refused(client.list_commands(other).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    }
    assert_eq!(ids, ["2", "4", "1", "3"]);
    let failed = ListCommandsRequest { state: CommandState::Failed.into(), ..base.clone() };
    let listed = client.list_commands(failed).await.unwrap().into_inner().executions;
    assert_eq!(listed[0].failure.as_ref().unwrap().code, "SOLD_OUT");
    assert_refused(
        client.list_commands(ListCommandsRequest { state: 77, ..base }).await,
        Code::InvalidArgument,
        "UNKNOWN_ENUM_VALUE",
    );
}

#[tokio::test]
async fn a_handler_holds_no_more_than_it_asked_for() {
    let (_server, mut client, handler) = started(&[TYPE]).await;
    drop(handler);
    for id in ["1", "2", "3"] {
        send(&mut client, command(id, "1")).await;
    }
    let mut handler = Handler::open(&mut client, &[TYPE], 2).await;
    let first = handler.delivery().await;
    handler.delivery().await;
    let waiting = get(&mut client, "3").await;
    assert_eq!(waiting.state(), CommandState::Pending);
    complete(&mut client, done(&first, "")).await.unwrap();
    assert_eq!(handler.delivery().await.command.unwrap().id, "3");
}

#[tokio::test]
async fn the_topics_behind_it_are_nobodys_business() {
    let (server, mut client, _handler) = started(&[TYPE]).await;
    send(&mut client, command("c", "1")).await;
    let topics = server.topics().list_topics(ListTopicsRequest::default()).await.unwrap();
    assert!(topics.into_inner().topics.is_empty());
    let subscriptions = server.subscriptions().list_subscriptions(ListSubscriptionsRequest::default()).await;
    assert!(subscriptions.unwrap().into_inner().subscriptions.is_empty());
    let delete =
        DeleteTopicRequest { topic: "_commands.orders.place".into(), ..DeleteTopicRequest::default() };
    assert_refused(server.topics().delete_topic(delete).await, Code::InvalidArgument, "INVALID_NAME");
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let engine = Arc::new(MemoryEngine::default());
    // The engine is closed with its server: a server that is left behind is one that was killed.
    let server = TestServer::start_on(engine.clone(), Options::default()).await;
    let mut first = client(&server);
    let mut handler = Handler::open(&mut first, &[TYPE], 0).await;
    for id in ["done", "running", "cancelled"] {
        send(&mut first, command(id, "1")).await;
    }
    complete(&mut first, done(&handler.delivery().await, "r")).await.unwrap();
    let (running, _) = (handler.delivery().await, handler.delivery().await);
    cancel(&mut first, "cancelled").await.unwrap();
    drop(handler);
    let ended = wait(&mut first, "cancelled").await;
    let before = get(&mut first, "done").await;

    let server = TestServer::start_on(engine, Options::default()).await;
    let mut client = client(&server);
    assert_eq!(get(&mut client, "done").await, before);
    assert_eq!(send(&mut client, command("done", "1")).await, before);
    assert_eq!(get(&mut client, "cancelled").await, ended);
    assert_eq!(get(&mut client, "running").await.state(), CommandState::Pending);
    let lost = complete(&mut client, done(&running, "")).await;
    assert_refused(lost, Code::Aborted, "COMMAND_LEASE_LOST");
    let mut handler = Handler::open(&mut client, &[TYPE], 0).await;
    let again = handler.delivery().await;
    assert_eq!((again.attempt, &*again.command.as_ref().unwrap().id), (2, "running"));
    complete(&mut client, done(&again, "")).await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_streams_with_a_goaway_and_holds_no_wait() {
    let (mut server, mut client, mut handler) = started(&[TYPE]).await;
    send(&mut client, command("c", "1")).await;
    handler.delivery().await;
    let mut waiter = client.clone();
    let waiting = tokio::spawn(async move { wait(&mut waiter, "c").await });
    // The wait has begun once its change is watched; that it has not is harmless.
    tokio::task::yield_now().await;
    server.stop();
    assert!(matches!(handler.next().await, Event::Goaway(_)));
    let end = within(handler.events.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    drop(handler);
    drop(client);
    drop(waiting.await);
    server.stopped().await.unwrap();
}
