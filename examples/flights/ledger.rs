//! What was consumed, kept outside the server and compared at the end.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use columba::proto::v1::StoredMessage;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Deserialize;
use tokio::sync::Notify;

use crate::Error;
use crate::rows::{ByCarrier, ROW, Totals};

/// How often the server had been killed.
pub(crate) type Life = u64;

/// What the consumers write down together.
pub(crate) struct Ledger {
    entries: Mutex<Entries>,
    total: usize,
    complete: Notify,
}

#[derive(Default)]
struct Entries {
    /// The first delivery of every offset.
    flights: HashMap<u64, Flight>,
    /// Offsets whose acks the server has confirmed, and in which of its lives at the latest.
    confirmed: HashMap<u64, Life>,
    life: Life,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Flight {
    /// The row in the CSV, which travels as an attribute.
    #[serde(skip)]
    row: u64,
    carrier: String,
    distance: u64,
}

/// What is counted on the way.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcome {
    pub(crate) deliveries: u64,
    /// Deliveries of an offset that was delivered before.
    pub(crate) redeliveries: u64,
    /// Acks that had no effect.
    pub(crate) lost_acks: u64,
    /// Redeliveries whose content is not that of the first delivery.
    pub(crate) changed: u64,
    /// Deliveries of an offset whose ack was confirmed before, in the same life of the server or an earlier.
    pub(crate) violations: u64,
    /// Offsets that hold a row which another offset holds too.
    pub(crate) duplicate_rows: u64,
}

impl Ledger {
    /// An empty ledger for so many messages.
    pub(crate) fn new(total: u64) -> Self {
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        Self { entries: Mutex::default(), total, complete: Notify::new() }
    }

    /// The server is about to be killed.
    pub(crate) fn killing(&self) {
        self.lock().life += 1;
    }

    /// The life the server is in.
    pub(crate) fn life(&self) -> Life {
        self.lock().life
    }

    /// Writes down a delivery on a stream that was opened in this life of the server, or a later one. What
    /// was on its way when the server was killed may be read long after: it was not delivered then.
    pub(crate) fn consumed(&self, message: &StoredMessage, opened: Life) -> Result<(), Error> {
        let flight = flight(message)?;
        let mut entries = self.lock();
        entries.outcome.deliveries += 1;
        if entries.confirmed.get(&message.offset).is_some_and(|&confirmed| confirmed <= opened) {
            entries.outcome.violations += 1;
            eprintln!("offset {} was delivered after its ack was confirmed", message.offset);
        }
        match entries.flights.get(&message.offset) {
            Some(first) => {
                let changed = *first != flight;
                entries.outcome.redeliveries += 1;
                entries.outcome.changed += u64::from(changed);
            }
            None => _ = entries.flights.insert(message.offset, flight),
        }
        if entries.flights.len() >= self.total {
            self.complete.notify_one();
        }
        Ok(())
    }

    /// Writes down that the server has confirmed acks.
    pub(crate) fn confirmed(&self, offsets: impl Iterator<Item = u64>) {
        let mut entries = self.lock();
        let life = entries.life;
        entries.confirmed.extend(offsets.map(|offset| (offset, life)));
    }

    /// Writes down that acks had no effect.
    pub(crate) fn acks_lost(&self, count: usize) {
        self.lock().outcome.lost_acks += count as u64;
    }

    /// Waits until as many different messages have come as there are rows.
    pub(crate) async fn complete(&self) {
        self.complete.notified().await;
    }

    /// What was consumed, by carrier, each offset once.
    pub(crate) fn totals(&self) -> ByCarrier {
        let mut totals = ByCarrier::new();
        for flight in self.lock().flights.values() {
            let entry = totals.entry(flight.carrier.clone()).or_default();
            entry.flights += 1;
            entry.distance += flight.distance;
        }
        totals
    }

    /// What was counted.
    pub(crate) fn outcome(&self) -> Outcome {
        let entries = self.lock();
        let rows: HashSet<_> = entries.flights.values().map(|flight| flight.row).collect();
        let duplicate_rows = (entries.flights.len() - rows.len()) as u64;
        Outcome { duplicate_rows, ..entries.outcome.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flight(stored: &StoredMessage) -> Result<Flight, Error> {
    let message = stored.message.as_ref().ok_or("a message without content")?;
    let mut flight: Flight = serde_json::from_slice(&message.data)?;
    if flight.carrier != message.key {
        return Err(format!("offset {} has the key {:?}, not its carrier", stored.offset, message.key).into());
    }
    flight.row = message.attributes.get(ROW).ok_or("a message without its row")?.parse()?;
    Ok(flight)
}

/// The two sides beside each other.
pub(crate) fn table(expected: &ByCarrier, consumed: &ByCarrier) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["carrier", "flights in CSV", "consumed", "miles in CSV", "consumed", "equal"]);
    let (mut all_expected, mut all_consumed) = (Totals::default(), Totals::default());
    for carrier in carriers(expected, consumed) {
        let (expected, consumed) = (of(expected, carrier), of(consumed, carrier));
        add(&mut all_expected, expected);
        add(&mut all_consumed, consumed);
        table.add_row(row(carrier, expected, consumed));
    }
    table.add_row(row("all", all_expected, all_consumed));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// How many flights, or carriers' distances, are not the same on both sides.
pub(crate) fn differences(expected: &ByCarrier, consumed: &ByCarrier) -> u64 {
    let difference = |carrier| {
        let (expected, consumed) = (of(expected, carrier), of(consumed, carrier));
        let flights = expected.flights.abs_diff(consumed.flights);
        flights.max(u64::from(expected.distance != consumed.distance))
    };
    carriers(expected, consumed).map(difference).sum()
}

fn carriers<'a>(expected: &'a ByCarrier, consumed: &'a ByCarrier) -> impl Iterator<Item = &'a str> {
    let only_consumed = consumed.keys().filter(|carrier| !expected.contains_key(*carrier));
    expected.keys().chain(only_consumed).map(String::as_str)
}

fn of(totals: &ByCarrier, carrier: &str) -> Totals {
    totals.get(carrier).copied().unwrap_or_default()
}

fn add(sum: &mut Totals, totals: Totals) {
    sum.flights += totals.flights;
    sum.distance += totals.distance;
}

fn row(name: &str, expected: Totals, consumed: Totals) -> [String; 6] {
    let equal = if expected == consumed { "yes" } else { "NO" };
    let numbers = [expected.flights, consumed.flights, expected.distance, consumed.distance];
    let [flights, consumed_flights, miles, consumed_miles] = numbers.map(|number| number.to_string());
    [name.into(), flights, consumed_flights, miles, consumed_miles, equal.into()]
}
