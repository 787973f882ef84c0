//! `columba kv watch`.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::entry::Shown;
use super::{Client, SelectionArgs};
use crate::cli::backoff::Backoff;
use crate::cli::context::{Context, MAX_RESPONSE_BYTES};
use crate::cli::error::Error;
use crate::cli::message::printable;
use crate::cli::signals;
use crate::proto::v1::watch_entries_response::Event;
use crate::proto::v1::{EntriesChanged, WatchEntriesRequest};

/// Print the entries there are, then every change to them as it happens, until Ctrl-C
///
/// With --limit, only the first ones in the order: what is pushed out is removed, and what moves up is
/// printed. Goes on where it was when the server goes away and comes back, or begins anew and says so.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba kv watch config
  columba kv watch scores --prefix eu. --order-by 'score desc' --limit 5

Text output has put, key, score, revision and value, or rm and the key, or reset when all before counts no more,
separated by tabs; a line with `at` and the revision ends each step.")]
pub(in crate::cli) struct WatchArgs {
    /// The bucket
    bucket: String,
    #[command(flatten)]
    selection: SelectionArgs,
    /// key, 'key desc', score or 'score desc'; by score, only entries that have one
    #[arg(long, value_name = "ORDER", default_value = "key")]
    order_by: String,
    /// Only the first so many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: Option<u32>,
    /// Stop after so many steps; the entries there are at first are one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
}

/// A watch over as many connections as it takes.
struct Watcher<'a> {
    context: &'a Context,
    request: WatchEntriesRequest,
    left: u64,
    stop: CancellationToken,
    was_open: bool,
    backoff: Backoff,
}

pub(super) async fn run(args: WatchArgs, context: &Context) -> Result<(), Error> {
    let WatchArgs { bucket, selection, order_by, limit, steps } = args;
    let SelectionArgs { prefix, min, max } = selection;
    let request = WatchEntriesRequest {
        bucket,
        prefix,
        min_score: min,
        max_score: max,
        order_by,
        limit: limit.unwrap_or_default(),
        resume_token: String::new(),
    };
    let (left, stop) = (steps.unwrap_or(u64::MAX), signals::stop()?);
    let mut watcher = Watcher { context, request, left, stop, was_open: false, backoff: Backoff::default() };
    watcher.follow().await
}

impl Watcher<'_> {
    async fn follow(&mut self) -> Result<(), Error> {
        loop {
            let error = match self.connection().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let wait = self.backoff.next().filter(|_| self.was_open && error.is_passing());
            let Some(wait) = wait else { return Err(error) };
            eprintln!("{error}; connecting again");
            if !self.pause(wait).await {
                return Ok(());
            }
        }
    }

    /// Waits; says whether to go on.
    async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }

    /// Watches over one connection, until there is enough.
    async fn connection(&mut self) -> Result<(), Error> {
        let mut client =
            Client::new(self.context.connect().await?).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let opening = client.watch_entries(self.request.clone());
        let opened = tokio::time::timeout(self.context.timeout, opening).await;
        let opened = opened.map_err(|_| Error::Lost("the server did not open the stream in time".into()))?;
        let mut events = opened?.into_inner();
        self.was_open = true;
        while self.left > 0 {
            let event = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                event = events.message() => event?,
            };
            let Some(response) = event else { return Err(Error::Lost("the server ended the stream".into())) };
            if let Some(Event::Changed(changed)) = response.event {
                self.backoff.reset();
                self.print(changed)?;
            }
        }
        Ok(())
    }

    fn print(&mut self, changed: EntriesChanged) -> Result<(), Error> {
        let format = self.context.format;
        if changed.reset {
            format.sentence(&serde_json::json!({ "event": "reset" }), "reset")?;
        }
        for key in changed.removed_keys {
            let value = serde_json::json!({ "event": "rm", "key": key });
            format.sentence(&value, &format!("rm\t{}", printable(key.as_bytes())))?;
        }
        for entry in changed.entries.into_iter().map(Shown::from) {
            let value = serde_json::json!({ "event": "put", "entry": entry });
            format.sentence(&value, &entry.line())?;
        }
        if !changed.incomplete {
            let revision = changed.revision;
            let value = serde_json::json!({ "event": "at", "revision": revision });
            format.sentence(&value, &format!("at\t{revision}"))?;
            self.request.resume_token = changed.resume_token;
            self.left -= 1;
        }
        Ok(())
    }
}
