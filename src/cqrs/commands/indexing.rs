//! How what topics tell gets into the index.

use std::collections::HashMap;

use prost::Message as _;
use redb::{ReadableTable as _, Table, WriteTransaction};

use super::index::{BY_END, BY_TYPE, EXECUTIONS, Of, Row, Told, UNFINISHED};
use crate::cqrs::store::Result;

/// Rows on their way into the index. A command and its outcome often come together, and are written once.
pub(super) struct Batch<'t> {
    executions: Table<'t, &'static str, &'static [u8]>,
    by_type: Table<'t, (&'static str, u64), &'static str>,
    unfinished: Table<'t, &'static str, ()>,
    by_end: Table<'t, (u64, &'static str), ()>,
    changed: HashMap<String, Changed>,
}

struct Changed {
    row: Row,
    /// It is in the tables already.
    known: bool,
}

impl<'t> Batch<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            executions: transaction.open_table(EXECUTIONS)?,
            by_type: transaction.open_table(BY_TYPE)?,
            unfinished: transaction.open_table(UNFINISHED)?,
            by_end: transaction.open_table(BY_END)?,
            changed: HashMap::new(),
        })
    }

    pub(super) fn take(&mut self, told: Told) -> Result<()> {
        match told {
            Told::Command(row) => self.command(*row),
            Told::CancelRequested(of) => self.change(&of, |row| row.cancel_requested = true),
            Told::Ended(of, end) => self.change(&of, |row| {
                row.ending = end.ended.ending.number();
                row.outcome = end.ended.outcome;
                row.ended_micros = end.ended.time.0;
                row.attempts = end.attempts;
                (row.failure_code, row.failure_message) = end.failure.unwrap_or_default();
            }),
        }
    }

    fn command(&mut self, row: Row) -> Result<()> {
        if let Some(other) = self.find(&row.id)? {
            // The same once more, or the id was used again after it had been forgotten.
            let is_later = other.accepted_micros < row.accepted_micros
                && (&other.kind, other.offset) != (&row.kind, row.offset);
            if !is_later {
                return Ok(());
            }
            self.remove(&other)?;
        }
        self.changed.insert(row.id.clone(), Changed { row, known: false });
        Ok(())
    }

    fn find(&self, id: &str) -> Result<Option<Row>> {
        match self.changed.get(id) {
            Some(changed) => Ok(Some(changed.row.clone())),
            None => Ok(self.executions.get(id)?.map(|row| Row::read(row.value()))),
        }
    }

    fn remove(&mut self, row: &Row) -> Result<()> {
        let id = row.id.as_str();
        self.changed.remove(id);
        self.executions.remove(id)?;
        self.by_type.remove((row.kind.as_str(), row.offset))?;
        self.unfinished.remove(id)?;
        self.by_end.remove((row.ended_micros, id))?;
        Ok(())
    }

    /// Changes what has not ended. What is told of a forgotten command is of no interest.
    fn change(&mut self, of: &Of, change: impl FnOnce(&mut Row)) -> Result<()> {
        let known = !self.changed.contains_key(&of.id);
        let Some(mut row) = self.find(&of.id)? else { return Ok(()) };
        if (row.kind.as_str(), row.offset) != (of.kind.as_str(), of.offset) || row.ended().is_some() {
            return Ok(());
        }
        change(&mut row);
        let known = known || self.changed.get(&of.id).is_some_and(|changed| changed.known);
        self.changed.insert(of.id.clone(), Changed { row, known });
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        for (id, Changed { row, known }) in std::mem::take(&mut self.changed) {
            let id = id.as_str();
            self.executions.insert(id, row.encode_to_vec().as_slice())?;
            if !known {
                self.by_type.insert((row.kind.as_str(), row.offset), id)?;
            }
            match row.ended() {
                None => _ = self.unfinished.insert(id, ())?,
                Some(ended) => {
                    self.unfinished.remove(id)?;
                    self.by_end.insert((ended.time.0, id), ())?;
                }
            }
        }
        Ok(())
    }
}
