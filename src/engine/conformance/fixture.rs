//! What the cases share: an engine with one topic, usually one subscription, and short names for what
//! is done to them.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;

use super::Harness;
use crate::engine::{
    Consumer, Credit, Engine, Error, Failure, Intent, Page, ReadLimit, Result, Retry, Settled, Settlement,
    Target, Terms,
};
use crate::model::{
    Delivery, Envelope, Filter, Name, Offset, Receipt, Start, StoredMessage, SubscriptionSettings,
    SubscriptionStats, Timestamp, TopicSettings,
};

/// How long something that must happen may take: long enough for any machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A lease or delay that ends within a test.
pub(super) const SHORT: Duration = Duration::from_millis(50);
/// A lease or delay that does not end within a test.
pub(super) const LONG: Duration = Duration::from_hours(1);

/// More of everything than a case asks for.
pub(super) const PLENTY: ReadLimit = ReadLimit { messages: 100_000, bytes: 1 << 30 };
pub(super) const FREELY: Credit = Credit { messages: 100_000, bytes: 1 << 30 };
pub(super) const EVERYTHING: Page = Page { after: None, limit: 1_000, pattern: None };

pub(super) const ACK: Settlement = Settlement::Ack { cumulative: false };
pub(super) const ACK_CUMULATIVE: Settlement = Settlement::Ack { cumulative: true };
/// Ends a lease, as if its deadline had come.
pub(super) const END_LEASE: Settlement = Settlement::Extend { deadline: Some(Duration::ZERO) };

/// A failed delivery, to be handed out again after a delay.
pub(super) fn nack_for(delay: Duration) -> Settlement {
    Settlement::Nack { retry: Retry::After(delay), reason: "".into() }
}

/// A failed delivery, to be handed out again at once.
pub(super) fn nack() -> Settlement {
    nack_for(Duration::ZERO)
}

/// A failed delivery, and what the subscription's policy makes of it.
pub(super) fn fail(reason: &str) -> Settlement {
    Settlement::Nack { retry: Retry::ByPolicy, reason: reason.into() }
}

/// A delivery that is given up.
pub(super) fn give_up(reason: &str) -> Settlement {
    Settlement::Nack { retry: Retry::Never, reason: reason.into() }
}

/// The topic of most cases.
pub(super) fn topic() -> Name {
    name("topic")
}

/// The subscription of most cases.
pub(super) fn subscription() -> Name {
    name("subscription")
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(super) fn envelope(text: impl Into<Vec<u8>>) -> Envelope {
    Envelope(Bytes::from(text.into()))
}

/// A `columba.v1.Message` with an id, a key and data.
pub(super) fn named(id: &str, key: &str, data: &str) -> Envelope {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Message {
        #[prost(string, tag = "1")]
        data: String,
        #[prost(string, tag = "2")]
        key: String,
        #[prost(string, tag = "4")]
        id: String,
    }
    let message = Message { data: data.into(), key: key.into(), id: id.into() };
    Envelope(prost::Message::encode_to_vec(&message).into())
}

/// Whether the harness can open its engine again.
pub(super) fn persistent(harness: &impl Harness) -> bool {
    harness.engine().capabilities().persistent
}

/// Closes the engine and opens another on the same data.
pub(super) async fn reopened(harness: &mut impl Harness, fixture: Fixture) -> Fixture {
    drop(fixture);
    harness.reopen().await;
    Fixture::as_is(harness)
}

/// A message with nothing but a key.
pub(super) fn keyed(key: &str) -> Envelope {
    let mut encoded = Vec::new();
    if !key.is_empty() {
        prost::encoding::string::encode(2, &key.to_owned(), &mut encoded);
    }
    envelope(encoded)
}

/// A message with nothing but times.
pub(super) fn timed(deliver: Option<Timestamp>, expire: Option<Timestamp>) -> Envelope {
    let mut encoded = Vec::new();
    for (field, time) in [(9, deliver), (10, expire)] {
        let Some(Timestamp(micros)) = time else { continue };
        let seconds = (micros / 1_000_000).cast_signed();
        let nanos = i32::try_from(micros % 1_000_000 * 1_000).unwrap();
        prost::encoding::message::encode(field, &prost_types::Timestamp { seconds, nanos }, &mut encoded);
    }
    envelope(encoded)
}

/// A message with a key, not to be delivered before a time.
pub(super) fn keyed_at(key: &str, deliver: Timestamp) -> Envelope {
    envelope([&keyed(key).0[..], &timed(Some(deliver), None).0].concat())
}

pub(super) fn messages(messages: u32) -> Credit {
    Credit { messages, ..FREELY }
}

pub(super) fn at_most(messages: usize) -> ReadLimit {
    ReadLimit { messages, ..PLENTY }
}

/// Waits for what must happen.
pub(super) async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("nothing happened")
}

/// Begins to wait for messages, and finds none.
pub(super) fn begin(
    consumer: &mut dyn Consumer,
) -> Pin<Box<dyn Future<Output = Result<Vec<Delivery>>> + '_>> {
    let mut next = consumer.next();
    assert_eq!(next.as_mut().now_or_never(), None, "there are messages already");
    next
}

pub(super) fn offsets(deliveries: &[Delivery]) -> Vec<Offset> {
    deliveries.iter().map(|delivery| delivery.message.offset).collect()
}

/// Offsets and attempts.
pub(super) fn attempts(deliveries: &[Delivery]) -> Vec<(Offset, u32)> {
    deliveries.iter().map(|delivery| (delivery.message.offset, delivery.attempt)).collect()
}

pub(super) fn ids(deliveries: &[Delivery]) -> Vec<Bytes> {
    deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect()
}

/// The next messages, which must come.
pub(super) async fn next(consumer: &mut dyn Consumer) -> Vec<Delivery> {
    let deliveries = soon(consumer.next()).await.unwrap();
    assert!(!deliveries.is_empty(), "next() came back with nothing");
    deliveries
}

/// The next so many messages, in as many batches as they come in.
pub(super) async fn next_n(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = next(consumer).await;
    while deliveries.len() < count {
        deliveries.extend(next(consumer).await);
    }
    assert_eq!(deliveries.len(), count, "more came than there should be");
    deliveries
}

pub(super) async fn next_error(consumer: &mut dyn Consumer) -> Error {
    soon(consumer.next()).await.unwrap_err()
}

/// An engine with [`topic`].
pub(super) struct Fixture(Arc<dyn Engine>);

impl Deref for Fixture {
    type Target = dyn Engine;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Fixture {
    /// The engine as it is.
    pub(super) fn as_is(harness: &impl Harness) -> Self {
        Self(harness.engine())
    }

    /// With [`topic`].
    pub(super) async fn new(harness: &impl Harness) -> Self {
        let fixture = Self::as_is(harness);
        fixture.create_topic(topic(), TopicSettings::default(), Intent::Apply).await.unwrap();
        fixture
    }

    /// With [`topic`] and [`subscription`].
    pub(super) async fn subscribed(harness: &impl Harness) -> Self {
        Self::subscribed_with(harness, |_| {}).await
    }

    /// With [`topic`] and [`subscription`], changed from the defaults.
    pub(super) async fn subscribed_with(
        harness: &impl Harness,
        change: impl FnOnce(&mut SubscriptionSettings),
    ) -> Self {
        let fixture = Self::new(harness).await;
        let mut settings = SubscriptionSettings { ack_deadline: LONG, ..SubscriptionSettings::new(topic()) };
        change(&mut settings);
        fixture.create_subscription(subscription(), settings, Intent::Apply).await.unwrap();
        fixture
    }

    /// The engine, for another task.
    pub(super) fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.0)
    }

    pub(super) async fn add_subscription(&self, name: &Name, start: Start) {
        let settings =
            SubscriptionSettings { start, ack_deadline: LONG, ..SubscriptionSettings::new(topic()) };
        self.create_subscription(name.clone(), settings, Intent::Apply).await.unwrap();
    }

    /// Publishes these to [`topic`] and waits for the receipt.
    pub(super) async fn publish_all(&self, messages: Vec<Envelope>) -> Receipt {
        let pending = self.submit(&topic(), messages, Terms::default()).await.unwrap();
        soon(pending).await.unwrap()
    }

    /// Publishes so many small messages to [`topic`] in one request.
    pub(super) async fn publish(&self, count: usize) -> Receipt {
        self.publish_all((0..count).map(|n| envelope(format!("message {n}"))).collect()).await
    }

    /// Everything in [`topic`].
    pub(super) async fn read_all(&self) -> Vec<StoredMessage> {
        self.read(&topic(), Start::Earliest, PLENTY).await.unwrap()
    }

    /// A consumer of [`subscription`].
    pub(super) async fn consumer(&self, credit: Credit) -> Box<dyn Consumer> {
        self.subscribe(Target::Durable(subscription()), credit).await.unwrap()
    }

    pub(super) async fn ephemeral(&self, start: Start, credit: Credit) -> Box<dyn Consumer> {
        self.subscribe(Target::Ephemeral { topic: topic().into(), start, filter: Filter::default() }, credit)
            .await
            .unwrap()
    }

    /// What can be had from [`subscription`] now.
    pub(super) async fn pull_now(&self, messages: usize) -> Vec<Delivery> {
        soon(self.pull(&subscription(), at_most(messages), Duration::ZERO)).await.unwrap()
    }

    /// What comes next on [`subscription`].
    pub(super) async fn pull_next(&self, messages: usize) -> Vec<Delivery> {
        let deliveries = soon(self.pull(&subscription(), at_most(messages), LONG)).await.unwrap();
        assert!(!deliveries.is_empty(), "a pull that waits came back with nothing");
        deliveries
    }

    /// The next so many messages, in as many pulls as it takes.
    pub(super) async fn pull_n(&self, count: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            deliveries.extend(self.pull_next(count - deliveries.len()).await);
        }
        deliveries
    }

    pub(super) async fn settle_ids(&self, ids: Vec<Bytes>, settlement: Settlement) -> Settled {
        soon(self.settle(&subscription(), ids, settlement)).await.unwrap()
    }

    /// Settles deliveries of [`subscription`], all of which must count; returns the floor.
    pub(super) async fn settle_all(&self, deliveries: &[Delivery], settlement: Settlement) -> Offset {
        let settled = self.settle_ids(ids(deliveries), settlement).await;
        assert_eq!(settled.failures, [], "some ids did not count");
        settled.committed_offset
    }

    pub(super) async fn ack(&self, deliveries: &[Delivery]) -> Offset {
        self.settle_all(deliveries, ACK).await
    }

    /// Settles one delivery, which must fail.
    pub(super) async fn failure(&self, delivery: &Delivery, settlement: Settlement) -> Failure {
        let settled = self.settle_ids(vec![delivery.ack_id.clone()], settlement).await;
        let [(id, failure)] = &settled.failures[..] else { panic!("the id counted: {settled:?}") };
        assert_eq!(*id, delivery.ack_id);
        *failure
    }

    pub(super) async fn progress(&self) -> SubscriptionStats {
        self.stats(&subscription()).await.unwrap()
    }
}
