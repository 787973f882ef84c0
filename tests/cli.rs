//! The client commands, against a server in a process of its own.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use process::{ServerProcess, columba};

/// How long a command may take that should end at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server process with its data.
struct Server {
    process: ServerProcess,
    dir: TempDir,
}

/// Asks until it is so; long enough for any machine, but not for ever.
#[track_caller]
fn eventually(is_so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed().as_secs() < 60, "it never came to be");
    }
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = ServerProcess::start(&dir.path().join("data"));
        Self { process, dir }
    }

    /// A file beside the server's data.
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = columba(arguments);
        command.env("COLUMBA_SERVER", &self.process.address);
        command
    }

    fn run(&self, arguments: &[&str], stdin: &str) -> Ran {
        let command = assert_cmd::Command::from_std(self.command(arguments));
        Ran::of(command, arguments, stdin)
    }

    /// Runs a command that should succeed, and returns its output.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments, "").ok()
    }

    /// The same, with its output as JSON.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.ok(&[arguments, &["-o", "json"]].concat());
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until every message of a subscription is acknowledged.
    fn await_settled(&self, subscription: &str) {
        eventually(|| self.json(&["sub", "stats", subscription])[0]["backlog_messages"] == 0);
    }

    /// The data of all messages of a topic.
    #[track_caller]
    fn data(&self, topic: &str) -> Vec<String> {
        let messages = self.json(&["read", topic]);
        messages.iter().map(|message| message["data"].as_str().unwrap().to_owned()).collect()
    }
}

/// A command that has ended.
struct Ran {
    output: Output,
    arguments: String,
}

impl Ran {
    fn of(mut command: assert_cmd::Command, arguments: &[&str], stdin: &str) -> Self {
        let output = command.timeout(PATIENCE).write_stdin(stdin).output().unwrap();
        Self { output, arguments: arguments.join(" ") }
    }

    #[track_caller]
    fn ok(self) -> String {
        let stderr = String::from_utf8_lossy(&self.output.stderr);
        assert_eq!(self.output.status.code(), Some(0), "columba {}: {stderr}", self.arguments);
        String::from_utf8(self.output.stdout).unwrap()
    }

    /// A command that should fail with this status; returns what it says.
    #[track_caller]
    fn fails(self, status: i32) -> String {
        let stderr = String::from_utf8(self.output.stderr).unwrap();
        assert_eq!(self.output.status.code(), Some(status), "columba {}: {stderr}", self.arguments);
        stderr
    }
}

/// A command that runs beside the test.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { stdin: child.stdin.take(), stdout, child }
    }

    fn write(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Closes its input and waits; returns its status and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.stdin.take());
        drop(self.stdout);
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn topics_and_subscriptions_come_and_go() {
    let server = Server::start();
    server.ok(&["topic", "create", "orders.eu", "--label", "team=a", "--max-message-bytes", "64KiB"]);
    server.ok(&["topic", "create", "orders.us", "--durability", "buffered"]);
    server.ok(&["topic", "create", "other"]);
    let topics = server.json(&["topic", "ls", "orders.>"]);
    let names: Vec<_> = topics.iter().map(|topic| topic["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders.eu", "orders.us"]);
    let topic = &server.json(&["topic", "describe", "orders.eu"])[0];
    assert_eq!((&topic["labels"]["team"], &topic["max_message_bytes"]), (&"a".into(), &65_536.into()));
    assert_eq!(server.json(&["topic", "describe", "orders.us"])[0]["durability"], "buffered");

    let create = ["sub", "create", "billing", "--topic", "orders.eu"];
    let settings = ["--mode", "exclusive", "--from", "7", "--ack-deadline", "1m", "--max-in-flight", "5"];
    server.ok(&[&create[..], &settings].concat());
    let subscription = &server.json(&["sub", "ls", "--topic", "orders.eu"])[0];
    for (field, value) in [("mode", "exclusive"), ("start", "7"), ("ack_deadline", "1m")] {
        assert_eq!(subscription[field], value);
    }
    assert_eq!(subscription["max_in_flight"], 5);
    let described = server.ok(&["subscription", "describe", "billing"]);
    assert!(described.contains("lag") && described.contains("exclusive"), "{described}");

    let moved = server.json(&["sub", "seek", "billing", "earliest"]);
    assert_eq!(moved[0]["committed_offset"], 0);
    server.run(&["sub", "seek", "billing", "9"], "").fails(1);
    server.ok(&["sub", "pause", "billing"]);
    assert_eq!(server.json(&["sub", "describe", "billing"])[0]["paused"], true);
    let error = server.run(&["subscribe", "billing"], "").fails(1);
    assert!(error.contains("columba subscription resume billing"), "{error}");
    server.ok(&["sub", "resume", "billing"]);
    assert_eq!(server.json(&["sub", "describe", "billing"])[0]["paused"], false);

    let retry = ["--max-attempts", "5", "--dead-letter-topic", "other", "--min-backoff", "1s"];
    server.ok(&[&["sub", "create", "mail", "--topic", "orders.us"][..], &retry].concat());
    let subscription = &server.json(&["sub", "describe", "mail"])[0]["retry"];
    for (field, value) in [("min_backoff", "1s"), ("max_backoff", "10m"), ("dead_letter_topic", "other")] {
        assert_eq!(subscription[field], value);
    }
    let described = server.ok(&["sub", "describe", "mail"]);
    assert!(described.contains("5 attempts, 1s to 10m apart, then to other"), "{described}");

    let kept = ["--max-age", "7days", "--max-bytes", "1GiB", "--delete-acked"];
    server.ok(&[&["topic", "create", "kept"][..], &kept].concat());
    let kept = &server.json(&["topic", "describe", "kept"])[0]["retention"];
    assert_eq!((&kept["max_age"], &kept["max_bytes"]), (&"7days".into(), &(1u64 << 30).into()));
    server.ok(&["publish", "kept", "a", "b", "c"]);
    let purged = &server.json(&["topic", "purge", "kept", "--before", "3", "--dry-run"])[0];
    assert_eq!((&purged["purged_messages"], &purged["first_offset"]), (&2.into(), &3.into()));
    server.ok(&["topic", "purge", "kept", "--before", "3"]);
    assert_eq!(server.data("kept"), ["c"]);
    let error = server.run(&["topic", "rm", "orders.eu"], "").fails(1);
    assert!(error.contains("billing"), "{error}");
    server.ok(&["sub", "rm", "billing"]);
    server.ok(&["topic", "rm", "orders.eu"]);
    server.run(&["topic", "describe", "orders.eu"], "").fails(3);
}

#[test]
fn exit_statuses_and_errors_are_for_scripts() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    server.ok(&["topic", "create", "t"]);
    let error = server.run(&["topic", "create", "t", "--durability", "buffered"], "").fails(5);
    assert!(error.starts_with("error: topic t exists"), "{error}");
    let error = server.run(&["read", "nowhere", "-o", "json"], "").fails(3);
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["error"]["code"], "NOT_FOUND");
    assert_eq!(error["error"]["reason"], "TOPIC_NOT_FOUND");
    assert!(error["error"]["message"].as_str().unwrap().contains("columba topic create nowhere"));

    server.run(&["topic", "create", "a/b"], "").fails(1);
    for usage in [
        &["subscribe"][..],
        &["subscribe", "s", "--topic", "t"],
        &["subscribe", "s", "--from", "earliest"],
        &["read", "t", "--from", "0"],
        &["publish", "t", "x", "--key", "k"],
        &["publish", "t", "x", "--attribute", "a=1", "--attribute", "a=2"],
        &["publish", "t", "x", "--in-flight", "65"],
        &["info", "--server", "ftp://localhost:1"],
        &["info", "--timeout", "0s"],
    ] {
        server.run(usage, "").fails(2);
    }
    let error = server.run(&["subscribe", "s", "--from", "earliest"], "").fails(2);
    assert!(error.contains("subscription create"), "{error}");
}

#[test]
fn a_server_that_is_not_there_says_so() {
    let mut server = Server::start();
    assert_eq!(server.ok(&["health"]), "serving\n");
    server.ok(&["health", "--service", "columba.v1.PublisherService"]);
    server.run(&["health", "--service", "nothing"], "").fails(3);
    assert_eq!(server.json(&["info"])[0]["version"], env!("CARGO_PKG_VERSION"));
    server.process.kill();
    for arguments in [&["health"][..], &["publish", "t", "x"], &["subscribe", "s"], &["topic", "ls"]] {
        let error = server.run(arguments, "").fails(4);
        assert!(error.contains(&server.process.address) && error.contains("--server"), "{error}");
    }
}

#[test]
fn publishes_arguments_and_lines() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    server.ok(&["publish", "t", "a", "b", "--key-value", "k", "--attribute", "x=1=2", "--type", "kind"]);
    server.run(&["publish", "t"], "c\n\nd e").ok();
    server.run(&["publish", "t", "-", "--skip", "1"], "skipped\nf\n").ok();
    assert_eq!(server.data("t"), ["a", "b", "c", "", "d e", "f"]);
    let message = &server.json(&["read", "t", "--count", "1"])[0];
    assert_eq!((&message["key"], &message["type"]), (&"k".into(), &"kind".into()));
    assert_eq!((&message["attributes"]["x"], &message["offset"]), (&"1=2".into(), &1.into()));
    assert_eq!(server.ok(&["read", "t", "--from", "6"]), "6\t\tf\n");
    assert!(server.run(&["publish", "t"], "").ok().contains("nothing"));
}

#[test]
fn publishes_files() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    let ndjson = server.file("in.ndjson", "{\"k\": 7, \"v\": 1.50}\n{\"k\": \"x\"}\n");
    server.ok(&["publish", "t", "--file", ndjson.to_str().unwrap(), "--key", "k"]);
    let csv = server.file("in.CSV", "name,n\n\"a, b\",1.50\nNA,\n");
    let arguments = ["publish", "t", "--file", csv.to_str().unwrap(), "--key", "name", "--null", "NA"];
    let summary = &server.json(&arguments)[0];
    assert_eq!((&summary["first_offset"], &summary["last_offset"]), (&3.into(), &4.into()));
    assert_eq!(
        server.data("t"),
        [
            "{\"k\": 7, \"v\": 1.50}",
            "{\"k\": \"x\"}",
            "{\"name\":\"a, b\",\"n\":1.50}",
            "{\"name\":null,\"n\":null}"
        ]
    );
    let messages = server.json(&["read", "t"]);
    let keys: Vec<_> = messages.iter().map(|message| message["key"].as_str()).collect();
    assert_eq!(keys, [Some("7"), Some("x"), Some("a, b"), Some("NA")]);
    assert!(messages.iter().all(|message| message["content_type"] == "application/json"));
}

#[test]
fn a_truncated_file_is_published_as_far_as_it_goes_and_resumed() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    let whole: String = (1..=250).fold("n,text\n".into(), |csv, n| format!("{csv}{n},\"row {n}\"\n"));
    let rows: Vec<_> = (1..=250).map(|n| format!("{{\"n\":{n},\"text\":\"row {n}\"}}")).collect();

    for (cut_before, problem) in [
        ("row 201\"", "line 202: the quote that opens here is never closed"),
        (",\"row 230", "line 231: the row has 1 fields, and the header has 2"),
    ] {
        let truncated = &whole[..whole.find(cut_before).unwrap()];
        let file = server.file("in.csv", truncated);
        let skip = server.data("t").len().to_string();
        let arguments = ["publish", "t", "--file", file.to_str().unwrap(), "--batch", "30", "--skip", &skip];
        let error = server.run(&arguments, "").fails(1);
        let stored = server.data("t");
        assert_eq!(stored, rows[..stored.len()]);
        assert!(error.contains(problem) && error.contains("in.csv"), "{error}");
        let resume = format!("the last at offset {0}; go on with --skip {0}", stored.len());
        assert!(error.contains(&resume), "{error}");
    }
    assert_eq!(server.data("t").len(), 229);
    let file = server.file("in.csv", &whole);
    server.ok(&["publish", "t", "--file", file.to_str().unwrap(), "--skip", "229"]);
    assert_eq!(server.data("t"), rows);
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    let csv = server.file("in.csv", "a,b\n1,2\n");
    let twice = server.file("twice.csv", "a,a\n1,2\n");
    let broken = server.file("in.ndjson", "{\"a\":\n");
    let directory = server.dir.path().to_str().unwrap();
    for (file, more, status, says) in [
        ("no/such/file", "", 1, "No such file"),
        (directory, "", 1, "is a directory"),
        (csv.to_str().unwrap(), "--key=c", 2, "its columns are a, b"),
        (twice.to_str().unwrap(), "", 1, "occurs twice"),
        (broken.to_str().unwrap(), "", 1, "line 1 is not JSON"),
        (broken.to_str().unwrap(), "--null=NA", 2, "--null"),
    ] {
        let arguments: Vec<_> =
            ["publish", "t", "--file", file, more].into_iter().filter(|a| !a.is_empty()).collect();
        let error = server.run(&arguments, "").fails(status);
        assert!(error.contains(says), "{error}");
    }
    assert!(server.data("t").is_empty());
}

#[test]
fn a_refused_batch_says_how_far_it_came() {
    let server = Server::start();
    server.ok(&["topic", "create", "t", "--max-message-bytes", "100"]);
    let long = "x".repeat(200);
    let input = format!("a\nb\nc\n{long}\ne\n");
    let arguments = ["publish", "t", "--batch", "1", "--in-flight", "1", "-o", "json"];
    let error: Value = serde_json::from_str(&server.run(&arguments, &input).fails(1)).unwrap();
    assert_eq!(error["error"]["code"], "INVALID_ARGUMENT");
    assert_eq!(error["error"]["reason"], "MESSAGE_TOO_LARGE");
    let progress = &error["error"]["progress"];
    assert_eq!((&progress["acknowledged"], &progress["skip"]), (&3.into(), &3.into()));
    assert_eq!((&progress["unknown"], &progress["stored_beyond"]), (&0.into(), &0.into()));
    assert_eq!(server.data("t"), ["a", "b", "c"]);
}

#[test]
fn subscribe_acknowledges_what_it_printed_and_no_more() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    server.ok(&["sub", "create", "s", "--topic", "t"]);
    let input = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n";
    server.run(&["publish", "t"], input).ok();

    assert_eq!(server.ok(&["subscribe", "s", "--count", "3"]), "1\t\t1\n2\t\t2\n3\t\t3\n");
    let stats = &server.json(&["sub", "stats", "s"])[0];
    assert_eq!((&stats["committed_offset"], &stats["backlog_messages"]), (&3.into(), &7.into()));
    let rest = server.json(&["subscribe", "s", "--count", "7", "--max-outstanding", "2"]);
    let seen: Vec<_> = rest.iter().map(|message| (&message["data"], &message["attempt"])).collect();
    let expected: Vec<_> = (4..=10).map(|n| (Value::from(n.to_string()), Value::from(1))).collect();
    assert_eq!(seen, expected.iter().map(|(data, attempt)| (data, attempt)).collect::<Vec<_>>());
    let stats = &server.json(&["sub", "stats", "s"])[0];
    assert_eq!((&stats["committed_offset"], &stats["redelivered"]), (&10.into(), &0.into()));

    server.ok(&["publish", "t", "11"]);
    server.ok(&["subscribe", "s", "--count", "1", "--no-ack"]);
    let again = server.json(&["subscribe", "s", "--count", "1"]);
    assert_eq!((&again[0]["data"], &again[0]["attempt"]), (&"11".into(), &2.into()));

    let tail = server.json(&["subscribe", "--topic", "t", "--from", "10", "--count", "2"]);
    let data: Vec<_> = tail.iter().map(|message| &message["data"]).collect();
    assert_eq!(data, ["10", "11"]);
}

#[test]
fn subscribe_lives_through_a_killed_server_and_ends_at_a_signal() {
    let mut server = Server::start();
    server.ok(&["topic", "create", "t"]);
    server.ok(&["sub", "create", "s", "--topic", "t"]);
    let mut durable = Running::start(server.command(&["subscribe", "s"]));
    let mut ephemeral = Running::start(server.command(&["subscribe", "--topic", "t", "--from", "1"]));
    for data in ["a", "b"] {
        server.ok(&["publish", "t", data]);
        for subscriber in [&mut durable, &mut ephemeral] {
            assert!(subscriber.line().ends_with(data));
        }
        // So that no message is handed out again, its ack must be in before the server is killed.
        server.await_settled("s");
        server.process.kill();
        server.process.restart();
    }
    server.ok(&["publish", "t", "c"]);
    for mut subscriber in [durable, ephemeral] {
        assert_eq!(subscriber.line(), "3\t\tc");
        kill_process(Pid::from_child(&subscriber.child), Signal::INT).unwrap();
        let (status, stderr) = subscriber.end();
        assert_eq!(status, Some(0), "{stderr}");
        assert!(stderr.contains("connecting again"), "{stderr}");
    }
    assert_eq!(server.json(&["sub", "stats", "s"])[0]["committed_offset"], 3);
}

#[test]
fn subscribe_ends_quietly_when_nobody_reads_and_acknowledges_only_what_was_read() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    server.ok(&["sub", "create", "s", "--topic", "t"]);
    let mut subscriber = Running::start(server.command(&["subscribe", "s"]));
    server.ok(&["publish", "t", "read"]);
    assert!(subscriber.line().ends_with("read"));
    server.await_settled("s");
    drop(subscriber.stdout);
    server.ok(&["publish", "t", "unread"]);
    let output = subscriber.child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    assert_eq!(server.json(&["subscribe", "s", "--count", "1"])[0]["data"], "unread");
}

/// Publishes lines while the server is killed after the second.
fn interrupted_publish(server: &mut Server, arguments: &[&str]) -> Running {
    server.ok(&["topic", "create", "t"]);
    let mut publisher = Running::start(server.command(&[&["publish", "t"], arguments].concat()));
    publisher.write("a\nb\n");
    server.ok(&["subscribe", "--topic", "t", "--from", "earliest", "--count", "2"]);
    server.process.kill();
    publisher
}

#[test]
fn publish_stops_when_the_server_goes_away_and_says_how_to_go_on() {
    let mut server = Server::start();
    let mut publisher = interrupted_publish(&mut server, &[]);
    // With a line still to publish it cannot end well. It may have noticed and ended already.
    let _ = publisher.stdin.as_mut().unwrap().write_all(b"c\n");
    let (status, stderr) = publisher.end();
    assert_eq!(status, Some(4), "{stderr}");
    // The receipt may or may not have arrived before the server died.
    let told_all = stderr.contains("2 messages are acknowledged, the last at offset 2; go on with --skip 2");
    let told_unknown = stderr.contains("may be stored or not; go on with --skip");
    assert!(told_all || told_unknown, "{stderr}");
}

#[test]
fn publish_goes_on_after_an_outage_when_told_to() {
    let mut server = Server::start();
    let mut publisher = interrupted_publish(&mut server, &["--retry"]);
    server.process.restart();
    publisher.write("c\n");
    let (status, stderr) = publisher.end();
    assert_eq!(status, Some(0), "{stderr}");
    let mut stored = server.data("t");
    stored.dedup();
    // "a\nb" may be there twice, if the server died before its receipt arrived.
    assert_eq!(stored.last().unwrap(), "c");
    assert!(stored.starts_with(&["a".into(), "b".into()]), "{stored:?}");
}

#[test]
fn publish_with_ids_stores_nothing_twice_through_an_outage() {
    let mut server = Server::start();
    let mut publisher = interrupted_publish(&mut server, &["--retry", "--id-prefix", "run", "-o", "json"]);
    server.process.restart();
    publisher.write("c\n");
    drop(publisher.stdin.take());
    let summary: Value = serde_json::from_str(&publisher.line()).unwrap();
    assert_eq!((&summary["messages"], &summary["possible_duplicates"]), (&3.into(), &0.into()));
    let (status, stderr) = publisher.end();
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(server.data("t"), ["a", "b", "c"]);

    let again = server.run(&["publish", "t", "--id-prefix", "run"], "a\nb\nc\nd\n").ok();
    assert!(again.contains("offsets 4 to 4; 3 are duplicates and were not stored again"), "{again}");
    let again = server.run(&["publish", "t", "--id-prefix", "run"], "a\n").ok();
    assert!(again.contains("messages/s; 1 is a duplicate and was not stored again"), "{again}");
}

#[test]
fn ids_come_from_the_input_and_are_remembered_as_the_topic_says() {
    let server = Server::start();
    let topic = &server.json(&["topic", "create", "t", "--dedupe-window", "0s", "--key-index"])[0];
    assert_eq!((&topic["dedupe_window"], &topic["key_index"]), (&"0s".into(), &true.into()));
    let csv = server.file("in.csv", "order,amount\n1,5\n2,6\n");
    let ndjson = server.file("in.ndjson", "{\"order\":2}\n{\"order\":3}\n");
    let (csv, ndjson) = (csv.to_str().unwrap(), ndjson.to_str().unwrap());
    for _ in 0..2 {
        let note = server.run(&["publish", "t", "--file", csv, "--id", "order", "--retry"], "");
        let stderr = String::from_utf8_lossy(&note.output.stderr).into_owned();
        assert!(stderr.contains("remembers no ids"), "{stderr}");
    }
    assert_eq!(server.data("t").len(), 4);
    server.ok(&[
        "topic",
        "edit",
        "t",
        "--dedupe-window",
        "1h",
        "--max-age",
        "30days",
        "--max-messages",
        "99",
    ]);
    server.ok(&["topic", "edit", "t", "--max-age", "never"]);
    let topic = &server.json(&["topic", "describe", "t"])[0];
    assert_eq!((&topic["dedupe_window"], &topic["retention"]["max_age"]), (&"1h".into(), &Value::Null));
    assert_eq!(topic["retention"]["max_messages"], 99);
    for _ in 0..2 {
        server.ok(&["publish", "t", "--file", csv, "--id", "order"]);
    }
    assert_eq!(server.data("t").len(), 6);
    let summary = &server.json(&["publish", "t", "--file", ndjson, "--id", "order"])[0];
    assert_eq!((&summary["messages"], &summary["duplicates"]), (&2.into(), &1.into()));

    server.run(&["publish", "t", "--id", "order"], "x\n").fails(2);
    let error = server.run(&["publish", "t", "--expected-last-offset", "6", "x"], "").fails(1);
    assert!(error.contains("is 7, not 6"), "{error}");
    let input = "8\n9\n10\n";
    server.run(&["publish", "t", "--expected-last-offset", "7", "--batch", "1"], input).ok();
    assert_eq!(server.data("t")[7..], ["8", "9", "10"]);
}

#[test]
fn completion_covers_the_commands() {
    let script = Ran::of(assert_cmd::Command::from_std(columba(&["completion", "bash"])), &[], "").ok();
    assert!(script.contains("--max-outstanding"));
}

#[test]
fn publish_says_how_to_go_on_when_a_signal_stops_it() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    let mut publisher = Running::start(server.command(&["publish", "t", "--batch", "1"]));
    publisher.write("a\nb\n");
    eventually(|| server.json(&["topic", "describe", "t"])[0]["last_offset"] == 2);
    kill_process(Pid::from_child(&publisher.child), Signal::INT).unwrap();
    // Its input stays open: it is the signal that ends it.
    let stdin = publisher.stdin.take();
    let (status, stderr) = publisher.end();
    drop(stdin);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("stopped by a signal"), "{stderr}");
    assert!(stderr.contains("--skip"), "{stderr}");
}

#[test]
fn a_refused_message_is_found_in_the_input() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    let rows = (1..=300).map(|n| format!("{},{n}\n", if n == 257 { "k".repeat(1_100) } else { "k".into() }));
    let file = server.file("rows.csv", &format!("key,n\n{}", rows.collect::<String>()));
    let error = server.run(&["publish", "t", "--file", file.to_str().unwrap(), "--key", "key"], "").fails(1);
    assert!(
        error.contains("messages[56].key") && error.contains("messages 201 to 300 of the input"),
        "{error}"
    );
}

#[test]
fn a_csv_that_ends_within_a_line_is_noted() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    for (name, content, noted) in [("cut.csv", "a,b\n1,2\n3,4", true), ("whole.csv", "a,b\n1,2\n", false)] {
        let file = server.file(name, content);
        let ran = server.run(&["publish", "t", "--file", file.to_str().unwrap()], "");
        let stderr = String::from_utf8_lossy(&ran.output.stderr).into_owned();
        ran.ok();
        assert_eq!(stderr.contains("does not end with a line end"), noted, "{stderr}");
    }
}

#[test]
fn single_settings_are_edited() {
    let server = Server::start();
    server.ok(&["topic", "create", "t", "--label", "team=blue", "--label", "tier=1"]);
    let edit = [
        "topic",
        "edit",
        "t",
        "--label",
        "team=red",
        "--remove-label",
        "tier",
        "--max-message-bytes",
        "2KiB",
    ];
    let dry = server.ok(&[&edit[..], &["--dry-run"]].concat());
    assert_eq!(
        dry,
        "topic t would change:\n  labels.team: blue -> red\n  labels.tier: 1 -> none\n  \
         max message bytes: 1048576 -> 2048\n"
    );
    let before = &server.json(&["topic", "describe", "t"])[0];
    assert_eq!(before["labels"]["team"], "blue", "only a dry run");
    assert!(server.ok(&edit).starts_with("topic t changed:"));
    let stale = [&edit[..], &["--etag", before["etag"].as_str().unwrap()]].concat();
    assert!(server.run(&stale, "").fails(1).contains("its etag is"));
    assert_eq!(server.ok(&edit), "topic t is like that already\n");
    let after = &server.json(&["topic", "describe", "t"])[0];
    assert_eq!((&after["labels"]["team"], &after["max_message_bytes"]), (&"red".into(), &2_048.into()));
    assert!(server.run(&["topic", "edit", "t"], "").fails(2).contains("nothing to change"));
    assert!(server.run(&["topic", "edit", "none", "--durability", "buffered"], "").fails(3).contains("none"));
}

#[test]
fn a_subscription_is_edited_and_keeps_the_rest() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    server.ok(&["topic", "create", "dead"]);
    server.ok(&[
        "sub",
        "create",
        "s",
        "--topic",
        "t",
        "--max-attempts",
        "5",
        "--min-backoff",
        "1s",
        "--filter",
        "attempt < 9",
        "--idle-expiry",
        "1d",
    ]);
    let edited = &server.json(&[
        "sub",
        "edit",
        "s",
        "--dead-letter-topic",
        "dead",
        "--filter",
        "",
        "--idle-expiry",
        "never",
    ])[0];
    let change = |from: Value, to: Value| serde_json::json!({ "from": from, "to": to });
    assert_eq!(edited["changes"]["filter"], change("attempt < 9".into(), "".into()));
    assert_eq!(edited["changes"]["idle_expiry"], change("1day".into(), Value::Null));
    assert_eq!(edited["changes"]["retry.dead_letter_topic"], change(Value::Null, "dead".into()));
    assert_eq!((edited["changes"].as_object().unwrap().len(), &edited["dry_run"]), (3, &false.into()));
    let retry = &server.json(&["sub", "describe", "s"])[0]["retry"];
    assert_eq!((&retry["max_attempts"], &retry["min_backoff"]), (&5.into(), &"1s".into()));
    let refused = server.run(&["sub", "update", "s", "--filter", "message.key =="], "").fails(1);
    assert!(refused.contains("line 1, column 15"), "{refused}");
}

#[test]
fn subscribe_filters() {
    let server = Server::start();
    server.ok(&["topic", "create", "t"]);
    server.ok(&["sub", "create", "s", "--topic", "t", "--filter", "message.data_json.n > 1"]);
    server.ok(&["publish", "t", r#"{"n": 1}"#, r#"{"n": 2}"#]);
    let printed = server.ok(&["subscribe", "s", "--count", "1"]);
    assert!(printed.contains(r#"{"n": 2}"#), "{printed}");
    server.await_settled("s");
    let of_topic = ["subscribe", "--topic", "t", "--from", "earliest", "--count", "1", "--filter"];
    let printed = server.ok(&[&of_topic[..], &["offset == 2"]].concat());
    assert!(printed.contains(r#"{"n": 2}"#), "{printed}");
    assert!(server.run(&["subscribe", "s", "--filter", "true"], "").fails(2).contains("subscription edit s"));
}

/// With three dead letters of `billing` on `dead`.
fn server_with_letters() -> Server {
    let server = Server::start();
    server.ok(&["topic", "create", "orders"]);
    server.ok(&["topic", "create", "dead"]);
    let create = ["sub", "create", "billing", "--topic", "orders"];
    server.ok(&[&create[..], &["--max-attempts", "1", "--dead-letter-topic", "dead"]].concat());
    server.ok(&["publish", "orders", "one", "two", "three"]);
    server.ok(&["subscribe", "billing", "--no-ack", "--count", "3"]);
    eventually(|| server.json(&["dlq", "ls", "--topic", "dead"]).len() >= 3);
    server
}

/// The arguments of a command on the letters of `billing`.
fn dlq<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["dlq", command, "--subscription", "billing"], more].concat()
}

#[test]
fn dead_letters_are_listed_redriven_and_purged() {
    let server = server_with_letters();
    let letter = &server.json(&dlq("ls", &["--max", "1", "--reason", "left", "--since", "1h"]))[0];
    let expected = serde_json::json!({
        "topic": "dead", "offset": 1, "subscription": "billing", "original_topic": "orders",
        "original_offset": 1, "attempts": 1, "reason": "its consumer left", "time": letter["time"],
        "data": "one",
    });
    assert_eq!(*letter, expected);
    let table = server.ok(&["dlq", "ls", "--topic", "dead"]);
    assert!(table.starts_with("OFFSET") && table.contains("its consumer left"), "{table}");
    assert_eq!(server.json(&dlq("ls", &["--until", "1h"])), [serde_json::Value::Null; 0]);
    let shown = server.ok(&["dlq", "show", "dead", "2"]);
    assert!(shown.contains("2 of topic orders") && shown.contains("two"), "{shown}");

    let tried = &server.json(&dlq("redrive", &["--dry-run"]))[0];
    assert_eq!((&tried["dry_run"], &tried["redriven"]), (&true.into(), &3.into()));
    // Two of three, in as many requests.
    let redriven = server.ok(&dlq("redrive", &["--max", "2", "--rate", "1"]));
    assert_eq!(redriven, "2 redriven, 0 skipped\n");
    assert_eq!(server.data("orders"), ["one", "two", "three", "one", "two"]);
    assert_eq!(server.json(&dlq("ls", &[])).len(), 1);
    assert_eq!(server.ok(&dlq("purge", &["--dry-run"])), "1 would be purged\n");
    assert_eq!(server.json(&dlq("purge", &[]))[0]["purged"], 1);
    assert_eq!(server.json(&dlq("ls", &[])).len(), 0);
    let error = server.run(&["dlq", "show", "dead", "3"], "").fails(3);
    assert!(error.contains("not dealt with"), "{error}");

    // One whose subscription is gone is skipped.
    server.ok(&["subscribe", "billing", "--no-ack", "--count", "2"]);
    eventually(|| server.json(&["dlq", "ls", "--topic", "dead"]).len() >= 2);
    server.ok(&["sub", "rm", "billing"]);
    let skipped = server.ok(&["dlq", "redrive", "--topic", "dead"]);
    assert!(skipped.starts_with("0 redriven, 2 skipped\nskipped 4: subscription billing"), "{skipped}");
    server.ok(&["topic", "create", "again"]);
    let moved = server.json(&["dlq", "redrive", "--topic", "dead", "--to", "again"]);
    assert_eq!((&moved[0]["redriven"], server.data("again").len()), (&2.into(), 2));

    for bad in [&["dlq", "ls"][..], &["dlq", "ls", "--topic", "a", "--subscription", "b"]] {
        server.run(bad, "").fails(2);
    }
    server.run(&["dlq", "purge", "--subscription", "unknown"], "").fails(3);
}

#[test]
fn a_signal_ends_a_redrive_after_what_is_under_way() {
    let server = server_with_letters();
    let slow = ["dlq", "redrive", "--topic", "dead", "--rate", "1", "-o", "json"];
    let mut redrive = Running::start(server.command(&slow));
    eventually(|| server.data("orders").len() != 3);
    kill_process(Pid::from_child(&redrive.child), Signal::INT).unwrap();
    let report: Value = serde_json::from_str(&redrive.line()).unwrap();
    let done = report["redriven"].as_u64().unwrap();
    let (status, error) = redrive.end();
    let left = server.json(&["dlq", "ls", "--topic", "dead"]).len() as u64;
    assert_eq!((done + left, server.data("orders").len() as u64), (3, 3 + done), "it says what it did");
    let ended = if left > 0 { (Some(1), true) } else { (Some(0), false) };
    assert_eq!((status, error.contains("stopped by a signal")), ended, "{error}");
}

#[test]
fn a_message_tells_its_story() {
    let server = server_with_letters();
    server.ok(&["sub", "create", "audit", "--topic", "orders"]);
    let story = server.ok(&["explain", "orders", "2"]);
    for part in [
        "message 2 of topic orders",
        "audit: not handed out yet",
        "billing: given up; its dead letter is 2 of topic dead",
        "delivered to c1, attempt 1",
        "its consumer left",
        "went to the dead letters",
    ] {
        assert!(story.contains(part), "{part} in {story}");
    }
    server.ok(&["dlq", "redrive", "--topic", "dead"]);
    server.ok(&["subscribe", "audit", "--count", "3"]);
    server.await_settled("audit");
    let story = &server.json(&["explain", "orders", "4"])[0];
    assert_eq!(story["only_for"], "billing");
    let states: Vec<_> = [0, 1].map(|n| story["journeys"][n]["state"].as_str().unwrap()).into();
    assert_eq!(states, ["skipped", "not_reached"]);
    server.run(&["explain", "orders", "99"], "").fails(3);
    server.run(&["explain", "orders", "0"], "").fails(2);
}

#[test]
fn consumers_and_events_are_shown() {
    let server = server_with_letters();
    let mut reader = Running::start(server.command(&["subscribe", "billing", "--consumer", "me"]));
    eventually(|| !server.json(&["consumers"]).is_empty());
    let consumer = &server.json(&["consumers", "--subscription", "billing"])[0];
    assert_eq!((&consumer["name"], &consumer["subscription"]), (&"me".into(), &"billing".into()));
    assert!(server.ok(&["consumers"]).contains("me"));
    kill_process(Pid::from_child(&reader.child), Signal::INT).unwrap();
    assert_eq!(reader.line(), "");
    reader.end();

    let mut events = Running::start(server.command(&["events", "-o", "json"]));
    let mut told = String::new();
    BufReader::new(events.child.stderr.as_mut().unwrap()).read_line(&mut told).unwrap();
    assert!(told.contains("watching"), "{told}");
    server.ok(&["publish", "orders", "four"]);
    server.ok(&["subscribe", "billing", "--no-ack", "--count", "1"]);
    let event: Value = serde_json::from_str(&events.line()).unwrap();
    assert_eq!((&event["event"], &event["offset"]), (&"message_given_up".into(), &4.into()));
    assert_eq!(event["dead_letter_offset"], 4);
    kill_process(Pid::from_child(&events.child), Signal::TERM).unwrap();
    assert_eq!(events.end().0, Some(0));
}

#[test]
fn topics_are_watched() {
    let server = Server::start();
    server.ok(&["topic", "create", "orders.eu"]);
    server.ok(&["topic", "create", "other"]);
    let mut watch = Running::start(server.command(&["topic", "watch", "orders.*"]));
    assert_eq!(watch.line(), "existing  orders.eu");
    server.ok(&["topic", "create", "orders.us"]);
    assert_eq!(watch.line(), "created  orders.us");
    server.ok(&["topic", "rm", "orders.us"]);
    assert_eq!(watch.line(), "deleted  orders.us");
    kill_process(Pid::from_child(&watch.child), Signal::INT).unwrap();
    assert_eq!(watch.end().0, Some(0));
    let error = server.run(&["topic", "watch", "a.>.b"], "").fails(1);
    assert!(error.contains("stands for all the rest"), "{error}");
}

/// A handler of commands of type `t` with a shell script, that is ready.
fn handler(server: &Server, more: &[&str], script: &str) -> Running {
    let arguments = [&["command", "handle", "t"], more, &["--exec", "sh", "--", "-c", script]].concat();
    let handler = Running::start(server.command(&arguments));
    eventually(|| server.run(&["command", "send", "t", "--id", "ready"], "").output.status.success());
    handler
}

#[test]
fn commands_are_sent_carried_out_by_a_program_and_looked_up() {
    let server = Server::start();
    let unknown = server.run(&["command", "send", "t"], "").fails(3);
    assert!(unknown.contains("columba command handle t"), "{unknown}");
    let script = r#"[ "$COLUMBA_COMMAND_ID" = bad ] && { echo no such >&2; echo account >&2; exit 3; }
        [ "$COLUMBA_COMMAND_ATTEMPT" = 1 ] && [ "$COLUMBA_COMMAND_ID" = busy ] && exit 75
        [ "$COLUMBA_COMMAND_ID" = large ] && head -c 1048577 /dev/zero
        printf '%s/%s/%s/' "$COLUMBA_COMMAND_TYPE" "$COLUMBA_COMMAND_KEY" "$COLUMBA_COMMAND_ATTEMPT"; cat"#;
    let mut handler = handler(&server, &[], script);
    assert_eq!(handler.line(), "ready\tSUCCEEDED\t1");
    let send = ["command", "send", "t", "-", "--id", "good", "--key", "k", "--wait", "20s", "-o", "json"];
    let sent: Value = serde_json::from_str(&server.run(&send, "data").ok()).unwrap();
    assert_eq!((&sent["state"], &sent["result"]), (&"SUCCEEDED".into(), &"t/k/1/data".into()));
    let other = server.run(&["command", "send", "t", "other", "--id", "good"], "").fails(5);
    assert!(other.contains("another content"), "{other}");
    let bad = server.run(&["command", "send", "t", "--id", "bad", "--wait", "20s"], "");
    let shown = String::from_utf8_lossy(&bad.output.stdout).into_owned();
    assert!(shown.contains("FAILED") && shown.contains(r"EXIT_3: no such\naccount"), "{shown}");
    bad.fails(1);
    server.ok(&["command", "send", "t", "--id", "busy"]);
    let busy: Value = serde_json::from_str(&server.ok(&["command", "wait", "busy", "-o", "json"])).unwrap();
    assert_eq!((&busy["attempts"], &busy["result"]), (&2.into(), &"t//2/".into()));
    let large = server.run(&["command", "send", "t", "--id", "large", "--wait", "20s"], "");
    assert!(String::from_utf8_lossy(&large.output.stdout).contains("RESULT_TOO_LARGE"));
    large.fails(1);
    let failed = server.json(&["command", "ls", "--type", "t", "--state", "failed"]);
    assert_eq!(failed.iter().map(|it| it["id"].as_str().unwrap()).collect::<Vec<_>>(), ["bad", "large"]);
    assert_eq!(server.json(&["command", "watch", "good"])[0]["state"], "SUCCEEDED");
    assert_eq!(server.json(&["command", "get", "good"])[0]["payload"], "data");
    server.run(&["command", "get", "unknown"], "").fails(3);
    kill_process(Pid::from_child(&handler.child), Signal::TERM).unwrap();
    // What the program says, its handler passes on.
    assert_eq!(handler.end(), (Some(0), "no such\naccount\n".into()));
}

#[test]
fn a_handler_does_not_start_with_a_program_that_cannot_be_run() {
    let server = Server::start();
    let plain = server.file("plain", "");
    let plain = plain.to_str().unwrap();
    for kind in ["command", "query"] {
        let handle = |program: &str| server.run(&[kind, "handle", "t", "--exec", program], "").fails(1);
        let missing = handle("./missing-program");
        assert!(missing.contains("cannot run ./missing-program: No such file"), "{missing}");
        let unknown = handle("missing-program");
        assert!(unknown.contains("cannot run missing-program: no directory of PATH has it"), "{unknown}");
        let error = handle(plain);
        assert!(error.contains(plain) && error.contains("chmod +x"), "{error}");
    }
    // It has not asked for commands.
    server.run(&["command", "send", "t"], "").fails(3);
}

#[test]
fn what_others_have_chosen_does_nothing_to_the_terminal() {
    let server = Server::start();
    let mut handler = handler(&server, &[], "cat");
    assert_eq!(handler.line(), "ready\tSUCCEEDED\t1");
    let bad = "\u{1b}[31m\n\u{9b}2J";
    let shown = r"\u{1b}[31m\n\u{9b}2J";
    let send =
        ["command", "send", "t", bad, "--key", bad, "--id", "a", "--wait", "20s", "--content-type", bad];
    let attribute = format!("{bad}={bad}");
    let sent = server.ok(&[&send[..], &["--attribute", &attribute, "--correlation-id", bad]].concat());
    server.ok(&["kv", "bucket", "create", "b"]);
    let printed = [
        (sent, 7),
        (server.ok(&["command", "get", "a"]), 7),
        (server.ok(&["command", "ls"]), 1),
        (server.ok(&["kv", "put", "b", bad, bad]), 1),
        (server.ok(&["kv", "get", "b", bad]), 1),
        (server.ok(&["kv", "ls", "b"]), 2),
        (server.ok(&["kv", "rm", "b", bad]), 1),
    ];
    for (printed, times) in printed {
        assert!(!printed.chars().any(|c| c.is_control() && c != '\n'), "{printed:?}");
        assert_eq!(printed.matches(shown).count(), times, "{printed}");
    }
}

#[test]
fn a_handler_finishes_what_runs_at_a_signal_and_its_program_is_told_of_cancelling() {
    let server = Server::start();
    let script = r#"[ "$COLUMBA_COMMAND_ID" = ready ] && exit
        [ "$COLUMBA_COMMAND_ID" = other ] && exit 75
        trap 'echo stopped >&2; exit 1' TERM
        while [ ! -e "$COLUMBA_COMMAND_KEY" ]; do sleep 0.05 & wait $!; done; printf done"#;
    let mut handler = handler(&server, &["--concurrency", "2"], script);
    assert_eq!(handler.line(), "ready\tSUCCEEDED\t1");
    let go = server.dir.path().join("go");
    let go = go.to_str().unwrap();
    server.ok(&["command", "send", "t", "--key", go, "--id", "finishes"]);
    server.ok(&["command", "send", "t", "--key", "/nowhere", "--id", "cancelled"]);
    let is_running = |id| server.json(&["command", "get", id])[0]["state"] == "RUNNING";
    eventually(|| is_running("finishes") && is_running("cancelled"));
    server.ok(&["command", "cancel", "cancelled"]);
    assert_eq!(handler.line(), "cancelled\tCANCELLED\t1");
    kill_process(Pid::from_child(&handler.child), Signal::TERM).unwrap();
    // It has room for one more, and wants none; unless the signal comes later than this.
    server.ok(&["command", "send", "t", "--id", "other"]);
    eventually(|| !is_running("other"));
    let mut second = Running::start(server.command(&["command", "handle", "t", "--exec", "cat"]));
    assert!(second.line().starts_with("other\tSUCCEEDED\t"));
    assert!(is_running("finishes"));
    kill_process(Pid::from_child(&second.child), Signal::TERM).unwrap();
    assert_eq!(second.end().0, Some(0));
    server.file("go", "");
    let mut line = handler.line();
    while line.starts_with("other\tPENDING\t") {
        line = handler.line();
    }
    assert_eq!(line, "finishes\tSUCCEEDED\t1");
    let (status, said) = handler.end();
    assert!(status == Some(0) && said.ends_with("stopped\n"), "{said}");
    // Nobody is left to take it.
    server.ok(&["command", "send", "t", "--id", "pending"]);
    server.run(&["command", "wait", "pending", "--for", "0s"], "").fails(1);
    assert!(server.ok(&["command", "cancel", "pending"]).contains("CANCELLED"));
    server.run(&["command", "cancel", "finishes"], "").fails(1);
}

/// The keys that a command lists.
#[track_caller]
fn keys(server: &Server, arguments: &[&str]) -> Vec<String> {
    let entries = server.json(arguments);
    entries.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn entries_are_put_read_ranked_and_removed() {
    let server = Server::start();
    let missing = server.run(&["kv", "put", "scores", "a", "1"], "").fails(3);
    assert!(missing.contains("columba kv bucket create scores"), "{missing}");
    server.ok(&["kv", "bucket", "create", "scores"]);
    let put = server.ok(&["kv", "put", "scores", "eu.ann", "Ann", "--score", "17.5"]);
    assert_eq!(put, "eu.ann is set in scores, revision 1\n");
    server.run(&["kv", "put", "scores", "eu.bob", "-", "--score", "-3"], "from\nstdin").ok();
    server.ok(&["kv", "put", "scores", "us.cy", "Cy", "--score", "30"]);
    server.ok(&["kv", "put", "scores", "eu.dee", "Dee"]);
    assert_eq!(server.ok(&["kv", "get", "scores", "eu.ann", "--min-revision", "4"]), "Ann\n");
    let bob = &server.json(&["kv", "get", "scores", "eu.bob"])[0];
    assert_eq!(
        (&bob["value"], &bob["score"], &bob["revision"]),
        (&"from\nstdin".into(), &(-3.0).into(), &2.into())
    );
    assert_eq!(keys(&server, &["kv", "ls", "scores"]), ["eu.ann", "eu.bob", "eu.dee", "us.cy"]);
    let ranked = ["kv", "ls", "scores", "--prefix", "eu.", "--order-by", "score desc"];
    assert_eq!(keys(&server, &ranked), ["eu.ann", "eu.bob"]);
    assert_eq!(keys(&server, &["kv", "top", "scores", "-n", "1"]), ["us.cy"]);
    assert_eq!(
        keys(&server, &["kv", "top", "scores", "--prefix", "eu.", "--min", "-3", "--max", "0"]),
        ["eu.bob"]
    );

    let taken = server.run(&["kv", "put", "scores", "eu.ann", "x", "--if-revision", "0"], "").fails(1);
    assert!(taken.contains("is 1, not 0"), "{taken}");
    let moved = server.run(&["kv", "rm", "scores", "eu.ann", "--if-revision", "2"], "").fails(1);
    assert!(moved.contains("is 1, not 2"), "{moved}");
    assert_eq!(server.ok(&["kv", "rm", "scores", "us.cy"]), "us.cy is removed in scores, revision 5\n");
    let gone = server.run(&["kv", "get", "scores", "us.cy", "--min-revision", "5"], "").fails(3);
    assert!(gone.contains("has no entry \"us.cy\""), "{gone}");
    server.ok(&["kv", "rm", "scores", "us.cy"]);

    for (bad, status, says) in [
        (&["put", "scores", "a", "1", "--score", "much"][..], 2, "invalid value 'much'"),
        (&["put", "scores", "a", "1", "--score", "nan"], 1, "score: is NaN"),
        (&["put", "scores", "", "1"], 1, "key: is empty"),
        (&["ls", "scores", "--order-by", "value"], 1, "use `key`, `key desc`"),
        (&["ls", "scores", "--min", "2", "--max", "1"], 1, "above max_score"),
        (&["top", "scores", "-n", "0"], 2, "0 is not in 1.."),
        (&["top", "nothing"], 3, "bucket nothing does not exist"),
        (&["watch", "nothing"], 3, "bucket nothing does not exist"),
        (&["watch", "scores", "--limit", "1001"], 2, "1001 is not in 1..=1000"),
        (&["get", "scores", "a", "--min-revision", "99", "--timeout", "500ms"], 1, "is at revision 6"),
    ] {
        let error = server.run(&[&["kv"], bad].concat(), "").fails(status);
        assert!(error.contains(says), "{bad:?}: {error}");
    }
}

#[test]
fn a_watched_top_of_entries_is_printed_as_it_changes() {
    let server = Server::start();
    server.ok(&["kv", "bucket", "create", "scores"]);
    server.ok(&["kv", "put", "scores", "ann", "Ann", "--score", "1"]);
    server.ok(&["kv", "get", "scores", "ann", "--min-revision", "1"]);
    let watch = ["kv", "watch", "scores", "--order-by", "score desc", "--limit", "1", "--steps", "2"];
    let mut watch = Running::start(server.command(&watch));
    assert_eq!([watch.line(), watch.line(), watch.line()], ["reset", "put\tann\t1\t1\tAnn", "at\t1"]);
    server.ok(&["kv", "put", "scores", "bob", "a\tb", "--score", "2"]);
    assert_eq!([watch.line(), watch.line(), watch.line()], ["rm\tann", "put\tbob\t2\t2\ta\\tb", "at\t2"]);
    assert_eq!(watch.end(), (Some(0), String::new()));
}

#[test]
fn queries_are_asked_and_answered_by_a_program() {
    let server = Server::start();
    let nobody = server.run(&["query", "ask", "t"], "").fails(4);
    assert!(nobody.contains("columba query handle t"), "{nobody}");
    let script = r#"[ "$COLUMBA_QUERY_KEY" = bad ] && { echo no such thing >&2; exit 3; }
        [ "$COLUMBA_QUERY_KEY" = busy ] && exit 75
        echo 7; printf '%s/%s/' "$COLUMBA_QUERY_TYPE" "$COLUMBA_QUERY_KEY"; cat"#;
    let handle =
        ["query", "handle", "t", "--handler", "shop", "--revision-line", "--exec", "sh", "--", "-c", script];
    let handler = Running::start(server.command(&handle));
    eventually(|| server.json(&["handlers"]).len() == 1);
    assert_eq!(server.run(&["query", "ask", "t", "--key", "k", "--data", "-"], "in").ok(), "t/k/in\n");
    let cached = ["query", "ask", "t", "--cache-ttl", "1m"];
    for from_cache in [false, true] {
        let answer = &server.json(&cached)[0];
        assert_eq!(
            (&answer["data"], &answer["revision"], &answer["handler"]),
            (&"t//".into(), &7.into(), &"shop".into())
        );
        assert_eq!(answer["from_cache"], from_cache);
    }
    assert_eq!(server.ok(&["query", "invalidate", "t"]), "invalidated; watchers: 0\n");
    assert_eq!(server.json(&cached)[0]["from_cache"], false);
    assert_eq!(server.ok(&["query", "ask", "t", "--gather", "3"]), "shop\tok\tt//\n");

    for (bad, status, says) in [
        (&["ask", "t", "--key", "bad"][..], 1, "the handler shop failed: EXIT_3: no such thing"),
        (&["ask", "t", "--key", "busy"], 1, "EXIT_75"),
        (&["ask", "t", "--min-revision", "8", "--timeout", "1s"], 1, "has revision 7, and the query needs 8"),
        (&["ask", "no type"], 1, "type: "),
        (&["ask", "t", "--cache-ttl", "2h"], 1, "cache.ttl: "),
        (&["ask", "t", "--gather", "0"], 2, "0 is not in 1..=100"),
        (&["ask", "t", "--gather", "1", "--no-cache"], 2, "cannot be used with"),
        (&["update", "t", "--data", "-", "--result", "-"], 2, "cannot both be standard input"),
        (&["watch", "other"], 4, "columba query handle other"),
        (&["handle", "t"], 2, "--exec <PROGRAM>"),
        (&["handle", "no type", "--exec", "true"], 1, "types[0]: "),
    ] {
        let error = server.run(&[&["query"], bad].concat(), "").fails(status);
        assert!(error.contains(says), "{bad:?}: {error}");
    }
    kill_process(Pid::from_child(&handler.child), Signal::TERM).unwrap();
    // What its programs say of failures is on its standard error, too.
    assert_eq!(handler.end(), (Some(0), "handling t; Ctrl-C ends\nno such thing\n".into()));
    server.run(&["query", "ask", "t"], "").fails(4);
}

#[test]
fn a_watched_query_is_printed_as_its_answer_changes() {
    let server = Server::start();
    let handle = ["query", "handle", "t", "--revision-line", "--exec", "sh", "--", "-c", "printf '7\nfirst'"];
    let handler = Running::start(server.command(&handle));
    eventually(|| server.json(&["handlers"]).len() == 1);
    let mut watch = Running::start(server.command(&["query", "watch", "t", "--count", "2"]));
    assert_eq!(watch.line(), "7\tfirst");
    let update =
        |revision| server.ok(&["query", "update", "t", "--result", "second", "--revision", revision]);
    assert_eq!(update("6"), "ignored: a newer answer is known\n");
    assert_eq!(update("8"), "updated; watchers: 1\n");
    assert_eq!(watch.line(), "8\tsecond");
    assert_eq!(watch.end(), (Some(0), String::new()));
    kill_process(Pid::from_child(&handler.child), Signal::TERM).unwrap();
    assert_eq!(handler.end().0, Some(0));
}
