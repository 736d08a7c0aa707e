//! Whether this replica sends its nodes elsewhere, and takes no new ones.

use std::sync::Arc;

use milecastle_store::Maintenance;
use tokio::sync::watch;
use tonic::Status;

/// That it drains, is in maintenance, or is too old for the database. Each clone waits for itself.
#[derive(Clone)]
pub(super) struct Away {
    /// Becomes true when this replica drains.
    pub(super) draining: watch::Receiver<bool>,
    /// Why this replica is in maintenance, if it is.
    pub(super) maintenance: watch::Receiver<Option<Maintenance>>,
    /// The release to start in its place, if it may not run on the database's schema any more.
    pub(super) outdated: watch::Receiver<Option<Arc<str>>>,
}

impl Away {
    /// Why nodes should go elsewhere, for their logs; `None` if they should not.
    pub(super) fn reason(&self) -> Option<&'static str> {
        if *self.draining.borrow() {
            return Some("this replica drains");
        }
        if self.outdated.borrow().is_some() {
            return Some("this replica is too old for the schema of the database");
        }
        self.maintenance.borrow().is_some().then_some("this replica is in maintenance")
    }

    /// Refuses a node that comes now. One that knows other replicas tries those; one that does not comes again later.
    pub(super) fn turn_away(&self) -> Result<(), Status> {
        match self.reason() {
            Some(reason) => Err(Status::unavailable(format!("{reason}: connect to another one"))),
            None => Ok(()),
        }
    }

    /// Waits until nodes should go elsewhere. Cancel safe.
    pub(super) async fn begins(&mut self) {
        // An error means that what it is about is gone, and this process with it.
        tokio::select! {
            _ = self.draining.wait_for(|draining| *draining) => {}
            _ = self.maintenance.wait_for(Option::is_some) => {}
            _ = self.outdated.wait_for(Option::is_some) => {}
        }
    }
}
