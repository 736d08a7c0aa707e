//! Counters, gauges and histograms with labels, and the Prometheus text page (docs/spec/plugins/prometheus.md).
//!
//! A [`Registry`] holds families; a [`Family`] holds one series for each set of label values; [`Family::with`] finds or makes
//! the series and hands out an `Arc` to it. Keep that handle where the label values are known beforehand: an update through
//! it is one relaxed atomic addition on a cache line that other threads rarely touch. A look-up by label values hashes them
//! and takes a shared lock of one shard, without allocating.
//!
//! Invariants:
//! - No update is lost, also while the page is rendered and while idle series expire.
//! - A series handed out stays the series of its labels for as long as somebody holds it: an expired one only disappears from
//!   the page, and comes back with its value at the next update. Held by nobody, it is dropped.
//! - The page is the same bytes for the same values: families by name, series by label values.

mod family;
mod page;
mod registry;
mod value;

#[cfg(test)]
mod tests;

pub use family::{Family, FamilySnapshot, Handle, Options};
pub use page::{escape_label, label_text};
pub use registry::{MetricError, Registry};
pub use value::{Counter, Gauge, Histogram, Metric, Sample};
