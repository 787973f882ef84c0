//! `columba command handle`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::execution::state_name;
use super::{Client, connect};
use crate::cli::backoff::Backoff;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::exec::{Program, Ran};
use crate::cli::message::printable;
use crate::cli::signals;
use crate::model::limits::{MAX_COMMAND_RESULT_BYTES, MAX_FAILURE_MESSAGE_BYTES, MAX_HANDLER_OUTSTANDING};
use crate::proto::v1::complete_command_request::Outcome;
use crate::proto::v1::handle_commands_response::Event;
use crate::proto::v1::{
    CommandDelivery, CommandFailure, CommandState, CompleteCommandRequest, DrainHandlerRequest,
    ExtendCommandRequest, HandleCommandsRequest,
};

/// How often the lease of a running program is extended: a third of it.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// The time between attempts to tell an outcome, after many.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait that a leaving server can ask for.
const LONGEST_GOAWAY: Duration = Duration::from_secs(30);

/// Carry out commands with a program, one run for each
///
/// The payload is the program's standard input, and what it writes to standard output is the result. Exit
/// status 0 means done. 75, and death by a signal, mean that another attempt may succeed: the command is
/// tried again later, here or elsewhere, until its time is over. Any other status means that it failed for
/// good. The end of standard error is the failure's message; all of it is passed on.
///
/// The program finds the command's id, type, key, attempt, content type and correlation id in its
/// environment, as `COLUMBA_COMMAND_ID`, `COLUMBA_COMMAND_CONTENT_TYPE` and so on. It may be run more than once for the same command. When somebody cancels the command, it
/// gets SIGTERM, and so does what it has started.
///
/// At Ctrl-C or SIGTERM, takes no more commands and ends when those that run are done. What comes after that
/// goes to other handlers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba command handle account.deposit --exec ./deposit.sh
  columba command handle mail.send sms.send --concurrency 8 --exec python3 -- notify.py --live

Prints a line for each run: the command's id, its state and its attempts, separated by tabs.")]
pub(in crate::cli) struct HandleArgs {
    /// The types of commands to carry out
    #[arg(required = true, value_name = "TYPE")]
    types: Vec<String>,
    /// The program
    #[arg(long, required = true, value_name = "PROGRAM")]
    exec: OsString,
    /// Arguments for the program, after --
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
    /// How many commands to carry out at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_HANDLER_OUTSTANDING)))]
    concurrency: u32,
    /// Stop after so many runs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// A name for this handler in the server's lists and logs
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    handler: String,
}

pub(super) async fn run(args: HandleArgs, context: &Context) -> Result<(), Error> {
    let program = Program::find(args.exec, args.arguments, MAX_FAILURE_MESSAGE_BYTES)?;
    let stop = signals::stop()?;
    let mut handler = Handler {
        context,
        client: connect(context).await?,
        program,
        request: HandleCommandsRequest {
            types: args.types,
            handler: args.handler,
            max_outstanding: args.concurrency,
        },
        slots: Arc::new(Semaphore::new(args.concurrency as usize)),
        left: args.count.unwrap_or(u64::MAX),
        takes: None,
        runs: JoinSet::new(),
        cancels: HashMap::new(),
        was_open: false,
        backoff: Backoff::default(),
        stop,
    };
    handler.follow().await
}

/// One that carries out commands, over as many connections as it takes.
struct Handler<'a> {
    context: &'a Context,
    client: Client,
    program: Program,
    request: HandleCommandsRequest,
    /// For as many runs as there may be at once.
    slots: Arc<Semaphore>,
    /// Runs to begin still.
    left: u64,
    /// What the server calls the open stream, unless it was told that it takes no more.
    takes: Option<String>,
    runs: JoinSet<Run>,
    /// How to tell a run that its command is to be cancelled, by delivery.
    cancels: HashMap<Bytes, CancellationToken>,
    was_open: bool,
    backoff: Backoff,
    stop: CancellationToken,
}

/// How a connection ended without an error.
enum End {
    Done,
    Goaway(Duration),
}

/// A run that is over.
struct Run {
    delivery: CommandDelivery,
    /// The state that it left the command in, or why nobody knows.
    state: Result<CommandState, Error>,
}

impl Handler<'_> {
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
            if self.is_over() {
                return Ok(());
            }
            eprintln!("{why}; connecting again");
            let again = Instant::now() + wait;
            while Instant::now() < again && !self.is_over() {
                tokio::select! {
                    Some(ran) = self.runs.join_next() => self.ran(ran)?,
                    () = tokio::time::sleep_until(again) => {}
                }
            }
        }
    }

    /// Nothing runs, and nothing more is to.
    fn is_over(&self) -> bool {
        self.runs.is_empty() && (self.left == 0 || self.stop.is_cancelled())
    }

    async fn connection(&mut self) -> Result<End, Error> {
        self.takes = None;
        let opening = self.client.handle_commands(Request::new(self.request.clone()));
        let opened = tokio::time::timeout(self.context.timeout, opening).await;
        let mut events = opened
            .map_err(|_| Error::Lost("the server did not open the stream in time".into()))??
            .into_inner();
        let stop = self.stop.clone();
        loop {
            // Until what runs is done the stream stays open: its end would give the leases back.
            if self.is_over() {
                return Ok(End::Done);
            }
            if self.left == 0 {
                self.drain().await;
            }
            let event = tokio::select! {
                biased;
                Some(ran) = self.runs.join_next() => {
                    self.ran(ran)?;
                    continue;
                }
                () = stop.cancelled(), if self.left > 0 => {
                    self.left = 0;
                    continue;
                }
                event = events.message() => event?,
            };
            let Some(response) = event else {
                return Err(Error::Lost("the server ended the stream".into()));
            };
            match response.event {
                Some(Event::Started(started)) => {
                    self.was_open = true;
                    self.takes = Some(started.handler_id);
                }
                Some(Event::Delivery(delivery)) => {
                    self.backoff.reset();
                    self.begin(delivery);
                }
                Some(Event::CancelRequested(cancel)) => {
                    if let Some(run) = self.cancels.get(&cancel.ack_id) {
                        run.cancel();
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

    /// Tells the server that no more commands are wanted, while what runs is finished.
    async fn drain(&mut self) {
        let Some(handler_id) = self.takes.take() else { return };
        let mut request = Request::new(DrainHandlerRequest { handler_id });
        request.set_timeout(self.context.timeout);
        // A server that does not know how keeps them until the stream or their lease ends.
        drop(self.client.drain_handler(request).await);
    }

    /// Gives back what was on its way when no more was wanted.
    fn give_back(&self, delivery: CommandDelivery) {
        let (mut client, timeout) = (self.client.clone(), self.context.timeout);
        let (code, message) = ("HANDLER_LEAVES".into(), "the handler takes no more commands".into());
        let failure = CommandFailure { code, message, retryable: true };
        let (ack_id, outcome) = (delivery.ack_id, Some(Outcome::Failure(failure)));
        tokio::spawn(async move {
            let mut request = Request::new(CompleteCommandRequest { ack_id, outcome, events: Vec::new() });
            request.set_timeout(timeout);
            // If that does not work, its lease ends with the stream.
            drop(client.complete_command(request).await);
        });
    }

    /// Begins a run, if any is left.
    fn begin(&mut self, delivery: CommandDelivery) {
        if self.left == 0 {
            self.give_back(delivery);
            return;
        }
        self.left -= 1;
        let cancel = CancellationToken::new();
        self.cancels.insert(delivery.ack_id.clone(), cancel.clone());
        let (client, program) = (self.client.clone(), self.program.clone());
        let (slots, timeout) = (Arc::clone(&self.slots), self.context.timeout);
        self.runs.spawn(async move {
            let carry_out = async {
                let _slot = slots.acquire_owned().await;
                carry_out(&program, &delivery, &cancel).await
            };
            let state = {
                let mut keeping = std::pin::pin!(keep(client.clone(), &delivery, timeout, &cancel));
                let outcome = tokio::select! {
                    outcome = carry_out => Ok(outcome),
                    // Dropping the run kills the program: its outcome would not count.
                    error = &mut keeping => Err(error),
                };
                match outcome {
                    Ok(outcome) => {
                        let mut completing = std::pin::pin!(complete(client, &delivery, outcome, timeout));
                        // The lease is kept until the server has the outcome.
                        tokio::select! {
                            biased;
                            state = &mut completing => state,
                            _ = &mut keeping => completing.await,
                        }
                    }
                    Err(error) => Err(error),
                }
            };
            Run { delivery, state }
        });
    }

    fn ran(&mut self, ran: Result<Run, tokio::task::JoinError>) -> Result<(), Error> {
        let Run { delivery, state } = ran.map_err(|error| Error::Io(error.into()))?;
        self.cancels.remove(&delivery.ack_id);
        let command = delivery.command.as_ref();
        let id = command.map_or("", |command| &command.id);
        match state {
            Ok(state) => {
                let line = Line { id, state: state_name(state), attempt: delivery.attempt };
                let text = format!("{}\t{}\t{}", printable(id.as_bytes()), line.state, line.attempt);
                self.context.format.sentence(&line, &text)?;
            }
            Err(error) => eprintln!("command {}: {error}", printable(id.as_bytes())),
        }
        Ok(())
    }
}

/// A run as JSON.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    state: &'static str,
    attempt: u32,
}

/// Runs the program for a delivery: the payload is its input, its output the result.
async fn carry_out(program: &Program, delivery: &CommandDelivery, cancel: &CancellationToken) -> Outcome {
    let command = delivery.command.clone().unwrap_or_default();
    let environment = [
        ("COLUMBA_COMMAND_ID", command.id),
        ("COLUMBA_COMMAND_TYPE", command.r#type),
        ("COLUMBA_COMMAND_KEY", command.key),
        ("COLUMBA_COMMAND_ATTEMPT", delivery.attempt.to_string()),
        ("COLUMBA_COMMAND_CONTENT_TYPE", command.content_type),
        ("COLUMBA_COMMAND_CORRELATION_ID", command.correlation_id),
    ];
    let ran = program.run(command.payload, environment, MAX_COMMAND_RESULT_BYTES, cancel.cancelled()).await;
    let (code, message, retryable) = match ran {
        Ok(Ran::Done(result)) => return Outcome::Result(Bytes::from(result)),
        Ok(Ran::Failed { message, .. }) if cancel.is_cancelled() => ("CANCELLED".into(), message, false),
        Ok(Ran::Failed { code, message, retryable }) => (code, message, retryable),
        // It is there no more; another handler may have it.
        Err(error) => ("EXEC_FAILED".into(), error.to_string(), true),
    };
    Outcome::Failure(CommandFailure { code, message, retryable })
}

/// Keeps a lease; returns when it is lost.
async fn keep(
    mut client: Client,
    delivery: &CommandDelivery,
    timeout: Duration,
    cancel: &CancellationToken,
) -> Error {
    loop {
        sleep(EXTEND_EVERY).await;
        let mut request = Request::new(ExtendCommandRequest { ack_id: delivery.ack_id.clone(), lease: None });
        request.set_timeout(timeout);
        match client.extend_command(request).await {
            Ok(extended) if extended.get_ref().cancel_requested => cancel.cancel(),
            Ok(_) => {}
            Err(status) if matches!(status.code(), Code::Aborted | Code::FailedPrecondition) => {
                return status.into();
            }
            // The next one may come through; if not, the completion tells.
            Err(_) => {}
        }
    }
}

/// Whether the command's time is over, and it has ended by itself.
fn is_over(delivery: &CommandDelivery) -> bool {
    let expires = delivery.expire_time.and_then(|time| SystemTime::try_from(time).ok());
    expires.is_none_or(|expires| expires <= SystemTime::now())
}

/// Tells the server the outcome, as often as it takes: the same once more does nothing.
async fn complete(
    mut client: Client,
    delivery: &CommandDelivery,
    outcome: Outcome,
    timeout: Duration,
) -> Result<CommandState, Error> {
    let message = CompleteCommandRequest {
        ack_id: delivery.ack_id.clone(),
        outcome: Some(outcome),
        events: Vec::new(),
    };
    let mut backoff = Backoff::default();
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(timeout);
        match client.complete_command(request).await {
            Ok(completed) => {
                let execution = super::some(completed.into_inner().execution)?;
                return Ok(execution.state());
            }
            Err(status) => {
                // What came of a run is not given up because the server is busy, or its disk full.
                let is_busy = matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded);
                let error = Error::from(status);
                if !is_busy && !error.is_passing() {
                    return Err(error);
                }
                match backoff.next() {
                    Some(wait) => sleep(wait).await,
                    None if !is_over(delivery) => sleep(LAST_WAIT).await,
                    None => return Err(error),
                }
            }
        }
    }
}
