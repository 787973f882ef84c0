//! `columba query watch`.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::super::backoff::Backoff;
use super::super::context::{Context, MAX_RESPONSE_BYTES};
use super::super::error::Error;
use super::super::message::printable;
use super::super::output::{Format, json_line};
use super::super::signals;
use super::{Asked, Line, Question, goaway_wait, timeout};
use crate::proto::v1::query_service_client::QueryServiceClient;
use crate::proto::v1::watch_query_response::Event;
use crate::proto::v1::{QueryAnswer, QueryStale, WatchQueryRequest, WatchQueryResponse};

/// Print the answer to a question, and every newer one as it comes, until Ctrl-C
///
/// Connects again when the server goes away; then the answer is printed once more.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba query watch orders.total --key customer-7
  columba query watch orders.total --key customer-7 --count 2 -o json

Text output has the revision and the answer, separated by a tab.")]
pub(in crate::cli) struct WatchArgs {
    #[command(flatten)]
    question: Question,
    /// Take no first answer of a lower revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    min_revision: u64,
    /// Stop after so many answers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(in crate::cli) async fn run(args: WatchArgs, context: &Context) -> Result<(), Error> {
    let Asked { kind, key, payload, content_type, attributes } = args.question.read().await?;
    let request = WatchQueryRequest {
        r#type: kind,
        key,
        payload,
        content_type,
        attributes,
        timeout: Some(timeout(context)),
        min_revision: args.min_revision,
    };
    let left = args.count.unwrap_or(u64::MAX);
    let mut watch = Watch { context, request, left, answered: false, stop: signals::stop()? };
    let mut backoff = Backoff::default();
    loop {
        let (why, wait) = match watch.connection(&mut backoff).await {
            Ok(None) => return Ok(()),
            Ok(Some(wait)) => ("the server is going away".to_owned(), wait),
            Err(error) if watch.answered && error.is_passing() => match backoff.next() {
                Some(wait) => (error.to_string(), wait),
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        eprintln!("{why}; watching again");
        tokio::select! {
            () = watch.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Watch<'a> {
    context: &'a Context,
    request: WatchQueryRequest,
    /// Answers to print still.
    left: u64,
    /// Whether any answer ever came: only then is it worth connecting again.
    answered: bool,
    stop: CancellationToken,
}

impl Watch<'_> {
    /// Watches over one connection; how long to wait before the next, if there is to be one.
    async fn connection(&mut self, backoff: &mut Backoff) -> Result<Option<Duration>, Error> {
        let mut events = self.open().await?;
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                event = events.message() => event?,
            };
            let Some(response) = event else { return Err(Error::Lost("the server ended the stream".into())) };
            match response.event {
                Some(Event::Answer(answer)) => {
                    backoff.reset();
                    self.answered = true;
                    print(&answer, self.context.format)?;
                    self.left -= 1;
                    if self.left == 0 {
                        return Ok(None);
                    }
                }
                Some(Event::Stale(stale)) => print_stale(&stale, self.context.format)?,
                Some(Event::Goaway(goaway)) => return Ok(Some(goaway_wait(&goaway))),
                // An event of a later version is none of ours.
                Some(Event::Heartbeat(_)) | None => {}
            }
        }
    }

    async fn open(&self) -> Result<Streaming<WatchQueryResponse>, Error> {
        let mut client = QueryServiceClient::new(self.context.connect().await?)
            .max_decoding_message_size(MAX_RESPONSE_BYTES);
        match tokio::time::timeout(self.context.timeout, client.watch_query(self.request.clone())).await {
            Ok(opened) => Ok(opened?.into_inner()),
            Err(_) => Err(Error::Lost("the server did not open the stream in time".into())),
        }
    }
}

/// An answer, as one of several events.
#[derive(Serialize)]
struct Shown<'a> {
    event: &'a str,
    #[serde(flatten)]
    line: Line<'a>,
}

fn print(answer: &QueryAnswer, format: Format) -> io::Result<()> {
    let QueryAnswer { payload, content_type, revision, handler } = answer;
    let mut out = io::stdout().lock();
    match format {
        Format::Text => writeln!(out, "{revision}\t{}", printable(payload))?,
        Format::Json => {
            let line = Line::new(payload, content_type, *revision, handler);
            json_line(&mut out, &Shown { event: "answer", line })?;
        }
    }
    out.flush()
}

/// For people, this is no part of the output.
fn print_stale(stale: &QueryStale, format: Format) -> io::Result<()> {
    match format {
        Format::Text => {
            eprintln!("the last answer is out of date, and there is no newer one: {}", stale.message);
        }
        Format::Json => {
            let value = json!({ "event": "stale", "reason": stale.reason, "message": stale.message });
            json_line(&mut io::stdout().lock(), &value)?;
        }
    }
    Ok(())
}
