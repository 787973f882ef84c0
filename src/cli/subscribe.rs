//! `columba subscribe`.

use std::time::Duration;

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::backoff::Backoff;
use super::context::{Context, MAX_RESPONSE_BYTES};
use super::error::Error;
use super::message::Printer;
use super::{parse, topic};
use crate::model::limits::{DEFAULT_OUTSTANDING_MESSAGES, MAX_ACK_IDS, MAX_OUTSTANDING_MESSAGES};
use crate::proto::v1::start_position::Position;
use crate::proto::v1::subscribe_request::Target;
use crate::proto::v1::subscribe_response::Event;
use crate::proto::v1::subscriber_service_client::SubscriberServiceClient;
use crate::proto::v1::{
    AckFailureReason, AckRequest, DeliveryBatch, EphemeralSubscription, Latest, StartPosition,
    SubscribeRequest, SubscribeResponse,
};

/// The longest wait that a leaving server can ask for.
const LONGEST_GOAWAY: Duration = Duration::from_secs(30);

type Client = SubscriberServiceClient<Channel>;

/// Print messages as they come, and acknowledge them once they are written
///
/// Through a subscription, or with --topic straight from a topic. Ends after --count messages or at
/// Ctrl-C; connects again when the server goes away.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba subscribe billing
  columba subscribe billing --count 10 -o json | jq .data
  columba subscribe --topic orders.created --from earliest

Text output has the offset, the key and the data, separated by tabs.")]
pub(super) struct SubscribeArgs {
    /// The subscription
    #[arg(required_unless_present = "topic", conflicts_with = "topic")]
    subscription: Option<String>,
    /// Read this topic without a subscription; remembers and acknowledges nothing
    #[arg(long)]
    topic: Option<String>,
    /// Where to begin in --topic: earliest, latest, an offset, or a time as in RFC 3339 [default: latest]
    #[arg(long, value_name = "POSITION", value_parser = parse::position)]
    from: Option<StartPosition>,
    /// Do not acknowledge: every message is delivered again, to this consumer or another
    #[arg(long)]
    no_ack: bool,
    /// Stop after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How many messages to take ahead of their acknowledgement
    #[arg(long, value_name = "N", default_value_t = DEFAULT_OUTSTANDING_MESSAGES)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_OUTSTANDING_MESSAGES)))]
    max_outstanding: u32,
    /// A name for this consumer in the server's statistics and logs
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    consumer: String,
}

pub(super) async fn run(args: SubscribeArgs, context: &Context) -> Result<(), Error> {
    if let (Some(name), Some(_)) = (&args.subscription, &args.from) {
        return Err(Error::Usage(format!(
            "--from goes with --topic; subscription {name} remembers its own place, and its beginning is \
             set at creation: columba subscription create NAME --topic TOPIC --from POSITION"
        )));
    }
    let stop = stop_signal()?;
    let mut subscriber = Subscriber::new(args, context, stop).await?;
    let ended = subscriber.follow().await;
    subscriber.warn_of_lost_acks();
    ended
}

/// Cancelled by Ctrl-C or SIGTERM.
fn stop_signal() -> Result<CancellationToken, Error> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}

/// How a stream ended without an error.
enum End {
    /// Enough messages, or told to stop.
    Done,
    /// The server is leaving.
    Goaway(Duration),
}

/// What is read, over as many connections as it takes.
struct Subscriber<'a> {
    context: &'a Context,
    source: Source,
    consumer: String,
    max_outstanding: u32,
    /// Messages to print still.
    left: u64,
    printer: Printer,
    /// Printed and not yet confirmed; at most one batch.
    unconfirmed: Vec<Bytes>,
    /// Acks that had no effect.
    lost_acks: usize,
    /// Whether any stream was ever open: only then is it worth connecting again.
    was_open: bool,
    backoff: Backoff,
    stop: CancellationToken,
}

/// What to read.
enum Source {
    Subscription { name: String, ack: bool },
    Topic { name: String, start: StartPosition },
}

impl<'a> Subscriber<'a> {
    async fn new(args: SubscribeArgs, context: &'a Context, stop: CancellationToken) -> Result<Self, Error> {
        let source = match (args.subscription, args.topic) {
            (Some(name), _) => Source::Subscription { name, ack: !args.no_ack },
            (None, topic) => {
                let name = topic.unwrap_or_default();
                Source::Topic { start: first_position(&name, args.from, context).await?, name }
            }
        };
        Ok(Self {
            context,
            source,
            consumer: args.consumer,
            max_outstanding: args.max_outstanding,
            left: args.count.unwrap_or(u64::MAX),
            printer: Printer::new(context.format),
            unconfirmed: Vec::new(),
            lost_acks: 0,
            was_open: false,
            backoff: Backoff::default(),
            stop,
        })
    }

    /// Reads until there is enough, connecting again as often as the server goes away.
    async fn follow(&mut self) -> Result<(), Error> {
        loop {
            let (why, wait) = match self.stream().await {
                Ok(End::Done) => return Ok(()),
                Ok(End::Goaway(wait)) => ("the server is going away".to_owned(), wait),
                Err(error) if self.was_open && error.is_passing() => match self.backoff.next() {
                    Some(wait) => (error.to_string(), wait),
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            };
            eprintln!("{why}; connecting again");
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads from one connection.
    async fn stream(&mut self) -> Result<End, Error> {
        let stop = self.stop.clone();
        let mut client =
            Client::new(self.context.connect().await?).max_decoding_message_size(MAX_RESPONSE_BYTES);
        // An ack whose answer was lost with the last connection still counts, if it comes before the
        // message is handed out again.
        self.confirm(&mut client).await?;
        if self.left == 0 {
            return Ok(End::Done);
        }
        let opening = client.subscribe(self.request());
        let Ok(opened) = tokio::time::timeout(self.context.timeout, opening).await else {
            return Err(Error::Lost("the server did not open the stream in time".into()));
        };
        let mut events = opened?.into_inner();
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(End::Done),
                event = events.message() => event?,
            };
            let Some(SubscribeResponse { event }) = event else {
                return Err(Error::Lost("the server ended the stream".into()));
            };
            match event {
                Some(Event::Started(_)) => self.was_open = true,
                Some(Event::Batch(batch)) => {
                    self.backoff.reset();
                    self.print(batch)?;
                    self.confirm(&mut client).await?;
                    if self.left == 0 {
                        return Ok(End::Done);
                    }
                }
                Some(Event::Heartbeat(_)) => self.backoff.reset(),
                Some(Event::Goaway(goaway)) => {
                    let wait = goaway.reconnect_after.and_then(|wait| Duration::try_from(wait).ok());
                    return Ok(End::Goaway(wait.unwrap_or_default().min(LONGEST_GOAWAY)));
                }
                // An event of a later version.
                None => {}
            }
        }
    }

    fn request(&self) -> SubscribeRequest {
        let target = match &self.source {
            Source::Subscription { name, .. } => Target::Subscription(name.clone()),
            Source::Topic { name, start } => {
                Target::Ephemeral(EphemeralSubscription { topic: name.clone(), start: Some(*start) })
            }
        };
        let left = u32::try_from(self.left).unwrap_or(u32::MAX);
        SubscribeRequest {
            target: Some(target),
            consumer: self.consumer.clone(),
            // Not more than is wanted, so that others get the rest.
            max_outstanding_messages: self.max_outstanding.min(left),
            max_outstanding_bytes: 0,
        }
    }

    /// Prints a batch, or as much of it as is wanted, and notes what to acknowledge: only what was
    /// handed to the system.
    fn print(&mut self, batch: DeliveryBatch) -> Result<(), Error> {
        let mut printed = Vec::new();
        for delivery in batch.deliveries {
            if self.left == 0 {
                break;
            }
            let Some(message) = delivery.message else { return Err(Error::protocol("an empty delivery")) };
            self.left -= 1;
            match &mut self.source {
                Source::Subscription { ack, .. } => {
                    self.printer.print(&message, delivery.attempt)?;
                    if *ack {
                        printed.push(delivery.ack_id);
                    }
                }
                Source::Topic { start, .. } => {
                    self.printer.print(&message, 0)?;
                    start.position = Some(Position::Offset(message.offset + 1));
                }
            }
        }
        self.printer.flush()?;
        self.unconfirmed.extend(printed);
        Ok(())
    }

    /// Acknowledges what was printed.
    async fn confirm(&mut self, client: &mut Client) -> Result<(), Error> {
        let Source::Subscription { name, .. } = &self.source else { return Ok(()) };
        while !self.unconfirmed.is_empty() {
            let ack_ids = self.unconfirmed[..self.unconfirmed.len().min(MAX_ACK_IDS)].to_vec();
            let count = ack_ids.len();
            let request = AckRequest { subscription: name.clone(), ack_ids, cumulative: false };
            let response = client.ack(self.context.request(request)).await?.into_inner();
            let settled = AckFailureReason::AlreadySettled;
            self.lost_acks += response.failures.iter().filter(|failure| failure.reason() != settled).count();
            self.unconfirmed.drain(..count);
        }
        Ok(())
    }

    fn warn_of_lost_acks(&self) {
        let lost = self.lost_acks + self.unconfirmed.len();
        if lost > 0 {
            eprintln!("warning: {lost} printed messages are not acknowledged and will be delivered again");
        }
    }
}

/// Where to begin in a topic. `latest` is looked up, so that it stays where it was when the server
/// goes away before the first message.
async fn first_position(
    name: &str,
    from: Option<StartPosition>,
    context: &Context,
) -> Result<StartPosition, Error> {
    match from.and_then(|from| from.position).unwrap_or(Position::Latest(Latest {})) {
        Position::Latest(_) => {
            let topic = topic::get(context.connect().await?, name.to_owned(), context).await?;
            Ok(StartPosition { position: Some(Position::Offset(topic.last_offset + 1)) })
        }
        position => Ok(StartPosition { position: Some(position) }),
    }
}
