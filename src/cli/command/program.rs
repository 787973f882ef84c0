//! Carries out one command with a program.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command as Process};
use tokio_util::sync::CancellationToken;

use crate::model::limits::{MAX_COMMAND_RESULT_BYTES, MAX_FAILURE_MESSAGE_BYTES};
use crate::proto::v1::complete_command_request::Outcome;
use crate::proto::v1::{CommandDelivery, CommandFailure};

/// The exit status that asks for another attempt: `EX_TEMPFAIL` of sysexits.h.
const TEMPORARY: i32 = 75;

/// Runs a program for a delivery: the payload is its input, its output the result. `cancel` asks it to end,
/// `abandon` ends it.
pub(super) async fn run(
    program: &[String],
    delivery: &CommandDelivery,
    cancel: CancellationToken,
    abandon: CancellationToken,
) -> Outcome {
    match try_run(program, delivery, &cancel, &abandon).await {
        Ok(outcome) => outcome,
        // Another handler may have the program.
        Err(error) => failed("EXEC_FAILED", format!("{}: {error}", program[0]), true),
    }
}

async fn try_run(
    program: &[String],
    delivery: &CommandDelivery,
    cancel: &CancellationToken,
    abandon: &CancellationToken,
) -> std::io::Result<Outcome> {
    let mut child = spawn(program, delivery)?;
    let payload = delivery.command.as_ref().map(|command| command.payload.clone()).unwrap_or_default();
    let mut input = child.stdin.take().expect("it is piped");
    let output = child.stdout.take().expect("it is piped");
    let errors = child.stderr.take().expect("it is piped");
    let feed = async move {
        // A program need not read its input.
        drop(input.write_all(&payload).await);
    };
    let all = async {
        let ((), result, message, status) =
            tokio::join!(feed, head(output), tail(errors), wait(&mut child, cancel, abandon));
        (result, message, status)
    };
    let (result, message, status) = all.await;
    Ok(outcome(status?, result?, &message?, cancel.is_cancelled()))
}

fn spawn(program: &[String], delivery: &CommandDelivery) -> std::io::Result<Child> {
    let command = delivery.command.clone().unwrap_or_default();
    Process::new(&program[0])
        .args(&program[1..])
        .env("COLUMBA_COMMAND_ID", command.id)
        .env("COLUMBA_COMMAND_TYPE", command.r#type)
        .env("COLUMBA_COMMAND_KEY", command.key)
        .env("COLUMBA_COMMAND_ATTEMPT", delivery.attempt.to_string())
        .env("COLUMBA_COMMAND_CONTENT_TYPE", command.content_type)
        .env("COLUMBA_COMMAND_CORRELATION_ID", command.correlation_id)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C at a terminal is for this program, which lets the others finish.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Waits for the end of the program; asks it to end, or ends it, when told to.
async fn wait(
    child: &mut Child,
    cancel: &CancellationToken,
    abandon: &CancellationToken,
) -> std::io::Result<ExitStatus> {
    let mut asked = false;
    loop {
        tokio::select! {
            status = child.wait() => return status,
            () = abandon.cancelled() => {
                child.start_kill()?;
                return child.wait().await;
            }
            () = cancel.cancelled(), if !asked => {
                asked = true;
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                    // It may have ended just now.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
        }
    }
}

/// Reads all, and keeps what a result may have, and a byte more.
async fn head(mut from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut from).take(MAX_COMMAND_RESULT_BYTES as u64 + 1).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

/// Reads all, and keeps the end of it.
async fn tail(mut from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut part = [0; 4_096];
    loop {
        let read = from.read(&mut part).await?;
        if read == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&part[..read]);
        let beyond = kept.len().saturating_sub(MAX_FAILURE_MESSAGE_BYTES);
        kept.drain(..beyond);
    }
}

/// What the end of a program means.
fn outcome(status: ExitStatus, result: Vec<u8>, message: &[u8], cancelled: bool) -> Outcome {
    let mut message = String::from_utf8_lossy(message).trim().to_owned();
    // A character that stands for bad bytes is longer than them.
    let beyond = message.len().saturating_sub(MAX_FAILURE_MESSAGE_BYTES);
    let from = (beyond..=message.len()).find(|&at| message.is_char_boundary(at)).unwrap_or(message.len());
    message.drain(..from);
    match status.code() {
        Some(0) if result.len() > MAX_COMMAND_RESULT_BYTES => {
            failed("RESULT_TOO_LARGE", format!("its output has over {MAX_COMMAND_RESULT_BYTES} bytes"), false)
        }
        Some(0) => Outcome::Result(Bytes::from(result)),
        _ if cancelled => failed("CANCELLED", message, false),
        Some(TEMPORARY) => failed("EXIT_75", message, true),
        Some(code) => failed(&format!("EXIT_{code}"), message, false),
        None => failed(&format!("SIGNAL_{}", status.signal().unwrap_or_default()), message, true),
    }
}

fn failed(code: &str, message: String, retryable: bool) -> Outcome {
    Outcome::Failure(CommandFailure { code: code.to_owned(), message, retryable })
}
