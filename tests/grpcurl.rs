//! The README's lines, run as they stand there, with what they are said to print.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed, as it should")]

#[path = "common/process.rs"]
mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use process::ServerProcess;
use serde_json::{Deserializer, Value};

/// How long a line may take that should end at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// The address in the README, replaced by the test server's.
const README_ADDRESS: &str = "127.0.0.1:7171";
/// Fields that differ from run to run.
const TIMES: &[&str] = &["createTime", "publishTime", "serverTime"];

/// The first part of the README, as far as the test is concerned.
struct Readme {
    create: String,
    created: Vec<Value>,
    subscribe: String,
    publish: String,
    published: Vec<Value>,
    arrived: Vec<Value>,
    read: String,
    stored: Vec<Value>,
}

impl Readme {
    fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let text = fs::read_to_string(path).unwrap();
        let mut lines = blocks(&text, "sh").into_iter().filter(|block| block.starts_with("grpcurl "));
        let mut outputs = blocks(&text, "json").into_iter().map(|block| values(&block));
        let [create, subscribe, publish, read] = std::array::from_fn(|_| lines.next().unwrap());
        let [created, published, arrived, stored] = std::array::from_fn(|_| outputs.next().unwrap());
        assert_eq!((lines.next(), outputs.next()), (None, None), "the README has more than is tested");
        Self { create, created, subscribe, publish, published, arrived, read, stored }
    }
}

/// The code blocks of a language.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let after = markdown.split(&fence).skip(1);
    after.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// JSON values one after the other, without what differs from run to run.
fn values(text: &str) -> Vec<Value> {
    let values = Deserializer::from_str(text).into_iter::<Value>();
    values.map(|value| without_times(value.unwrap())).collect()
}

fn without_times(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(name, _)| !TIMES.contains(&name.as_str()));
            kept.map(|(name, value)| (name, without_times(value))).collect()
        }
        Value::Array(elements) => elements.into_iter().map(without_times).collect(),
        other => other,
    }
}

/// One release of grpcurl, and the server that it is to talk to.
struct Shell {
    grpcurl: PathBuf,
    address: String,
}

impl Shell {
    /// A line of the README, for a shell.
    fn command(&self, line: &str) -> Command {
        let arguments = line.strip_prefix("grpcurl ").unwrap();
        assert!(arguments.contains(README_ADDRESS), "{line}");
        let arguments = arguments.replace(README_ADDRESS, &self.address);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("exec {} {arguments}", self.grpcurl.display()));
        command
    }

    /// What a line prints.
    fn run(&self, line: &str) -> Vec<Value> {
        let mut command = assert_cmd::Command::from_std(self.command(line));
        let output = command.timeout(PATIENCE).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        values(str::from_utf8(&output.stdout).unwrap())
    }

    /// Starts a line that goes on.
    fn start(&self, line: &str) -> Streaming {
        Streaming(self.command(line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// A line that goes on until it is dropped.
struct Streaming(Child);

impl Streaming {
    /// The first values it prints.
    fn first(&mut self, count: usize) -> Vec<Value> {
        let values = Deserializer::from_reader(self.0.stdout.take().unwrap()).into_iter::<Value>();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || values.take(count).try_for_each(|value| sender.send(value.unwrap())));
        (0..count).map(|_| without_times(receiver.recv_timeout(PATIENCE).unwrap())).collect()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn the_readmes_lines_work(version: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let grpcurl = root.join(format!(".tools/grpcurl-{version}/grpcurl"));
    if !grpcurl.exists() {
        let why = format!("skipped: grpcurl {version} is not in .tools; `make test` fetches it");
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let readme = Readme::load();
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(dir.path());
    let shell = Shell { grpcurl, address: server.address.clone() };

    assert_eq!(shell.run(&readme.create), readme.created);
    let mut subscriber = shell.start(&readme.subscribe);
    assert_eq!(shell.run(&readme.publish), readme.published);
    assert_eq!(subscriber.first(readme.arrived.len()), readme.arrived);

    server.kill();
    server.restart();
    assert_eq!(shell.run(&readme.read), readme.stored);
}

#[test]
fn the_readmes_lines_work_with_the_current_release() {
    the_readmes_lines_work("1.9.4");
}

/// It knows reflection v1alpha only.
#[test]
fn the_readmes_lines_work_with_an_old_release() {
    the_readmes_lines_work("1.8.6");
}
