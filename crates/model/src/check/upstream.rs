//! Rules of upstreams, standalone or inline at `base`.

use std::net::Ipv6Addr;

use serde_json::Value;

use super::ssl;
use crate::shapes::{self, compiled};
use crate::types::parse_address;
use crate::{Fault, pointer};

pub(super) fn check(upstream: &Value, base: &str, faults: &mut Vec<Fault>) {
    nodes(upstream, base, faults);
    let tls = upstream.get("tls");
    for (name, checked) in [
        ("client_cert", ssl::certificate(tls.and_then(|tls| tls.get("client_cert")))),
        ("client_key", ssl::key(tls.and_then(|tls| tls.get("client_key")))),
    ] {
        if let Err(message) = checked {
            faults.push(Fault::rule(format!("{base}/tls/{name}"), message));
        }
    }
    let named = |name: &str| upstream.get(name).and_then(Value::as_str);
    // Names of services stand in logs, metrics and dumps.
    let agent = named("service_name").map(|name| name.split("/v1/kv/").next().unwrap_or(name));
    if named("discovery_type") == Some("consul_kv") && agent.is_some_and(|agent| agent.contains('@')) {
        let message = "must not have a login: it belongs in `servers` of the registry `consul_kv`";
        faults.push(Fault::rule(format!("{base}/service_name"), message));
    }
    if named("pass_host") == Some("rewrite") && named("upstream_host").is_none_or(str::is_empty) {
        let message = "`upstream_host` can't be empty when `pass_host` is `rewrite`";
        faults.push(Fault::rule(format!("{base}/upstream_host"), message));
    }
    if named("type") == Some("chash") {
        hash_key(upstream, base, faults);
    }
}

fn nodes(upstream: &Value, base: &str, faults: &mut Vec<Fault>) {
    match upstream.get("nodes") {
        Some(Value::Object(map)) => {
            for address in map.keys() {
                if let Err(bad) = parse_address(address) {
                    let path = pointer::join(&format!("{base}/nodes"), address);
                    faults.push(Fault::rule(path, bad.to_string()));
                }
            }
        }
        Some(Value::Array(list)) => {
            for (n, node) in list.iter().enumerate() {
                let host = node.get("host").and_then(Value::as_str);
                if host.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()) {
                    let message = "IPv6 address must be enclosed with '[' and ']'";
                    faults.push(Fault::configuration(format!("{base}/nodes/{n}/host"), message));
                }
            }
        }
        _ => {}
    }
}

/// What a consistent hash is computed of.
fn hash_key(upstream: &Value, base: &str, faults: &mut Vec<Fault>) {
    let definition = match upstream.get("hash_on").and_then(Value::as_str).unwrap_or("vars") {
        "vars" => shapes::HASH_VARS,
        "header" | "cookie" => shapes::HASH_HEADER,
        "vars_combinations" => shapes::HASH_COMBINATIONS,
        // `consumer` needs no key, and what else there may be is for the schema to refuse.
        _ => return,
    };
    let path = format!("{base}/key");
    match upstream.get("key") {
        None => faults.push(Fault::rule(path, "missing key")),
        Some(key @ Value::String(_)) => {
            let schema = compiled(definition).expect("the table has all three definitions");
            faults.extend(schema.validate(key).into_iter().map(|fault| Fault { path: path.clone(), ..fault }));
        }
        Some(_) => {}
    }
}
