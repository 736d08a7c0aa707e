//! Filling in what an object leaves to the defaults of its schema.

use serde_json::Value;

/// Puts the schema's defaults in place of absent attributes, at every depth that the value reaches.
pub(super) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if !members.contains_key(name)
                    && let Some(default) = property.get("default")
                {
                    members.insert(name.clone(), default.clone());
                }
                if let Some(member) = members.get_mut(name) {
                    fill(property, member);
                }
            }
        }
        Value::Array(items) => {
            if let Some(each) = schema.get("items") {
                items.iter_mut().for_each(|item| fill(each, item));
            }
        }
        _ => return,
    }
    for part in parts(schema, "allOf") {
        fill(part, value);
    }
    for word in ["anyOf", "oneOf"] {
        if let Some(alternative) = parts(schema, word).find(|alternative| fits(alternative, value)) {
            fill(alternative, value);
        }
    }
}

fn parts<'a>(schema: &'a Value, word: &str) -> impl Iterator<Item = &'a Value> {
    schema.get(word).and_then(Value::as_array).into_iter().flatten()
}

/// Whether the value is of this alternative. The object has been validated, so telling the alternatives apart is enough:
/// by type, by members that must be there, and by members that tell which one it is.
fn fits(schema: &Value, value: &Value) -> bool {
    let of_type = match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some(_) => false,
        None => true,
    };
    let has_required = parts(schema, "required").filter_map(Value::as_str).all(|name| value.get(name).is_some());
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let tagged =
        properties.filter_map(|(name, property)| Some((value.get(name)?, property))).all(|(member, property)| {
            property.get("const").is_none_or(|only| only == member)
                && property.get("enum").and_then(Value::as_array).is_none_or(|known| known.contains(member))
        });
    of_type && has_required && tagged
}

#[cfg(test)]
mod tests {
    use super::fill;
    use serde_json::{Value, json};

    fn check(schema: &Value, mut value: Value, filled: &Value) {
        fill(schema, &mut value);
        assert_eq!(&value, filled);
    }

    #[test]
    fn defaults_reach_as_deep_as_the_value() {
        let inner = json!({"type": "object", "properties": {"n": {"default": 1}, "text": {"type": "string"}}});
        let schema = json!({"properties": {
            "flag": {"type": "boolean", "default": false},
            "inner": inner,
            "list": {"type": "array", "items": inner},
        }});
        check(&schema, json!({}), &json!({"flag": false}));
        check(&schema, json!({"flag": true, "inner": {}}), &json!({"flag": true, "inner": {"n": 1}}));
        check(&schema, json!({"list": [{"n": 2}, {}, 7]}), &json!({"list": [{"n": 2}, {"n": 1}, 7], "flag": false}));
    }

    #[test]
    fn only_the_alternative_that_the_value_is_counts() {
        let object = json!({"type": "object", "properties": {"a": {"default": 1}}});
        let array = json!({"type": "array", "items": {"type": "object", "properties": {"b": {"default": 2}}}});
        let schema = json!({"anyOf": [object, array]});
        check(&schema, json!({}), &json!({"a": 1}));
        check(&schema, json!([{}]), &json!([{"b": 2}]));
        let tagged = |tag: &str, n: u64| {
            json!({"type": "object", "required": ["by"],
            "properties": {"by": {"const": tag}, "n": {"default": n}}})
        };
        let schema = json!({"oneOf": [tagged("one", 1), tagged("two", 2)]});
        check(&schema, json!({"by": "two"}), &json!({"by": "two", "n": 2}));
        check(&schema, json!({}), &json!({}));
    }
}
