//! Runs a program for one piece of work: the work comes on standard input and in the environment, the
//! result goes to standard output, and the exit status says whether it is one.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::error::Error;
use crate::config::program_directories;

/// The exit status with which a program says that trying again may help: `EX_TEMPFAIL` of sysexits.
const TRY_AGAIN: i32 = 75;

/// A program and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Program {
    name: OsString,
    arguments: Vec<OsString>,
    /// How much of the end of standard error is told as the reason of a failure, in bytes.
    max_message: usize,
}

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// With success; what it wrote to standard output.
    Done(Vec<u8>),
    /// Otherwise.
    Failed {
        /// `EXIT_n`, `SIGNAL_n` or `RESULT_TOO_LARGE`.
        code: String,
        /// The end of what it wrote to standard error, or how it ended.
        message: String,
        /// It says that trying again may help, or was killed.
        retryable: bool,
    },
}

impl Program {
    /// A program that can be run, by its path or, without a slash, its name in `PATH`.
    pub(super) fn find(name: OsString, arguments: Vec<OsString>, max_message: usize) -> Result<Self, Error> {
        let program = Self { name, arguments, max_message };
        program.check().map_err(|problem| program.cannot_be_run(&problem)).map(|()| program)
    }

    fn check(&self) -> Result<(), String> {
        let path = Path::new(&self.name);
        if path.as_os_str().as_encoded_bytes().contains(&b'/') {
            return check_file(path);
        }
        let found: Vec<PathBuf> = program_directories()
            .into_iter()
            .map(|directory| directory.join(path))
            .filter(|path| path.is_file())
            .collect();
        match &found[..] {
            [] => Err("no directory of PATH has it".into()),
            [first, ..] if !found.iter().any(|path| check_file(path).is_ok()) => {
                check_file(first).map_err(|problem| format!("{}: {problem}", first.display()))
            }
            _ => Ok(()),
        }
    }

    fn cannot_be_run(&self, problem: &str) -> Error {
        let name = self.name.display();
        let dot = if name.to_string().contains('/') { "" } else { "./" };
        Error::Input(format!("cannot run {name}: {problem}; give the path of a program, such as {dot}{name}"))
    }

    /// Runs it, in a process group of its own. `cancel` asks it, and what it has started, to end; dropping the
    /// future kills them. An error means that it cannot be run at all.
    pub(super) async fn run(
        &self,
        input: Bytes,
        environment: impl IntoIterator<Item = (&'static str, String)>,
        max_output: usize,
        cancel: impl Future<Output = ()>,
    ) -> Result<Ran, Error> {
        let spawned = self.spawn(environment);
        let mut child = spawned.map_err(|error| self.cannot_be_run(&error.to_string()))?;
        let mut group = Group::of(&child);
        let stdin = child.stdin.take().expect("asked for above");
        let stdout = child.stdout.take().expect("asked for above");
        let stderr = child.stderr.take().expect("asked for above");
        let (output, message, (), status) = tokio::join!(
            up_to(stdout, max_output),
            pass_on(stderr, self.max_message),
            feed(stdin, input),
            wait(&mut child, &group, cancel),
        );
        group.is_over();
        let (status, Some(output)) = (status?, output?) else {
            let message = format!("the program wrote more than {max_output} bytes");
            return Ok(Ran::Failed { code: "RESULT_TOO_LARGE".into(), message, retryable: false });
        };
        Ok(ended(status, output, message))
    }

    fn spawn(&self, environment: impl IntoIterator<Item = (&'static str, String)>) -> io::Result<Child> {
        let mut command = Command::new(&self.name);
        command.args(&self.arguments);
        for (name, mut value) in environment {
            // The environment takes no NUL.
            value.retain(|c| c != '\0');
            command.env(name, value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C at a terminal is for this process, which decides what becomes of its programs.
        command.process_group(0).kill_on_drop(true).spawn()
    }
}

/// Why a file cannot be run, if so.
fn check_file(path: &Path) -> Result<(), String> {
    let file = path.metadata().map_err(|error| error.to_string())?;
    if !file.is_file() {
        return Err("it is no file".into());
    }
    access(path, Access::EXEC_OK).map_err(|_| "it is not executable, chmod +x makes it so".into())
}

/// A program that runs, and what it has started.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // All of it may have ended just now.
            let _ = kill_process_group(group, signal);
        }
    }

    /// What still runs of it does so on purpose.
    fn is_over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Waits for the end of a program; asks it to end when told to.
async fn wait(child: &mut Child, group: &Group, cancel: impl Future<Output = ()>) -> io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        () = cancel => group.signal(Signal::TERM),
    }
    child.wait().await
}

fn ended(status: ExitStatus, output: Vec<u8>, message: String) -> Ran {
    if status.success() {
        return Ran::Done(output);
    }
    let (code, retryable) = match (status.code(), status.signal()) {
        (Some(code), _) => (format!("EXIT_{code}"), code == TRY_AGAIN),
        (None, Some(signal)) => (format!("SIGNAL_{signal}"), true),
        (None, None) => ("EXIT".into(), false),
    };
    let message = if message.is_empty() { format!("the program ended with {status}") } else { message };
    Ran::Failed { code, message, retryable }
}

/// Writes the input. A program that does not read it all is none the worse for it.
async fn feed(mut stdin: ChildStdin, input: Bytes) {
    let _ = stdin.write_all(&input).await;
    let _ = stdin.shutdown().await;
}

/// Reads to the end; `None` if that is too far. Then nobody reads on, which ends most programs.
async fn up_to(from: impl AsyncRead + Unpin, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut read = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut read).await?;
    Ok((read.len() <= limit).then_some(read))
}

/// Passes on what a program says to standard error, and returns the end of it, up to so many bytes.
async fn pass_on(from: impl AsyncRead + Unpin, limit: usize) -> String {
    const MAX_LINE_BYTES: u64 = 64 << 10;
    let (mut lines, mut last, mut line) = (BufReader::new(from), String::new(), Vec::new());
    // A line without end is passed on in pieces; what cannot be read is the end.
    while let Ok(1..) = (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
        let _ = io::stderr().write_all(&line);
        last.push_str(&String::from_utf8_lossy(&line));
        line.clear();
        let surplus = last.trim_end().len().saturating_sub(limit);
        last.drain(..last.ceil_char_boundary(surplus));
    }
    last.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const MAX_MESSAGE: usize = 1_024;

    fn shell(script: &str) -> Program {
        Program::find("sh".into(), vec!["-c".into(), script.into()], MAX_MESSAGE).unwrap()
    }

    async fn sh(script: &str, input: &'static str) -> Ran {
        let environment = [("COLUMBA_X", "x\0y".to_owned())];
        shell(script).run(input.into(), environment, 100, pending()).await.unwrap()
    }

    fn failed(code: &str, message: &str, retryable: bool) -> Ran {
        Ran::Failed { code: code.into(), message: message.into(), retryable }
    }

    #[tokio::test]
    async fn takes_input_and_environment_and_gives_output() {
        assert_eq!(sh("cat; printf %s \"$COLUMBA_X\"", "in ").await, Ran::Done(b"in xy".into()));
        assert_eq!(sh("exit 0", "is not read").await, Ran::Done(Vec::new()));
    }

    #[tokio::test]
    async fn says_how_it_failed() {
        assert_eq!(sh("echo one >&2; echo two >&2; exit 3", "").await, failed("EXIT_3", "one\ntwo", false));
        assert_eq!(
            sh("exit 75", "").await,
            failed("EXIT_75", "the program ended with exit status: 75", true)
        );
        let Ran::Failed { code, retryable, .. } = sh("kill -9 $$", "").await else { panic!("it was killed") };
        assert_eq!((&*code, retryable), ("SIGNAL_9", true));
        let too_large = failed("RESULT_TOO_LARGE", "the program wrote more than 100 bytes", false);
        assert_eq!(sh("yes", "").await, too_large);
        let long = sh("for i in $(seq 1000); do echo line $i >&2; done; exit 1", "").await;
        let Ran::Failed { message, .. } = long else { panic!("it failed") };
        assert!(message.len() <= MAX_MESSAGE && message.ends_with("line 1000"), "{message}");
    }

    #[tokio::test]
    async fn is_asked_to_end_with_all_that_it_has_started() {
        // Only the one that it has started ends at the signal.
        let script = "trap : TERM; (trap 'printf told; exit' TERM; echo ready >&2; sleep 600 & wait) & wait; wait; exit 5";
        let program = shell(script);
        let cancel = tokio::time::sleep(std::time::Duration::from_millis(300));
        let ran = program.run(Bytes::new(), [], 100, cancel).await.unwrap();
        assert_eq!(ran, failed("EXIT_5", "ready", false));
    }

    #[test]
    fn what_cannot_be_run_is_an_error_at_once() {
        let find = |name: &str| Program::find(name.into(), Vec::new(), MAX_MESSAGE);
        let error = |name: &str| find(name).unwrap_err().to_string();
        let unknown = error("no-such-program");
        assert!(unknown.contains("cannot run no-such-program: no directory of PATH"), "{unknown}");
        assert!(unknown.ends_with("./no-such-program"), "{unknown}");
        let missing = error("./no-such-program");
        assert!(missing.contains("cannot run ./no-such-program: No such file"), "{missing}");
        assert!(error("/").contains("it is no file"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let plain = error(file.path().to_str().unwrap());
        assert!(plain.contains("it is not executable"), "{plain}");
        find("/bin/sh").unwrap();
    }
}
