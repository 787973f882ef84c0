//! Subscriptions that read all the topics that a pattern covers.

use std::time::Duration;

use bytes::Bytes;

use super::Harness;
use super::fixture::{
    ACK, ACK_CUMULATIVE, END_LEASE, EVERYTHING, FREELY, Fixture, LONG, PLENTY, at_most, begin, envelope,
    give_up, ids, keyed, messages, nack, name, next, next_error, next_n, persistent, reopened, soon,
    subscription,
};
use crate::engine::{
    Credit, Engine, Error, Failure, Intent, Operation, Outcome, Settlement, SubscriptionChange, Target, Terms,
};
use crate::model::limits::MAX_PATTERN_TOPICS;
use crate::model::{
    DeadLetter, Delivery, Envelope, Filter, Mode, Name, Offset, Pattern, RetryPolicy, Standing, Start,
    SubscriptionSettings, Timestamp, TopicSettings,
};

/// The topics of most cases.
const EU: &str = "orders.eu";
const US: &str = "orders.us";

fn pattern(text: &str) -> Pattern {
    Pattern::parse_topics(text).unwrap()
}

async fn make(engine: &dyn Engine, topic: &str) {
    engine.create_topic(name(topic), TopicSettings::default(), Intent::Apply).await.unwrap();
}

async fn publish_all(engine: &dyn Engine, topic: &str, messages: Vec<Envelope>) {
    let pending = engine.submit(&name(topic), messages, Terms::default()).await.unwrap();
    soon(pending).await.unwrap();
}

async fn publish(engine: &dyn Engine, topic: &str, count: usize) {
    publish_all(engine, topic, (0..count).map(|n| envelope(format!("message {n}"))).collect()).await;
}

/// With [`EU`] and [`US`], and [`subscription`] to all orders.
async fn subscribed(harness: &impl Harness, change: impl FnOnce(&mut SubscriptionSettings)) -> Fixture {
    let engine = Fixture::as_is(harness);
    make(&*engine, EU).await;
    make(&*engine, US).await;
    subscribe(&engine, change).await.unwrap();
    engine
}

async fn subscribe(
    engine: &Fixture,
    change: impl FnOnce(&mut SubscriptionSettings),
) -> Result<SubscriptionSettings, Error> {
    let mut settings =
        SubscriptionSettings { ack_deadline: LONG, ..SubscriptionSettings::new(pattern("orders.*")) };
    change(&mut settings);
    let created = engine.create_subscription(subscription(), settings, Intent::Apply).await?;
    Ok(created.settings)
}

/// Topics and offsets, in the order of the topics and as they came in each.
fn places(deliveries: &[Delivery]) -> Vec<(String, Offset)> {
    let mut places: Vec<_> = deliveries.iter().map(place).collect();
    places.sort_by(|(a, _), (b, _)| a.cmp(b));
    places
}

fn place(delivery: &Delivery) -> (String, Offset) {
    (delivery.message.topic.to_string(), delivery.message.offset)
}

fn at(topic: &str, offsets: impl IntoIterator<Item = Offset>) -> Vec<(String, Offset)> {
    offsets.into_iter().map(|offset| (topic.to_owned(), offset)).collect()
}

fn of<'a>(deliveries: &'a [Delivery], topic: &str, offset: Offset) -> &'a Delivery {
    let is_it = |delivery: &&Delivery| place(delivery) == (topic.to_owned(), offset);
    deliveries.iter().find(is_it).expect("it was delivered")
}

async fn update(engine: &Fixture, change: SubscriptionChange) -> Result<(), Error> {
    engine.update_subscription(&subscription(), change, None, Intent::Apply).await.map(drop)
}

pub(crate) async fn every_topic_is_read(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    let own = Name::internal("kept", &name("orders.eu"));
    engine.create_topic(own, TopicSettings::default(), Intent::Apply).await.unwrap();
    for topic in [EU, US, "orders", "orders.eu.west", "other.eu"] {
        make(&*engine, topic).await;
        publish(&*engine, topic, 2).await;
    }
    let settings = subscribe(&engine, |_| {}).await.unwrap();
    assert_eq!(settings.topic, pattern("orders.*"));
    let mut consumer = engine.consumer(FREELY).await;
    let delivered = next_n(&mut *consumer, 4).await;
    assert_eq!(places(&delivered), [at(EU, 1..=2), at(US, 1..=2)].concat());
    publish(&*engine, "orders.eu.west", 1).await;
    publish(&*engine, US, 1).await;
    assert_eq!(places(&next(&mut *consumer).await), at(US, [3]));

    let deep = SubscriptionSettings::new(pattern("orders.>"));
    engine.create_subscription(name("deep"), deep, Intent::Apply).await.unwrap();
    let pulled = soon(engine.pull(&name("deep"), PLENTY, Duration::ZERO)).await.unwrap();
    assert_eq!(places(&pulled), [at(EU, 1..=2), at("orders.eu.west", 1..=3), at(US, 1..=3)].concat());
}

pub(crate) async fn a_later_topic_is_read_from_its_first_message(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    // There need not be any.
    subscribe(&engine, |settings| settings.start = Start::Latest).await.unwrap();
    let mut consumer = engine.consumer(FREELY).await;
    let waiting = begin(&mut *consumer);
    make(&*engine, EU).await;
    publish(&*engine, EU, 2).await;
    let delivered = soon(waiting).await.unwrap();
    let mut all = delivered;
    while all.len() < 2 {
        all.extend(next(&mut *consumer).await);
    }
    assert_eq!(places(&all), at(EU, 1..=2));
    assert_eq!(engine.ack(&all).await, 2);
    drop(consumer);
    make(&*engine, US).await;
    publish(&*engine, US, 1).await;
    assert_eq!(places(&engine.pull_next(10).await), at(US, [1]));
}

pub(crate) async fn starts_where_asked_in_each(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    make(&*engine, EU).await;
    make(&*engine, US).await;
    publish(&*engine, EU, 2).await;
    subscribe(&engine, |settings| settings.start = Start::Latest).await.unwrap();
    let by_time = SubscriptionSettings {
        start: Start::Time(Timestamp(0)),
        ..SubscriptionSettings::new(pattern("orders.*"))
    };
    engine.create_subscription(name("by-time"), by_time, Intent::Apply).await.unwrap();
    publish(&*engine, EU, 1).await;
    publish(&*engine, US, 1).await;
    assert_eq!(places(&engine.pull_n(2).await), [at(EU, [3]), at(US, [1])].concat());
    let pulled = soon(engine.pull(&name("by-time"), PLENTY, Duration::ZERO)).await.unwrap();
    assert_eq!(places(&pulled), [at(EU, 1..=3), at(US, [1])].concat());

    let by_offset =
        SubscriptionSettings { start: Start::Offset(1), ..SubscriptionSettings::new(pattern("orders.*")) };
    for intent in [Intent::Validate, Intent::Apply] {
        let refused = engine.create_subscription(name("by-offset"), by_offset.clone(), intent).await;
        assert_eq!(refused.unwrap_err(), Error::PatternOffset(pattern("orders.*")));
    }
}

pub(crate) async fn a_busy_topic_starves_no_other(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    publish(&*engine, EU, 100).await;
    publish(&*engine, US, 4).await;
    let first = engine.pull_now(8).await;
    assert_eq!(places(&first), [at(EU, 1..=4), at(US, 1..=4)].concat(), "half of the room each");
    publish(&*engine, US, 3).await;
    let mut topics = Vec::new();
    for _ in 0..6 {
        topics.push(engine.pull_now(1).await[0].message.topic.to_string());
    }
    assert_eq!(topics.iter().filter(|topic| *topic == US).count(), 3, "in turn: {topics:?}");
    assert_eq!(engine.pull_now(200).await.len(), 93, "what nobody else wants is for the busy one");
}

pub(crate) async fn a_large_message_gets_its_turn(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    let send = async |topic: &str, size: usize| {
        publish_all(&*engine, topic, vec![envelope("x".repeat(size))]).await;
    };
    send(US, 300).await;
    let mut consumer = engine.consumer(Credit { messages: 10, bytes: 1_000 }).await;
    let mut held = next_n(&mut *consumer, 1).await;
    send(EU, 2_000).await;
    for _ in 0..6 {
        send(US, 300).await;
        let waiting = begin(&mut *consumer);
        // By now, what fits has been handed out: the one before is acknowledged after that.
        engine.progress().await;
        engine.ack(&held).await;
        held = soon(waiting).await.unwrap();
        if held[0].message.topic == name(EU) {
            return;
        }
    }
    panic!("the room that it leaves is used by the other topic, again and again");
}

pub(crate) async fn limits_hold_for_all_together(harness: impl Harness) {
    let engine = subscribed(&harness, |settings| settings.max_in_flight = 5).await;
    publish(&*engine, EU, 10).await;
    publish(&*engine, US, 10).await;
    let mut consumer = engine.consumer(messages(3)).await;
    let held = next_n(&mut *consumer, 3).await;
    let more = engine.pull_now(10).await;
    assert_eq!(more.len(), 2, "three of five are with the consumer");
    assert_eq!(engine.pull_now(10).await, []);
    engine.ack(&held[..1]).await;
    let one = next(&mut *consumer).await;
    assert_eq!(one.len(), 1, "neither the credit nor the limit leaves room for more");
    assert_eq!(engine.pull_now(10).await, []);
    engine.ack(&more).await;
    consumer.set_credit(messages(4)).await;
    assert_eq!(next(&mut *consumer).await.len(), 1);
    assert_eq!(engine.pull_now(10).await.len(), 1);
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.in_flight, stats.consumers), (17, 5, 1));
}

pub(crate) async fn ids_count_in_their_topic(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    publish(&*engine, EU, 3).await;
    publish(&*engine, US, 2).await;
    let other = SubscriptionSettings::new(pattern("orders.>"));
    engine.create_subscription(name("other"), other, Intent::Apply).await.unwrap();
    let foreign = soon(engine.pull(&name("other"), PLENTY, Duration::ZERO)).await.unwrap();
    let all = engine.pull_n(5).await;
    let floor = engine.ack(&[of(&all, US, 1).clone(), of(&all, EU, 1).clone()]).await;
    assert_eq!(floor, 1, "of the topic of the last id");
    assert_eq!(engine.ack(&[of(&all, EU, 3).clone(), of(&all, US, 2).clone()]).await, 2);
    assert_eq!(engine.failure(&foreign[0], ACK).await, Failure::WrongSubscription);
    assert_eq!(engine.failure(of(&all, US, 1), ACK).await, Failure::AlreadySettled);
    let mut forged = of(&all, EU, 2).clone();
    forged.ack_id = Bytes::from([&forged.ack_id[..8], b"x", &forged.ack_id[9..]].concat());
    assert_eq!(engine.failure(&forged, ACK).await, Failure::Unknown);
    let none = engine.settle_ids(vec![foreign[0].ack_id.clone()], ACK).await;
    assert_eq!(none.committed_offset, 0, "no topic is meant");

    // A late ack counts until the message is handed out again.
    let left = of(&all, EU, 2).clone();
    engine.settle_all(std::slice::from_ref(&left), END_LEASE).await;
    let again = engine.pull_next(1).await;
    assert_eq!((places(&again), again[0].attempt), (at(EU, [2]), 2));
    assert_eq!(engine.failure(&left, ACK).await, Failure::Expired);
    assert_eq!(engine.settle_all(&again, END_LEASE).await, 1);
    assert_eq!(engine.ack(&again).await, 3);
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.redelivered, stats.committed_offset), (0, 1, 0));
    assert_eq!(stats.oldest_unacked, None);
}

pub(crate) async fn cumulative_acks_stay_in_their_topic(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    publish(&*engine, EU, 3).await;
    publish(&*engine, US, 3).await;
    let all = engine.pull_n(6).await;
    assert_eq!(engine.settle_all(&[of(&all, EU, 3).clone()], ACK_CUMULATIVE).await, 3);
    assert_eq!(engine.progress().await.backlog_messages, 3);
    let both = [of(&all, EU, 3).clone(), of(&all, US, 2).clone()];
    let settled = engine.settle_ids(ids(&both), ACK_CUMULATIVE).await;
    assert_eq!((settled.committed_offset, settled.failures.len()), (2, 1));
    assert_eq!(engine.progress().await.backlog_messages, 1);
}

pub(crate) async fn what_fails_comes_back(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    publish(&*engine, EU, 2).await;
    publish(&*engine, US, 2).await;
    let mut consumer = engine.consumer(FREELY).await;
    let mut other = engine.consumer(messages(0)).await;
    let all = next_n(&mut *consumer, 4).await;
    engine.settle_all(&[of(&all, US, 2).clone()], nack()).await;
    let again = next(&mut *consumer).await;
    assert_eq!((places(&again), again[0].attempt), (at(US, [2]), 2));
    engine.ack(&[of(&all, EU, 1).clone()]).await;
    drop(consumer);
    other.set_credit(FREELY).await;
    let rest = next_n(&mut *other, 3).await;
    assert_eq!(places(&rest), [at(EU, [2]), at(US, 1..=2)].concat(), "whoever vanishes gives all back");
    assert!(rest.iter().all(|delivery| delivery.attempt >= 2));
}

pub(crate) async fn an_exclusive_consumer_has_all_topics(harness: impl Harness) {
    let engine = subscribed(&harness, |settings| settings.mode = Mode::Exclusive).await;
    publish(&*engine, EU, 2).await;
    let mut oldest = engine.consumer(FREELY).await;
    let mut standby = engine.consumer(FREELY).await;
    let waiting = begin(&mut *standby);
    let held = next_n(&mut *oldest, 2).await;
    make(&*engine, "orders.asia").await;
    publish(&*engine, "orders.asia", 1).await;
    publish(&*engine, US, 1).await;
    let more = next_n(&mut *oldest, 2).await;
    assert_eq!(places(&more), [at("orders.asia", [1]), at(US, [1])].concat());
    let pulled = soon(engine.pull(&subscription(), PLENTY, Duration::ZERO)).await;
    assert_eq!(pulled.unwrap_err(), Error::Held(subscription()));
    // What is to come back holds back what follows in its own topic only.
    engine.settle_all(&[of(&held, EU, 1).clone()], super::fixture::nack_for(LONG)).await;
    publish(&*engine, EU, 1).await;
    publish(&*engine, US, 1).await;
    assert_eq!(places(&next(&mut *oldest).await), at(US, [2]));
    drop(oldest);
    let mut taken = soon(waiting).await.unwrap();
    while taken.len() < 3 {
        taken.extend(next(&mut *standby).await);
    }
    assert!(places(&taken).iter().all(|(topic, _)| topic != EU), "{:?}", places(&taken));
}

pub(crate) async fn keys_are_ordered_in_each_topic(harness: impl Harness) {
    let engine = subscribed(&harness, |settings| settings.mode = Mode::KeyOrdered).await;
    publish_all(&*engine, EU, vec![keyed("a"), keyed("a")]).await;
    publish_all(&*engine, US, vec![keyed("a")]).await;
    let mut first = engine.consumer(messages(1)).await;
    let one = next(&mut *first).await;
    let mut second = engine.consumer(FREELY).await;
    let (other, count) = if one[0].message.topic == name(EU) { (US, 1) } else { (EU, 2) };
    let more = next_n(&mut *second, count).await;
    assert_eq!(
        places(&more),
        at(other, 1..=count as Offset),
        "the same key elsewhere has an order of its own"
    );
    let waiting = begin(&mut *second);
    engine.ack(&one).await;
    drop(first);
    if count == 1 {
        assert_eq!(places(&soon(waiting).await.unwrap()), at(EU, [2]));
    }
}

pub(crate) async fn dead_letters_tell_their_topic(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    for topic in [EU, US, "dead"] {
        make(&*engine, topic).await;
    }
    let retry = |topic: &str| RetryPolicy { dead_letter_topic: Some(name(topic)), ..RetryPolicy::default() };
    let looping = subscribe(&engine, |settings| settings.retry = retry(US)).await;
    assert_eq!(looping.unwrap_err(), Error::DeadLetterLoop(name(US)));
    subscribe(&engine, |settings| settings.retry = retry("dead")).await.unwrap();
    let change = SubscriptionChange { retry: Some(retry(EU)), ..SubscriptionChange::default() };
    assert_eq!(update(&engine, change).await, Err(Error::DeadLetterLoop(name(EU))));

    publish(&*engine, EU, 1).await;
    publish_all(&*engine, US, vec![keyed("a"), keyed("b")]).await;
    let all = engine.pull_n(3).await;
    let mut letters = engine
        .subscribe(
            Target::Ephemeral {
                topic: name("dead").into(),
                start: Start::Earliest,
                filter: Filter::default(),
            },
            FREELY,
        )
        .await
        .unwrap();
    engine.settle_all(&[of(&all, US, 2).clone()], give_up("broken")).await;
    let letter = next(&mut *letters).await;
    let about = DeadLetter::read(&letter[0].message.envelope).unwrap();
    assert_eq!((about.subscription, about.topic, about.offset), (subscription(), name(US), 2));
    // The letter can be seen a little before its subscription knows.
    while engine.progress().await.dead_lettered == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.failure(of(&all, US, 2), ACK).await, Failure::AlreadySettled);
    engine.ack(&[of(&all, EU, 1).clone(), of(&all, US, 1).clone()]).await;
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.dead_lettered), (0, 1));
    let in_use = engine.delete_topic(&name("dead"), None).await;
    assert_eq!(in_use, Err(Error::TopicInUse { topic: name("dead"), subscription: subscription() }));
}

pub(crate) async fn a_deleted_topic_leaves(harness: impl Harness) {
    let engine = subscribed(&harness, |settings| settings.max_in_flight = 2).await;
    publish(&*engine, EU, 2).await;
    let gone = engine.pull_n(2).await;
    publish(&*engine, US, 1).await;
    engine.delete_topic(&name(EU), None).await.unwrap();
    assert_eq!(places(&engine.pull_next(5).await), at(US, [1]), "what is gone takes no room");
    assert_eq!(engine.failure(&gone[0], ACK).await, Failure::Expired);
    let stats = engine.progress().await;
    assert_eq!((stats.backlog_messages, stats.in_flight), (1, 1));
    make(&*engine, EU).await;
    publish(&*engine, EU, 1).await;
    let anew = engine.pull_next(5).await;
    assert_eq!((places(&anew), anew[0].attempt), (at(EU, [1]), 1));
    assert_eq!(engine.failure(&gone[0], ACK).await, Failure::Expired);
    assert_eq!(engine.ack(&anew).await, 1);
}

pub(crate) async fn a_seek_moves_every_topic(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    publish(&*engine, EU, 2).await;
    publish(&*engine, US, 1).await;
    let before = engine.pull_n(3).await;
    engine.ack(&before[..1]).await;
    let refused = engine.seek(&subscription(), Start::Offset(1)).await;
    assert_eq!(refused, Err(Error::PatternOffset(pattern("orders.*"))));
    assert_eq!(engine.seek(&subscription(), Start::Latest).await, Ok(0));
    assert_eq!(engine.progress().await.backlog_messages, 0);
    for delivery in &before {
        let failure = engine.failure(delivery, ACK).await;
        assert_eq!(failure, Failure::Expired);
    }
    for start in [Start::Earliest, Start::Time(Timestamp(0))] {
        assert_eq!(engine.seek(&subscription(), start).await, Ok(0));
        let again = engine.pull_n(3).await;
        assert_eq!(places(&again), [at(EU, 1..=2), at(US, [1])].concat());
        engine.ack(&again).await;
    }
}

pub(crate) async fn an_offset_names_no_message(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    publish(&*engine, EU, 1).await;
    let refused = || Error::PatternOffset(pattern("orders.*"));
    let subscription = subscription();
    assert_eq!(engine.browse(&subscription, 1, PLENTY).await.unwrap_err(), refused());
    assert_eq!(engine.discard(&subscription, vec![1]).await.unwrap_err(), refused());
    let moved = engine.move_message(&subscription, 1, &name(US), envelope("moved")).await;
    assert_eq!(moved.unwrap_err(), refused());
    assert_eq!(engine.progress().await.backlog_messages, 1);
}

pub(crate) async fn a_pause_and_a_filter_are_for_all(harness: impl Harness) {
    let filter = Filter::parse(r#"topic == "orders.eu" || offset == 2"#).unwrap();
    let engine = subscribed(&harness, |settings| settings.filter = filter).await;
    publish(&*engine, EU, 1).await;
    publish(&*engine, US, 3).await;
    let mut consumer = engine.consumer(FREELY).await;
    let wanted = next_n(&mut *consumer, 2).await;
    assert_eq!(places(&wanted), [at(EU, [1]), at(US, [2])].concat());
    update(&engine, SubscriptionChange { paused: Some(true), ..SubscriptionChange::default() })
        .await
        .unwrap();
    assert_eq!(next_error(&mut *consumer).await, Error::Paused(subscription()));
    make(&*engine, "orders.asia").await;
    publish(&*engine, "orders.asia", 2).await;
    let paused = soon(engine.pull(&subscription(), PLENTY, Duration::ZERO)).await;
    assert_eq!(paused.unwrap_err(), Error::Paused(subscription()));
    engine.ack(&wanted).await;
    update(&engine, SubscriptionChange { paused: Some(false), ..SubscriptionChange::default() })
        .await
        .unwrap();
    let more = engine.pull_next(5).await;
    assert_eq!(places(&more), at("orders.asia", [2]), "a topic of the meantime has the filter, too");
    engine.ack(&more).await;
}

pub(crate) async fn a_commit_acks_in_several_topics(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    make(&*engine, "done").await;
    publish(&*engine, EU, 1).await;
    publish(&*engine, US, 2).await;
    let all = engine.pull_n(3).await;
    let publish_done =
        Operation::Publish { topic: name("done"), messages: vec![envelope("x")], terms: Terms::default() };
    let ack = |deliveries: &[&Delivery]| Operation::Ack {
        subscription: subscription(),
        ids: deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect(),
    };
    let twice = vec![publish_done.clone(), ack(&[of(&all, US, 1), of(&all, EU, 1), of(&all, US, 1)])];
    let refused = engine.commit(twice).await.unwrap_err();
    let cause = Error::AckRefused { subscription: subscription(), index: 2, failure: Failure::Expired };
    assert_eq!(refused, Error::InCommit { index: 1, cause: Box::new(cause) });
    assert_eq!(engine.progress().await.in_flight, 3);
    let both = vec![publish_done, ack(&[of(&all, US, 1), of(&all, EU, 1), of(&all, US, 2)])];
    let outcomes = engine.commit(both).await.unwrap();
    assert_eq!(outcomes[1], Outcome::Acked(2), "of the topic of the last id");
    assert_eq!(engine.progress().await.backlog_messages, 0);
    assert_eq!(engine.read(&name("done"), Start::Earliest, PLENTY).await.unwrap().len(), 1);
}

pub(crate) async fn it_belongs_to_every_topic(harness: impl Harness) {
    let engine = subscribed(&harness, |_| {}).await;
    publish(&*engine, EU, 1).await;
    publish(&*engine, US, 1).await;
    make(&*engine, "other").await;
    for (topic, is_listed) in [(EU, true), (US, true), ("other", false)] {
        let listed = engine.subscriptions(EVERYTHING, Some(name(topic))).await.unwrap();
        assert_eq!(!listed.is_empty(), is_listed, "{topic}");
    }
    let pulled = engine.pull_n(2).await;
    engine.ack(&[of(&pulled, US, 1).clone()]).await;
    let journeys = |topic: &'static str| {
        let engine = engine.engine();
        async move { engine.explain(&name(topic), 1).await.unwrap().journeys }
    };
    let eu = journeys(EU).await;
    assert!(matches!(eu[0].standing, Standing::InFlight { .. }), "{eu:?}");
    assert_eq!((eu.len(), eu[0].attempts), (1, 1));
    assert_eq!(journeys(US).await[0].standing, Standing::Settled);
}

pub(crate) async fn what_it_has_not_settled_is_kept(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    let mut settings = TopicSettings::default();
    settings.retention.delete_acked = true;
    for topic in [EU, US] {
        engine.create_topic(name(topic), settings.clone(), Intent::Apply).await.unwrap();
    }
    subscribe(&engine, |_| {}).await.unwrap();
    publish(&*engine, EU, 2).await;
    publish(&*engine, US, 2).await;
    let all = engine.pull_n(4).await;
    engine.ack(&[of(&all, EU, 1).clone(), of(&all, US, 1).clone(), of(&all, US, 2).clone()]).await;
    let first = async |topic: &str| engine.topic(&name(topic)).await.unwrap().first_offset;
    let gone = async {
        while first(US).await < 3 || first(EU).await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(gone).await;
    assert_eq!(first(EU).await, 2, "one message is not settled");
    let purged = engine.purge(&name(EU), Start::Latest, Intent::Apply).await.unwrap();
    assert_eq!(purged.messages, 1);
    assert_eq!(engine.progress().await.backlog_messages, 0);
}

pub(crate) async fn readers_without_leases_follow_it(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    make(&*engine, EU).await;
    make(&*engine, US).await;
    publish(&*engine, EU, 30).await;
    publish(&*engine, US, 2).await;
    let open = |start| {
        let target = Target::Ephemeral { topic: pattern("orders.*"), start, filter: Filter::default() };
        engine.subscribe(target, messages(10))
    };
    let refused = open(Start::Offset(1)).await.err();
    assert_eq!(refused, Some(Error::PatternOffset(pattern("orders.*"))));
    let mut all = open(Start::Earliest).await.unwrap();
    let mut new = open(Start::Latest).await.unwrap();
    let mut seen = next(&mut *all).await;
    seen.extend(next(&mut *all).await);
    assert!(places(&seen).contains(&(US.into(), 2)), "each topic has its turn: {:?}", places(&seen));
    while seen.len() < 32 {
        seen.extend(next(&mut *all).await);
    }
    assert_eq!(places(&seen), [at(EU, 1..=30), at(US, 1..=2)].concat());

    make(&*engine, "orders.asia").await;
    publish(&*engine, "orders.asia", 1).await;
    for reader in [&mut all, &mut new] {
        assert_eq!(places(&next(&mut **reader).await), at("orders.asia", [1]));
    }
    engine.delete_topic(&name("orders.asia"), None).await.unwrap();
    make(&*engine, "orders.asia").await;
    publish(&*engine, "orders.asia", 1).await;
    let waiting = next(&mut *new).await;
    assert_eq!(places(&waiting), at("orders.asia", [1]), "a namesake begins anew");
    publish(&*engine, EU, 1).await;
    assert_eq!(places(&next(&mut *new).await), at(EU, [31]));
}

pub(crate) async fn progress_stays_in_each_topic(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = subscribed(&harness, |_| {}).await;
    publish(&*engine, EU, 3).await;
    let early = engine.pull_n(3).await;
    engine.ack(&[of(&early, EU, 2).clone()]).await;
    make(&*engine, "orders.asia").await;
    publish(&*engine, "orders.asia", 2).await;
    publish(&*engine, US, 1).await;
    let late = engine.pull_n(3).await;
    engine.ack(&[of(&late, "orders.asia", 1).clone()]).await;
    engine.delete_topic(&name(US), None).await.unwrap();
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.progress().await.backlog_messages, 3);
    // Ids from before count.
    assert_eq!(engine.ack(&[of(&early, EU, 1).clone()]).await, 2);
    let again = engine.pull_n(2).await;
    assert_eq!(places(&again), [at("orders.asia", [2]), at(EU, [3])].concat());
    assert!(again.iter().all(|delivery| delivery.attempt == 2));
    make(&*engine, US).await;
    publish(&*engine, US, 1).await;
    assert_eq!(places(&engine.pull_next(5).await), at(US, [1]));
    engine.delete_subscription(&subscription(), None).await.unwrap();
    let engine = reopened(&mut harness, engine).await;
    let subscribed_anew = subscribe(&engine, |settings| settings.start = Start::Latest).await;
    assert!(subscribed_anew.is_ok());
    assert_eq!(engine.pull_now(5).await, []);
}

pub(crate) async fn it_covers_only_so_many_topics(harness: impl Harness) {
    let engine = Fixture::as_is(&harness);
    subscribe(&engine, |_| {}).await.unwrap();
    let make_all = (0..MAX_PATTERN_TOPICS).map(|n| {
        let engine = engine.engine();
        async move { make(&*engine, &format!("orders.t{n}")).await }
    });
    futures::future::join_all(make_all).await;
    let full = engine.create_topic(name("orders.one-more"), TopicSettings::default(), Intent::Apply).await;
    let full = full.unwrap_err();
    assert_eq!(full, Error::PatternFull { pattern: pattern("orders.*"), subscription: Some(subscription()) });
    assert!(full.to_string().contains("subscription subscription"), "{full}");
    make(&*engine, "other").await;
    let wider = SubscriptionSettings::new(pattern(">"));
    let refused = engine.create_subscription(name("wider"), wider, Intent::Validate).await;
    assert_eq!(refused.unwrap_err(), Error::PatternFull { pattern: pattern(">"), subscription: None });
    let target = Target::Ephemeral { topic: pattern(">"), start: Start::Latest, filter: Filter::default() };
    let refused = engine.subscribe(target, FREELY).await.err();
    assert_eq!(refused, Some(Error::PatternFull { pattern: pattern(">"), subscription: None }));
    publish(&*engine, "orders.t0", 1).await;
    publish(&*engine, "orders.t999", 1).await;
    let both = soon(engine.pull(&subscription(), at_most(5), LONG)).await.unwrap();
    let count = if both.len() == 2 { 2 } else { 1 + engine.pull_next(5).await.len() };
    assert_eq!(count, 2);
    engine.delete_topic(&name("orders.t1"), None).await.unwrap();
    make(&*engine, "orders.one-more").await;
}

pub(crate) async fn more_time_is_given_in_each(harness: impl Harness) {
    let engine = subscribed(&harness, |settings| settings.ack_deadline = LONG).await;
    publish(&*engine, EU, 1).await;
    publish(&*engine, US, 1).await;
    let all = engine.pull_n(2).await;
    engine.settle_all(&all, Settlement::Extend { deadline: Some(LONG) }).await;
    assert_eq!(engine.pull_now(5).await, []);
    engine.settle_all(&all, END_LEASE).await;
    assert_eq!(places(&engine.pull_n(2).await), [at(EU, [1]), at(US, [1])].concat());
}
