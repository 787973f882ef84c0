//! Runs a program for one piece of work: the work comes on standard input and in the environment, the
//! result goes to standard output, and the exit status says whether it is one.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};

use std::os::unix::process::ExitStatusExt as _;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};

use super::error::Error;

/// The end of what a program writes to standard error is told as the reason of its failure, up to so many
/// bytes.
const MAX_MESSAGE_BYTES: usize = 1_024;
/// The exit status with which a program says that trying again may help: `EX_TEMPFAIL` of sysexits.
const TRY_AGAIN: i32 = 75;

/// A program and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) name: OsString,
    pub(super) arguments: Vec<OsString>,
}

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// With success; what it wrote to standard output.
    Done(Vec<u8>),
    /// Otherwise.
    Failed {
        /// `EXIT_n`, `SIGNAL_n` or `OUTPUT_TOO_LARGE`.
        code: String,
        /// The end of what it wrote to standard error, or how it ended.
        message: String,
        /// It says that trying again may help.
        retryable: bool,
    },
}

impl Program {
    /// Runs it. Dropping the future kills it. An error means that it cannot be run at all.
    pub(super) async fn run(
        &self,
        input: Bytes,
        environment: impl IntoIterator<Item = (String, String)>,
        max_output: usize,
    ) -> Result<Ran, Error> {
        let cannot = |error: io::Error| {
            let name = self.name.display();
            Error::Input(format!("cannot run {name}: {error}; give the path of a program, such as ./{name}"))
        };
        let mut command = Command::new(&self.name);
        command.args(&self.arguments).envs(environment).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let stdin = child.stdin.take().expect("asked for above");
        let stdout = child.stdout.take().expect("asked for above");
        let stderr = child.stderr.take().expect("asked for above");
        let (output, message, ()) =
            tokio::join!(up_to(stdout, max_output), pass_on(stderr), feed(stdin, input));
        let Some(output) = output? else {
            child.kill().await?;
            let message = format!("the program wrote more than {max_output} bytes");
            return Ok(Ran::Failed { code: "OUTPUT_TOO_LARGE".into(), message, retryable: false });
        };
        Ok(ended(child.wait().await?, output, message))
    }
}

fn ended(status: ExitStatus, output: Vec<u8>, message: String) -> Ran {
    if status.success() {
        return Ran::Done(output);
    }
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => format!("EXIT_{code}"),
        (None, Some(signal)) => format!("SIGNAL_{signal}"),
        (None, None) => "EXIT".into(),
    };
    let message = if message.is_empty() { format!("the program ended with {status}") } else { message };
    Ran::Failed { code, message, retryable: status.code() == Some(TRY_AGAIN) }
}

/// Writes the input. A program that does not read it all is none the worse for it.
async fn feed(mut stdin: ChildStdin, input: Bytes) {
    let _ = stdin.write_all(&input).await;
    let _ = stdin.shutdown().await;
}

/// Reads to the end; `None` if that is too far.
async fn up_to(from: impl AsyncRead + Unpin, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut read = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut read).await?;
    Ok((read.len() <= limit).then_some(read))
}

/// Passes on what a program says to standard error, and returns the end of it.
async fn pass_on(from: impl AsyncRead + Unpin) -> String {
    const MAX_LINE_BYTES: u64 = 64 << 10;
    let (mut lines, mut last, mut line) = (BufReader::new(from), String::new(), Vec::new());
    // A line without end is passed on in pieces; what cannot be read is the end.
    while let Ok(1..) = (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line);
        eprint!("{text}");
        last.push_str(&text);
        line.clear();
        let surplus = last.trim_end().len().saturating_sub(MAX_MESSAGE_BYTES);
        last.drain(..last.ceil_char_boundary(surplus));
    }
    last.truncate(last.trim_end().len());
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, input: &'static str) -> Ran {
        let program = Program { name: "sh".into(), arguments: vec!["-c".into(), script.into()] };
        program.run(input.into(), [("COLUMBA_X".to_owned(), "x".to_owned())], 100).await.unwrap()
    }

    fn failed(code: &str, message: &str, retryable: bool) -> Ran {
        Ran::Failed { code: code.into(), message: message.into(), retryable }
    }

    #[tokio::test]
    async fn takes_input_and_environment_and_gives_output() {
        assert_eq!(sh("cat; printf %s \"$COLUMBA_X\"", "in ").await, Ran::Done(b"in x".into()));
        assert_eq!(sh("exit 0", "is not read").await, Ran::Done(Vec::new()));
    }

    #[tokio::test]
    async fn says_how_it_failed() {
        assert_eq!(sh("echo one >&2; echo two >&2; exit 3", "").await, failed("EXIT_3", "one\ntwo", false));
        assert_eq!(
            sh("exit 75", "").await,
            failed("EXIT_75", "the program ended with exit status: 75", true)
        );
        let Ran::Failed { code, .. } = sh("kill -9 $$", "").await else { panic!("it was killed") };
        assert_eq!(code, "SIGNAL_9");
        let Ran::Failed { code, .. } = sh("yes", "").await else { panic!("it never ends") };
        assert_eq!(code, "OUTPUT_TOO_LARGE");
        let long = sh("for i in $(seq 1000); do echo line $i >&2; done; exit 1", "").await;
        let Ran::Failed { message, .. } = long else { panic!("it failed") };
        assert!(message.len() <= MAX_MESSAGE_BYTES && message.ends_with("line 1000"), "{message}");
    }

    #[tokio::test]
    async fn what_cannot_be_run_is_an_error() {
        let program = Program { name: "no-such-program".into(), arguments: Vec::new() };
        let error = program.run(Bytes::new(), [], 100).await.unwrap_err();
        assert!(error.to_string().contains("cannot run no-such-program"), "{error}");
    }
}
