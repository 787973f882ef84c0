//! Calls that no well-behaved client makes, sent frame by frame.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::{Code, Status};

use columba::server::Options;

use crate::common::{TestServer, assert_refused, bad_fields, publish, within};

/// Sends one call and returns the status that it ends with.
async fn call(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: Bytes) -> Result<(), Status> {
    send(address, path, headers, body, usize::MAX).await
}

/// The same, the body in pieces of this length.
async fn call_in_pieces(address: SocketAddr, path: &str, body: Bytes, length: usize) -> Result<(), Status> {
    send(address, path, &[], body, length).await
}

async fn send(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    mut body: Bytes,
    length: usize,
) -> Result<(), Status> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for &(name, value) in headers {
        request = request.header(name, value);
    }
    let mut client = client.ready().await.unwrap();
    let (response, mut requests) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let sending = async {
        while body.len() > length {
            requests.reserve_capacity(length);
            let granted = std::future::poll_fn(|cx| requests.poll_capacity(cx)).await.unwrap().unwrap();
            requests.send_data(body.split_to(granted.min(length)), false).unwrap();
        }
        requests.send_data(body, true).unwrap();
    };
    let ((), response) = within(async { tokio::join!(sending, response) }).await;
    let (parts, mut body) = response.unwrap().into_parts();
    while let Some(data) = within(body.data()).await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    connection.abort();
    ended(&parts.headers).or_else(|| ended(&trailers)).expect("a grpc-status")
}

fn ended(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let status = Status::from_header_map(headers)?;
    Some(if status.code() == Code::Ok { Ok(()) } else { Err(status) })
}

/// A message as gRPC frames it.
fn frame(compressed: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(compressed);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

const PUBLISH: &str = "/columba.v1.PublisherService/Publish";
const PULL: &str = "/columba.v1.SubscriberService/Pull";

#[tokio::test]
async fn garbage_is_an_invalid_argument() {
    let server = TestServer::start().await;
    let paths = [
        PUBLISH,
        "/columba.v1.PublisherService/PublishStream",
        "/columba.v1.SubscriberService/Subscribe",
        "/columba.v1.SubscriberService/Consume",
    ];
    for path in paths {
        let answer = call(server.address, path, &[], frame(0, &[0xff; 20])).await;
        assert_refused(answer, Code::InvalidArgument, "MALFORMED_REQUEST");
    }
    let gzip = [("grpc-encoding", "gzip")];
    let answer = call(server.address, PUBLISH, &gzip, frame(1, b"not gzip")).await;
    assert_refused(answer, Code::InvalidArgument, "MALFORMED_REQUEST");
}

#[tokio::test]
async fn a_malformed_message_is_named() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    // Field 2, `key`: not UTF-8. Field 1, `data`: longer than the message.
    let messages = [&[0x12, 1, 0xff][..], &[0x0a, 200, 1, 0]];
    let mut request = columba::proto::v1::GetTopicRequest { topic: "orders".into() }.encode_to_vec();
    for message in messages {
        prost::encoding::bytes::encode(2, &message.to_vec(), &mut request);
    }
    let answer = call(server.address, PUBLISH, &[], frame(0, &request)).await;
    let status = assert_refused(answer, Code::InvalidArgument, "MALFORMED_MESSAGE");
    assert_eq!(bad_fields(&status), ["messages[0].key", "messages[1].data"]);
}

#[tokio::test]
async fn a_declared_length_beyond_the_limit_is_refused_before_the_data_comes() {
    let server = TestServer::start().await;
    let declared = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]);
    let answer = call(server.address, PUBLISH, &[], declared).await;
    assert_refused(answer, Code::ResourceExhausted, "REQUEST_TOO_LARGE");
}

#[tokio::test]
async fn a_passed_deadline_is_deadline_exceeded() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    let wait = prost_types::Duration { seconds: 60, nanos: 0 };
    let pull = columba::proto::v1::PullRequest {
        subscription: "billing".into(),
        wait: Some(wait),
        ..Default::default()
    };
    let headers = [("grpc-timeout", "20m")];
    let answer = call(server.address, PULL, &headers, frame(0, &pull.encode_to_vec())).await;
    assert_refused(answer, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn what_does_not_exist_is_unimplemented() {
    let server = TestServer::start().await;
    for path in ["/columba.v1.PublisherService/Nothing", "/nothing.Nothing/Nothing"] {
        let answer = call(server.address, path, &[], frame(0, &[])).await;
        assert_refused(answer, Code::Unimplemented, "UNIMPLEMENTED");
    }
    let headers = [("grpc-encoding", "snappy")];
    let answer = call(server.address, PUBLISH, &headers, frame(1, &[])).await;
    assert_refused(answer, Code::Unimplemented, "UNIMPLEMENTED");
}

#[tokio::test]
async fn unfinished_requests_hold_a_limited_number_of_bytes() {
    let options = Options { unfinished_request_bytes: 1 << 20, ..Options::default() };
    let server = TestServer::start_with(options).await;
    server.create_topic("orders").await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    // Two of three that never end fit.
    let declared = [&[0][..], &(900_000_u32).to_be_bytes(), &vec![0; 400_000]].concat();
    let (mut senders, mut responses) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let request = Request::post(format!("http://{}{PUBLISH}", server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut client = client.clone().ready().await.unwrap();
        let (response, mut requests) = client.send_request(request.body(()).unwrap(), false).unwrap();
        requests.reserve_capacity(declared.len());
        let mut data = Bytes::from(declared.clone());
        while !data.is_empty() {
            let granted =
                within(std::future::poll_fn(|cx| requests.poll_capacity(cx))).await.unwrap().unwrap();
            requests.send_data(data.split_to(granted.min(data.len())), false).unwrap();
        }
        senders.push(requests);
        responses.push(response);
    }
    let (refused, _, others) = within(futures::future::select_all(responses)).await;
    let answer = ended(refused.unwrap().headers()).expect("a status at once");
    assert_refused(answer, Code::ResourceExhausted, "TOO_MANY_UNFINISHED_REQUESTS");
    // What they hold is free when they are gone.
    drop((senders, others));
    connection.abort();
    let message = "x".repeat(900_000);
    loop {
        let request = publish("orders", &[&message]);
        match within(server.publisher().publish(request)).await {
            Ok(_) => break,
            refused => _ = assert_refused(refused, Code::ResourceExhausted, "TOO_MANY_UNFINISHED_REQUESTS"),
        }
    }
}

#[tokio::test]
async fn a_busy_stream_holds_only_what_is_unfinished_however_it_is_cut() {
    let options = Options { unfinished_request_bytes: 64 << 10, ..Options::default() };
    let server = TestServer::start_with(options).await;
    server.create_topic("orders").await;
    let request = |request_id| columba::proto::v1::PublishStreamRequest {
        request_id,
        publish: Some(publish("orders", &[&"x".repeat(1_000)])),
    };
    let requests = (1..=500).map(|id| frame(0, &request(id).encode_to_vec()));
    let mut body = BytesMut::new();
    requests.for_each(|request| body.put_slice(&request));
    // Pieces of a length that never ends where a message does.
    let body = body.freeze();
    let answer =
        call_in_pieces(server.address, "/columba.v1.PublisherService/PublishStream", body, 4_099).await;
    answer.unwrap();
    let topic = columba::proto::v1::GetTopicRequest { topic: "orders".into() };
    let topic = server.topics().get_topic(topic).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(topic.last_offset, 500);
}
