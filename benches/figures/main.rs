//! The figures of `docs/benchmarks.md`: each workload on Columba, beside the disk and the transport it
//! stands on, in turns in one run.
//!
//! ```text
//! make figures
//! ```
//!
//! A round measures, one after the other, a loop of writes and fdatasyncs, a gRPC server that does
//! nothing but answer, and Columba, with the same client and the same requests. What counts is the
//! ratio within a round: the machine's mood changes from one round to the next.

mod disk;
mod load;
mod noop;
#[path = "../../tests/common/process.rs"]
mod process;
mod report;

use std::path::Path;
use std::time::Duration;

use columba::proto::v1::start_position::Position;
use columba::proto::v1::subscription_service_client::SubscriptionServiceClient;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use columba::proto::v1::{
    CreateSubscriptionRequest, CreateTopicRequest, Latest, StartPosition, Subscription, Topic,
};
use tonic::transport::{Channel, Endpoint};

use load::{PublishLoad, Sample};
use process::ServerProcess;
use report::{Figure, Unit};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The argument that makes this program the server that does nothing.
const NOOP_SERVER: &str = "--noop-server";
const ROUNDS: usize = 7;
/// How long a measurement that has no natural end goes on.
const MEASURE: Duration = Duration::from_millis(1_500);
/// The size of a message's data.
const MESSAGE_BYTES: usize = 1_024;
/// Messages consumed in one measurement.
const CONSUMED: usize = 300_000;
const TOPIC: &str = "figures";

const BATCHES: PublishLoad = PublishLoad { callers: 16, batch: 100 };
const ONE_CALLER: PublishLoad = PublishLoad { callers: 1, batch: 1 };
const MANY_CALLERS: PublishLoad = PublishLoad { callers: 64, batch: 1 };

fn main() -> Result<(), Error> {
    if std::env::args().any(|argument| argument == NOOP_SERVER) {
        return noop::serve();
    }
    tokio::runtime::Runtime::new()?.block_on(measure())
}

async fn measure() -> Result<(), Error> {
    // On the disk that the build is on: temporary directories may be in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let noop = noop::NoopServer::start()?;
    let columba = ServerProcess::start(&dir.path().join("data"));
    let servers = [connect(&noop.address).await?, connect(&columba.address).await?];
    create_topic(&servers[1]).await?;

    let mut figures = [
        Figure::new("publish, batches of 100, 16 in flight", Unit::Messages),
        Figure::new("publish, one message, 64 callers", Unit::Messages),
        Figure::new("publish, one message, 1 caller", Unit::Median),
        Figure::new("subscribe with acks", Unit::Messages),
    ];
    // The first round only warms up.
    for round in 0..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        let kept = round > 0;
        for (figure, load) in figures.iter_mut().zip([BATCHES, MANY_CALLERS, ONE_CALLER]) {
            // What group commit can write at once: everything in flight.
            let write = load.callers * load.batch * MESSAGE_BYTES;
            let disk = disk::write_and_sync(dir.path(), write.max(disk::PAGE), MEASURE, load.in_flight())?;
            let [noop, columba] = load::in_turns(&servers, |channel| load.run(channel, MEASURE)).await?;
            figure.add([Some(disk), Some(noop), Some(columba)], kept);
        }
        let subscription = format!("round-{round}");
        create_subscription(&servers[1], &subscription).await?;
        fill(&servers[1]).await?;
        let [noop, columba] =
            load::in_turns(&servers, |channel| load::consume(channel, &subscription, CONSUMED)).await?;
        figures[3].add([None, Some(noop), Some(columba)], kept);
    }
    report::print(&figures, dir.path());
    Ok(())
}

async fn connect(address: &str) -> Result<Channel, Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .connect()
        .await?)
}

async fn create_topic(channel: &Channel) -> Result<(), Error> {
    let topic = Topic { name: TOPIC.into(), ..Topic::default() };
    let request = CreateTopicRequest { topic: Some(topic), validate_only: false };
    TopicServiceClient::new(channel.clone()).create_topic(request).await?;
    Ok(())
}

/// A subscription that begins at the end of the topic as it is now.
async fn create_subscription(channel: &Channel, name: &str) -> Result<(), Error> {
    let start = StartPosition { position: Some(Position::Latest(Latest {})) };
    let subscription = Subscription {
        name: name.into(),
        topic: TOPIC.into(),
        start: Some(start),
        max_in_flight: 100_000,
        ..Subscription::default()
    };
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    SubscriptionServiceClient::new(channel.clone()).create_subscription(request).await?;
    Ok(())
}

/// Publishes as many messages as are consumed.
async fn fill(channel: &Channel) -> Result<Sample, Error> {
    BATCHES.run_requests(channel.clone(), CONSUMED / BATCHES.batch).await
}

/// The kind of file system that a path is on, for the report.
fn file_system(path: &Path) -> String {
    let output = std::process::Command::new("df").args(["--output=fstype"]).arg(path).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().nth(1).unwrap_or("unknown").trim().to_owned()
}
