//! Writes metrics in the text format of `OpenMetrics`.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::encoding::{EncodeLabel, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry;

use super::families::{Family, Kind, Unit};
use crate::meter::Distribution;
use crate::model::Name;

/// What stands for all topics or subscriptions that have no samples of their own. No name of theirs is
/// like it.
pub(super) const OTHERS: &str = "_other";

/// The values of a sample's labels, in the order of the family's.
pub(super) type Values<'a> = &'a [&'a str];

/// The label of a topic or subscription.
pub(super) fn label(name: Option<&Name>) -> &str {
    name.map_or(OTHERS, Name::as_str)
}

/// A page that is being written, a family at a time.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    /// A family of counters, with the values of its labels.
    pub(super) fn counters<'v, V: AsRef<[&'v str]>>(
        &mut self,
        family: &'static Family,
        samples: impl IntoIterator<Item = (V, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(family)?;
        for (values, value) in samples {
            let labels = Labels(family.labels, values.as_ref());
            with(&mut encoder, &labels, |sample| {
                sample.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
            })?;
        }
        Ok(())
    }

    /// A family of gauges, with the values of its labels.
    pub(super) fn gauges<'v, V: AsRef<[&'v str]>, T: Into<Number>>(
        &mut self,
        family: &'static Family,
        samples: impl IntoIterator<Item = (V, T)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(family)?;
        for (values, value) in samples {
            let labels = Labels(family.labels, values.as_ref());
            with(&mut encoder, &labels, |sample| match value.into() {
                Number::Whole(value) => sample.encode_gauge(&value),
                Number::Real(value) => sample.encode_gauge(&value),
            })?;
        }
        Ok(())
    }

    /// A family of histograms, with the values of its labels.
    pub(super) fn histograms<'v, 'd, V: AsRef<[&'v str]>>(
        &mut self,
        family: &'static Family,
        samples: impl IntoIterator<Item = (V, &'d Distribution)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(family)?;
        for (values, read) in samples {
            let labels = Labels(family.labels, values.as_ref());
            with(&mut encoder, &labels, |sample| {
                sample.encode_histogram::<NoLabelSet>(read.sum, read.count(), &read.buckets, None)
            })?;
        }
        Ok(())
    }

    /// A family that has nothing but labels.
    pub(super) fn info(&mut self, family: &'static Family, values: Values<'_>) -> fmt::Result {
        self.begin(family)?.encode_info(&Labels(family.labels, values))
    }

    fn begin(&mut self, family: &'static Family) -> Result<MetricEncoder<'_>, fmt::Error> {
        let unit = match family.unit {
            Unit::None => None,
            Unit::Seconds => Some(&registry::Unit::Seconds),
            Unit::Bytes => Some(&registry::Unit::Bytes),
        };
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        self.0.encode_descriptor(family.name, family.help, unit, kind)
    }
}

/// Writes a sample with its labels, if it has any.
fn with(
    encoder: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.0.is_empty() { write(encoder) } else { write(&mut encoder.encode_family(labels)?) }
}

/// A number as of now.
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// The names of labels, and their values.
struct Labels<'a>(&'static [&'static str], Values<'a>);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        debug_assert_eq!(self.0.len(), self.1.len(), "each label has a value");
        for label in self.0.iter().copied().zip(self.1.iter().copied()) {
            label.encode(encoder.encode_label())?;
        }
        Ok(())
    }
}
