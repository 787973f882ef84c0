//! `columba publish`.

mod csv;
mod input;
mod lines;
mod progress;
mod quotes;
mod session;
mod window;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{HumanBytes, HumanCount};
use prost_types::Timestamp;
use serde::Serialize;

use super::context::Context;
use super::error::{Error, Progress};
use super::parse::{self, Durability};
use super::{signals, topic};
use crate::model::limits::{MAX_PUBLISH_MESSAGES, MAX_PUBLISH_STREAM_IN_FLIGHT};
use crate::proto::v1::Message;
use progress::ProgressBar;
use session::Session;
use window::{Guards, Window};

const JSON: &str = "application/json";

/// Publish messages from arguments, standard input or a file
///
/// Each argument is one message. Without arguments, or with `-`, each line of standard input is one.
/// Batches are sent in a pipeline and stored in the order of the input.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba publish orders.created '{\"id\": 1}' '{\"id\": 2}' --key-value customer-7
  journalctl -f | columba publish logs
  columba publish orders.created --file orders.ndjson --key customer
  columba publish flights --file flights.csv --key carrier --null NA
  columba publish flights --file flights.csv --id-prefix flights-2013 --retry
  columba publish reminders 'call back' --deliver-in 10m --expire-in 1h

When publishing stops early, the error says how many messages are acknowledged from the first on,
and the --skip to go on with.")]
pub(super) struct PublishArgs {
    /// The topic
    topic: String,
    /// The messages' data
    #[arg(conflicts_with = "file")]
    data: Vec<String>,
    /// Publish this file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How the input is written [default: csv for *.csv, ndjson for other files, else lines]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// The CSV column or JSON field whose value becomes the key
    #[arg(long, value_name = "COLUMN", conflicts_with = "key_value")]
    key: Option<String>,
    /// The key of every message
    #[arg(long, value_name = "KEY")]
    key_value: Option<String>,
    /// The CSV column or JSON field whose value becomes the id: a message whose id the topic remembers is
    /// not stored again
    #[arg(long, value_name = "COLUMN", conflicts_with = "id_prefix")]
    id: Option<String>,
    /// Gives the messages the ids PREFIX-1, PREFIX-2 and so on, by their place in the input: publishing
    /// the same input again stores nothing twice
    #[arg(long, value_name = "PREFIX")]
    id_prefix: Option<String>,
    /// Publish only if this is the topic's last offset (0: it never had a message) and nobody else publishes meanwhile
    #[arg(long, value_name = "OFFSET")]
    expected_last_offset: Option<u64>,
    /// What means null in CSV, besides the empty text
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// An attribute of every message; may be repeated
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = parse::key_value)]
    attributes: Vec<(String, String)>,
    /// The type of every message, such as order.created
    #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
    kind: String,
    /// The media type of the data [default: application/json for CSV and NDJSON]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Deliver the messages so long from now, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = parse::time_from_now, conflicts_with = "deliver_at")]
    deliver_in: Option<Timestamp>,
    /// Deliver the messages at this time, as in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    deliver_at: Option<Timestamp>,
    /// Do not deliver the messages any more after so long from now
    #[arg(long, value_name = "DURATION", value_parser = parse::time_from_now)]
    expire_in: Option<Timestamp>,
    /// How safe a message must be before it counts [default: the topic's]
    #[arg(long, value_enum)]
    durability: Option<Durability>,
    /// Messages a request
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_PUBLISH_MESSAGES as i64))]
    batch: u32,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_PUBLISH_STREAM_IN_FLIGHT as i64))]
    in_flight: u32,
    /// Leave out the first messages of the input
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
    /// When the server goes away, connect again and send again what it did not answer: that may be
    /// stored twice, unless the messages have ids that the topic remembers
    #[arg(long)]
    retry: bool,
}

/// How the input is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One message a line, as it is
    Lines,
    /// One JSON value a line
    Ndjson,
    /// Rows that become JSON objects; the first line names the columns
    Csv,
}

impl PublishArgs {
    /// How the input is written.
    fn format(&self) -> Format {
        let by_name = || match &self.file {
            Some(path) if path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("csv")) => Format::Csv,
            Some(_) => Format::Ndjson,
            None => Format::Lines,
        };
        self.format.unwrap_or_else(by_name)
    }

    fn check(&self) -> Result<(), Error> {
        let usage = |text: &str| Err(Error::Usage(text.into()));
        let in_arguments = self.file.is_none() && !self.data.is_empty() && self.data != ["-"];
        match self.format() {
            _ if in_arguments && self.format.is_some() => {
                usage("--format is for files and standard input; messages in arguments are taken as they are")
            }
            Format::Lines if self.key.is_some() => usage(
                "--key names a CSV column or a JSON field; add --format csv or --format ndjson, or give \
                 every message the same key with --key-value",
            ),
            Format::Lines if self.id.is_some() => usage(
                "--id names a CSV column or a JSON field; add --format csv or --format ndjson, or number the \
                 messages with --id-prefix",
            ),
            Format::Lines | Format::Ndjson if self.null.is_some() => usage("--null goes with CSV only"),
            _ => Ok(()),
        }
    }

    /// What all messages have in common.
    fn template(&mut self) -> Result<Message, Error> {
        let default = if self.format() == Format::Lines { "" } else { JSON };
        Ok(Message {
            key: self.key_value.take().unwrap_or_default(),
            attributes: parse::key_values("--attribute", std::mem::take(&mut self.attributes))?,
            r#type: std::mem::take(&mut self.kind),
            content_type: self.content_type.take().unwrap_or_else(|| default.into()),
            deliver_time: self.deliver_in.or(self.deliver_at),
            expire_time: self.expire_in,
            ..Message::default()
        })
    }
}

pub(super) async fn run(mut args: PublishArgs, context: &Context) -> Result<(), Error> {
    args.check()?;
    let template = args.template()?;
    let has_ids = args.id.is_some() || args.id_prefix.is_some();
    let input = input::open(&mut args, template)?;
    let bar = ProgressBar::new(context.format, input.size);
    if let Some(note) = &input.note {
        bar.note(note);
    }
    let durability = args.durability.map(Into::into).unwrap_or_default();
    let dedupe_window = if has_ids { dedupe_window(&args, context, &bar).await? } else { None };
    let guards = Guards { dedupe_window, expected_last_offset: args.expected_last_offset };
    let window = Window::new(args.topic.clone(), durability, guards, args.skip);
    let mut session = Session::new(context, window, input.batches, args.in_flight as usize, args.retry, bar);

    let began = Instant::now();
    let stop = signals::stop()?;
    let ended = stop.run_until_cancelled(session.run()).await.unwrap_or(Err(Error::Stopped));
    session.bar.finish();
    match ended {
        Ok(()) => Ok(Summary::new(&args.topic, &session.window, began).print(context)?),
        Err(cause) => Err(interrupted(cause, session.window.progress())),
    }
}

/// How long the topic remembers ids, if it matters.
async fn dedupe_window(
    args: &PublishArgs,
    context: &Context,
    bar: &ProgressBar,
) -> Result<Option<Duration>, Error> {
    if !args.retry {
        return Ok(None);
    }
    let topic = topic::get(context.connect().await?, args.topic.clone(), context).await?;
    let window = topic.dedupe_window.unwrap_or_default();
    let window = Duration::try_from(window).map_err(|_| Error::protocol("a dedupe window below zero"))?;
    if window.is_zero() {
        bar.note(&format!(
            "note: topic {} remembers no ids; set a window with `columba topic edit {0} --dedupe-window 2m`",
            args.topic
        ));
    }
    Ok(Some(window))
}

/// The error of an input that was not published whole. One that failed before anything was sent
/// stands for itself.
fn interrupted(cause: Error, progress: Progress) -> Error {
    if progress.acknowledged + progress.unknown + progress.stored_beyond == 0 {
        return cause;
    }
    Error::Interrupted { cause: Box::new(cause), note: note(&progress), progress }
}

fn note(progress: &Progress) -> String {
    let Progress { acknowledged, last_offset, unknown, stored_beyond, skip } = progress;
    let mut note = match acknowledged {
        0 => "no message is acknowledged".to_owned(),
        _ if *last_offset == 0 => format!("{acknowledged} messages are acknowledged, all stored before"),
        1 => format!("1 message is acknowledged, at offset {last_offset}"),
        _ => format!("{acknowledged} messages are acknowledged, the last at offset {last_offset}"),
    };
    if *unknown > 0 {
        let _ = write!(note, "; {unknown} more may be stored or not");
    }
    if *stored_beyond > 0 {
        let _ = write!(note, "; {stored_beyond} are stored that come after the first failure");
    }
    let _ = write!(note, "; go on with --skip {skip}");
    if unknown + stored_beyond > 0 {
        note.push_str(", which may store some a second time");
    }
    note
}

/// What was published.
#[derive(Serialize)]
struct Summary<'a> {
    topic: &'a str,
    messages: u64,
    /// Of the messages, those that were stored before and not again.
    duplicates: u64,
    bytes: u64,
    seconds: f64,
    messages_per_second: f64,
    first_offset: u64,
    last_offset: u64,
    /// Messages that were sent again after the server went away, and may be stored twice.
    possible_duplicates: u64,
}

impl<'a> Summary<'a> {
    fn new(topic: &'a str, window: &Window, began: Instant) -> Self {
        let tally = window.acknowledged();
        let seconds = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let messages_per_second = tally.messages as f64 / seconds.max(f64::EPSILON);
        Self {
            topic,
            messages: tally.messages,
            duplicates: tally.duplicates,
            bytes: tally.bytes,
            seconds,
            messages_per_second,
            first_offset: tally.first_offset,
            last_offset: tally.last_offset,
            possible_duplicates: window.resent(),
        }
    }

    fn print(&self, context: &Context) -> std::io::Result<()> {
        context.format.sentence(self, &self.text())
    }

    fn text(&self) -> String {
        if self.messages == 0 {
            return format!("published nothing to {}: the input has no messages", self.topic);
        }
        let plural = if self.messages == 1 { "" } else { "s" };
        let mut text = format!(
            "published {} message{plural} ({}) to {} in {:.2} s, {:.0} messages/s",
            HumanCount(self.messages),
            HumanBytes(self.bytes),
            self.topic,
            self.seconds,
            self.messages_per_second,
        );
        if self.first_offset > 0 {
            let _ = write!(text, ", offsets {} to {}", self.first_offset, self.last_offset);
        }
        match self.duplicates {
            0 => {}
            1 => text.push_str("; 1 is a duplicate and was not stored again"),
            many => {
                let _ = write!(text, "; {} are duplicates and were not stored again", HumanCount(many));
            }
        }
        if self.possible_duplicates > 0 {
            let _ = write!(
                text,
                "; {} of them were sent again after the server went away and may be stored twice",
                HumanCount(self.possible_duplicates)
            );
        }
        text
    }
}
