//! Connections that wait for their next request, so that the one that has waited longest can make room.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All of a listener that wait, by when they began to: a number that grows.
#[derive(Default)]
pub(super) struct Waiting {
    connections: Mutex<BTreeMap<u64, Arc<Notify>>>,
    began: AtomicU64,
}

/// A connection. It waits from the start, and whenever no request of it is in work.
pub(super) struct Seat {
    waiting: Arc<Waiting>,
    number: AtomicU64,
    cut: Arc<Notify>,
}

/// For as long as it lives, a request of the connection is in work.
pub(super) struct Busy(Arc<Seat>);

impl Waiting {
    /// A seat for a connection that has just come.
    pub(super) fn seat(self: &Arc<Self>) -> Arc<Seat> {
        let seat = Arc::new(Seat { waiting: self.clone(), number: AtomicU64::default(), cut: Arc::default() });
        seat.wait();
        seat
    }

    /// Cuts the connection that has waited longest, if any waits.
    pub(super) fn make_room(&self) {
        if let Some((_, longest)) = self.lock().pop_first() {
            longest.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// A request has come.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.waiting.lock().remove(&self.number.load(Ordering::Relaxed));
        Busy(self.clone())
    }

    /// Ends when the connection is to make room.
    pub(super) async fn cut(&self) {
        self.cut.notified().await;
    }

    fn wait(&self) {
        let mut connections = self.waiting.lock();
        let number = self.waiting.began.fetch_add(1, Ordering::Relaxed);
        self.number.store(number, Ordering::Relaxed);
        connections.insert(number, self.cut.clone());
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.number.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_one_that_has_waited_longest_makes_room() {
        let waiting = Arc::<Waiting>::default();
        let seats: Vec<Arc<Seat>> = (0..4).map(|_| waiting.seat()).collect();
        let is_cut = |n: usize| seats[n].cut().now_or_never().is_some();
        let first = seats[0].busy();
        waiting.make_room();
        assert!(!is_cut(0) && is_cut(1) && !is_cut(2), "one with a request in work stays");
        drop(first);
        waiting.make_room();
        waiting.make_room();
        assert!(is_cut(2) && is_cut(3) && !is_cut(0));
        waiting.make_room();
        assert!(is_cut(0));
        waiting.make_room();
    }
}
