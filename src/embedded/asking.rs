//! What the engine knows about single messages and consumers.

use std::sync::Arc;

use super::Shared;
use super::delivery::dispatch::Event;
use super::subscriptions::SubscriptionHandle;
use crate::engine::{Error, ReadLimit, Result};
use crate::model::{ConsumerInfo, Explanation, Name, Offset};

/// One message, whatever its size.
const ONE: ReadLimit = ReadLimit { messages: 1, bytes: 1 };

impl Shared {
    pub(super) async fn explain(&self, topic: &Name, offset: Offset) -> Result<Explanation> {
        let topic = self.find_topic(topic)?;
        let last = topic.visible();
        let none = || Error::NoSuchMessage { topic: topic.name.clone(), offset, last };
        if !(1..=last).contains(&offset) {
            return Err(none());
        }
        let read = self.log.reader.read(&topic, offset, ONE).await?;
        let message = read.messages.into_iter().find(|message| message.offset == offset).ok_or_else(none)?;
        let mut journeys = Vec::new();
        let own = topic.name.is_internal();
        for handle in self.handles(own, |handle| handle.lane_of(&topic).is_some()) {
            let Some(lane) = handle.lane_of(&topic).map(|lane| lane.id) else { continue };
            let explain = |reply| Event::Explain { lane, offset, reply };
            // One that is deleted in the meantime has nothing to say any more.
            journeys.extend(handle.ask(explain).await.ok());
        }
        Ok(Explanation { message, journeys })
    }

    pub(super) async fn consumers(&self, subscription: Option<&Name>) -> Result<Vec<ConsumerInfo>> {
        let handles = match subscription {
            Some(name) => vec![self.find_subscription(name)?],
            None => self.handles(false, |handle| handle.has_consumers()),
        };
        let mut consumers = Vec::new();
        for handle in handles {
            consumers.extend(handle.ask(Event::Consumers).await.unwrap_or_default());
        }
        consumers.sort_by_key(|consumer: &ConsumerInfo| consumer.number);
        self.check_open()?;
        Ok(consumers)
    }

    /// The subscriptions that are wanted, by name; the server's own only if those are wanted, too.
    fn handles(
        &self,
        own: bool,
        wanted: impl Fn(&Arc<SubscriptionHandle>) -> bool,
    ) -> Vec<Arc<SubscriptionHandle>> {
        let catalog = self.catalog();
        let users = catalog.subscriptions.values().filter(|handle| own || !handle.is_internal());
        users.filter(|handle| wanted(handle)).cloned().collect()
    }
}
