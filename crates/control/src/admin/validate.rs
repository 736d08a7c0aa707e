//! `POST /configs/validate`: a whole configuration is judged, nothing stored (`docs/spec/admin-api.md` §14).

use crate::admin::engine::id_text;
use crate::admin::reply::Reply;
use http::{HeaderValue, StatusCode};
use milecastle_model::{Kind, schema_of};
use milecastle_snapshot::Compiler;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

const VERSION: &str = "_conf_version";

/// Whether a media type asks for YAML.
pub(crate) fn is_yaml(content_type: &HeaderValue) -> bool {
    content_type.to_str().is_ok_and(|text| text.starts_with("application/yaml"))
}

/// The answer to a configuration. YAML is refused with its own words: clients then send JSON.
pub(crate) fn configs(compiler: &Compiler, text: &[u8], yaml: bool) -> Reply {
    if text.is_empty() {
        return Reply::bad("invalid request body: empty request body");
    }
    if yaml {
        return Reply::bad("invalid request body: YAML is not read here, send JSON");
    }
    let members = match serde_json::from_slice(text) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return Reply::bad("invalid request body: an object is expected"),
        Err(why) => return Reply::bad(format!("invalid request body: {why}")),
    };
    let mut errors = Vec::new();
    for (name, member) in &members {
        match (name.strip_suffix(VERSION), Kind::from_collection(name).filter(|kind| kind.parent().is_none())) {
            (Some(collection), _) if !member.is_number() => {
                let error = format!("{name} must be a number, got {}", lua_type(member));
                errors.push(json!({ "resource_type": collection, "error": error }));
            }
            (None, Some(kind)) => collection(compiler, kind, member, &mut errors),
            _ => {}
        }
    }
    if errors.is_empty() {
        return Reply::json(StatusCode::OK, &json!({}));
    }
    Reply::json(StatusCode::BAD_REQUEST, &json!({ "error_msg": "Configuration validation failed", "errors": errors }))
}

fn collection(compiler: &Compiler, kind: Kind, items: &Value, errors: &mut Vec<Value>) {
    let mut seen = HashSet::new();
    for (index, item) in items.as_array().into_iter().flatten().enumerate() {
        let id = item.get("id").and_then(id_text).or_else(|| item.get("username").and_then(id_text));
        let mut report = |error: String| {
            let mut entry = json!({ "resource_type": kind.collection(), "index": index, "error": error });
            if let (Value::Object(entry), Some(id)) = (&mut entry, &id) {
                entry.shift_insert(1, "resource_id".into(), id.clone().into());
            }
            errors.push(entry);
        };
        if let Err(error) = judged(compiler, kind, item, id.as_deref().unwrap_or_default()) {
            report(error);
        }
        if let Some(id) = id.as_ref().filter(|id| !seen.insert((*id).clone())) {
            let (what, name) = match (kind, id.rsplit_once("/credentials/")) {
                (Kind::Consumer, Some((_, credential))) => ("credential id", credential),
                (Kind::Consumer, None) => ("username", id.as_str()),
                _ => ("id", id.as_str()),
            };
            report(format!("found duplicate {what} {name} in {}", kind.collection()));
        }
    }
}

/// What a write of the item would be refused for, references apart.
fn judged(compiler: &Compiler, kind: Kind, item: &Value, id: &str) -> Result<(), String> {
    let Value::Object(members) = item else {
        let faults = schema_of(kind).validate(item);
        return faults.first().map_or(Ok(()), |fault| Err(fault.to_string()));
    };
    let members = || Value::Object(members.clone());
    let (kind, body) = match (kind, id.rsplit_once('/')) {
        (Kind::Consumer, Some((_, own))) => (Kind::Credential, with(members(), "id", own)),
        (Kind::Secret, None) => return Err(format!("invalid secret id: {id}")),
        _ => (kind, members()),
    };
    match compiler.check(kind, id, &body).first() {
        None => Ok(()),
        Some(fault) => Err(fault.to_string()),
    }
}

fn with(body: Value, name: &str, value: &str) -> Value {
    let mut members = match body {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    members.insert(name.to_owned(), value.into());
    Value::Object(members)
}

/// The names of types that the reference uses.
fn lua_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}
