//! The example clients under `clients/`: each language with each other, over one server that is killed on the way.
//!
//! All have the same command line, which reads and prints JSON lines; `scripts/clients.sh` builds them.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use process::{ServerProcess, columba};
use serde_json::{Value, json};

/// Longer than any line takes on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The languages whose clients this machine can run. In CI it must be all.
static LANGUAGES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let all = ["python", "go", "typescript", "java", "rust"];
    all.into_iter().filter(|language| can_run(language)).collect()
});

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn can_run(language: &str) -> bool {
    let output = Command::new(root().join("scripts/clients.sh")).args(["status", language]).output().unwrap();
    let why = String::from_utf8(output.stdout).unwrap();
    if why.is_empty() {
        return true;
    }
    let why = format!("skipped: {language}: {}", why.trim_end());
    assert!(std::env::var_os("CI").is_none(), "{why}");
    println!("{why}");
    false
}

/// A server, and what its clients say to people.
struct Stage {
    server: ServerProcess,
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { server: ServerProcess::start(&directory.path().join("data")), directory }
    }

    /// Runs a line of the server's own command line, and returns what it prints.
    fn columba(&self, arguments: &[&str]) -> Value {
        let output =
            columba(arguments).args(["--server", &self.server.address, "-o", "json"]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts the client of a language.
    fn start(&self, language: &str, arguments: &[&str]) -> Client {
        let name = format!("{language} {}", arguments.join(" "));
        let stderr = self.directory.path().join(name.replace([' ', '/'], "-"));
        let mut command = Command::new(root().join("clients/run"));
        command.arg(language).args(arguments).env("COLUMBA_SERVER", &self.server.address);
        // The locale is not to matter.
        command.env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(File::create(&stderr).unwrap()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line.unwrap())));
        Client { name, stdin: child.stdin.take(), child, lines, stderr }
    }

    /// Starts the client of each language with arguments of its own.
    fn start_each(&self, arguments: impl Fn(&str) -> Vec<String>) -> BTreeMap<&'static str, Client> {
        let start = |language| {
            let arguments = arguments(language);
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            (language, self.start(language, &arguments))
        };
        LANGUAGES.iter().copied().map(start).collect()
    }
}

/// A client process. Killed when it goes out of scope.
struct Client {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: PathBuf,
}

impl Client {
    fn write(&mut self, line: &Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line that it prints.
    fn read(&self) -> Value {
        serde_json::from_str(&self.read_text()).unwrap()
    }

    fn read_text(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("{}: no line: {error}\n{}", self.name, self.complaints()),
        }
    }

    /// What it answers to a line.
    fn answer(&mut self, line: &Value) -> Value {
        self.write(line);
        self.read()
    }

    /// Ends its input, and waits until it has done with it.
    fn finish(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status}\n{}", self.name, self.complaints());
    }

    fn complaints(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Messages that come out different if anything on the way takes bytes for text, or text for anything but UTF-8,
/// or what is empty for what is not there.
fn messages(round: &str) -> Vec<Value> {
    let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..900_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let attributes: BTreeMap<_, _> = (0..64).map(|i| (format!("name-{i}"), format!("value {i}"))).collect();
    let mut messages = vec![
        json!({ "key": "order-1", "attributes": { "region": "eu" }, "data": base64(b"{\"total\": 7}") }),
        json!({ "key": "grüße/日本語/🕊/e\u{301}/é", "attributes": { "schlüssel": "größe 🕊" }, "data": base64("🕊".as_bytes()) }),
        json!({ "key": "zeros", "data": base64(&[0, 0, 0]) }),
        json!({ "key": "bytes", "data": base64(&every_byte) }),
        json!({ "key": "not UTF-8", "data": base64(&[0xff, 0xfe, 0xc3, 0x28, 0xed, 0xa0, 0x80]) }),
        json!({ "key": "\"\\ <&>' \u{2028}", "attributes": { "lines": "one\ntwo\r\n\tthree", "empty": "" } }),
        json!({ "data": base64(b"no key") }),
        json!({}),
        json!({ "key": "k".repeat(1024), "attributes": attributes }),
        json!({ "key": "large", "data": base64(&large) }),
    ];
    for (number, message) in messages.iter_mut().enumerate() {
        message["id"] = json!(format!("{round}-{number}"));
    }
    messages
}

/// A message in one form, whether what is empty is told or left out.
fn content(line: &Value) -> Value {
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let attributes = line.get("attributes").cloned().unwrap_or_else(|| json!({}));
    json!({ "id": text("id"), "key": text("key"), "attributes": attributes, "data": text("data") })
}

/// What a consumer has printed, by topic and offset. It may print a message again, but not another.
#[derive(Default)]
struct Consumed(BTreeMap<(String, u64), Value>);

impl Consumed {
    fn read_until(&mut self, count: usize, consumer: &Client) {
        while self.0.len() < count {
            let line = consumer.read();
            let place = (line["topic"].as_str().unwrap().to_owned(), line["offset"].as_u64().unwrap());
            let content = content(&line);
            let before = self.0.entry(place).or_insert_with(|| content.clone());
            assert_eq!(*before, content, "{}: another message at the same place", consumer.name);
        }
    }

    fn of(&self, topic: &str) -> Vec<&Value> {
        self.0.iter().filter(|((of, _), _)| of == topic).map(|(_, content)| content).collect()
    }
}

/// One process of each language publishes, one of each consumes all that. In the middle the server is killed; they
/// go on by themselves.
#[test]
fn each_language_consumes_what_each_publishes_although_the_server_is_killed() {
    let mut stage = Stage::new();
    for language in &*LANGUAGES {
        stage.columba(&["topic", "create", &format!("from.{language}")]);
        stage.columba(&["subscription", "create", &format!("to-{language}"), "--topic", "from.*"]);
    }
    let consumers = stage.start_each(|language| vec!["consume".into(), format!("to-{language}")]);
    let mut publishers = stage.start_each(|language| vec!["publish".into(), format!("from.{language}")]);
    let rounds = ["before", "after"].map(messages);
    let mut consumed: BTreeMap<_, _> = consumers.keys().map(|&name| (name, Consumed::default())).collect();
    let mut read_until = |count: usize| {
        for (name, consumer) in &consumers {
            consumed.get_mut(name).unwrap().read_until(count * LANGUAGES.len(), consumer);
        }
    };

    for publisher in publishers.values_mut() {
        for (offset, message) in (1..).zip(&rounds[0]) {
            assert_eq!(publisher.answer(message), json!({ "offset": offset, "duplicate": false }));
        }
    }
    read_until(rounds[0].len());

    stage.server.kill();
    // They try in vain.
    for publisher in publishers.values_mut() {
        publisher.write(&rounds[1][0]);
    }
    stage.server.restart();
    for publisher in publishers.values_mut() {
        // Sent twice at most, and stored once.
        assert_eq!(publisher.read()["offset"], rounds[0].len() + 1);
        for message in &rounds[1][1..] {
            publisher.answer(message);
        }
    }
    publishers.into_values().for_each(Client::finish);
    read_until(rounds.concat().len());

    let expected: Vec<_> = rounds.concat().iter().map(content).collect();
    let mut pairs = 0;
    for (consumer, consumed) in &consumed {
        for publisher in &*LANGUAGES {
            let of = consumed.of(&format!("from.{publisher}"));
            assert_eq!(of, expected.iter().collect::<Vec<_>>(), "{publisher} to {consumer}");
            pairs += 1;
        }
    }
    println!("{pairs} pairs of a publisher and a consumer");
    // Their acks have come, too, or come now.
    for language in &*LANGUAGES {
        let end = Instant::now() + PATIENCE;
        while stage.columba(&["subscription", "stats", &format!("to-{language}")])["backlog_messages"] != 0 {
            assert!(Instant::now() < end, "{language} does not acknowledge");
        }
    }
}

/// One process of each language carries out commands and answers queries; one of each sends commands to all of them,
/// and another asks them all. In the middle the server is killed; they go on by themselves.
#[test]
fn each_language_serves_each_although_the_server_is_killed() {
    let mut stage = Stage::new();
    for language in &*LANGUAGES {
        stage.columba(&["kv", "bucket", "create", &format!("by-{language}")]);
    }
    let handlers = stage.start_each(|language| vec!["handle".into(), format!("by-{language}")]);
    let mut senders = stage.start_each(|_| vec!["send".into()]);
    let mut askers = stage.start_each(|_| vec!["ask".into()]);
    let mut pairs = 0;
    for score in [0.1_f64, -1.5e-7] {
        // After a restart they say so again.
        for handler in handlers.values() {
            let mut handles = [handler.read(), handler.read()].map(|line| line["handling"].to_string());
            handles.sort_unstable();
            assert!(handles[0].ends_with(".put\"") && handles[1].ends_with(".top\""), "{handles:?}");
        }
        for (sender, handler) in LANGUAGES.iter().flat_map(|s| LANGUAGES.iter().map(move |h| (s, h))) {
            let (put, top) = (format!("by-{handler}.put"), format!("by-{handler}.top"));
            let (key, payload) = (format!("{sender}/grüße 🕊"), score.to_string());
            let send = |payload: &str| json!({ "type": put, "key": key, "payload": payload });
            let to = format!("{sender} to {handler}");

            let sent = senders.get_mut(sender).unwrap().answer(&send(&payload));
            let revision: u64 =
                sent["result"].as_str().unwrap_or_else(|| panic!("{to}: {sent}")).parse().unwrap();
            for wrong in ["many", "", "42 pigeons"] {
                let refused = senders.get_mut(sender).unwrap().answer(&send(wrong));
                let expected = json!({ "state": "COMMAND_STATE_FAILED", "failure": "NOT_A_NUMBER" });
                assert_eq!(refused, expected, "{to}: {wrong:?}");
            }
            let ask = json!({ "type": top, "key": format!("{sender}/"), "revision": revision });
            let answer = askers.get_mut(sender).unwrap().answer(&ask);
            let expected = json!([{ "key": key, "value": payload, "score": score }]);
            assert_eq!(answer["answer"], expected, "{to}");
            pairs += 1;
        }
        stage.server.kill();
        stage.server.restart();
    }
    println!("{} pairs of a sender and a handler, twice", pairs / 2);
    senders.into_values().chain(askers.into_values()).for_each(Client::finish);
}

/// Each language puts an entry, and the five are the five highest for each.
#[test]
fn each_language_reads_the_entries_of_each() {
    let scores: [f64; 5] = [0.1 + 0.2, 1e300, 0.0, -1.5, 5e-324];
    let stage = Stage::new();
    stage.columba(&["kv", "bucket", "create", "scores"]);
    let puts = stage.start_each(|_| vec!["put".into(), "scores".into()]);
    let mut expected = Vec::new();
    let mut revision = 0;
    for ((language, mut put), score) in puts.into_iter().zip(scores) {
        let (key, value) = (format!("all/{language}"), format!("grüße 🕊 of {language}"));
        put.write(&json!({ "key": key, "value": value, "score": score }));
        // Without a score, it is in no order by score; 0 is a score.
        put.write(&json!({ "key": format!("all/{language}/none"), "value": "" }));
        let revisions = [put.read(), put.read()].map(|line| line["revision"].as_u64().unwrap());
        revision = revision.max(revisions[1]);
        put.finish();
        expected.push((score, key, value));
    }
    expected.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));

    let tops = stage.start_each(|_| vec!["top".into(), "scores".into(), "all/".into(), revision.to_string()]);
    for (language, top) in tops {
        for (score, key, value) in &expected {
            let line = top.read_text();
            assert_eq!(number(&line, "score").to_bits(), score.to_bits(), "{language}: {line}");
            let entry: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&entry["key"], &entry["value"]), (&json!(key), &json!(value)), "{language}");
        }
        top.finish();
    }
}

#[test]
fn the_commands_of_the_page_work() {
    if LANGUAGES.len() < 5 {
        println!("skipped: the page has commands in all five languages");
        return;
    }
    let mut command = Command::new(root().join("scripts/try-docs.sh"));
    // The page does without grpcurl.
    command.env("COLUMBA", env!("CARGO_BIN_EXE_columba")).env("GRPCURL", "/bin/true");
    let output = command.arg(root().join("clients/README.md")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A number in a JSON line, to its last bit: `serde_json` rounds a little.
fn number(line: &str, name: &str) -> f64 {
    let (_, rest) = line.split_once(&format!("\"{name}\":")).unwrap();
    rest.split([',', '}']).next().unwrap().trim().parse().unwrap()
}
