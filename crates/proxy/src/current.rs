//! The snapshot in force.

use arc_swap::ArcSwap;
use milecastle_snapshot::Snapshot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// The snapshot in force on this node, published to all workers.
///
/// A request that arrives after [`Current::publish`] has returned sees the new snapshot or a later one. Idle workers are
/// woken, so that none keeps an old one.
pub struct Current {
    snapshot: ArcSwap<Snapshot>,
    generation: AtomicU64,
    wake: watch::Sender<u64>,
    /// For operators; nothing is ordered by it.
    published_at: Mutex<SystemTime>,
}

impl Current {
    /// A cell that holds the first snapshot.
    pub fn new(first: Arc<Snapshot>) -> Self {
        Self {
            snapshot: ArcSwap::new(first),
            generation: AtomicU64::new(0),
            wake: watch::Sender::new(0),
            published_at: Mutex::new(SystemTime::now()),
        }
    }

    /// Puts a snapshot in force. Only one thread publishes at a time.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake.send_replace(generation);
        *self.published_at.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
    }

    /// When the snapshot in force was published, by the wall clock.
    pub fn published_at(&self) -> SystemTime {
        *self.published_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// A number that changes with each publication, and never sooner than the snapshot.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many snapshots were in force, the present one included.
    pub(crate) fn publications(&self) -> u64 {
        self.generation() + 1
    }

    /// Wakes at each publication.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }
}
