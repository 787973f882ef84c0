//! The contract between the API and whatever keeps the messages.
//!
//! The contract is at the level of queues (publish, lease, settle), not of logs, because an engine
//! may leave leases and redelivery to a system that owns them. Every engine passes the same suite,
//! `engine::conformance`; what it cannot do it says in [`Capabilities`].

#[cfg(test)]
pub(crate) mod conformance;
mod error;
pub(crate) mod idle;
mod memory;
mod readings;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::model::{
    Advisory, ConsumerInfo, Delivery, Durability, Envelope, Explanation, Filter, Name, Offset, Pattern,
    Receipt, Retention, RetryPolicy, Start, StoredMessage, Subscription, SubscriptionSettings,
    SubscriptionStats, Topic, TopicSettings,
};

pub use error::{Error, Failure};
pub use memory::MemoryEngine;
pub use readings::{LogReadings, Readings, SubscriptionReadings, TopicReadings};
pub(crate) use watch::Announcer;
pub use watch::{TopicChanged, Watch, Watched};

/// The result of every engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// What comes of messages once they are submitted: their receipt, when they are as safe as was
/// asked. Dropping it forgets the receipt, not the messages.
pub type PendingReceipt = BoxFuture<'static, Result<Receipt>>;

/// What an engine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each thing an engine may not be able to do")]
pub struct Capabilities {
    /// The engine's name, such as `embedded`.
    pub engine: &'static str,
    /// Messages survive a restart of the process.
    pub persistent: bool,
    /// [`Mode::Exclusive`](crate::model::Mode::Exclusive) subscriptions keep the topic's order.
    pub exclusive: bool,
    /// [`Mode::KeyOrdered`](crate::model::Mode::KeyOrdered) subscriptions keep the order of each key.
    pub key_ordered: bool,
    /// [`Engine::explain`] tells what happened, not only where a message is.
    pub history: bool,
    /// [`Engine::commit`] works.
    pub commit: bool,
}

/// Whether a change is made, or only checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Make the change.
    Apply,
    /// Answer as if the change were made, and change nothing.
    Validate,
}

/// Which part of a list to return. Lists are in the order of names.
#[derive(Debug, Clone)]
pub struct Page {
    /// Only names after this one.
    pub after: Option<Name>,
    /// At most so many entries.
    pub limit: usize,
    /// Only names that match.
    pub pattern: Option<Pattern>,
}

/// How much one read may return. One message is always allowed, whatever its size.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// At most so many messages.
    pub messages: usize,
    /// At most so many bytes of envelopes.
    pub bytes: usize,
}

/// Which fields of a topic's settings an update replaces.
#[derive(Debug, Clone, Default)]
pub struct TopicChange {
    /// New labels.
    pub labels: Option<std::collections::BTreeMap<String, String>>,
    /// New default durability.
    pub durability: Option<Durability>,
    /// New limit; messages already stored are kept.
    pub max_message_bytes: Option<u32>,
    /// New window for ids; zero forgets all of them. What was forgotten stays so in a longer one.
    pub dedupe_window: Option<Duration>,
    /// What is kept from now on; what that excludes goes soon.
    pub retention: Option<Retention>,
}

/// What a purge dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// The oldest message left, or the next one if none is.
    pub first: Offset,
    /// How many offsets went.
    pub messages: u64,
}

/// Which fields of a subscription's settings an update replaces.
#[derive(Debug, Clone, Default)]
pub struct SubscriptionChange {
    /// New deadline for deliveries handed out from now on.
    pub ack_deadline: Option<Duration>,
    /// New limit; takes effect as deliveries are settled.
    pub max_in_flight: Option<u32>,
    /// What becomes of deliveries that are not acknowledged, from now on.
    pub retry: Option<RetryPolicy>,
    /// Which messages it wants, of those not handed out yet and of those handed out again. What did not
    /// match before stays settled.
    pub filter: Option<Filter>,
    /// How long it may go unused, from now on; zero for ever.
    pub idle_expiry: Option<Duration>,
    /// Whether it is paused from now on.
    pub paused: Option<bool>,
    /// New labels.
    pub labels: Option<std::collections::BTreeMap<String, String>>,
}

/// How messages are to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// How safe they must be when the receipt comes; as the topic says, if `None`.
    pub durability: Option<Durability>,
    /// Only if the topic's last message has this offset; 0 for one that never had a message.
    pub expected_last: Option<Offset>,
    /// Only if the topic's last message with their key has this offset; 0 if none ever had it. All the
    /// messages must have the same key, and not the empty one.
    pub expected_key: Option<Offset>,
}

impl From<Durability> for Terms {
    fn from(durability: Durability) -> Self {
        Self { durability: Some(durability), ..Self::default() }
    }
}

/// Something to be done together with others, or not at all.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Messages are published, as by [`Engine::submit`].
    Publish {
        /// The topic.
        topic: Name,
        /// The messages, at least one.
        messages: Vec<Envelope>,
        /// On which terms. What is expected is expected after the operations before this one.
        terms: Terms,
    },
    /// Deliveries are done, as by [`Engine::settle`].
    Ack {
        /// The subscription that they came from.
        subscription: Name,
        /// Their ids.
        ids: Vec<Bytes>,
    },
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Messages were published.
    Published(Receipt),
    /// Deliveries are settled, and so is every message at or below this offset, of the topic of the last
    /// one.
    Acked(Offset),
}

/// What a consumer reads.
#[derive(Debug, Clone)]
pub enum Target {
    /// A durable subscription, by name: deliveries are leased and must be settled.
    Durable(Name),
    /// A topic or all that a pattern covers, for the life of the consumer: nothing is leased, and `ack_id` is
    /// empty.
    Ephemeral {
        /// The topic, or a pattern.
        topic: Pattern,
        /// Where to begin; not an offset for a pattern. Topics created later begin with their first message.
        start: Start,
        /// Which messages; the others are left out.
        filter: Filter,
    },
}

/// How much a consumer may hold unsettled. One message is always allowed while `messages` > 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// At most so many deliveries.
    pub messages: u32,
    /// At most so many bytes of envelopes.
    pub bytes: u64,
}

/// When to hand out again what failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// As the subscription's policy says.
    ByPolicy,
    /// After this delay.
    After(Duration),
    /// Never: it is given up, however many attempts are left.
    Never,
}

/// What to do with deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// They are done.
    Ack {
        /// So is everything before each of them in its topic.
        cumulative: bool,
    },
    /// They failed.
    Nack {
        /// When to hand them out again, as long as attempts are left.
        retry: Retry,
        /// Why, for whoever finds them among the dead letters; may be empty.
        reason: Arc<str>,
    },
    /// They need more time.
    Extend {
        /// The new deadline from now; the subscription's own if `None`.
        deadline: Option<Duration>,
    },
}

/// What came of a settlement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// Every message at or below this offset is settled, durably: in the topic of the last id that the
    /// subscription gave out; 0 if a pattern gave out none of them.
    pub committed_offset: Offset,
    /// The ids that had no effect, in the order given, and why.
    pub failures: Vec<(Bytes, Failure)>,
}

/// A queue engine. All methods may be called concurrently.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// What this engine can do. Constant.
    fn capabilities(&self) -> Capabilities;

    /// Creates a topic; durable when this returns. Every subscription whose pattern covers it reads it from its
    /// first message on; [`Error::PatternFull`] if one of them can take no more. What its retention excludes goes within seconds, not at
    /// once, and takes whole commits. A topic with the same settings is returned as it
    /// is; one with other settings is [`Error::TopicExists`].
    async fn create_topic(&self, name: Name, settings: TopicSettings, intent: Intent) -> Result<Topic>;

    /// Returns a topic.
    async fn topic(&self, name: &Name) -> Result<Topic>;

    /// Returns a page of topics; without the server's own ([`Name::is_internal`]).
    async fn topics(&self, page: Page) -> Result<Vec<Topic>>;

    /// The server's own topics of a kind ([`Name::internal`]).
    async fn internal_topics(&self, kind: &str) -> Result<Vec<Topic>>;

    /// Changes a topic; durable when this returns. With `expected`, only if the topic's revision is
    /// still that one, else [`Error::Changed`].
    async fn update_topic(
        &self,
        name: &Name,
        change: TopicChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Topic>;

    /// Deletes a topic and its messages; durable when this returns. A topic with subscriptions, or with
    /// subscriptions whose dead letters it takes, is [`Error::TopicInUse`]; the server's own subscriptions
    /// do not count, and go with it. Nor do patterns that cover it: they read on without it. A topic made later under the same name starts empty, at offset 1.
    async fn delete_topic(&self, name: &Name, expected: Option<u64>) -> Result<()>;

    /// Drops the messages of a topic before `before`; durable when this returns. For its subscriptions they
    /// count as settled. Offsets are not given again. An offset beyond the end of the topic is
    /// [`Error::BeyondEnd`].
    async fn purge(&self, topic: &Name, before: Start, intent: Intent) -> Result<Purged>;

    /// Submits messages (at least one). When this returns, their place is fixed: after all that was
    /// submitted to the topic before, before all that is submitted later, consecutive, all or none.
    /// The receipt comes when they are as safe as the terms ask; until then they may fail, and then none
    /// of them is ever seen. Readers see a message once no crash
    /// can take it back, which may be after the receipt of a buffered one.
    ///
    /// A message whose id another had that was published to the topic within its dedupe window before, or
    /// that comes earlier in `messages`, is a duplicate: it is not stored, and the receipt tells where the
    /// other is. The receipt of a duplicate comes when the other is as safe as the terms ask. Forgetting
    /// goes by publish times, which never run backward.
    ///
    /// With an expected last offset, they are stored only right after it, else [`Error::Moved`], whatever
    /// else is submitted meanwhile; with an expected offset of their key, only if the last message with it
    /// has that offset, else [`Error::KeyMoved`]. A topic without a key index is [`Error::NoKeyIndex`]; an
    /// index that cannot tell, [`Error::KeyNotIndexed`]. If all messages are duplicates, nothing is expected:
    /// what was accepted once is accepted again.
    ///
    /// Waits while the write queue is full; [`Error::Overloaded`] after a few seconds of that.
    async fn submit(&self, topic: &Name, messages: Vec<Envelope>, terms: Terms) -> Result<PendingReceipt>;

    /// Does all of the operations or none, in one step that no reader and no crash can see half of.
    /// Returns what came of each, in order, when all are as safe as the terms of any ask; with an ack among
    /// them, when they are durable.
    ///
    /// The operations see what those before them have done: messages of one topic follow each other, and a
    /// message can be a duplicate of an earlier operation's. Duplicates are no error. If an operation
    /// fails, nothing is done, and [`Error::InCommit`] tells which it was and why: as [`submit`](Self::submit)
    /// would have failed, or [`Error::AckRefused`] for the first id without effect, if only because it is
    /// there twice, or part of another commit on its way. The deliveries are then what they were before:
    /// their leases did not end, unless their deadline or their consumer's end has come. Until it is
    /// decided, nobody else gets or settles their messages.
    ///
    /// A seek or a deletion of a subscription comes before or after as a whole: if before, the acks have no
    /// effect.
    async fn commit(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>>;

    /// Whether a publish would be refused now for want of space on the disk: [`Error::DiskFull`]. Acks are
    /// not. An engine without a disk of its own always has space.
    async fn check_space(&self) -> Result<()> {
        Ok(())
    }

    /// Reads from `start` on, without side effects; empty at the end of the topic. If the first
    /// message asked for is damaged, [`Error::Damaged`] names the range; a later one ends the result.
    async fn read(&self, topic: &Name, start: Start, limit: ReadLimit) -> Result<Vec<StoredMessage>>;

    /// Creates a durable subscription; durable when this returns. Same rules as
    /// [`create_topic`](Self::create_topic). Its start is resolved to an offset now. A dead-letter topic
    /// must exist ([`Error::TopicNotFound`]) and not be read by it ([`Error::DeadLetterLoop`]).
    ///
    /// With a pattern it reads all the topics that there are, and those created later from their first message
    /// on, each in turn as long as there is something in several. What is said of a topic's order holds in
    /// each; limits and credit hold for all together. It begins in each where its start says, which is not an
    /// offset ([`Error::PatternOffset`]). At most [`MAX_PATTERN_TOPICS`](crate::model::limits::MAX_PATTERN_TOPICS)
    /// are covered ([`Error::PatternFull`]).
    ///
    /// Messages that its filter does not want are settled as consumers or pulls come to them, durably
    /// soon after. With a filter that this version cannot read nothing is handed out, nor settled by it,
    /// and consumers and pulls get [`Error::UnreadableFilter`].
    ///
    /// A subscription that goes unused for its idle expiry is deleted. Every consumer, pull, settlement,
    /// seek and update is a use; the time begins anew when the engine is opened.
    async fn create_subscription(
        &self,
        name: Name,
        settings: SubscriptionSettings,
        intent: Intent,
    ) -> Result<Subscription>;

    /// Returns a subscription.
    async fn subscription(&self, name: &Name) -> Result<Subscription>;

    /// Returns a page of subscriptions, of those that read a topic if one is given; without the server's own
    /// ([`Name::is_internal`]).
    async fn subscriptions(&self, page: Page, topic: Option<Name>) -> Result<Vec<Subscription>>;

    /// Changes a subscription; durable when this returns. Pausing it ends its consumers with
    /// [`Error::Paused`]; what they held is theirs to settle until it is handed out again.
    async fn update_subscription(
        &self,
        name: &Name,
        change: SubscriptionChange,
        expected: Option<u64>,
        intent: Intent,
    ) -> Result<Subscription>;

    /// Deletes a subscription; durable when this returns. Its consumers get
    /// [`Error::SubscriptionDeleted`].
    async fn delete_subscription(&self, name: &Name, expected: Option<u64>) -> Result<()>;

    /// Moves a subscription: everything before `start` counts as settled, nothing from there on does.
    /// Durable when this returns, with the new floor. Deliveries made before no longer count, and are
    /// [`Failure::Expired`]. An offset beyond the end of the topic is [`Error::BeyondEnd`]. A pattern is moved
    /// in all its topics, and not to an offset ([`Error::PatternOffset`]); its floor is 0.
    async fn seek(&self, subscription: &Name, start: Start) -> Result<Offset>;

    /// Says how far a subscription has come.
    async fn stats(&self, subscription: &Name) -> Result<SubscriptionStats>;

    /// Messages of a subscription that are not settled, those in flight included, from an offset on and in
    /// order. Without side effects; empty when there are no more. Damage is as in [`read`](Self::read). An
    /// offset does not say which message of a pattern is meant: [`Error::PatternOffset`], here and in the next
    /// two.
    async fn browse(&self, subscription: &Name, from: Offset, limit: ReadLimit)
    -> Result<Vec<StoredMessage>>;

    /// Publishes `envelope` to a topic and settles a message of a subscription, in one step; durable when
    /// this returns. [`Error::AlreadySettled`] if the message is settled or given up, or another call is moving
    /// it: of many, one succeeds. After any error neither has happened. The topic's limit of a message's size is
    /// not checked.
    async fn move_message(
        &self,
        subscription: &Name,
        offset: Offset,
        to: &Name,
        envelope: Envelope,
    ) -> Result<Receipt>;

    /// Settles messages of a subscription without a delivery; durable when this returns. Returns how many
    /// were not settled before. Offsets without a message are ignored.
    async fn discard(&self, subscription: &Name, offsets: Vec<Offset>) -> Result<u64>;

    /// Opens a consumer that does not say who it is.
    async fn subscribe(&self, target: Target, credit: Credit) -> Result<Box<dyn Consumer>> {
        self.subscribe_as(target, credit, "").await
    }

    /// Opens a consumer, by the name that it gives itself. Dropping it closes it: its leases end at once,
    /// and what it held is handed out again.
    ///
    /// A message that is for one subscription only ([`only_for`](crate::model::Header::only_for)) is
    /// settled by every other durable one instead of being handed out.
    async fn subscribe_as(&self, target: Target, credit: Credit, name: &str) -> Result<Box<dyn Consumer>>;

    /// The open consumers of durable subscriptions, or of one, the oldest first.
    async fn consumers(&self, subscription: Option<&Name>) -> Result<Vec<ConsumerInfo>>;

    /// Tells what became of a message in the subscriptions of its topic; in the server's own only if the topic
    /// is one of those. An engine without
    /// [`Capabilities::history`] only tells where it is. [`Error::NoSuchMessage`] past the end.
    async fn explain(&self, topic: &Name, offset: Offset) -> Result<Explanation>;

    /// What an operator should hear of, from now on. A watcher that is too slow is told how much it missed.
    fn advisories(&self) -> Result<Watch<Advisory>>;

    /// Changes to topics from now on, in order, the server's own included: whoever lists the topics after this call, and then follows
    /// the changes, comes to know all of them.
    fn topic_changes(&self) -> Result<Watch<TopicChanged>>;

    /// Leases messages without a consumer; waits up to `wait` for the first, then returns what there
    /// is, or nothing. Each lease lasts until its deadline. [`Error::TooMany`] when
    /// [`MAX_WAITING_PULLS`](crate::model::limits::MAX_WAITING_PULLS) wait already.
    async fn pull(&self, subscription: &Name, limit: ReadLimit, wait: Duration) -> Result<Vec<Delivery>>;

    /// Settles deliveries. Each id counts for itself: a bad one is in `failures` and harms no other.
    /// When an ack returns, its commit is durable: no crash makes the message be delivered again.
    /// An id counts while its message has not been handed out again, even after its deadline or its
    /// consumer's end.
    ///
    /// A message whose last attempt failed, or that is never to be retried, is given up: it goes to the
    /// subscription's dead-letter topic, marked as [`DeadLetter`](crate::model::DeadLetter) says, in the
    /// same step that settles it; without such a topic it is only settled. Both may come after this has
    /// returned, but never one without the other.
    async fn settle(&self, subscription: &Name, ids: Vec<Bytes>, settlement: Settlement) -> Result<Settled>;

    /// What it has counted and measured. An engine that does not has nothing to tell.
    async fn readings(&self) -> Result<Readings> {
        Ok(Readings::default())
    }

    /// Resolves when the engine can never write again, with the reason. The server then stops.
    async fn failed(&self) -> String;

    /// Finishes what was accepted, stores what makes the next start quick, and refuses everything
    /// from then on with [`Error::Closed`]. Open consumers end with it too.
    async fn close(&self);
}

/// An open consumer.
#[async_trait]
pub trait Consumer: Send {
    /// The server's name for this consumer, unique in this process.
    fn id(&self) -> &str;

    /// Waits for the next messages for this consumer; never empty. The leases begin when the messages
    /// are handed over, which happens only after this was called: no more than one batch ever waits
    /// for the consumer. May be dropped and called again without losing messages.
    ///
    /// An error is final.
    async fn next(&mut self) -> Result<Vec<Delivery>>;

    /// Replaces the credit. Less than what is held stops further deliveries until enough is settled.
    async fn set_credit(&mut self, credit: Credit);
}
