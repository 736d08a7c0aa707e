//! §9: PATCH.

use crate::gateway::{Gateway, on_both};
use crate::s07_stored::hex;
use milecastle_testkit::tls::Authority;
use serde_json::json;

on_both!(
    s9_1_kinds_that_are_patched,
    s9_2_members_are_merged,
    s9_2_whatever_is_no_object_is_replaced,
    s9_2_nulls_in_new_objects_are_judged,
    s9_3_a_path_replaces_one_place,
    s9_3_what_lies_on_the_way_is_made,
    s9_3_paths_that_lead_nowhere,
    s9_4_bodies_that_are_none,
    s9_5_secrets_are_merged_in_clear_and_sealed_again,
    s9_6_the_merged_object_is_judged_completely,
);

async fn s9_1_kinds_that_are_patched(gw: Gateway) {
    let not_found = json!({"message": "Key not found"});
    for path in [
        "/routes/1",
        "/services/1",
        "/upstreams/1",
        "/ssls/1",
        "/global_rules/1",
        "/plugin_configs/1",
        "/consumer_groups/1",
        "/secrets/vault/1",
        "/services/s/graphql_cost_decorations/1",
    ] {
        gw.check(&format!("PATCH {path} {{}}"), 404, not_found.clone()).await;
    }
    for (path, word) in [
        ("/consumers/jack", "consumer"),
        ("/consumers/jack/credentials/1", "credential"),
        ("/plugin_metadata/http-logger", "plugin_metadata"),
        ("/protos/1", "proto"),
    ] {
        gw.refused(&format!("PATCH {path} {{}}"), 405, &format!("not supported `PATCH` method for {word}")).await;
    }
}

async fn s9_5_secrets_are_merged_in_clear_and_sealed_again(gw: Gateway) {
    gw.done(r#"PUT /services/1 {"plugins":{"key-auth":{"key":"hush-hush"}}}"#).await;
    gw.done(r#"PATCH /services/1 {"plugins":{"key-auth":{"header":"x"}}}"#).await;
    let shown = gw.send("GET /services/1").await.json().unwrap()["value"]["plugins"]["key-auth"].clone();
    assert_eq!(shown, json!({"key": "hush-hush", "header": "x"}));
    let authority = Authority::new("tests");
    let (one, two) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    let ssl = json!({"sni": "a.example", "cert": one.cert.clone(), "key": one.key.clone()});
    let first = gw.done(&format!("PUT /ssls/1 {ssl}")).await["key"].clone();
    let renewed =
        gw.done(&format!("PATCH /ssls/1 {}", json!({"cert": two.cert.clone(), "key": two.key.clone()}))).await;
    assert_ne!(renewed["key"], first);
    if let Some(database) = gw.database() {
        let dump = database.dump().unwrap();
        for secret in ["hush-hush", one.key.lines().nth(1).unwrap(), two.key.lines().nth(1).unwrap()] {
            assert!(!dump.contains(&hex(secret)), "stored in clear");
        }
    }
}

async fn route(gw: &Gateway) {
    gw.done(r#"PUT /routes/1 {"uri":"/a","labels":{"a":"1","b":"2"},"upstream":{"nodes":{"a:1":1}}}"#).await;
}

async fn s9_2_members_are_merged(gw: Gateway) {
    route(&gw).await;
    let patched = gw.done(r#"PATCH /routes/1 {"labels":{"b":"3","c":"4"},"name":"n"}"#).await;
    assert_eq!((&patched["labels"], &patched["name"]), (&json!({"a": "1", "b": "3", "c": "4"}), &json!("n")));
    let patched = gw.done(r#"PATCH /routes/1 {"labels":{"a":null},"name":null}"#).await;
    assert_eq!((&patched["labels"], patched.get("name")), (&json!({"b": "3", "c": "4"}), None));
}

async fn s9_2_whatever_is_no_object_is_replaced(gw: Gateway) {
    route(&gw).await;
    let patched = gw.done(r#"PATCH /routes/1 {"upstream":{"nodes":[{"host":"b","port":2,"weight":3}]}}"#).await;
    assert_eq!(patched["upstream"]["nodes"], json!([{"host": "b", "port": 2, "weight": 3}]));
    let patched = gw.done(r#"PATCH /routes/1 {"upstream":{"nodes":{"c:1":1}},"labels":{}}"#).await;
    assert_eq!((&patched["upstream"]["nodes"], &patched["labels"]), (&json!({"c:1": 1}), &json!({})));
}

async fn s9_2_nulls_in_new_objects_are_judged(gw: Gateway) {
    gw.done(r#"PUT /routes/1 {"uri":"/a","plugins":{}}"#).await;
    let wrong = concat!(
        r#"invalid configuration: property "timeout" validation failed: property "connect" validation failed: "#,
        "wrong type: expected number, got userdata"
    );
    gw.refused(r#"PATCH /routes/1 {"timeout":{"connect":null,"send":1,"read":1}}"#, 400, wrong).await;
}

async fn s9_3_a_path_replaces_one_place(gw: Gateway) {
    route(&gw).await;
    assert_eq!(gw.done(r#"PATCH /routes/1/labels {"z":"9"}"#).await["labels"], json!({"z": "9"}));
    assert_eq!(gw.done(r#"PATCH /routes/1/methods ["GET"]"#).await["methods"], json!(["GET"]));
    assert_eq!(gw.done(r#"PATCH /routes/1/upstream/nodes {"x:1":1}"#).await["upstream"]["nodes"], json!({"x:1": 1}));
}

async fn s9_3_what_lies_on_the_way_is_made(gw: Gateway) {
    gw.done(r#"PUT /routes/1 {"uri":"/a","upstream":{"nodes":{"a:1":1}}}"#).await;
    assert_eq!(gw.done(r#"PATCH /routes/1/labels/a "1""#).await["labels"], json!({"a": "1"}));
    let made = gw.done(r#"PATCH /routes/1/plugins/http-logger/log_format/labels {"x":"1"}"#).await;
    assert_eq!(made["plugins"], json!({"http-logger": {"log_format": {"labels": {"x": "1"}}}}));
    let shown = gw.send("GET /routes/1").await.json().unwrap()["value"].clone();
    assert_eq!((&shown["labels"], &shown["plugins"]), (&made["labels"], &made["plugins"]));
    // What was made is judged like whatever is sent.
    let missing =
        concat!(r#"invalid configuration: property "timeout" validation failed: "#, r#"property "send" is required"#);
    gw.refused("PATCH /routes/1/timeout/connect 1", 400, missing).await;
}

async fn s9_3_paths_that_lead_nowhere(gw: Gateway) {
    route(&gw).await;
    gw.refused(r#"PATCH /routes/1/uri/x 1"#, 400, "invalid sub-path: /uri/x").await;
    gw.done(r#"PATCH /routes/1/methods ["GET"]"#).await;
    gw.refused(r#"PATCH /routes/1/methods/0 "PUT""#, 400, "invalid sub-path: /methods/0").await;
}

async fn s9_4_bodies_that_are_none(gw: Gateway) {
    route(&gw).await;
    gw.refused("PATCH /routes/1", 400, "missing new configuration").await;
    for body in ["1", "\"a\"", "[1]", "true", "null"] {
        gw.refused(&format!("PATCH /routes/1 {body}"), 400, "invalid configuration").await;
    }
}

async fn s9_6_the_merged_object_is_judged_completely(gw: Gateway) {
    route(&gw).await;
    let missing = "failed to fetch service info by service id [7], response code: 404";
    gw.refused(r#"PATCH /routes/1 {"service_id":7}"#, 400, missing).await;
    gw.refused(r#"PATCH /routes/1 {"plugins":{"nope":{}}}"#, 400, "unknown plugin [nope]").await;
    gw.refused(r#"PATCH /routes/1 {"id":"2"}"#, 400, "wrong route id").await;
    let unknown = "invalid configuration: additional properties forbidden, found nope";
    gw.refused(r#"PATCH /routes/1/nope 1"#, 400, unknown).await;
}
