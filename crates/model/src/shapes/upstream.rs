//! Schema of upstreams, standalone and inline (`docs/spec/resources.md` §3).

use serde_json::{Value, json};

use super::defs::{COMMON, cert, host, id, name, pkey, port, resource, timeout, with};
use super::health;

/// UPSTREAM.
pub(super) fn upstream() -> Value {
    let attributes = json!({
        "type": {"type": "string", "default": "roundrobin"},
        "nodes": nodes(),
        "service_name": name(),
        "discovery_type": {"type": "string"},
        "discovery_args": {
            "type": "object",
            "properties": {"namespace_id": {"type": "string"}, "group_name": {"type": "string"}},
        },
        "hash_on": {
            "type": "string",
            "enum": ["vars", "header", "cookie", "consumer", "vars_combinations"],
            "default": "vars",
        },
        "key": {"type": "string"},
        "checks": health::checks(),
        "retries": {"type": "integer", "minimum": 0},
        "retry_timeout": {"type": "number", "minimum": 0},
        "timeout": timeout(),
        "pass_host": {"type": "string", "enum": ["pass", "node", "rewrite"], "default": "pass"},
        "upstream_host": host(),
        "scheme": {
            "type": "string",
            "enum": ["http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "kafka"],
            "default": "http",
        },
        "keepalive_pool": {
            "type": "object",
            "properties": {
                "size": {"type": "integer", "minimum": 1, "default": 320},
                "idle_timeout": {"type": "number", "minimum": 0, "default": 60},
                "requests": {"type": "integer", "minimum": 1, "default": 1000},
            },
            "additionalProperties": false,
        },
        "tls": tls(),
    });
    let source = json!({"oneOf": [{"required": ["nodes"]}, {"required": ["service_name", "discovery_type"]}]});
    with(resource(COMMON, attributes), source)
}

/// Both forms of the node list (§3.1).
fn nodes() -> Value {
    json!({
        "anyOf": [
            {"type": "object", "patternProperties": {".*": {"type": "integer", "minimum": 0}}},
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "host": host(),
                        "port": port(),
                        "weight": {"type": "integer", "minimum": 0},
                        "priority": {"type": "integer", "default": 0},
                        "metadata": {"type": "object"},
                    },
                    "required": ["host", "weight"],
                },
            },
        ],
    })
}

/// The client certificate that the gateway shows to the upstream: a pair, or the id of an ssl object.
fn tls() -> Value {
    json!({
        "type": "object",
        "properties": {
            "client_cert": cert(),
            "client_key": pkey(),
            "client_cert_id": id(),
            "verify": {"type": "boolean", "default": false},
        },
        "dependencies": {
            "client_cert": ["client_key"],
            "client_key": ["client_cert"],
            "client_cert_id": {"not": {"anyOf": [{"required": ["client_cert"]}, {"required": ["client_key"]}]}},
        },
        "additionalProperties": false,
    })
}

/// What `key` may be when `hash_on` is `vars`.
pub(super) fn hash_vars() -> Value {
    json!({
        "type": "string",
        "pattern": "^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|query_string|host|hostname\
                    |mqtt_client_id)|arg_[0-9a-zA-z_-]+)$",
    })
}

/// What `key` may be when `hash_on` is `header` or `cookie`.
pub(super) fn hash_header() -> Value {
    json!({"type": "string", "pattern": "^[a-zA-Z0-9-_]+$"})
}

/// What `key` may be when `hash_on` is `vars_combinations`: anything that names a variable.
pub(super) fn hash_combinations() -> Value {
    json!({"type": "string", "pattern": "\\$(?:[0-9a-zA-Z_]+|\\{[^{}]+\\})"})
}
