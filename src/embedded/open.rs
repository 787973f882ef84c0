//! Opens a data directory and puts the engine together.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

use super::delivery::ack_id::Signer;
use super::delivery::dispatch::DeadLetters;
use super::directory::{self, Identity, IdentityError};
use super::log::fs::Fs;
use super::log::fs_real::RealFs;
use super::log::housekeeper::{self, DirectoryLock};
use super::log::index::Part;
use super::log::reader::Reader;
use super::log::recovery::{Recovered, RecoveryError, recover};
use super::log::space::Stall;
use super::log::tail::Tail;
use super::log::writer::{Parts, Writer};
use super::log::{Log, Operation, segments};
use super::meters::Meters;
use super::names::Marker;
use super::records::SubscriptionRecord;
use super::state::{Record, State, SubscriptionState};
use super::subscriptions::SubscriptionHandle;
use super::topic::TopicHandle;
use super::{Catalog, EmbeddedEngine, Shared, checkpoint, cleaner, idle};
use crate::engine::Announcer;
use crate::model::limits::MAX_CONSUMERS;
use crate::model::{Advisory, Name, Pattern, Timestamp};

const LOCK: &str = "columba.lock";

/// What a user may tune about the embedded engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of a segment file in bytes. Default: 128 MiB. At most 1 GiB; a transaction larger than a
    /// segment gets a segment of its own.
    pub segment_bytes: u64,
    /// How many bytes of the log's newest data are kept in memory for readers. Default: 64 MiB.
    pub tail_cache_bytes: usize,
    /// How many bytes may wait to be written before publishers wait. Default: 64 MiB. At least
    /// 17 MiB, the largest request, in a configuration; in a smaller one, a larger publish waits for the
    /// whole queue.
    pub write_queue_bytes: usize,
    /// Free disk space in bytes below which publishing is refused, kept for acks and deletes.
    /// Default: 64 MiB.
    pub disk_reserve_bytes: u64,
    /// How often messages that need not be kept are dropped, and space is freed. Default: 1 s.
    pub cleaning_period: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 128 << 20,
            tail_cache_bytes: 64 << 20,
            write_queue_bytes: 64 << 20,
            disk_reserve_bytes: 64 << 20,
            cleaning_period: Duration::from_secs(1),
        }
    }
}

/// Why a data directory cannot be opened. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {dir} is in use by another process; stop that one, or choose another directory")]
    InUse {
        /// The directory.
        dir: String,
    },
    /// It cannot be created, read or written.
    #[error("data directory {dir}: {source}; check that it is on a working disk, and owned by this user")]
    Io {
        /// The directory.
        dir: String,
        /// What the system said.
        source: io::Error,
    },
    /// It was written by another version, or is not what it should be.
    #[error("data directory {dir}: {reason}")]
    Refused {
        /// The directory.
        dir: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl EmbeddedEngine {
    /// Opens the data directory, creating it if it does not exist, and recovers its log. The directory
    /// is locked until the engine is closed or dropped.
    pub async fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let fs = Arc::new(RealFs::new(dir));
        Self::open_on(fs, &dir.display().to_string(), options).await
    }

    pub(super) async fn open_on(fs: Arc<dyn Fs>, dir: &str, options: Options) -> Result<Self, OpenError> {
        let (disk, dir) = (Arc::clone(&fs), dir.to_owned());
        let opened = tokio::task::spawn_blocking(move || open_files(&*disk, &dir)).await;
        let opened = opened.map_err(|panic| OpenError::Refused {
            dir: String::new(),
            reason: format!("reading it failed: {panic}"),
        })??;
        opened.start(fs, &options)
    }
}

/// A data directory that is locked and recovered.
struct Opened {
    dir: String,
    lock: DirectoryLock,
    identity: Identity,
    recovered: Recovered,
}

fn open_files(fs: &dyn Fs, dir: &str) -> Result<Opened, OpenError> {
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    let refused = |reason: String| OpenError::Refused { dir: dir.to_owned(), reason };
    let unidentified = |error| match error {
        IdentityError::Io(source) => io(source),
        other => refused(other.to_string()),
    };
    directory::check(fs).map_err(unidentified)?;
    for path in ["", segments::DIR, checkpoint::DIR] {
        fs.create_dir(path).map_err(io)?;
    }
    let lock = fs.lock(LOCK).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::InUse { dir: dir.to_owned() },
        _ => io(error),
    })?;
    fs.sync_dir("").map_err(io)?;
    let identity = directory::load_or_create(fs).map_err(unidentified)?;
    let recovered = recover(fs, identity.log).map_err(|error| match error {
        RecoveryError::Io(source) => io(source),
        other => refused(other.to_string()),
    })?;
    Ok(Opened { dir: dir.to_owned(), lock: lock.into(), identity, recovered })
}

impl Opened {
    fn start(self, fs: Arc<dyn Fs>, options: &Options) -> Result<EmbeddedEngine, OpenError> {
        let Self { dir, lock, identity, recovered } = self;
        let io = |source| OpenError::Io { dir: dir.clone(), source };
        if recovered.damaged > 0 {
            tracing::error!(
                ranges = recovered.damaged,
                "the log is damaged; reading what is lost answers DATA_LOSS"
            );
        }
        let meters = Arc::new(Meters::default());
        let topics = topic_handles(&recovered, &meters);
        let segments = Arc::new(recovered.segments);
        let tail = Arc::new(Tail::new(options.tail_cache_bytes));
        let reader = Reader::new(Arc::clone(&fs), identity.log, Arc::clone(&segments), Arc::clone(&tail));
        let (failure_sender, failure) = watch::channel(None);
        let (queue, operations) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = housekeeper::start(Arc::clone(&fs), Arc::clone(&stop), Arc::clone(&lock));
        let (keeper, keeper_thread) = keeper.map_err(&io)?;

        let stall = Arc::new(Stall::new(options.disk_reserve_bytes));
        let (reader, counting) = (Arc::new(reader), (Marker::new(identity.log), Arc::clone(&meters)));
        let log = Log::new(queue, options.write_queue_bytes, failure, Arc::clone(&stall), reader, counting);
        let signer = Signer(identity.ack_key);
        let advisories = Announcer::default();
        let mut loading = Loading { last_id: recovered.state.last_id, found: Vec::new() };
        let catalog = loading.catalog(&recovered.state, &topics, &log, &(signer, advisories.clone()));
        let Loading { last_id, found } = loading;
        if !found.is_empty() {
            // The first thing that the writer does.
            log.submit(Operation::Change { records: found, reply: oneshot::channel().0 });
        }
        let parts = Parts {
            fs,
            log: identity.log,
            segment_bytes: options.segment_bytes,
            disk_reserve_bytes: options.disk_reserve_bytes,
            stall,
            segments,
            tail,
            keeper,
            failure: failure_sender,
            state: recovered.state,
            end: recovered.end,
            touched: topics,
            advisories: advisories.clone(),
            meters,
        };
        let end = WriterEnd { failure: parts.failure.clone(), stop, _lock: lock };
        let writer = Writer::new(parts);
        let run = move || {
            let _end = end;
            writer.run(&operations);
        };
        let writer_thread = thread::Builder::new().name("columba-writer".into()).spawn(run).map_err(io)?;
        let shared = Arc::new(Shared {
            log,
            signer,
            catalog: RwLock::new(catalog),
            changes: tokio::sync::Mutex::new(last_id),
            consumers: Arc::new(Semaphore::new(MAX_CONSUMERS)),
            last_consumer: AtomicU64::new(0),
            expiry_changed: Arc::default(),
            advisories,
            topic_changes: Announcer::default(),
            topic_added: watch::Sender::new(()),
            end: watch::Sender::new(None),
            threads: Mutex::new(vec![writer_thread, keeper_thread]),
        });
        cleaner::start(&shared, options.cleaning_period, options.segment_bytes);
        tokio::spawn(idle::run(Arc::downgrade(&shared)));
        Ok(EmbeddedEngine(shared))
    }
}

/// What happens when the writer's thread ends, however it ends.
struct WriterEnd {
    failure: watch::Sender<Option<String>>,
    stop: Arc<AtomicBool>,
    /// Only when nothing is written any more may another process have the directory.
    _lock: DirectoryLock,
}

impl Drop for WriterEnd {
    fn drop(&mut self) {
        if thread::panicking() {
            self.failure.send_replace(Some("its writer ended by a panic".into()));
        }
        self.stop.store(true, Ordering::Release);
    }
}

/// The topics with their indexes, by number.
fn topic_handles(recovered: &Recovered, meters: &Meters) -> BTreeMap<u64, Arc<TopicHandle>> {
    let handles = recovered.state.topics.iter().map(|(&id, state)| {
        let name = stored_name(&state.record.name);
        let own = meters.topics.give(&name);
        (id, Arc::new(TopicHandle::new(name, state, own)))
    });
    let handles: BTreeMap<_, _> = handles.collect();
    let active = recovered.active.iter().flat_map(|(&topic, all)| all.iter().map(move |runs| (topic, runs)));
    let active = active.map(|(topic, runs)| (topic, Part::new(recovered.end.segment, runs)));
    for (topic, part) in recovered.sealed.iter().cloned().chain(active) {
        if let Some(handle) = handles.get(&topic) {
            handle.put(part, 0);
        } else if recovered.damaged > 0 {
            // The topic may be lost in the damage, and these be its messages.
            recovered.segments.note_damage(part.segment);
        }
    }
    for (&id, handle) in &handles {
        if let Some(keys) = recovered.state.names.keys(id) {
            handle.set_keys(keys);
        }
        handle.index_mut().resume(recovered.end.segment);
    }
    handles
}

/// What comes of the log's state.
struct Loading {
    /// The last number given to anything.
    last_id: u64,
    /// What the log does not have and is to be told.
    found: Vec<Record>,
}

impl Loading {
    fn catalog(
        &mut self,
        state: &State,
        topics: &BTreeMap<u64, Arc<TopicHandle>>,
        log: &Log,
        common: &(Signer, Announcer<Advisory>),
    ) -> Catalog {
        let by_name = topics.values().map(|topic| (topic.name.clone(), Arc::clone(topic)));
        let mut catalog = Catalog { topics: by_name.collect(), ..Catalog::default() };
        let mut all_parts = parts(state);
        for subscription in state.subscriptions.values().filter(|it| it.record.parent == 0) {
            let record = &subscription.record;
            let (reads, parts) = if record.pattern.is_empty() {
                let Some(topic) = topics.get(&record.topic) else {
                    tracing::error!(subscription = record.name, "its topic is lost; leaving it out");
                    continue;
                };
                (Pattern::from(&topic.name), vec![(Arc::clone(topic), subscription.clone())])
            } else {
                let pattern = Pattern::stored(&record.pattern).expect("stored patterns are valid");
                let parts = all_parts.remove(&record.id).unwrap_or_default();
                let parts = self.parts_of(record.id, &pattern, parts, topics);
                (pattern, parts)
            };
            let name = stored_name(&record.name);
            let dead_letters = match record.dead_letter_topic.as_str() {
                "" => DeadLetters::Dropped,
                topic => catalog.topics.get(topic).cloned().map_or(DeadLetters::Lost, DeadLetters::Topic),
            };
            let (whose, record) = ((name.clone(), reads), record.clone());
            let handle =
                SubscriptionHandle::start(whose, record, parts, dead_letters, log.clone(), common.clone());
            catalog.subscriptions.insert(name, Arc::new(handle));
        }
        catalog
    }

    /// What a subscription has to do with each topic that its pattern covers. The log tells of all, but for
    /// damage, and for topics that an older version made.
    fn parts_of(
        &mut self,
        subscription: u64,
        pattern: &Pattern,
        mut parts: BTreeMap<u64, SubscriptionState>,
        topics: &BTreeMap<u64, Arc<TopicHandle>>,
    ) -> Vec<(Arc<TopicHandle>, SubscriptionState)> {
        let covered = topics.values().filter(|topic| pattern.matches(&topic.name));
        let part = |topic: &Arc<TopicHandle>| {
            let part = parts.remove(&topic.id).unwrap_or_else(|| {
                self.last_id += 1;
                let ids = (self.last_id, topic.id);
                let record = SubscriptionRecord::part(subscription, ids, 0, Timestamp::now());
                tracing::warn!(%pattern, topic = %topic.name, "begins to read a topic that it should know");
                self.found.push(Record::PutSubscription(record.clone()));
                SubscriptionState::new(record)
            });
            (Arc::clone(topic), part)
        };
        covered.map(part).collect()
    }
}

/// The parts of subscriptions with patterns: by the number of the subscription, and by that of the topic.
fn parts(state: &State) -> BTreeMap<u64, BTreeMap<u64, SubscriptionState>> {
    let mut parts = BTreeMap::<u64, BTreeMap<u64, SubscriptionState>>::new();
    for part in state.subscriptions.values().filter(|it| it.record.parent > 0) {
        parts.entry(part.record.parent).or_default().insert(part.record.topic, part.clone());
    }
    parts
}

/// A name that was checked when it was stored, under a checksum.
fn stored_name(name: &str) -> Name {
    Name::stored(name).expect("stored names are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_writer_is_a_failure_of_the_log() {
        for panics in [true, false] {
            let (failure, failed) = watch::channel(None);
            let stop = Arc::new(AtomicBool::new(false));
            let end = WriterEnd { failure, stop: Arc::clone(&stop), _lock: Arc::new(()) };
            let writer = thread::spawn(move || {
                let _end = end;
                assert!(!panics, "on purpose");
            });
            assert_eq!(writer.join().is_err(), panics);
            assert_eq!(failed.borrow().is_some(), panics);
            assert!(stop.load(Ordering::Acquire));
        }
    }
}
