//! What is judged of one object by itself (`docs/spec/admin-api.md` §11.1): its schema, and the rules that a schema cannot
//! express. References, the `vars` language and plugin configurations are judged by others.

mod lua;
mod pem;
mod ssl;
mod upstream;

use serde_json::Value;

use crate::shapes::{self, compiled, schema_of};
use crate::types::readable;
use crate::{Fault, Kind, check_server_url, is_reference};

/// All faults of `body` that show without looking at anything else; the first is the one that the Admin API answers.
///
/// The body is the one to be stored: `id` is in it (`plugin_config`, `consumer_group` and `global_rule` require one).
pub fn check(kind: Kind, body: &Value) -> Vec<Fault> {
    // The schema lets an empty array pass for an object, but there would be no place for the id.
    if body.is_array() {
        return vec![Fault::configuration("", "wrong type: expected object, got table")];
    }
    let mut faults = Vec::new();
    if kind == Kind::Route {
        exclusive(body, "host", "hosts", &mut faults);
        exclusive(body, "remote_addr", "remote_addrs", &mut faults);
    }
    faults.extend(schema_of(kind).validate(body));
    match kind {
        Kind::Upstream => upstream::check(body, "", &mut faults),
        Kind::Route | Kind::Service | Kind::StreamRoute => {
            if let Some(inline) = body.get("upstream") {
                upstream::check(inline, "/upstream", &mut faults);
            }
        }
        Kind::Ssl => ssl::check(body, &mut faults),
        Kind::Secret => manager(body, &mut faults),
        _ => {}
    }
    if kind == Kind::StreamRoute {
        stream_route(body, &mut faults);
    }
    lua::check(kind, body, &mut faults);
    // A reference such as `$env://X` passes the schema of any string; where the data plane needs one of a few words it
    // could not be built.
    if faults.is_empty()
        && let Err(error) = readable(kind, body)
    {
        faults.push(Fault::configuration("", error.to_string()));
    }
    faults
}

/// Timestamps in a body that a client sends by PUT or POST, where they are forbidden (`docs/spec/admin-api.md` §6.7).
pub fn client_timestamps(body: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, words) in [("", ""), ("/upstream", "upstream."), ("/plugins", "plugins.")] {
        for name in ["create_time", "update_time"] {
            if body.pointer(path).is_some_and(|object| object.get(name).is_some()) {
                let message = format!("the property is forbidden:  {words}{name}");
                faults.push(Fault::rule(format!("{path}/{name}"), message));
            }
        }
    }
    faults
}

fn exclusive(body: &Value, one: &str, many: &str, faults: &mut Vec<Fault>) {
    if body.get(one).is_some() && body.get(many).is_some() {
        faults.push(Fault::rule(format!("/{many}"), format!("only one of {one} or {many} is allowed")));
    }
}

/// Protocols above TCP that a stream route may name (`docs/spec/stream.md` §5).
const PROTOCOLS: [&str; 2] = ["redis", "dubbo"];

fn stream_route(body: &Value, faults: &mut Vec<Fault>) {
    let address = compiled(shapes::IP).expect("the table has this definition");
    for name in ["remote_addr", "server_addr"] {
        match body.get(name) {
            Some(Value::String(text)) if !address.is_valid(&Value::String(text.clone())) => {
                faults.push(Fault::rule(format!("/{name}"), format!("invalid {name}: {text}")));
            }
            _ => {}
        }
    }
    match body.pointer("/protocol/name") {
        Some(Value::String(name)) if !PROTOCOLS.contains(&name.as_str()) => {
            faults.push(Fault::rule("/protocol/name", format!("unknown protocol [{name}]")));
        }
        _ => {}
    }
    let own = body.get("id").and_then(|id| crate::Id::from_value(id).ok());
    let superior = body.pointer("/protocol/superior_id").and_then(|id| crate::Id::from_value(id).ok());
    if own.is_some() && own == superior {
        let message = "stream route can not set itself as superior_id";
        faults.push(Fault::rule("/protocol/superior_id", message));
    }
}

/// The rules of the manager that the id names; a body without an id is judged by the common ones only.
fn manager(body: &Value, faults: &mut Vec<Fault>) {
    let Some((manager, _)) = body.get("id").and_then(Value::as_str).and_then(|id| id.split_once('/')) else { return };
    let addresses: &[&str] = match manager {
        "vault" => &["/uri"],
        "aws" => &["/endpoint_url"],
        "gcp" => &["/auth_config/token_uri", "/auth_config/entries_uri"],
        other => {
            faults.push(Fault::rule("/id", format!("invalid secret manager: {other}")));
            return;
        }
    };
    let schema = compiled(&format!("secret_{manager}")).expect("the table has all three managers");
    faults.extend(schema.validate(body));
    for &path in addresses {
        address(body, path, faults);
    }
}

/// An address that could never be asked. What the schema has refused already is not refused twice.
fn address(body: &Value, path: &str, faults: &mut Vec<Fault>) {
    let Some(text) = body.pointer(path).and_then(Value::as_str).filter(|text| !is_reference(text)) else { return };
    if let Err(error) = check_server_url(text)
        && faults.iter().all(|fault| fault.path != path)
    {
        let within = |reason: String, name: &str| format!("property \"{name}\" validation failed: {reason}");
        let message = path.rsplit('/').filter(|name| !name.is_empty()).fold(error.to_string(), within);
        faults.push(Fault::configuration(path, message));
    }
}

#[cfg(test)]
mod tests;
