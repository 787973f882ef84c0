//! Filters and expiry of subscriptions, as clients meet them.

use columba::proto::v1::subscribe_request::Target;
use columba::proto::v1::subscribe_response::Event;
use columba::proto::v1::{
    CreateSubscriptionRequest, EphemeralSubscription, GetSubscriptionRequest, Message, PublishRequest,
    PullRequest, SubscribeRequest, Subscription, UpdateSubscriptionRequest,
};
use prost_types::{Duration, FieldMask};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::{TestServer, assert_refused, bad_fields, within};

const EUROPE: &str = "message.attributes.region == 'eu' && message.data_json.total > 100";

fn filtered(filter: &str) -> Subscription {
    Subscription {
        name: "billing".into(),
        topic: "orders".into(),
        filter: filter.into(),
        ..Subscription::default()
    }
}

async fn create(server: &TestServer, subscription: Subscription) -> Result<Subscription, Status> {
    let request = CreateSubscriptionRequest { subscription: Some(subscription), validate_only: false };
    let created = server.subscriptions().create_subscription(request).await?;
    Ok(created.into_inner().subscription.unwrap())
}

async fn update(server: &TestServer, filter: &str) -> Result<Subscription, Status> {
    let request = UpdateSubscriptionRequest {
        subscription: Some(Subscription { topic: String::new(), ..filtered(filter) }),
        update_mask: Some(FieldMask { paths: vec!["filter".into()] }),
        validate_only: false,
    };
    Ok(server.subscriptions().update_subscription(request).await?.into_inner().subscription.unwrap())
}

async fn orders() -> TestServer {
    let server = TestServer::start().await;
    server.create_topic("orders").await;
    server
}

async fn publish(server: &TestServer, orders: &[(&str, u32)]) {
    let message = |(region, total): &(&str, u32)| Message {
        data: format!("{{\"total\": {total}}}").into(),
        attributes: [("region".into(), (*region).into())].into(),
        ..Message::default()
    };
    let messages = orders.iter().map(message).collect();
    let request = PublishRequest { topic: "orders".into(), messages, ..PublishRequest::default() };
    server.publisher().publish(request).await.unwrap();
}

async fn pull(server: &TestServer) -> Vec<u64> {
    let wait = Some(Duration { seconds: 30, nanos: 0 });
    let request = PullRequest { subscription: "billing".into(), wait, ..PullRequest::default() };
    let pulled = within(server.subscriber().pull(request)).await.unwrap().into_inner().deliveries;
    pulled.into_iter().map(|delivery| delivery.message.unwrap().offset).collect()
}

#[tokio::test]
async fn a_subscription_gets_what_its_filter_wants() {
    let server = orders().await;
    let created = create(&server, filtered(EUROPE)).await.unwrap();
    assert_eq!(created.filter, EUROPE);
    assert_eq!(create(&server, filtered(EUROPE)).await.unwrap(), created, "the same again");
    let other = create(&server, filtered("true")).await;
    assert_refused(other, Code::AlreadyExists, "SUBSCRIPTION_EXISTS");

    publish(&server, &[("eu", 50), ("us", 500), ("eu", 500)]).await;
    assert_eq!(pull(&server).await, [3]);
    assert_eq!(update(&server, "message.attributes.region == 'us'").await.unwrap().filter.len(), 33);
    publish(&server, &[("eu", 500), ("us", 1)]).await;
    assert_eq!(pull(&server).await, [5]);
    assert_eq!(update(&server, "").await.unwrap().filter, "");
    publish(&server, &[("", 0)]).await;
    assert_eq!(pull(&server).await, [6]);
}

#[tokio::test]
async fn a_reader_of_a_topic_gets_what_its_filter_wants() {
    let server = orders().await;
    let ephemeral =
        EphemeralSubscription { topic: "orders".into(), filter: EUROPE.into(), ..Default::default() };
    let request = SubscribeRequest { target: Some(Target::Ephemeral(ephemeral)), ..Default::default() };
    let mut stream = server.subscriber().subscribe(request).await.unwrap().into_inner();
    let started = within(stream.message()).await.unwrap().unwrap().event;
    assert!(matches!(started, Some(Event::Started(_))));
    publish(&server, &[("us", 500), ("eu", 500)]).await;
    let batch = within(stream.message()).await.unwrap().unwrap().event;
    let Some(Event::Batch(batch)) = batch else { panic!("no batch: {batch:?}") };
    let offsets: Vec<_> = batch.deliveries.iter().map(|it| it.message.as_ref().unwrap().offset).collect();
    assert_eq!(offsets, [2]);
}

#[tokio::test]
async fn bad_filters_are_refused_and_say_where() {
    let server = orders().await;
    create(&server, filtered("")).await.unwrap();
    let long = format!("message.key == '{}'", "x".repeat(4_096));
    let nested = format!("{}true{}", "(".repeat(500), ")".repeat(500));
    for (filter, reason, says) in [
        ("message.key ==", "INVALID_FILTER", "line 1, column 15"),
        ("true &&\n mesage.key == 'a'", "INVALID_FILTER", "line 2, column 2: there is no mesage"),
        ("message.keys == 'a'", "INVALID_FILTER", "line 1, column 8: message has no keys"),
        ("message.key.matches('a+')", "INVALID_FILTER", "no matches"),
        ("message.key > 5", "INVALID_FILTER", "types"),
        ("message.key", "FILTER_NOT_BOOL", "type string"),
        (&nested, "INVALID_FILTER", "nested too deeply"),
        (&long, "TOO_LONG", "at most 4096"),
        (
            "message.data_json.a.exists(x, message.data_json.b.exists(y, x == y))",
            "FILTER_TOO_COSTLY",
            "at most 1000000",
        ),
    ] {
        let ephemeral = EphemeralSubscription { topic: "orders".into(), filter: filter.into(), start: None };
        let subscribe = SubscribeRequest { target: Some(Target::Ephemeral(ephemeral)), ..Default::default() };
        let answers = [
            (create(&server, filtered(filter)).await.map(|_| ()), "subscription.filter"),
            (update(&server, filter).await.map(|_| ()), "subscription.filter"),
            (server.subscriber().subscribe(subscribe).await.map(|_| ()), "ephemeral.filter"),
        ];
        for (answer, field) in answers {
            let status = assert_refused(answer, Code::InvalidArgument, reason);
            assert!(status.message().contains(says), "{filter}: {status:?}");
            assert_eq!(bad_fields(&status), [field]);
        }
    }
    let request = GetSubscriptionRequest { subscription: "billing".into() };
    let found = server.subscriptions().get_subscription(request).await.unwrap().into_inner();
    assert_eq!(found.subscription.unwrap().filter, "");
}

#[tokio::test]
async fn an_expiry_is_kept_within_its_limits() {
    let server = orders().await;
    let expiring =
        |seconds, nanos| Subscription { idle_expiry: Some(Duration { seconds, nanos }), ..filtered("") };
    for (seconds, nanos) in [(0, 0), (59, 999_999_999), (-60, 0), (366 * 86_400, 1)] {
        let status = assert_refused(
            create(&server, expiring(seconds, nanos)).await,
            Code::InvalidArgument,
            "INVALID_DURATION",
        );
        assert_eq!(bad_fields(&status), ["subscription.idle_expiry"]);
        assert!(
            status.get_details_bad_request().unwrap().field_violations[0].description.contains("1m to 366d")
        );
    }
    let created = create(&server, expiring(60, 0)).await.unwrap();
    assert_eq!(created.idle_expiry, Some(Duration { seconds: 60, nanos: 0 }));
    let request = UpdateSubscriptionRequest {
        subscription: Some(filtered("")),
        update_mask: Some(FieldMask { paths: vec!["idle_expiry".into()] }),
        validate_only: false,
    };
    let updated = server.subscriptions().update_subscription(request).await.unwrap().into_inner();
    assert_eq!(updated.subscription.unwrap().idle_expiry, None);
}
