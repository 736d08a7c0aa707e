//! §12, §13: plugins and schemas.

use crate::gateway::{Gateway, on_sqlite};
use serde_json::json;

on_sqlite!(s12_plugin_names, s12_one_plugin, s12_all_plugins, s12_reload, s13_schemas, s13_validating_against_a_schema,);

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
