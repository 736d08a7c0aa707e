//! §14: judging a whole configuration.

use crate::gateway::{Gateway, KEY, bare, on_sqlite};
use http::Method;
use milecastle_settings::Time;
use milecastle_testkit::Call;
use serde_json::{Value, json};

on_sqlite!(
    s14_1_items_are_judged_as_on_write_but_for_references,
    s14_1_lists_of_plugins_and_indices,
    s14_2_duplicates,
    s14_2_a_plugin_in_two_global_rules,
    s14_3_ids_of_secrets,
    s14_4_all_good,
    s14_5_errors_name_their_places,
    s14_6_bodies_that_are_none,
    s14_a_body_that_is_too_large,
    s14_yaml,
);

const WRONG_URI: &str =
    r#"invalid configuration: property "uri" validation failed: wrong type: expected string, got number"#;

/// Expects these errors: resource type, id, index, text.
async fn faulty(gw: &Gateway, body: Value, errors: &[(&str, &str, u32, &str)]) {
    let error = |&(kind, id, index, text): &(&str, &str, u32, &str)| json!({"resource_type": kind, "resource_id": id, "index": index, "error": text});
    let errors: Vec<Value> = errors.iter().map(error).collect();
    let expected = json!({"error_msg": "Configuration validation failed", "errors": errors});
    gw.check(&format!("POST /configs/validate {body}"), 400, expected).await;
    assert_eq!(gw.revision().await, 0, "nothing is stored");
}

async fn s14_1_items_are_judged_as_on_write_but_for_references(gw: Gateway) {
    let good = json!({
        "routes": [{"id": "r1", "uri": "/a", "upstream_id": "nobody", "service_id": "nobody"}],
        "consumers": [{"username": "jack", "group_id": "nobody"}],
    });
    gw.check(&format!("POST /configs/validate {good}"), 200, json!({})).await;
    let bad = json!({
        "routes": [
            {"id": "r1", "uri": 1, "plugins": {}}, {"id": "r2", "uri": "/a", "plugins": {"nope": {}}},
            {"id": "r3", "uri": "/a", "plugins": {}, "host": "a", "hosts": ["b"]},
        ],
        "upstreams": [{"id": "u", "nodes": {}, "type": "chash"}],
        "protos": [{"id": "p"}],
        "consumers": [{"username": "jack"}, {"id": "jack/credentials/c", "plugins": {"limit-count": {"count": 1}}}],
    });
    let errors = [
        ("routes", "r1", 0, WRONG_URI),
        ("routes", "r2", 1, "unknown plugin [nope]"),
        ("routes", "r3", 2, "only one of host or hosts is allowed"),
        ("upstreams", "u", 0, "missing key"),
        ("protos", "p", 0, r#"invalid configuration: property "content" is required"#),
        ("consumers", "jack/credentials/c", 1, "only supports auth type plugins in consumer credential"),
    ];
    faulty(&gw, bad, &errors).await;
}

async fn s14_1_lists_of_plugins_and_indices(gw: Gateway) {
    let good = json!({
        "plugins": [{"name": "key-auth"}, {"name": "mqtt-proxy", "stream": true}],
        "routes": [{"id": "r", "uri": "/a", "plugins": {}, "modifiedIndex": 7}],
    });
    gw.check(&format!("POST /configs/validate {good}"), 200, json!({})).await;
    let wrong = concat!(
        r#"invalid configuration: property "modifiedIndex" validation failed: "#,
        "wrong type: expected integer, got string"
    );
    let bad = json!({"routes": [{"id": "r", "uri": "/a", "plugins": {}, "modifiedIndex": "7"}]});
    faulty(&gw, bad, &[("routes", "r", 0, wrong)]).await;
    let name = r#"invalid configuration: failed to validate item 1: property "name" is required"#;
    let expected = json!({"error_msg": "Configuration validation failed", "errors": [
        {"resource_type": "plugins", "error": name},
    ]});
    gw.check(r#"POST /configs/validate {"plugins":[{}]}"#, 400, expected).await;
}

async fn s14_2_duplicates(gw: Gateway) {
    let route = json!({"id": "r1", "uri": "/a", "plugins": {}});
    let credential = json!({"id": "jack/credentials/c", "plugins": {"key-auth": {"key": "k"}}});
    let bad = json!({
        "routes": [route, route],
        "consumers": [{"username": "jack"}, {"username": "jack"}, credential, credential],
    });
    let errors = [
        ("routes", "r1", 1, "found duplicate id r1 in routes"),
        ("consumers", "jack", 1, "found duplicate username jack in consumers"),
        ("consumers", "jack/credentials/c", 3, "found duplicate credential id c in consumers"),
    ];
    faulty(&gw, bad, &errors).await;
}

async fn s14_2_a_plugin_in_two_global_rules(gw: Gateway) {
    let rule = |id: &str| json!({"id": id, "plugins": {"limit-count": {"count": 1}}});
    let text = "plugin 'limit-count' already exists in global rule with id 'a'";
    faulty(&gw, json!({"global_rules": [rule("a"), rule("b")]}), &[("global_rules", "b", 1, text)]).await;
}

async fn s14_3_ids_of_secrets(gw: Gateway) {
    faulty(&gw, json!({"secrets": [{"id": "1"}]}), &[("secrets", "1", 0, "invalid secret id: 1")]).await;
    let manager = json!({"secrets": [{"id": "nope/1"}]});
    faulty(&gw, manager, &[("secrets", "nope/1", 0, "invalid secret manager: nope")]).await;
}

async fn s14_4_all_good(gw: Gateway) {
    gw.check("POST /configs/validate {}", 200, json!({})).await;
    let good = json!({
        "routes": [{"id": "r1", "uri": "/a", "upstream_id": "nobody"}],
        "consumers": [{"username": "jack"}, {"id": "jack/credentials/c", "plugins": {"key-auth": {"key": "k"}}}],
        "secrets": [{"id": "vault/1", "uri": "http://a", "prefix": "p", "token": "t"}],
        "plugin_metadata": [{"id": "http-logger"}],
        "routes_conf_version": 7,
        "unknown": 1,
    });
    let answer = gw.send(&format!("POST /configs/validate {good}")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}\n"));
    assert_eq!(gw.revision().await, 0);
}

async fn s14_5_errors_name_their_places(gw: Gateway) {
    let bad = json!({
        "routes": [{"id": "r1", "uri": "/a", "plugins": {}}, {"id": "r2", "uri": 1, "plugins": {}}, {"uri": 1, "plugins": {}}],
        "routes_conf_version": "x",
    });
    let expected = json!({"error_msg": "Configuration validation failed", "errors": [
        {"resource_type": "routes", "resource_id": "r2", "index": 1, "error": WRONG_URI},
        {"resource_type": "routes", "index": 2, "error": WRONG_URI},
        {"resource_type": "routes", "error": "routes_conf_version must be a number, got string"},
    ]});
    gw.check(&format!("POST /configs/validate {bad}"), 400, expected).await;
}

async fn s14_6_bodies_that_are_none(gw: Gateway) {
    gw.refused("POST /configs/validate", 400, "invalid request body: empty request body").await;
    let answer = gw.send("POST /configs/validate {").await;
    assert!(answer.status == 400 && answer.text().contains("invalid request body: "), "{}", answer.text());
    for text in ["routes: [", "- 1", "a: *b", "1"] {
        let none = json!({"error_msg": "invalid request body: invalid yaml request body"});
        assert_eq!(yaml(&gw, text).await, (400, none), "{text}");
    }
}

async fn s14_a_body_that_is_too_large(gw: Gateway) {
    let validate = async |bytes: usize| {
        let text = format!("{{}}{}", " ".repeat(bytes - 2));
        let answer = gw.call("POST /configs/validate").body(text).to(gw.address()).await.unwrap();
        (answer.status, answer.json().unwrap())
    };
    assert_eq!(validate(1_572_864).await, (200, json!({})));
    let message = "invalid request body: request size 1572865 is greater than the maximum size 1572864 allowed";
    assert_eq!(validate(1_572_865).await, (400, json!({ "error_msg": message })));
}

async fn s14_yaml(gw: Gateway) {
    assert_eq!(yaml(&gw, "routes:\n- id: 1\n  uri: /a\n  plugins: {}\n").await, (200, json!({})));
    let (status, body) = yaml(&gw, "routes:\n- uri: 1\n  plugins: {}\n").await;
    assert_eq!((status, &body["errors"][0]["error"]), (400, &json!(WRONG_URI)));
}

async fn yaml(gw: &Gateway, text: &str) -> (u16, Value) {
    let call = gw.call("POST /configs/validate").body(text.to_owned()).header("content-type", "application/yaml");
    let answer = call.to(gw.address()).await.unwrap();
    (answer.status, answer.json().unwrap())
}

#[tokio::test]
async fn s14_one_that_takes_too_long_is_ended() {
    let gw = Gateway::configured(|settings| settings.admin.validation_time = Time::millis(0)).await;
    let body = json!({"routes": [{"id": "r1", "uri": "/a", "plugins": {}}]});
    let text = "the configuration was judged for 0s (admin.validation_time) without coming to its end: send fewer objects at a time, \
                with fewer and simpler expressions";
    gw.refused(&format!("POST /configs/validate {body}"), 400, text).await;
    gw.check("POST /configs/validate {}", 200, json!({})).await;
    let metrics = Call::get("/metrics").to(gw.address()).await.unwrap().text();
    assert!(metrics.contains(r#"reads_refused_total{limit="admin.validation_time"} 1"#), "{metrics}");
    gw.done(r#"PUT /routes/1 {"uri":"/a","plugins":{}}"#).await;
}

#[tokio::test]
async fn s14_where_all_places_are_taken_whoever_may_write_goes_on() {
    let gw = Gateway::configured(|settings| {
        settings.admin.max_validations = 0;
        settings.admin.validation_time = Time::millis(1);
    })
    .await;
    let viewer = json!({ "name": "v", "roles": [{ "role": "viewer", "groups": ["default"] }] });
    let made = Call::new(Method::POST, "/api/tokens").header("x-api-key", KEY).body(viewer.to_string());
    let token = made.to(gw.address()).await.unwrap().json().unwrap()["token"].as_str().unwrap().to_owned();
    let call = bare("POST /configs/validate {}").header("x-api-key", &token);
    let refused = call.to(gw.address()).await.unwrap();
    assert_eq!((refused.status, refused.header("retry-after").as_str()), (503, "1"), "{}", refused.text());
    assert!(refused.text().contains("admin.max_validations"), "{}", refused.text());
    gw.check("POST /configs/validate {}", 200, json!({})).await;
    gw.done(r#"PUT /routes/1 {"uri":"/a","plugins":{}}"#).await;
}
