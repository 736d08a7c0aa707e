//! What is secret in the objects of a group: what their kinds, their plugins and the settings of the group declare.
//!
//! What must stay true: what this version does not know counts as secret. A plugin that is none, as one of a later version, may have
//! secrets anywhere.

use std::sync::Arc;

use milecastle_model::{Key, Kind, MASK};
use milecastle_plugin_api::PluginDef;
use milecastle_settings::Registries;
use milecastle_snapshot::Compiler;
use milecastle_store::Mask;
use serde_json::Value;

/// Knows the secrets of all objects.
pub(crate) struct Masks {
    /// Any that has all plugins built in.
    pub(crate) compiler: Arc<Compiler>,
}

impl Mask for Masks {
    fn mask(&self, key: &Key, body: &mut Value) {
        mask(key, body, |plugin| self.compiler.built_in(plugin));
    }
}

/// Masks the secrets of an object; `built_in` knows the plugins, enabled or not.
pub(crate) fn mask(key: &Key, body: &mut Value, built_in: impl Fn(&str) -> Option<&'static PluginDef>) {
    let plugin = |name: &str, config: &mut Value| match built_in(name) {
        Some(def) => def.mask(config),
        None => *config = MASK.into(),
    };
    milecastle_model::mask(key.kind, body);
    match key.kind {
        Kind::GroupSettings => {
            if let Some(registries) = body.get_mut("discovery") {
                Registries::mask(registries);
            }
        }
        Kind::PluginMetadata => plugin(&key.id, body),
        _ => {
            let plugins = body.get_mut("plugins").and_then(Value::as_object_mut).into_iter().flatten();
            plugins.for_each(|(name, config)| plugin(name, config));
        }
    }
}
