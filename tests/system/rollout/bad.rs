//! Changes that nobody should make.

use super::site::JUDGED;
use milecastle_testkit::nowhere;
use serde_json::{Value, json};

/// Each letter can be taken in four ways, and the end never comes: four to the power of the path's length steps back, of which a
/// match may take a hundred thousand, for each request (`docs/hardening.md`).
const BOMB: &str = r"^(?:(.)|(.)|(.)|(.))+\1\2\3\4!$";

/// A bad change: a call of the Admin API, or of `/api`.
pub(super) struct Bad {
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// Whatever is asked for is answered, only late.
    pub(super) is_slow: bool,
}

/// The route that all clients use, with these members besides.
pub(super) fn route(more: &Value) -> Value {
    with_members(json!({ "uri": "/api/*", "upstream_id": "1", "plugins": { "request-id": {} } }), more)
}

/// The same route with an upstream of its own.
fn of_its_own(node: &str) -> Value {
    let mut route = route(&json!({ "upstream": upstream(node, &json!({})) }));
    route.as_object_mut().unwrap().remove("upstream_id");
    route
}

/// Its upstream.
pub(super) fn upstream(node: &str, more: &Value) -> Value {
    with_members(json!({ "nodes": { node: 1 } }), more)
}

/// An object with these members too, or in place of its own; of `plugins` each by itself.
fn with_members(mut object: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        object[name] = match (name.as_str(), object.get(name)) {
            ("plugins", Some(own)) => with_members(own.clone(), value),
            _ => value.clone(),
        };
    }
    object
}

/// The upstream of all clients with a node that answers nothing; it is no longer waited for than this, in seconds.
pub(super) fn hangs(node: &str, read: u64) -> Bad {
    let more = json!({ "timeout": { "connect": read, "send": read, "read": read } });
    put("upstream hangs", "/upstreams/1", upstream(node, &more))
}

fn put(name: &'static str, path: &str, body: Value) -> Bad {
    Bad { name, method: "PUT", path: format!("/apisix/admin{path}"), body: Some(body), is_slow: false }
}

impl Bad {
    /// Requests by which the canary is judged: of those that take seconds few say enough.
    pub(super) fn judged(&self) -> u64 {
        if self.is_slow { 3 } else { JUDGED }
    }

    /// All of them; `node` is the upstream that lives.
    pub(super) fn all(node: &str) -> Vec<Self> {
        let of_route = |name, more: Value| put(name, "/routes/1", route(&more));
        let of_upstream = |name, node: &str, more: Value| put(name, "/upstreams/1", upstream(node, &more));
        let with = |name, plugin: &str, config: Value| of_route(name, json!({ "plugins": { plugin: config } }));
        let rewritten = |name, uri: &str| with(name, "proxy-rewrite", json!({ "uri": uri }));
        vec![
            of_upstream("dead upstream", &nowhere().to_string(), json!({})),
            with("key-auth", "key-auth", json!({})),
            Bad {
                name: "plugin switched off",
                method: "PUT",
                path: "/api/gateway_groups/default/settings?force=true".to_owned(),
                body: Some(json!({ "plugins": ["key-auth"] })),
                is_slow: false,
            },
            of_upstream("timeout of 1 ms", node, json!({ "timeout": { "connect": 1, "send": 1, "read": 0.001 } })),
            with("nobody's address", "ip-restriction", json!({ "whitelist": ["192.0.2.1"] })),
            with("status 500", "response-rewrite", json!({ "status_code": 500 })),
            of_upstream("TLS with an upstream that speaks none", node, json!({ "scheme": "https" })),
            of_upstream("HTTP/2 with an upstream that speaks none", node, json!({ "scheme": "grpc" })),
            Bad { method: "DELETE", body: None, ..put("route gone", "/routes/1", Value::Null) },
            of_route("another path", json!({ "uri": "/elsewhere/*" })),
            of_route("another host", json!({ "hosts": ["elsewhere.example"] })),
            of_route("another method", json!({ "methods": ["POST"] })),
            of_route("switched off", json!({ "status": 0 })),
            with("regex bomb", "proxy-rewrite", json!({ "regex_uri": [BOMB, "/x"] })),
            Bad { is_slow: true, ..rewritten("slow", "/delay/2000") },
            rewritten("upstream answers 500", "/status/500"),
            rewritten("upstream answers 404", "/status/404"),
            with(
                "limit of one request",
                "limit-count",
                json!({ "count": 1, "time_window": 3600, "rejected_code": 503 }),
            ),
            with(
                "limit of one request, 429",
                "limit-count",
                json!({ "count": 1, "time_window": 3600, "rejected_code": 429 }),
            ),
            put("upstream of its own, dead", "/routes/1", of_its_own(&nowhere().to_string())),
            of_upstream("no upstream node", node, json!({ "nodes": [] })),
            put("global key-auth", "/global_rules/1", json!({ "plugins": { "key-auth": {} } })),
        ]
    }
}
