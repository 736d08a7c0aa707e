//! What is secret in the configuration of plugins.

use crate::def::PluginDef;
use milecastle_model::{MASK, is_reference};
use serde_json::Value;

/// The private key of an upstream. Plugins take upstreams inline too, so it is masked wherever it stands.
const CLIENT_KEY: &str = "client_key";

impl PluginDef {
    /// Replaces every secret of a configuration by [`MASK`]: what the plugin declares
    /// ([`Plugin::ENCRYPTED`](crate::Plugin::ENCRYPTED)), and private keys of inline upstreams. References to values kept
    /// elsewhere stay.
    pub fn mask(&self, config: &mut Value) {
        for path in self.encrypted {
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
