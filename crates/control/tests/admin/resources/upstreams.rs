//! §3: upstreams and their nodes.

use super::{EMPTY, NO_BOOLEAN, NO_HOST, NO_INTEGER, NO_TEXT, NO_WORD, NONE, Table, long, within};
use crate::gateway::{Gateway, on_sqlite};
use milecastle_testkit::tls::Authority;
use serde_json::{Value, json};

on_sqlite!(
    resources_3_upstreams,
    resources_3_keys_of_consistent_hashing,
    resources_3_certificates_for_upstreams,
    resources_3_1_nodes,
);

async fn resources_3_upstreams(gw: Gateway) {
    let base = json!({"nodes": {}});
    let mut table = Table::new(&gw, "3", ("upstream", "/upstreams/1"), &[], base).await;
    table.is_stored_as_sent().await;
    let kinds = ["roundrobin", "ewma", "least_conn", "none", "any"].map(Value::from);
    table.row("type", &kinds, &[(json!(1), NO_TEXT)]).await;
    let both = "wrong type: expected object, got string; or wrong type: expected array, got string";
    let refused = [(json!("a"), format!("object matches none of the required: {both}"))];
    table.row("nodes", &[json!({}), json!([])], &refused).await;
    let refused = [(json!(""), EMPTY), (json!(long(257)), "string too long, expected at most 256, got 257")];
    let named = json!({"discovery_type": "dns"});
    table.row_of(named, "service_name", &[json!("a"), json!(long(256))], &refused).await;
    let registries = ["dns", "consul", "consul_kv", "nacos", "eureka", "kubernetes", "tars"].map(Value::from);
    table.row_of(json!({"service_name": "a"}), "discovery_type", &registries, &[(json!(1), NO_TEXT)]).await;
    let arguments = [json!({}), json!({"namespace_id": "n", "group_name": "g", "metadata": {"a": "b"}})];
    let refused = [
        (json!({"namespace_id": 1}), within("namespace_id", NO_TEXT)),
        (json!({"group_name": 1}), within("group_name", NO_TEXT)),
    ];
    table.row("discovery_args", &arguments, &refused).await;
    let words = ["vars", "header", "cookie", "consumer", "vars_combinations"].map(Value::from);
    table.row("hash_on", &words, &[(json!("x"), NO_WORD)]).await;
    table.row("key", &[json!("anything, where nothing is hashed")], &[(json!(1), NO_TEXT)]).await;
    let active = r#"property "active" is required"#;
    let refused = [(json!({}), active), (json!({"passive": {}}), active)];
    table.row("checks", &[json!({"active": {}}), json!({"active": {}, "passive": {}})], &refused).await;
    table.row("retries", &[json!(0), json!(100)], &[(json!(-1), "expected -1 to be at least 0")]).await;
    table.row("retry_timeout", &[json!(0), json!(0.5)], &[(json!(-0.5), "expected -0.5 to be at least 0")]).await;
    let refused = [(json!({"connect": 1, "send": 1}), r#"property "read" is required"#)];
    table.row("timeout", &[json!({"connect": 0.5, "send": 1, "read": 1})], &refused).await;
    let rewritten = json!({"nodes": {}, "upstream_host": "a.test"});
    let modes = ["pass", "node", "rewrite"].map(Value::from);
    table.row_of(rewritten, "pass_host", &modes, &[(json!("x"), NO_WORD)]).await;
    let empty = "`upstream_host` can't be empty when `pass_host` is `rewrite`";
    gw.refused(r#"PUT /upstreams/1 {"nodes":{},"pass_host":"rewrite"}"#, 400, empty).await;
    table.row("upstream_host", &[json!("a.test"), json!("a.test:80")], &[(json!("a b"), NO_HOST)]).await;
    let schemes = ["http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "kafka"].map(Value::from);
    table.row("scheme", &schemes, &[(json!("ws"), NO_WORD)]).await;
    let refused = [
        (json!({"size": 0}), within("size", "expected 0 to be at least 1")),
        (json!({"idle_timeout": -1}), within("idle_timeout", "expected -1 to be at least 0")),
        (json!({"requests": 0}), within("requests", "expected 0 to be at least 1")),
        (json!({"more": 1}), "additional properties forbidden, found more".to_owned()),
    ];
    table.row("keepalive_pool", &[json!({}), json!({"size": 1, "idle_timeout": 0, "requests": 1})], &refused).await;
    table
        .row("tls", &[json!({}), json!({"verify": true})], &[(json!({"verify": 1}), within("verify", NO_BOOLEAN))])
        .await;
    for (name, default) in [
        ("type", json!("roundrobin")),
        ("hash_on", json!("vars")),
        ("pass_host", json!("pass")),
        ("scheme", json!("http")),
        ("keepalive_pool.size", json!(320)),
        ("keepalive_pool.idle_timeout", json!(60)),
        ("keepalive_pool.requests", json!(1000)),
        ("tls.verify", json!(false)),
    ] {
        table.default(name, default);
    }
    table.is_whole();
    let one = "invalid configuration: value should match only one schema, but matches";
    for (body, reason) in [
        ("{}", r#"none: property "nodes" is required; or property "service_name" is required"#),
        (r#"{"service_name":"s"}"#, r#"none: property "nodes" is required; or property "discovery_type" is required"#),
        (
            r#"{"nodes":{},"service_name":"s","discovery_type":"dns"}"#,
            r#"both schemas 1 and 2: ["nodes"] and ["service_name","discovery_type"] exclude each other"#,
        ),
    ] {
        gw.refused(&format!("PUT /upstreams/1 {body}"), 400, &format!("{one} {reason}")).await;
    }
}

async fn resources_3_keys_of_consistent_hashing(gw: Gateway) {
    let line = |hash_on: &str, key: &str| {
        format!("PUT /upstreams/1 {}", json!({"nodes": {}, "type": "chash", "hash_on": hash_on, "key": key}))
    };
    let variables = [
        "uri",
        "server_name",
        "server_addr",
        "request_uri",
        "remote_port",
        "remote_addr",
        "query_string",
        "host",
        "hostname",
        "mqtt_client_id",
        "arg_a-b_9",
    ];
    for (hash_on, taken, refused) in [
        ("vars", &variables[..], &["", "uris", "arg_", "http_x", "$uri"][..]),
        ("header", &["X-User_1"][..], &["", "a b", "a.b"][..]),
        ("cookie", &["sid"][..], &["", "a=b"][..]),
        ("vars_combinations", &["$uri", "${host}-$remote_addr"][..], &["", "uri", "$"][..]),
        ("consumer", &["", "whatever"][..], &[][..]),
    ] {
        for key in taken {
            gw.done(&line(hash_on, key)).await;
        }
        for key in refused {
            let answer = gw.send(&line(hash_on, key)).await;
            let said = answer.text();
            assert_eq!(answer.status, 400, "{hash_on} {key}");
            assert!(said.starts_with(r#"{"error_msg":"invalid configuration: failed to match pattern "#), "{said}");
        }
    }
    for hash_on in ["vars", "header", "cookie", "vars_combinations"] {
        let body = json!({"nodes": {}, "type": "chash", "hash_on": hash_on});
        gw.refused(&format!("PUT /upstreams/1 {body}"), 400, "missing key").await;
    }
    gw.done(r#"PUT /upstreams/1 {"nodes":{},"type":"chash","hash_on":"consumer"}"#).await;
}

async fn resources_3_certificates_for_upstreams(gw: Gateway) {
    let identity = Authority::new("tests").issue(&["a.test"]);
    let (cert, key) = (&identity.cert, &identity.key);
    gw.done(&format!("PUT /ssls/c {}", json!({"type": "client", "cert": cert, "key": key}))).await;
    let mut table = Table::new(&gw, "3", ("upstream", "/upstreams/1"), &[], json!({"nodes": {}})).await;
    let excluded = r#"failed to validate dependent schema for "client_cert_id": value wasn't supposed to match schema"#;
    let refused = [
        (json!({"client_cert": cert}), r#"property "client_key" is required when "client_cert" is set"#.to_owned()),
        (json!({"client_key": key}), r#"property "client_cert" is required when "client_key" is set"#.to_owned()),
        (json!({"client_cert": cert, "client_key": key, "client_cert_id": "c"}), excluded.to_owned()),
        (
            json!({"client_cert": long(127), "client_key": key}),
            within("client_cert", "string too short, expected at least 128, got 127"),
        ),
        (
            json!({"client_cert": cert, "client_key": long(63)}),
            within("client_key", "string too short, expected at least 64, got 63"),
        ),
    ];
    table.row("tls", &[json!({"client_cert_id": "c"})], &refused).await;
    let pair = json!({"nodes": {}, "tls": {"client_cert": cert, "client_key": key}});
    assert_eq!(gw.done(&format!("PUT /upstreams/1 {pair}")).await["tls"]["client_cert"], json!(cert));
}

async fn resources_3_1_nodes(gw: Gateway) {
    let mut table = Table::new(&gw, "3.1", ("upstream", "/upstreams/1"), &[], json!({"nodes": {}})).await;
    let none = |reason: &str| format!("object matches none of the required: {reason}");
    let weight = |reason: &str| none(&format!(r#"failed to validate a (matching ".*"): {reason}"#));
    let maps = [json!({"a.test": 0, "a.test:1": 1, "127.0.0.1:65535": 2, "[::1]:80": 3, "[::2]": 4})];
    let refused = [(json!({"a": -1}), weight("expected -1 to be at least 0")), (json!({"a": "1"}), weight(NO_INTEGER))];
    table.row("nodes", &maps, &refused).await;
    for port in ["0", "65536"] {
        let line = format!(r#"PUT /upstreams/1 {{"nodes":{{"a:{port}":1}}}}"#);
        gw.refused(&line, 400, &format!("invalid port {port}")).await;
    }

    let item = |reason: &str| none(&format!("failed to validate item 1: {reason}"));
    let lacking = [
        (json!([{"weight": 1}]), item(r#"property "host" is required"#)),
        (json!([{"host": "a"}]), item(r#"property "weight" is required"#)),
    ];
    table.row("nodes", &[json!([{"host": "a", "weight": 0, "more": 1}])], &lacking).await;
    let port = [(json!(0), "expected 0 to be at least 1"), (json!(65_536), "expected 65536 to be at most 65535")];
    for (name, taken, refused) in [
        ("host", &[json!("a.test"), json!("[::1]")][..], &[(json!("a b"), NO_HOST)][..]),
        ("port", &[json!(1), json!(65_535)][..], &port[..]),
        ("weight", &[json!(0), json!(100)][..], &[(json!(-1), "expected -1 to be at least 0")][..]),
        ("priority", &[json!(-1), json!(0), json!(1)][..], &[(json!("1"), NO_INTEGER)][..]),
        ("metadata", &[json!({"a": [1]})][..], &[(json!(1), "wrong type: expected object, got number")][..]),
    ] {
        let list = |value: &Value| {
            let mut node = json!({"host": "a.test", "weight": 1});
            node[name] = value.clone();
            json!([node])
        };
        let taken: Vec<Value> = taken.iter().map(list).collect();
        let refused: Vec<_> =
            refused.iter().map(|(value, reason)| (list(value), item(&within(name, reason)))).collect();
        table.row("nodes", &taken, &refused).await;
        table.tried.insert(name);
    }
    let priority = "/properties/nodes/anyOf/1/items/properties/priority/default";
    assert_eq!(table.schema.pointer(priority), Some(&json!(0)));
    table.row("nodes", &[json!([])], NONE).await;
    table.is_whole();
    let bare = r#"PUT /upstreams/1 {"nodes":[{"host":"::1","port":80,"weight":1}]}"#;
    gw.refused(bare, 400, "invalid configuration: IPv6 address must be enclosed with '[' and ']'").await;
}
