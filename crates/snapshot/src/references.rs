//! References to secret managers: which objects hold some (`docs/spec/resources.md` §13).

use milecastle_model::{Key, Kind, Object};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a reference to a secret manager begins with.
const PREFIX: &str = "$secret://";

/// The references of an object, each once; `None` if it has none.
pub(crate) fn of(object: &Object) -> Option<Arc<[Box<str>]>> {
    if !resolves(&object.key) || !may_refer(&object.body) {
        return None;
    }
    let mut found = BTreeSet::new();
    // One that is no JSON is quarantined for that.
    collect(&serde_json::from_slice(&object.body).ok()?, &mut found);
    (!found.is_empty()).then(|| found.into_iter().map(String::into_boxed_str).collect())
}

/// Whether references in this object are resolved.
fn resolves(key: &Key) -> bool {
    !matches!(
        key.kind,
        Kind::PluginMetadata | Kind::Proto | Kind::Secret | Kind::GroupSettings | Kind::GraphqlCostDecoration
    )
}

/// Spares most bodies the reading. JSON may write `/` as `\/`, and any character as `\u` and its number.
fn may_refer(body: &[u8]) -> bool {
    let has = |text: &[u8]| body.windows(text.len()).any(|at| at == text);
    has(b"$secret:") || has(b"\\u")
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.starts_with(PREFIX) => drop(found.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) => members.values().for_each(|member| collect(member, found)),
        _ => {}
    }
}
