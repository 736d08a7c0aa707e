//! The time of day, as a value that tests can set.

use std::sync::Arc;

use milecastle_store::Store;

/// Tells Unix time in whole seconds. Only what people read and lifetimes come from it; nothing is ordered by it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The clock of the database, which all replicas have in common.
    pub fn of(store: &Store) -> Self {
        let store = store.clone();
        Self::new(move || store.now())
    }

    /// Unix time in seconds.
    pub fn now(&self) -> u64 {
        (self.0)()
    }
}
