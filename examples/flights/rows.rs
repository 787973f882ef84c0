//! The CSV: what its rows add up to, and its rows as messages.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use columba::proto::v1::Message;
use serde_json::{Map, Value};

use crate::Error;

/// What the flights of one carrier add up to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) flights: u64,
    /// In miles.
    pub(crate) distance: u64,
}

/// The totals by carrier.
pub(crate) type ByCarrier = BTreeMap<String, Totals>;

/// The attribute that holds the number of a row, from 1.
pub(crate) const ROW: &str = "row";
/// What the file writes where there is no value.
const NONE: &str = "NA";

/// Adds up the CSV as it stands, without any of the code that publishes it.
pub(crate) fn totals(path: &Path) -> Result<ByCarrier, Error> {
    let mut reader = open(path)?;
    let header = reader.headers()?.clone();
    let column = |name: &str| {
        let found = header.iter().position(|column| column == name);
        found.ok_or_else(|| format!("{} has no column {name}", path.display()))
    };
    let (carrier, distance) = (column("carrier")?, column("distance")?);
    let mut totals = ByCarrier::new();
    for row in reader.records() {
        let row = row?;
        let entry = totals.entry(row[carrier].to_owned()).or_default();
        entry.flights += 1;
        entry.distance += row[distance].parse::<u64>()?;
    }
    Ok(totals)
}

/// The rows as messages, in order, each with its number.
pub(crate) fn messages(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Message, Error>> + Send + use<>, Error> {
    let mut reader = open(path)?;
    let header = reader.headers()?.clone();
    Ok(reader.into_records().zip(1u64..).map(move |(row, number)| {
        let row = row?;
        let object: Map<_, _> = header.iter().map(str::to_owned).zip(row.iter().map(value)).collect();
        let key = object.get("carrier").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Message {
            data: serde_json::to_vec(&object)?.into(),
            key,
            attributes: HashMap::from([(ROW.to_owned(), number.to_string())]),
            content_type: "application/json".into(),
            ..Message::default()
        })
    }))
}

fn open(path: &Path) -> Result<csv::Reader<File>, Error> {
    csv::Reader::from_path(path).map_err(|error| format!("cannot read {}: {error}", path.display()).into())
}

fn value(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(number) => number.into(),
        Err(_) if text == NONE => Value::Null,
        Err(_) => text.into(),
    }
}
