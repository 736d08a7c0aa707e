//! Schema of health checks (`docs/spec/resources.md` §4). Objects are open.

use serde_json::{Value, json};

use super::defs::{host, method, port, set_of};

/// `checks`.
pub(super) fn checks() -> Value {
    json!({
        "type": "object",
        "properties": {"active": active(), "passive": passive()},
        "required": ["active"],
    })
}

fn active() -> Value {
    let count = |default: u64| json!({"type": "integer", "minimum": 1, "maximum": 254, "default": default});
    let interval = json!({"type": "integer", "minimum": 1, "default": 1});
    json!({
        "type": "object",
        "properties": {
            "type": kind(),
            "timeout": {"type": "number", "default": 1},
            "concurrency": {"type": "integer", "default": 10},
            "host": host(),
            "port": port(),
            "http_method": with_default(method(), json!("GET")),
            "http_path": {"type": "string", "default": "/"},
            "http_req_body": {"type": "string", "default": ""},
            "https_verify_certificate": {"type": "boolean", "default": true},
            "req_headers": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            "healthy": {
                "type": "object",
                "properties": {
                    "interval": interval,
                    "http_statuses": statuses(&[200, 302]),
                    "successes": count(2),
                },
            },
            "unhealthy": {
                "type": "object",
                "properties": {
                    "interval": interval,
                    "http_statuses": statuses(&[429, 404, 500, 501, 502, 503, 504, 505]),
                    "http_failures": count(5),
                    "tcp_failures": count(2),
                    "timeouts": count(3),
                },
            },
        },
    })
}

fn passive() -> Value {
    let count = |default: u64| json!({"type": "integer", "minimum": 0, "maximum": 254, "default": default});
    let healthy = [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
    json!({
        "type": "object",
        "properties": {
            "type": kind(),
            "healthy": {
                "type": "object",
                "properties": {"http_statuses": statuses(&healthy), "successes": count(5)},
            },
            "unhealthy": {
                "type": "object",
                "properties": {
                    "http_statuses": statuses(&[429, 500, 503]),
                    "http_failures": count(5),
                    "tcp_failures": count(2),
                    "timeouts": count(7),
                    "fail_timeout": {"type": "number", "exclusiveMinimum": 0},
                },
            },
        },
    })
}

fn kind() -> Value {
    json!({"type": "string", "enum": ["http", "https", "tcp"], "default": "http"})
}

fn statuses(default: &[u16]) -> Value {
    with_default(set_of(json!({"type": "integer", "minimum": 200, "maximum": 599}), 1), json!(default))
}

fn with_default(mut schema: Value, default: Value) -> Value {
    schema["default"] = default;
    schema
}
