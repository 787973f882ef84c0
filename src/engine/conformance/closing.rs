//! A closed engine.

use super::Harness;
use super::fixture::{
    ACK, EVERYTHING, FREELY, Fixture, LONG, PLENTY, begin, envelope, name, next_error, soon, subscription,
    topic,
};
use crate::engine::{Error, Intent, SubscriptionChange, Target, Terms, TopicChange};
use crate::model::{Filter, Start, SubscriptionSettings, TopicSettings};

pub(crate) async fn refuses_everything(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(1).await;
    let capabilities = engine.capabilities();
    soon(engine.close()).await;
    soon(engine.close()).await;
    let settings = SubscriptionSettings::new(topic());
    let ephemeral =
        Target::Ephemeral { topic: topic().into(), start: Start::Earliest, filter: Filter::default() };
    let (change, other) = (SubscriptionChange::default(), name("other"));
    let submitted = match engine.submit(&topic(), vec![envelope("late")], Terms::default()).await {
        Ok(pending) => soon(pending).await.err(),
        Err(error) => Some(error),
    };
    let errors = [
        engine.create_topic(other.clone(), TopicSettings::default(), Intent::Apply).await.err(),
        engine.topic(&topic()).await.err(),
        engine.topics(EVERYTHING).await.err(),
        engine.update_topic(&topic(), TopicChange::default(), None, Intent::Apply).await.err(),
        engine.delete_topic(&topic(), None).await.err(),
        submitted,
        engine.read(&topic(), Start::Earliest, PLENTY).await.err(),
        engine.create_subscription(other, settings, Intent::Apply).await.err(),
        engine.subscription(&subscription()).await.err(),
        engine.subscriptions(EVERYTHING, None).await.err(),
        engine.update_subscription(&subscription(), change, None, Intent::Apply).await.err(),
        engine.delete_subscription(&subscription(), None).await.err(),
        engine.stats(&subscription()).await.err(),
        engine.subscribe(Target::Durable(subscription()), FREELY).await.err(),
        engine.subscribe(ephemeral, FREELY).await.err(),
        engine.pull(&subscription(), PLENTY, LONG).await.err(),
        engine.settle(&subscription(), vec![], ACK).await.err(),
    ];
    for (number, error) in errors.into_iter().enumerate() {
        assert_eq!(error, Some(Error::Closed), "call {number}");
    }
    assert_eq!(engine.capabilities(), capabilities);
}

pub(crate) async fn ends_consumers(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let mut idle = engine.consumer(FREELY).await;
    let mut waiting = engine.consumer(FREELY).await;
    let mut ephemeral = engine.ephemeral(Start::Latest, FREELY).await;
    let (next, read) = (begin(&mut *waiting), begin(&mut *ephemeral));
    soon(engine.close()).await;
    assert_eq!(soon(next).await.unwrap_err(), Error::Closed);
    assert_eq!(soon(read).await.unwrap_err(), Error::Closed);
    idle.set_credit(FREELY).await;
    for consumer in [&mut idle, &mut waiting, &mut ephemeral] {
        assert_eq!(next_error(&mut **consumer).await, Error::Closed);
    }
}

pub(crate) async fn ends_a_waiting_pull(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let name = subscription();
    let mut pull = engine.pull(&name, PLENTY, LONG);
    assert!(futures::poll!(pull.as_mut()).is_pending());
    soon(engine.close()).await;
    assert_eq!(soon(pull).await.unwrap_err(), Error::Closed);
}
