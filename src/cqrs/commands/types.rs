//! The types of commands: each has a topic of commands, a subscription of its handlers, and a topic of
//! outcomes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::{Error, Result};
use super::execution::Ending;
use crate::engine::{self, Engine, Intent, TopicChange};
use crate::model::limits::{
    COMMAND_LEASE, MAX_COMMAND_BACKOFF, MAX_COMMAND_RECORD_BYTES, MAX_COMMAND_TIMEOUT, MAX_COMMAND_TYPES,
    MAX_IN_FLIGHT, MIN_COMMAND_BACKOFF,
};
use crate::model::{
    Backoff, Durability, Mode, Name, Offset, Retention, RetryPolicy, SubscriptionSettings, Timestamp,
    TopicSettings,
};

/// What the names of topics of commands begin with.
const COMMANDS: &str = "commands";
/// What the names of topics of outcomes begin with.
const OUTCOMES: &str = "outcomes";
/// How much longer records are kept than anybody asks for them.
const SLACK: Duration = Duration::from_secs(60 * 60);

/// A type of commands.
#[derive(Debug)]
pub(crate) struct Type {
    /// Its name.
    pub(crate) name: Name,
    /// The topic of its commands, and the subscription of its handlers.
    pub(super) commands: Name,
    /// The topic of what becomes of them.
    pub(super) outcomes: Name,
    /// When those topics were created.
    created: [Timestamp; 2],
    /// What there is of it.
    pub(super) counts: Counts,
    /// The last command known to be stored.
    pub(super) last_command: AtomicU64,
    /// The last outcome known to be stored.
    pub(super) last_outcome: AtomicU64,
}

/// What there is of a type.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Commands that have not ended.
    pub(super) unfinished: AtomicU64,
    /// Those that a handler has.
    pub(super) running: AtomicU64,
    /// Those that ended since the server started, by [`Ending::ALL`].
    pub(super) ended: [AtomicU64; 4],
}

/// The figures of a type as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TypeStats {
    /// The type.
    pub(crate) name: Name,
    /// Commands that no handler has.
    pub(crate) pending: u64,
    /// Commands that one has.
    pub(crate) running: u64,
    /// Commands that ended since the server started.
    pub(crate) ended: [(Ending, u64); 4],
}

impl Type {
    pub(super) fn new(name: Name) -> Self {
        Self {
            commands: Name::internal(COMMANDS, &name),
            outcomes: Name::internal(OUTCOMES, &name),
            created: [Timestamp(0); 2],
            name,
            counts: Counts::default(),
            last_command: AtomicU64::new(0),
            last_outcome: AtomicU64::new(0),
        }
    }

    /// A command is stored there.
    pub(super) fn command_at(&self, offset: Offset) {
        self.last_command.fetch_max(offset, Ordering::Relaxed);
    }

    /// An outcome is stored there.
    pub(super) fn outcome_at(&self, offset: Offset) {
        self.last_outcome.fetch_max(offset, Ordering::Relaxed);
    }

    /// Makes what is missing of its topics and its subscription. The subscription comes last: with it, the
    /// type is complete.
    async fn prepare(&mut self, engine: &dyn Engine, retention: Duration) -> engine::Result<()> {
        let [of_commands, of_outcomes] = &mut self.created;
        for (topic, time) in [(&self.outcomes, of_outcomes), (&self.commands, of_commands)] {
            let settings = topic_settings(retention);
            let created = engine.create_topic(topic.clone(), settings.clone(), Intent::Apply).await;
            let there_is = match created {
                Err(engine::Error::TopicExists(_)) => {
                    let change =
                        TopicChange { retention: Some(settings.retention), ..TopicChange::default() };
                    engine.update_topic(topic, change, None, Intent::Apply).await?
                }
                created => created?,
            };
            *time = there_is.create_time;
        }
        let settings = SubscriptionSettings {
            mode: Mode::KeyOrdered,
            ack_deadline: COMMAND_LEASE,
            max_in_flight: MAX_IN_FLIGHT,
            retry: RetryPolicy {
                backoff: Backoff { min: MIN_COMMAND_BACKOFF, max: MAX_COMMAND_BACKOFF },
                ..RetryPolicy::default()
            },
            ..SubscriptionSettings::new(self.commands.clone())
        };
        match engine.create_subscription(self.commands.clone(), settings, Intent::Apply).await {
            // Made by another version of the server: it works, too.
            Err(engine::Error::SubscriptionExists(_)) => Ok(()),
            created => created.map(drop),
        }
    }

    /// Its topics, with the times of their creation and their last messages known to be stored.
    pub(super) fn topics(&self) -> [(&Name, Timestamp, Offset); 2] {
        let last = |last: &AtomicU64| last.load(Ordering::Relaxed);
        let [of_commands, of_outcomes] = self.created;
        [
            (&self.commands, of_commands, last(&self.last_command)),
            (&self.outcomes, of_outcomes, last(&self.last_outcome)),
        ]
    }

    fn stats(&self) -> TypeStats {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let running = get(&self.counts.running);
        TypeStats {
            name: self.name.clone(),
            pending: get(&self.counts.unfinished).saturating_sub(running),
            running,
            ended: std::array::from_fn(|at| (Ending::ALL[at], get(&self.counts.ended[at]))),
        }
    }
}

fn topic_settings(retention: Duration) -> TopicSettings {
    TopicSettings {
        durability: Durability::Fsynced,
        max_message_bytes: MAX_COMMAND_RECORD_BYTES,
        // Ids are checked before, for longer, and in greater number.
        dedupe_window: Duration::ZERO,
        retention: Retention {
            max_age: Some(retention + MAX_COMMAND_TIMEOUT + SLACK),
            ..Retention::default()
        },
        ..TopicSettings::default()
    }
}

/// All types that a handler ever asked for.
#[derive(Debug)]
pub(super) struct Types {
    known: Mutex<BTreeMap<Name, Arc<Type>>>,
    /// One is made at a time.
    making: tokio::sync::Mutex<()>,
    retention: Duration,
}

impl Types {
    /// Those that the engine has. One that was only half made is completed.
    pub(super) async fn open(engine: &dyn Engine, retention: Duration) -> engine::Result<Self> {
        let mut known = BTreeMap::new();
        for topic in engine.internal_topics(COMMANDS).await? {
            let Some(name) = topic.name.internal_of(COMMANDS) else { continue };
            let mut kind = Type::new(name.clone());
            kind.prepare(engine, retention).await?;
            kind.command_at(topic.last_offset);
            kind.outcome_at(engine.topic(&kind.outcomes).await?.last_offset);
            known.insert(name, Arc::new(kind));
        }
        Ok(Self { known: Mutex::new(known), making: tokio::sync::Mutex::default(), retention })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Type>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A type that is known.
    pub(super) fn find(&self, name: &Name) -> Result<Arc<Type>> {
        self.known().get(name).cloned().ok_or_else(|| Error::TypeNotFound(name.clone()))
    }

    /// A type, known from now on.
    pub(super) async fn make(&self, engine: &dyn Engine, name: &Name) -> Result<Arc<Type>> {
        let _one = self.making.lock().await;
        if let Ok(kind) = self.find(name) {
            return Ok(kind);
        }
        if self.known().len() >= MAX_COMMAND_TYPES {
            return Err(Error::TooManyTypes);
        }
        let mut kind = Type::new(name.clone());
        kind.prepare(engine, self.retention).await?;
        let kind = Arc::new(kind);
        self.known().insert(name.clone(), Arc::clone(&kind));
        Ok(kind)
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> Vec<Arc<Type>> {
        self.known().values().cloned().collect()
    }

    /// The figures of all of them, by name.
    pub(super) fn stats(&self) -> Vec<TypeStats> {
        self.known().values().map(|kind| kind.stats()).collect()
    }
}
