//! What a connection that lasts was opened under, and what leaves that as it is.

use super::{Config, mark, put};
use milecastle_model::Kind;
use serde_json::{Value, json};

/// Whether the terms of a route are others once the object is written.
fn changes(kind: Kind, id: &str, body: Value) -> bool {
    let mut config = Config::new();
    config.good(&[
        put(Kind::Service, "s", json!({ "plugins": mark("service") })),
        put(Kind::PluginConfig, "p", json!({ "plugins": { "pass": {} } })),
        put(Kind::Route, "1", json!({ "uri": "/a", "service_id": "s", "plugin_config_id": "p" })),
    ]);
    let terms = |config: &Config| config.now.route("1").unwrap().terms;
    let before = terms(&config);
    config.good(&[put(kind, id, body)]);
    before != terms(&config)
}

/// The route, with these members laid over it.
fn route(members: Value) -> Value {
    let mut body = json!({ "uri": "/a", "service_id": "s", "plugin_config_id": "p" });
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body
}

#[test]
fn conditions_and_plugins_in_force_are_terms() {
    for members in [
        json!({ "uri": "/b" }),
        json!({ "methods": ["GET"] }),
        json!({ "hosts": ["a.test"] }),
        json!({ "vars": [["arg_a", "==", "1"]] }),
        json!({ "remote_addr": "10.0.0.0/8" }),
        json!({ "status": 0 }),
        json!({ "enable_websocket": true }),
        json!({ "plugins": mark("own") }),
        json!({ "plugin_config_id": null }),
    ] {
        let mut body = route(members.clone());
        body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        assert!(changes(Kind::Route, "1", body), "{members}");
    }
    let switched_off = json!({ "text": "service", "_meta": { "disable": true } });
    assert!(changes(Kind::Service, "s", json!({ "plugins": { "mark": switched_off } })));
    assert!(changes(Kind::Service, "s", json!({ "plugins": mark("other") })));
    assert!(changes(Kind::Service, "s", json!({ "plugins": mark("service"), "hosts": ["a.test"] })));
    assert!(changes(Kind::PluginConfig, "p", json!({ "plugins": {} })));
}

#[test]
fn names_and_upstreams_are_none() {
    let upstream = json!({ "nodes": { "127.0.0.1:1": 1 } });
    for members in [
        json!({ "name": "n", "desc": "d", "labels": { "a": "b" } }),
        json!({ "upstream": upstream }),
        json!({ "upstream_id": "u" }),
        json!({ "timeout": { "connect": 1, "send": 1, "read": 1 } }),
        json!({ "priority": 7 }),
        // It stands there already, inherited.
        json!({ "plugins": mark("service") }),
    ] {
        assert!(!changes(Kind::Route, "1", route(members.clone())), "{members}");
    }
    let renamed = json!({ "plugins": mark("service"), "name": "n", "upstream": upstream });
    assert!(!changes(Kind::Service, "s", renamed));
}
