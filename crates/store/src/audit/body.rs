//! What an entry shows of what was before and what is now: without secrets, of a change only what differs, and no more than fits.

use milecastle_model::Key;
use serde_json::value::Index;
use serde_json::{Map, Value, json};

use super::Mask;

/// Changes with every write, and says no more than the time of the entry.
const WRITTEN_AT: &str = "update_time";

/// What stands behind the mask of a secret that is another one than before.
const CHANGED: &str = " (changed)";

/// Both sides of a change of an object as people may see them: without secrets, of what is there before and after only the members that
/// differ, but for `update_time`. What is no JSON is left out.
pub fn masked(
    mask: &dyn Mask,
    key: &Key,
    before: Option<&[u8]>,
    after: Option<&[u8]>,
) -> (Option<Value>, Option<Value>) {
    let [before, after] = [before, after].map(|body| serde_json::from_slice::<Value>(body?).ok());
    let shown = |body: &Value| {
        let mut shown = body.clone();
        mask.mask(key, &mut shown);
        shown
    };
    match (before, after) {
        (Some(before), Some(after)) => {
            let (shown_before, shown_after) = (shown(&before), shown(&after));
            match pruned(Pair { written: &before, shown: &shown_before }, Pair { written: &after, shown: &shown_after })
            {
                Some((before, after)) => (Some(before), Some(after)),
                None => (None, None),
            }
        }
        (before, after) => (before.as_ref().map(shown), after.as_ref().map(shown)),
    }
}

/// Of two values what differs; `None` if nothing does.
pub(super) fn differing(before: &Value, after: &Value) -> Option<(Value, Value)> {
    pruned(Pair { written: before, shown: before }, Pair { written: after, shown: after })
}

/// The text of a value, or what fits of it.
pub(super) fn written(value: Option<&Value>, most: usize) -> Option<String> {
    let text = value?.to_string();
    if text.len() <= most {
        return Some(text);
    }
    let begins = text.get(..text.floor_char_boundary(most)).unwrap_or_default();
    Some(json!({ "cut": { "bytes": text.len(), "begins": begins } }).to_string())
}

/// A value as it was written, and as it is shown.
#[derive(Clone, Copy)]
struct Pair<'a> {
    written: &'a Value,
    shown: &'a Value,
}

impl<'a> Pair<'a> {
    /// A member or an item.
    fn at(self, place: impl Index + Copy) -> Option<Pair<'a>> {
        Some(Pair { written: self.written.get(place)?, shown: self.shown.get(place)? })
    }
}

fn pruned<'a>(before: Pair<'a>, after: Pair<'a>) -> Option<(Value, Value)> {
    if before.written == after.written {
        return None;
    }
    // What is masked as a whole has no members to show.
    let members = |pair: Pair<'a>| pair.written.as_object().filter(|_| pair.shown.is_object());
    let (Some(old), Some(new)) = (members(before), members(after)) else {
        return Some((before.shown.clone(), told_apart(before, after)));
    };
    let (mut left, mut right) = (Map::new(), Map::new());
    let gone_or_there = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    for name in gone_or_there.filter(|name| *name != WRITTEN_AT) {
        match (before.at(name.as_str()), after.at(name.as_str())) {
            (Some(before), Some(after)) => {
                if let Some((before, after)) = pruned(before, after) {
                    left.insert(name.clone(), before);
                    right.insert(name.clone(), after);
                }
            }
            (Some(before), None) => drop(left.insert(name.clone(), before.shown.clone())),
            (None, after) => drop(after.map(|after| right.insert(name.clone(), after.shown.clone()))),
        }
    }
    Some((left.into(), right.into()))
}

/// What is shown of a value that differs; a mask that hides the difference says that there is one.
fn told_apart(before: Pair<'_>, after: Pair<'_>) -> Value {
    match (before.shown, after.shown) {
        (Value::String(mask), Value::String(same)) if mask == same && before.written != after.written => {
            format!("{mask}{CHANGED}").into()
        }
        (Value::Array(_), Value::Array(new)) => {
            let item = |(place, shown): (usize, &Value)| member_told_apart(before.at(place), after.at(place), shown);
            new.iter().enumerate().map(item).collect()
        }
        (Value::Object(_), Value::Object(new)) => {
            let member = |(name, shown): (&String, &Value)| {
                (name.clone(), member_told_apart(before.at(name.as_str()), after.at(name.as_str()), shown))
            };
            new.iter().map(member).collect()
        }
        (_, shown) => shown.clone(),
    }
}

fn member_told_apart(before: Option<Pair<'_>>, after: Option<Pair<'_>>, shown: &Value) -> Value {
    match (before, after) {
        (Some(before), Some(after)) => told_apart(before, after),
        _ => shown.clone(),
    }
}

#[cfg(test)]
mod tests {
    use milecastle_model::{Kind, mask};

    use super::*;

    struct OfTheModel;

    impl Mask for OfTheModel {
        fn mask(&self, key: &Key, body: &mut Value) {
            mask(key.kind, body);
        }
    }

    fn check(before: &Value, after: &Value, left: Value, right: Value) {
        let key = Key::new(Kind::Ssl, "1");
        let [before, after] = [before, after].map(|side| (!side.is_null()).then(|| side.to_string()));
        let shown =
            masked(&OfTheModel, &key, before.as_deref().map(str::as_bytes), after.as_deref().map(str::as_bytes));
        assert_eq!((shown.0.unwrap_or_default(), shown.1.unwrap_or_default()), (left, right));
    }

    #[test]
    fn a_change_shows_what_differs() {
        check(
            &json!({"id": "1", "a": {"b": 1, "c": 2}, "gone": [1], "update_time": 1}),
            &json!({"id": "1", "a": {"b": 3, "c": 2}, "new": true, "update_time": 2}),
            json!({"a": {"b": 1}, "gone": [1]}),
            json!({"a": {"b": 3}, "new": true}),
        );
        check(&Value::Null, &json!({"id": "1"}), Value::Null, json!({"id": "1"}));
        check(&json!({"id": "1"}), &Value::Null, json!({"id": "1"}), Value::Null);
        check(&json!({"id": "1"}), &json!({"id": "1"}), Value::Null, Value::Null);
    }

    #[test]
    fn of_a_secret_is_shown_that_it_changed() {
        check(
            &json!({"key": "one", "keys": ["a", "b"]}),
            &json!({"key": "two", "keys": ["a", "c"]}),
            json!({"key": "******", "keys": ["******", "******"]}),
            json!({"key": "****** (changed)", "keys": ["******", "****** (changed)"]}),
        );
        check(
            &json!({"certs": ["a"], "keys": ["a", "b"]}),
            &json!({"certs": [{"key": "b"}], "keys": ["a"]}),
            json!({"certs": ["a"], "keys": ["******", "******"]}),
            json!({"certs": [{"key": "b"}], "keys": ["******"]}),
        );
        check(&json!({"key": "one", "x": 1}), &json!({"key": "one", "x": 2}), json!({"x": 1}), json!({"x": 2}));
        check(&Value::Null, &json!({"key": "one"}), Value::Null, json!({"key": "******"}));
    }

    #[test]
    fn what_is_too_large_is_cut() {
        let value = json!({ "desc": "é".repeat(40) });
        assert_eq!(written(Some(&value), 1000).unwrap(), value.to_string());
        let cut: Value = serde_json::from_str(&written(Some(&value), 12).unwrap()).unwrap();
        assert_eq!(cut, json!({"cut": {"bytes": 91, "begins": "{\"desc\":\"é"}}));
        assert_eq!(written(None, 12), None);
    }
}
