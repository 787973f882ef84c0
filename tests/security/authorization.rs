//! Rules: replaced while the server runs, for what is under way, too.

use std::path::Path;
use std::time::Duration;

use columba::identity::jwt::Location;
use columba::proto::admin::{ExplainAuthorizationRequest, Verb};
use columba::proto::v1::command_service_client::CommandServiceClient;
use columba::proto::v1::consume_request::Action;
use columba::proto::v1::publish_stream_response::Result as Published;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::{
    CancelCommandRequest, Command, ConsumeRequest, CreateTopicRequest, EphemeralSubscription,
    GetCommandRequest, GetTopicRequest, HandleCommandsRequest, HandleQueriesRequest, ListTopicsRequest,
    PublishStreamRequest, SendCommandRequest, SubscribeRequest, Topic, WaitCommandRequest,
    WatchCommandRequest, WatchTopicsRequest,
};
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::cli::{columba, put, run};
use crate::common::{TestServer, assert_refused, publish, within};
use crate::issuer::{EcKey, key_file, settings};
use crate::{authorizing, eventually};

const OPS: &str = "[[rules]]\ngroups = ['ops']\nallow = ['*']\nnames = ['>']\n";

struct Secured {
    dir: tempfile::TempDir,
    key: EcKey,
    server: TestServer,
}

impl Secured {
    /// A server with rules for `billing`, and all rights for the group `ops`.
    async fn start(rules: &str) -> Self {
        let key = EcKey::new("key");
        let (dir, keys) = key_file(&[key.public()]);
        let settings = settings(Location::File(keys), Duration::ZERO);
        let server = authorizing(settings, dir.path(), &format!("{OPS}{rules}")).await;
        Self { dir, key, server }
    }

    fn with<T>(&self, message: T, who: &str) -> Request<T> {
        let groups = if who == "ops" { vec!["ops"] } else { Vec::new() };
        let token = self.key.token(&json!({ "sub": who, "groups": groups }));
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    }

    fn replace_rules(&self, rules: &str) {
        replace(self.dir.path(), &format!("{OPS}{rules}"));
    }

    async fn create_topic(&self, name: &str) {
        let topic = Some(Topic { name: name.into(), ..Topic::default() });
        let request = self.with(CreateTopicRequest { topic, validate_only: false }, "ops");
        self.server.topics().create_topic(request).await.unwrap();
    }

    fn commands(&self) -> CommandServiceClient<tonic::transport::Channel> {
        CommandServiceClient::new(self.server.channel())
    }

    async fn send(&self, kind: &str, id: &str) {
        let handle = HandleCommandsRequest { types: vec![kind.into()], ..HandleCommandsRequest::default() };
        // A type is known once somebody handles it.
        self.commands().handle_commands(self.with(handle, "ops")).await.unwrap();
        let command = Command { id: id.into(), r#type: kind.into(), ..Command::default() };
        let request = SendCommandRequest { command: Some(command), wait: None };
        self.commands().send_command(self.with(request, "ops")).await.unwrap();
    }
}

fn replace(dir: &Path, rules: &str) {
    std::fs::write(dir.join("next"), rules).unwrap();
    std::fs::rename(dir.join("next"), dir.join("rules.toml")).unwrap();
}

fn allow(verbs: &str, names: &str) -> String {
    format!("[[rules]]\nprincipals = ['billing']\nallow = {verbs}\nnames = {names}\n")
}

/// How a stream ends.
async fn end<T>(mut stream: Streaming<T>) -> Result<(), Status> {
    while within(stream.message()).await?.is_some() {}
    Ok(())
}

fn ephemeral(topic: &str) -> SubscribeRequest {
    let target = EphemeralSubscription { topic: topic.into(), ..EphemeralSubscription::default() };
    SubscribeRequest { target: Some(Target::Ephemeral(target)), ..SubscribeRequest::default() }
}

#[tokio::test]
async fn a_refusal_says_what_is_missing_and_not_what_there_is() {
    let secured = Secured::start(&allow("['read']", "['orders.>']")).await;
    secured.create_topic("secret").await;
    let mut statuses = Vec::new();
    for topic in ["secret", "nothing"] {
        let request = secured.with(GetTopicRequest { topic: topic.into() }, "billing");
        let refused = secured.server.topics().get_topic(request).await;
        let status = assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
        assert!(status.message().contains("\"billing\" may not read"), "{status:?}");
        statuses.push(status.message().replace(topic, "X"));
    }
    assert_eq!(statuses[0], statuses[1], "what exists looks like what does not");
}

#[tokio::test]
async fn a_list_is_for_those_who_may_see_all_of_it() {
    let secured = Secured::start(&allow("['read']", "['orders.>']")).await;
    let list = async |filter: &str| {
        let request = ListTopicsRequest { filter: filter.into(), ..ListTopicsRequest::default() };
        secured.server.topics().list_topics(secured.with(request, "billing")).await
    };
    list("orders.>").await.unwrap();
    list("orders.eu.*").await.unwrap();
    for wider in ["", ">", "*.eu"] {
        assert_refused(list(wider).await, Code::PermissionDenied, "PERMISSION_DENIED");
    }
}

#[tokio::test]
async fn streams_end_when_a_right_is_taken_away() {
    let all = allow("['consume', 'publish', 'read', 'handle']", "['orders', 'orders.>']");
    let secured = Secured::start(&all).await;
    secured.create_topic("orders").await;
    secured.send("orders.ship", "one").await;
    let server = &secured.server;
    let subscribed =
        server.subscriber().subscribe(secured.with(ephemeral("orders"), "billing")).await.unwrap();
    let open = ConsumeRequest { request_id: 1, action: Some(Action::Subscribe(ephemeral("orders.>"))) };
    let open = stream::iter([open]).chain(stream::pending());
    let consumed = server.subscriber().consume(secured.with(open, "billing")).await.unwrap();
    let request = PublishStreamRequest { request_id: 1, publish: Some(publish("orders", &["x"])) };
    let requests = stream::iter([request]).chain(stream::pending());
    let published = server.publisher().publish_stream(secured.with(requests, "billing")).await.unwrap();
    let watch = WatchTopicsRequest { filter: "orders.*".into() };
    let watched = server.topics().watch_topics(secured.with(watch, "billing")).await.unwrap();
    let kinds = vec!["orders.ship".into()];
    let handle = HandleCommandsRequest { types: kinds.clone(), ..HandleCommandsRequest::default() };
    let handled = secured.commands().handle_commands(secured.with(handle, "billing")).await.unwrap();
    let handle = HandleQueriesRequest { types: kinds, ..HandleQueriesRequest::default() };
    let answered = server.queries().handle_queries(secured.with(handle, "billing")).await.unwrap();
    let follow = WatchCommandRequest { id: "one".into() };
    let followed = secured.commands().watch_command(secured.with(follow, "billing")).await.unwrap();
    let mut kept =
        server.topics().watch_topics(secured.with(WatchTopicsRequest::default(), "ops")).await.unwrap();

    // A rule that denies a part of what a stream is about, others that are gone.
    secured.replace_rules(&allow("['read']", "['invoices']"));
    for end in [
        end(subscribed.into_inner()).await,
        end(consumed.into_inner()).await,
        end(published.into_inner()).await,
        end(watched.into_inner()).await,
        end(handled.into_inner()).await,
        end(answered.into_inner()).await,
        end(followed.into_inner()).await,
    ] {
        let status = assert_refused(end, Code::PermissionDenied, "PERMISSION_DENIED");
        assert!(status.message().contains("\"billing\" may not"), "{status:?}");
    }
    within(kept.get_mut().message()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_of_publishes_answers_for_each_and_follows_the_rules() {
    let secured = Secured::start(&allow("['publish']", "['orders']")).await;
    secured.create_topic("orders").await;
    secured.create_topic("secret").await;
    let (sender, receiver) = mpsc::channel(1);
    let requests = secured.with(ReceiverStream::new(receiver), "billing");
    let mut publisher = secured.server.publisher();
    let answers = publisher.publish_stream(requests);
    let send = async |topic: &str| {
        let publish = Some(publish(topic, &["x"]));
        sender.send(PublishStreamRequest { request_id: 1, publish }).await.unwrap();
    };
    send("orders").await;
    let mut answers = answers.await.unwrap().into_inner();
    let mut next = async || within(answers.message()).await.unwrap().unwrap().result.unwrap();
    assert!(matches!(next().await, Published::Receipt(_)));
    send("secret").await;
    let Published::Error(error) = next().await else { panic!("refused") };
    assert_eq!((error.code, &*error.reason), (Code::PermissionDenied as i32, "PERMISSION_DENIED"));
    assert_eq!(error.metadata["name"], "secret");
    // The stream lives on, and new rules count for what comes next.
    secured.replace_rules(&allow("['publish']", "['secret']"));
    let follow = async {
        loop {
            send("secret").await;
            if matches!(next().await, Published::Receipt(_)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(follow).await;
}

#[tokio::test]
async fn a_command_of_a_forbidden_type_looks_missing() {
    let secured = Secured::start(&allow("['read', 'send']", "['open.>']")).await;
    secured.send("open.kind", "open").await;
    secured.send("secret.kind", "secret").await;
    let get = async |id: &str, who: &str| {
        secured.commands().get_command(secured.with(GetCommandRequest { id: id.into() }, who)).await
    };
    get("open", "billing").await.unwrap();
    get("secret", "ops").await.unwrap();
    let missing = get("none", "billing").await.unwrap_err();
    let missing = missing.message().replace("none", "secret");
    let id = || "secret".to_owned();
    let mut commands = secured.commands();
    let wait = WaitCommandRequest { id: id(), wait: None };
    let with = |status: Result<(), Status>| {
        let status = status.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, &*missing));
    };
    with(get("secret", "billing").await.map(drop));
    with(commands.wait_command(secured.with(wait, "billing")).await.map(drop));
    with(commands.watch_command(secured.with(WatchCommandRequest { id: id() }, "billing")).await.map(drop));
    with(commands.cancel_command(secured.with(CancelCommandRequest { id: id() }, "billing")).await.map(drop));
    commands
        .cancel_command(secured.with(CancelCommandRequest { id: "open".into() }, "billing"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_bad_file_keeps_the_rules_before() {
    let secured = Secured::start(&allow("['read']", "['orders']")).await;
    secured.create_topic("orders").await;
    secured.create_topic("invoices").await;
    let get = async |topic: &str| {
        let request = secured.with(GetTopicRequest { topic: topic.into() }, "billing");
        secured.server.topics().get_topic(request).await
    };
    secured.replace_rules(&allow("['raed']", "['invoices']"));
    get("orders").await.unwrap();
    secured.replace_rules(&allow("['read']", "['invoices']"));
    eventually(async || get("invoices").await.is_ok()).await;
    assert_refused(get("orders").await, Code::PermissionDenied, "PERMISSION_DENIED");
    std::fs::remove_file(secured.dir.path().join("rules.toml")).unwrap();
    get("invoices").await.unwrap();
}

#[tokio::test]
async fn a_dry_run_says_which_rule_decides() {
    let secured = Secured::start(&allow("['read']", "['orders.>']")).await;
    let explain = async |who: &str, principal: &str, verb: Verb, name: &str| {
        let request = ExplainAuthorizationRequest {
            principal: principal.into(),
            groups: Vec::new(),
            verb: verb.into(),
            name: name.into(),
        };
        secured
            .server
            .admin()
            .explain_authorization(secured.with(request, who))
            .await
            .map(tonic::Response::into_inner)
    };
    let own = explain("billing", "", Verb::Read, "orders.eu").await.unwrap();
    let rule = own.rule.unwrap();
    assert!(own.allowed && own.explanation.starts_with("allowed by rule 2 on line 5"), "{}", own.explanation);
    assert_eq!((rule.number, rule.line, &*rule.holder, &*rule.pattern), (2, 5, "billing", "orders.>"));
    let own = explain("billing", "", Verb::Publish, "orders.eu").await.unwrap();
    assert!(!own.allowed && own.rule.is_none());
    let own = explain("ops", "", Verb::Publish, "orders.eu").await.unwrap();
    assert!(own.allowed && own.rule.unwrap().group);
    let other = explain("ops", "billing", Verb::Read, "orders.*").await.unwrap();
    assert!(other.allowed);
    let refused = explain("billing", "ops", Verb::Read, "orders.eu").await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let refused = explain("billing", "", Verb::Unspecified, "a..b").await.unwrap_err();
    assert_eq!(crate::common::bad_fields(&refused), ["verb", "name"]);
}

#[tokio::test]
async fn the_command_line_explains_and_checks() {
    let secured = Secured::start(&allow("['read']", "['orders.>']")).await;
    let address = secured.server.address.to_string();
    let token = secured.key.token(&json!({ "sub": "ops", "groups": ["ops"] }));
    let explain = ["auth", "explain", "--verb", "read", "--name"];
    let online = ["--server", &address, "--token", &token];
    let rules = secured.dir.path().join("rules.toml");
    let offline = ["--rules", rules.to_str().unwrap()];
    for source in [&online[..], &offline] {
        for (name, exit, said) in [
            ("orders.eu", 0, "allowed by rule 2 on line 5: principal \"billing\""),
            (">", 1, "denied: no rule"),
        ] {
            let arguments = [&explain[..], &[name, "--principal", "billing"], source].concat();
            let (code, stdout, stderr) = run(columba(&arguments)).await;
            assert!(code == Some(exit) && stdout.contains(said), "{stdout}{stderr}");
        }
    }
    let (code, stdout, stderr) = run(columba(&[&explain[..], &["x", "-o", "json"], &online].concat())).await;
    assert!(code == Some(0) && stdout.contains(r#""group":true"#), "{stdout}{stderr}");
    let (code, stdout, _) = run(columba(&["auth", "check", rules.to_str().unwrap()])).await;
    assert!(code == Some(0) && stdout.contains("2 rules"), "{stdout}");
    let bad = put(secured.dir.path(), "bad.toml", "[[rules]]\nallow = ['raed']\nnames = ['a..b']\n");
    let (code, _, stderr) = run(columba(&["auth", "check", &bad])).await;
    assert!(code == Some(1) && stderr.contains("line 1: ") && stderr.contains("line 3: "), "{stderr}");
}
