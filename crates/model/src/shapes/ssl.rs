//! Schema of certificates (`docs/spec/resources.md` §8).

use serde_json::{Value, json};

use super::defs::{NAMELESS, cert, host, pkey, resource, set_of, status, with};

/// Ssl.
pub(super) fn ssl() -> Value {
    let attributes = json!({
        "type": {"type": "string", "enum": ["server", "client"], "default": "server"},
        "cert": cert(),
        "key": pkey(),
        "certs": {"type": "array", "items": cert()},
        "keys": {"type": "array", "items": pkey()},
        "sni": host(),
        "snis": {"type": "array", "minItems": 1, "items": host()},
        "client": {
            "type": "object",
            "properties": {
                "ca": cert(),
                "depth": {"type": "integer", "minimum": 0, "default": 1},
                "skip_mtls_uri_regex": set_of(json!({"type": "string"}), 1),
            },
            "required": ["ca"],
            "additionalProperties": false,
        },
        "status": status(),
        "ssl_protocols": with(
            set_of(json!({"type": "string", "enum": ["TLSv1.1", "TLSv1.2", "TLSv1.3"]}), 0),
            json!({"maxItems": 3}),
        ),
        "ocsp_stapling": {
            "type": "object",
            "properties": {
                "enabled": {"type": "boolean", "default": false},
                "skip_verify": {"type": "boolean", "default": false},
                "cache_ttl": {"type": "integer", "minimum": 60, "default": 3600},
            },
            "additionalProperties": false,
        },
    });
    let presence = json!({
        "if": {"properties": {"type": {"enum": ["server"]}}},
        "then": {"oneOf": [{"required": ["sni", "key", "cert"]}, {"required": ["snis", "key", "cert"]}]},
        "else": {"required": ["key", "cert"]},
    });
    with(resource(NAMELESS, attributes), presence)
}
