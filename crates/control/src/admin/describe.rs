//! What the installation knows about itself: plugins and schemas (`docs/spec/admin-api.md` §12, §13).

use crate::admin::query::Query;
use crate::admin::reply::Reply;
use http::StatusCode;
use milecastle_model::{Kind, named_schema, schema_of};
use milecastle_plugin_api::Registry;
use milecastle_snapshot::Compiler;
use serde_json::{Map, Value, json};

/// The plugins of a subsystem; none of sessions where no TCP or UDP is served. `None` if there is no such subsystem.
fn subsystem<'a>(compiler: &'a Compiler, name: &str) -> Option<Option<&'a Registry>> {
    match name {
        "http" => Some(Some(compiler.registry())),
        "stream" => Some(compiler.streams().map(|registry| &**registry)),
        _ => None,
    }
}

/// `GET /plugins/list`.
pub(crate) fn plugin_names(compiler: &Compiler, query: &Query) -> Reply {
    let Some(registry) = subsystem(compiler, query.get("subsystem").unwrap_or("http")) else {
        return Reply::plain(StatusCode::BAD_REQUEST, "invalid subsystem passed");
    };
    let plugins = registry.map(Registry::plugins).unwrap_or_default();
    let names: Vec<&str> = plugins.iter().map(|def| def.name).collect();
    Reply::json(StatusCode::OK, &names)
}

/// `GET /plugins/{name}`, `GET /plugins?all=true`.
pub(crate) fn plugins(compiler: &Compiler, name: Option<&str>, query: &Query) -> Reply {
    let asked = query.get("subsystem").unwrap_or("http");
    let Some(registry) = subsystem(compiler, asked) else {
        return Reply::bad(format!("unsupported subsystem: {asked}"));
    };
    if name.is_none() && query.get("all") == Some("true") {
        let of = |registry: &Registry| {
            let plugins = registry.plugins().iter();
            plugins.map(|def| (def.name.to_owned(), described(registry, def.name, def.priority))).collect()
        };
        let described: Map<String, Value> = registry.map(of).unwrap_or_default();
        return Reply::json(StatusCode::OK, &described);
    }
    let found = registry.zip(name).filter(|(registry, name)| registry.get(name).is_some());
    let Some((registry, name)) = found else {
        return Reply::error(StatusCode::NOT_FOUND, format!("plugin not found in subsystem {asked}"));
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
