//! Definitions that several kinds share (`docs/spec/resources.md` §0), and the builders of resource schemas.

use serde_json::{Map, Value, json};

/// ID.
pub(super) fn id() -> Value {
    json!({
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-zA-Z0-9-_.]+$"},
            {"type": "integer", "minimum": 1},
        ],
    })
}

/// NAME.
pub(super) fn name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 256})
}

/// DESC.
pub(super) fn desc() -> Value {
    json!({"type": "string", "maxLength": 256})
}

/// LABELS.
pub(super) fn labels() -> Value {
    let value = json!({"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^\\S+$"});
    json!({"type": "object", "patternProperties": {".*": value}})
}

/// TIME: Unix seconds.
pub(super) fn time() -> Value {
    json!({"type": "integer"})
}

/// HOST: a name or address; a leading `*`, a port and brackets are syntactically allowed.
pub(super) fn host() -> Value {
    json!({"type": "string", "pattern": "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$"})
}

/// IP: an address or a CIDR block of either family.
pub(super) fn ip() -> Value {
    let form = |title: &str, format: &str| json!({"title": title, "type": "string", "format": format});
    json!({
        "anyOf": [
            form("IPv4", "ipv4"),
            form("IPv4/CIDR", "ipv4-cidr"),
            form("IPv6", "ipv6"),
            form("IPv6/CIDR", "ipv6-cidr"),
        ],
    })
}

/// METHOD.
pub(super) fn method() -> Value {
    json!({
        "type": "string",
        "enum": ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"],
    })
}

/// TIMEOUT: seconds.
pub(super) fn timeout() -> Value {
    let seconds = json!({"type": "number", "exclusiveMinimum": 0});
    json!({
        "type": "object",
        "properties": {"connect": seconds, "send": seconds, "read": seconds},
        "required": ["connect", "send", "read"],
        "additionalProperties": false,
    })
}

/// PLUGINS. What the values must be is the business of the plugins.
pub(super) fn plugins() -> Value {
    json!({"type": "object"})
}

/// CERT.
pub(super) fn cert() -> Value {
    json!({"type": "string", "minLength": 128, "maxLength": 65_536})
}

/// PKEY.
pub(super) fn pkey() -> Value {
    json!({"type": "string", "minLength": 64, "maxLength": 65_536})
}

/// A Lua script.
pub(super) fn script() -> Value {
    json!({"type": "string", "minLength": 10, "maxLength": 102_400})
}

/// TCP or UDP port.
pub(super) fn port() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 65_535})
}

/// A list of different `items`, at least `min` of them.
pub(super) fn set_of(items: Value, min: u64) -> Value {
    let mut set = json!({"type": "array", "items": items, "uniqueItems": true});
    if min > 0 {
        set["minItems"] = min.into();
    }
    set
}

/// `status`: 1 in use, 0 not.
pub(super) fn status() -> Value {
    json!({"type": "integer", "enum": [0, 1], "default": 1})
}

/// The schema of a resource: the common attributes named in `common`, then its own; nothing else.
pub(super) fn resource(common: &[&str], attributes: Value) -> Value {
    let mut properties = Map::new();
    for &attribute in common {
        let definition = match attribute {
            "id" => id(),
            "name" => name(),
            "desc" => desc(),
            "labels" => labels(),
            "create_time" | "update_time" => time(),
            other => unreachable!("{other} is no common attribute"),
        };
        properties.insert(attribute.to_owned(), definition);
    }
    if let Value::Object(own) = attributes {
        properties.extend(own);
    }
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// Every common attribute.
pub(super) const COMMON: &[&str] = &["id", "name", "desc", "labels", "create_time", "update_time"];

/// The common attributes without `name`.
pub(super) const NAMELESS: &[&str] = &["id", "desc", "labels", "create_time", "update_time"];

/// `schema` with further keywords.
pub(super) fn with(mut schema: Value, keywords: Value) -> Value {
    if let (Value::Object(schema), Value::Object(keywords)) = (&mut schema, keywords) {
        schema.extend(keywords);
    }
    schema
}
