//! The `serve` program: what it prints, how it refuses to start, and how it stops.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

fn columba(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_columba"));
    command.arg("serve").args(arguments).env_remove("COLUMBA_CONFIG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a server that should not start.
fn refused(command: Command) -> Output {
    // Bounded, in case it does start.
    assert_cmd::Command::from_std(command).timeout(Duration::from_secs(20)).output().unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

/// A server that has said where it listens. Killed when the test ends.
struct Serving {
    child: Child,
    grpc: String,
}

impl Serving {
    fn start(data_dir: &Path) -> Self {
        let data_dir = data_dir.to_str().unwrap();
        let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", data_dir];
        Self::run(columba(&flags), data_dir)
    }

    fn run(mut command: Command, data_dir: &str) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let prefix = format!("columba {} serving gRPC on 127.0.0.1:", env!("CARGO_PKG_VERSION"));
        assert!(line.starts_with(&prefix), "{line:?}");
        assert!(line.ends_with(&format!(", data in {data_dir}\n")), "{line:?}");
        let grpc = line.split("gRPC on ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().to_owned();
        Self { child, grpc }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_signal_stops_it_with_status_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let server = Serving::start(dir.path());
        let _silent = TcpStream::connect(&server.grpc).unwrap();
        server.signal(signal);
        assert_eq!(server.exit_code(), Some(0));
    }
}

#[test]
fn a_second_signal_stops_it_at_once() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Serving::start(dir.path());
    // A client that greets and then never answers keeps the server draining.
    let mut mute = TcpStream::connect(&server.grpc).unwrap();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    mute.read_exact(&mut [0; 9]).unwrap();
    let mut log = BufReader::new(server.stderr()).lines();
    server.signal(Signal::TERM);
    assert!(log.any(|line| line.unwrap().contains("shutting down")));
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(1));
}

#[test]
fn a_port_in_use_is_refused_and_leaves_no_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let flags = ["--listen", &address, "--data-dir", data_dir.to_str().unwrap()];
    let output = refused(columba(&flags));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address) && stderr(&output).contains("--listen"), "{output:?}");
    assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
    assert!(!data_dir.exists());
}

#[test]
fn a_bad_configuration_is_refused_with_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("columba.toml");
    std::fs::write(&file, "lisen = 'x'\n[shutdown]\ndeadline = 'soon'\n").unwrap();
    let mut command = columba(&["--config", file.to_str().unwrap(), "--admin-listen", "nowhere"]);
    command.env("COLUMBA_LIMITS_CONNECTIONS", "-1");
    let output = refused(command);
    assert_eq!(output.status.code(), Some(2));
    for part in ["lisen", "soon", "nowhere", "-1"] {
        assert!(stderr(&output).contains(part), "{part} in {output:?}");
    }
    assert_eq!(stderr(&output).lines().count(), 4, "{output:?}");

    let missing = refused(columba(&["--config", "/nonexistent/columba.toml"]));
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("/nonexistent/columba.toml"), "{missing:?}");
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let output = refused(columba(&["--listen", "0.0.0.0:0"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--insecure"), "{output:?}");
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Serving::start(dir.path());
    let data_dir = dir.path().to_str().unwrap();
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", data_dir];
    let output = refused(columba(&flags));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(data_dir), "{output:?}");
}

#[test]
fn a_data_directory_that_cannot_be_used_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the directory should be fails for every user, unlike missing permissions.
    let file = dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let foreign = dir.path().join("foreign");
    drop(Serving::start(&foreign));
    let meta = foreign.join("columba.meta");
    let text = std::fs::read_to_string(&meta).unwrap();
    let future = text.replace("format = ", "format = 99");
    assert_ne!(future, text);
    std::fs::write(&meta, &future).unwrap();
    let bare = dir.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::write(bare.join("columba.meta"), &future).unwrap();

    let unknown = "format version 99";
    for (data_dir, part) in [(&file.join("data"), "check"), (&foreign, unknown), (&bare, unknown)] {
        let data_dir = data_dir.to_str().unwrap();
        let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", data_dir];
        let output = refused(columba(&flags));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(data_dir) && stderr(&output).contains(part), "{output:?}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(std::fs::read_dir(&bare).unwrap().count(), 1, "nothing is put beside what is not ours");
    assert_eq!(std::fs::read_to_string(&meta).unwrap(), future);
}

#[test]
fn few_open_files_are_enough_for_the_log_whatever_clients_take() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let script =
        "ulimit -n 64; exec \"$0\" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --data-dir \"$1\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_columba"), data_dir])
        .env("COLUMBA_STORAGE_SEGMENT_SIZE", "32MiB");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let server = Serving::run(command, data_dir);
    let client = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_columba"));
        command.args(arguments).args(["--server", &server.grpc, "-o", "json"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let output = |arguments: &[&str]| client(arguments).wait_with_output().unwrap();
    assert!(output(&["topic", "create", "orders", "--max-message-bytes", "8MiB"]).status.success());
    let mut publisher = client(&["publish", "orders", "--batch", "1", "--format", "lines", "-"]);
    let line = [&b"x".repeat(4 << 20)[..], b"\n"].concat();
    let mut lines = publisher.stdin.take().unwrap();
    lines.write_all(&line).unwrap();
    let stored = || String::from_utf8(output(&["topic", "describe", "orders"]).stdout).unwrap();
    while !stored().contains("\"last_offset\":1,") {}

    // More connections than may be served; the rest wait in the system's queue.
    let greedy: Vec<_> = (0..100)
        .map(|_| {
            let mut greedy = TcpStream::connect(&server.grpc).unwrap();
            greedy.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
            greedy
        })
        .collect();
    // Several segments, so the log opens files; and who was there before is served.
    for _ in 0..20 {
        lines.write_all(&line).unwrap();
    }
    drop(lines);
    let published = publisher.wait_with_output().unwrap();
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    drop(greedy);
    assert!(stored().contains("\"last_offset\":21,"), "{}", stored());
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
}
