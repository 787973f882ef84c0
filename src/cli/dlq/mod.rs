//! `columba dlq`.

mod letter;
mod rounds;

use std::fmt::Write as _;

use serde::Serialize;

use super::context::{Context, MAX_RESPONSE_BYTES};
use super::error::Error;
use super::{pages, parse};
use crate::proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use crate::proto::v1::{ListDeadLettersRequest, PurgeDeadLettersRequest, RedriveDeadLettersRequest};
use letter::Letter;
use rounds::{Round, Rounds};

/// Letters asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// List, show, redrive and purge dead letters, the messages that subscriptions gave up
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  columba dlq ls --subscription billing
  columba dlq redrive --subscription billing --reason timeout --since 1h --rate 100
  columba dlq purge --topic dead.mail --until 2026-01-31T12:00:00Z --dry-run")]
pub(super) enum DlqCommand {
    /// List dead letters, the oldest first
    Ls {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Stop after so many letters
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max: Option<u64>,
    },
    /// Show one dead letter
    Show {
        /// The dead-letter topic
        topic: String,
        /// The letter's offset there
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        offset: u64,
    },
    Redrive(RedriveArgs),
    /// Do away with dead letters: they are not listed or redriven any more
    Purge {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Stop after so many letters
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max: Option<u64>,
        /// Only tell how many letters it would be
        #[arg(long)]
        dry_run: bool,
    },
}

/// Publish dead letters again, as they were, for the subscriptions they died in
#[derive(Debug, clap::Args)]
pub(super) struct RedriveArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Stop after so many letters
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Publish so many in a second at most [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Publish to this topic instead, for all of its subscriptions
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Which letters.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "letters", required = true, multiple = true, args = ["subscription", "topic"])]
pub(super) struct SelectionArgs {
    /// The letters of this subscription
    #[arg(long, value_name = "NAME", conflicts_with = "topic")]
    subscription: Option<String>,
    /// The letters on this dead-letter topic
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// Only letters whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only letters given up since then: a time as in RFC 3339, or so long ago, such as 1h
    #[arg(long, value_name = "TIME", value_parser = parse::time_or_ago)]
    since: Option<prost_types::Timestamp>,
    /// Only letters given up before then: a time as in RFC 3339, or so long ago, such as 1h
    #[arg(long, value_name = "TIME", value_parser = parse::time_or_ago)]
    until: Option<prost_types::Timestamp>,
    /// Only letters for which this CEL expression is true, such as 'message.type == "order"'
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
}

/// A request about the letters of a selection, which all requests name alike.
macro_rules! of_selection {
    ($request:ident, $selection:expr) => {{
        let SelectionArgs { subscription, topic, reason, since, until, filter } = $selection;
        $request {
            subscription: subscription.unwrap_or_default(),
            topic: topic.unwrap_or_default(),
            reason: reason.unwrap_or_default(),
            since,
            until,
            filter: filter.unwrap_or_default(),
            ..Default::default()
        }
    }};
}

type Client = DeadLetterServiceClient<super::context::Channel>;

pub(super) async fn run(command: DlqCommand, context: &Context) -> Result<(), Error> {
    let client = Client::new(context.connect().await?).max_decoding_message_size(MAX_RESPONSE_BYTES);
    match command {
        DlqCommand::Ls { selection, max } => list(client, selection, max, context).await,
        DlqCommand::Show { topic, offset } => show(client, topic, offset, context).await,
        DlqCommand::Redrive(args) => redrive(client, args, context).await,
        DlqCommand::Purge { selection, max, dry_run } => {
            purge(client, selection, max, dry_run, context).await
        }
    }
}

async fn list(
    mut client: Client,
    selection: SelectionArgs,
    max: Option<u64>,
    context: &Context,
) -> Result<(), Error> {
    let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let letters = pages::all(max, async |page_token| {
        let request = ListDeadLettersRequest {
            page_size: PAGE_SIZE,
            page_token,
            ..of_selection!(ListDeadLettersRequest, selection.clone())
        };
        let page = client.list_dead_letters(context.request(request)).await?.into_inner();
        Ok((page.dead_letters.into_iter().map(Letter::from).collect(), page.next_page_token))
    });
    let letters: Vec<Letter> = letters.await?;
    let header = ["OFFSET", "SUBSCRIPTION", "TOPIC", "AT", "ATTEMPTS", "TIME", "REASON"];
    Ok(context.format.list(&letters, &header, &[0, 3, 4], Letter::row)?)
}

async fn show(mut client: Client, topic: String, offset: u64, context: &Context) -> Result<(), Error> {
    let request = ListDeadLettersRequest {
        topic: topic.clone(),
        first_offset: offset,
        last_offset: offset,
        ..Default::default()
    };
    let page = client.list_dead_letters(context.request(request)).await?.into_inner();
    let letter = page.dead_letters.into_iter().next().map(Letter::from);
    let letter = letter.ok_or_else(|| Error::Refused {
        code: tonic::Code::NotFound,
        reason: "DEAD_LETTER_NOT_FOUND".into(),
        message: format!("topic {topic} has no dead letter {offset} that is not dealt with"),
    })?;
    Ok(context.format.item(&letter, letter.fields())?)
}

/// What a redrive did, as it is printed.
#[derive(Debug, Default, Serialize)]
struct Redriven {
    dry_run: bool,
    redriven: u64,
    skipped: u64,
    /// The first of those skipped.
    skips: Vec<Skip>,
}

#[derive(Debug, Serialize)]
struct Skip {
    offset: u64,
    reason: String,
    message: String,
}

async fn redrive(client: Client, args: RedriveArgs, context: &Context) -> Result<(), Error> {
    let RedriveArgs { selection, max, rate, to, dry_run } = args;
    let mut total = Redriven { dry_run, ..Redriven::default() };
    let mut rounds = Rounds::new(max, rate, context.format)?;
    let would = if dry_run { "would be " } else { "" };
    let ended = loop {
        let Some(Round { size, first, last }) = rounds.next() else { break rounds.end() };
        let request = RedriveDeadLettersRequest {
            first_offset: first,
            last_offset: last,
            max_messages: size,
            max_per_second: rate.unwrap_or_default(),
            dry_run,
            target_topic: to.clone().unwrap_or_default(),
            ..of_selection!(RedriveDeadLettersRequest, selection.clone())
        };
        let done = match client.clone().redrive_dead_letters(context.request(request)).await {
            Ok(done) => done.into_inner(),
            Err(status) => break Err(status.into()),
        };
        total.redriven += u64::from(done.redriven);
        total.skipped += u64::from(done.skipped);
        let skips = done.skips.into_iter();
        total.skips.extend(skips.map(|it| Skip {
            offset: it.offset,
            reason: it.reason,
            message: it.message,
        }));
        total.skips.truncate(rounds::MOST_SKIPS);
        let text = format!("{} {would}redriven, {} skipped", total.redriven, total.skipped);
        rounds.done(done.matched, (done.next_offset, done.last_offset), text);
    };
    rounds.clear();
    let mut text = format!("{} {would}redriven, {} {would}skipped", total.redriven, total.skipped);
    for Skip { offset, message, .. } in &total.skips {
        let _ = write!(text, "\nskipped {offset}: {message}");
    }
    context.format.sentence(&total, &text)?;
    ended
}

async fn purge(
    client: Client,
    selection: SelectionArgs,
    max: Option<u64>,
    dry_run: bool,
    context: &Context,
) -> Result<(), Error> {
    let mut purged = 0;
    let mut rounds = Rounds::new(max, None, context.format)?;
    let would = if dry_run { "would be " } else { "" };
    let ended = loop {
        let Some(Round { size, first, last }) = rounds.next() else { break rounds.end() };
        let request = PurgeDeadLettersRequest {
            first_offset: first,
            last_offset: last,
            max_messages: size,
            dry_run,
            ..of_selection!(PurgeDeadLettersRequest, selection.clone())
        };
        let done = match client.clone().purge_dead_letters(context.request(request)).await {
            Ok(done) => done.into_inner(),
            Err(status) => break Err(status.into()),
        };
        purged += u64::from(done.purged);
        rounds.done(done.purged, (done.next_offset, done.last_offset), format!("{purged} {would}purged"));
    };
    rounds.clear();
    let total = serde_json::json!({ "dry_run": dry_run, "purged": purged });
    context.format.sentence(&total, &format!("{purged} {would}purged"))?;
    ended
}
