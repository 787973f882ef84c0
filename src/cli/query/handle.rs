//! `columba query handle`.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::super::backoff::Backoff;
use super::super::context::{Channel, Context};
use super::super::error::Error;
use super::super::exec::{Program, Ran};
use super::super::signals;
use super::goaway_wait;
use crate::model::limits::{
    DEFAULT_OUTSTANDING_QUERIES, MAX_OUTSTANDING_QUERIES, MAX_QUERY_FAILURE_MESSAGE_BYTES,
    MAX_QUERY_RESULT_BYTES,
};
use crate::proto::v1::answer_query_request::Outcome;
use crate::proto::v1::handle_queries_response::Event;
use crate::proto::v1::query_service_client::QueryServiceClient;
use crate::proto::v1::{
    AnswerQueryRequest, HandleQueriesRequest, HandleQueriesResponse, QueryDelivery, QueryFailure, QueryResult,
};

/// How much longer than the query itself a program may take, so that it is its query that times out first.
const GRACE: Duration = Duration::from_secs(1);

/// Answer queries by running a program for each, until Ctrl-C
///
/// The program gets the query's data on standard input, and COLUMBA_QUERY_TYPE, COLUMBA_QUERY_KEY,
/// COLUMBA_QUERY_CONTENT_TYPE and COLUMBA_QUERY_ID in the environment. What it writes to standard output is
/// the answer. If it ends with another exit status than 0, the query fails, with the end of what it wrote to
/// standard error as the reason; 75, and death by a signal, say that asking again may help. Connects again when the server goes
/// away.
#[derive(Debug, clap::Args)]
#[expect(clippy::doc_markdown, reason = "a help text, printed as it stands")]
#[command(after_help = "Examples:
  columba query handle orders.total --exec ./total.sh
  columba query handle orders.total orders.count --exec ./orders.py --handler eu --concurrency 4
  columba query handle greet --exec sh -- -c 'echo \"hello $COLUMBA_QUERY_KEY\"'")]
pub(in crate::cli) struct HandleArgs {
    /// The types of queries to answer
    #[arg(value_name = "TYPE", required = true)]
    types: Vec<String>,
    /// The program to run for each query
    #[arg(long, value_name = "PROGRAM")]
    exec: OsString,
    /// Arguments for the program
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
    /// A name for this handler; handlers of one name stand in for each other when answers are gathered
    #[arg(long, default_value = "", hide_default_value = true)]
    handler: String,
    /// How many programs may run at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_OUTSTANDING_QUERIES)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_OUTSTANDING_QUERIES)))]
    concurrency: u32,
    /// The media type of the answers, such as application/json
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// The first line that the program writes is the revision of its answer, and not part of it
    #[arg(long)]
    revision_line: bool,
}

pub(in crate::cli) async fn run(args: HandleArgs, context: &Context) -> Result<(), Error> {
    let HandleArgs { types, exec, arguments, handler, concurrency, content_type, revision_line } = args;
    let answering = Answering {
        program: Program::find(exec, arguments, MAX_QUERY_FAILURE_MESSAGE_BYTES)?,
        content_type,
        revision_line,
        timeout: context.timeout,
    };
    let request = HandleQueriesRequest { types, handler, max_outstanding: concurrency };
    let mut handler = Handler { context, request, answering, was_open: false, stop: signals::stop()? };
    let mut backoff = Backoff::default();
    loop {
        let (why, wait) = match handler.connection(&mut backoff).await {
            Ok(None) => return Ok(()),
            Ok(Some(wait)) => ("the server is going away".to_owned(), wait),
            Err(error) if handler.was_open && error.is_passing() => match backoff.next() {
                Some(wait) => (error.to_string(), wait),
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        eprintln!("{why}; connecting again");
        tokio::select! {
            () = handler.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Handler<'a> {
    context: &'a Context,
    request: HandleQueriesRequest,
    answering: Answering,
    /// Whether any stream was ever open: only then is it worth connecting again.
    was_open: bool,
    stop: CancellationToken,
}

impl Handler<'_> {
    /// Handles over one connection; how long to wait before the next, if there is to be one. With the
    /// connection end the programs: their queries are others' then.
    async fn connection(&mut self, backoff: &mut Backoff) -> Result<Option<Duration>, Error> {
        let mut client = QueryServiceClient::new(self.context.connect().await?);
        let mut events = self.open(&mut client).await?;
        let mut running = JoinSet::new();
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                Some(done) = running.join_next() => {
                    done.map_err(|error| Error::Input(error.to_string()))??;
                    continue;
                }
                event = events.message() => event?,
            };
            let Some(response) = event else { return Err(Error::Lost("the server ended the stream".into())) };
            match response.event {
                Some(Event::Started(_)) => {
                    self.was_open = true;
                    eprintln!("handling {}; Ctrl-C ends", self.request.types.join(", "));
                }
                Some(Event::Delivery(delivery)) => {
                    backoff.reset();
                    running.spawn(self.answering.clone().answer(delivery, client.clone()));
                }
                Some(Event::Goaway(goaway)) => return Ok(Some(goaway_wait(&goaway))),
                // An event of a later version is none of ours.
                Some(Event::Heartbeat(_)) | None => backoff.reset(),
            }
        }
    }

    async fn open(
        &self,
        client: &mut QueryServiceClient<Channel>,
    ) -> Result<Streaming<HandleQueriesResponse>, Error> {
        match tokio::time::timeout(self.context.timeout, client.handle_queries(self.request.clone())).await {
            Ok(opened) => Ok(opened?.into_inner()),
            Err(_) => Err(Error::Lost("the server did not open the stream in time".into())),
        }
    }
}

/// How queries are answered.
#[derive(Clone)]
struct Answering {
    program: Program,
    content_type: String,
    revision_line: bool,
    /// How long the server may take to take an answer.
    timeout: Duration,
}

impl Answering {
    /// Answers one query. An error means that no query can be answered.
    async fn answer(
        self,
        delivery: QueryDelivery,
        mut client: QueryServiceClient<Channel>,
    ) -> Result<(), Error> {
        let left = delivery.time_left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
        let id = hex(&delivery.query_id);
        let environment = [
            ("COLUMBA_QUERY_TYPE", delivery.r#type),
            ("COLUMBA_QUERY_KEY", delivery.key),
            ("COLUMBA_QUERY_CONTENT_TYPE", delivery.content_type),
            ("COLUMBA_QUERY_ID", id.clone()),
        ];
        // A revision on its line takes a few bytes more.
        let most = MAX_QUERY_RESULT_BYTES + 32;
        let running = self.program.run(delivery.payload, environment, most, std::future::pending());
        let Ok(ran) = tokio::time::timeout(left + GRACE, running).await else {
            eprintln!("query {id}: its deadline has passed, and the program was ended");
            return Ok(());
        };
        let outcome = Some(self.outcome(ran?));
        let mut request = tonic::Request::new(AnswerQueryRequest { query_id: delivery.query_id, outcome });
        request.set_timeout(self.timeout);
        if let Err(status) = client.answer_query(request).await {
            eprintln!("query {id}: {}", Error::from(status));
        }
        Ok(())
    }

    fn outcome(&self, ran: Ran) -> Outcome {
        let failure = |code: &str, message, retryable| {
            Outcome::Failure(QueryFailure { code: code.into(), message, retryable })
        };
        let output = match ran {
            Ran::Done(output) => Bytes::from(output),
            Ran::Failed { code, message, retryable } => return failure(&code, message, retryable),
        };
        let read = if self.revision_line { revision_and_rest(&output) } else { Some((0, output)) };
        match read {
            Some((revision, payload)) => {
                Outcome::Result(QueryResult { payload, content_type: self.content_type.clone(), revision })
            }
            None => failure("BAD_REVISION", "the first line of the output is no revision".into(), false),
        }
    }
}

/// The number on the first line, and what follows it.
fn revision_and_rest(output: &Bytes) -> Option<(u64, Bytes)> {
    let end = output.iter().position(|&byte| byte == b'\n').unwrap_or(output.len());
    let revision = str::from_utf8(&output[..end]).ok()?.trim().parse().ok()?;
    Some((revision, output.slice((end + 1).min(output.len())..)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_a_line_of_its_own() {
        let read = |text: &'static str| revision_and_rest(&Bytes::from(text));
        assert_eq!(read("42\nrest\nof it"), Some((42, "rest\nof it".into())));
        assert_eq!(read("42\n"), Some((42, "".into())));
        assert_eq!(read("42"), Some((42, "".into())));
        assert_eq!(read("no\nnumber"), None);
        assert_eq!(read(""), None);
    }
}
