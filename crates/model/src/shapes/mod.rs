//! The schemas of all kinds, complete to the attribute tables of `docs/spec/resources.md` and fit to be served by
//! `GET /schema/{name}` (`docs/spec/admin-api.md` §13): definitions stand in place, defaults are noted.

mod consumer;
mod defs;
mod group_settings;
mod health;
mod route;
mod secret;
mod ssl;
mod upstream;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::Kind;
use crate::schema::Schema;

/// Names of the schemas for chash keys, as served.
pub(crate) const HASH_VARS: &str = "upstream_hash_vars_schema";
pub(crate) const HASH_HEADER: &str = "upstream_hash_header_schema";
pub(crate) const HASH_COMBINATIONS: &str = "upstream_hash_vars_combinations_schema";
/// Name of the schema for an address or CIDR block.
pub(crate) const IP: &str = "ip_def";

static SCHEMAS: LazyLock<HashMap<&'static str, Schema>> = LazyLock::new(|| {
    let kinds = Kind::ALL.iter().map(|&kind| (kind.name(), source_of(kind)));
    let shared = [
        ("plugins", plugin_list()),
        ("id_schema", defs::id()),
        ("host_def", defs::host()),
        (IP, defs::ip()),
        ("health_checker", health::checks()),
        ("timeout_def", defs::timeout()),
        ("labels_def", defs::labels()),
        (HASH_VARS, upstream::hash_vars()),
        (HASH_HEADER, upstream::hash_header()),
        (HASH_COMBINATIONS, upstream::hash_combinations()),
        ("secret_vault", secret::vault()),
        ("secret_aws", secret::aws()),
        ("secret_gcp", secret::gcp()),
    ];
    let compile = |(name, source): (&'static str, Value)| {
        (name, Schema::compile(&source).expect("a test compiles every schema of this table"))
    };
    kinds.chain(shared).map(compile).collect()
});

/// The schema of a kind. Compiled, with all others, on first use.
pub fn schema_of(kind: Kind) -> &'static Schema {
    compiled(kind.name()).expect("the table has an entry for every kind")
}

/// The JSON of a schema by the name under which `GET /schema/{name}` serves it: the name of a kind, or one of the shared
/// definitions (`id_schema`, `host_def`, `health_checker`, `plugins`, `upstream_hash_vars_schema`, …).
pub fn named_schema(name: &str) -> Option<&'static Value> {
    compiled(name).map(Schema::source)
}

pub(crate) fn compiled(name: &str) -> Option<&'static Schema> {
    SCHEMAS.get(name)
}

fn source_of(kind: Kind) -> Value {
    match kind {
        Kind::Route => route::route(),
        Kind::Service => route::service(),
        Kind::Upstream => upstream::upstream(),
        Kind::Consumer => consumer::consumer(),
        Kind::Credential => consumer::credential(),
        Kind::Ssl => ssl::ssl(),
        Kind::GlobalRule => consumer::global_rule(),
        Kind::PluginConfig => consumer::plugin_config(),
        Kind::PluginMetadata => consumer::plugin_metadata(),
        Kind::ConsumerGroup => consumer::consumer_group(),
        Kind::StreamRoute => route::stream_route(),
        Kind::Proto => secret::proto(),
        Kind::Secret => secret::secret(),
        Kind::GraphqlCostDecoration => route::graphql_cost_decoration(),
        Kind::GroupSettings => group_settings::group_settings(),
    }
}

/// The list of enabled plugins, as the standalone configuration writes it.
fn plugin_list() -> Value {
    json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"name": {"type": "string", "minLength": 1}, "stream": {"type": "boolean"}},
            "required": ["name"],
            "additionalProperties": false,
        },
    })
}

#[cfg(test)]
mod tests;
