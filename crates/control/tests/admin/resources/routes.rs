//! §1, §2, §10, §12: what requests and sessions are matched against.

use super::{
    EMPTY, NO_BOOLEAN, NO_HOST, NO_INTEGER, NO_ITEMS, NO_OBJECT, NO_TEXT, NO_WORD, NONE, NOT_UNIQUE, Table, long,
    no_ids, no_ip, within,
};
use crate::gateway::{Gateway, on_sqlite};
use serde_json::{Value, json};

on_sqlite!(
    resources_1_routes,
    resources_1_what_a_route_must_have,
    resources_2_services,
    resources_10_stream_routes,
    resources_12_graphql_cost_decorations,
);

const NO_FUNCTION: &str =
    "failed to load 'filter_func' string: Lua functions are not supported by this version; use vars";
const NO_SCRIPT: &str = "failed to load 'script' string: Lua scripts are not supported by this version; use plugins";

/// What the tables refer to.
async fn referred_to(gw: &Gateway) {
    for line in [r#"PUT /upstreams/u {"nodes":{}}"#, "PUT /services/s {}", r#"PUT /plugin_configs/c {"plugins":{}}"#] {
        gw.done(line).await;
    }
}

/// `upstream`, `upstream_id` and `plugins`, which mean the same in each kind.
async fn upstream_and_plugins(table: &mut Table<'_>) {
    let inline = [json!({"nodes": {}}), json!({"service_name": "s", "discovery_type": "dns"})];
    table.row("upstream", &inline, &[(json!("u"), NO_OBJECT)]).await;
    table.row("upstream_id", &[json!("u")], &no_ids()).await;
    table.row("plugins", &[json!({})], &[(json!("x"), NO_OBJECT)]).await;
}

/// `script` of a body that has nothing which it excludes.
async fn script(gw: &Gateway, table: &mut Table<'_>, base: Value) {
    let refused = [
        (json!(long(9)), "string too short, expected at least 10, got 9"),
        (json!(long(102_401)), "string too long, expected at most 102400, got 102401"),
    ];
    table.row_of(base.clone(), "script", &[], &refused).await;
    // Of a right length it is refused because there is no Lua.
    for length in [10, 102_400] {
        let mut body = base.clone();
        body["script"] = long(length).into();
        gw.refused(&format!("PUT {} {body}", table.path), 400, NO_SCRIPT).await;
    }
}

async fn resources_1_routes(gw: Gateway) {
    referred_to(&gw).await;
    let base = json!({"uri": "/a", "plugins": {}});
    let mut table = Table::new(&gw, "1", ("route", "/routes/1"), &[], base).await;
    table.is_stored_as_sent().await;
    let too_long = "string too long, expected at most 4096, got 4097";
    let longest = format!("/{}", long(4095));
    let refused = [(json!(""), EMPTY), (json!(format!("{longest}x")), too_long), (json!(1), NO_TEXT)];
    table.row("uri", &[json!("/"), json!(longest)], &refused).await;
    let refused = [(json!([]), NO_ITEMS), (json!(["/a", "/a"]), NOT_UNIQUE)];
    table.row_of(json!({"plugins": {}}), "uris", &[json!(["/a"]), json!(["/a", "/b*"])], &refused).await;
    let hosts = ["*", "*.a.test", "*a", "a-b.test:80", "[::1]:80", "a_b"].map(Value::from);
    table.row("host", &hosts, &[(json!("a b"), NO_HOST)]).await;
    let refused = [(json!([]), NO_ITEMS), (json!(["a", "a"]), NOT_UNIQUE)];
    table.row("hosts", &[json!(["a"]), json!(["a", "*.b"])], &refused).await;
    let methods = json!(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"]);
    let unknown = format!("failed to validate item 1: {NO_WORD}");
    let refused = [(json!(["get"]), unknown), (json!(["GET", "GET"]), NOT_UNIQUE.to_owned())];
    table.row("methods", &[json!([]), methods], &refused).await;
    let addresses = ["10.0.0.1", "0.0.0.0/0", "10.0.0.1/32", "::1", "::/0", "::1/128"].map(Value::from);
    let refused = ["256.0.0.1", "10.0.0.0/33", "::/129", "a.test", ""].map(|text| (json!(text), no_ip(text)));
    table.row("remote_addr", &addresses, &refused).await;
    let refused = [(json!([]), NO_ITEMS), (json!(["::1", "::1"]), NOT_UNIQUE)];
    table.row("remote_addrs", &[json!(["::1"]), json!(["::1", "10.0.0.0/8"])], &refused).await;
    table.row("priority", &[json!(-1), json!(0), json!(1)], &[(json!("1"), NO_INTEGER)]).await;
    let refused = [(json!("x"), "wrong type: expected array, got string")];
    table.row("vars", &[json!([]), json!([["arg_a", "==", "1"]])], &refused).await;
    let refused = [
        (json!("function"), "string too short, expected at least 10, got 8"),
        (json!("func(vars)"), r#"failed to match pattern "^function" with "func(vars)""#),
    ];
    table.row("filter_func", &[], &refused).await;
    let function = r#"PUT /routes/1 {"uri":"/a","plugins":{},"filter_func":"function(vars) return true end"}"#;
    gw.refused(function, 400, NO_FUNCTION).await;
    script(&gw, &mut table, json!({"uri": "/a"})).await;
    table.row("script_id", &[json!(1)], &no_ids()).await;
    upstream_and_plugins(&mut table).await;
    table.row("plugin_config_id", &[json!("c")], &no_ids()).await;
    table.row("service_id", &[json!("s")], &no_ids()).await;
    let timeout = |connect: f64| json!({"connect": connect, "send": 1, "read": 1});
    let refused = [
        (json!({"connect": 1, "send": 1}), r#"property "read" is required"#.to_owned()),
        (json!({"connect": 1, "read": 1}), r#"property "send" is required"#.to_owned()),
        (json!({"send": 1, "read": 1}), r#"property "connect" is required"#.to_owned()),
        (json!({"connect": 0, "send": 1, "read": 1}), within("connect", "expected 0 to be greater than 0")),
    ];
    table.row("timeout", &[timeout(0.001), timeout(60.5)], &refused).await;
    table.row("enable_websocket", &[json!(false), json!(true)], &[(json!(1), NO_BOOLEAN)]).await;
    table.row("status", &[json!(0), json!(1)], &[(json!(2), NO_WORD), (json!(-1), NO_WORD)]).await;
    table.default("priority", json!(0));
    table.default("status", json!(1));
    table.is_whole();
}

async fn resources_1_what_a_route_must_have(gw: Gateway) {
    referred_to(&gw).await;
    for answer in [
        json!({"plugins": {}}),
        json!({"upstream": {"nodes": {}}}),
        json!({"upstream_id": "u"}),
        json!({"service_id": "s"}),
    ] {
        for (name, paths) in [("uri", json!("/a")), ("uris", json!(["/a"]))] {
            let mut body = answer.clone();
            body[name] = paths;
            gw.done(&format!("PUT /routes/1 {body}")).await;
        }
    }
    let one = "allOf 1 failed: value should match only one schema, but matches";
    let neither = format!(r#"{one} none: property "uri" is required; or property "uris" is required"#);
    let both = format!(r#"{one} both schemas 1 and 2: ["uri"] and ["uris"] exclude each other"#);
    let none = ["uri", "uris"].map(|path| {
        let answers = ["plugins", "upstream", "upstream_id", "service_id", "script"];
        answers.map(|answer| format!(r#"["{answer}","{path}"]"#)).join(" or ")
    });
    let none = format!("object matches none of the required: {}", none.join(" or "));
    let excluded = "value wasn't supposed to match schema";
    for (body, reason) in [
        (json!({"uri": "/a"}), &*none),
        (json!({"uri": "/a", "plugin_config_id": "c"}), &*none),
        (json!({"plugins": {}}), &*neither),
        (json!({"uri": "/a", "uris": ["/b"], "plugins": {}}), &*both),
        (json!({"uri": "/a", "script": "return true", "plugins": {}}), excluded),
        (json!({"uri": "/a", "script": "return true", "plugin_config_id": "c"}), excluded),
    ] {
        gw.refused(&format!("PUT /routes/2 {body}"), 400, &format!("invalid configuration: {reason}")).await;
    }
}

async fn resources_2_services(gw: Gateway) {
    referred_to(&gw).await;
    let mut table = Table::new(&gw, "2", ("service", "/services/1"), &[], json!({})).await;
    table.is_stored_as_sent().await;
    upstream_and_plugins(&mut table).await;
    let refused = [(json!([]), NO_ITEMS), (json!(["a", "a"]), NOT_UNIQUE)];
    table.row("hosts", &[json!(["a.test"]), json!(["a.test", "*"])], &refused).await;
    table.row("enable_websocket", &[json!(false), json!(true)], &[(json!(1), NO_BOOLEAN)]).await;
    script(&gw, &mut table, json!({})).await;
    table.is_whole();
}

async fn resources_10_stream_routes(gw: Gateway) {
    let gw = gw.with_streams().await;
    referred_to(&gw).await;
    let mut table = Table::new(&gw, "10", ("stream_route", "/stream_routes/1"), &[], json!({})).await;
    table.is_stored_as_sent().await;
    let addresses = ["10.0.0.1", "10.0.0.0/8", "::1", "::/0"].map(Value::from);
    for name in ["remote_addr", "server_addr"] {
        table.row(name, &addresses, &[(json!(1), NO_TEXT)]).await;
        for address in ["10.0.0.0/33", "::/129", "a.test"] {
            let line = format!(r#"PUT /stream_routes/1 {{"{name}":"{address}"}}"#);
            gw.refused(&line, 400, &format!("invalid {name}: {address}")).await;
        }
    }
    let refused = [(json!(0), "expected 0 to be at least 1"), (json!(65_536), "expected 65536 to be at most 65535")];
    table.row("server_port", &[json!(1), json!(65_535)], &refused).await;
    table.row("sni", &[json!("a.test"), json!("*.a.test")], &[(json!("a b"), NO_HOST)]).await;
    upstream_and_plugins(&mut table).await;
    table.row("service_id", &[json!("s")], &no_ids()).await;
    let logger = within("logger", r#"failed to validate item 1: property "conf" is required when "name" is set"#);
    let refused = [
        (json!({}), r#"property "name" is required"#.to_owned()),
        (json!({"name": "redis", "more": 1}), "additional properties forbidden, found more".to_owned()),
        (json!({"name": "redis", "logger": [{"name": "syslog"}]}), logger),
    ];
    table.row("protocol", &[json!({"name": "redis"}), json!({"name": "dubbo", "conf": {"a": 1}})], &refused).await;
    table.is_whole();
}

async fn resources_12_graphql_cost_decorations(gw: Gateway) {
    gw.done("PUT /services/s {}").await;
    let at = ("graphql_cost_decoration", "/services/s/graphql_cost_decorations/1");
    let mut table = Table::new(&gw, "12", at, &[], json!({"field_path": "a.b"})).await;
    table.row("field_path", &["a", "Query.users", "_a.b1"].map(Value::from), NONE).await;
    for name in ["add_value", "mul_value"] {
        table.row(name, &[json!(0), json!(2.5)], &[(json!(-1), "expected -1 to be at least 0")]).await;
        table.default(name, json!(1));
    }
    for name in ["add_arguments", "mul_arguments"] {
        let refused = [(json!([1]), format!("failed to validate item 1: {NO_TEXT}"))];
        table.row(name, &[json!([]), json!(["first", "last"])], &refused).await;
    }
    let path = table.path;
    gw.refused(&format!("PUT {path} {{}}"), 400, r#"invalid configuration: property "field_path" is required"#).await;
    for field in ["", ".", "a..b", "a.1b", "a b"] {
        let answer = gw.send(&format!("PUT {path} {}", json!({"field_path": field}))).await;
        assert_eq!(answer.status, 400, "{field}");
        let said = r#"invalid configuration: property \"field_path\" validation failed: failed to match pattern "#;
        assert!(answer.text().contains(said), "{field}: {}", answer.text());
    }
}
