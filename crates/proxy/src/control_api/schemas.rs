//! `/v1/schema`: the schemas of resources and of the enabled plugins.

use milecastle_model::named_schema;
use milecastle_plugin_api::{PluginDef, Registry};
use milecastle_snapshot::Compiler;
use serde_json::{Map, Value, json};

/// Members of `main`.
pub(super) const MAIN: [&str; 14] = [
    "consumer",
    "consumer_group",
    "global_rule",
    "graphql_cost_decoration",
    "plugin_config",
    "plugins",
    "proto",
    "route",
    "service",
    "ssl",
    "stream_route",
    "upstream",
    "upstream_hash_header_schema",
    "upstream_hash_vars_schema",
];

/// The whole answer.
pub(super) fn all(compiler: &Compiler) -> Value {
    let main: Map<String, Value> =
        MAIN.iter().filter_map(|name| Some(((*name).to_owned(), named_schema(name)?.clone()))).collect();
    let plugins = |registry: &Registry| -> Map<String, Value> {
        registry.plugins().iter().map(|def| (def.name.to_owned(), plugin(def, registry))).collect()
    };
    let of_sessions = compiler.streams().map(|registry| plugins(registry)).unwrap_or_default();
    json!({ "main": main, "plugins": plugins(compiler.registry()), "stream_plugins": of_sessions })
}

/// Members that a plugin does not have are left out; none has a version or a scope of its own.
fn plugin(def: &PluginDef, registry: &Registry) -> Value {
    let mut about = Map::new();
    about.insert("priority".to_owned(), def.priority.into());
    let schemas = [
        ("schema", registry.schema(def.name)),
        ("metadata_schema", registry.metadata_schema(def.name)),
        ("consumer_schema", registry.consumer_schema(def.name)),
    ];
    about.extend(schemas.into_iter().filter_map(|(name, schema)| Some((name.to_owned(), schema?.clone()))));
    if def.auth.is_some() {
        about.insert("type".to_owned(), "auth".into());
    }
    Value::Object(about)
}
