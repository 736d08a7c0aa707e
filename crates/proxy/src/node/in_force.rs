//! What is in force, with the present values of the secrets that it names.
//!
//! Two change it: the membership, with each new configuration, and secret managers, with each new value. One has to wait for the
//! other, so that no value is put in force over a newer configuration, and no configuration with an older value.

use super::holdings::Holdings;
use super::{Publish, StatusCell};
use crate::secrets::NodeSecrets;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Puts configurations in force.
pub(super) struct InForce {
    publish: Publish,
    status: StatusCell,
    secrets: Arc<NodeSecrets>,
    /// What is in force. Held from asking for secrets until what was built with them is published.
    held: Mutex<Option<Holdings>>,
}

impl InForce {
    pub(super) fn new(publish: Publish, status: StatusCell, secrets: Arc<NodeSecrets>) -> Arc<Self> {
        Arc::new(Self { publish, status, secrets, held: Mutex::default() })
    }

    /// Puts a configuration in force and shows it, after its secrets have been asked for. Gives it as it is in force.
    pub(super) async fn put(&self, holdings: Holdings) -> Holdings {
        let mut held = self.held.lock().await;
        self.secrets.prepare(holdings.snapshot()).await;
        let holdings = match self.renewed(&holdings).await {
            Some(renewed) => renewed,
            None => holdings,
        };
        self.status.put_in_force(&holdings, &*self.publish);
        *held = Some(holdings.clone());
        holdings
    }

    /// Has what is in force follow the values of its secrets. Does not end.
    pub(super) async fn follow_secrets(self: Arc<Self>) {
        let mut changes = self.secrets.changes();
        while changes.changed().await.is_ok() {
            let mut held = self.held.lock().await;
            let Some(former) = &*held else { continue };
            self.secrets.settled().await;
            let Some(renewed) = self.renewed(former).await else { continue };
            self.status.put_in_force(&renewed, &*self.publish);
            tracing::info!(
                revision = renewed.position().revision,
                "values of secrets have changed: what names them is in force with the new ones"
            );
            *held = Some(renewed);
        }
    }

    /// The same, built with the values that there are now; `None` if these are no others. Builds off the runtime's threads.
    async fn renewed(&self, holdings: &Holdings) -> Option<Holdings> {
        let changed = self.secrets.changed_since(holdings.built_with());
        if changed.is_empty() {
            return None;
        }
        let holdings = holdings.clone();
        let building = tokio::task::spawn_blocking(move || holdings.renewed(&changed));
        building.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the configuration cannot be built with the present values of its secrets");
            None
        })
    }
}
