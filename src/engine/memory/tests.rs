//! The conformance suite on the reference, and the limits that only it reaches quickly.

use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryEngine;
use crate::engine::conformance::{Harness, conformance_suite};
use crate::engine::{Engine, Error, Intent};
use crate::model::limits::{MAX_SUBSCRIPTIONS, MAX_TOPICS};
use crate::model::{Name, SubscriptionSettings, TopicSettings};

struct Memory(Arc<MemoryEngine>);

#[async_trait]
impl Harness for Memory {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.0) as Arc<dyn Engine>
    }

    async fn reopen(&mut self) {
        unreachable!("this engine does not claim to be persistent");
    }
}

fn memory() -> Memory {
    Memory(Arc::new(MemoryEngine::new()))
}

conformance_suite!(memory());

fn name(prefix: &str, number: usize) -> Name {
    Name::parse(&format!("{prefix}-{number}")).unwrap()
}

#[tokio::test]
async fn topics_and_subscriptions_are_limited() {
    let engine = MemoryEngine::new();
    let settings = TopicSettings::default;
    for number in 0..MAX_TOPICS {
        engine.create_topic(name("topic", number), settings(), Intent::Apply).await.unwrap();
    }
    let error =
        engine.create_topic(name("topic", MAX_TOPICS), settings(), Intent::Validate).await.unwrap_err();
    assert_eq!(error, Error::TooMany { what: "topics", limit: MAX_TOPICS });
    engine.create_topic(name("topic", 0), settings(), Intent::Apply).await.unwrap();

    let settings = || SubscriptionSettings::new(name("topic", 0));
    for number in 0..MAX_SUBSCRIPTIONS {
        engine.create_subscription(name("sub", number), settings(), Intent::Apply).await.unwrap();
    }
    let error = engine.create_subscription(name("more", 0), settings(), Intent::Apply).await.unwrap_err();
    assert_eq!(error, Error::TooMany { what: "subscriptions", limit: MAX_SUBSCRIPTIONS });
}
