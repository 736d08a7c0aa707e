//! Compiled plugins.

use crate::def::{Declared, PluginDef};
use crate::hooks::HookSet;
use crate::meta::Meta;
use serde_json::Value;
use std::sync::Arc;

/// A plugin compiled for one object. Cloning shares it.
#[derive(Clone)]
pub struct Built {
    pub(crate) def: &'static PluginDef,
    pub(crate) instance: Arc<Instance>,
    pub(crate) meta: Option<Arc<Meta>>,
    /// Of the configuration as it was written.
    pub(crate) checksum: u64,
}

/// One compiled configuration, shared by all objects that carry an equal one (see [`crate::Scope`]).
pub(crate) struct Instance {
    pub(crate) config: Value,
    pub(crate) hooks: HookSet,
    pub(crate) declared: Declared,
}

impl Built {
    /// Name of the plugin.
    pub fn name(&self) -> &'static str {
        self.def.name
    }

    /// Definition of the plugin.
    pub fn def(&self) -> &'static PluginDef {
        self.def
    }

    /// Rank on this object.
    pub fn priority(&self) -> i32 {
        self.meta.as_ref().and_then(|meta| meta.priority).unwrap_or(self.def.priority)
    }

    /// Whether `_meta.disable` switches it off for this object.
    pub fn disabled(&self) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.disable)
    }

    /// The options of `_meta`, if the object gives any.
    pub fn meta(&self) -> Option<&Arc<Meta>> {
        self.meta.as_ref()
    }

    /// The configuration without `_meta`, references resolved.
    pub fn config(&self) -> &Value {
        &self.instance.config
    }

    /// A checksum of the configuration as it was written: `_meta` included, references as such, whatever they stand for.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// Whether both are one and the same instance.
    pub fn same_instance(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.instance, &other.instance)
    }

    pub(crate) fn hooks(&self) -> &HookSet {
        &self.instance.hooks
    }

    pub(crate) fn declared(&self) -> &Declared {
        &self.instance.declared
    }
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("name", &self.name()).finish_non_exhaustive()
    }
}
