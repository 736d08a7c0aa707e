//! References to secret managers: which objects hold some (`docs/spec/resources.md` §13).

use milecastle_model::{Kind, Object, SECRET_MANAGER};
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
