//! Schemas of what requests and sessions are matched against: routes, services, stream routes, GraphQL costs
//! (`docs/spec/resources.md` §1, §2, §10, §12).

use serde_json::{Value, json};

use super::defs::{COMMON, host, id, ip, method, plugins, port, resource, script, set_of, status, timeout, with};
use super::upstream::upstream;

/// Route.
pub(super) fn route() -> Value {
    let uri = json!({"type": "string", "minLength": 1, "maxLength": 4096});
    let attributes = json!({
        "uri": uri,
        "uris": set_of(uri, 1),
        "host": host(),
        "hosts": set_of(host(), 1),
        "methods": set_of(method(), 0),
        "remote_addr": ip(),
        "remote_addrs": set_of(ip(), 1),
        "priority": {"type": "integer", "default": 0},
        "vars": {"type": "array"},
        "filter_func": {"type": "string", "minLength": 10, "pattern": "^function"},
        "script": script(),
        "script_id": id(),
        "plugins": plugins(),
        "plugin_config_id": id(),
        "upstream": upstream(),
        "upstream_id": id(),
        "service_id": id(),
        "timeout": timeout(),
        "enable_websocket": {"type": "boolean"},
        "status": status(),
    });
    with(resource(COMMON, attributes), presence())
}

/// Which attributes of a route must stand together and which must not.
fn presence() -> Value {
    let answers = ["plugins", "upstream", "upstream_id", "service_id", "script"];
    let pairs = ["uri", "uris"].into_iter().flat_map(|uri| answers.map(|answer| json!({"required": [answer, uri]})));
    let both = |one: &str, other: &str| json!({"required": [one, other]});
    json!({
        "allOf": [
            {"oneOf": [{"required": ["uri"]}, {"required": ["uris"]}]},
            {"not": both("host", "hosts")},
            {"not": both("remote_addr", "remote_addrs")},
        ],
        "anyOf": pairs.collect::<Vec<Value>>(),
        "not": {"anyOf": [both("script", "plugins"), both("script", "plugin_config_id")]},
    })
}

/// Service.
pub(super) fn service() -> Value {
    let attributes = json!({
        "plugins": plugins(),
        "upstream": upstream(),
        "upstream_id": id(),
        "hosts": set_of(host(), 1),
        "enable_websocket": {"type": "boolean"},
        "script": script(),
    });
    resource(COMMON, attributes)
}

/// Stream route. Addresses are only strings here: a bad one has a message of its own (`docs/spec/admin-api.md` §11.1).
pub(super) fn stream_route() -> Value {
    let logger = json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "filter": {"type": "array"}, "conf": {"type": "object"}},
        "dependencies": {"name": ["conf"]},
        "additionalProperties": false,
    });
    let attributes = json!({
        "remote_addr": {"type": "string"},
        "server_addr": {"type": "string"},
        "server_port": port(),
        "sni": host(),
        "upstream": upstream(),
        "upstream_id": id(),
        "service_id": id(),
        "plugins": plugins(),
        "protocol": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "superior_id": id(),
                "conf": {"type": "object"},
                "logger": {"type": "array", "items": logger},
            },
            "required": ["name"],
            "additionalProperties": false,
        },
    });
    resource(COMMON, attributes)
}

/// GraphQL cost decoration. `service_id` is judged by whoever knows the path of the request.
pub(super) fn graphql_cost_decoration() -> Value {
    let factor = json!({"type": "number", "minimum": 0, "default": 1});
    let arguments = json!({"type": "array", "items": {"type": "string"}});
    let identifier = "[_A-Za-z][_0-9A-Za-z]*";
    let attributes = json!({
        "service_id": id(),
        "field_path": {"type": "string", "pattern": format!("^{identifier}(\\.{identifier})*$")},
        "add_value": factor,
        "add_arguments": arguments,
        "mul_value": factor,
        "mul_arguments": arguments,
    });
    with(resource(COMMON, attributes), json!({"required": ["field_path"]}))
}
