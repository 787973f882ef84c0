//! What became of a message, and who is connected.

use super::Harness;
use super::fixture::{
    END_LEASE, FREELY, Fixture, LONG, SHORT, envelope, fail, give_up, name, next_n, soon, subscription, topic,
};
use crate::engine::{Credit, Engine, Error, Intent, Target};
use crate::model::{
    Happening, Journey, Name, Offset, RetryPolicy, Standing, Start, SubscriptionSettings, Timestamp,
    TopicSettings, redrive,
};

/// What became of a message in [`subscription`].
async fn journey(engine: &dyn Engine, offset: Offset) -> Journey {
    let explanation = engine.explain(&topic(), offset).await.unwrap();
    assert_eq!((explanation.message.topic, explanation.message.offset), (topic(), offset));
    let mut journeys = explanation.journeys.into_iter();
    journeys.find(|journey| journey.subscription == subscription()).expect("it reads the topic")
}

pub(crate) async fn a_message_is_followed_through_its_life(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.add_subscription(&name("audit"), Start::Latest).await;
    engine.publish(1).await;
    assert_eq!(journey(&*engine, 1).await.standing, Standing::NotReached);

    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 1).await;
    let with_consumer = journey(&*engine, 1).await;
    let Standing::InFlight { consumer: Some(id), deadline } = with_consumer.standing else {
        panic!("{with_consumer:?}")
    };
    assert_eq!((&*id, with_consumer.attempts), (consumer.id(), 1));
    assert!(deadline > Timestamp::now());

    engine.settle_all(&held, super::fixture::nack_for(LONG)).await;
    let waiting = journey(&*engine, 1).await;
    assert!(matches!(waiting.standing, Standing::Waiting { until } if until > Timestamp::now()));
    assert_eq!(waiting.attempts, 1);

    engine.ack(&held).await;
    assert_eq!(journey(&*engine, 1).await.standing, Standing::Settled);
    let explanation = engine.explain(&topic(), 1).await.unwrap();
    let names: Vec<_> = explanation.journeys.iter().map(|journey| journey.subscription.as_str()).collect();
    assert_eq!(names, ["audit", "subscription"]);
}

pub(crate) async fn what_happened_is_remembered(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    if !engine.capabilities().history {
        return;
    }
    engine.publish(3).await;
    let before = Timestamp::now();
    let mut consumer = engine.consumer(FREELY).await;
    let id = consumer.id().to_owned();
    let held = next_n(&mut *consumer, 3).await;
    engine.settle_all(&held[1..2], fail("no such customer")).await;
    let again = next_n(&mut *consumer, 1).await;
    engine.settle_all(&again, END_LEASE).await;
    next_n(&mut *consumer, 1).await;
    drop(consumer);
    let last = engine.pull_n(3).await;
    engine.ack(&last).await;

    let to = |consumer: Option<&str>, attempt| {
        let consumer = consumer.map(Into::into);
        Happening::Delivered { consumer, attempt }
    };
    let history = async |offset| journey(&*engine, offset).await.history;
    let what: Vec<_> = history(2).await.into_iter().map(|moment| moment.what).collect();
    let expected = [
        to(Some(&id), 1),
        Happening::Nacked { reason: "no such customer".into() },
        to(Some(&id), 2),
        Happening::Extended,
        Happening::DeadlinePassed,
        to(Some(&id), 3),
        Happening::ConsumerLeft,
        to(None, 4),
        Happening::Acked,
    ];
    assert_eq!(what, expected);
    let what: Vec<_> = history(1).await.into_iter().map(|moment| moment.what).collect();
    assert_eq!(what, [to(Some(&id), 1), Happening::ConsumerLeft, to(None, 2), Happening::Acked]);
    let times: Vec<_> = history(2).await.into_iter().map(|moment| moment.time).collect();
    // The two clocks that it is told by are read one after the other.
    assert!(times.is_sorted() && times[0] >= before.before(SHORT), "{before:?} {times:?}");
}

pub(crate) async fn a_dead_message_tells_where_its_letter_is(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    if !engine.capabilities().history {
        return;
    }
    engine.create_topic(name("dead"), TopicSettings::default(), Intent::Apply).await.unwrap();
    let retry = RetryPolicy { dead_letter_topic: Some(name("dead")), ..RetryPolicy::default() };
    let settings = SubscriptionSettings { ack_deadline: LONG, retry, ..SubscriptionSettings::new(topic()) };
    engine.create_subscription(subscription(), settings, Intent::Apply).await.unwrap();
    engine.publish(2).await;
    let held = engine.pull_n(2).await;
    engine.settle_all(&held[1..], give_up("hopeless")).await;
    soon(async {
        while engine.progress().await.dead_lettered == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let letter = Some((name("dead"), 1));
    let dead = journey(&*engine, 2).await;
    assert_eq!(dead.standing, Standing::Buried { letter });
    let (topic, offset) = (name("dead"), 1);
    let last = dead.history.into_iter().map(|moment| moment.what).next_back();
    assert_eq!(last, Some(Happening::DeadLettered { topic, offset }));
}

pub(crate) async fn a_skipped_message_says_so(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish_all(vec![redrive::only_for(&envelope(""), &name("audit"))]).await;
    engine.publish(1).await;
    engine.pull_n(1).await;
    let skipped = journey(&*engine, 1).await;
    assert_eq!((skipped.standing, skipped.attempts), (Standing::Skipped, 0));
}

pub(crate) async fn unknown_messages_are_not_found(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(2).await;
    for offset in [0, 3, u64::MAX] {
        let refused = engine.explain(&topic(), offset).await;
        assert_eq!(refused, Err(Error::NoSuchMessage { topic: topic(), offset, last: 2 }));
    }
    let unknown = name("unknown");
    assert_eq!(engine.explain(&unknown, 1).await, Err(Error::TopicNotFound(unknown)));
}

pub(crate) async fn consumers_are_listed(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.add_subscription(&name("audit"), Start::Latest).await;
    assert_eq!(engine.consumers(None).await, Ok(vec![]));
    let credit = Credit { messages: 7, bytes: 1 << 20 };
    let mut first = engine.subscribe_as(Target::Durable(subscription()), credit, "worker-1").await.unwrap();
    let second = engine.subscribe(Target::Durable(name("audit")), FREELY).await.unwrap();
    engine.publish(2).await;
    let held = next_n(&mut *first, 2).await;
    let bytes: usize = held.iter().map(|delivery| delivery.message.envelope.len()).sum();

    let listed = engine.consumers(None).await.unwrap();
    let ids: Vec<_> = listed.iter().map(|consumer| consumer.id.as_str()).collect();
    assert_eq!(ids, [first.id(), second.id()]);
    let info = &listed[0];
    assert_eq!((info.name.as_str(), &info.subscription), ("worker-1", &subscription()));
    assert_eq!((info.outstanding_messages, info.outstanding_bytes), (2, bytes as u64));
    assert_eq!((info.max_messages, info.max_bytes), (7, 1 << 20));
    assert_eq!((listed[1].name.as_str(), listed[1].outstanding_messages), ("", 0));

    let one: Name = name("audit");
    assert_eq!(engine.consumers(Some(&one)).await.unwrap(), listed[1..]);
    let unknown = name("unknown");
    assert_eq!(engine.consumers(Some(&unknown)).await, Err(Error::SubscriptionNotFound(unknown)));
    drop(second);
    soon(async {
        while !engine.consumers(Some(&one)).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
