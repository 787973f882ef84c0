//! A topic as its writers and readers share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::log::index::TopicIndex;
use super::records::TopicRecord;
use super::state::TopicState;
use crate::model::{Name, Offset, Topic};

/// One topic. The log's writer moves it on; everybody else looks.
pub(crate) struct TopicHandle {
    /// Its number, which no other topic ever has.
    pub(crate) id: u64,
    /// Its name.
    pub(crate) name: Name,
    record: RwLock<TopicRecord>,
    index: RwLock<TopicIndex>,
    /// The newest message that readers may see: it is on disk.
    visible: watch::Sender<Offset>,
    bytes: AtomicU64,
    deleted: AtomicBool,
}

impl TopicHandle {
    /// The topic as the log's state has it, with no index yet.
    pub(crate) fn new(name: Name, state: &TopicState) -> Self {
        Self {
            id: state.record.id,
            name,
            record: RwLock::new(state.record.clone()),
            index: RwLock::default(),
            visible: watch::Sender::new(state.next - 1),
            bytes: AtomicU64::new(state.bytes),
            deleted: AtomicBool::new(false),
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

    /// Changes when there is a new message to see, or the topic is deleted.
    pub(crate) fn watch(&self) -> watch::Receiver<Offset> {
        self.visible.subscribe()
    }

    /// Shows readers the messages up to `last`.
    pub(crate) fn show(&self, last: Offset, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.visible.send_replace(last);
    }

    /// Ends the topic for those who still hold it.
    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        self.visible.send_modify(|_| {});
    }

    /// Whether the topic was deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// The topic as users see it.
    pub(crate) fn describe(&self) -> Topic {
        Topic {
            last_offset: self.visible(),
            stored_bytes: self.bytes.load(Ordering::Relaxed),
            ..self.record().topic(&self.name)
        }
    }
}
