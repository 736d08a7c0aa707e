//! The secret managers of the configuration that is to be in force.

use super::manager::{Manager, Patience};
use bytes::Bytes;
use milecastle_export::Background;
use milecastle_model::{Key, Kind, Object};
use milecastle_snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Secret managers by the ids of their objects.
pub(super) struct Managers {
    known: BTreeMap<Arc<str>, Known>,
    outlet: Arc<Background>,
    patience: Patience,
}

struct Known {
    body: Bytes,
    /// `Err`: why it cannot be used.
    manager: Result<Arc<Manager>, String>,
}

impl Managers {
    /// None yet. They will be asked over `outlet`.
    pub(super) fn new(outlet: Arc<Background>, patience: Patience) -> Self {
        Self { known: BTreeMap::new(), outlet, patience }
    }

    /// Takes over those of a configuration; one whose object is the same goes on, with what it holds. Gives those that are new, others
    /// or gone.
    pub(super) fn set(&mut self, snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
        let mut changed = BTreeSet::new();
        self.known.retain(|id, _| {
            let stays = snapshot.object(&Key::new(Kind::Secret, id.clone())).is_some();
            if !stays {
                changed.insert(id.clone());
            }
            stays
        });
        for object in snapshot.objects(Kind::Secret) {
            let id = &object.key.id;
            if self.known.get(id).is_some_and(|known| known.body == object.body) {
                continue;
            }
            let manager = self.manager(object);
            if let Err(reason) = &manager {
                tracing::error!(secret = &**id, reason, "secret manager cannot be used");
            }
            self.known.insert(id.clone(), Known { body: object.body.clone(), manager });
            changed.insert(id.clone());
        }
        changed
    }

    /// The manager of an id; `None` if there is no such object.
    pub(super) fn get(&self, id: &str) -> Option<&Result<Arc<Manager>, String>> {
        self.known.get(id).map(|known| &known.manager)
    }

    /// Whether a manager is known to be out of reach.
    pub(super) fn is_lost(&self, id: &str) -> bool {
        self.get(id).is_some_and(|manager| manager.as_ref().is_ok_and(|manager| manager.breaker().is_open()))
    }

    fn manager(&self, object: &Object) -> Result<Arc<Manager>, String> {
        // What the reader of JSON says may hold a part of the text.
        let body = serde_json::from_slice(&object.body).map_err(|_| "it is not JSON".to_owned())?;
        Manager::new(&object.key.id, &body, self.outlet.clone(), self.patience).map(Arc::new)
    }
}
