//! The node's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells the time. Tests have their own.
pub(super) trait Clock: Send + Sync {
    /// The time of a request that began at `at`, on a clock that only grows, and evenly. The beginning is near enough to now,
    /// and the clock need not be read again.
    fn monotonic(&self, at: Instant) -> Duration;
    /// Time since 1970, on which sliding windows are aligned so that nodes agree.
    fn wall(&self) -> Duration;
}

/// The clock in use on this node.
pub(super) struct NodeClock(pub(super) Box<dyn Clock>);

impl Default for NodeClock {
    fn default() -> Self {
        Self(Box::new(SystemClock { start: Instant::now() }))
    }
}

struct SystemClock {
    start: Instant,
}

impl Clock for SystemClock {
    fn monotonic(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }

    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
