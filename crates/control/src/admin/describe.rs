//! What the installation knows about itself: plugins and schemas (`docs/spec/admin-api.md` §12, §13).

use crate::admin::query::Query;
use crate::admin::reply::Reply;
use http::StatusCode;
use milecastle_model::{Kind, named_schema, schema_of};
use milecastle_plugin_api::Registry;
use serde_json::{Map, Value, json};

/// Subsystems that plugins can belong to. No plugin of the second is built in yet.
const SUBSYSTEMS: [&str; 2] = ["http", "stream"];

/// `GET /plugins/list`.
pub(crate) fn plugin_names(registry: &Registry, query: &Query) -> Reply {
    let names: Vec<&str> = match query.get("subsystem").unwrap_or("http") {
        "http" => registry.plugins().iter().map(|def| def.name).collect(),
        "stream" => Vec::new(),
        _ => return Reply::plain(StatusCode::BAD_REQUEST, "invalid subsystem passed"),
    };
    Reply::json(StatusCode::OK, &names)
}

/// `GET /plugins/{name}`, `GET /plugins?all=true`.
pub(crate) fn plugins(registry: &Registry, name: Option<&str>, query: &Query) -> Reply {
    let subsystem = query.get("subsystem").unwrap_or("http");
    if !SUBSYSTEMS.contains(&subsystem) {
        return Reply::bad(format!("unsupported subsystem: {subsystem}"));
    }
    let in_http = subsystem == "http";
    if name.is_none() && query.get("all") == Some("true") {
        let described: Map<String, Value> = registry
            .plugins()
            .iter()
            .filter(|_| in_http)
            .map(|def| (def.name.to_owned(), described(registry, def.name, def.priority)))
            .collect();
        return Reply::json(StatusCode::OK, &described);
    }
    let Some(name) = name.filter(|name| in_http && registry.get(name).is_some()) else {
        return Reply::error(StatusCode::NOT_FOUND, format!("plugin not found in subsystem {subsystem}"));
    };
    let schema = match query.get("schema_type") {
        Some("consumer") => registry.consumer_schema(name),
        Some("metadata") => registry.metadata_schema(name),
        _ => registry.schema(name),
    };
    match schema {
        Some(schema) => Reply::json(StatusCode::OK, schema),
        None => Reply::bad("not found schema"),
    }
}

fn described(registry: &Registry, name: &str, priority: i32) -> Value {
    let mut described = Map::new();
    described.insert("priority".into(), priority.into());
    for (member, schema) in [
        ("schema", registry.schema(name)),
        ("consumer_schema", registry.consumer_schema(name)),
        ("metadata_schema", registry.metadata_schema(name)),
    ] {
        described.extend(schema.map(|schema| (member.to_owned(), schema.clone())));
    }
    if described.contains_key("consumer_schema") {
        described.insert("type".into(), json!("auth"));
    }
    Value::Object(described)
}

/// `GET /schema/{name}`.
pub(crate) fn schema(name: &str) -> Reply {
    match named_schema(name) {
        Some(schema) => Reply::json(StatusCode::OK, schema),
        None => Reply::bad(format!("not found schema: {name}")),
    }
}

/// `POST /schema/validate/{collection}`: the schema alone, and its text without a prefix.
pub(crate) fn validate(collection: &str, body: &Value) -> Reply {
    let Some(kind) = Kind::from_collection(collection) else {
        return Reply::error(StatusCode::NOT_FOUND, format!("Unsupported resource type: {collection}"));
    };
    let faults = schema_of(kind).validate(body);
    match faults.first() {
        None => Reply::empty(StatusCode::OK),
        Some(first) => Reply { faults: faults.clone(), ..Reply::bad(&first.message) },
    }
}
