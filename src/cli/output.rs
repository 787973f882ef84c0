//! What commands print: tables for people, one JSON object a line for programs.

use std::io::{self, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::message::printable;
use crate::proto::v1;

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: one object a line
    Json,
}

impl Format {
    /// Prints a table of items, or each item as JSON. `numbers` are the columns to align right. What is in the
    /// cells may come from anybody: control characters are escaped.
    pub(super) fn list<T: Serialize>(
        self,
        items: &[T],
        header: &[&str],
        numbers: &[usize],
        row: impl Fn(&T) -> Vec<String>,
    ) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self == Self::Json {
            return items.iter().try_for_each(|item| json_line(&mut out, item));
        }
        let mut table = bare_table();
        table
            .set_header(header.to_vec())
            .add_rows(items.iter().map(|item| row(item).into_iter().map(harmless)));
        set_padding(&mut table);
        for &number in numbers {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(out, "{}", table.trim_fmt())
    }

    /// Prints one item as names and values, or as JSON. Empty values are left out of the text, and control
    /// characters in it are escaped.
    pub(super) fn item<T: Serialize>(self, item: &T, fields: Vec<(&str, String)>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self == Self::Json {
            return json_line(&mut out, item);
        }
        let mut table = bare_table();
        let shown = fields.into_iter().filter(|(_, value)| !value.is_empty());
        table.add_rows(shown.map(|(name, value)| [name.to_owned(), harmless(value)]));
        set_padding(&mut table);
        writeln!(out, "{}", table.trim_fmt())
    }

    /// Prints one sentence, or an item as JSON. In the sentence, what others have chosen must be [`printable`].
    pub(super) fn sentence<T: Serialize>(self, item: &T, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::Text => writeln!(out, "{text}"),
            Self::Json => json_line(&mut out, item),
        }
    }
}

/// Text without anything that a terminal would act on.
fn harmless(text: String) -> String {
    match printable(text.as_bytes()) {
        std::borrow::Cow::Borrowed(_) => text,
        std::borrow::Cow::Owned(escaped) => escaped,
    }
}

/// Writes one JSON object and ends the line.
pub(super) fn json_line<T: Serialize>(out: &mut impl Write, item: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *out, item)?;
    out.write_all(b"\n")
}

fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

/// Two spaces between columns, none at the left.
fn set_padding(table: &mut Table) {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
}

/// A time as RFC 3339 in UTC, in microseconds; `None` where there is none.
pub(super) fn rfc3339(time: Option<&prost_types::Timestamp>) -> Option<String> {
    let time = time?;
    let time = jiff::Timestamp::new(time.seconds, time.nanos).ok()?;
    Some(format!("{time:.6}"))
}

/// A span of time as people write it, such as `1m 30s`, to the millisecond.
pub(super) fn duration(span: Option<&prost_types::Duration>) -> Option<String> {
    let span = Duration::try_from(*span?).ok()?;
    let millis = u64::try_from(span.as_millis()).ok()?;
    Some(humantime::format_duration(Duration::from_millis(millis)).to_string())
}

/// Whether a number is none, and can be left out of JSON.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A size as people write it, such as `1.0 MiB`.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

/// `name=value` pairs in the order of their names.
pub(super) fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.sort();
    pairs.join(", ")
}

/// A durability as the command line writes it.
pub(super) fn durability(number: i32) -> &'static str {
    match v1::Durability::try_from(number) {
        Ok(v1::Durability::Buffered) => "buffered",
        Ok(v1::Durability::Fsynced) => "fsynced",
        _ => "default",
    }
}

/// A number of messages, as text.
pub(super) fn messages(count: u64) -> String {
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations() {
        let time = prost_types::Timestamp { seconds: 1, nanos: 5_000 };
        assert_eq!(rfc3339(Some(&time)).unwrap(), "1970-01-01T00:00:01.000005Z");
        assert_eq!(rfc3339(None), None);
        let span = prost_types::Duration { seconds: 90, nanos: 1_999_999 };
        assert_eq!(duration(Some(&span)).unwrap(), "1m 30s 1ms");
    }
}
