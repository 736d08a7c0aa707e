//! Schemas from configuration types.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

/// The JSON Schema of a configuration type, in the form that form generators of the field accept: no references, an
/// optional attribute is one that may be absent (never `null`), integers without Rust's width names.
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    if let Value::Object(root) = &mut schema {
        root.remove("title");
    }
    schema
}

fn simplify(value: &mut Value) {
    match value {
        Value::Object(map) => {
            drop_width(map);
            drop_null(map);
            map.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// `"format": "uint32"` says nothing to a client; the range says it.
fn drop_width(map: &mut Map<String, Value>) {
    let is_width = map.get("format").and_then(Value::as_str).is_some_and(|format| {
        matches!(format, "float" | "double") || format.trim_start_matches('u').starts_with("int")
    });
    if is_width {
        map.remove("format");
    }
}

/// `Option<T>` is an attribute that may be absent; `null` is not a value of it.
fn drop_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            map.insert("type".into(), only);
        }
    }
    if map.get("default").is_some_and(Value::is_null) {
        map.remove("default");
    }
    if let Some(Value::Array(branches)) = map.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type").is_none_or(|name| name != "null"));
        if branches.len() == 1
            && let Some(Value::Object(only)) = branches.pop()
        {
            map.remove("anyOf");
            only.into_iter().for_each(|(name, value)| {
                map.entry(name).or_insert(value);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Inner {
        a: u32,
    }

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Config {
        /// How many.
        #[schemars(range(min = 1))]
        count: u32,
        inner: Option<Inner>,
        name: Option<String>,
    }

    #[test]
    fn optional_attributes_are_not_nullable_and_references_are_inlined() {
        assert_eq!(
            schema_of::<Config>(),
            json!({
                "type": "object",
                "properties": {
                    "count": { "description": "How many.", "type": "integer", "minimum": 1 },
                    "inner": {
                        "type": "object", "properties": { "a": { "type": "integer", "minimum": 0 } }, "required": ["a"],
                    },
                    "name": { "type": "string" },
                },
                "required": ["count"],
            })
        );
    }
}
