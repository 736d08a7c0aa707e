//! An object as this node has loaded it (`docs/spec/control-api.md` §1.2).

use super::{body_of, defaults, storage_key};
use milecastle_model::{Kind, MASK, Object, named_schema};
use milecastle_plugin_api::Registry;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// A route, service or upstream: defaults filled in, hosts lower-cased, nodes as a list, secrets masked.
pub(super) fn object(object: &Object, registry: &Registry) -> Value {
    let kind = object.key.kind;
    let mut value = body_of(object);
    if let Some(schema) = named_schema(kind.name()) {
        defaults::fill(schema, &mut value);
    }
    if let Some(Value::Object(plugins)) = value.get_mut("plugins") {
        plugins.iter_mut().for_each(|(name, config)| plugin(name, config, registry));
    }
    milecastle_model::mask(kind, &mut value);
    lower_hosts(&mut value);
    let upstream = if kind == Kind::Upstream { Some(&mut value) } else { value.get_mut("upstream") };
    let has_domain = upstream.and_then(Value::as_object_mut).is_some_and(load_upstream);
    let mut dump = json!({
        "key": storage_key(&object.key),
        "value": value,
        "createdIndex": object.created,
        "modifiedIndex": object.modified,
        "has_domain": has_domain,
    });
    if kind == Kind::Route {
        dump["orig_modifiedIndex"] = object.modified.into();
    }
    dump
}

/// Fills in a plugin's defaults and masks what it declares secret, enabled or not.
fn plugin(name: &str, config: &mut Value, registry: &Registry) {
    if let Some(schema) = registry.schema(name) {
        defaults::fill(schema, config);
    }
    match registry.built_in(name) {
        Some(def) => def.mask(config),
        // What this version does not know may have secrets anywhere.
        None => *config = MASK.into(),
    }
}

/// Hosts are compared in lower case.
fn lower_hosts(value: &mut Value) {
    let lower = |host: &mut Value| {
        if let Value::String(text) = host {
            text.make_ascii_lowercase();
        }
    };
    value.get_mut("host").map(lower).unwrap_or_default();
    value.get_mut("hosts").and_then(Value::as_array_mut).into_iter().flatten().for_each(lower);
}

/// Brings an upstream into the form that balancing works on, and says whether some node is a name.
fn load_upstream(upstream: &mut Map<String, Value>) -> bool {
    let nodes = match upstream.get("nodes") {
        Some(Value::Object(weights)) => weights.iter().map(|(node, weight)| listed(node, weight)).collect(),
        Some(Value::Array(nodes)) => nodes.clone(),
        _ => return false,
    };
    let has_domain = nodes.iter().any(|node| node.get("host").and_then(Value::as_str).is_some_and(is_name));
    if has_domain {
        upstream.insert("dns_nodes".to_owned(), Value::Array(nodes.clone()));
    }
    upstream.insert("nodes".to_owned(), Value::Array(nodes));
    if let Some(checks) = upstream.get_mut("checks") {
        switch_off_absent_directions(checks);
    }
    has_domain
}

/// A node of the map form as one of the list form.
fn listed(node: &str, weight: &Value) -> Value {
    let split = node.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    match split.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
        Some((host, port)) => json!({ "host": host, "port": port, "weight": weight }),
        None => json!({ "host": node, "weight": weight }),
    }
}

fn is_name(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_err()
}

/// A direction of health checks that is left out keeps the thresholds and is not probed (`docs/spec/resources.md` §4.1).
fn switch_off_absent_directions(checks: &mut Value) {
    let schema = named_schema(Kind::Upstream.name()).and_then(|schema| schema.pointer("/properties/checks/properties"));
    for side in ["active", "passive"] {
        let Some(Value::Object(check)) = checks.get_mut(side) else { continue };
        for direction in ["healthy", "unhealthy"] {
            let of_direction = schema.and_then(|all| all.get(side)?.get("properties")?.get(direction));
            if let (None, Some(schema)) = (check.get(direction), of_direction) {
                let mut absent = json!({});
                defaults::fill(schema, &mut absent);
                if side == "active" {
                    absent["interval"] = 0.into();
                }
                check.insert(direction.to_owned(), absent);
            }
        }
    }
}
