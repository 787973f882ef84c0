//! The audit log of a server process.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use columba::identity::hash;
use serde_json::Value;

use crate::cli::{columba, put, run};
use crate::eventually;

const TOKEN: &str = "the-token-of-the-operators";
const OTHER: &str = "the-token-of-billing-itself";

/// A server process with its log in a file.
struct Server {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let entry =
            |who: &str, token: &str| format!("[[tokens]]\nprincipal = '{who}'\nhash = '{}'\n", hash(token));
        put(dir.path(), "tokens.toml", &(entry("ops", TOKEN) + &entry("billing", OTHER)));
        put(dir.path(), "rules.toml", "[[rules]]\nprincipals = ['ops']\nallow = ['*']\nnames = ['>']\n");
        let at = |name: &str| dir.path().join(name);
        let mut command = columba(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(at("data")).args(["--log-format", "json"]);
        command.env("COLUMBA_IDENTITY_TOKENS", at("tokens.toml"));
        command.env("COLUMBA_AUTHORIZATION_RULES", at("rules.toml"));
        let log = File::create(at("log")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("gRPC on ").nth(1).unwrap().split(',').next().unwrap().to_owned();
        Self { child, address, dir }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// The fields of what was told.
    fn told(&self) -> Vec<Value> {
        let lines = self.log();
        let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["target"] == "columba::audit")
            .map(|event| event["fields"].clone())
            .collect()
    }

    async fn run(&self, arguments: &[&str], token: Option<&str>) -> Option<i32> {
        let mut command = columba(arguments);
        command.env("COLUMBA_SERVER", &self.address);
        if let Some(token) = token {
            command.env("COLUMBA_TOKEN", token);
        }
        run(command).await.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn changes_and_refusals_are_told_without_payloads_and_tokens() {
    let server = Server::start();
    assert_eq!(server.run(&["topic", "create", "orders"], Some(TOKEN)).await, Some(0));
    assert_eq!(server.run(&["publish", "orders", "a-secret-payload"], Some(TOKEN)).await, Some(0));
    assert_eq!(server.run(&["topic", "ls"], Some(TOKEN)).await, Some(0));
    assert_eq!(server.run(&["publish", "orders", "a-secret-payload"], Some(OTHER)).await, Some(1));
    assert_eq!(server.run(&["topic", "ls"], Some("some-wrong-token-of-somebody")).await, Some(1));
    assert_eq!(server.run(&["topic", "rm", "nothing"], Some(TOKEN)).await, Some(3));
    eventually(async || server.told().len() >= 4).await;

    let told = server.told();
    let fields = |event: &Value| {
        ["message", "principal", "rpc", "names", "outcome"]
            .map(|field| event[field].as_str().unwrap_or("-").to_owned())
    };
    let expected = [
        ["change", "ops", "columba.v1.TopicService/CreateTopic", "orders", "Ok"],
        ["refused", "billing", "columba.v1.PublisherService/PublishStream", "", "PermissionDenied"],
        ["refused", "", "columba.v1.TopicService/ListTopics", "-", "Unauthenticated"],
        ["change", "ops", "columba.v1.TopicService/DeleteTopic", "nothing", "NotFound"],
    ];
    let told_fields: Vec<_> = told.iter().map(fields).collect();
    assert_eq!(told_fields, expected.map(|event| event.map(str::to_owned)), "{told:#?}");
    assert!(told.iter().all(|event| event["peer"].as_str().unwrap().starts_with("127.0.0.1:")), "{told:#?}");
    assert_eq!(told[2]["reason"], "UNKNOWN_TOKEN");
    for secret in ["secret-payload", TOKEN, OTHER, "some-wrong-token"] {
        assert!(!server.log().contains(secret), "{}", server.log());
    }
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_fill_the_log() {
    let server = Server::start();
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    for _ in 0..1_000 {
        crate::call(channel.clone(), None).await.unwrap_err();
    }
    let told = server.told().len();
    assert!((100..600).contains(&told), "{told} lines");
    let suppressed = async || {
        crate::call(channel.clone(), None).await.unwrap_err();
        server.told().iter().any(|event| event["suppressed"].as_u64() > Some(0))
    };
    eventually(suppressed).await;
}

#[tokio::test]
async fn a_bad_file_of_rules_is_told_with_its_lines() {
    let server = Server::start();
    let bad = "[[rules]]\nprincipals = ['ops']\nallow = ['everything']\nnames = ['a..b']\n";
    replace(server.dir.path(), bad);
    eventually(async || server.log().contains("keeping the rules in use")).await;
    let log = server.log();
    assert!(log.contains("line 3: ") && log.contains("everything") && log.contains("line 4: "), "{log}");
    assert_eq!(server.run(&["topic", "ls"], Some(TOKEN)).await, Some(0));
    replace(server.dir.path(), "");
    eventually(async || server.log().contains("new rules")).await;
    assert_eq!(server.run(&["topic", "ls"], Some(TOKEN)).await, Some(1));
}

fn replace(dir: &Path, rules: &str) {
    put(dir, "next", rules);
    std::fs::rename(dir.join("next"), dir.join("rules.toml")).unwrap();
}
