//! The CSV: its rows as departures, and what must come out in the end.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Error;

/// What the file writes where there is no value: the flight never left.
const NONE: &str = "NA";
/// Entries of a list of the worst.
pub(crate) const WORST: usize = 5;

/// A row of the CSV.
#[derive(Debug, Clone)]
pub(crate) struct Departure {
    /// The row's number, from 1.
    pub(crate) row: usize,
    pub(crate) carrier: String,
    /// Minutes after the scheduled time, as it stands there.
    pub(crate) delay: String,
}

impl Departure {
    /// The idempotency key of its command.
    pub(crate) fn id(&self) -> String {
        format!("departure-{:06}", self.row)
    }

    /// The minutes, if it left.
    pub(crate) fn minutes(&self) -> Option<i32> {
        self.delay.parse().ok()
    }
}

/// An entry of the bucket: the delay in minutes and the key.
pub(crate) type Worst = (i32, String);

/// Where a departure is in the bucket: all of one carrier have a prefix in common.
pub(crate) fn key(carrier: &str, id: &str) -> String {
    format!("{carrier}/{id}")
}

pub(crate) fn read(path: &Path) -> Result<Vec<Departure>, Error> {
    let mut reader = csv::Reader::from_path(path)?;
    let header = reader.headers()?.clone();
    let column = |name: &str| {
        let found = header.iter().position(|column| column == name);
        found.ok_or_else(|| format!("{} has no column {name}", path.display()))
    };
    let (carrier, delay) = (column("carrier")?, column("dep_delay")?);
    let mut departures = Vec::new();
    for (row, fields) in (1..).zip(reader.records()) {
        let fields = fields?;
        let (carrier, delay) = (fields[carrier].to_owned(), fields[delay].to_owned());
        if delay != NONE {
            delay.parse::<i32>().map_err(|_| format!("row {row}: {delay:?} is no delay"))?;
        }
        departures.push(Departure { row, carrier, delay });
    }
    Ok(departures)
}

/// The worst delays of each carrier, the worst first, and of equal ones the last key.
pub(crate) fn worst_by_carrier(departures: &[Departure]) -> BTreeMap<String, Vec<Worst>> {
    let mut by_carrier = BTreeMap::<_, Vec<_>>::new();
    for departure in departures {
        let worst = by_carrier.entry(departure.carrier.clone()).or_default();
        let key = key(&departure.carrier, &departure.id());
        worst.extend(departure.minutes().map(|minutes| (minutes, key)));
    }
    for worst in by_carrier.values_mut() {
        worst.sort_unstable_by(|one, other| other.cmp(one));
        worst.truncate(WORST);
    }
    by_carrier
}
