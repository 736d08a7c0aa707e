//! What is in force, with the present values of the secrets that it names.
//!
//! Two change it: the membership, with each new configuration, and secret managers, with each new value. One has to wait for the
//! other, so that no value is put in force over a newer configuration, and no configuration with an older value.
//!
//! Invariant: what is built is built over what is in force. Forms that were there before may have values that are good no more, and
//! nobody else holds any.

use super::holdings::Holdings;
use super::{Alarm, Publish, StatusCell};
use crate::secrets::NodeSecrets;
use milecastle_snapshot::Snapshot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Puts configurations in force.
pub(super) struct InForce {
    publish: Publish,
    status: StatusCell,
    secrets: Arc<NodeSecrets>,
    /// Had from asking for secrets until what was built with them is published.
    turn: tokio::sync::Mutex<()>,
    held: Mutex<Option<Holdings>>,
    /// Wakes when values of secrets have changed what is in quarantine.
    regraded: watch::Sender<()>,
}

/// Has the secrets follow what is in force again when it is dropped: what was to replace it has not come to that.
struct Retreat<'a> {
    secrets: &'a NodeSecrets,
    to: Option<Arc<Snapshot>>,
}

impl Drop for Retreat<'_> {
    fn drop(&mut self) {
        if let Some(snapshot) = &self.to {
            self.secrets.take_over(snapshot);
            self.secrets.settle();
        }
    }
}

impl InForce {
    pub(super) fn new(publish: Publish, status: StatusCell, secrets: Arc<NodeSecrets>) -> Arc<Self> {
        let (turn, held, regraded) = (tokio::sync::Mutex::default(), Mutex::default(), watch::Sender::new(()));
        Arc::new(Self { publish, status, secrets, turn, held, regraded })
    }

    /// What is in force now.
    pub(super) fn held(&self) -> Option<Holdings> {
        self.cell().clone()
    }

    /// Hears when values of secrets have changed what is in quarantine.
    pub(super) fn regraded(&self) -> watch::Receiver<()> {
        self.regraded.subscribe()
    }

    /// Puts a configuration in force and shows it, after its secrets have been asked for. Gives it as it is in force. If this is dropped
    /// before it ends, nothing has changed.
    pub(super) async fn put(&self, holdings: Holdings) -> Holdings {
        let _turn = self.turn.lock().await;
        let former = self.held();
        let snapshot = former.as_ref().map(|former| former.snapshot().clone());
        let mut retreat = Retreat { secrets: &self.secrets, to: snapshot };
        self.secrets.prepare(holdings.snapshot()).await;
        // Values may have changed since it was built, and what was in force then with them.
        let former = former.filter(|former| former.built_with() > holdings.built_with());
        let changed = self.secrets.changed_since(former.as_ref().unwrap_or(&holdings).built_with());
        let holdings = if former.is_none() && changed.is_empty() {
            holdings
        } else {
            let as_built = holdings.clone();
            let renewed = built(move || {
                let based = match former {
                    Some(former) => as_built.over(&former),
                    None => as_built,
                };
                Some(based.renewed(&changed).unwrap_or(based))
            });
            renewed.await.unwrap_or(holdings)
        };
        self.set(&holdings);
        self.status.note(Alarm::Secrets, self.secrets.want_of_room());
        retreat.to = None;
        self.secrets.settle();
        holdings
    }

    /// Has what is in force follow the values of its secrets. Does not end.
    pub(super) async fn follow_secrets(self: Arc<Self>) {
        let mut changes = self.secrets.changes();
        while changes.changed().await.is_ok() {
            let _turn = self.turn.lock().await;
            let Some(former) = self.held() else { continue };
            let changed = self.secrets.changed_since(former.built_with());
            if changed.is_empty() {
                continue;
            }
            let rejected = former.rejected();
            let Some(renewed) = built(move || former.renewed(&changed)).await else { continue };
            self.set(&renewed);
            tracing::info!(
                revision = renewed.position().revision,
                quarantined = renewed.rejected().len(),
                "values of secrets have changed: what names them is in force with the new ones"
            );
            if renewed.rejected() != rejected {
                self.regraded.send_replace(());
            }
        }
    }

    fn set(&self, holdings: &Holdings) {
        self.status.put_in_force(holdings, &*self.publish);
        *self.cell() = Some(holdings.clone());
    }

    fn cell(&self) -> MutexGuard<'_, Option<Holdings>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is built with the present values of secrets, off the runtime's threads; `None` too if that comes to no end.
async fn built(build: impl FnOnce() -> Option<Holdings> + Send + 'static) -> Option<Holdings> {
    tokio::task::spawn_blocking(build).await.unwrap_or_else(|error| {
        tracing::error!(%error, "the configuration cannot be built with the present values of its secrets");
        None
    })
}
