//! §5, §6, §7, §11: callers, and sets of plugins.

use super::{EMPTY, NO_OBJECT, Table, long, no_ids};
use crate::gateway::{Gateway, on_sqlite};
use serde_json::{Value, json};

on_sqlite!(resources_5_consumers, resources_6_credentials, resources_7_sets_of_plugins, resources_11_plugin_metadata);

async fn resources_5_consumers(gw: Gateway) {
    gw.done(r#"PUT /consumer_groups/g {"plugins":{}}"#).await;
    let mut table = Table::new(&gw, "5", ("consumer", "/consumers"), &[], json!({})).await;
    let refused = [
        (json!(""), EMPTY),
        (json!(long(257)), "string too long, expected at most 256, got 257"),
        (json!("a.b"), r#"failed to match pattern "^[a-zA-Z0-9_\\-]+$" with "a.b""#),
    ];
    table.row("username", &[json!("a"), json!("A_b-9"), json!(long(256))], &refused).await;
    gw.refused("PUT /consumers {}", 400, r#"invalid configuration: property "username" is required"#).await;
    table.base = json!({"username": "jack"});
    table.row("group_id", &[json!("g")], &no_ids()).await;
    table.row("plugins", &[json!({})], &[(json!("x"), NO_OBJECT)]).await;
    table.is_whole();
    let jack =
        gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"k"},"limit-count":{"count":1}}}"#);
    assert_eq!(jack.await["plugins"]["limit-count"], json!({"count": 1}));
    // A plugin that authenticates is judged by its consumer schema.
    let key = r#"failed to check the configuration of plugin key-auth err: property "key" is required"#;
    let lacking = r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{}}}"#;
    gw.refused(lacking, 400, &format!("invalid plugins configuration: {key}")).await;
}

async fn resources_6_credentials(gw: Gateway) {
    gw.done(r#"PUT /consumers {"username":"jack"}"#).await;
    let mut table = Table::new(&gw, "6", ("credential", "/consumers/jack/credentials/c"), &[], json!({})).await;
    let two = json!({"key-auth": {"key": "k"}, "basic-auth": {"username": "u", "password": "p"}});
    let refused = [(two, "expect object to have at most 1 properties"), (json!("x"), NO_OBJECT)];
    table.row("plugins", &[json!({})], &refused).await;
    let path = table.path;
    table.is_whole();
    for one in [json!({"key-auth": {"key": "k"}}), json!({"basic-auth": {"username": "u", "password": "p"}})] {
        gw.done(&format!("PUT {path} {}", json!({ "plugins": one }))).await;
    }
    let other = format!("PUT {path} {}", json!({"plugins": {"limit-count": {"count": 1}}}));
    gw.refused(&other, 400, "only supports auth type plugins in consumer credential").await;
}

async fn resources_7_sets_of_plugins(gw: Gateway) {
    for (kind, collection, words) in [
        ("consumer_group", "/consumer_groups", "consumer group"),
        ("plugin_config", "/plugin_configs", "plugin config"),
        ("global_rule", "/global_rules", "global rule"),
    ] {
        let schema = gw.send(&format!("GET /schema/{kind}")).await.json().unwrap();
        assert_eq!(schema["required"], json!(["id", "plugins"]), "{kind}");
        let plugins = json!({"plugins": {"traffic-split": {}}});
        gw.done(&format!("PUT {collection}/1 {plugins}")).await;
        assert_eq!(
            gw.read(&format!("{collection}/1")).await,
            json!({"id": "1", "plugins": plugins["plugins"]}),
            "{kind}"
        );
        gw.done(&format!("DELETE {collection}/1")).await;
        gw.refused(&format!("PUT {collection} {plugins}"), 400, &format!("missing {words} id")).await;
        let lacking = r#"invalid configuration: property "plugins" is required"#;
        gw.refused(&format!("PUT {collection}/1 {{}}"), 400, lacking).await;
    }
}

async fn resources_11_plugin_metadata(gw: Gateway) {
    let put = async |plugin: &str, body: Value| gw.done(&format!("PUT /plugin_metadata/{plugin} {body}")).await;
    let body = json!({"log_format": {"host": "$host"}, "more": 1});
    let mut stored = body.clone();
    stored["id"] = "http-logger".into();
    assert_eq!(put("http-logger", body).await, stored);
    let wrong =
        r#"invalid configuration: property "log_format" validation failed: wrong type: expected object, got number"#;
    gw.refused(r#"PUT /plugin_metadata/http-logger {"log_format":1}"#, 400, wrong).await;
    // A plugin that knows no metadata may have any.
    assert_eq!(put("key-auth", json!({"any": [1]})).await, json!({"id": "key-auth", "any": [1]}));
}
