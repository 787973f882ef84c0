//! A topic as its writers and readers share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::log::index::{Part, TopicIndex};
use super::meters::TopicMeters;
use super::names::keys::Keys;
use super::records::TopicRecord;
use super::state::TopicState;
use crate::meter::Labelled;
use crate::model::{Name, Offset, Topic};

/// One topic. The log's writer moves it on; everybody else looks.
pub(crate) struct TopicHandle {
    /// Its number, which no other topic ever has.
    pub(crate) id: u64,
    /// Its name.
    pub(crate) name: Name,
    record: RwLock<TopicRecord>,
    index: RwLock<TopicIndex>,
    /// The oldest message that is left, or the next one if none is.
    first: AtomicU64,
    /// The newest message that readers may see: it is on disk.
    visible: watch::Sender<Offset>,
    bytes: AtomicU64,
    /// How many keys its messages have, if that is known; `u64::MAX` else.
    keys: AtomicU64,
    deleted: AtomicBool,
    /// What is counted of it.
    pub(crate) meters: Arc<Labelled<TopicMeters>>,
}

impl TopicHandle {
    /// The topic as the log's state has it, with no index yet.
    pub(crate) fn new(name: Name, state: &TopicState, meters: Arc<Labelled<TopicMeters>>) -> Self {
        Self {
            id: state.record.id,
            name,
            record: RwLock::new(state.record.clone()),
            index: RwLock::default(),
            first: AtomicU64::new(state.first),
            visible: watch::Sender::new(state.next - 1),
            bytes: AtomicU64::new(state.bytes),
            keys: AtomicU64::new(u64::MAX),
            deleted: AtomicBool::new(false),
            meters,
        }
    }

    /// What its owner chose.
    pub(crate) fn record(&self) -> RwLockReadGuard<'_, TopicRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what its owner chose.
    pub(crate) fn set_record(&self, record: TopicRecord) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = record;
    }

    /// Where its messages are.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, TopicIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where its messages are, to change it.
    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, TopicIndex> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest message that readers may see.
    pub(crate) fn visible(&self) -> Offset {
        *self.visible.borrow()
    }

    /// The oldest message that is left, or the next one if none is.
    pub(crate) fn first(&self) -> Offset {
        self.first.load(Ordering::Acquire)
    }

    /// Changes when there is a new message to see, the oldest ones go, or the topic is deleted.
    pub(crate) fn watch(&self) -> watch::Receiver<Offset> {
        self.visible.subscribe()
    }

    /// Shows readers the messages up to `last`: so many more.
    pub(crate) fn show(&self, last: Offset, messages: u32, bytes: u64) {
        self.meters.messages.add(messages.into());
        self.meters.bytes.add(bytes);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.visible.send_replace(last);
    }

    /// The messages before `first` are gone.
    pub(crate) fn trim(&self, first: Offset, bytes: u64) {
        self.first.fetch_max(first, Ordering::AcqRel);
        self.index_mut().trim(first);
        self.drop_bytes(bytes);
        self.visible.send_modify(|_| {});
    }

    /// Its key index has changed.
    pub(crate) fn set_keys(&self, keys: &Keys) {
        let known = if keys.is_complete() { keys.len() as u64 } else { u64::MAX };
        self.keys.store(known, Ordering::Relaxed);
    }

    /// How many messages would be left if only the last of each key were kept; `None` if the topic is not
    /// compacted, or that is not known.
    pub(crate) fn compacts_to(&self) -> Option<u64> {
        let keys = self.keys.load(Ordering::Relaxed);
        (keys < u64::MAX && self.record().compacted).then_some(keys)
    }

    /// Bytes of all envelopes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What is left of some messages is elsewhere now, and so many bytes of envelopes are gone.
    pub(crate) fn put(&self, part: Part, dropped: u64) {
        let mut index = self.index_mut();
        index.put(part);
        // They may have been dropped while they were being moved.
        index.trim(self.first());
        drop(index);
        self.drop_bytes(dropped);
    }

    /// So many bytes of envelopes are gone.
    fn drop_bytes(&self, bytes: u64) {
        let less = |held: u64| Some(held.saturating_sub(bytes));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Ends the topic for those who still hold it.
    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        // The log's writer may keep it for a long time.
        self.meters.end();
        self.visible.send_modify(|_| {});
    }

    /// Whether the topic was deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// The topic as users see it.
    pub(crate) fn describe(&self) -> Topic {
        Topic {
            first_offset: self.first(),
            last_offset: self.visible(),
            stored_bytes: self.bytes(),
            ..self.record().topic(&self.name)
        }
    }
}
