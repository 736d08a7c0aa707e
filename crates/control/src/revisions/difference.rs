//! What lies between two states of a group, as people see it.

use crate::masks::Masks;
use crate::state::Difference;
use milecastle_store::{Fate, masked, says_the_same};
use serde_json::{Value, json};

/// What becomes of an object; `None` where it says the same on both sides, timestamps aside.
pub(crate) fn fate(difference: &Difference<'_>) -> Option<Fate> {
    match (difference.before, difference.after) {
        (None, None) => None,
        (None, Some(_)) => Some(Fate::Created),
        (Some(_), None) => Some(Fate::Deleted),
        (Some(before), Some(after)) => (!says_the_same(&before.body, &after.body)).then_some(Fate::Updated),
    }
}

/// `{"op","kind","id","before","after"}`: of what is created or deleted all of it, of what is updated the members that differ; without
/// secrets. `None` as of [`fate`].
pub(crate) fn shown(masks: &Masks, difference: &Difference<'_>) -> Option<Value> {
    let fate = fate(difference)?;
    let key = &difference.before.or(difference.after)?.key;
    let [before, after] = [difference.before, difference.after].map(|side| side.map(|object| &*object.body));
    let (before, after) = masked(masks, key, before, after);
    Some(json!({ "op": fate.name(), "kind": key.kind.name(), "id": &*key.id, "before": before, "after": after }))
}
