//! The values behind a series.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::page::{Number, line};

/// A kind of value that a [`super::Family`] can hold. Only this module's types are.
pub trait Metric: sealed::Sealed + Send + Sync + Sized + 'static {
    /// The word of the TYPE line.
    const KIND: &'static str;

    /// What all series of a family share.
    type Shape: Clone + Send + Sync + 'static;

    /// A value of zero.
    #[doc(hidden)]
    fn new(shape: &Self::Shape, shards: usize) -> Self;

    /// A number that differs after an update from what it was before.
    #[doc(hidden)]
    fn stamp(&self) -> u64;

    /// The value in numbers.
    #[doc(hidden)]
    fn sample(&self) -> Sample;

    /// Writes the series' lines. `labels` is `a="b",c="d"` or empty.
    #[doc(hidden)]
    fn write(&self, name: &str, labels: &str, page: &mut String);
}

/// The value of a series, in numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// Of a counter.
    Count(u64),
    /// Of a gauge.
    Number(f64),
    /// Of a histogram.
    Buckets {
        /// Upper bounds, ascending.
        bounds: Arc<[f64]>,
        /// Observations for each bound, not cumulated, and those above all bounds.
        counts: Vec<u64>,
        /// Sum of the observations.
        sum: f64,
    },
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Counter {}
    impl Sealed for super::Gauge {}
    impl Sealed for super::Histogram {}
}

/// A whole number that only grows.
#[derive(Debug)]
pub struct Counter {
    cells: Box<[Cell]>,
}

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge {
    bits: AtomicU64,
    updates: AtomicU64,
}

/// Counts of observations by size, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: Arc<[f64]>,
    /// One row for each shard: the bits of the sum, a count for each bound, and one for what is above all bounds. So an
    /// observation in one of the first buckets touches one line.
    lines: Box<[Line]>,
    /// Lines of a row.
    row: usize,
}

/// A cache line for itself, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell(AtomicU64);

/// Numbers of 8 bytes in a cache line.
const LINE: usize = 8;

/// Numbers that are moved together.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; LINE]);

/// This thread's number, for the choice of a shard.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|n| *n)
}

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // The number of shards is a power of two, so this is one `and`.
        self.cells[thread_number() & (self.cells.len() - 1)].0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.cells.iter().fold(0, |sum, cell| sum.wrapping_add(cell.0.load(Ordering::Relaxed)))
    }
}

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Ordering::Relaxed);
        self.updates.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: f64) {
        add_float(&self.bits, n);
        self.updates.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1.0);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1.0);
    }

    /// The value.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::Relaxed))
    }
}

impl Histogram {
    /// Counts one observation. NaN is not counted.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        let shards = self.lines.len() / self.row;
        let start = (thread_number() & (shards - 1)) * self.row;
        let cell = |at: usize| &self.lines[start + at / LINE].0[at % LINE];
        cell(1 + bucket).fetch_add(1, Ordering::Relaxed);
        add_float(cell(0), value);
    }

    /// Brings it up to what is counted elsewhere: observations for each bound, not cumulated, and above all bounds, and
    /// their sum. Not to be mixed with [`Self::observe`].
    pub fn follow(&self, counts: &[u64], sum: f64) {
        let cells = self.lines.iter().flat_map(|line| &line.0);
        let numbers = std::iter::once(sum.to_bits()).chain(counts.iter().copied());
        for (cell, number) in cells.zip(numbers).take(self.bounds.len() + 2) {
            cell.store(number, Ordering::Relaxed);
        }
    }

    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.buckets().iter().sum()
    }

    /// The sum of the observations.
    pub fn sum(&self) -> f64 {
        self.rows().filter_map(|mut row| row.next()).map(|bits| f64::from_bits(bits.load(Ordering::Relaxed))).sum()
    }

    /// The numbers of each shard.
    fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = &AtomicU64>> {
        self.lines.chunks(self.row).map(|row| row.iter().flat_map(|line| &line.0))
    }

    /// Observations by bucket, not cumulated; the last is what is above all bounds.
    fn buckets(&self) -> Vec<u64> {
        let mut sums = vec![0_u64; self.bounds.len() + 1];
        for row in self.rows() {
            for (sum, cell) in sums.iter_mut().zip(row.skip(1)) {
                *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        sums
    }
}

fn add_float(bits: &AtomicU64, n: f64) {
    let mut old = bits.load(Ordering::Relaxed);
    loop {
        let new = (f64::from_bits(old) + n).to_bits();
        match bits.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

impl Metric for Counter {
    const KIND: &'static str = "counter";
    type Shape = ();

    fn new((): &(), shards: usize) -> Self {
        Self { cells: (0..shards).map(|_| Cell::default()).collect() }
    }

    fn stamp(&self) -> u64 {
        self.get()
    }

    fn sample(&self) -> Sample {
        Sample::Count(self.get())
    }

    fn write(&self, name: &str, labels: &str, page: &mut String) {
        line(page, name, "", labels, None, Number::Whole(self.get()));
    }
}

impl Metric for Gauge {
    const KIND: &'static str = "gauge";
    type Shape = ();

    fn new((): &(), _: usize) -> Self {
        Self { bits: AtomicU64::new(0.0_f64.to_bits()), updates: AtomicU64::new(0) }
    }

    fn stamp(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    fn sample(&self) -> Sample {
        Sample::Number(self.get())
    }

    fn write(&self, name: &str, labels: &str, page: &mut String) {
        line(page, name, "", labels, None, Number::Float(self.get()));
    }
}

impl Metric for Histogram {
    const KIND: &'static str = "histogram";
    /// Upper bounds of the buckets, finite and ascending.
    type Shape = Arc<[f64]>;

    fn new(bounds: &Arc<[f64]>, shards: usize) -> Self {
        let row = (bounds.len() + 2).div_ceil(LINE);
        // The bits of 0.0 are 0, so sums start right.
        Self { bounds: bounds.clone(), lines: (0..row * shards).map(|_| Line::default()).collect(), row }
    }

    fn stamp(&self) -> u64 {
        self.count()
    }

    fn sample(&self) -> Sample {
        // Sum before counts, as on the page.
        let sum = self.sum();
        Sample::Buckets { bounds: self.bounds.clone(), counts: self.buckets(), sum }
    }

    fn write(&self, name: &str, labels: &str, page: &mut String) {
        // Sum before counts: an observation in between then shows in the counts alone, and the next page has both.
        let sum = self.sum();
        let mut count = 0;
        let mut bound = String::new();
        for (i, n) in self.buckets().into_iter().enumerate() {
            count += n;
            bound.clear();
            write!(bound, "{}", Number::Float(self.bounds.get(i).copied().unwrap_or(f64::INFINITY)))
                .expect("a String takes all");
            line(page, name, "_bucket", labels, Some(&bound), Number::Whole(count));
        }
        line(page, name, "_sum", labels, None, Number::Float(sum));
        line(page, name, "_count", labels, None, Number::Whole(count));
    }
}
