//! How values are distributed: how many lie below each of some bounds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The bounds of a histogram, and what its values are measured in.
#[derive(Debug)]
pub(crate) struct Scale {
    /// Upper bounds, rising, in the unit in which values are counted.
    bounds: &'static [u64],
    /// How many of those make one of the unit that is told.
    per_unit: f64,
}

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
/// How many nanoseconds make a second.
const NANOSECONDS: f64 = 1e9;

/// What should be over in a moment, from 100 µs to 10 s. Counted in nanoseconds.
pub(crate) static SECONDS: Scale = Scale {
    bounds: &[
        100 * MICROSECOND,
        250 * MICROSECOND,
        500 * MICROSECOND,
        MILLISECOND,
        2_500 * MICROSECOND,
        5 * MILLISECOND,
        10 * MILLISECOND,
        25 * MILLISECOND,
        50 * MILLISECOND,
        100 * MILLISECOND,
        250 * MILLISECOND,
        500 * MILLISECOND,
        SECOND,
        2_500 * MILLISECOND,
        5 * SECOND,
        10 * SECOND,
    ],
    per_unit: NANOSECONDS,
};

/// What may take a while, from 1 ms to a day. Counted in nanoseconds.
pub(crate) static LONG_SECONDS: Scale = Scale {
    bounds: &[
        MILLISECOND,
        5 * MILLISECOND,
        10 * MILLISECOND,
        50 * MILLISECOND,
        100 * MILLISECOND,
        500 * MILLISECOND,
        SECOND,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
        60 * SECOND,
        300 * SECOND,
        1_800 * SECOND,
        3_600 * SECOND,
        21_600 * SECOND,
        86_400 * SECOND,
    ],
    per_unit: NANOSECONDS,
};

/// Sizes from 256 bytes to 16 MiB.
pub(crate) static BYTES: Scale = Scale {
    bounds: &[256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20],
    per_unit: 1.0,
};

/// How many there are of something, from 1 to 10,000.
pub(crate) static NUMBERS: Scale =
    Scale { bounds: &[1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000], per_unit: 1.0 };

/// Counts values by bounds.
#[derive(Debug)]
pub(crate) struct Histogram {
    scale: &'static Scale,
    /// One for each bound, and one for what is above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(scale: &'static Scale) -> Self {
        let counts = (0..=scale.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { scale, counts, sum: AtomicU64::new(0) }
    }

    /// It was this long.
    pub(crate) fn time(&self, time: Duration) {
        self.value(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// It was this much.
    pub(crate) fn value(&self, value: u64) {
        let place = self.scale.bounds.partition_point(|&bound| bound < value);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What it has counted so far.
    pub(crate) fn read(&self) -> Distribution {
        let Scale { bounds, per_unit } = *self.scale;
        let bounds = bounds.iter().map(|&bound| in_units(bound, per_unit)).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let sum = in_units(self.sum.load(Ordering::Relaxed), per_unit);
        Distribution { buckets: bounds.zip(counts).collect(), sum }
    }
}

#[expect(clippy::cast_precision_loss, reason = "what is told is approximate")]
fn in_units(value: u64, per_unit: f64) -> f64 {
    value as f64 / per_unit
}

/// What a histogram has counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// Upper bounds, the last one infinite, and how many values lie between each and the one before.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all values.
    pub sum: f64,
}

impl Distribution {
    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_at_the_first_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&SECONDS);
        for time in [Duration::ZERO, Duration::from_micros(100), Duration::from_secs(2), Duration::MAX] {
            histogram.time(time);
        }
        let read = histogram.read();
        assert_eq!(read.count(), 4);
        let counted: Vec<_> = read.buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(counted, [(0.0001, 2), (2.5, 1), (f64::INFINITY, 1)]);
    }

    #[test]
    fn bounds_rise_and_sums_are_in_units() {
        for scale in [&SECONDS, &LONG_SECONDS, &BYTES, &NUMBERS] {
            assert!(scale.bounds.is_sorted_by(|a, b| a < b), "{scale:?}");
        }
        let histogram = Histogram::new(&LONG_SECONDS);
        histogram.time(Duration::from_millis(1_500));
        histogram.time(Duration::from_millis(500));
        assert!((histogram.read().sum - 2.0).abs() < 1e-9);
    }
}
