//! Objects in the words of API7 and in those of the Admin API (`docs/spec/clients.md` §3).

use milecastle_model::Kind;
use serde_json::{Map, Value};

/// The label by which an upstream belongs to a service, as `adc` has it (`docs/spec/clients.md` §1).
pub(super) const OWNER: &str = "__ADC_UPSTREAM_SERVICE_ID";

/// The label that says what a service serves, where its upstream does not: `http` or `stream`.
const SERVES: &str = "__API7_SERVICE_TYPE";

/// Attributes that have another name: the kind, the name in API7, the name in the Admin API.
const RENAMED: [(Kind, &str, &str); 4] = [
    (Kind::Route, "route_id", "id"),
    (Kind::Route, "paths", "uris"),
    (Kind::StreamRoute, "stream_route_id", "id"),
    (Kind::Service, "service_id", "id"),
];

/// Attributes that API7 adds by itself, or that say nothing here.
const DERIVED: [(Kind, &str); 3] =
    [(Kind::Service, "version"), (Kind::Service, "service_version_id"), (Kind::Service, "strip_path_prefix")];

/// Schemes of upstreams whose services have stream routes.
const STREAM_SCHEMES: [&str; 3] = ["tcp", "tls", "udp"];

/// Puts an object of API7 into the words of the Admin API.
///
/// # Errors
/// Why there are no words for it.
pub(super) fn to_admin(kind: Kind, body: &mut Map<String, Value>) -> Result<(), String> {
    for (_, theirs, ours) in RENAMED.iter().filter(|(of, ..)| *of == kind) {
        if let Some(value) = body.shift_remove(*theirs) {
            body.insert((*ours).to_owned(), value);
        }
    }
    for (_, name) in DERIVED.iter().filter(|(of, _)| *of == kind) {
        body.shift_remove(*name);
    }
    if kind == Kind::Service {
        let prefix = body.shift_remove("path_prefix");
        if prefix.is_some_and(|prefix| !prefix.is_null() && prefix != "/" && prefix != "") {
            return Err("path_prefix is not supported: write it into the paths of the routes".to_owned());
        }
        if let Some(serves) = body.shift_remove("type").filter(|serves| !serves.is_null()) {
            let serves = serves.as_str().filter(|serves| ["http", "stream"].contains(serves));
            let Some(serves) = serves else { return Err("type: expected http or stream".to_owned()) };
            if serves != served_by_scheme(body) {
                give_label(body, SERVES, serves);
            }
        }
    }
    Ok(())
}

/// Puts an object of the Admin API into the words of API7. Its `id` stays beside the name that it has there.
pub(super) fn to_api7(kind: Kind, body: &mut Map<String, Value>) {
    if kind == Kind::Route {
        let uri = body.shift_remove("uri");
        body.extend(uri.map(|uri| ("uris".to_owned(), Value::Array(vec![uri]))));
    }
    for (_, theirs, ours) in RENAMED.iter().filter(|(of, ..)| *of == kind) {
        let value = if *ours == "id" { body.get("id").cloned() } else { body.shift_remove(*ours) };
        body.extend(value.map(|value| ((*theirs).to_owned(), value)));
    }
    match kind {
        Kind::Service => {
            let serves = take_label(body, SERVES).unwrap_or_else(|| served_by_scheme(body).into());
            body.insert("type".to_owned(), serves);
        }
        Kind::Upstream => drop(take_label(body, OWNER)),
        _ => {}
    }
}

/// What a service serves, as far as its upstream says.
fn served_by_scheme(service: &Map<String, Value>) -> &'static str {
    let scheme = service.get("upstream").and_then(|upstream| upstream["scheme"].as_str()).unwrap_or_default();
    if STREAM_SCHEMES.contains(&scheme) { "stream" } else { "http" }
}

/// Gives a service in the words of API7 its version: the revision of the group that has changed it last.
pub(super) fn give_version(service: &mut Map<String, Value>, revision: u64) {
    let version = service.get("id").and_then(Value::as_str).map(|id| format!("{id}.{revision}"));
    service.insert("version".to_owned(), revision.to_string().into());
    service.insert("service_version_id".to_owned(), version.into());
}

/// The service that an upstream belongs to.
pub(super) fn owner(upstream: &Map<String, Value>) -> Option<&str> {
    upstream.get("labels")?.get(OWNER)?.as_str()
}

/// Makes an upstream belong to a service.
pub(super) fn give_owner(upstream: &mut Map<String, Value>, service: &str) {
    give_label(upstream, OWNER, service);
}

/// Adds a label. Labels that are none are left to be refused.
fn give_label(body: &mut Map<String, Value>, name: &str, value: &str) {
    let labels = body.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(labels) = labels {
        labels.insert(name.to_owned(), value.into());
    }
}

/// Takes a label of ours away, and with it what was there for it alone.
fn take_label(body: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let labels = body.get_mut("labels")?.as_object_mut()?;
    let value = labels.shift_remove(name)?;
    if labels.is_empty() {
        body.shift_remove("labels");
    }
    Some(value)
}

/// A global rule without an id is known by the plugin that it is about.
pub(super) fn name_global_rule(kind: Kind, body: &mut Map<String, Value>) {
    if kind != Kind::GlobalRule || body.contains_key("id") {
        return;
    }
    let plugin = body.get("plugins").and_then(Value::as_object).and_then(|plugins| plugins.keys().next().cloned());
    body.extend(plugin.map(|plugin| ("id".to_owned(), plugin.into())));
}

/// The label that an argument `labels[name]` asks for.
pub(super) fn label(argument: &str) -> Option<&str> {
    argument.strip_prefix("labels[")?.strip_suffix(']')
}

/// Whether an object has all of these labels.
pub(super) fn has_labels(body: &Map<String, Value>, wanted: &[(&str, &str)]) -> bool {
    let labels = body.get("labels").unwrap_or(&Value::Null);
    wanted.iter().all(|(name, value)| labels[*name] == *value)
}

/// Takes the defaults out of a schema: nothing is added to what is written, so nothing must be added before it is compared.
pub(super) fn take_defaults(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            // An attribute of that name has a schema; a default of the form of one is no concern of anybody.
            members.retain(|name, member| name != "default" || member.get("type").is_some());
            members.values_mut().for_each(take_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(take_defaults),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn objects_in_both_words() {
        let check = |kind, theirs: Value, ours: Value, shown: Value| {
            let mut body = object(theirs);
            to_admin(kind, &mut body).unwrap();
            assert_eq!(Value::Object(body.clone()), ours);
            to_api7(kind, &mut body);
            assert_eq!(Value::Object(body), shown);
        };
        check(
            Kind::Route,
            json!({"route_id": "r", "paths": ["/a"], "service_id": "s"}),
            json!({"id": "r", "uris": ["/a"], "service_id": "s"}),
            json!({"id": "r", "route_id": "r", "paths": ["/a"], "service_id": "s"}),
        );
        check(
            Kind::Service,
            json!({"service_id": "s", "type": "stream", "strip_path_prefix": true, "path_prefix": "/", "upstream": {"scheme": "tcp"}}),
            json!({"id": "s", "upstream": {"scheme": "tcp"}}),
            json!({"id": "s", "service_id": "s", "type": "stream", "upstream": {"scheme": "tcp"}}),
        );
        // What its upstream does not say, a label does.
        for (upstream, serves) in
            [(json!({"nodes": {}}), "stream"), (json!({"scheme": "tls"}), "http"), (Value::Null, "stream")]
        {
            check(
                Kind::Service,
                json!({"id": "s", "type": serves, "upstream": upstream}),
                json!({"id": "s", "upstream": upstream, "labels": {SERVES: serves}}),
                json!({"id": "s", "upstream": upstream, "service_id": "s", "type": serves}),
            );
        }
        assert!(to_admin(Kind::Service, &mut object(json!({"type": "tcp"}))).is_err());
        check(
            Kind::StreamRoute,
            json!({"stream_route_id": "r", "server_port": 1}),
            json!({"id": "r", "server_port": 1}),
            json!({"id": "r", "stream_route_id": "r", "server_port": 1}),
        );
        let mut one = object(json!({"uri": "/a"}));
        to_api7(Kind::Route, &mut one);
        assert_eq!(one["paths"], json!(["/a"]));
        assert!(to_admin(Kind::Service, &mut object(json!({"path_prefix": "/v1"}))).is_err());
    }

    #[test]
    fn upstreams_belong_to_services_by_a_label_that_nobody_sees() {
        let mut upstream = object(json!({"nodes": {}}));
        give_owner(&mut upstream, "s");
        assert_eq!(owner(&upstream), Some("s"));
        to_api7(Kind::Upstream, &mut upstream);
        assert_eq!(Value::Object(upstream), json!({"nodes": {}}));
        let mut labelled = object(json!({"labels": {"a": "b"}}));
        give_owner(&mut labelled, "s");
        assert!(has_labels(&labelled, &[("a", "b")]) && !has_labels(&labelled, &[("a", "c")]));
        to_api7(Kind::Upstream, &mut labelled);
        assert_eq!(Value::Object(labelled), json!({"labels": {"a": "b"}}));
        assert_eq!((label("labels[a]"), label("labels")), (Some("a"), None));
    }

    #[test]
    fn defaults_are_taken_out_of_schemas() {
        let mut schema = json!({"properties": {"a": {"type": "integer", "default": 1}, "default": {"type": "string"}}});
        take_defaults(&mut schema);
        assert_eq!(schema, json!({"properties": {"a": {"type": "integer"}, "default": {"type": "string"}}}));
    }
}
