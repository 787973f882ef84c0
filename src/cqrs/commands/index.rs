//! The index of executions: by id, by type, by end. Derived from the topics of commands and outcomes.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};

use super::execution::{Ended, Ending};
use super::indexing::Batch;
use super::record::{Fingerprint, StoredCommand, StoredOutcome};
use crate::cqrs::store::{Result, Store};
use crate::model::limits::MAX_COMMANDS_SCANNED;
use crate::model::{Name, Offset, StoredMessage, Timestamp};

/// The file of the index; the number goes with what is in it.
const FILE: &str = "commands-2.redb";
/// Memory for its pages, in bytes.
const CACHE_BYTES: usize = 64 << 20;
/// How much of a failure's message is kept in the index, in bytes.
pub(super) const SHOWN_MESSAGE_BYTES: usize = 256;

/// Executions, by id.
pub(super) const EXECUTIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("executions");
/// Ids, by type and place in the topic of its commands.
pub(super) const BY_TYPE: TableDefinition<'_, (&str, u64), &str> = TableDefinition::new("by-type");
/// Ids of commands that have not ended.
pub(super) const UNFINISHED: TableDefinition<'_, &str, ()> = TableDefinition::new("unfinished");
/// Ids, by the time of the end in microseconds.
pub(super) const BY_END: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("by-end");
/// Places, by topic.
const PLACES: TableDefinition<'_, &str, (u64, u64, u64)> = TableDefinition::new("places");

/// How far a topic was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The offset to go on from.
    pub(super) next: Offset,
    /// When the topic was created: another one of the name has another time.
    pub(super) created: Timestamp,
    /// When the message before `next` was published; 0 if there was none that could be read.
    pub(super) read: Timestamp,
}

impl Place {
    /// The beginning of a topic.
    pub(super) fn first(created: Timestamp) -> Self {
        Self { next: 1, created, read: Timestamp(0) }
    }

    /// Further on, after this message if it is the one before.
    pub(super) fn at(self, next: Offset, last: Option<&StoredMessage>) -> Self {
        let before = last.filter(|last| last.offset + 1 == next);
        Self { next, read: before.map_or(Timestamp(0), |before| before.publish_time), ..self }
    }
}

/// What the index knows of a command.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Row {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) kind: String,
    #[prost(uint64, tag = "3")]
    pub(super) offset: Offset,
    #[prost(string, tag = "4")]
    pub(super) key: String,
    #[prost(uint64, tag = "5")]
    pub(super) accepted_micros: u64,
    #[prost(uint64, tag = "6")]
    expires_micros: u64,
    #[prost(bytes = "vec", tag = "7")]
    content: Vec<u8>,
    #[prost(bool, tag = "8")]
    pub(super) cancel_requested: bool,
    #[prost(uint32, tag = "9")]
    pub(super) ending: u32,
    #[prost(uint64, tag = "10")]
    pub(super) outcome: Offset,
    #[prost(uint64, tag = "11")]
    pub(super) ended_micros: u64,
    #[prost(uint32, tag = "12")]
    pub(super) attempts: u32,
    #[prost(string, tag = "13")]
    pub(super) failure_code: String,
    #[prost(string, tag = "14")]
    pub(super) failure_message: String,
}

impl Row {
    fn new(kind: &Name, offset: Offset, command: StoredCommand) -> Self {
        let content = command.fingerprint(kind).to_be_bytes().to_vec();
        let (accepted, expires) = (command.accepted(), command.accepted().after(command.timeout()));
        Self {
            kind: kind.to_string(),
            offset,
            accepted_micros: accepted.0,
            expires_micros: expires.0,
            content,
            id: command.id,
            key: command.key,
            ..Self::default()
        }
    }

    pub(super) fn accepted(&self) -> Timestamp {
        Timestamp(self.accepted_micros)
    }

    pub(super) fn expires(&self) -> Timestamp {
        Timestamp(self.expires_micros)
    }

    pub(super) fn content(&self) -> Fingerprint {
        self.content.as_slice().try_into().map_or(0, Fingerprint::from_be_bytes)
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        let ending = Ending::numbered(self.ending)?;
        Some(Ended { ending, outcome: self.outcome, time: Timestamp(self.ended_micros) })
    }

    pub(super) fn read(bytes: &[u8]) -> Self {
        // Pages have checksums, and this process or one before it wrote the row.
        Self::decode(bytes).unwrap_or_default()
    }
}

/// Something that a topic tells.
#[derive(Debug)]
pub(super) enum Told {
    /// A command was accepted.
    Command(Box<Row>),
    /// Somebody wants one cancelled.
    CancelRequested(Of),
    /// One has ended.
    Ended(Of, Box<End>),
}

/// Which command.
#[derive(Debug)]
pub(super) struct Of {
    pub(super) id: String,
    pub(super) kind: Name,
    pub(super) offset: Offset,
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) ended: Ended,
    pub(super) attempts: u32,
    pub(super) failure: Option<(String, String)>,
}

impl Told {
    pub(super) fn command(kind: &Name, offset: Offset, command: StoredCommand) -> Self {
        Self::Command(Box::new(Row::new(kind, offset, command)))
    }

    pub(super) fn outcome(kind: &Name, offset: Offset, outcome: StoredOutcome) -> Option<Self> {
        let failure = outcome.failure().map(|failure| {
            let end = failure.message.floor_char_boundary(SHOWN_MESSAGE_BYTES);
            (failure.code, failure.message[..end].to_owned())
        });
        let ending = outcome.ending();
        let is_cancel_request = outcome.is_cancel_request();
        let (time, attempts) = (Timestamp(outcome.time_micros), outcome.attempts);
        let of = Of { id: outcome.id, kind: kind.clone(), offset: outcome.command_offset };
        match ending {
            Some(ending) => {
                let ended = Ended { ending, outcome: offset, time };
                Some(Self::Ended(of, Box::new(End { ended, attempts, failure })))
            }
            None => is_cancel_request.then_some(Self::CancelRequested(of)),
        }
    }
}

/// Which executions to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// Only of this type.
    pub(crate) kind: Option<Name>,
    /// Only with this key.
    pub(crate) key: Option<String>,
    /// Only those accepted then or later.
    pub(crate) since: Option<Timestamp>,
    /// Only those accepted before then.
    pub(crate) until: Option<Timestamp>,
    /// Only those that have ended like this, or not at all.
    #[expect(clippy::option_option, reason = "any state, not ended, or ended like this")]
    pub(crate) ending: Option<Option<Ending>>,
    /// From this place on: a type, and a place in its topic.
    pub(crate) from: Option<(Name, Offset)>,
    /// At most so many.
    pub(crate) limit: usize,
}

impl Listing {
    fn wants(&self, row: &Row) -> bool {
        self.key.as_ref().is_none_or(|key| *key == row.key)
            && self.since.is_none_or(|since| row.accepted() >= since)
            && self.until.is_none_or(|until| row.accepted() < until)
            && self.ending.is_none_or(|ending| row.ended().map(|ended| ended.ending) == ending)
    }
}

/// A part of a list.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) rows: Vec<Row>,
    /// Where the next part begins.
    pub(super) next: Option<(Name, Offset)>,
}

/// The index on disk. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Index {
    store: Store,
}

/// A table that may not be there yet.
macro_rules! table {
    ($transaction:expr, $table:expr, $absent:expr) => {
        match $transaction.open_table($table) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok($absent),
            Err(error) => return Err(error.into()),
        }
    };
}

impl Index {
    pub(super) async fn open(directory: Option<&Path>) -> Result<Self> {
        if let Some(directory) = directory {
            // Those of other versions.
            let keep = |name: &str| name == FILE || !name.starts_with("commands-");
            Store::remove_others(directory, keep).await?;
        }
        Ok(Self { store: Store::open(directory, FILE, CACHE_BYTES).await? })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What is known of a command.
    pub(super) async fn get(&self, id: &str) -> Result<Option<Row>> {
        let id = id.to_owned();
        let get = move |transaction: &ReadTransaction| {
            let table = table!(transaction, EXECUTIONS, None);
            Ok(table.get(&*id)?.map(|row| Row::read(row.value())))
        };
        self.store.read(get).await
    }

    /// How far it is, by topic.
    pub(super) async fn places(&self) -> Result<BTreeMap<Name, Place>> {
        let read = |transaction: &ReadTransaction| {
            let table = table!(transaction, PLACES, BTreeMap::new());
            let mut places = BTreeMap::new();
            for entry in table.iter()? {
                let (topic, place) = entry?;
                let (next, created, read) = place.value();
                if let Ok(topic) = Name::stored(topic.value()) {
                    places.insert(topic, Place { next, created: Timestamp(created), read: Timestamp(read) });
                }
            }
            Ok(places)
        };
        self.store.read(read).await
    }

    /// The commands that have not ended.
    pub(super) async fn unfinished(&self) -> Result<Vec<Row>> {
        let read = |transaction: &ReadTransaction| {
            let ids = table!(transaction, UNFINISHED, Vec::new());
            let rows = table!(transaction, EXECUTIONS, Vec::new());
            let mut unfinished = Vec::new();
            for entry in ids.iter()? {
                if let Some(row) = rows.get(entry?.0.value())? {
                    unfinished.push(Row::read(row.value()));
                }
            }
            Ok(unfinished)
        };
        self.store.read(read).await
    }

    /// Takes up what topics tell, in order, and how far each was read.
    pub(super) async fn apply(&self, told: Vec<Told>, places: Vec<(Name, Place)>) -> Result<()> {
        let write = move |transaction: &WriteTransaction| {
            let mut batch = Batch::open(transaction)?;
            for told in told {
                batch.take(told)?;
            }
            batch.finish()?;
            let mut table = transaction.open_table(PLACES)?;
            for (topic, Place { next, created, read }) in places {
                table.insert(topic.as_str(), (next, created.0, read.0))?;
            }
            Ok(())
        };
        self.store.write(write).await
    }

    /// Forgets up to `limit` of the executions that ended before then; says how many.
    pub(super) async fn forget(&self, before: Timestamp, limit: usize) -> Result<usize> {
        let write = move |transaction: &WriteTransaction| {
            let mut by_end = transaction.open_table(BY_END)?;
            let mut executions = transaction.open_table(EXECUTIONS)?;
            let mut by_type = transaction.open_table(BY_TYPE)?;
            let mut old = Vec::new();
            for entry in by_end.range(..(before.0, ""))?.take(limit) {
                let place = entry?.0;
                let (time, id) = place.value();
                old.push((time, id.to_owned()));
            }
            for (time, id) in &old {
                by_end.remove((*time, id.as_str()))?;
                let row = executions.remove(id.as_str())?.map(|row| Row::read(row.value()));
                if let Some(row) = row {
                    by_type.remove((row.kind.as_str(), row.offset))?;
                }
            }
            Ok(old.len())
        };
        self.store.write(write).await
    }

    /// A part of a list.
    pub(super) async fn list(&self, listing: Listing) -> Result<Listed> {
        let read = move |transaction: &ReadTransaction| {
            let by_type = table!(transaction, BY_TYPE, Listed::default());
            let executions = table!(transaction, EXECUTIONS, Listed::default());
            let first = match (&listing.from, &listing.kind) {
                (Some((kind, offset)), _) => (kind.as_str(), *offset),
                (None, Some(kind)) => (kind.as_str(), 0),
                (None, None) => ("", 0),
            };
            let mut listed = Listed::default();
            for (scanned, entry) in by_type.range(first..)?.enumerate() {
                let (place, id) = entry?;
                let (kind, offset) = place.value();
                if listing.kind.as_ref().is_some_and(|wanted| wanted.as_str() != kind) {
                    break;
                }
                if listed.rows.len() == listing.limit || scanned == MAX_COMMANDS_SCANNED {
                    listed.next = Name::stored(kind).ok().map(|kind| (kind, offset));
                    break;
                }
                let row = executions.get(id.value())?.map(|row| Row::read(row.value()));
                listed.rows.extend(row.filter(|row| listing.wants(row)));
            }
            Ok(listed)
        };
        self.store.read(read).await
    }
}
