//! State of the node that outlives snapshots, and the resolution of secret references.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// One value of each type, made on first use and kept as long as the process.
///
/// Plugins keep what must survive a change of configuration here: counters of a group, the metric registry.
#[derive(Default)]
pub struct Shared {
    values: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Shared {
    /// The value of type `T`, made by `make` if it is the first time that anyone asks.
    pub fn get_or_init<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let value = values.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(make())).clone();
        value.downcast().expect("values are stored under their own type")
    }

    /// Puts a value in place, before anyone asks for it.
    pub fn put<T: Any + Send + Sync>(&self, value: Arc<T>) {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).insert(TypeId::of::<T>(), value);
    }
}

/// Resolves references in string attributes: `$env://NAME`, `$secret://manager/id/path/key`
/// (`docs/spec/resources.md` §13).
pub trait Secrets: Send + Sync {
    /// The value behind a reference; `None` if it cannot be resolved.
    fn resolve(&self, reference: &str) -> Option<String>;
}

/// Resolves nothing: the control plane checks configurations without the nodes' environment.
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn resolve(&self, _: &str) -> Option<String> {
        None
    }
}
