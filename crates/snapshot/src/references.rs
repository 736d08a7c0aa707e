//! References (`docs/spec/resources.md` §13): which objects hold some to secret managers, and of which certificates are kept elsewhere.

use milecastle_model::{Kind, Object, SECRET_MANAGER, is_reference};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The references of an object, each once; `None` if it has none.
pub(crate) fn of(object: &Object) -> Option<Arc<[Box<str>]>> {
    let places = places(object.key.kind);
    if places.is_empty() || !may_refer(&object.body) {
        return None;
    }
    let mut found = BTreeSet::new();
    // One that is no JSON is quarantined for that.
    let body: Value = serde_json::from_slice(&object.body).ok()?;
    places.iter().filter_map(|place| body.pointer(place)).for_each(|value| collect(value, &mut found));
    (!found.is_empty()).then(|| found.into_iter().map(String::into_boxed_str).collect())
}

/// Whether a reference of any form stands for a certificate of the object, but for those of upstreams in configurations of plugins.
pub(crate) fn stand_for_certificates(object: &Object) -> bool {
    let places: &[&str] = match object.key.kind {
        Kind::Ssl => &["/cert", "/certs", "/client/ca"],
        Kind::Upstream => &["/tls/client_cert"],
        Kind::Route | Kind::Service | Kind::StreamRoute => &["/upstream/tls/client_cert"],
        _ => return false,
    };
    let has = |text: &[u8]| object.body.windows(text.len()).any(|at| at == text);
    // Spares most bodies the reading, as `may_refer` does.
    if !(object.body.contains(&b'$') && has(b"cert") || has(b"\\u")) {
        return false;
    }
    let Ok(body) = serde_json::from_slice::<Value>(&object.body) else { return false };
    let is_referred = |value: &Value| value.as_str().is_some_and(is_reference);
    places.iter().filter_map(|place| body.pointer(place)).any(|value| match value {
        Value::Array(items) => items.iter().any(is_referred),
        value => is_referred(value),
    })
}

/// Where references are resolved in objects of a kind.
fn places(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Route | Kind::Service | Kind::StreamRoute => {
            &["/plugins", "/upstream/tls/client_cert", "/upstream/tls/client_key"]
        }
        Kind::Upstream => &["/tls/client_cert", "/tls/client_key"],
        Kind::PluginConfig | Kind::GlobalRule | Kind::ConsumerGroup | Kind::Consumer | Kind::Credential => {
            &["/plugins"]
        }
        Kind::Ssl => &["/cert", "/key", "/certs", "/keys", "/client/ca"],
        Kind::PluginMetadata | Kind::Proto | Kind::Secret | Kind::GroupSettings | Kind::GraphqlCostDecoration => &[],
    }
}

/// Spares most bodies the reading. JSON may write `/` as `\/`, and any character as `\u` and its number.
fn may_refer(body: &[u8]) -> bool {
    let has = |text: &[u8]| body.windows(text.len()).any(|at| at == text);
    has(SECRET_MANAGER.trim_end_matches('/').as_bytes()) || has(b"\\u")
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.starts_with(SECRET_MANAGER) => drop(found.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) => members.values().for_each(|member| collect(member, found)),
        _ => {}
    }
}
