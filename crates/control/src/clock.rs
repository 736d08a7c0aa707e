//! The time of day, as a value that tests can set.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells Unix time in whole seconds. Only what people read and lifetimes come from it; nothing is ordered by it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The system's clock. Before 1970 it says 0.
    pub fn system() -> Self {
        Self::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default())
    }

    /// Unix time in seconds.
    pub fn now(&self) -> u64 {
        (self.0)()
    }
}
