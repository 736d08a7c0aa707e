//! §12–§14: plugins, schemas, validation.

use crate::gateway::{Gateway, on_both};
use serde_json::{Value, json};

on_both!(
    s12_plugin_names,
    s12_one_plugin,
    s12_all_plugins,
    s12_reload,
    s13_schemas,
    s13_validating_against_a_schema,
    s14_validating_a_configuration,
    s14_bodies_that_are_none,
    s14_lists_of_plugins_and_indices,
);

async fn s12_plugin_names(gw: Gateway) {
    let names = json!(["basic-auth", "key-auth", "limit-count", "traffic-split", "grpc-transcode", "http-logger"]);
    gw.check("GET /plugins/list", 200, names.clone()).await;
    gw.check("GET /plugins/list?subsystem=http", 200, names).await;
    gw.check("GET /plugins/list?subsystem=stream", 200, json!([])).await;
    let answer = gw.send("GET /plugins/list?subsystem=x").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, "invalid subsystem passed"));
}

async fn s12_one_plugin(gw: Gateway) {
    let schema = gw.send("GET /plugins/limit-count").await.json().unwrap();
    assert_eq!(schema["properties"]["count"]["minimum"], 1);
    assert_eq!(schema["$comment"], "this is a mark for our injected plugin schema");
    let meta = &schema["properties"]["_meta"];
    assert_eq!(meta["additionalProperties"], false);
    let members: Vec<&String> = meta["properties"].as_object().unwrap().keys().collect();
    assert_eq!(members, ["disable", "error_response", "priority", "filter", "pre_function"]);
    let consumer = gw.send("GET /plugins/key-auth?schema_type=consumer").await.json().unwrap();
    assert_eq!(consumer["required"], json!(["key"]));
    gw.refused("GET /plugins/limit-count?schema_type=consumer", 400, "not found schema").await;
    gw.refused("GET /plugins/key-auth?subsystem=x", 400, "unsupported subsystem: x").await;
    gw.refused("GET /plugins/key-auth?subsystem=stream", 404, "plugin not found in subsystem stream").await;
    gw.refused("GET /plugins/nope", 404, "plugin not found in subsystem http").await;
    gw.refused("GET /plugins", 404, "plugin not found in subsystem http").await;
}

async fn s12_all_plugins(gw: Gateway) {
    let all = gw.send("GET /plugins?all=true").await.json().unwrap();
    let members = |name: &str| all[name].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members("limit-count"), ["priority", "schema"]);
    assert_eq!(members("key-auth"), ["priority", "schema", "consumer_schema", "type"]);
    assert_eq!(members("http-logger"), ["priority", "schema", "metadata_schema"]);
    assert_eq!((&all["key-auth"]["priority"], &all["key-auth"]["type"]), (&json!(2500), &json!("auth")));
    gw.check("GET /plugins?all=true&subsystem=stream", 200, json!({})).await;
}

async fn s12_reload(gw: Gateway) {
    let answer = gw.send("PUT /plugins/reload").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    for method in ["GET", "POST", "DELETE", "PATCH"] {
        let text = format!("please use PUT method to reload the plugins, {method} method is not allowed.");
        gw.refused(&format!("{method} /plugins/reload"), 405, &text).await;
    }
}

async fn s13_schemas(gw: Gateway) {
    for name in [
        "route",
        "service",
        "upstream",
        "consumer",
        "credential",
        "consumer_group",
        "ssl",
        "proto",
        "global_rule",
        "plugin_config",
        "stream_route",
        "plugins",
        "graphql_cost_decoration",
        "upstream_hash_vars_schema",
        "upstream_hash_header_schema",
        "upstream_hash_vars_combinations_schema",
        "id_schema",
        "host_def",
        "health_checker",
    ] {
        let answer = gw.send(&format!("GET /schema/{name}")).await;
        assert_eq!((answer.status, answer.json().unwrap().is_object()), (200, true), "{name}");
    }
    let route = gw.send("GET /schema/route").await.json().unwrap();
    assert_eq!(route["properties"]["priority"]["default"], 0);
    gw.refused("GET /schema/nope", 400, "not found schema: nope").await;
    gw.refused("PUT /schema/route {}", 404, "not found").await;
}

async fn s13_validating_against_a_schema(gw: Gateway) {
    let answer = gw.send(r#"POST /schema/validate/routes {"uri":"/a","upstream_id":"9","plugins":{"nope":{}}}"#).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let wrong = r#"property "uri" validation failed: wrong type: expected string, got number"#;
    gw.refused(r#"POST /schema/validate/routes {"uri":1,"plugins":{}}"#, 400, wrong).await;
    gw.refused("POST /schema/validate/nope {}", 404, "Unsupported resource type: nope").await;
}

async fn s14_validating_a_configuration(gw: Gateway) {
    gw.check("POST /configs/validate {}", 200, json!({})).await;
    let good = json!({
        "routes": [{"id": "r1", "uri": "/a", "upstream_id": "nobody"}],
        "consumers": [{"username": "jack"}, {"id": "jack/credentials/c", "plugins": {"key-auth": {"key": "k"}}}],
        "secrets": [{"id": "vault/1", "uri": "http://a", "prefix": "p", "token": "t"}],
        "plugin_metadata": [{"id": "http-logger"}],
        "routes_conf_version": 7,
        "unknown": 1,
    });
    gw.check(&format!("POST /configs/validate {good}"), 200, json!({})).await;
    let route = json!({"id": "r1", "uri": "/a", "plugins": {}});
    let bad = json!({
        "routes": [route, {"id": "r2", "uri": 1, "plugins": {}}, route],
        "consumers": [{"username": "jack"}, {"username": "jack"}],
        "secrets": [{"id": "1"}],
        "routes_conf_version": "x",
    });
    let error = |kind: &str, id: &str, index: u32, text: &str| -> Value {
        json!({"resource_type": kind, "resource_id": id, "index": index, "error": text})
    };
    let wrong = r#"invalid configuration: property "uri" validation failed: wrong type: expected string, got number"#;
    let expected = json!({"error_msg": "Configuration validation failed", "errors": [
        error("routes", "r2", 1, wrong),
        error("routes", "r1", 2, "found duplicate id r1 in routes"),
        error("consumers", "jack", 1, "found duplicate username jack in consumers"),
        error("secrets", "1", 0, "invalid secret id: 1"),
        {"resource_type": "routes", "error": "routes_conf_version must be a number, got string"},
    ]});
    gw.check(&format!("POST /configs/validate {bad}"), 400, expected).await;
    assert_eq!(gw.revision().await, 0);
}

async fn s14_bodies_that_are_none(gw: Gateway) {
    gw.refused("POST /configs/validate", 400, "invalid request body: empty request body").await;
    let answer = gw.send("POST /configs/validate {").await;
    assert!(answer.status == 400 && answer.text().contains("invalid request body: "), "{}", answer.text());
    let yaml = async |text: &str| {
        let call = gw.call("POST /configs/validate").body(text.to_owned()).header("content-type", "application/yaml");
        let answer = call.to(gw.address()).await.unwrap();
        (answer.status, answer.json().unwrap())
    };
    let none = json!({"error_msg": "invalid request body: invalid yaml request body"});
    for text in ["routes: [", "- 1", "a: *b", "1"] {
        assert_eq!(yaml(text).await, (400, none.clone()), "{text}");
    }
    assert_eq!(yaml("routes:\n- id: 1\n  uri: /a\n  plugins: {}\n").await, (200, json!({})));
    let (status, body) = yaml("routes:\n- uri: 1\n  plugins: {}\n").await;
    assert_eq!((status, &body["errors"][0]["index"]), (400, &json!(0)));
}

async fn s14_lists_of_plugins_and_indices(gw: Gateway) {
    let good = json!({
        "plugins": [{"name": "key-auth"}, {"name": "mqtt-proxy", "stream": true}],
        "routes": [{"id": "r", "uri": "/a", "plugins": {}, "modifiedIndex": 7}],
    });
    gw.check(&format!("POST /configs/validate {good}"), 200, json!({})).await;
    let bad = json!({"plugins": [{}], "routes": [{"id": "r", "uri": "/a", "plugins": {}, "modifiedIndex": "7"}]});
    let name = r#"invalid configuration: failed to validate item 1: property "name" is required"#;
    let wrong = concat!(
        r#"invalid configuration: property "modifiedIndex" validation failed: "#,
        "wrong type: expected integer, got string"
    );
    let expected = json!({"error_msg": "Configuration validation failed", "errors": [
        {"resource_type": "plugins", "error": name},
        {"resource_type": "routes", "resource_id": "r", "index": 0, "error": wrong},
    ]});
    gw.check(&format!("POST /configs/validate {bad}"), 400, expected).await;
}
