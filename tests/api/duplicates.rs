//! Messages with ids, and publishing that depends on a key.

use columba::proto::v1::publish_stream_response::Result as Outcome;
use columba::proto::v1::{
    CreateTopicRequest, Duplicate, Message, PublishRequest, PublishStreamRequest, Topic, UpdateTopicRequest,
};
use futures::{StreamExt, stream};
use tonic::Code;
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, bad_fields, within};

fn with(topic: &str, names: &[(&str, &str)]) -> PublishRequest {
    let message =
        |(id, key): &(&str, &str)| Message { id: (*id).into(), key: (*key).into(), ..Message::default() };
    let messages = names.iter().map(message).collect();
    PublishRequest { topic: topic.into(), messages, ..PublishRequest::default() }
}

fn span(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

async fn create(server: &TestServer, topic: Topic) -> Result<Topic, tonic::Status> {
    let request = CreateTopicRequest { topic: Some(topic), validate_only: false };
    Ok(server.topics().create_topic(request).await?.into_inner().topic.unwrap())
}

#[tokio::test]
async fn what_is_sent_again_is_stored_once() {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    let request = || with("orders", &[("a", ""), ("", ""), ("b", "")]);
    let first = server.publisher().publish(request()).await.unwrap().into_inner();
    assert_eq!((first.first_offset, first.last_offset, first.duplicates.len()), (1, 3, 0));
    let requests =
        (1..=3).map(move |request_id| PublishStreamRequest { request_id, publish: Some(request()) });
    let answers = server.publisher().publish_stream(stream::iter(requests)).await.unwrap().into_inner();
    let answers: Vec<_> = within(answers.collect()).await;
    for (answer, offset) in answers.into_iter().zip(4..) {
        let Outcome::Receipt(receipt) = answer.unwrap().result.unwrap() else { panic!("an error") };
        assert_eq!((receipt.first_offset, receipt.last_offset), (offset, offset));
        assert_eq!(
            receipt.duplicates,
            [Duplicate { index: 0, offset: 1 }, Duplicate { index: 2, offset: 3 }]
        );
    }
}

#[tokio::test]
async fn the_window_is_the_topics() {
    let server = TestServer::start().await;
    let named = |name: &str, dedupe_window| Topic { name: name.into(), dedupe_window, ..Topic::default() };
    assert_eq!(create(&server, named("default", None)).await.unwrap().dedupe_window, Some(span(120)));
    assert_eq!(
        create(&server, named("week", Some(span(604_800)))).await.unwrap().dedupe_window,
        Some(span(604_800))
    );
    assert_eq!(create(&server, named("off", Some(span(0)))).await.unwrap().dedupe_window, Some(span(0)));
    for bad in [-1, 604_801] {
        let refused = create(&server, named("bad", Some(span(bad)))).await;
        let status = assert_refused(refused, Code::InvalidArgument, "INVALID_DURATION");
        assert_eq!(bad_fields(&status), ["topic.dedupe_window"]);
    }
    for expected in [1, 2] {
        let receipt = server.publisher().publish(with("off", &[("a", "")])).await.unwrap().into_inner();
        assert_eq!(receipt.last_offset, expected);
    }
    let update = |topic, paths: &[&str]| UpdateTopicRequest {
        topic: Some(topic),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.into()).collect() }),
        validate_only: false,
    };
    let on = update(named("off", Some(span(60))), &["dedupe_window"]);
    let on = server.topics().update_topic(on).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(on.dedupe_window, Some(span(60)));
    let fixed = Topic { key_index: true, ..named("off", None) };
    let refused = server.topics().update_topic(update(fixed, &["key_index"])).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD_MASK");
}

#[tokio::test]
async fn a_key_that_has_moved_on_takes_nothing() {
    let server = TestServer::start().await;
    server.create_topic("plain").await;
    let indexed = Topic { name: "keyed".into(), key_index: true, ..Topic::default() };
    assert!(create(&server, indexed).await.unwrap().key_index);
    let expecting = |topic: &str, names: &[(&str, &str)], offset| PublishRequest {
        expected_key_offset: Some(offset),
        ..with(topic, names)
    };
    let publish = async |request| server.publisher().publish(request).await;
    publish(expecting("keyed", &[("", "a")], 0)).await.unwrap();
    publish(with("keyed", &[("", "b")])).await.unwrap();
    let moved = publish(expecting("keyed", &[("", "a"), ("", "a")], 2)).await;
    let status = assert_refused(moved, Code::Aborted, "KEY_OFFSET_MISMATCH");
    assert_eq!(status.get_details_error_info().unwrap().metadata["last_key_offset"], "1");
    publish(expecting("keyed", &[("", "a"), ("", "a")], 1)).await.unwrap();

    for (names, reason) in [
        (vec![("", "")], "KEY_REQUIRED"),
        (vec![("", "a"), ("", "b")], "KEYS_DIFFER"),
        (vec![("", "a"), ("", "")], "KEYS_DIFFER"),
    ] {
        let refused = publish(expecting("keyed", &names, 4)).await;
        let status = assert_refused(refused, Code::InvalidArgument, reason);
        assert_eq!(bad_fields(&status), ["expected_key_offset"]);
    }
    let refused = publish(expecting("plain", &[("", "a")], 0)).await;
    let status = assert_refused(refused, Code::FailedPrecondition, "NO_KEY_INDEX");
    assert!(status.message().contains("key_index"), "{status:?}");
}
