//! Every kind of stream ends when its caller would not be let in any more.

use std::time::Duration;

use columba::identity::jwt::Location;
use columba::proto::v1::consume_request::Action;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::{ConsumeRequest, PublishStreamRequest, SubscribeRequest, WatchTopicsRequest};
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};

use crate::common::{TestServer, assert_refused, publish, within};
use crate::issuer::{EcKey, key_file, now, settings};
use crate::{identifying, tokens};

/// A server with a topic and a subscription, and a token for it that ends after some seconds.
async fn server(seconds: u64) -> (tempfile::TempDir, TestServer, String) {
    let key = EcKey::new("key");
    let (dir, path) = key_file(&[key.public()]);
    let server = identifying(settings(Location::File(path), Duration::ZERO), None).await;
    let token = key.token(&json!({}));
    let topic = columba::proto::v1::Topic { name: "orders".into(), ..Default::default() };
    let create = columba::proto::v1::CreateTopicRequest { topic: Some(topic), validate_only: false };
    server.topics().create_topic(with(create, &token)).await.unwrap();
    let subscription = columba::proto::v1::Subscription {
        name: "billing".into(),
        topic: "orders".into(),
        ..Default::default()
    };
    let create = columba::proto::v1::CreateSubscriptionRequest {
        subscription: Some(subscription),
        validate_only: false,
    };
    server.subscriptions().create_subscription(with(create, &token)).await.unwrap();
    (dir, server, key.token(&json!({ "exp": now() + seconds })))
}

fn with<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let header: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    request
}

fn billing() -> SubscribeRequest {
    SubscribeRequest { target: Some(Target::Subscription("billing".into())), ..Default::default() }
}

/// How a stream ends.
async fn end<T>(mut stream: Streaming<T>) -> Result<(), Status> {
    while within(stream.message()).await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn streams_end_when_their_token_expires() {
    let (_dir, server, token) = server(2).await;
    let subscribed = server.subscriber().subscribe(with(billing(), &token)).await.unwrap();
    let open = ConsumeRequest { request_id: 1, action: Some(Action::Subscribe(billing())) };
    let open = stream::iter([open]).chain(stream::pending());
    let consumed = server.subscriber().consume(with(open, &token)).await.unwrap();
    let request = PublishStreamRequest { request_id: 1, publish: Some(publish("orders", &["x"])) };
    let requests = stream::iter([request]).chain(stream::pending());
    let published = server.publisher().publish_stream(with(requests, &token)).await.unwrap();
    let watched = server.topics().watch_topics(with(WatchTopicsRequest::default(), &token)).await.unwrap();
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(server.channel());
    let reflected = reflection.server_reflection_info(with(stream::pending(), &token)).await.unwrap();

    assert_refused(end(subscribed.into_inner()).await, Code::Unauthenticated, "TOKEN_EXPIRED");
    assert_refused(end(consumed.into_inner()).await, Code::Unauthenticated, "TOKEN_EXPIRED");
    assert_refused(end(published.into_inner()).await, Code::Unauthenticated, "TOKEN_EXPIRED");
    assert_refused(end(watched.into_inner()).await, Code::Unauthenticated, "TOKEN_EXPIRED");
    assert_refused(end(reflected.into_inner()).await, Code::Unauthenticated, "TOKEN_EXPIRED");
}

#[tokio::test]
async fn what_is_sent_after_a_revocation_is_not_stored() {
    let (dir, server) = tokens::server(&[tokens::OLD, tokens::NEW]).await;
    let (old, new) = (tokens::OLD, tokens::NEW);
    let topic = columba::proto::v1::Topic { name: "orders".into(), ..Default::default() };
    let create = columba::proto::v1::CreateTopicRequest { topic: Some(topic), validate_only: false };
    server.topics().create_topic(with(create, new)).await.unwrap();

    let (sender, receiver) = mpsc::channel(1);
    let send = async |request_id| {
        let publish = Some(publish("orders", &["x"]));
        sender.send(PublishStreamRequest { request_id, publish }).await
    };
    send(1).await.unwrap();
    let requests = with(ReceiverStream::new(receiver), old);
    let mut answers = server.publisher().publish_stream(requests).await.unwrap().into_inner();
    within(answers.message()).await.unwrap().unwrap();
    tokens::write(&dir.path().join("tokens.toml"), &[new]);
    assert_refused(end(answers).await, Code::Unauthenticated, "TOKEN_REVOKED");
    // Nobody reads the requests any more.
    let _ = send(2).await;
    within(sender.closed()).await;
    let request = with(publish("orders", &["y"]), new);
    let receipt = server.publisher().publish(request).await.unwrap().into_inner();
    assert_eq!(receipt.last_offset, 2);
}
