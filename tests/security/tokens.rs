//! Static tokens, and what is open to all.

use std::path::Path;
use std::time::Duration;

use columba::identity::{Settings, hash};
use columba::proto::v1::WatchTopicsRequest;
use columba::proto::v1::topic_service_client::TopicServiceClient;
use futures::stream;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::common::{TestServer, assert_refused, within};
use crate::{call, call_with, eventually, identifying};

pub const OLD: &str = "an-old-token-of-billing";
pub const NEW: &str = "a-new-token-of-billing";

/// Writes a file that takes these tokens, all of the same holder.
pub fn write(path: &Path, tokens: &[&str]) {
    let entry = |token: &&str| format!("[[tokens]]\nprincipal = 'billing'\nhash = '{}'\n", hash(token));
    let next = path.with_extension("next");
    std::fs::write(&next, tokens.iter().map(entry).collect::<String>()).unwrap();
    std::fs::rename(next, path).unwrap();
}

pub async fn server(tokens: &[&str]) -> (tempfile::TempDir, TestServer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.toml");
    write(&path, tokens);
    let recheck = Duration::from_millis(50);
    let server = identifying(Settings { tokens: Some(path), recheck, ..Settings::default() }, None).await;
    (dir, server)
}

async fn watch(server: &TestServer, token: &str) -> Streaming<columba::proto::v1::WatchTopicsResponse> {
    let mut request = Request::new(WatchTopicsRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    TopicServiceClient::new(server.channel()).watch_topics(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn only_tokens_in_the_file_are_taken() {
    let (_dir, server) = server(&[OLD]).await;
    within(call_with(&server, OLD)).await.unwrap();
    for other in [NEW, &hash(OLD), &OLD[1..], "x"] {
        let status =
            assert_refused(within(call_with(&server, other)).await, Code::Unauthenticated, "UNKNOWN_TOKEN");
        assert!(!status.message().contains(NEW));
    }
    let refused = within(call(server.channel(), None)).await;
    let status = assert_refused(refused, Code::Unauthenticated, "MISSING_CREDENTIALS");
    assert!(status.message().contains("authorization: Bearer"), "{status:?}");
}

#[tokio::test]
async fn a_token_is_replaced_while_streams_are_open() {
    let (dir, server) = server(&[OLD]).await;
    let path = dir.path().join("tokens.toml");
    let mut old = watch(&server, OLD).await;
    write(&path, &[OLD, NEW]);
    eventually(async || call_with(&server, NEW).await.is_ok()).await;
    within(call_with(&server, OLD)).await.unwrap();
    let mut new = watch(&server, NEW).await;

    write(&path, &[NEW]);
    let ended = within(async {
        while old.message().await?.is_some() {}
        Ok::<_, Status>(())
    })
    .await;
    let status = assert_refused(ended, Code::Unauthenticated, "TOKEN_REVOKED");
    assert!(status.message().contains("connect again"), "{status:?}");
    let refused = within(call_with(&server, OLD)).await;
    assert_refused(refused, Code::Unauthenticated, "UNKNOWN_TOKEN");
    // The other stream still tells what happens.
    let mut topics = TopicServiceClient::new(server.channel());
    let topic = columba::proto::v1::Topic { name: "orders".into(), ..Default::default() };
    let create = columba::proto::v1::CreateTopicRequest { topic: Some(topic), validate_only: false };
    let mut create = Request::new(create);
    create.metadata_mut().insert("authorization", format!("Bearer {NEW}").parse().unwrap());
    topics.create_topic(create).await.unwrap();
    within(new.message()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_bad_file_keeps_the_tokens_before() {
    let (dir, server) = server(&[OLD]).await;
    let path = dir.path().join("tokens.toml");
    let third = "a-third-token-of-billing";
    write(&path, &[OLD, NEW, third]);
    // Nothing tells that a bad file was read; what follows must work in either case.
    within(call_with(&server, OLD)).await.unwrap();
    write(&path, &[third]);
    eventually(async || call_with(&server, third).await.is_ok()).await;
    assert_refused(within(call_with(&server, NEW)).await, Code::Unauthenticated, "UNKNOWN_TOKEN");
    std::fs::remove_file(&path).unwrap();
    within(call_with(&server, third)).await.unwrap();
}

#[tokio::test]
async fn health_is_open_and_reflection_is_not_unless_the_settings_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.toml");
    write(&path, &[OLD]);
    let tokens = Settings { tokens: Some(path), ..Settings::default() };
    let other = Settings { open_health: false, open_reflection: true, ..tokens.clone() };
    for (settings, health_open, reflection_open) in [(tokens, true, false), (other, false, true)] {
        let server = identifying(settings, None).await;
        let mut health = HealthClient::new(server.channel());
        let answer = within(health.check(HealthCheckRequest::default())).await;
        assert_eq!(answer.is_ok(), health_open, "{answer:?}");
        let mut reflection = ServerReflectionClient::new(server.channel());
        let request = ServerReflectionRequest::default();
        let answer = within(reflection.server_reflection_info(stream::iter([request]))).await;
        assert_eq!(answer.is_ok(), reflection_open);
        if let Err(status) = answer {
            assert_refused::<()>(Err(status), Code::Unauthenticated, "MISSING_CREDENTIALS");
        }
        // What does not exist is not told to strangers.
        let status = within(call(server.channel(), None)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}
