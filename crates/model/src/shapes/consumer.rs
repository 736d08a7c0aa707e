//! Schemas of callers and of sets of plugins: consumers, credentials, consumer groups, plugin configs, global rules,
//! plugin metadata (`docs/spec/resources.md` §5–§7, §11).

use serde_json::{Value, json};

use super::defs::{COMMON, NAMELESS, id, plugins, resource, with};

/// Consumer.
pub(super) fn consumer() -> Value {
    let attributes = json!({
        "username": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[a-zA-Z0-9_\\-]+$"},
        "group_id": id(),
        "plugins": plugins(),
    });
    with(resource(NAMELESS, attributes), json!({"required": ["username"]}))
}

/// Credential.
pub(super) fn credential() -> Value {
    resource(COMMON, json!({"plugins": with(plugins(), json!({"maxProperties": 1}))}))
}

/// Consumer group.
pub(super) fn consumer_group() -> Value {
    with(resource(COMMON, json!({"plugins": plugins()})), json!({"required": ["id", "plugins"]}))
}

/// Plugin config. Its name is any string.
pub(super) fn plugin_config() -> Value {
    let attributes = json!({"name": {"type": "string"}, "plugins": plugins()});
    with(resource(COMMON, attributes), json!({"required": ["id", "plugins"]}))
}

/// Global rule.
pub(super) fn global_rule() -> Value {
    let common = ["id", "create_time", "update_time"];
    with(resource(&common, json!({"plugins": plugins()})), json!({"required": ["id", "plugins"]}))
}

/// Plugin metadata: open, what is in it is the plugin's business.
pub(super) fn plugin_metadata() -> Value {
    json!({"type": "object", "properties": {"id": {"type": "string"}}})
}
