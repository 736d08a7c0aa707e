//! What is kept of a declared configuration for its client alone.

use crate::admin::declared::{COLLECTIONS, PLUGINS, VERSION};
use crate::admin::reply::Reply;
use bytes::Bytes;
use milecastle_model::{Key, Kind, Object};
use milecastle_store::Declaration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;

/// The client's own data, as of one declaration.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// By name of the collection; 0 where there is none.
    versions: BTreeMap<String, i64>,
    /// The client's version of objects, by path.
    indices: BTreeMap<String, Number>,
    /// Members that are neither a collection nor a version.
    rest: Map<String, Value>,
}

impl Kept {
    pub(super) fn decode(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("string keys, and no failing serializers").into()
    }

    /// What is kept after a body with these members, versions of its collections and objects apart.
    pub(super) fn succeeded_by(&self, members: &Map<String, Value>) -> Self {
        let ours = |name: &str| {
            let collection = name.strip_suffix(VERSION).unwrap_or(name);
            ["X-Last-Modified", "X-Digest", PLUGINS].contains(&collection)
                || COLLECTIONS.iter().any(|kind| kind.collection() == collection)
        };
        let rest = members.iter().filter(|(name, _)| !ours(name));
        let rest = rest.map(|(name, member)| (name.clone(), member.clone())).collect();
        Self { versions: self.versions.clone(), indices: BTreeMap::new(), rest }
    }

    /// Whether a body replaces a collection; its version is then the new one.
    ///
    /// # Errors
    /// The answer, if the version is none or goes back (§15.4, §15.5).
    pub(super) fn replaces(
        &mut self,
        before: &Self,
        collection: &str,
        members: &Map<String, Value>,
    ) -> Result<bool, Box<Reply>> {
        let stored = before.version(collection);
        let name = format!("{collection}{VERSION}");
        let version = match members.get(&name) {
            None => stored.saturating_add(1),
            Some(Value::Number(number)) => whole(number),
            Some(_) => return Err(Box::new(Reply::bad(format!("{name} must be a number")))),
        };
        if version < stored {
            return Err(Box::new(Reply::bad(format!("{name} must be greater than or equal to ({stored})"))));
        }
        self.versions.insert(collection.to_owned(), version);
        Ok(version > stored)
    }

    /// Takes over the client's versions of the objects of a collection that stays.
    pub(super) fn keep_indices(&mut self, before: &Self, kind: Kind) {
        let prefix = format!("/{}/", kind.collection());
        let range = before.indices.range(prefix.clone()..);
        let kept = range.take_while(|(path, _)| path.starts_with(&prefix));
        self.indices.extend(kept.map(|(path, index)| (path.clone(), index.clone())));
    }

    /// Notes the client's version of an object.
    pub(super) fn note(&mut self, key: &Key, index: Option<Number>) {
        self.indices.extend(index.map(|index| (key.path(), index)));
    }

    /// The client's version of an object, if it is still the one that the client put.
    pub(super) fn index_of(&self, object: Option<&Object>, declared: Option<&Declaration>) -> Option<&Number> {
        let object = object.filter(|object| declared.is_some_and(|declared| object.modified <= declared.revision))?;
        self.indices.get(&object.key.path())
    }

    pub(super) fn version(&self, collection: &str) -> i64 {
        self.versions.get(collection).copied().unwrap_or_default()
    }

    pub(super) fn rest(&self) -> &Map<String, Value> {
        &self.rest
    }
}

/// A version as an integer of 64 bits; fractions are cut off.
fn whole(number: &Number) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and nobody counts so far")]
    let cut = |float: f64| float as i64;
    number.as_i64().unwrap_or_else(|| number.as_f64().map_or(i64::MAX, cut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_decide_what_is_replaced() {
        let members = |version: Value| match json!({ "routes_conf_version": version }) {
            Value::Object(members) => members,
            _ => unreachable!("an object literal"),
        };
        let mut before = Kept::default();
        before.versions.insert("routes".into(), 7);
        let replaces = |members: &Map<String, Value>| {
            let mut next = before.succeeded_by(members);
            let replaced = next.replaces(&before, "routes", members);
            replaced.map(|replaced| (replaced, next.version("routes"))).map_err(|refused| {
                let body: Value = serde_json::from_slice(&refused.body).unwrap();
                body["error_msg"].as_str().unwrap().to_owned()
            })
        };
        assert_eq!(replaces(&Map::new()), Ok((true, 8)));
        assert_eq!(replaces(&members(json!(7))), Ok((false, 7)));
        assert_eq!(replaces(&members(json!(1_700_000_000_123_u64))), Ok((true, 1_700_000_000_123)));
        assert_eq!(replaces(&members(json!(8.5))), Ok((true, 8)));
        let back = "routes_conf_version must be greater than or equal to (7)".to_owned();
        assert_eq!(replaces(&members(json!(6))), Err(back));
        assert_eq!(replaces(&members(json!("8"))), Err("routes_conf_version must be a number".to_owned()));
    }

    #[test]
    fn members_that_are_no_collection_are_kept() {
        let body = json!({
            "routes": [], "routes_conf_version": 1, "plugins": [], "plugins_conf_version": 2, "X-Digest": "d",
            "X-Last-Modified": 3, "theirs": {"a": 1}, "own_conf_version": 4,
        });
        let kept = Kept::default().succeeded_by(body.as_object().unwrap());
        assert_eq!(kept.rest(), json!({"theirs": {"a": 1}, "own_conf_version": 4}).as_object().unwrap());
        assert_eq!(Kept::decode(&kept.encode()).unwrap(), kept);
    }
}
