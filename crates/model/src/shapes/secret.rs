//! Schemas of protobuf definitions and of secret managers (`docs/spec/resources.md` §9, §13).

use serde_json::{Value, json};

use super::defs::{COMMON, desc, labels, name, resource, time, with};

/// Proto.
pub(super) fn proto() -> Value {
    let content = json!({"type": "string", "minLength": 1, "maxLength": 1_048_576});
    with(resource(COMMON, json!({"content": content})), json!({"required": ["content"]}))
}

/// What the secrets of every manager have in common: open, the id being `<manager>/<id>`.
pub(super) fn secret() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "name": name(),
            "desc": desc(),
            "labels": labels(),
            "create_time": time(),
            "update_time": time(),
        },
    })
}

/// HashiCorp Vault.
pub(super) fn vault() -> Value {
    json!({
        "type": "object",
        "properties": {
            "uri": {"type": "string", "pattern": "^[a-zA-Z][a-zA-Z0-9+.-]*://([0-9a-zA-Z.-]+|\\[[0-9a-fA-F:]+\\])(:[0-9]+)?"},
            "prefix": {"type": "string"},
            "token": {"type": "string"},
            "namespace": {"type": "string"},
        },
        "required": ["uri", "prefix", "token"],
    })
}

/// AWS Secrets Manager.
pub(super) fn aws() -> Value {
    json!({
        "type": "object",
        "properties": {
            "access_key_id": {"type": "string"},
            "secret_access_key": {"type": "string"},
            "session_token": {"type": "string"},
            "region": {"type": "string", "default": "us-east-1"},
            "endpoint_url": {"type": "string"},
        },
        "required": ["access_key_id", "secret_access_key"],
    })
}

/// Google Secret Manager.
pub(super) fn gcp() -> Value {
    let scope = "https://www.googleapis.com/auth/cloud-platform";
    json!({
        "type": "object",
        "properties": {
            "auth_config": {
                "type": "object",
                "properties": {
                    "client_email": {"type": "string"},
                    "private_key": {"type": "string"},
                    "project_id": {"type": "string"},
                    "token_uri": {"type": "string", "default": "https://oauth2.googleapis.com/token"},
                    "entries_uri": {"type": "string", "default": "https://secretmanager.googleapis.com/v1"},
                    "scope": {"type": "array", "items": {"type": "string"}, "default": [scope]},
                },
                "required": ["client_email", "private_key", "project_id"],
            },
            "auth_file": {"type": "string"},
            "ssl_verify": {"type": "boolean", "default": true},
        },
        "oneOf": [{"required": ["auth_config"]}, {"required": ["auth_file"]}],
    })
}
