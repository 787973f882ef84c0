//! Commands under kill -9 at random moments, against a ledger outside the server; and how fast they are.
//!
//! The ledger has what the server has answered, and what handlers have tried. Whatever it holds must still be
//! so at the end.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use columba::proto::admin::admin_service_client::AdminServiceClient;
use columba::proto::v1::command_service_client::CommandServiceClient;
use columba::proto::v1::complete_command_request::Outcome;
use columba::proto::v1::handle_commands_response::Event;
use columba::proto::v1::start_position::Position;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{
    Command, CommandDelivery, CommandEvents, CommandFailure, CommandState, CompleteCommandRequest,
    CreateTopicRequest, GetCommandRequest, HandleCommandsRequest, Message, ReadMessagesRequest,
    SendCommandRequest, StartPosition, Topic, WaitCommandRequest,
};
use process::ServerProcess;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const TYPES: [&str; 2] = ["orders.place", "orders.cancel"];
/// Topics of events: a completion publishes to both or to none.
const EVENTS: [&str; 2] = ["placed", "audit"];
const SENDERS: usize = 4;
const HANDLERS: usize = 3;
/// How long anything may take that should happen soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the outside world knows.
#[derive(Default)]
struct Entries {
    /// The payloads of commands that the server has accepted.
    accepted: BTreeMap<String, String>,
    /// The highest attempt that a handler has seen.
    attempts: BTreeMap<String, u32>,
    /// Completions that were tried, answered or not: results, or codes of failures.
    tried: BTreeMap<String, BTreeSet<String>>,
    /// The outcomes that anybody was told.
    outcomes: BTreeMap<String, (CommandState, String)>,
    deliveries: u64,
    wrong: Vec<String>,
}

impl Entries {
    /// Somebody is told the outcome of a command.
    fn told(&mut self, id: &str, state: CommandState, result: &str) {
        let known = self.outcomes.entry(id.to_owned()).or_insert_with(|| (state, result.to_owned()));
        if (known.0, &*known.1) != (state, result) {
            self.wrong.push(format!("{id} ended as {known:?}, and then as {state:?} {result}"));
        }
    }
}

/// What all tasks share.
#[derive(Clone)]
struct World {
    ledger: Arc<Mutex<Entries>>,
    /// How many commands are in the ledger.
    accepted: Arc<watch::Sender<usize>>,
    channel: Channel,
    /// How often the server has been started; 0 once the load is to end.
    starts: watch::Receiver<u64>,
    /// Whether the handlers are to end, too.
    end: watch::Receiver<bool>,
}

impl World {
    fn ledger(&self) -> MutexGuard<'_, Entries> {
        self.ledger.lock().unwrap()
    }

    fn client(&self) -> CommandServiceClient<Channel> {
        CommandServiceClient::new(self.channel.clone())
    }

    /// Waits for the next start of the server after a call has failed; `false` at the end.
    async fn revived(&mut self) -> bool {
        self.starts.changed().await.is_ok() && *self.starts.borrow_and_update() > 0
    }

    /// Sends commands, old ones again among them.
    async fn send(mut self, sender: usize, run: u64) {
        let mut client = self.client();
        let mut random = StdRng::seed_from_u64(run ^ sender as u64);
        let mut sent: Vec<Command> = Vec::new();
        for round in 0.. {
            if *self.starts.borrow() == 0 {
                return;
            }
            let again = !sent.is_empty() && random.random_bool(0.2);
            let command = if again {
                sent[random.random_range(0..sent.len())].clone()
            } else {
                command(sender, round, &mut random)
            };
            let wait = random.random_bool(0.1).then_some(prost_types::Duration { seconds: 1, nanos: 0 });
            let request = SendCommandRequest { command: Some(command.clone()), wait };
            match client.send_command(request).await {
                Ok(answer) => {
                    let execution = answer.into_inner().execution.unwrap();
                    let mut ledger = self.ledger();
                    let payload = String::from_utf8(command.payload.to_vec()).unwrap();
                    ledger.accepted.insert(command.id.clone(), payload);
                    if execution.end_time.is_some() {
                        ledger.told(
                            &command.id,
                            execution.state(),
                            &shown(&execution.result, execution.failure.as_ref()),
                        );
                    }
                    self.accepted.send_replace(ledger.accepted.len());
                }
                // Whether it is stored is unknown, and either is right.
                Err(status) => {
                    if status.code() == Code::AlreadyExists {
                        self.ledger().wrong.push(format!("{} is refused: {status:?}", command.id));
                    }
                    if !self.revived().await {
                        return;
                    }
                }
            }
            if !again {
                sent.push(command);
            }
        }
    }

    async fn handle(self, handler: usize, run: u64) {
        let mut random = StdRng::seed_from_u64(run ^ (handler as u64) << 32);
        let mut end = self.end.clone();
        loop {
            tokio::select! {
                // Its error is the death of the server; what it held is delivered again.
                _ = self.stream(handler, &mut random) => {}
                _ = end.wait_for(|&end| end) => return,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stream(&self, handler: usize, random: &mut StdRng) -> Result<(), Status> {
        let mut client = self.client();
        let request = HandleCommandsRequest {
            types: TYPES.map(str::to_owned).to_vec(),
            handler: format!("handler-{handler}"),
            max_outstanding: 20,
        };
        let mut events = client.handle_commands(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            if let Some(Event::Delivery(delivery)) = event.event {
                self.carry_out(&mut client, delivery, random).await?;
            }
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        client: &mut CommandServiceClient<Channel>,
        delivery: CommandDelivery,
        random: &mut StdRng,
    ) -> Result<(), Status> {
        let command = delivery.command.unwrap();
        let id = command.id.clone();
        // Unique, so that it is known whose outcome counted.
        let mark = format!("{}/{:016x}", command.payload.len(), random.random::<u64>());
        {
            let mut ledger = self.ledger();
            ledger.deliveries += 1;
            if ledger.outcomes.contains_key(&id) {
                ledger.wrong.push(format!("{id} was delivered after it had ended"));
            }
            let attempts = ledger.attempts.entry(id.clone()).or_default();
            let before = std::mem::replace(attempts, delivery.attempt);
            if delivery.attempt < before {
                ledger.wrong.push(format!("{id}: attempt {} after {before}", delivery.attempt));
            }
        }
        let fails = random.random_bool(0.1);
        let retryable = fails && random.random_bool(0.3);
        let outcome = if fails {
            Outcome::Failure(CommandFailure { code: mark.clone(), message: String::new(), retryable })
        } else {
            Outcome::Result(mark.clone().into())
        };
        let message = Message { key: id.clone(), data: mark.clone().into(), ..Message::default() };
        let events =
            EVENTS.map(|topic| CommandEvents { topic: topic.into(), messages: vec![message.clone()] });
        let events = if retryable { Vec::new() } else { events.to_vec() };
        if !retryable {
            self.ledger().tried.entry(id.clone()).or_default().insert(mark.clone());
        }
        let request = CompleteCommandRequest { ack_id: delivery.ack_id, outcome: Some(outcome), events };
        match client.complete_command(request).await {
            Ok(answer) => {
                let state = answer.into_inner().execution.unwrap().state();
                if !retryable {
                    self.ledger().told(&id, state, &mark);
                }
                Ok(())
            }
            // Delivered again to another, or ended.
            Err(status) if matches!(status.code(), Code::Aborted | Code::FailedPrecondition) => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// Compares every accepted command with what the server says of it.
    async fn check_outcomes(&self) {
        let ids: Vec<_> = self.ledger().accepted.keys().cloned().collect();
        let mut client = self.client();
        for id in ids {
            let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
            let answer = client.wait_command(WaitCommandRequest { id: id.clone(), wait }).await;
            let mut ledger = self.ledger();
            let execution = match answer {
                Ok(answer) => answer.into_inner().execution.unwrap(),
                Err(status) => {
                    ledger.wrong.push(format!("{id} is lost: {status:?}"));
                    continue;
                }
            };
            let payload = execution.command.as_ref().unwrap().payload.to_vec();
            if ledger.accepted[&id].as_bytes() != payload {
                ledger.wrong.push(format!("{id} has another payload"));
            }
            let result = shown(&execution.result, execution.failure.as_ref());
            if !ledger.tried.get(&id).is_some_and(|tried| tried.contains(&result)) {
                ledger
                    .wrong
                    .push(format!("{id} ended as {:?} {result}, which nobody said", execution.state()));
            }
            ledger.told(&id, execution.state(), &result);
        }
    }

    /// Compares the events with the outcomes: those of the completion that counted, once, and no others.
    async fn check_events(&self) {
        for topic in EVENTS {
            let mut seen: BTreeMap<String, String> = BTreeMap::new();
            for message in self.read_all(topic).await {
                let (id, mark) = (message.key, String::from_utf8(message.data.to_vec()).unwrap());
                if let Some(other) = seen.insert(id.clone(), mark.clone()) {
                    self.ledger().wrong.push(format!("{topic} has events {other} and {mark} of {id}"));
                }
            }
            let mut ledger = self.ledger();
            let missing = ledger.outcomes.iter().filter(|(id, (_, result))| seen.get(*id) != Some(result));
            let missing: Vec<_> =
                missing.map(|(id, outcome)| format!("{topic} lacks {id} {outcome:?}")).collect();
            ledger.wrong.extend(missing);
        }
    }

    async fn read_all(&self, topic: &str) -> Vec<Message> {
        let client = SubscriberServiceClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(32 << 20);
        let (mut all, mut from) = (Vec::new(), 1);
        loop {
            let start = Some(StartPosition { position: Some(Position::Offset(from)) });
            let request = ReadMessagesRequest { topic: topic.into(), start, max_messages: 0, max_bytes: 0 };
            let page = client.read_messages(request).await.unwrap().into_inner().messages;
            let Some(last) = page.last() else { return all };
            from = last.offset + 1;
            all.extend(page.into_iter().filter_map(|stored| stored.message));
        }
    }
}

fn command(sender: usize, round: u64, random: &mut StdRng) -> Command {
    let key =
        if random.random_bool(0.5) { format!("k{}", random.random_range(0..20)) } else { String::new() };
    let padding = "x".repeat(random.random_range(0..500));
    Command {
        id: format!("{sender}-{round}"),
        r#type: TYPES[random.random_range(0..2)].into(),
        key,
        payload: format!("{sender}/{round}/{padding}").into(),
        ..Command::default()
    }
}

fn shown(result: &[u8], failure: Option<&CommandFailure>) -> String {
    failure.map_or_else(|| String::from_utf8_lossy(result).into_owned(), |failure| failure.code.clone())
}

async fn prepare(channel: &Channel) {
    for topic in EVENTS {
        let topic = Topic { name: topic.into(), ..Topic::default() };
        let request = CreateTopicRequest { topic: Some(topic), validate_only: false };
        TopicServiceClient::new(channel.clone()).create_topic(request).await.unwrap();
    }
    // Makes the types known.
    let types = TYPES.map(str::to_owned).to_vec();
    let request = HandleCommandsRequest { types, ..HandleCommandsRequest::default() };
    CommandServiceClient::new(channel.clone()).handle_commands(request).await.unwrap();
}

/// Waits until so many more commands are accepted than at the call.
async fn progress(world: &World, more: usize) {
    let mut accepted = world.accepted.subscribe();
    let goal = *accepted.borrow() + more;
    let reached = tokio::time::timeout(PATIENCE, accepted.wait_for(|&count| count >= goal)).await;
    reached.expect("the load goes on after a kill").unwrap();
}

async fn survive(kills: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(dir.path());
    // Reconnects by itself.
    let channel = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy();
    prepare(&channel).await;
    let ((starts, on_start), (end, on_end)) = (watch::channel(1), watch::channel(false));
    let accepted = Arc::new(watch::Sender::new(0));
    let world = World { ledger: Arc::default(), accepted, channel, starts: on_start, end: on_end };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let (mut senders, mut handlers) = (JoinSet::new(), JoinSet::new());
    for sender in 0..SENDERS {
        senders.spawn(world.clone().send(sender, seed));
    }
    for handler in 0..HANDLERS {
        handlers.spawn(world.clone().handle(handler, seed));
    }
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 1..=kills {
        progress(&world, random.random_range(1..150)).await;
        server.kill();
        if random.random_bool(0.3) {
            // Once more, while it recovers.
            server.start_and_kill(Duration::from_millis(random.random_range(0..80))).await;
        }
        if random.random_bool(0.1) {
            // The index is derived: without it, it is made anew.
            drop(std::fs::remove_dir_all(dir.path().join("views")));
        }
        server.restart();
        starts.send_replace(kill + 1);
    }
    progress(&world, 50).await;
    starts.send_replace(0);
    tokio::time::timeout(PATIENCE, senders.join_all()).await.expect("the load ends");
    world.check_outcomes().await;
    end.send_replace(true);
    tokio::time::timeout(PATIENCE, handlers.join_all()).await.expect("the handlers end");
    server.kill();
    server.restart();
    world.check_outcomes().await;
    world.check_events().await;
    let ledger = world.ledger();
    let (accepted, ended) = (ledger.accepted.len(), ledger.outcomes.len());
    println!("{kills} kills; {accepted} commands accepted, {ended} ended, {} deliveries", ledger.deliveries);
    assert!(ledger.wrong.is_empty(), "seed {seed}: {:#?}", ledger.wrong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_command_ends_once_when_the_server_is_killed() {
    survive(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn every_accepted_command_ends_once_when_the_server_is_killed_often() {
    survive(200).await;
}

/// Commands in a second, for so many callers that wait for each outcome, and one handler; beside a call that
/// does nothing. `cargo test --release --test commands -- --ignored --nocapture throughput`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_commands() {
    const CALLERS: usize = 64;
    const SPAN: Duration = Duration::from_secs(8);
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(dir.path());
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    prepare(&channel).await;
    let handler = endpoint.connect().await.unwrap();
    tokio::spawn(async move {
        let mut client = CommandServiceClient::new(handler);
        let types = vec![TYPES[0].to_owned()];
        let request = HandleCommandsRequest { types, handler: String::new(), max_outstanding: 1_000 };
        let mut events = client.handle_commands(request).await.unwrap().into_inner();
        while let Ok(Some(event)) = events.message().await {
            let Some(Event::Delivery(delivery)) = event.event else { continue };
            let mut client = client.clone();
            tokio::spawn(async move {
                let outcome = Some(Outcome::Result("done".into()));
                let request = CompleteCommandRequest { ack_id: delivery.ack_id, outcome, events: Vec::new() };
                client.complete_command(request).await.unwrap();
            });
        }
    });
    for with_ids in [false, true] {
        let next = Arc::new(AtomicU64::new(0));
        let send = move |client: Channel| {
            let next = Arc::clone(&next);
            async move {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let id = if with_ids { format!("order-{number}") } else { String::new() };
                let wait = Some(prost_types::Duration { seconds: 30, nanos: 0 });
                let payload = "x".repeat(200).into();
                let command = Command { id, r#type: TYPES[0].into(), payload, ..Command::default() };
                let request = SendCommandRequest { command: Some(command), wait };
                let answer = CommandServiceClient::new(client).send_command(request).await.unwrap();
                assert_eq!(answer.into_inner().execution.unwrap().state(), CommandState::Succeeded);
            }
        };
        let rate = rate(&channel, CALLERS, SPAN, send).await;
        println!("{rate:.0} commands/s with their outcomes, {CALLERS} callers, ids given: {with_ids}");
    }
    let noop = |client: Channel| async move {
        let request = GetCommandRequest { id: String::new() };
        CommandServiceClient::new(client).get_command(request).await.unwrap_err();
    };
    let ceiling = rate(&channel, CALLERS, SPAN, noop).await;
    println!("{ceiling:.0} refused calls/s, {CALLERS} callers");
    let info = |client: Channel| async move {
        let request = columba::proto::admin::GetServerInfoRequest {};
        AdminServiceClient::new(client).get_server_info(request).await.unwrap();
    };
    let ceiling = rate(&channel, CALLERS, SPAN, info).await;
    println!("{ceiling:.0} calls/s that do nothing (GetServerInfo), {CALLERS} callers");
}

async fn rate<F: Future<Output = ()> + Send + 'static>(
    channel: &Channel,
    callers: usize,
    span: Duration,
    call: impl Fn(Channel) -> F + Clone + Send + 'static,
) -> f64 {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (channel, call) = (channel.clone(), call.clone());
        tasks.spawn(async move {
            let mut calls = 0_u32;
            while begin.elapsed() < span {
                call(channel.clone()).await;
                calls += 1;
            }
            calls
        });
    }
    let calls: u32 = tasks.join_all().await.into_iter().sum();
    f64::from(calls) / begin.elapsed().as_secs_f64()
}
