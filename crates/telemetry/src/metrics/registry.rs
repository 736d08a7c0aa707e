//! All families of a process.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::family::{Family, FamilySnapshot, Options};
use super::value::{Counter, Gauge, Histogram, Metric};

/// Most cells a counter is spread over: more would cost memory in each series for little.
const MAX_SHARDS: usize = 8;

/// Why a family could not be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// A family of this name exists and is of another kind, or has other labels or buckets.
    #[error("metric {0} is registered already with another kind, other labels or other buckets")]
    Conflict(String),
    /// The name, or a label's name, is not one of Prometheus.
    #[error("`{0}` is not a metric or label name: use letters, digits and `_`, no digit first")]
    Name(String),
    /// Bounds of buckets that do not grow, or are not finite.
    #[error("buckets of {0} must be finite numbers that grow")]
    Buckets(String),
}

/// The families of a process, and the page that shows them.
pub struct Registry {
    prefix: String,
    shards: usize,
    families: Mutex<BTreeMap<String, Box<dyn AnyFamily>>>,
    overflowed: Arc<AtomicU64>,
}

/// A family with its kind erased.
trait AnyFamily: Send {
    fn write(&self, page: &mut String, now: Instant);
    fn snapshot(&self, now: Instant) -> FamilySnapshot;
    fn any(&self) -> &dyn Any;
}

impl<M: Metric> AnyFamily for Family<M> {
    fn write(&self, page: &mut String, now: Instant) {
        Self::write(self, page, now);
    }

    fn snapshot(&self, now: Instant) -> FamilySnapshot {
        Self::snapshot(self, now)
    }

    fn any(&self) -> &dyn Any {
        self
    }
}

impl Registry {
    /// A registry whose metrics' names begin with `prefix`. `threads` is how many threads update metrics often; counters are
    /// spread over as many cells, up to 8.
    pub fn new(prefix: &str, threads: usize) -> Self {
        Self {
            prefix: prefix.to_owned(),
            shards: threads.clamp(1, MAX_SHARDS).next_power_of_two(),
            families: Mutex::default(),
            overflowed: Arc::default(),
        }
    }

    /// A family of counters. Registered again with the same labels, it is the same family, with the first one's options.
    pub fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        options: Options,
    ) -> Result<Family<Counter>, MetricError> {
        self.family(name, help, labels, options, (), |(), ()| true)
    }

    /// The family of those limits that have no metric of their own. Its label is the key that sets the limit.
    ///
    /// # Errors
    /// The name is taken by a metric of another kind.
    pub fn limit_hits(&self) -> Result<Family<Counter>, MetricError> {
        let help =
            "Times that a limit without a metric of its own refused, dropped, cut or held up something, by its key";
        self.counter("limit_hits_total", help, &["limit"], Options::default())
    }

    /// A family of gauges, as [`Registry::counter`].
    pub fn gauge(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        options: Options,
    ) -> Result<Family<Gauge>, MetricError> {
        self.family(name, help, labels, options, (), |(), ()| true)
    }

    /// A family of histograms with these upper bounds, as [`Registry::counter`]. `+Inf` is added.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        bounds: &[f64],
        options: Options,
    ) -> Result<Family<Histogram>, MetricError> {
        if bounds.windows(2).any(|w| w[0] >= w[1]) || bounds.iter().any(|b| !b.is_finite()) {
            return Err(MetricError::Buckets(name.to_owned()));
        }
        self.family(name, help, labels, options, bounds.into(), |a, b| a == b)
    }

    fn family<M: Metric>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        options: Options,
        shape: M::Shape,
        same_shape: impl Fn(&M::Shape, &M::Shape) -> bool,
    ) -> Result<Family<M>, MetricError> {
        let name = format!("{}{name}", self.prefix);
        let names = std::iter::once(name.as_str()).chain(labels.iter().copied());
        if let Some(bad) = names.into_iter().find(|n| !is_name(n)) {
            return Err(MetricError::Name(bad.to_owned()));
        }
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = families.get(&name) {
            return match known.any().downcast_ref::<Family<M>>() {
                Some(f) if f.0.labels == labels && same_shape(&f.0.shape, &shape) => Ok(f.clone()),
                _ => Err(MetricError::Conflict(name)),
            };
        }
        let labels = labels.iter().map(|l| (*l).to_owned()).collect();
        let about = (name.clone(), help.to_owned(), labels);
        let family = Family::<M>::new(about, options, shape, self.shards, self.overflowed.clone());
        families.insert(name, Box::new(family.clone()));
        Ok(family)
    }

    /// The page as of now: every family by name, with HELP and TYPE lines.
    pub fn render(&self) -> String {
        self.render_at(Instant::now())
    }

    /// As [`Registry::render`], at a given time; series expire by it.
    pub fn render_at(&self, now: Instant) -> String {
        let mut page = String::new();
        for family in self.families.lock().unwrap_or_else(PoisonError::into_inner).values() {
            family.write(&mut page, now);
        }
        page
    }

    /// Every family by name, in numbers as of now.
    pub fn snapshot(&self) -> Vec<FamilySnapshot> {
        let now = Instant::now();
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        families.values().map(|family| family.snapshot(now)).collect()
    }

    /// How often label values went into an overflow series because their family was full.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

/// Without a prefix, for as many threads as the machine has cores.
impl Default for Registry {
    fn default() -> Self {
        Self::new("", std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}
