//! Which references come first where there is not room for all.
//!
//! Invariant: a write puts out no reference but those that the object written names, or has named. What is written goes to the end, so
//! that nothing comes to stand before what nobody has touched.

use milecastle_model::Key;
use milecastle_snapshot::Snapshot;

/// The objects that hold references, in the order in which these are given room: by the revision that wrote the object last, those
/// of one revision by key. All nodes with this configuration have the same order, whatever they had before.
pub(super) fn holders(snapshot: &Snapshot) -> Vec<(&Key, &[Box<str>])> {
    // They come by key, and the sort is stable.
    let mut holders: Vec<_> = snapshot.references().collect();
    holders.sort_by_cached_key(|(key, _)| snapshot.object(key).map_or(0, |object| object.modified));
    holders
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_model::{Change, Kind, Object};
    use milecastle_plugin_api::{NoSecrets, Registry, Shared};
    use milecastle_snapshot::Compiler;
    use serde_json::{Map, json};
    use std::sync::Arc;

    fn ssl(id: &str, modified: u64) -> Object {
        let reference = format!("$secret://vault/1/{id}/pem");
        let body = json!({ "sni": "a.test", "cert": reference, "key": reference }).to_string();
        Object { key: Key::new(Kind::Ssl, id), body: body.into(), created: 1, modified }
    }

    fn ids(snapshot: &Snapshot) -> Vec<&str> {
        holders(snapshot).into_iter().map(|(key, _)| &*key.id).collect()
    }

    #[test]
    fn what_was_written_last_comes_last_however_it_came() {
        let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
        let compiler = Compiler::new(Arc::new(registry));
        let (before, _) = compiler.build("line", 2, vec![ssl("a", 1), ssl("b", 2)]);
        assert_eq!(ids(&before), ["a", "b"]);
        let (after, _) = compiler.apply(&before, 3, &[Change::Put(ssl("c", 3)), Change::Put(ssl("a", 3))]);
        assert_eq!(ids(&after), ["b", "a", "c"]);
        let (at_once, _) = compiler.build("line", 3, vec![ssl("c", 3), ssl("b", 2), ssl("a", 3)]);
        assert_eq!(ids(&at_once), ids(&after));
    }
}
