//! The attribute tables of `docs/spec/resources.md`, row by row where a row constrains.

use serde_json::{Value, json};

use super::{named_schema, schema_of};
use crate::Kind;
use crate::examples::{self, PAIR, upstream, with};
use crate::schema::Schema;

fn route() -> Value {
    json!({"uri": "/hello", "upstream_id": "1"})
}

fn ssl() -> Value {
    json!({"cert": PAIR.0, "key": PAIR.1, "sni": "a.test"})
}

/// Compares path and message of the first fault of the schema; `None` means valid.
fn check(kind: Kind, body: Value, expected: Option<(&str, &str)>) {
    let faults = schema_of(kind).validate(&body);
    let first = faults.first().map(|fault| (fault.path.as_str(), fault.message.as_str()));
    assert_eq!(first, expected, "{kind} {body}");
}

fn good(kind: Kind, body: Value) {
    check(kind, body, None);
}

/// One attribute of `base` that is refused; `inner` is the message after the attribute's own prefix.
fn bad(kind: Kind, base: &Value, name: &str, value: Value, inner: &str) {
    let message = format!("property \"{name}\" validation failed: {inner}");
    let faults = schema_of(kind).validate(&with(base, json!({name: value})));
    assert_eq!(
        faults.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>(),
        [message],
        "{kind} {name} {value}"
    );
    assert!(faults[0].path.starts_with(&format!("/{name}")), "{}", faults[0].path);
}

#[test]
fn every_example_is_valid() {
    for (kind, body) in examples::all() {
        good(kind, body);
    }
}

#[test]
fn every_schema_is_served_by_name() {
    for &kind in Kind::ALL {
        assert_eq!(named_schema(kind.name()), Some(schema_of(kind).source()));
    }
    for name in [
        "plugins",
        "id_schema",
        "host_def",
        "health_checker",
        "upstream_hash_vars_schema",
        "upstream_hash_header_schema",
        "upstream_hash_vars_combinations_schema",
    ] {
        Schema::compile(named_schema(name).unwrap()).unwrap();
    }
    assert_eq!(named_schema("routes"), None);
    let list = Schema::compile(named_schema("plugins").unwrap()).unwrap();
    assert!(list.is_valid(&json!([{"name": "cors"}, {"name": "syslog", "stream": true}])));
    assert!(!list.is_valid(&json!([{"stream": true}])));
}

#[test]
fn unknown_attributes_are_refused() {
    for (kind, body) in examples::all() {
        let open = matches!(kind, Kind::PluginMetadata | Kind::Secret);
        let expected = ("/validity_start", "additional properties forbidden, found validity_start");
        check(kind, with(&body, json!({"validity_start": 1})), (!open).then_some(expected));
    }
    let base = upstream();
    for (name, object) in [
        ("timeout", json!({"connect": 1, "send": 1, "read": 1, "x": 1})),
        ("keepalive_pool", json!({"x": 1})),
        ("tls", json!({"x": 1})),
    ] {
        bad(Kind::Upstream, &base, name, object, "additional properties forbidden, found x");
    }
    bad(Kind::Ssl, &ssl(), "client", json!({"ca": PAIR.0, "x": 1}), "additional properties forbidden, found x");
    bad(
        Kind::StreamRoute,
        &json!({}),
        "protocol",
        json!({"name": "n", "x": 1}),
        "additional properties forbidden, found x",
    );
    good(Kind::Upstream, with(&base, json!({"discovery_args": {"x": 1}, "checks": {"x": 1, "active": {"x": 1}}})));
}

#[test]
fn common_attributes() {
    for (id, reason) in [
        (json!(""), "string too short, expected at least 1, got 0"),
        (json!("a b"), "failed to match pattern \"^[a-zA-Z0-9-_.]+$\" with \"a b\""),
        (json!("x".repeat(65)), "string too long, expected at most 64, got 65"),
        (json!(0), "expected 0 to be at least 1"),
        (json!(1.5), "wrong type: expected string, got number; or wrong type: expected integer, got number"),
        (json!(null), "wrong type: expected string, got userdata; or wrong type: expected integer, got userdata"),
    ] {
        bad(Kind::Route, &route(), "id", id, &format!("object matches none of the required: {reason}"));
    }
    for id in [json!("x".repeat(64)), json!("a-b_c.D"), json!(1), json!(2.0)] {
        good(Kind::Route, with(&route(), json!({"id": id})));
    }
    bad(Kind::Route, &route(), "name", json!(""), "string too short, expected at least 1, got 0");
    bad(Kind::Route, &route(), "name", json!("x".repeat(257)), "string too long, expected at most 256, got 257");
    bad(Kind::Route, &route(), "desc", json!("ä".repeat(257)), "string too long, expected at most 256, got 257");
    bad(Kind::Route, &route(), "create_time", json!("1"), "wrong type: expected integer, got string");
    bad(Kind::Route, &route(), "update_time", json!(1.5), "wrong type: expected integer, got number");
    let label = |inner: &str| format!("failed to validate k (matching \".*\"): {inner}");
    bad(Kind::Route, &route(), "labels", json!({"k": 1}), &label("wrong type: expected string, got number"));
    let space = label("failed to match pattern \"^\\\\S+$\" with \"a b\"");
    bad(Kind::Route, &route(), "labels", json!({"k": "a b"}), &space);
    let long = label("string too long, expected at most 256, got 257");
    bad(Kind::Route, &route(), "labels", json!({"k": "x".repeat(257)}), &long);
    good(Kind::PluginConfig, json!({"id": 1, "plugins": {}, "name": "x".repeat(300)}));
    check(
        Kind::Consumer,
        json!({"username": "a", "name": "n"}),
        Some(("/name", "additional properties forbidden, found name")),
    );
    check(
        Kind::Ssl,
        with(&ssl(), json!({"name": "n"})),
        Some(("/name", "additional properties forbidden, found name")),
    );
    for name in ["name", "desc", "labels"] {
        let text = format!("additional properties forbidden, found {name}");
        let body = json!({"id": 1, "plugins": {}, name: {}});
        check(Kind::GlobalRule, body, Some((&format!("/{name}"), &text)));
    }
}

#[test]
fn route_attributes() {
    let base = route();
    bad(Kind::Route, &base, "uri", json!(123), "wrong type: expected string, got number");
    bad(Kind::Route, &base, "uri", json!("/".repeat(4097)), "string too long, expected at most 4096, got 4097");
    bad(Kind::Route, &base, "methods", json!(["GET", "GET"]), "expected unique items but items 1 and 2 are equal");
    bad(Kind::Route, &base, "methods", json!(["get"]), "failed to validate item 1: matches none of the enum values");
    good(Kind::Route, with(&base, json!({"methods": []})));
    let pattern = "failed to match pattern \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \"a b\"";
    bad(Kind::Route, &base, "host", json!("a b"), pattern);
    for host in ["*", "*.a.test", "a-b.test:80", "[::1]:80", "a_b"] {
        good(Kind::Route, with(&base, json!({"host": host})));
    }
    bad(Kind::Route, &base, "hosts", json!([]), "expect array to have at least 1 items");
    bad(Kind::Route, &base, "hosts", json!({}), "expect array to have at least 1 items");
    for address in ["256.0.0.1", "10.0.0.0/33", "::/129", "a.test", ""] {
        let forms = ["ipv4", "ipv4-cidr", "ipv6", "ipv6-cidr"];
        let reasons = forms.map(|form| format!("expect valid {form} format but got: {address}")).join("; or ");
        let inner = format!("object matches none of the required: {reasons}");
        bad(Kind::Route, &base, "remote_addr", json!(address), &inner);
    }
    bad(Kind::Route, &base, "priority", json!(1.5), "wrong type: expected integer, got number");
    bad(Kind::Route, &base, "vars", json!("x"), "wrong type: expected array, got string");
    bad(Kind::Route, &base, "status", json!(2), "matches none of the enum values");
    bad(Kind::Route, &base, "enable_websocket", json!(1), "wrong type: expected boolean, got number");
    bad(
        Kind::Route,
        &base,
        "filter_func",
        json!("func(vars)"),
        "failed to match pattern \"^function\" with \"func(vars)\"",
    );
    bad(Kind::Route, &base, "filter_func", json!("function"), "string too short, expected at least 10, got 8");
    bad(Kind::Route, &base, "script", json!("x"), "string too short, expected at least 10, got 1");
    bad(Kind::Route, &base, "plugins", json!("x"), "wrong type: expected object, got string");
    bad(Kind::Route, &base, "timeout", json!({"connect": 1, "send": 1}), "property \"read\" is required");
    bad(
        Kind::Route,
        &base,
        "timeout",
        json!({"connect": 0, "send": 1, "read": 0.001}),
        "property \"connect\" validation failed: expected 0 to be greater than 0",
    );
    good(Kind::Route, with(&base, json!({"plugins": []})));
}

#[test]
fn route_presence() {
    check(
        Kind::Route,
        json!({"upstream_id": 1}),
        Some((
            "",
            "allOf 1 failed: value should match only one schema, but matches none: property \"uri\" is required; or \
             property \"uris\" is required",
        )),
    );
    check(
        Kind::Route,
        json!({"uri": "/a", "uris": ["/b"], "upstream_id": 1}),
        Some((
            "",
            "allOf 1 failed: value should match only one schema, but matches both schemas 1 and 2: \
             [\"uri\"] and [\"uris\"] exclude each other",
        )),
    );
    let none = "object matches none of the required: [\"plugins\",\"uri\"] or [\"upstream\",\"uri\"] or \
                [\"upstream_id\",\"uri\"] or [\"service_id\",\"uri\"] or [\"script\",\"uri\"] or [\"plugins\",\"uris\"] or \
                [\"upstream\",\"uris\"] or [\"upstream_id\",\"uris\"] or [\"service_id\",\"uris\"] or [\"script\",\"uris\"]";
    check(Kind::Route, json!({"uri": "/a"}), Some(("", none)));
    for answer in [json!({"plugins": {}}), json!({"upstream": upstream()}), json!({"service_id": 1})] {
        good(Kind::Route, with(&json!({"uris": ["/a"]}), answer));
    }
    let script = json!({"uri": "/a", "script": "return true;"});
    good(Kind::Route, script.clone());
    for other in ["plugins", "plugin_config_id"] {
        let value = if other == "plugins" { json!({}) } else { json!(1) };
        check(Kind::Route, with(&script, json!({other: value})), Some(("", "value wasn't supposed to match schema")));
    }
    for (one, many) in [("host", "hosts"), ("remote_addr", "remote_addrs")] {
        let value = if one == "host" { "a.test" } else { "::1" };
        let n = if one == "host" { 2 } else { 3 };
        let text = format!("allOf {n} failed: value wasn't supposed to match schema");
        check(Kind::Route, with(&route(), json!({one: value, many: [value]})), Some(("", &text)));
    }
}

#[test]
fn upstream_attributes() {
    let base = upstream();
    let none = |other: &str| {
        let words = "value should match only one schema, but matches none";
        format!("{words}: property \"nodes\" is required; or property \"{other}\" is required")
    };
    check(Kind::Upstream, json!({}), Some(("", &none("service_name"))));
    check(Kind::Upstream, json!({"service_name": "s"}), Some(("", &none("discovery_type"))));
    check(
        Kind::Upstream,
        with(&base, json!({"service_name": "s", "discovery_type": "dns"})),
        Some((
            "",
            "value should match only one schema, but matches both schemas 1 and 2: \
             [\"nodes\"] and [\"service_name\",\"discovery_type\"] exclude each other",
        )),
    );
    let inline = format!("property \"upstream\" validation failed: {}", none("service_name"));
    check(Kind::Route, json!({"uri": "/a", "upstream": []}), Some(("/upstream", &inline)));
    for nodes in [json!({}), json!([]), json!({"::1": 0}), json!([{"host": "a:80", "weight": 1.0}])] {
        good(Kind::Upstream, json!({"nodes": nodes}));
    }
    let of = |name: &str, reason: &str| format!("property \"{name}\" validation failed: {reason}");
    let weight = |reason: &str| format!("failed to validate a (matching \".*\"): {reason}");
    let item = |reason: &str| format!("failed to validate item 1: {reason}");
    let host = "failed to match pattern \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \"a b\"";
    let types = "wrong type: expected object, got string; or wrong type: expected array, got string";
    for (nodes, reason) in [
        (json!({"a": -1}), weight("expected -1 to be at least 0")),
        (json!({"a": 1.5}), weight("wrong type: expected integer, got number")),
        (json!([{"host": "a"}]), item("property \"weight\" is required")),
        (json!([{"weight": 1}]), item("property \"host\" is required")),
        (json!([{"host": "a", "weight": 1, "port": 0}]), item(&of("port", "expected 0 to be at least 1"))),
        (json!([{"host": "a", "weight": 1, "port": 65536}]), item(&of("port", "expected 65536 to be at most 65535"))),
        (json!([{"host": "a", "weight": -1}]), item(&of("weight", "expected -1 to be at least 0"))),
        (
            json!([{"host": "a", "weight": 1, "priority": "x"}]),
            item(&of("priority", "wrong type: expected integer, got string")),
        ),
        (json!([{"host": "a b", "weight": 1}]), item(&of("host", host))),
        (json!("a"), types.to_owned()),
    ] {
        bad(Kind::Upstream, &base, "nodes", nodes, &format!("object matches none of the required: {reason}"));
    }
    good(Kind::Upstream, with(&base, json!({"type": "none"})));
    for name in ["hash_on", "pass_host", "scheme"] {
        bad(Kind::Upstream, &base, name, json!("x"), "matches none of the enum values");
    }
    bad(Kind::Upstream, &base, "retries", json!(-1), "expected -1 to be at least 0");
    bad(Kind::Upstream, &base, "retry_timeout", json!(-0.5), "expected -0.5 to be at least 0");
    let pool = |name: &str, value: f64, inner: &str| {
        let inner = format!("property \"{name}\" validation failed: {inner}");
        bad(Kind::Upstream, &base, "keepalive_pool", json!({name: value}), &inner);
    };
    pool("size", 0.0, "expected 0 to be at least 1");
    pool("requests", 0.0, "expected 0 to be at least 1");
    pool("idle_timeout", -1.0, "expected -1 to be at least 0");
    bad(Kind::Upstream, &base, "service_name", json!(""), "string too short, expected at least 1, got 0");
    bad(
        Kind::Upstream,
        &base,
        "discovery_args",
        json!({"namespace_id": 1}),
        "property \"namespace_id\" validation failed: wrong type: expected string, got number",
    );
}

#[test]
fn upstream_tls() {
    let (cert, key) = &*PAIR;
    let refused = |tls: Value, inner: &str| bad(Kind::Upstream, &upstream(), "tls", tls, inner);
    refused(json!({"client_cert": cert}), "property \"client_key\" is required when \"client_cert\" is set");
    refused(json!({"client_key": key}), "property \"client_cert\" is required when \"client_key\" is set");
    refused(
        json!({"client_cert": cert, "client_key": key, "client_cert_id": 1}),
        "failed to validate dependent schema for \"client_cert_id\": value wasn't supposed to match schema",
    );
    refused(
        json!({"client_cert": "c".repeat(127), "client_key": key}),
        "property \"client_cert\" validation failed: string too short, expected at least 128, got 127",
    );
    refused(
        json!({"client_cert": cert, "client_key": "k".repeat(63)}),
        "property \"client_key\" validation failed: string too short, expected at least 64, got 63",
    );
    good(Kind::Upstream, with(&upstream(), json!({"tls": {"client_cert_id": 1, "verify": true}})));
}

#[test]
fn health_checks() {
    let refused = |checks: Value, inner: &str| bad(Kind::Upstream, &upstream(), "checks", checks, inner);
    refused(json!({"passive": {}}), "property \"active\" is required");
    refused(json!([]), "property \"active\" is required");
    let part = |path: [&str; 3], value: Value, inner: &str| {
        let [mode, side, name] = path;
        let mut checks = json!({"active": {}});
        let mut text = format!("property \"{mode}\" validation failed: ");
        if side.is_empty() {
            checks[mode] = json!({name: value});
        } else {
            checks[mode] = json!({side: {name: value}});
            text += &format!("property \"{side}\" validation failed: ");
        }
        refused(checks, &format!("{text}property \"{name}\" validation failed: {inner}"));
    };
    part(["active", "", "type"], json!("grpc"), "matches none of the enum values");
    part(["active", "", "port"], json!(65_536), "expected 65536 to be at most 65535");
    part(["active", "", "http_method"], json!("FETCH"), "matches none of the enum values");
    part(["active", "", "req_headers"], json!([]), "expect array to have at least 1 items");
    for side in ["healthy", "unhealthy"] {
        part(["active", side, "interval"], json!(0), "expected 0 to be at least 1");
        for mode in ["active", "passive"] {
            let status = "failed to validate item 1: expected 199 to be at least 200";
            part([mode, side, "http_statuses"], json!([199]), status);
            let status = "failed to validate item 1: expected 600 to be at most 599";
            part([mode, side, "http_statuses"], json!([600]), status);
            part([mode, side, "http_statuses"], json!([]), "expect array to have at least 1 items");
        }
    }
    for name in ["http_failures", "tcp_failures", "timeouts"] {
        part(["active", "unhealthy", name], json!(0), "expected 0 to be at least 1");
        part(["active", "unhealthy", name], json!(255), "expected 255 to be at most 254");
        part(["passive", "unhealthy", name], json!(-1), "expected -1 to be at least 0");
        part(["passive", "unhealthy", name], json!(255), "expected 255 to be at most 254");
    }
    part(["active", "healthy", "successes"], json!(0), "expected 0 to be at least 1");
    part(["passive", "healthy", "successes"], json!(255), "expected 255 to be at most 254");
    part(["passive", "unhealthy", "fail_timeout"], json!(0), "expected 0 to be greater than 0");
}

#[test]
fn plugin_holders() {
    check(Kind::Consumer, json!({}), Some(("/username", "property \"username\" is required")));
    let name = "failed to match pattern \"^[a-zA-Z0-9_\\\\-]+$\" with \"a.b\"";
    bad(Kind::Consumer, &json!({}), "username", json!("a.b"), name);
    bad(
        Kind::Credential,
        &json!({}),
        "plugins",
        json!({"key-auth": {}, "basic-auth": {}}),
        "expect object to have at most 1 properties",
    );
    for kind in [Kind::GlobalRule, Kind::PluginConfig, Kind::ConsumerGroup] {
        check(kind, json!({"plugins": {}}), Some(("/id", "property \"id\" is required")));
        check(kind, json!({"id": 1}), Some(("/plugins", "property \"plugins\" is required")));
    }
}

#[test]
fn certificates() {
    let then = |body: Value, reason: &str| {
        let text = format!("then clause did not match: value should match only one schema, but matches {reason}");
        check(Kind::Ssl, body, Some(("", &text)));
    };
    let (cert, key) = &*PAIR;
    let none = "none: property \"sni\" is required; or property \"snis\" is required";
    then(json!({}), none);
    then(json!({"cert": cert, "key": key}), none);
    then(
        json!({"type": "server", "cert": cert, "sni": "a"}),
        "none: property \"key\" is required; or property \"snis\" is required",
    );
    then(
        with(&ssl(), json!({"snis": ["b"]})),
        "both schemas 1 and 2: [\"sni\",\"key\",\"cert\"] and [\"snis\",\"key\",\"cert\"] exclude each other",
    );
    let otherwise = Some(("", "else clause did not match: property \"key\" is required"));
    check(Kind::Ssl, json!({"type": "client", "cert": cert}), otherwise);
    good(Kind::Ssl, json!({"type": "client", "cert": cert, "key": key, "snis": ["a"]}));
    bad(Kind::Ssl, &ssl(), "cert", json!("x"), "string too short, expected at least 128, got 1");
    bad(Kind::Ssl, &ssl(), "key", json!("k".repeat(65_537)), "string too long, expected at most 65536, got 65537");
    good(Kind::Ssl, with(&ssl(), json!({"cert": "$secret://vault/1/c/c", "key": "$ENV://KEY"})));
    bad(Kind::Ssl, &ssl(), "type", json!("x"), "matches none of the enum values");
    bad(Kind::Ssl, &ssl(), "client", json!({}), "property \"ca\" is required");
    let client = |name: &str, value: Value, inner: &str| {
        let inner = format!("property \"{name}\" validation failed: {inner}");
        bad(Kind::Ssl, &ssl(), "client", with(&json!({"ca": cert}), json!({name: value})), &inner);
    };
    client("depth", json!(-1), "expected -1 to be at least 0");
    client("skip_mtls_uri_regex", json!([]), "expect array to have at least 1 items");
    client("skip_mtls_uri_regex", json!(["a", "a"]), "expected unique items but items 1 and 2 are equal");
    bad(
        Kind::Ssl,
        &ssl(),
        "ssl_protocols",
        json!(["SSLv3"]),
        "failed to validate item 1: matches none of the enum values",
    );
    bad(Kind::Ssl, &ssl(), "status", json!(true), "wrong type: expected integer, got boolean");
    bad(
        Kind::Ssl,
        &ssl(),
        "ocsp_stapling",
        json!({"cache_ttl": 59}),
        "property \"cache_ttl\" validation failed: expected 59 to be at least 60",
    );
}

#[test]
fn other_kinds() {
    good(Kind::StreamRoute, json!({}));
    bad(Kind::StreamRoute, &json!({}), "server_port", json!(0), "expected 0 to be at least 1");
    bad(Kind::StreamRoute, &json!({}), "protocol", json!({}), "property \"name\" is required");
    let logger = "property \"logger\" validation failed: failed to validate item 1: ";
    bad(
        Kind::StreamRoute,
        &json!({}),
        "protocol",
        json!({"name": "redis", "logger": [{"name": "syslog"}]}),
        &format!("{logger}property \"conf\" is required when \"name\" is set"),
    );
    check(Kind::Proto, json!({}), Some(("/content", "property \"content\" is required")));
    bad(Kind::Proto, &json!({}), "content", json!(""), "string too short, expected at least 1, got 0");
    check(Kind::GraphqlCostDecoration, json!({}), Some(("/field_path", "property \"field_path\" is required")));
    let base = json!({"field_path": "a.b"});
    bad(Kind::GraphqlCostDecoration, &base, "add_value", json!(-1), "expected -1 to be at least 0");
    for path in ["", ".", "a..b", "a.1b", "a b"] {
        assert!(!schema_of(Kind::GraphqlCostDecoration).is_valid(&json!({"field_path": path})), "{path}");
    }
}
