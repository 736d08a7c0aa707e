//! Bodies of objects as the audit log shows them: without the secrets that their kinds, their plugins and the settings of a group
//! declare.
//!
//! What must stay true: what this version does not know is not shown. A plugin that is none, as one of a later version, may have
//! secrets anywhere.

use std::sync::Arc;

use milecastle_model::{Key, Kind, MASK};
use milecastle_settings::Registries;
use milecastle_snapshot::Compiler;
use milecastle_store::Mask;
use serde_json::Value;

use crate::admin::is_reference;

/// The private key of an upstream, which plugins take inline too, wherever it stands.
const CLIENT_KEY: &str = "client_key";

/// Knows the secrets of all objects.
pub(crate) struct Masks {
    /// Any that has all plugins built in.
    pub(crate) compiler: Arc<Compiler>,
}

impl Mask for Masks {
    fn mask(&self, key: &Key, body: &mut Value) {
        milecastle_model::mask(key.kind, body);
        match key.kind {
            Kind::GroupSettings => {
                if let Some(registries) = body.get_mut("discovery") {
                    Registries::mask(registries);
                }
            }
            Kind::PluginMetadata => self.mask_plugin(&key.id, body),
            _ => {
                let plugins = body.get_mut("plugins").and_then(Value::as_object_mut).into_iter().flatten();
                plugins.for_each(|(name, config)| self.mask_plugin(name, config));
            }
        }
    }
}

impl Masks {
    fn mask_plugin(&self, name: &str, config: &mut Value) {
        let Some(def) = self.compiler.built_in(name) else {
            *config = MASK.into();
            return;
        };
        for path in def.encrypted {
            mask_at(config, &path.split('.').collect::<Vec<_>>());
        }
        mask_client_keys(config);
    }
}

/// Masks what stands at a path, in each item of the arrays on it.
fn mask_at(value: &mut Value, path: &[&str]) {
    match (value, path) {
        (Value::Array(items), path) => items.iter_mut().for_each(|item| mask_at(item, path)),
        (Value::Object(members), [first, rest @ ..]) => {
            if let Some(member) = members.get_mut(*first) {
                mask_at(member, rest);
            }
        }
        (Value::Object(members), []) => members.values_mut().for_each(|member| mask_at(member, &[])),
        (Value::Null, _) => {}
        (Value::String(text), []) if is_reference(text) => {}
        (secret, []) => *secret = MASK.into(),
        _ => {}
    }
}

fn mask_client_keys(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(mask_client_keys),
        Value::Object(members) => {
            for (name, member) in members {
                match name.as_str() {
                    CLIENT_KEY => mask_at(member, &[]),
                    _ => mask_client_keys(member),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_through_arrays_and_maps() {
        let check = |path: &[&str], mut value: Value, expected: Value| {
            mask_at(&mut value, path);
            assert_eq!(value, expected);
        };
        check(&["a"], json!({"a": "s", "b": "t"}), json!({"a": MASK, "b": "t"}));
        check(&["a", "b"], json!({"a": [{"b": "s"}, {"b": 7}, {}]}), json!({"a": [{"b": MASK}, {"b": MASK}, {}]}));
        check(&["a"], json!({"a": {"x": "s", "y": ["t"]}}), json!({"a": {"x": MASK, "y": [MASK]}}));
        check(&["a"], json!({"a": "$secret://vault/1/a/b"}), json!({"a": "$secret://vault/1/a/b"}));
        check(&["a"], json!({"a": null}), json!({"a": null}));
        check(&["a", "b"], json!({"a": "s"}), json!({"a": "s"}));
    }

    #[test]
    fn private_keys_of_inline_upstreams_are_masked_wherever_they_stand() {
        let mut value = json!({"rules": [{"upstream": {"tls": {"client_key": "k", "client_cert": "c"}}}]});
        mask_client_keys(&mut value);
        assert_eq!(value, json!({"rules": [{"upstream": {"tls": {"client_key": MASK, "client_cert": "c"}}}]}));
    }
}
