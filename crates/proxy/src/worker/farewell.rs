//! The end of what would go on by itself for ever: tunnels of a worker whose time is over.

use std::cell::Cell;
use tokio::sync::Notify;

/// Whether the worker's tunnels are to take leave, and how they hear of it.
#[derive(Default)]
pub(crate) struct Farewell {
    said: Cell<bool>,
    told: Notify,
}

impl Farewell {
    pub(super) fn say(&self) {
        self.said.set(true);
        self.told.notify_waiters();
    }

    pub(super) fn is_said(&self) -> bool {
        self.said.get()
    }

    /// Waits until it is.
    pub(super) async fn said(&self) {
        while !self.is_said() {
            self.told.notified().await;
        }
    }
}
