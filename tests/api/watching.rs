//! `WatchEvents` and `WatchTopics`.

use std::time::Duration;

use columba::proto::admin::watch_events_response::Event;
use columba::proto::admin::{WatchEventsRequest, WatchEventsResponse};
use columba::proto::v1::watch_topics_response::Event as TopicEvent;
use columba::proto::v1::{
    DeleteTopicRequest, NackRequest, PullRequest, Topic, UpdateTopicRequest, WatchTopicsRequest,
    WatchTopicsResponse,
};
use columba::server::Options;
use tonic::{Code, Status, Streaming};

use crate::common::{TestServer, assert_refused, bad_fields, within};

async fn watch_events(server: &TestServer) -> Streaming<WatchEventsResponse> {
    server.admin().watch_events(WatchEventsRequest {}).await.unwrap().into_inner()
}

async fn watch_topics(server: &TestServer, filter: &str) -> Streaming<WatchTopicsResponse> {
    let request = WatchTopicsRequest { filter: filter.into() };
    server.topics().watch_topics(request).await.unwrap().into_inner()
}

/// What comes next, as a word and the topic's name.
async fn next(stream: &mut Streaming<WatchTopicsResponse>) -> (&'static str, String) {
    match within(stream.message()).await.unwrap().unwrap().event.unwrap() {
        TopicEvent::Existing(topic) => ("existing", topic.name),
        TopicEvent::SnapshotEnd(_) => ("end", String::new()),
        TopicEvent::Created(topic) => ("created", topic.name),
        TopicEvent::Updated(topic) => ("updated", topic.name),
        TopicEvent::Deleted(deleted) => ("deleted", deleted.topic),
        TopicEvent::Heartbeat(_) => ("heartbeat", String::new()),
    }
}

async fn delete(server: &TestServer, topic: &str) {
    let request = DeleteTopicRequest { topic: topic.into(), etag: String::new() };
    server.topics().delete_topic(request).await.unwrap();
}

/// The error that a stream ends with, whatever came before.
async fn end<T: std::fmt::Debug>(mut stream: Streaming<T>) -> Result<Option<T>, Status> {
    loop {
        match within(stream.message()).await {
            Ok(Some(_)) => {}
            end => return end,
        }
    }
}

#[tokio::test]
async fn a_dropped_message_is_an_event() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_subscription("billing", "orders").await;
    let mut stream = watch_events(&server).await;
    server.publish("orders", &["a"]).await;
    let pull = PullRequest { subscription: "billing".into(), ..Default::default() };
    let deliveries = server.subscriber().pull(pull).await.unwrap().into_inner().deliveries;
    let nack = NackRequest {
        subscription: "billing".into(),
        ack_ids: vec![deliveries[0].ack_id.clone()],
        dead_letter: true,
        reason: "hopeless".into(),
        ..Default::default()
    };
    server.subscriber().nack(nack).await.unwrap();
    let response = within(stream.message()).await.unwrap().unwrap();
    assert!(response.time.is_some());
    let Some(Event::MessageGivenUp(given_up)) = response.event else { panic!("{response:?}") };
    assert_eq!((given_up.subscription.as_str(), given_up.topic.as_str()), ("billing", "orders"));
    assert_eq!((given_up.offset, given_up.attempts, given_up.reason.as_str()), (1, 1, "hopeless"));
    assert_eq!((given_up.dead_letter_topic.as_str(), given_up.dead_letter_offset), ("", 0));
}

#[tokio::test]
async fn silent_streams_show_that_they_are_alive() {
    let options = Options { heartbeat: Duration::from_millis(10), ..Options::default() };
    let server = TestServer::start_with(options).await;
    let response = within(watch_events(&server).await.message()).await.unwrap().unwrap();
    assert!(matches!(response.event, Some(Event::Heartbeat(_))), "{response:?}");
    let mut topics = watch_topics(&server, "").await;
    assert_eq!(next(&mut topics).await.0, "end");
    assert_eq!(next(&mut topics).await.0, "heartbeat");
}

#[tokio::test]
async fn topics_are_watched_from_what_there_is_on() {
    let server = TestServer::start().await;
    for name in ["orders.eu", "other", "orders.us"] {
        server.create_topic(name).await;
    }
    let (mut all, mut some) = (watch_topics(&server, "").await, watch_topics(&server, "orders.*").await);
    let word = |word: &'static str, name: &str| (word, name.to_owned());
    for name in ["orders.eu", "orders.us", "other"] {
        assert_eq!(next(&mut all).await, word("existing", name));
    }
    for name in ["orders.eu", "orders.us"] {
        assert_eq!(next(&mut some).await, word("existing", name));
    }
    for stream in [&mut all, &mut some] {
        assert_eq!(next(stream).await.0, "end");
    }
    server.create_topic("new").await;
    server.create_topic("orders.asia").await;
    // Creating it again, and publishing, change nothing.
    server.create_topic("new").await;
    server.publish("new", &["a"]).await;
    let topic = Topic { name: "orders.asia".into(), max_message_bytes: 7, ..Topic::default() };
    let update = UpdateTopicRequest { topic: Some(topic), ..Default::default() };
    server.topics().update_topic(update).await.unwrap();
    delete(&server, "new").await;
    delete(&server, "orders.asia").await;
    for (change, name) in [
        ("created", "new"),
        ("created", "orders.asia"),
        ("updated", "orders.asia"),
        ("deleted", "new"),
        ("deleted", "orders.asia"),
    ] {
        assert_eq!(next(&mut all).await, word(change, name));
    }
    for change in ["created", "updated", "deleted"] {
        assert_eq!(next(&mut some).await, word(change, "orders.asia"));
    }
}

#[tokio::test]
async fn a_bad_pattern_is_refused() {
    let server = TestServer::start().await;
    let request = WatchTopicsRequest { filter: "a.>.b".into() };
    let refused = server.topics().watch_topics(request).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_PATTERN");
    assert_eq!(bad_fields(&status), ["filter"]);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_ended() {
    let server = TestServer::start().await;
    let label = "x".repeat(255);
    let labels = (0..64).map(|n| (format!("label-{n}"), label.clone())).collect();
    let stream = watch_topics(&server, "").await;
    // Each topic is 17 KB, so that the transport takes only some of them.
    let topic = Topic { name: "large".into(), labels, ..Topic::default() };
    let request = columba::proto::v1::CreateTopicRequest { topic: Some(topic), validate_only: false };
    for _ in 0..1_500 {
        server.topics().create_topic(request.clone()).await.unwrap();
        delete(&server, "large").await;
    }
    let status = assert_refused(end(stream).await, Code::ResourceExhausted, "WATCHER_TOO_SLOW");
    assert!(status.message().contains("changes came faster"), "{status:?}");
}

#[tokio::test]
async fn watchers_learn_that_the_server_stops() {
    let mut server = TestServer::start().await;
    let (events, topics) = (watch_events(&server).await, watch_topics(&server, "").await);
    server.stop();
    assert_refused(end(events).await, Code::Unavailable, "SHUTTING_DOWN");
    assert_refused(end(topics).await, Code::Unavailable, "SHUTTING_DOWN");
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn watchers_are_limited() {
    let server = TestServer::start().await;
    let mut streams = Vec::new();
    for _ in 0..256 {
        streams.push(watch_events(&server).await);
    }
    let refused = server.admin().watch_events(WatchEventsRequest {}).await;
    assert_refused(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    watch_topics(&server, "").await;
}
