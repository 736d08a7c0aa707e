//! The database's time, as this process knows it without asking.
//!
//! It is read with every look at the heads and carried on in between by the monotonic clock of this process, so that replicas
//! agree on the time whatever their own clocks say, also while the database is away.
//!
//! What must stay true: nothing that the database keeps comes from the clock of a process. Whatever has to be exact to less
//! than a second (leases, heartbeats) asks the database within its statement, by [`Db::clock_sql`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::sql::Db;

/// Cheap to clone, and the same for all clones.
#[derive(Debug, Clone)]
pub(crate) struct DatabaseClock(Arc<Mutex<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Since 1970.
    told: Duration,
    at: Instant,
}

impl DatabaseClock {
    /// A clock that was read once.
    pub(crate) async fn of(db: &Db) -> Result<Self, StoreError> {
        let row = db.row(format!("SELECT {}", db.clock_sql()), &[]).await?;
        let row = row.ok_or_else(|| StoreError::corrupt("a clock without a row"))?;
        Ok(Self(Arc::new(Mutex::new(Reading::now(row.int_or_zero(0)?)))))
    }

    /// The database has just said what [`Db::clock_sql`] gives.
    pub(crate) fn told(&self, millis: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Reading::now(millis);
    }

    /// Unix time in whole seconds.
    pub(crate) fn now(&self) -> u64 {
        let Reading { told, at } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (told + at.elapsed()).as_secs()
    }
}

impl Reading {
    fn now(millis: u64) -> Self {
        Self { told: Duration::from_millis(millis), at: Instant::now() }
    }
}
