//! Schema of what decides what can be built in a gateway group ([`crate::GroupSettings`]).

use serde_json::{Value, json};

/// Group settings. No default is written into what is stored: what is absent has it.
pub(super) fn group_settings() -> Value {
    let names = json!({"type": "array", "uniqueItems": true, "items": {"type": "string", "minLength": 1}});
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "plugins": names,
            "proxy_mode": {"type": "string", "enum": ["http", "stream", "http&stream"], "default": "http"},
            "stream_plugins": names,
            "upstream_tls": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "verify": {"type": "string", "enum": ["off", "upstream", "required"], "default": "off"},
                },
            },
            // The registries' own types check what is in it.
            "discovery": {"type": "object"},
            "router": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "http": {
                        "type": "string",
                        "enum": ["radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"],
                        "default": "radixtree_host_uri",
                    },
                },
            },
        },
    })
}
