//! The page that is written of the figures.

use std::path::Path;
use std::time::Duration;

use crate::load::Sample;
use crate::{MESSAGE_BYTES, ROUNDS, file_system};

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Messages a second.
    Messages,
    /// The median latency of a request.
    Median,
}

/// One workload: in each round the disk, the server that does nothing, and Columba.
pub(crate) struct Figure {
    name: &'static str,
    unit: Unit,
    rounds: Vec<[Option<f64>; 3]>,
}

impl Figure {
    pub(crate) fn new(name: &'static str, unit: Unit) -> Self {
        Self { name, unit, rounds: Vec::new() }
    }

    /// Adds a round, if it is to be kept.
    pub(crate) fn add(&mut self, samples: [Option<Sample>; 3], kept: bool) {
        if kept {
            let unit = self.unit;
            self.rounds.push(samples.map(|sample| Some(unit.of(sample?))));
        }
    }

    fn row(&self) -> String {
        let [disk, noop, columba] = [0, 1, 2].map(|column| self.cell(column));
        let [of_disk, of_noop] = [0, 1].map(|column| self.ratio(column));
        format!(
            "| {} | {} | {disk} | {noop} | {columba} | {of_disk} | {of_noop} |",
            self.name,
            self.unit.name()
        )
    }

    fn cell(&self, column: usize) -> String {
        let values: Option<Vec<f64>> = self.rounds.iter().map(|round| round[column]).collect();
        values.map_or("–".into(), |values| spread(values, |value| self.unit.show(value)))
    }

    /// Columba as a multiple of another column, round by round.
    fn ratio(&self, column: usize) -> String {
        let ratios: Option<Vec<f64>> =
            self.rounds.iter().map(|round| Some(round[2]? / round[column]?)).collect();
        ratios.map_or("–".into(), |ratios| spread(ratios, |ratio| format!("{ratio:.2}")))
    }
}

impl Unit {
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn of(self, sample: Sample) -> f64 {
        match self {
            Self::Messages => sample.messages as f64 / sample.elapsed.as_secs_f64(),
            Self::Median => median_latency(sample.latencies).as_secs_f64(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages/s",
            Self::Median => "median, µs",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Messages => format!("{:.1} k", value / 1e3),
            Self::Median => format!("{:.0}", value * 1e6),
        }
    }
}

fn median_latency(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies.get(latencies.len() / 2).copied().unwrap_or_default()
}

/// The median, with the least and the most.
fn spread(mut values: Vec<f64>, show: impl Fn(f64) -> String) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let (least, median, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    format!("{} ({}–{})", show(median), show(least), show(most))
}

/// Prints the page.
pub(crate) fn print(figures: &[Figure], dir: &Path) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let now = jiff::Timestamp::now().to_string();
    let date = now.split('T').next().unwrap_or(&now);
    println!("# Benchmarks\n");
    println!(
        "Written by `make figures` on {date}: columba {}, {cores} cores shared by client and server,",
        env!("CARGO_PKG_VERSION")
    );
    println!(
        "data on {}, messages of {MESSAGE_BYTES} bytes, {ROUNDS} rounds after one to warm up.\n",
        file_system(dir)
    );
    println!("Every round measures one after the other:\n");
    println!(
        "- *disk*: a loop of a write and an fdatasync into a growing file. One write is as large as all"
    );
    println!("  messages that the workload has in flight, and at least 4 KiB;");
    println!(
        "- *no-op*: a tonic server in a process of its own that decodes the same requests and answers at"
    );
    println!("  once, and streams the same deliveries from memory;");
    println!("- *Columba*, in a process of its own, `FSYNCED`: every receipt and every ack is on disk.\n");
    println!("Medians, with the least and the most. The last two columns are Columba as a multiple of the");
    println!("others, taken within each round.\n");
    println!("| workload | unit | disk | no-op | Columba | × disk | × no-op |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for figure in figures {
        println!("{}", figure.row());
    }
    println!("\nIn the row with a median a lower multiple is better, in the others a higher one.");
}
