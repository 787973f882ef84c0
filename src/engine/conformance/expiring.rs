//! Subscriptions that are deleted when nobody uses them.

use std::time::Duration;

use super::Harness;
use super::fixture::{FREELY, Fixture, LONG, SHORT, name, next_n, soon, subscription, topic};
use crate::engine::{Error, Intent, SubscriptionChange};
use crate::model::{Name, SubscriptionSettings};

async fn add(engine: &Fixture, name: &Name, idle_expiry: Duration) {
    let settings = SubscriptionSettings { idle_expiry, ..SubscriptionSettings::new(topic()) };
    let created = engine.create_subscription(name.clone(), settings, Intent::Apply).await.unwrap();
    assert_eq!(created.settings.idle_expiry, idle_expiry);
}

/// Waits until a subscription is deleted, without using it.
async fn gone(engine: &Fixture, name: &Name) {
    let gone = async {
        while engine.subscription(name).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(gone).await;
    assert_eq!(engine.subscription(name).await, Err(Error::SubscriptionNotFound(name.clone())));
}

pub(crate) async fn an_unused_one_is_deleted(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    add(&engine, &name("for-ever"), Duration::ZERO).await;
    add(&engine, &name("longer"), LONG).await;
    add(&engine, &subscription(), SHORT).await;
    gone(&engine, &subscription()).await;
    for other in ["for-ever", "longer"] {
        engine.subscription(&name(other)).await.unwrap();
        engine.delete_subscription(&name(other), None).await.unwrap();
    }
    engine.delete_topic(&topic(), None).await.unwrap();
}

pub(crate) async fn a_used_one_stays_until_it_is_left(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    add(&engine, &subscription(), SHORT).await;
    let mut consumer = engine.consumer(FREELY).await;
    let puller = engine.engine();
    add(&engine, &name("pulled"), SHORT).await;
    let pull = tokio::spawn(async move { puller.pull(&name("pulled"), super::fixture::PLENTY, LONG).await });
    // What began later and is over shows that the time of the others would be over, too.
    add(&engine, &name("unused"), SHORT).await;
    gone(&engine, &name("unused")).await;
    engine.publish(1).await;
    next_n(&mut *consumer, 1).await;
    assert_eq!(soon(pull).await.unwrap().unwrap().len(), 1);
    drop(consumer);
    gone(&engine, &subscription()).await;
    gone(&engine, &name("pulled")).await;
}

pub(crate) async fn the_time_can_be_changed(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    add(&engine, &subscription(), LONG).await;
    let set = async |idle_expiry| {
        let change = SubscriptionChange { idle_expiry: Some(idle_expiry), ..SubscriptionChange::default() };
        engine.update_subscription(&subscription(), change, None, Intent::Apply).await.unwrap()
    };
    assert_eq!(set(Duration::ZERO).await.settings.idle_expiry, Duration::ZERO);
    assert_eq!(set(SHORT).await.settings.idle_expiry, SHORT);
    gone(&engine, &subscription()).await;
}

pub(crate) async fn a_namesake_has_a_time_of_its_own(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    add(&engine, &subscription(), SHORT).await;
    engine.delete_subscription(&subscription(), None).await.unwrap();
    add(&engine, &subscription(), Duration::ZERO).await;
    add(&engine, &name("unused"), SHORT).await;
    gone(&engine, &name("unused")).await;
    engine.subscription(&subscription()).await.unwrap();
}
