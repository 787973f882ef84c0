//! `columba subscribe`.

use std::collections::VecDeque;
use std::time::Duration;

use super::context::Channel;
use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::backoff::Backoff;
use super::context::{Context, MAX_RESPONSE_BYTES};
use super::error::Error;
use super::message::Printer;
use super::seen::Seen;
use super::{parse, signals, subscription, topic};
use crate::model::limits::{DEFAULT_OUTSTANDING_MESSAGES, MAX_OUTSTANDING_MESSAGES};
use crate::proto::v1::consume_request::Action;
use crate::proto::v1::consume_response::Event;
use crate::proto::v1::start_position::Position;
use crate::proto::v1::subscribe_request::Target;
use crate::proto::v1::subscriber_service_client::SubscriberServiceClient;
use crate::proto::v1::{
    AckFailureReason, AckRequest, AckResponse, ConsumeError, ConsumeRequest, ConsumeResponse, DeliveryBatch,
    EphemeralSubscription, Latest, SetCredit, StartPosition, SubscribeRequest,
};

/// The longest wait that a leaving server can ask for.
const LONGEST_GOAWAY: Duration = Duration::from_secs(30);

type Client = SubscriberServiceClient<Channel>;

/// Print messages as they come, and acknowledge them once they are written
///
/// Through a subscription, or with --topic straight from a topic or all that a pattern covers. Ends after --count messages or at
/// Ctrl-C; connects again when the server goes away.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba subscribe billing
  columba subscribe billing --count 10 -o json | jq .data
  columba subscribe --topic orders.created --from earliest
  columba subscribe --topic orders.created --filter 'message.attributes.region == \"eu\"'
  columba subscribe --topic 'orders.>'

Text output has the offset, the key and the data, separated by tabs; with a pattern, the topic comes first.")]
pub(super) struct SubscribeArgs {
    /// The subscription
    #[arg(required_unless_present = "topic", conflicts_with = "topic")]
    subscription: Option<String>,
    /// Read this topic without a subscription; remembers and acknowledges nothing. Or a pattern: * stands for
    /// one part of a name, > at the end for the rest, and topics created later are read, too
    #[arg(long)]
    topic: Option<String>,
    /// Where to begin in --topic: earliest, latest, an offset (not with a pattern), or a time as in RFC 3339
    /// [default: latest]
    #[arg(long, value_name = "POSITION", value_parser = parse::position)]
    from: Option<StartPosition>,
    /// Only the messages in --topic for which this is true, as CEL
    #[arg(long, value_name = "CEL", default_value = "", hide_default_value = true)]
    filter: String,
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
    if let (Some(name), false) = (&args.subscription, args.filter.is_empty()) {
        return Err(Error::Usage(format!(
            "--filter goes with --topic; subscription {name} has its own, set at creation or with: columba \
             subscription edit {name} --filter CEL"
        )));
    }
    let stop = signals::stop()?;
    let mut subscriber = Subscriber::new(args, context, stop).await?;
    let ended = subscriber.follow().await;
    subscriber.warn_of_lost_acks();
    ended
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
    /// Acks of what is printed that are not answered yet, by their request ids.
    unconfirmed: VecDeque<(u64, Vec<Bytes>)>,
    next_id: u64,
    /// Acks that had no effect.
    lost_acks: usize,
    /// Whether any stream was ever open: only then is it worth connecting again.
    was_open: bool,
    backoff: Backoff,
    stop: CancellationToken,
}

/// What to read.
enum Source {
    Subscription {
        name: String,
        ack: bool,
    },
    Topic {
        name: String,
        start: StartPosition,
        filter: String,
    },
    /// `seen` is what was printed of each topic.
    Pattern {
        pattern: String,
        start: StartPosition,
        filter: String,
        seen: Seen,
    },
}

/// One connection.
struct Pipe {
    requests: mpsc::Sender<ConsumeRequest>,
    events: Streaming<ConsumeResponse>,
    /// The credit given last.
    credit: u32,
}

impl<'a> Subscriber<'a> {
    async fn new(args: SubscribeArgs, context: &'a Context, stop: CancellationToken) -> Result<Self, Error> {
        let mut has_pattern = args.topic.as_deref().is_some_and(parse::is_pattern);
        let source = match (args.subscription, args.topic) {
            (Some(name), _) => {
                // Only how messages are printed depends on it: opening the stream tells what is wrong.
                let found = subscription::get(context.connect().await?, name.clone(), context).await;
                has_pattern = found.is_ok_and(|found| parse::is_pattern(&found.topic));
                Source::Subscription { name, ack: !args.no_ack }
            }
            (None, Some(pattern)) if has_pattern => {
                let latest = StartPosition { position: Some(Position::Latest(Latest {})) };
                let (start, seen) = (args.from.unwrap_or(latest), Seen::default());
                Source::Pattern { pattern, start, filter: args.filter, seen }
            }
            (None, topic) => {
                let name = topic.unwrap_or_default();
                let start = first_position(&name, args.from, context).await?;
                Source::Topic { name, start, filter: args.filter }
            }
        };
        Ok(Self {
            context,
            source,
            consumer: args.consumer,
            max_outstanding: args.max_outstanding,
            left: args.count.unwrap_or(u64::MAX),
            printer: Printer::new(context.format).with_topics(has_pattern),
            unconfirmed: VecDeque::new(),
            next_id: 1,
            lost_acks: 0,
            was_open: false,
            backoff: Backoff::default(),
            stop,
        })
    }

    /// Reads until there is enough, connecting again as often as the server goes away.
    async fn follow(&mut self) -> Result<(), Error> {
        loop {
            let (why, wait) = match self.connection().await {
                Ok(End::Done) => return Ok(()),
                Ok(End::Goaway(wait)) => ("the server is going away".to_owned(), wait),
                Err(error) if self.was_open && error.is_passing() => match self.backoff.next() {
                    Some(wait) => (error.to_string(), wait),
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            };
            if self.stop.is_cancelled() {
                return Ok(());
            }
            eprintln!("{why}; connecting again");
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads over one connection.
    async fn connection(&mut self) -> Result<End, Error> {
        let mut client = SubscriberServiceClient::new(self.context.connect().await?)
            .max_decoding_message_size(MAX_RESPONSE_BYTES);
        self.confirm_again(&mut client).await?;
        if self.left == 0 {
            return Ok(End::Done);
        }
        let mut pipe = self.open(&mut client).await?;
        if let Source::Pattern { seen, .. } = &mut self.source {
            seen.connect();
        }
        let stop = self.stop.clone();
        let mut due = self.due();
        loop {
            if self.left == 0 && self.unconfirmed.is_empty() {
                return Ok(End::Done);
            }
            let event = tokio::select! {
                biased;
                () = stop.cancelled(), if self.left > 0 => {
                    self.left = 0;
                    continue;
                }
                event = pipe.events.message() => event?,
                () = tokio::time::sleep_until(due), if !self.unconfirmed.is_empty() => {
                    return Err(Error::Lost("the server does not confirm an ack".into()));
                }
            };
            let Some(response) = event else {
                return Err(Error::Lost("the server ended the stream".into()));
            };
            match response.event {
                Some(Event::Started(started)) => {
                    self.was_open = true;
                    self.note_start(started.server_time);
                }
                Some(Event::Batch(batch)) => {
                    self.backoff.reset();
                    let printed = self.print(batch)?;
                    self.acknowledge(&mut pipe, printed)?;
                    due = self.due();
                }
                Some(Event::Ack(ack)) => {
                    self.confirmed(response.request_id, &ack)?;
                    due = self.due();
                }
                Some(Event::Error(ConsumeError { code, message, reason })) => {
                    return Err(Error::Refused { code: code.into(), reason, message });
                }
                Some(Event::Goaway(goaway)) => {
                    let wait = goaway.reconnect_after.and_then(|wait| Duration::try_from(wait).ok());
                    return Ok(End::Goaway(wait.unwrap_or_default().min(LONGEST_GOAWAY)));
                }
                Some(Event::Heartbeat(_)) => self.backoff.reset(),
                // The answer to a change of credit; to requests never sent; an event of a later version.
                Some(Event::SetCredit(_) | Event::Nack(_) | Event::Extend(_)) | None => {}
            }
        }
    }

    /// `latest` stays where it was at first when the server goes away; in several topics, that is a time.
    fn note_start(&mut self, server_time: Option<prost_types::Timestamp>) {
        if let Source::Pattern {
            start: StartPosition { position: position @ Some(Position::Latest(_)) }, ..
        } = &mut self.source
            && let Some(time) = server_time
        {
            *position = Some(Position::Time(time));
        }
    }

    /// When the next confirmation must have come.
    fn due(&self) -> Instant {
        Instant::now() + self.context.timeout
    }

    async fn open(&self, client: &mut Client) -> Result<Pipe, Error> {
        let credit = self.credit();
        let target = match &self.source {
            Source::Subscription { name, .. } => Target::Subscription(name.clone()),
            Source::Topic { name, start, filter } => Target::Ephemeral(EphemeralSubscription {
                topic: name.clone(),
                start: Some(*start),
                filter: filter.clone(),
            }),
            Source::Pattern { pattern, start, filter, .. } => Target::Ephemeral(EphemeralSubscription {
                topic: pattern.clone(),
                start: Some(*start),
                filter: filter.clone(),
            }),
        };
        let subscribe = SubscribeRequest {
            target: Some(target),
            consumer: self.consumer.clone(),
            max_outstanding_messages: credit,
            max_outstanding_bytes: 0,
        };
        // Every ack is for at least one message and is answered before its credit returns, so this is
        // never full.
        let (requests, stream) = mpsc::channel(2 * self.max_outstanding as usize + 1);
        let first = ConsumeRequest { request_id: 0, action: Some(Action::Subscribe(subscribe)) };
        let opening = client.consume(tokio_stream::once(first).chain(ReceiverStream::new(stream)));
        match tokio::time::timeout(self.context.timeout, opening).await {
            Ok(opened) => Ok(Pipe { requests, events: opened?.into_inner(), credit }),
            Err(_) => Err(Error::Lost("the server did not open the stream in time".into())),
        }
    }

    /// How many messages to hold at most: never more than are wanted, so that others get the rest.
    fn credit(&self) -> u32 {
        self.max_outstanding.min(u32::try_from(self.left).unwrap_or(u32::MAX))
    }

    /// Prints a batch, or as much of it as is wanted. What it returns has been handed to the system, and
    /// is to be acknowledged.
    fn print(&mut self, batch: DeliveryBatch) -> Result<Vec<Bytes>, Error> {
        let mut printed = Vec::with_capacity(batch.deliveries.len());
        for delivery in batch.deliveries {
            if self.left == 0 {
                break;
            }
            let Some(message) = delivery.message else { return Err(Error::protocol("an empty delivery")) };
            if let Source::Pattern { seen, .. } = &mut self.source {
                // After a new connection, what was printed comes again.
                if !seen.is_new(&message.topic, message.offset) {
                    continue;
                }
            }
            self.left -= 1;
            match &mut self.source {
                Source::Subscription { ack, .. } => {
                    self.printer.print(&message, delivery.attempt)?;
                    if *ack {
                        printed.push(delivery.ack_id);
                    }
                }
                Source::Pattern { .. } => self.printer.print(&message, 0)?,
                Source::Topic { start, .. } => {
                    self.printer.print(&message, 0)?;
                    start.position = Some(Position::Offset(message.offset + 1));
                }
            }
        }
        self.printer.flush()?;
        Ok(printed)
    }

    /// Sends the acks of what was printed, after lowering the credit to what is wanted still.
    fn acknowledge(&mut self, pipe: &mut Pipe, ack_ids: Vec<Bytes>) -> Result<(), Error> {
        if ack_ids.is_empty() {
            return Ok(());
        }
        let credit = self.credit();
        if credit != pipe.credit {
            pipe.credit = credit;
            let set = SetCredit { max_outstanding_messages: credit, max_outstanding_bytes: 0 };
            pipe.send(0, Action::SetCredit(set))?;
        }
        let id = self.next_id;
        self.next_id += 1;
        let ack = AckRequest { subscription: String::new(), ack_ids: ack_ids.clone(), cumulative: false };
        self.unconfirmed.push_back((id, ack_ids));
        pipe.send(id, Action::Ack(ack))
    }

    fn confirmed(&mut self, id: u64, ack: &AckResponse) -> Result<(), Error> {
        match self.unconfirmed.pop_front() {
            Some((expected, _)) if expected == id => {}
            _ => return Err(Error::protocol("an answer to no ack")),
        }
        self.count_lost(ack);
        Ok(())
    }

    fn count_lost(&mut self, ack: &AckResponse) {
        let settled = AckFailureReason::AlreadySettled;
        self.lost_acks += ack.failures.iter().filter(|failure| failure.reason() != settled).count();
    }

    /// Acknowledges again what the last connection left open. An ack whose answer was lost still counts,
    /// if it comes before the message is handed out again.
    async fn confirm_again(&mut self, client: &mut Client) -> Result<(), Error> {
        let Source::Subscription { name, .. } = &self.source else { return Ok(()) };
        let name = name.clone();
        while let Some((_, ack_ids)) = self.unconfirmed.front() {
            let request =
                AckRequest { subscription: name.clone(), ack_ids: ack_ids.clone(), cumulative: false };
            let response = client.ack(self.context.request(request)).await?.into_inner();
            self.count_lost(&response);
            self.unconfirmed.pop_front();
        }
        Ok(())
    }

    fn warn_of_lost_acks(&self) {
        let unconfirmed: usize = self.unconfirmed.iter().map(|(_, ack_ids)| ack_ids.len()).sum();
        let lost = self.lost_acks + unconfirmed;
        if lost > 0 {
            eprintln!("warning: {lost} printed messages may be delivered again: their acks did not count");
        }
    }
}

impl Pipe {
    fn send(&self, request_id: u64, action: Action) -> Result<(), Error> {
        match self.requests.try_send(ConsumeRequest { request_id, action: Some(action) }) {
            // Where the connection has failed, the events say so, and say why.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Error::protocol("more messages than asked for")),
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
