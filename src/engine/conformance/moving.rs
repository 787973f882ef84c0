//! Browsing a subscription, and settling its messages without a delivery.

use super::Harness;
use super::fixture::{
    ACK, EVERYTHING, FREELY, Fixture, LONG, PLENTY, at_most, envelope, messages, name, next_n, offsets, soon,
    subscription, topic,
};
use crate::engine::{Engine, Error, Failure, Intent, Page};
use crate::model::{Name, Offset, Start, SubscriptionSettings, TopicSettings};

fn other() -> Name {
    name("other-topic")
}

fn own() -> Name {
    Name::internal("test", &topic())
}

/// With so many messages, and another topic.
async fn fixture(harness: &impl Harness, count: usize) -> Fixture {
    let fixture = Fixture::subscribed(harness).await;
    fixture.create_topic(other(), TopicSettings::default(), Intent::Apply).await.unwrap();
    fixture.publish(count).await;
    fixture
}

async fn browsed(engine: &dyn Engine, from: Offset) -> Vec<Offset> {
    let found = engine.browse(&subscription(), from, PLENTY).await.unwrap();
    assert!(found.iter().all(|message| message.topic == topic()));
    found.iter().map(|message| message.offset).collect()
}

pub(crate) async fn browse_shows_what_is_not_settled(harness: impl Harness) {
    let engine = fixture(&harness, 6).await;
    assert_eq!(browsed(&*engine, 0).await, [1, 2, 3, 4, 5, 6]);
    let held = engine.pull_n(4).await;
    engine.ack(&held[..1]).await;
    engine.ack(&held[2..3]).await;
    assert_eq!(browsed(&*engine, 1).await, [2, 4, 5, 6]);
    assert_eq!(browsed(&*engine, 3).await, [4, 5, 6]);
    assert_eq!(browsed(&*engine, 7).await, [0; 0]);
    let few = engine.browse(&subscription(), 1, at_most(2)).await.unwrap();
    assert_eq!(few.iter().map(|message| message.offset).collect::<Vec<_>>(), [2, 4]);
    let small = crate::engine::ReadLimit { messages: 10, bytes: 1 };
    assert_eq!(engine.browse(&subscription(), 1, small).await.unwrap().len(), 1, "one of any size");
    // It had no side effects.
    assert_eq!(offsets(&engine.pull_n(2).await), [5, 6]);
    let unknown = engine.browse(&name("unknown"), 1, PLENTY).await;
    assert_eq!(unknown, Err(Error::SubscriptionNotFound(name("unknown"))));
}

pub(crate) async fn a_moved_message_is_here_or_there(harness: impl Harness) {
    let engine = fixture(&harness, 3).await;
    // One that was never handed out, and one that a consumer has.
    let held = engine.pull_n(1).await;
    for offset in [1, 3] {
        let receipt =
            engine.move_message(&subscription(), offset, &other(), envelope("moved")).await.unwrap();
        assert_eq!(receipt.first, receipt.last);
    }
    assert_eq!(browsed(&*engine, 1).await, [2]);
    assert_eq!(engine.failure(&held[0], ACK).await, Failure::AlreadySettled);
    assert_eq!(offsets(&engine.pull_now(10).await), [2]);
    let there = engine.read(&other(), Start::Earliest, PLENTY).await.unwrap();
    assert!(there.len() == 2 && there.iter().all(|message| message.envelope == envelope("moved")));
    assert_eq!(engine.progress().await.committed_offset, 1);
}

pub(crate) async fn of_many_moves_one_succeeds(harness: impl Harness) {
    let engine = fixture(&harness, 20).await;
    let mut moves = tokio::task::JoinSet::new();
    for n in 0..200 {
        let engine = engine.engine();
        moves.spawn(async move {
            engine.move_message(&subscription(), 1 + n % 20, &other(), envelope("moved")).await
        });
    }
    let (won, lost): (Vec<_>, Vec<_>) = soon(moves.join_all()).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 20);
    for refused in lost {
        assert!(matches!(refused, Err(Error::AlreadySettled { .. })), "{refused:?}");
    }
    assert_eq!(engine.read(&other(), Start::Earliest, PLENTY).await.unwrap().len(), 20);
    assert_eq!(engine.progress().await.committed_offset, 20);
}

pub(crate) async fn a_refused_move_changes_nothing(harness: impl Harness) {
    let engine = fixture(&harness, 2).await;
    let refused = engine.move_message(&subscription(), 1, &name("unknown"), envelope("")).await;
    assert_eq!(refused, Err(Error::TopicNotFound(name("unknown"))));
    for offset in [0, 3, u64::MAX] {
        let refused = engine.move_message(&subscription(), offset, &other(), envelope("")).await;
        assert_eq!(refused, Err(Error::NoSuchMessage { topic: topic(), offset, last: 2 }));
    }
    assert_eq!(browsed(&*engine, 1).await, [1, 2]);
    assert!(engine.read(&other(), Start::Earliest, PLENTY).await.unwrap().is_empty());
    // And the message can still be moved.
    engine.move_message(&subscription(), 1, &other(), envelope("")).await.unwrap();
}

pub(crate) async fn discarded_messages_are_settled(harness: impl Harness) {
    let engine = fixture(&harness, 5).await;
    let mut consumer = engine.consumer(messages(1)).await;
    let held = next_n(&mut *consumer, 1).await;
    assert_eq!(engine.discard(&subscription(), vec![1, 3, 3, 4, 0, 6, u64::MAX]).await, Ok(3));
    assert_eq!(engine.discard(&subscription(), vec![1, 3]).await, Ok(0));
    assert_eq!(engine.discard(&subscription(), Vec::new()).await, Ok(0));
    assert_eq!(engine.failure(&held[0], ACK).await, Failure::AlreadySettled);
    // What was held is free again, and what comes next is what is left.
    assert_eq!(offsets(&next_n(&mut *consumer, 1).await), [2]);
    assert_eq!(browsed(&*engine, 1).await, [2, 5]);
    assert_eq!(engine.publish(1).await.first, 6, "no offset was given away");
}

pub(crate) async fn the_servers_own_subscriptions_are_hidden(harness: impl Harness) {
    let engine = fixture(&harness, 1).await;
    let settings = || SubscriptionSettings { ack_deadline: LONG, ..SubscriptionSettings::new(topic()) };
    engine.create_subscription(own(), settings(), Intent::Apply).await.unwrap();
    assert_eq!(engine.subscription(&own()).await.unwrap().name, own());
    for of in [None, Some(topic())] {
        let one = Page { limit: 1, ..EVERYTHING };
        let listed = engine.subscriptions(one, of).await.unwrap();
        assert_eq!(listed.iter().map(|found| &found.name).collect::<Vec<_>>(), [&subscription()]);
    }
    let explained = engine.explain(&topic(), 1).await.unwrap();
    assert_eq!(explained.journeys.len(), 1);
}

pub(crate) async fn the_servers_own_subscriptions_go_with_the_topic(mut harness: impl Harness) {
    let engine = fixture(&harness, 2).await;
    let settings = || SubscriptionSettings::new(topic());
    engine.create_subscription(own(), settings(), Intent::Apply).await.unwrap();
    engine.discard(&own(), vec![1]).await.unwrap();
    let in_use = Error::TopicInUse { topic: topic(), subscription: subscription() };
    assert_eq!(engine.delete_topic(&topic(), None).await, Err(in_use));
    engine.delete_subscription(&subscription(), None).await.unwrap();
    engine.delete_topic(&topic(), None).await.unwrap();
    let gone = Err(Error::SubscriptionNotFound(own()));
    assert_eq!(engine.subscription(&own()).await, gone);
    let persistent = engine.capabilities().persistent;
    drop(engine);
    if persistent {
        harness.reopen().await;
    }
    let engine = Fixture::as_is(&harness);
    assert_eq!(engine.subscription(&own()).await, gone);
    // Another topic of this name has another history.
    engine.create_topic(topic(), TopicSettings::default(), Intent::Apply).await.unwrap();
    engine.create_subscription(own(), settings(), Intent::Apply).await.unwrap();
    engine.publish(2).await;
    assert_eq!(engine.browse(&own(), 1, PLENTY).await.unwrap().len(), 2);
    drop(engine.subscribe(crate::engine::Target::Durable(own()), FREELY).await.unwrap());
}
