//! Series of one metric, by label values.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::page::{escape_label, head};
use super::value::{Metric, Sample};

/// Locks that the series of a family are spread over.
const LOCKS: usize = 8;

/// How a family treats its series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A series without an update for so long leaves the page; `None` keeps it. Measured from one rendering to the next.
    pub expire: Option<Duration>,
    /// Most series the family may have, 0 for no limit. Beyond it, new label values count together in one series whose label
    /// values are all `_overflow`.
    pub max_series: usize,
}

/// What a series is for the page: its value and where it stands.
pub(super) struct Series<M> {
    values: Box<[Box<str>]>,
    /// `a="b",c="d"`, escaped.
    labels: Box<str>,
    metric: M,
    seen: Mutex<Seen>,
}

/// What the last rendering saw of a series.
struct Seen {
    stamp: u64,
    changed: Instant,
}

/// A handle on the series of one set of label values. Cheap to clone.
pub struct Handle<M>(Arc<Series<M>>);

impl<M> Deref for Handle<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0.metric
    }
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

type Shard<M> = RwLock<HashMap<u64, Vec<Arc<Series<M>>>, RandomState>>;

pub(super) struct Inner<M: Metric> {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) labels: Vec<String>,
    pub(super) options: Options,
    pub(super) shape: M::Shape,
    shards: usize,
    /// Seeded, since label values may come from clients.
    hasher: RandomState,
    locks: [Shard<M>; LOCKS],
    /// Look-ups that ended in the overflow series.
    overflowed: Arc<AtomicU64>,
}

/// A family in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilySnapshot {
    /// Name, prefix included.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels, in order.
    pub labels: Vec<String>,
    /// Its series: label values in the same order, and what they count.
    pub series: Vec<(Box<[Box<str>]>, Sample)>,
}

/// All series of one metric. Cheap to clone.
pub struct Family<M: Metric>(pub(super) Arc<Inner<M>>);

impl<M: Metric> Clone for Family<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Metric> Family<M> {
    pub(super) fn new(
        (name, help, labels): (String, String, Vec<String>),
        options: Options,
        shape: M::Shape,
        shards: usize,
        overflowed: Arc<AtomicU64>,
    ) -> Self {
        let locks = std::array::from_fn(|_| RwLock::default());
        let hasher = RandomState::default();
        Self(Arc::new(Inner { name, help, labels, options, shape, shards, hasher, locks, overflowed }))
    }

    /// The series of these label values, in the order of the family's labels.
    ///
    /// # Panics
    /// If the number of values is not the number of labels.
    pub fn with(&self, values: &[&str]) -> Handle<M> {
        let inner = &*self.0;
        assert_eq!(values.len(), inner.labels.len(), "label values of {}", inner.name);
        let hash = inner.hash(values);
        let shard = inner.shard(hash);
        let known = shard.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = find(&known, hash, values) {
            return Handle(series);
        }
        drop(known);
        if inner.options.max_series > 0 && self.len() >= inner.options.max_series {
            let overflow: Vec<&str> = values.iter().map(|_| "_overflow").collect();
            if overflow != values {
                inner.overflowed.fetch_add(1, Ordering::Relaxed);
                return inner.insert(&overflow);
            }
        }
        inner.insert(values)
    }

    /// The only series of a family without labels.
    ///
    /// # Panics
    /// If the family has labels.
    pub fn get(&self) -> Handle<M> {
        self.with(&[])
    }

    /// Drops the series for whose label values `keep` is false, for things that are gone. A handle still held updates nothing
    /// that is shown.
    pub fn retain(&self, keep: impl Fn(&[Box<str>]) -> bool) {
        for shard in &self.0.locks {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, list| {
                list.retain(|series| keep(&series.values));
                !list.is_empty()
            });
        }
    }

    /// The number of series held, hidden ones included.
    pub fn len(&self) -> usize {
        let count = |shard: &Shard<M>| -> usize {
            shard.read().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
        };
        self.0.locks.iter().map(count).sum()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the family as of `now`, and lets go of series that have been idle for too long.
    pub(super) fn write(&self, page: &mut String, now: Instant) {
        let inner = &*self.0;
        head(page, &inner.name, M::KIND, &inner.help);
        for series in self.shown(now) {
            series.metric.write(&inner.name, &series.labels, page);
        }
    }

    /// The family as of `now`, in numbers; as [`Self::write`] for idle series.
    pub(super) fn snapshot(&self, now: Instant) -> FamilySnapshot {
        let inner = &*self.0;
        let series = self.shown(now);
        FamilySnapshot {
            name: inner.name.clone(),
            help: inner.help.clone(),
            kind: M::KIND,
            labels: inner.labels.clone(),
            series: series.iter().map(|series| (series.values.clone(), series.metric.sample())).collect(),
        }
    }

    /// The series that are shown, by label values.
    fn shown(&self, now: Instant) -> Vec<Arc<Series<M>>> {
        let inner = &*self.0;
        let mut shown: Vec<Arc<Series<M>>> = Vec::new();
        for shard in &inner.locks {
            let Some(expire) = inner.options.expire else {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                shown.extend(shard.values().flatten().cloned());
                continue;
            };
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, list| {
                list.retain_mut(|series| {
                    // Before the value is looked at: under the write lock nobody can get a new handle, so an update by the
                    // last holder is either seen below, or its handle is seen here.
                    let loose = Arc::get_mut(series).is_some();
                    let alive = !series.idle(now, expire);
                    if alive {
                        shown.push(series.clone());
                    }
                    alive || !loose
                });
                !list.is_empty()
            });
        }
        shown.sort_by(|a, b| a.values.cmp(&b.values));
        shown
    }
}

impl<M: Metric> Series<M> {
    /// Notes what changed since the last rendering; whether that was longer ago than `expire`.
    fn idle(&self, now: Instant, expire: Duration) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.metric.stamp();
        if stamp != seen.stamp {
            *seen = Seen { stamp, changed: now };
        }
        now.saturating_duration_since(seen.changed) > expire
    }
}

impl<M: Metric> Inner<M> {
    fn hash(&self, values: &[&str]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for value in values {
            hasher.write(value.as_bytes());
            // Keeps `ab`,`c` and `a`,`bc` apart: this byte is in no UTF-8 text.
            hasher.write_u8(0xff);
        }
        hasher.finish()
    }

    fn shard(&self, hash: u64) -> &Shard<M> {
        // The high bits; the map uses the low ones.
        &self.locks[usize::try_from(hash >> 61).unwrap_or_default() % LOCKS]
    }

    fn insert(&self, values: &[&str]) -> Handle<M> {
        let hash = self.hash(values);
        let mut shard = self.shard(hash).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = find(&shard, hash, values) {
            return Handle(series);
        }
        let pairs: Vec<String> =
            self.labels.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escape_label(value))).collect();
        let metric = M::new(&self.shape, self.shards);
        let seen = Mutex::new(Seen { stamp: metric.stamp(), changed: Instant::now() });
        let series = Arc::new(Series {
            values: values.iter().map(|v| Box::from(*v)).collect(),
            labels: pairs.join(",").into(),
            metric,
            seen,
        });
        shard.entry(hash).or_default().push(series.clone());
        Handle(series)
    }
}

fn find<M>(
    shard: &HashMap<u64, Vec<Arc<Series<M>>>, RandomState>,
    hash: u64,
    values: &[&str],
) -> Option<Arc<Series<M>>> {
    // Most label sets have empty values, and `memcmp` of nothing is slow where it is built on masked loads: those at the
    // dangling address of an empty text cost some 80 ns each.
    let equal = |a: &str, b: &str| a.len() == b.len() && (a.is_empty() || a == b);
    let same = |series: &&Arc<Series<M>>| series.values.iter().zip(values).all(|(a, b)| equal(a, b));
    shard.get(&hash)?.iter().find(same).cloned()
}
