//! Health, reflection, probes, and how the server stops.

use std::time::Duration;

use columba::proto::v1::consume_request::Action;
use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::{
    ConsumeRequest, PublishStreamRequest, PullRequest, SubscribeRequest, consume_response,
    publish_stream_response, subscribe_response,
};
use columba::server::Options;
use futures::{StreamExt, stream};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, publish, within};

/// The names of all services of Columba's own protos.
fn services() -> Vec<String> {
    let set = FileDescriptorSet::decode(columba::proto::FILE_DESCRIPTOR_SET).unwrap();
    let own = set.file.iter().filter(|file| file.package().starts_with("columba."));
    let named = own
        .flat_map(|file| file.service.iter().map(|service| format!("{}.{}", file.package(), service.name())));
    let services: Vec<_> = named.collect();
    assert!(services.contains(&"columba.v1.CommandService".to_owned()), "{services:?}");
    services
}

async fn get(server: &TestServer, path: &str) -> String {
    let mut stream = TcpStream::connect(server.admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: columba\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer.lines().next().expect("a status line").to_owned()
}

async fn orders() -> TestServer {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    server
}

fn billing() -> SubscribeRequest {
    SubscribeRequest { target: Some(Target::Subscription("billing".into())), ..Default::default() }
}

#[tokio::test]
async fn every_service_is_healthy_from_the_beginning() {
    let server = TestServer::start().await;
    let mut health = HealthClient::new(server.channel());
    let others = [
        "",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    for service in services().into_iter().chain(others.map(String::from)) {
        let asked = health.check(HealthCheckRequest { service: service.clone() }).await;
        let answer = asked.unwrap_or_else(|status| panic!("{service}: {status}"));
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let unknown = health.check(HealthCheckRequest { service: "nothing".into() }).await;
    assert_refused(unknown, Code::NotFound, "NOT_FOUND");
    assert_eq!(get(&server, "/livez").await, "HTTP/1.1 200 OK");
    assert_eq!(get(&server, "/readyz").await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn both_versions_of_reflection_list_the_services() {
    let server = TestServer::start().await;
    {
        use v1::server_reflection_request::MessageRequest;
        use v1::server_reflection_response::MessageResponse;
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(server.channel());
        let ask = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = client.server_reflection_info(stream::iter([ask])).await.unwrap().into_inner();
        let answer = within(answers.message()).await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
        let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        assert!(services().iter().all(|service| names.contains(service)), "{names:?}");
    }
    {
        use v1alpha::server_reflection_request::MessageRequest;
        use v1alpha::server_reflection_response::MessageResponse;
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel());
        let ask = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol("columba.v1.PublisherService".into())),
        };
        let mut answers = client.server_reflection_info(stream::iter([ask])).await.unwrap().into_inner();
        let answer = within(answers.message()).await.unwrap().unwrap().message_response;
        let Some(MessageResponse::FileDescriptorResponse(file)) = answer else { panic!("{answer:?}") };
        assert!(!file.file_descriptor_proto.is_empty());
    }
}

#[tokio::test]
async fn streams_get_a_goaway_and_the_server_stops() {
    let mut server = orders().await;
    let subscribed = server.subscriber().subscribe(billing()).await.unwrap().into_inner();
    let open = ConsumeRequest { request_id: 1, action: Some(Action::Subscribe(billing())) };
    let open = stream::iter([open]).chain(stream::pending());
    let consumed = server.subscriber().consume(open).await.unwrap().into_inner();
    let request = PublishStreamRequest { request_id: 1, publish: Some(publish("orders", &[])) };
    let requests = stream::iter([request]).chain(stream::pending());
    let mut published = server.publisher().publish_stream(requests).await.unwrap().into_inner();
    let mut health = HealthClient::new(server.channel());
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(server.channel());
    let reflected = reflection.server_reflection_info(stream::pending()).await.unwrap().into_inner();
    let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let mut pulling = server.subscriber();
    let pull = PullRequest { subscription: "billing".into(), wait, ..Default::default() };
    let pulled = tokio::spawn(async move { pulling.pull(pull).await });
    within(published.message()).await.unwrap().expect("an answer while the server runs");

    server.stop();

    let mut subscribed: Vec<_> = within(subscribed.collect()).await;
    assert_refused(subscribed.pop().unwrap(), Code::Unavailable, "SHUTTING_DOWN");
    let last = subscribed.pop().unwrap().unwrap().event.unwrap();
    let subscribe_response::Event::Goaway(goaway) = last else { panic!("a goaway, not {last:?}") };
    assert!(!goaway.reason.is_empty() && goaway.reconnect_after.is_some());

    let mut consumed: Vec<_> = within(consumed.collect()).await;
    let status = assert_refused(consumed.pop().unwrap(), Code::Unavailable, "SHUTTING_DOWN");
    assert!(status.get_details_retry_info().is_some());
    let last = consumed.pop().unwrap().unwrap().event.unwrap();
    assert!(matches!(last, consume_response::Event::Goaway(_)), "{last:?}");

    assert_refused(within(published.message()).await, Code::Unavailable, "SHUTTING_DOWN");
    let mut watched: Vec<_> = within(watched.collect()).await;
    assert_refused(watched.pop().unwrap(), Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(watched.pop().unwrap().unwrap().status(), ServingStatus::NotServing);
    let _: Vec<_> = within(reflected.collect()).await;
    // Or it came too late to be taken.
    assert_eq!(within(pulled).await.unwrap().unwrap_err().code(), Code::Unavailable);

    server.stopped().await.unwrap();
}

#[tokio::test]
async fn what_was_submitted_is_answered_before_the_stream_ends() {
    let mut server = orders().await;
    let requests = (1..=10)
        .map(|request_id| PublishStreamRequest { request_id, publish: Some(publish("orders", &["x"])) });
    let requests = stream::iter(requests).chain(stream::pending());
    let mut answers = server.publisher().publish_stream(requests).await.unwrap().into_inner();
    within(answers.message()).await.unwrap().expect("the first answer");
    server.stop();
    let rest: Vec<_> = within(answers.collect()).await;
    let (last, receipts) = rest.split_last().unwrap();
    for (answer, id) in receipts.iter().zip(2..) {
        let answer = answer.as_ref().unwrap();
        assert_eq!(answer.request_id, id);
        assert!(matches!(answer.result, Some(publish_stream_response::Result::Receipt(_))), "{answer:?}");
    }
    assert_eq!(last.as_ref().unwrap_err().code(), Code::Unavailable);
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn silent_connections_do_not_hold_the_server_up() {
    let mut server = TestServer::start().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // Half a greeting is no greeting.
    silent[0].write_all(b"PRI * HTTP").await.unwrap();
    server.create_topic("orders").await;
    server.stop();
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_never_speaks_is_closed_and_its_slot_freed() {
    let options =
        Options { greeting_timeout: Duration::from_millis(50), max_connections: 1, ..Options::default() };
    let server = TestServer::start_with(options).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    // Waits for the only slot.
    server.create_topic("orders").await;
    assert_eq!(within(silent.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_client_that_does_not_end_its_call_is_cut_off_at_the_deadline() {
    let options = Options { shutdown_deadline: Duration::from_millis(200), ..Options::default() };
    let mut server = TestServer::start_with(options).await;
    // An HTTP/2 connection that never acknowledges anything.
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut settings = [0; 9];
    within(mute.read_exact(&mut settings)).await.unwrap();
    server.stop();
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn draining_is_not_ready() {
    let options = Options { shutdown_deadline: Duration::from_secs(10), ..Options::default() };
    let mut server = TestServer::start_with(options).await;
    // Keeps the server draining.
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    within(mute.read_exact(&mut [0; 9])).await.unwrap();
    let mut health = HealthClient::new(server.channel());
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    server.stop();
    let _: Vec<_> = within(watched.collect()).await;
    assert_eq!(get(&server, "/readyz").await, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(get(&server, "/livez").await, "HTTP/1.1 200 OK");
    drop(mute);
    server.stopped().await.unwrap();
}
