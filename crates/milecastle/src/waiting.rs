//! Waiting for the database, at whatever step of a start it is away.

use milecastle_control::dpm::DpStartError;
use milecastle_control::{KeyError, Readiness};
use milecastle_settings::Database;
use milecastle_store::{OpenError, StoreError};

/// How a start waits, and where it says for what.
pub(crate) struct Waiting<'a> {
    /// `retry_min` and `retry_max`: the pause between two tries, which doubles.
    pub database: &'a Database,
    pub readiness: &'a Readiness,
}

/// Why a try failed.
pub(crate) trait Passing: std::error::Error {
    /// Whether the same may succeed later without anything being done to this program.
    fn may_pass(&self) -> bool;
}

impl Waiting<'_> {
    /// Tries until it is done.
    ///
    /// # Errors
    /// What waiting cannot mend.
    pub(crate) async fn until<T, E: Passing>(&self, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
        let mut pause = self.database.retry_min.get();
        loop {
            let error = match attempt().await {
                Err(error) if error.may_pass() => error,
                ended => return ended,
            };
            tracing::warn!(%error, retry_in_ms = pause.as_millis(), "waiting for the database");
            self.readiness.waits(format!("waiting for the database: {error}"));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.database.retry_max.get());
        }
    }
}

impl Passing for OpenError {
    fn may_pass(&self) -> bool {
        OpenError::may_pass(self)
    }
}

impl Passing for StoreError {
    fn may_pass(&self) -> bool {
        StoreError::may_pass(self)
    }
}

impl Passing for KeyError {
    fn may_pass(&self) -> bool {
        matches!(self, KeyError::Store(error) if error.may_pass())
    }
}

impl Passing for DpStartError {
    fn may_pass(&self) -> bool {
        DpStartError::may_pass(self)
    }
}
