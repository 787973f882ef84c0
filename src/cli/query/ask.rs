//! `columba query ask`.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tonic::Request;

use super::super::context::{Context, MAX_RESPONSE_BYTES};
use super::super::error::Error;
use super::super::message::printable;
use super::super::output::{Format, json_line};
use super::super::parse;
use super::{Line, Question, timeout};
use crate::proto::v1::gathered_answer::Outcome;
use crate::proto::v1::query_service_client::QueryServiceClient;
use crate::proto::v1::{CachePolicy, Gather, GatheredAnswer, QueryRequest, QueryResponse};

/// How much longer than the query itself the call may take.
const GRACE: Duration = Duration::from_secs(2);

/// Ask one question, and print the answer
///
/// Waits for the answer for as long as --timeout says. Without a handler of the type, that is an error at
/// once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba query ask orders.total --key customer-7
  columba query ask orders.total --key customer-7 --cache-ttl 1m -o json
  columba query ask orders.total --key customer-7 --min-revision 42
  columba query ask orders.count --gather 10")]
pub(in crate::cli) struct AskArgs {
    #[command(flatten)]
    question: Question,
    /// Take an answer from the server's cache that is at most so old; at most 1h
    #[arg(long, value_name = "DURATION", value_parser = parse::positive_duration)]
    cache_ttl: Option<Duration>,
    /// Ask a handler in any case; with --cache-ttl, keep the answer for others
    #[arg(long)]
    no_cache: bool,
    /// Take no answer of a lower revision, such as the one that a write returned
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    min_revision: u64,
    /// Ask one handler of each name, and print what they answer, up to so many
    #[arg(long, value_name = "N", conflicts_with_all = ["cache_ttl", "no_cache"])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    gather: Option<u32>,
}

pub(in crate::cli) async fn run(args: AskArgs, context: &Context) -> Result<(), Error> {
    let asked = args.question.read().await?;
    let ttl = args.cache_ttl.and_then(|ttl| prost_types::Duration::try_from(ttl).ok());
    let message = QueryRequest {
        r#type: asked.kind,
        key: asked.key,
        payload: asked.payload,
        content_type: asked.content_type,
        attributes: asked.attributes,
        timeout: Some(timeout(context)),
        cache: (ttl.is_some() || args.no_cache).then_some(CachePolicy { ttl, bypass: args.no_cache }),
        min_revision: args.min_revision,
        gather: args.gather.map(|max_answers| Gather { max_answers }),
    };
    let mut request = Request::new(message);
    // The server says better than the clock of a call what took so long.
    request.set_timeout(context.timeout + GRACE);
    let client = QueryServiceClient::new(context.connect().await?);
    let response = client.max_decoding_message_size(MAX_RESPONSE_BYTES).query(request).await?.into_inner();
    if args.gather.is_some() {
        print_gathered(&response, context.format)
    } else {
        print(&response, context.format)
    }
}

/// An answer with where it came from.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    from_cache: bool,
    age_seconds: f64,
}

fn print(response: &QueryResponse, format: Format) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let payload = &response.payload;
    match format {
        Format::Text => {
            out.write_all(&shown(payload, out.is_terminal()))?;
            if payload.last().is_some_and(|&last| last != b'\n') {
                out.write_all(b"\n")?;
            }
        }
        Format::Json => {
            let age = response.age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
            let line = Line::new(payload, &response.content_type, response.revision, &response.handler);
            let answer = Answer { line, from_cache: response.from_cache, age_seconds: age.as_secs_f64() };
            json_line(&mut out, &answer)?;
        }
    }
    Ok(())
}

/// The payload as it is; on a terminal, with nothing in it that could harm one.
fn shown(payload: &[u8], terminal: bool) -> Cow<'_, [u8]> {
    if !terminal {
        return payload.into();
    }
    let lines = payload.split(|&byte| byte == b'\n').map(printable);
    lines.collect::<Vec<_>>().join("\n").into_bytes().into()
}

fn print_gathered(response: &QueryResponse, format: Format) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    for answer in &response.answers {
        match format {
            Format::Text => {
                let (outcome, text) = text(answer);
                writeln!(out, "{}\t{outcome}\t{text}", printable(answer.handler.as_bytes()))?;
            }
            Format::Json => json_line(&mut out, &value(answer))?,
        }
    }
    if response.unanswered > 0 {
        eprintln!("{} of {} handlers have not answered", response.unanswered, response.asked);
    }
    Ok(())
}

fn text(answer: &GatheredAnswer) -> (&str, Cow<'_, str>) {
    match &answer.outcome {
        Some(Outcome::Result(result)) => ("ok", printable(&result.payload)),
        Some(Outcome::Failure(failure)) => {
            ("failed", format!("{}: {}", failure.code, failure.message).into())
        }
        None => ("failed", "no outcome".into()),
    }
}

fn value(answer: &GatheredAnswer) -> Value {
    match &answer.outcome {
        Some(Outcome::Result(result)) => {
            json!(Line::new(&result.payload, &result.content_type, result.revision, &answer.handler))
        }
        Some(Outcome::Failure(failure)) => json!({
            "handler": answer.handler,
            "failure": { "code": failure.code, "message": failure.message, "retryable": failure.retryable },
        }),
        None => json!({ "handler": answer.handler }),
    }
}
