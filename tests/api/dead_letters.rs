//! `DeadLetterService`.

use columba::proto::v1::{
    CreateSubscriptionRequest, DeadLetter, DeleteSubscriptionRequest, DeleteTopicRequest,
    ListDeadLettersRequest, ListSubscriptionsRequest, Message, NackRequest, PublishRequest, PullRequest,
    PurgeDeadLettersRequest, ReadMessagesRequest, RedriveDeadLettersRequest, RedriveDeadLettersResponse,
    RetryPolicy, Subscription,
};
use tonic::Code;

use crate::common::{TestServer, assert_refused, bad_fields, within};

/// A server with the subscriptions `billing` and `audit` of `orders`, whose dead letters go to `dead`.
async fn server() -> TestServer {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server.create_topic("dead").await;
    for name in ["billing", "audit"] {
        subscribe(&server, name, "orders").await;
    }
    server
}

async fn subscribe(server: &TestServer, name: &str, topic: &str) {
    let retry = RetryPolicy { dead_letter_topic: "dead".into(), ..RetryPolicy::default() };
    let subscription = Subscription {
        name: name.into(),
        topic: topic.into(),
        retry: Some(retry),
        ..Subscription::default()
    };
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    server.subscriptions().create_subscription(request).await.unwrap();
}

/// The data of what a subscription has to deliver, and the ack ids.
async fn pull(server: &TestServer, subscription: &str) -> (Vec<String>, Vec<bytes::Bytes>) {
    let request =
        PullRequest { subscription: subscription.into(), max_messages: 10_000, ..Default::default() };
    let deliveries = server.subscriber().pull(request).await.unwrap().into_inner().deliveries;
    let data = deliveries.iter().map(|delivery| {
        let message = delivery.message.as_ref().unwrap().message.clone().unwrap_or_default();
        String::from_utf8(message.data.to_vec()).unwrap()
    });
    (data.collect(), deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect())
}

/// Gives up everything that a subscription has to deliver.
async fn give_up(server: &TestServer, subscription: &str, reason: &str) {
    let (_, ack_ids) = pull(server, subscription).await;
    assert!(!ack_ids.is_empty());
    let request = NackRequest {
        subscription: subscription.into(),
        ack_ids,
        dead_letter: true,
        reason: reason.into(),
        ..Default::default()
    };
    assert_eq!(server.subscriber().nack(request).await.unwrap().into_inner().failures, []);
}

fn of(subscription: &str) -> ListDeadLettersRequest {
    ListDeadLettersRequest { subscription: subscription.into(), ..Default::default() }
}

fn redrive(subscription: &str) -> RedriveDeadLettersRequest {
    RedriveDeadLettersRequest { subscription: subscription.into(), ..Default::default() }
}

async fn list(server: &TestServer, request: ListDeadLettersRequest) -> Vec<DeadLetter> {
    server.dead_letters().list_dead_letters(request).await.unwrap().into_inner().dead_letters
}

/// The offsets of letters on their dead-letter topic.
async fn offsets(server: &TestServer, request: ListDeadLettersRequest) -> Vec<u64> {
    list(server, request).await.iter().map(|letter| letter.offset).collect()
}

async fn redriven(server: &TestServer, request: RedriveDeadLettersRequest) -> RedriveDeadLettersResponse {
    server.dead_letters().redrive_dead_letters(request).await.unwrap().into_inner()
}

/// Whether a response says so many were redriven, so many skipped, and whether there are more.
fn said(response: &RedriveDeadLettersResponse) -> (u32, u32, bool) {
    assert_eq!(response.matched, response.redriven + response.skipped);
    assert_eq!(response.more, response.next_offset > 0);
    (response.redriven, response.skipped, response.more)
}

async fn read(server: &TestServer, topic: &str) -> Vec<Message> {
    let request = ReadMessagesRequest { topic: topic.into(), max_messages: 10_000, ..Default::default() };
    let messages = server.subscriber().read_messages(request).await.unwrap().into_inner().messages;
    messages.into_iter().map(|message| message.message.unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_letter_tells_everything_and_is_as_it_was_sent() {
    let server = server().await;
    let message = Message {
        data: "x".into(),
        key: "k".into(),
        attributes: [("a".to_owned(), "b".to_owned())].into(),
        ..Message::default()
    };
    let messages = vec![Message::default(), message.clone()];
    let request = PublishRequest { topic: "orders".into(), messages, ..Default::default() };
    server.publisher().publish(request).await.unwrap();
    give_up(&server, "billing", "no such customer").await;

    let letters = list(&server, of("billing")).await;
    let letter = &letters[1];
    assert_eq!((letter.topic.as_str(), letter.offset), ("dead", 2));
    assert_eq!((letter.original_topic.as_str(), letter.original_offset), ("orders", 2));
    assert_eq!((letter.subscription.as_str(), letter.attempts), ("billing", 1));
    assert_eq!(letter.reason, "no such customer");
    assert!(letter.time.is_some());
    assert_eq!(letter.message.as_ref(), Some(&message));
    assert_eq!(letters[0].message, Some(Message::default()));
    assert_eq!(offsets(&server, of("audit")).await, [0; 0]);
}

#[tokio::test]
async fn letters_are_narrowed_down() {
    let server = server().await;
    server.publish("orders", &["1", "2"]).await;
    give_up(&server, "billing", "no such customer").await;
    give_up(&server, "audit", "disk full").await;
    server.publish("dead", &["not a letter"]).await;
    server.publish("orders", &["3"]).await;
    give_up(&server, "audit", "no such book").await;
    let topic = || ListDeadLettersRequest { topic: "dead".into(), ..Default::default() };
    assert_eq!(offsets(&server, topic()).await, [1, 2, 3, 4, 6]);
    assert_eq!(offsets(&server, of("audit")).await, [3, 4, 6]);
    let reason = |reason: &str| ListDeadLettersRequest { reason: reason.into(), ..topic() };
    assert_eq!(offsets(&server, reason("no such")).await, [1, 2, 6]);
    assert_eq!(offsets(&server, reason("nobody")).await, [0; 0]);
    let filter = |filter: &str| ListDeadLettersRequest { filter: filter.into(), ..topic() };
    let by_attribute = "message.attributes['columba-dead-letter-subscription'] == 'audit' && offset < 6";
    assert_eq!(offsets(&server, filter(by_attribute)).await, [3, 4]);
    assert_eq!(offsets(&server, filter("attempt > 1 || offset == 6")).await, [6]);
    let range = ListDeadLettersRequest { first_offset: 2, last_offset: 4, ..topic() };
    assert_eq!(offsets(&server, range).await, [2, 3, 4]);

    let letters = list(&server, topic()).await;
    let since = ListDeadLettersRequest { since: letters[4].time, ..topic() };
    let until = ListDeadLettersRequest { until: letters[4].time, ..topic() };
    let (since, until) = (offsets(&server, since).await, offsets(&server, until).await);
    assert!(since.contains(&6) && !until.contains(&6));
    assert_eq!([until, since].concat(), [1, 2, 3, 4, 6]);
}

#[tokio::test]
async fn letters_come_in_pages() {
    let server = server().await;
    server.publish("orders", &["x"; 5]).await;
    give_up(&server, "billing", "").await;
    let mut service = server.dead_letters();
    let (mut pages, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListDeadLettersRequest { page_size: 2, page_token, ..of("billing") };
        let page = service.list_dead_letters(request).await.unwrap().into_inner();
        pages.push(page.dead_letters.iter().map(|letter| letter.offset).collect::<Vec<_>>());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        let other = ListDeadLettersRequest { page_token: page_token.clone(), ..of("audit") };
        let refused = service.list_dead_letters(other).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    }
    assert_eq!(pages, [vec![1, 2], vec![3, 4], vec![5]]);
}

#[tokio::test]
async fn a_redriven_message_reaches_the_subscription_it_died_in_and_no_other() {
    let server = server().await;
    server.publish("orders", &["1", "2", "3"]).await;
    give_up(&server, "billing", "").await;
    let response = redriven(&server, redrive("billing")).await;
    assert_eq!(said(&response), (3, 0, false));
    assert_eq!(pull(&server, "billing").await.0, ["1", "2", "3"]);
    assert_eq!(pull(&server, "audit").await.0, ["1", "2", "3"], "once, as they were first published");
    let published = read(&server, "orders").await;
    let attributes: Vec<_> = published[5].attributes.iter().collect();
    assert_eq!(attributes.len(), 1, "nothing else is left of the letter: {attributes:?}");
    assert_eq!(published[5].attributes["columba-redrive-subscription"], "billing");
    // They are dealt with.
    assert_eq!(offsets(&server, of("billing")).await, [0; 0]);
    assert_eq!(said(&redriven(&server, redrive("billing")).await), (0, 0, false));
    assert_eq!(read(&server, "orders").await.len(), 6);
    assert_eq!(read(&server, "dead").await.len(), 3, "they stay on their topic");
}

#[tokio::test]
async fn a_message_that_dies_again_is_another_letter() {
    let server = server().await;
    server.publish("orders", &["1"]).await;
    for round in 1..=3 {
        give_up(&server, "billing", "again").await;
        let letters = list(&server, of("billing")).await;
        assert_eq!((letters.len(), letters[0].offset, letters[0].original_offset), (1, round, round));
        assert_eq!(letters[0].message.as_ref().unwrap().attributes.len(), 0);
        assert_eq!(said(&redriven(&server, redrive("billing")).await), (1, 0, false));
    }
    assert_eq!(pull(&server, "audit").await.0, ["1"]);
}

#[tokio::test]
async fn a_redrive_takes_what_is_selected_and_goes_on() {
    let server = server().await;
    server.publish("orders", &["1", "2"]).await;
    give_up(&server, "billing", "first").await;
    server.publish("orders", &["3", "4", "5"]).await;
    give_up(&server, "billing", "second").await;
    let second = RedriveDeadLettersRequest { reason: "second".into(), ..redrive("billing") };
    let two = RedriveDeadLettersRequest { max_messages: 2, ..second.clone() };

    let tried = redriven(&server, RedriveDeadLettersRequest { dry_run: true, ..two.clone() }).await;
    assert_eq!(said(&tried), (2, 0, true));
    assert_eq!(offsets(&server, of("billing")).await, [1, 2, 3, 4, 5], "nothing was changed");

    let response = redriven(&server, two.clone()).await;
    assert_eq!((said(&response), response.next_offset, response.last_offset), ((2, 0, true), 5, 5));
    assert_eq!(offsets(&server, of("billing")).await, [1, 2, 5]);
    let rest = RedriveDeadLettersRequest {
        first_offset: response.next_offset,
        last_offset: response.last_offset,
        ..two
    };
    assert_eq!(said(&redriven(&server, rest).await), (1, 0, false));
    assert_eq!(offsets(&server, of("billing")).await, [1, 2]);
    let one = RedriveDeadLettersRequest {
        topic: "dead".into(),
        first_offset: 2,
        last_offset: 2,
        ..Default::default()
    };
    assert_eq!(said(&redriven(&server, one).await), (1, 0, false));
    assert_eq!(pull(&server, "billing").await.0, ["3", "4", "5", "2"]);
}

#[tokio::test]
async fn what_cannot_be_redriven_is_skipped_with_a_reason() {
    let server = server().await;
    server.create_topic("gone").await;
    subscribe(&server, "worker", "gone").await;
    server.publish("gone", &["1"]).await;
    give_up(&server, "worker", "").await;
    let delete = DeleteSubscriptionRequest { subscription: "worker".into(), etag: String::new() };
    server.subscriptions().delete_subscription(delete).await.unwrap();
    server.publish("orders", &["2"]).await;
    let expired = Message {
        data: "3".into(),
        expire_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..Message::default()
    };
    let letter = [("subscription", "billing"), ("topic", "orders"), ("offset", "1"), ("attempts", "1")];
    let letter = letter.into_iter().chain([("reason", ""), ("time-micros", "1")]);
    let attributes = letter.map(|(name, value)| (format!("columba-dead-letter-{name}"), value.to_owned()));
    let expired = Message { attributes: attributes.collect(), ..expired };
    let request = PublishRequest { topic: "dead".into(), messages: vec![expired], ..Default::default() };
    server.publisher().publish(request).await.unwrap();
    give_up(&server, "billing", "").await;

    let all = || RedriveDeadLettersRequest { topic: "dead".into(), ..Default::default() };
    let response = redriven(&server, all()).await;
    assert_eq!(said(&response), (1, 2, false));
    let skips: Vec<_> = response.skips.iter().map(|skip| (skip.offset, skip.reason.as_str())).collect();
    assert_eq!(skips, [(1, "SUBSCRIPTION_NOT_FOUND"), (2, "MESSAGE_EXPIRED")]);
    assert!(response.skips[0].message.contains("worker"), "{response:?}");

    let delete = DeleteTopicRequest { topic: "gone".into(), etag: String::new() };
    server.topics().delete_topic(delete).await.unwrap();
    let response = redriven(&server, all()).await;
    assert_eq!((said(&response), response.skips[0].reason.as_str()), ((0, 2, false), "TOPIC_NOT_FOUND"));
    assert_eq!(pull(&server, "billing").await.0, ["2"]);
}

#[tokio::test]
async fn another_topic_gets_the_messages_for_all_of_its_subscriptions() {
    let server = server().await;
    server.create_topic("retry").await;
    for name in ["retry-1", "retry-2"] {
        server.create_subscription(name, "retry").await;
    }
    server.publish("orders", &["1"]).await;
    give_up(&server, "billing", "").await;
    let to = |target: &str| RedriveDeadLettersRequest { target_topic: target.into(), ..redrive("billing") };
    let mut service = server.dead_letters();
    let refused = service.redrive_dead_letters(to("unknown")).await;
    assert_refused(refused, Code::NotFound, "TOPIC_NOT_FOUND");
    let refused = service.redrive_dead_letters(to("dead")).await;
    let status = assert_refused(refused, Code::InvalidArgument, "DEAD_LETTER_LOOP");
    assert_eq!(bad_fields(&status), ["target_topic"]);
    assert_eq!(said(&redriven(&server, to("retry")).await), (1, 0, false));
    for name in ["retry-1", "retry-2"] {
        assert_eq!(pull(&server, name).await.0, ["1"]);
    }
    assert_eq!(read(&server, "retry").await[0].attributes.len(), 0);
    assert_eq!(read(&server, "orders").await.len(), 1);
}

#[tokio::test]
async fn concurrent_redrives_publish_each_letter_once() {
    let server = server().await;
    server.publish("orders", &["x"; 50]).await;
    give_up(&server, "billing", "").await;
    let redrives = (0..8).map(|_| {
        let mut service = server.dead_letters();
        async move { service.redrive_dead_letters(redrive("billing")).await.unwrap().into_inner().redriven }
    });
    let redriven: u32 = within(futures::future::join_all(redrives)).await.into_iter().sum();
    assert_eq!((redriven, read(&server, "orders").await.len()), (50, 100));
}

#[tokio::test]
async fn a_redrive_keeps_to_its_rate_and_ends_with_the_call() {
    let server = server().await;
    server.publish("orders", &["x"; 100]).await;
    give_up(&server, "billing", "").await;
    // At this rate it would take minutes.
    let slow = RedriveDeadLettersRequest { max_per_second: 1, ..redrive("billing") };
    let mut service = server.dead_letters();
    let call = tokio::spawn(async move { service.redrive_dead_letters(slow).await });
    within(async {
        while read(&server, "orders").await.len() == 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!call.is_finished());
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let left = offsets(&server, ListDeadLettersRequest { page_size: 1_000, ..of("billing") }).await.len();
    assert!((1..100).contains(&left), "{left}");
}

#[tokio::test]
async fn purged_letters_are_gone_and_the_others_stay() {
    let server = server().await;
    server.publish("orders", &["1", "2", "3"]).await;
    give_up(&server, "billing", "bad").await;
    server.publish("orders", &["4"]).await;
    give_up(&server, "billing", "good").await;
    let purge = PurgeDeadLettersRequest {
        subscription: "billing".into(),
        reason: "bad".into(),
        max_messages: 2,
        ..Default::default()
    };
    let mut service = server.dead_letters();
    let dry = PurgeDeadLettersRequest { dry_run: true, ..purge.clone() };
    let tried = service.purge_dead_letters(dry).await.unwrap().into_inner();
    assert_eq!((tried.purged, tried.more, tried.next_offset), (2, true, 3));
    assert_eq!(offsets(&server, of("billing")).await, [1, 2, 3, 4]);
    let purged = service.purge_dead_letters(purge.clone()).await.unwrap().into_inner();
    assert_eq!((purged.purged, purged.more, purged.next_offset, purged.last_offset), (2, true, 3, 4));
    assert_eq!(offsets(&server, of("billing")).await, [3, 4]);
    let purged = service.purge_dead_letters(purge.clone()).await.unwrap().into_inner();
    assert_eq!((purged.purged, purged.more), (1, false));
    let purged = service.purge_dead_letters(purge).await.unwrap().into_inner();
    assert_eq!((purged.purged, purged.more, purged.next_offset), (0, false, 0));
    assert_eq!(said(&redriven(&server, redrive("billing")).await), (1, 0, false));
    assert_eq!(pull(&server, "billing").await.0, ["4"]);
}

#[tokio::test]
async fn what_the_server_keeps_about_letters_is_nobodys_business() {
    let server = server().await;
    server.publish("orders", &["1"]).await;
    give_up(&server, "billing", "").await;
    redriven(&server, redrive("billing")).await;
    let listed = server.subscriptions().list_subscriptions(ListSubscriptionsRequest::default()).await;
    let names: Vec<_> = listed.unwrap().into_inner().subscriptions.into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["audit", "billing"]);
    let own = "_dead-letters.dead";
    let delete = DeleteSubscriptionRequest { subscription: own.into(), etag: String::new() };
    let refused = server.subscriptions().delete_subscription(delete).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_NAME");
    // It does not keep the topic from being deleted, and goes with it.
    for subscription in ["audit", "billing"] {
        let request = DeleteSubscriptionRequest { subscription: subscription.into(), etag: String::new() };
        server.subscriptions().delete_subscription(request).await.unwrap();
    }
    let delete = DeleteTopicRequest { topic: "dead".into(), etag: String::new() };
    server.topics().delete_topic(delete).await.unwrap();
    server.create_topic("dead").await;
    subscribe(&server, "billing", "orders").await;
    give_up(&server, "billing", "").await;
    assert_eq!(offsets(&server, of("billing")).await, [1, 2], "it starts over with its topic");
}

#[tokio::test]
async fn bad_selections_are_refused() {
    let server = server().await;
    server.create_subscription("plain", "orders").await;
    let mut service = server.dead_letters();
    let bad = ListDeadLettersRequest {
        subscription: "a/b".into(),
        reason: "x".repeat(1_025),
        since: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
        until: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
        filter: "attempt >".into(),
        first_offset: 2,
        last_offset: 1,
        page_size: 1_001,
        page_token: "🕊".into(),
        ..Default::default()
    };
    let refused = service.list_dead_letters(bad).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_NAME");
    let fields =
        ["subscription", "reason", "since", "until", "filter", "last_offset", "page_size", "page_token"];
    assert_eq!(bad_fields(&status), fields);

    let both = PurgeDeadLettersRequest {
        subscription: "billing".into(),
        topic: "dead".into(),
        max_messages: 10_001,
        ..Default::default()
    };
    let status =
        assert_refused(service.purge_dead_letters(both).await, Code::InvalidArgument, "CONTRADICTION");
    assert_eq!(bad_fields(&status), ["topic", "max_messages"]);
    let neither = RedriveDeadLettersRequest {
        max_per_second: u32::MAX,
        target_topic: "_x".into(),
        ..Default::default()
    };
    let status =
        assert_refused(service.redrive_dead_letters(neither).await, Code::InvalidArgument, "REQUIRED");
    assert_eq!(bad_fields(&status), ["subscription", "target_topic", "max_per_second"]);

    let without = service.list_dead_letters(of("plain")).await;
    let status = assert_refused(without, Code::FailedPrecondition, "NO_DEAD_LETTER_TOPIC");
    assert!(status.message().contains("plain"), "{status:?}");
    assert_refused(service.list_dead_letters(of("none")).await, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
    let unknown = ListDeadLettersRequest { topic: "none".into(), ..Default::default() };
    assert_refused(service.list_dead_letters(unknown).await, Code::NotFound, "TOPIC_NOT_FOUND");
}
