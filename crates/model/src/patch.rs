//! What PATCH does to a stored body: in the Admin API by its own rules (`docs/spec/admin-api.md` §9.2, §9.3), in `/api` by RFC 7396.

use serde_json::{Map, Value};

use crate::pointer;

/// How deeply arrays and objects of a body may lie in each other. What is deeper could be written but not read back: the
/// JSON parser stops there, on every node, so that nobody's stack depends on what a client sends.
const MAX_DEPTH: usize = 127;

/// A sub-path that leads through something that is not an object, or deeper than a body may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid sub-path: {0}")]
pub struct InvalidSubPath(pub String);

/// Merges `patch` into `target` as JSON Merge Patch does (RFC 7396 §2): a `null` removes the member, an object merges member by
/// member into whatever is there, anything else replaces. So an empty object changes no object, and of a new one no `null` stays.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let target = members(target);
    for (name, new) in patch {
        if new.is_null() {
            // Keeps the order of the members that stay.
            target.shift_remove(name);
        } else {
            merge_patch(target.entry(name.as_str()).or_insert(Value::Null), new);
        }
    }
}

/// Merges `patch` into `target` as the Admin API does: a `null` removes the member, two non-empty objects merge member by member,
/// anything else replaces. Nulls inside a newly introduced object stay. Both should be objects; if one is not, `patch` replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => merge_members(target, patch),
        (target, patch) => *target = patch.clone(),
    }
}

fn merge_members(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, new) in patch {
        match (target.get_mut(name), new) {
            // Keeps the order of the members that stay.
            (_, Value::Null) => drop(target.shift_remove(name)),
            (Some(Value::Object(old)), Value::Object(new)) if !old.is_empty() && !new.is_empty() => {
                merge_members(old, new);
            }
            (Some(old), new) => *old = new.clone(),
            (None, new) => drop(target.insert(name.clone(), new.clone())),
        }
    }
}

/// Puts `value` in the place that the path's segments name, creating objects that are missing on the way. An empty array on
/// the way counts as an empty object. Any other value that is not an object, an empty path, and one that would make the body
/// deeper than it can be read are refused and leave `target` as it was.
pub fn set_path(target: &mut Value, path: &[String], value: Value) -> Result<(), InvalidSubPath> {
    let invalid = || {
        let mut text = String::new();
        path.iter().for_each(|segment| pointer::push(&mut text, segment));
        InvalidSubPath(text)
    };
    let (last, way) = path.split_last().ok_or_else(invalid)?;
    if path.len() + depth(&value) > MAX_DEPTH {
        return Err(invalid());
    }
    // Looked through before anything is created, so that a refusal changes nothing.
    let mut place = Some(&*target);
    for segment in path {
        place = match place {
            Some(Value::Object(members)) => members.get(segment),
            Some(Value::Array(items)) if items.is_empty() => None,
            None => None,
            Some(_) => return Err(invalid()),
        };
    }
    let mut place = members(target);
    for segment in way {
        place = members(place.entry(segment.as_str()).or_insert_with(|| Value::Object(Map::new())));
    }
    place.insert(last.clone(), value);
    Ok(())
}

/// How many arrays and objects lie in each other at most.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The members of an object; what is none becomes an empty one.
fn members(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The test cases of RFC 7396, appendix A, in their order.
    #[test]
    fn merging_by_the_rfc() {
        let check = |mut target: Value, patch: Value, expected: Value| {
            merge_patch(&mut target, &patch);
            assert_eq!(target.to_string(), expected.to_string(), "{patch}");
        };
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
        check(json!({"a": "b"}), json!({"a": null}), json!({}));
        check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
        check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]}));
        check(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}));
        check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
        check(json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"]));
        check(json!({"a": "b"}), json!(["c"]), json!(["c"]));
        check(json!({"a": "foo"}), json!(null), json!(null));
        check(json!({"a": "foo"}), json!("bar"), json!("bar"));
        check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
        check(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}));
        check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
        // What the rules say beyond them of objects that are empty, and of lists.
        check(json!({"a": {"b": 1}}), json!({"a": {}}), json!({"a": {"b": 1}}));
        check(json!({"a": [1]}), json!({"a": {}}), json!({"a": {}}));
        check(json!({"a": 1}), json!({"a": [null, {"b": null}]}), json!({"a": [null, {"b": null}]}));
    }

    #[test]
    fn merging_as_the_admin_api_does() {
        let check = |mut target: Value, patch: Value, expected: Value| {
            merge(&mut target, &patch);
            assert_eq!(target.to_string(), expected.to_string(), "{patch}");
        };
        check(
            json!({"uri": "/a"}),
            json!({"methods": ["GET"], "priority": 3}),
            json!({"uri": "/a", "methods": ["GET"], "priority": 3}),
        );
        check(json!({"a": 1, "priority": 3, "b": 2}), json!({"priority": null}), json!({"a": 1, "b": 2}));
        check(json!({"a": 1}), json!({"b": null}), json!({"a": 1}));
        check(json!({"a": {"x": 1, "y": 2}}), json!({"a": {"y": 3, "z": 4}}), json!({"a": {"x": 1, "y": 3, "z": 4}}));
        check(json!({"a": {"x": {"p": 1, "q": 2}}}), json!({"a": {"x": {"p": null}}}), json!({"a": {"x": {"q": 2}}}));
        check(json!({"plugins": {"x": {}}}), json!({"plugins": {}}), json!({"plugins": {}}));
        check(json!({"plugins": {}}), json!({"plugins": {"x": {"y": null}}}), json!({"plugins": {"x": {"y": null}}}));
        check(json!({"n": [{"host": "a"}]}), json!({"n": {"b:80": 1}}), json!({"n": {"b:80": 1}}));
        check(json!({"n": {"b:80": 1}}), json!({"n": [{"host": "a"}]}), json!({"n": [{"host": "a"}]}));
        check(json!({"n": [1, 2]}), json!({"n": [3]}), json!({"n": [3]}));
        check(json!({}), json!({"new": {"inner": {"gone": null}}}), json!({"new": {"inner": {"gone": null}}}));
        check(json!({"a": 1}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}}));
        check(json!({"a": 1}), json!({}), json!({"a": 1}));
        check(json!({"a": 1}), json!([1]), json!([1]));
    }

    #[test]
    fn setting_by_path() {
        let check = |mut target: Value, path: &str, value: Value, expected: Result<Value, &str>| {
            let before = target.clone();
            let segments: Vec<String> = path.split('/').skip(1).map(str::to_owned).collect();
            let done = set_path(&mut target, &segments, value).map_err(|error| error.to_string());
            match expected {
                Ok(expected) => assert_eq!((done, target), (Ok(()), expected), "{path}"),
                Err(text) => assert_eq!((done, target), (Err(text.to_owned()), before), "{path}"),
            }
        };
        check(json!({"methods": ["GET"]}), "/methods", json!(["POST"]), Ok(json!({"methods": ["POST"]})));
        check(json!({}), "/a/b/c", json!(1), Ok(json!({"a": {"b": {"c": 1}}})));
        check(json!({"a": {"x": 1}}), "/a/b", json!(null), Ok(json!({"a": {"x": 1, "b": null}})));
        check(json!({"a": []}), "/a/b", json!(1), Ok(json!({"a": {"b": 1}})));
        check(json!({"nodes": {"h:1": 1}}), "/nodes", json!({"h:2": 2}), Ok(json!({"nodes": {"h:2": 2}})));
        check(json!({"a": {}}), "/a/", json!(1), Ok(json!({"a": {"": 1}})));
        check(json!({"a": 1}), "/a/b", json!(1), Err("invalid sub-path: /a/b"));
        check(json!({"a": [1]}), "/a/0", json!(2), Err("invalid sub-path: /a/0"));
        check(json!({"a": {"b": null}}), "/a/b/c", json!(2), Err("invalid sub-path: /a/b/c"));
        check(json!({"n": "x"}), "/x/y/../n", json!(2), Ok(json!({"n": "x", "x": {"y": {"..": {"n": 2}}}})));
        check(json!({"a": 1}), "", json!(2), Err("invalid sub-path: "));
    }

    #[test]
    fn what_is_set_can_be_read_back() {
        let parses = |value: &Value| serde_json::from_str::<Value>(&value.to_string()).is_ok();
        let nested = |depth: usize| (0..depth).fold(json!(1), |inside, _| json!([inside]));
        for (segments, inside) in [(MAX_DEPTH, 0), (1, MAX_DEPTH - 1), (64, MAX_DEPTH - 64)] {
            let mut body = json!({});
            set_path(&mut body, &vec!["a".to_owned(); segments], nested(inside)).unwrap();
            assert!(parses(&body), "{segments} {inside}");
            let mut body = json!({});
            set_path(&mut body, &vec!["a".to_owned(); segments + 1], nested(inside)).unwrap_err();
            assert_eq!(body, json!({}), "{segments} {inside}");
        }
        set_path(&mut json!({}), &vec!["a".to_owned(); 30_000], json!(1)).unwrap_err();
    }
}
