//! `PublisherService` and `ReadMessages`.

use std::collections::HashMap;

use columba::proto::v1::publish_stream_response::Result as Outcome;
use columba::proto::v1::start_position::Position;
use columba::proto::v1::{
    Durability, Latest, Message, PublishRequest, PublishStreamRequest, ReadMessagesRequest, StartPosition,
};
use futures::{StreamExt, stream};
use tonic::Code;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, bad_fields, message, publish, within};

fn read(topic: &str, position: Option<Position>) -> ReadMessagesRequest {
    let start = position.map(|position| StartPosition { position: Some(position) });
    ReadMessagesRequest { topic: topic.into(), start, ..Default::default() }
}

#[tokio::test]
async fn what_is_published_can_be_read_as_it_was() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let full = Message {
        data: vec![0, 159, 255].into(),
        key: "ключ".into(),
        attributes: HashMap::from([("ce-id".into(), "1".into()), ("empty".into(), String::new())]),
        r#type: "order.created".into(),
        content_type: "application/json".into(),
        correlation_id: "c".into(),
        causation_id: "b".into(),
        id: "m-1".into(),
        deliver_time: Some(prost_types::Timestamp { seconds: 1, nanos: 5 }),
        expire_time: Some(prost_types::Timestamp { seconds: 2, nanos: 0 }),
    };
    let messages = vec![full, Message::default(), message("three")];
    let request = PublishRequest {
        topic: "orders".into(),
        messages: messages.clone(),
        durability: 0,
        ..PublishRequest::default()
    };
    let receipt = server.publisher().publish(request).await.unwrap().into_inner();
    assert_eq!((receipt.first_offset, receipt.last_offset), (1, 3));
    assert_ne!(receipt.durability(), Durability::Unspecified);

    let stored = server.subscriber().read_messages(read("orders", None)).await.unwrap().into_inner().messages;
    assert_eq!(stored.iter().map(|stored| stored.offset).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(stored.iter().all(|stored| stored.topic == "orders" && stored.publish_time.is_some()));
    assert_eq!(stored.into_iter().map(|stored| stored.message.unwrap()).collect::<Vec<_>>(), messages);
}

#[tokio::test]
async fn reading_begins_where_it_is_told() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.publish("orders", &["a", "b", "c"]).await;
    let mut subscriber = server.subscriber();
    let past = prost_types::Timestamp { seconds: -1, nanos: 0 };
    let future = prost_types::Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 };
    for (position, expected) in [
        (Position::Offset(2), vec![2, 3]),
        (Position::Offset(1_000), vec![]),
        (Position::Latest(Latest {}), vec![]),
        (Position::Time(past), vec![1, 2, 3]),
        (Position::Time(future), vec![]),
    ] {
        let answer = subscriber.read_messages(read("orders", Some(position))).await.unwrap();
        let offsets: Vec<_> = answer.into_inner().messages.iter().map(|stored| stored.offset).collect();
        assert_eq!(offsets, expected, "{position:?}");
    }
    let limited = ReadMessagesRequest { max_messages: 1, ..read("orders", None) };
    assert_eq!(subscriber.read_messages(limited).await.unwrap().into_inner().messages.len(), 1);
}

#[tokio::test]
async fn bad_reads_are_refused() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let mut subscriber = server.subscriber();
    let time = |seconds, nanos| Some(Position::Time(prost_types::Timestamp { seconds, nanos }));
    let nowhere =
        ReadMessagesRequest { start: Some(StartPosition { position: None }), ..read("orders", None) };
    let greedy = ReadMessagesRequest { max_messages: 10_001, max_bytes: 1 << 40, ..read("orders", None) };
    for (request, fields) in [
        (read("orders", Some(Position::Offset(0))), vec!["start.offset"]),
        (read("orders", time(0, -1)), vec!["start.time"]),
        (read("orders", time(0, 1_000_000_000)), vec!["start.time"]),
        (read("orders", time(i64::MAX, 0)), vec!["start.time"]),
        (nowhere, vec!["start"]),
        (greedy, vec!["max_messages", "max_bytes"]),
    ] {
        let status = subscriber.read_messages(request).await.unwrap_err();
        assert_eq!(
            (status.code(), bad_fields(&status)),
            (Code::InvalidArgument, fields.iter().map(|&f| f.into()).collect())
        );
    }
    assert_refused(subscriber.read_messages(read("nothing", None)).await, Code::NotFound, "TOPIC_NOT_FOUND");
}

#[tokio::test]
async fn a_bad_publish_stores_nothing_and_says_which_messages_are_bad() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let mut publisher = server.publisher();

    let bad_key = Message { key: "k".repeat(1_025), ..Message::default() };
    let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
    let bad_attributes = Message { attributes: many, ..Message::default() };
    let messages = vec![message("good"), bad_key, message("good"), bad_attributes];
    let request = PublishRequest {
        topic: "../".into(),
        messages: messages.clone(),
        durability: 9,
        ..PublishRequest::default()
    };
    let status = assert_refused(publisher.publish(request).await, Code::InvalidArgument, "INVALID_NAME");
    assert_eq!(bad_fields(&status), ["topic", "durability", "messages[1].key", "messages[3].attributes"]);

    let request =
        PublishRequest { topic: "orders".into(), messages, durability: 0, ..PublishRequest::default() };
    assert_refused(publisher.publish(request).await, Code::InvalidArgument, "TOO_LONG");
    let too_large = Message { data: vec![0; 1 << 20].into(), ..Message::default() };
    let request = PublishRequest {
        topic: "orders".into(),
        messages: vec![message("good"), too_large],
        durability: 0,
        ..PublishRequest::default()
    };
    let status = assert_refused(publisher.publish(request).await, Code::InvalidArgument, "MESSAGE_TOO_LARGE");
    assert_eq!(bad_fields(&status), ["messages[1]"]);

    let empty = publisher.publish(publish("orders", &[])).await;
    assert_refused(empty, Code::InvalidArgument, "REQUIRED");
    let many = publisher.publish(publish("orders", &vec![""; 10_001])).await;
    assert_refused(many, Code::InvalidArgument, "TOO_MANY_MESSAGES");
    let unknown = publisher.publish(publish("nothing", &["x"])).await;
    let status = assert_refused(unknown, Code::NotFound, "TOPIC_NOT_FOUND");
    assert_eq!(status.get_details_error_info().unwrap().metadata["topic"], "nothing");

    let stored = server.subscriber().read_messages(read("orders", None)).await.unwrap().into_inner();
    assert_eq!(stored.messages, []);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_compressed_or_not() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let huge = || PublishRequest {
        topic: "orders".into(),
        messages: vec![Message { data: vec![0; 18 << 20].into(), ..Message::default() }],
        ..PublishRequest::default()
    };
    let plain = server.publisher().publish(huge()).await;
    assert_refused(plain, Code::ResourceExhausted, "REQUEST_TOO_LARGE");
    // 18 MiB of zeros are a few KiB once compressed.
    for encoding in [Gzip, Zstd] {
        let bomb = server.publisher().send_compressed(encoding).publish(huge()).await;
        assert_refused(bomb, Code::ResourceExhausted, "REQUEST_TOO_LARGE");
    }
    let full = |bytes: usize| Message { data: vec![0; bytes].into(), ..Message::default() };
    let messages = vec![full(9 << 20), full(7 << 20)];
    let request =
        PublishRequest { topic: "orders".into(), messages, durability: 0, ..PublishRequest::default() };
    let all = server.publisher().publish(request).await;
    assert_refused(all, Code::InvalidArgument, "TOO_MANY_BYTES");
}

#[tokio::test]
async fn compressed_requests_are_taken() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    for (offset, encoding) in [(1, Gzip), (2, Zstd)] {
        let mut publisher = server.publisher().send_compressed(encoding);
        let answer = publisher.publish(publish("orders", &["x"])).await.unwrap();
        assert_eq!(answer.into_inner().first_offset, offset);
    }
}

#[tokio::test]
async fn a_publish_stream_answers_in_order_and_outlives_errors() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    // More than may be under way at once.
    let requests = (1..=300).map(|request_id| {
        let publish = match request_id {
            7 => None,
            50 => Some(publish("nothing", &["x"])),
            60 => Some(publish("orders", &[])),
            _ => Some(publish("orders", &["x"])),
        };
        PublishStreamRequest { request_id, publish }
    });
    let answers = server.publisher().publish_stream(stream::iter(requests)).await.unwrap().into_inner();
    let answers: Vec<_> = within(answers.collect()).await;
    assert_eq!(answers.len(), 300);
    let mut next_offset = 1;
    for (answer, id) in answers.into_iter().zip(1..) {
        let answer = answer.unwrap();
        assert_eq!(answer.request_id, id);
        match (id, answer.result.unwrap()) {
            (7 | 60, Outcome::Error(error)) => {
                assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument as i32, "REQUIRED"));
            }
            (50, Outcome::Error(error)) => {
                assert_eq!((error.code, error.reason.as_str()), (Code::NotFound as i32, "TOPIC_NOT_FOUND"));
                assert!(error.message.contains("nothing"));
            }
            (_, Outcome::Receipt(receipt)) => {
                assert_eq!((receipt.first_offset, receipt.last_offset), (next_offset, next_offset));
                next_offset += 1;
            }
            (_, other) => panic!("request {id}: {other:?}"),
        }
    }
    assert_eq!(next_offset, 298);
}

#[tokio::test]
async fn a_topic_that_has_moved_on_takes_nothing() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let expecting =
        |offset| PublishRequest { expected_last_offset: Some(offset), ..publish("orders", &["a"]) };
    server.publisher().publish(expecting(0)).await.unwrap();
    let moved = server.publisher().publish(expecting(0)).await;
    let status = assert_refused(moved, Code::Aborted, "LAST_OFFSET_MISMATCH");
    assert_eq!(status.get_details_error_info().unwrap().metadata["last_offset"], "1");
    server.publisher().publish(expecting(1)).await.unwrap();
}
