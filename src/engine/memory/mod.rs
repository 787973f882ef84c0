//! The in-memory reference engine: naive, and right by being looked at.
//!
//! Everything is in plain maps behind one lock. Who waits asks again after every change, and whenever
//! time alone may have changed something; nothing is ever sent to anybody. It shows what the contract
//! means, and tests use it where durability is not the point. It is not for production: it forgets
//! everything, and its cost grows with the number of waiting consumers.

mod ack_id;
mod asking;
mod commit;
mod consumer;
mod ephemeral;
mod group;
mod keys;
mod log;
mod queue;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use self::consumer::Durable;
use self::ephemeral::Ephemeral;
use self::queue::Room;
use self::state::State;
use super::{
    Capabilities, Consumer, Credit, Engine, Error, Intent, Operation, Outcome, Page, PendingReceipt, Purged,
    ReadLimit, Result, Settled, Settlement, SubscriptionChange, Target, Terms, TopicChange, TopicChanged,
    Watch,
};
use crate::model::{
    Advisory, ConsumerInfo, Delivery, Envelope, Explanation, Name, Offset, Receipt, Start, StoredMessage,
    Subscription, SubscriptionSettings, SubscriptionStats, Topic, TopicSettings,
};

/// Keeps everything in memory, and forgets it when dropped. Its receipts say
/// [`Durability::Buffered`](crate::model::Durability::Buffered), whatever was asked for: it has no disk.
#[derive(Default)]
pub struct MemoryEngine(Arc<Shared>);

impl MemoryEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// The state, and word of its changes.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// What came of one look at the state.
enum Step {
    /// Messages; never none.
    Done(Vec<Delivery>),
    /// Look again after a change, or at this time.
    Wait(Option<Instant>),
}

impl Step {
    fn of(deliveries: Vec<Delivery>, next_due: impl FnOnce() -> Option<Instant>) -> Self {
        if deliveries.is_empty() { Self::Wait(next_due()) } else { Self::Done(deliveries) }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a test's; the state is whole between any two statements that matter.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.forget_unused(std::time::Instant::now());
        state
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        // Time alone may have passed some limit.
        state.retain();
        if state.closed { Err(Error::Closed) } else { look(&state) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        let result = if state.closed { Err(Error::Closed) } else { change(&mut state) };
        state.retain();
        drop(state);
        self.changed.send_replace(());
        result
    }

    /// Takes steps until one yields messages. The step that yields them is the last thing that
    /// happens, so giving up the wait loses none.
    async fn wait_for(
        &self,
        mut step: impl FnMut(&mut State, Instant) -> Result<Step>,
    ) -> Result<Vec<Delivery>> {
        let mut changed = self.changed.subscribe();
        loop {
            let taken = {
                let mut state = self.lock();
                if state.closed { Err(Error::Closed) } else { step(&mut state, Instant::now()) }
            };
            match taken? {
                Step::Done(deliveries) => {
                    // Others that wait must now wait for these leases to end, too.
                    self.changed.send_replace(());
                    return Ok(deliveries);
                }
                Step::Wait(None) => drop(changed.changed().await),
                Step::Wait(Some(due)) => drop(timeout_at(due, changed.changed()).await),
            }
        }
    }
}

/// Resolves when the engine is closed.
async fn closed(mut changed: watch::Receiver<()>, shared: Arc<Shared>) {
    while !shared.lock().closed {
        let _ = changed.changed().await;
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "memory",
            persistent: false,
            exclusive: true,
            key_ordered: true,
            history: false,
            commit: true,
        }
    }

    async fn create_topic(&self, name: Name, settings: TopicSettings, intent: Intent) -> Result<Topic> {
        self.0.change(|state| state.create_topic(name, settings, intent))
    }

    async fn topic(&self, name: &Name) -> Result<Topic> {
        self.0.look(|state| Ok(state.log(name)?.topic()))
    }

    async fn topics(&self, page: Page) -> Result<Vec<Topic>> {
        self.0.look(|state| Ok(state.topics(&page)))
    }

    async fn internal_topics(&self, kind: &str) -> Result<Vec<Topic>> {
        self.0.look(|state| Ok(state.internal_topics(kind)))
    }

    async fn update_topic(
        &self,
        name: &Name,
        change: TopicChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Topic> {
        self.0.change(|state| state.update_topic(name, change, expected, intent))
    }

    async fn delete_topic(&self, name: &Name, expected: Option<u64>) -> Result<()> {
        self.0.change(|state| state.delete_topic(name, expected))
    }

    async fn purge(&self, topic: &Name, before: Start, intent: Intent) -> Result<Purged> {
        self.0.change(|state| state.purge(topic, before, intent))
    }

    async fn submit(&self, topic: &Name, messages: Vec<Envelope>, terms: Terms) -> Result<PendingReceipt> {
        let receipt = self.0.change(|state| state.log_mut(topic)?.publish(messages, terms))?;
        Ok(Box::pin(std::future::ready(Ok(receipt))))
    }

    async fn commit(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.0.change(|state| state.commit(operations))
    }

    async fn read(&self, topic: &Name, start: Start, limit: ReadLimit) -> Result<Vec<StoredMessage>> {
        self.0.look(|state| {
            let log = state.log(topic)?;
            Ok(log.read(log.resolve(start), limit))
        })
    }

    async fn create_subscription(
        &self,
        name: Name,
        settings: SubscriptionSettings,
        intent: Intent,
    ) -> Result<Subscription> {
        self.0.change(|state| state.create_subscription(name, settings, intent))
    }

    async fn subscription(&self, name: &Name) -> Result<Subscription> {
        self.0.look(|state| Ok(state.group(name)?.subscription().clone()))
    }

    async fn subscriptions(&self, page: Page, topic: Option<Name>) -> Result<Vec<Subscription>> {
        self.0.look(|state| Ok(state.subscriptions(&page, topic.as_ref())))
    }

    async fn update_subscription(
        &self,
        name: &Name,
        change: SubscriptionChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Subscription> {
        self.0.change(|state| state.update_subscription(name, change, expected, intent))
    }

    async fn delete_subscription(&self, name: &Name, expected: Option<u64>) -> Result<()> {
        self.0.change(|state| state.delete_subscription(name, expected))
    }

    async fn seek(&self, subscription: &Name, start: Start) -> Result<Offset> {
        self.0.change(|state| state.seek(subscription, start))
    }

    async fn stats(&self, subscription: &Name) -> Result<SubscriptionStats> {
        self.0.change(|state| state.stats(subscription))
    }

    async fn browse(
        &self,
        subscription: &Name,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<StoredMessage>> {
        self.0.look(|state| state.browse(subscription, from, limit))
    }

    async fn move_message(
        &self,
        subscription: &Name,
        offset: Offset,
        to: &Name,
        envelope: Envelope,
    ) -> Result<Receipt> {
        self.0.change(|state| state.move_message(subscription, offset, to, envelope))
    }

    async fn discard(&self, subscription: &Name, offsets: Vec<Offset>) -> Result<u64> {
        self.0.change(|state| state.discard(subscription, offsets))
    }

    async fn consumers(&self, subscription: Option<&Name>) -> Result<Vec<ConsumerInfo>> {
        self.0.look(|state| state.consumers(subscription))
    }

    async fn explain(&self, topic: &Name, offset: Offset) -> Result<Explanation> {
        self.0.change(|state| state.explain(topic, offset))
    }

    fn advisories(&self) -> Result<Watch<Advisory>> {
        self.0.look(|state| state.advisories.watch(closed(self.0.changed.subscribe(), Arc::clone(&self.0))))
    }

    fn topic_changes(&self) -> Result<Watch<TopicChanged>> {
        self.0
            .look(|state| state.topic_changes.watch(closed(self.0.changed.subscribe(), Arc::clone(&self.0))))
    }

    async fn subscribe_as(&self, target: Target, credit: Credit, name: &str) -> Result<Box<dyn Consumer>> {
        Ok(match target {
            Target::Durable(subscription) => Box::new(Durable::open(&self.0, subscription, credit, name)?),
            Target::Ephemeral { topic, start, filter } => {
                Box::new(Ephemeral::open(&self.0, topic, start, filter, credit)?)
            }
        })
    }

    async fn pull(&self, subscription: &Name, limit: ReadLimit, wait: Duration) -> Result<Vec<Delivery>> {
        let (number, _user, _place) = self.0.look(|state| {
            let group = state.group(subscription)?;
            Ok((group.number, group.idle.enter(), group.enter_pull()?))
        })?;
        let room = Room { messages: limit.messages, first_bytes: u64::MAX, bytes: limit.bytes as u64 };
        let pulled = self.0.wait_for(|state, now| {
            let (group, logs, ids) = state.group_numbered(subscription, number)?;
            Ok(Step::of(group.pull(room, logs, ids, now)?, || group.next_due(logs, now)))
        });
        timeout(wait, pulled).await.unwrap_or_else(|_nothing_came| Ok(Vec::new()))
    }

    async fn settle(&self, subscription: &Name, ids: Vec<Bytes>, settlement: Settlement) -> Result<Settled> {
        self.0.change(|state| state.settle(subscription, ids, &settlement))
    }

    async fn failed(&self) -> String {
        std::future::pending().await
    }

    async fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests;
