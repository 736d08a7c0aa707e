//! §6: identifiers and timestamps.

use crate::gateway::{Gateway, T, on_both};
use serde_json::json;

on_both!(
    s6_1_ids_by_the_rules,
    s6_2_put_takes_the_id_from_path_or_body,
    s6_3_post_with_id_is_refused,
    s6_3_generated_ids_are_revisions,
    s6_3_generated_ids_below_a_parent,
    s6_4_consumers_are_named_by_username,
    s6_5_plugin_metadata_is_named_by_plugin,
    s6_6_secrets_have_composite_ids,
    s6_7_timestamps_are_forbidden_in_put_and_post,
    s6_7_timestamps_are_forbidden_for_every_kind,
    s6_8_timestamps_are_kept_by_the_server,
    s6_9_missing_id_or_body,
);

async fn s6_1_ids_by_the_rules(gw: Gateway) {
    for id in ["a", "1", "A-b_c.D", &"x".repeat(64)] {
        gw.done(&format!(r#"PUT /upstreams/{id} {{"nodes":{{}}}}"#)).await;
    }
    let before = gw.revision().await;
    for line in [
        r#"PUT /upstreams/a%20b {"nodes":{}}"#,
        r#"PUT /upstreams/a%2Fb {"nodes":{}}"#,
        r#"PUT /upstreams {"nodes":{},"id":0}"#,
        r#"PUT /upstreams {"nodes":{},"id":true}"#,
        r#"PUT /upstreams {"nodes":{},"id":1.5}"#,
        &format!(r#"PUT /upstreams/{} {{"nodes":{{}}}}"#, "x".repeat(65)),
    ] {
        let answer = gw.send(line).await;
        let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400, "{line}");
        assert!(text.starts_with(r#"invalid configuration: property "id" validation failed: "#), "{line}: {text}");
    }
    assert_eq!(gw.revision().await, before);
}

async fn s6_2_put_takes_the_id_from_path_or_body(gw: Gateway) {
    assert_eq!(gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await["id"], "1");
    assert_eq!(gw.done(r#"PUT /upstreams {"nodes":{},"id":2}"#).await["id"], "2");
    assert_eq!(gw.done(r#"PUT /upstreams/3 {"nodes":{},"id":3}"#).await["id"], "3");
    gw.refused(r#"PUT /upstreams {"nodes":{}}"#, 400, "missing upstream id").await;
    gw.refused(r#"PUT /upstreams/1 {"nodes":{},"id":"2"}"#, 400, "wrong upstream id").await;
    gw.refused(r#"PUT /plugin_configs/1 {"plugins":{},"id":"2"}"#, 400, "wrong plugin config id").await;
    gw.refused(r#"PUT /global_rules {"plugins":{}}"#, 400, "missing global rule id").await;
    // A PATCH cannot take the id away, nor change its form.
    assert_eq!(gw.done(r#"PATCH /upstreams/1 {"id":null}"#).await["id"], "1");
    assert_eq!(gw.done(r#"PATCH /upstreams/1 {"id":1}"#).await["id"], "1");
}

async fn s6_3_post_with_id_is_refused(gw: Gateway) {
    gw.refused(r#"POST /routes/3 {"uri":"/x","plugins":{}}"#, 400, "wrong route id, do not need it").await;
    gw.refused(r#"POST /upstreams {"nodes":{},"id":"1"}"#, 400, "wrong upstream id, do not need it").await;
}

async fn s6_3_generated_ids_are_revisions(gw: Gateway) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = gw.send(r#"POST /upstreams {"nodes":{}}"#).await;
        let body = answer.json().unwrap();
        let id = body["value"]["id"].as_str().unwrap().to_owned();
        assert_eq!(body["key"], format!("/apisix/upstreams/{id}"));
        ids.push(id);
    }
    assert_eq!(ids, [1, 2, 3].map(|revision| format!("{revision:020}")));
}

async fn s6_3_generated_ids_below_a_parent(gw: Gateway) {
    gw.done("PUT /services/s {}").await;
    let answer = gw.send(r#"POST /services/s/graphql_cost_decorations {"field_path":"a.b"}"#).await.json().unwrap();
    let (id, path) = (format!("{:020}", 2), "/services/s/graphql_cost_decorations");
    assert_eq!((&answer["value"]["id"], &answer["key"]), (&json!(id), &json!(format!("/apisix{path}/{id}"))));
    assert_eq!(gw.send(&format!("GET {path}/{id}")).await.status, 200);
    let orphan = r#"POST /services/t/graphql_cost_decorations {"field_path":"a.b"}"#;
    gw.refused(orphan, 404, "service not found").await;
}

async fn s6_4_consumers_are_named_by_username(gw: Gateway) {
    let jack = json!({"username": "jack", "create_time": T, "update_time": T});
    gw.check(r#"PUT /consumers {"username":"jack"}"#, 201, json!({"key": "/apisix/consumers/jack", "value": jack}))
        .await;
    assert_eq!(gw.done(r#"PUT /consumers/jack {"username":"jack"}"#).await, jack);
    gw.refused(r#"PUT /consumers/jack {"username":"bob"}"#, 400, "wrong username").await;
    let missing = r#"invalid configuration: property "username" is required"#;
    gw.refused("PUT /consumers/jack {}", 400, missing).await;
    let with_id = gw.done(r#"PUT /consumers {"username":"zoe","id":"other"}"#).await;
    assert_eq!(with_id["id"], "other");
    gw.refused(
        r#"PUT /consumers {"username":"a b"}"#,
        400,
        r#"invalid configuration: property "username" validation failed: failed to match pattern "^[a-zA-Z0-9_\\-]+$" with "a b""#,
    )
    .await;
}

async fn s6_5_plugin_metadata_is_named_by_plugin(gw: Gateway) {
    let value = json!({"id": "http-logger", "log_format": {"host": "$host"}});
    let written = json!({"key": "/apisix/plugin_metadata/http-logger", "value": value});
    gw.check(r#"PUT /plugin_metadata/http-logger {"log_format":{"host":"$host"}}"#, 201, written).await;
    gw.refused("PUT /plugin_metadata {}", 400, "missing plugin name").await;
    gw.refused("PUT /plugin_metadata/nope {}", 400, "invalid plugin name").await;
    let wrong =
        r#"invalid configuration: property "log_format" validation failed: wrong type: expected object, got number"#;
    gw.refused(r#"PUT /plugin_metadata/http-logger {"log_format":1}"#, 400, wrong).await;
}

async fn s6_6_secrets_have_composite_ids(gw: Gateway) {
    let vault = r#"{"uri":"http://127.0.0.1:8200","prefix":"kv","token":"t"}"#;
    let answer = gw.send(&format!("PUT /secrets/vault/1 {vault}")).await.json().unwrap();
    assert_eq!((&answer["key"], &answer["value"]["id"]), (&json!("/apisix/secrets/vault/1"), &json!("vault/1")));
    assert_eq!(answer["value"]["create_time"], T);
    gw.done(r#"PATCH /secrets/vault/1 {"prefix":"other"}"#).await;
    assert_eq!(gw.done(r#"PATCH /secrets/vault/1/prefix "third""#).await["prefix"], "third");
    assert_eq!(gw.send("GET /secrets/vault/1").await.json().unwrap()["value"]["prefix"], "third");
    for line in ["GET /secrets", "GET /secrets/vault"] {
        assert_eq!(gw.send(line).await.json().unwrap()["total"], 1, "{line}");
    }
    let other = r#"{"uri":"http://127.0.0.1:8200","prefix":"kv","token":"t","id":"1"}"#;
    gw.refused(&format!("PUT /secrets/vault/1 {other}"), 400, "wrong secret id").await;
    gw.refused(&format!("PUT /secrets/nope/1 {vault}"), 400, "invalid secret manager: nope").await;
    gw.refused("PATCH /secrets/vault {}", 400, "no secret id").await;
}

async fn s6_7_timestamps_are_forbidden_in_put_and_post(gw: Gateway) {
    for (body, message) in [
        (r#"{"uri":"/a","plugins":{},"create_time":1}"#, "the property is forbidden:  create_time"),
        (r#"{"uri":"/a","plugins":{},"update_time":1}"#, "the property is forbidden:  update_time"),
        (r#"{"uri":"/a","upstream":{"nodes":{},"create_time":1}}"#, "the property is forbidden:  upstream.create_time"),
        (r#"{"uri":"/a","plugins":{"create_time":{}}}"#, "the property is forbidden:  plugins.create_time"),
    ] {
        gw.refused(&format!("PUT /routes/1 {body}"), 400, message).await;
        gw.refused(&format!("POST /routes {body}"), 400, message).await;
    }
    gw.done(r#"PUT /routes/1 {"uri":"/a","plugins":{}}"#).await;
    let patched = gw.done(r#"PATCH /routes/1 {"priority":1,"create_time":5,"update_time":6}"#).await;
    assert_eq!((&patched["create_time"], &patched["update_time"]), (&json!(5), &json!(6)));
}

async fn s6_7_timestamps_are_forbidden_for_every_kind(gw: Gateway) {
    let gw = gw.with_streams().await;
    gw.done("PUT /services/s {}").await;
    gw.done(r#"PUT /consumers/jack {"username":"jack"}"#).await;
    for (path, body) in [
        ("/routes/1", r#""uri":"/a","plugins":{}"#),
        ("/services/1", r#""name":"a""#),
        ("/upstreams/1", r#""nodes":{}"#),
        ("/ssls/1", r#""sni":"a.example""#),
        ("/consumers/jack", r#""username":"jack""#),
        ("/consumers/jack/credentials/1", r#""plugins":{"key-auth":{"key":"k"}}"#),
        ("/consumer_groups/1", r#""plugins":{}"#),
        ("/plugin_configs/1", r#""plugins":{}"#),
        ("/global_rules/1", r#""plugins":{}"#),
        ("/plugin_metadata/http-logger", r#""log_format":{"host":"$host"}"#),
        ("/protos/1", r#""content":"syntax = \"proto3\";""#),
        ("/stream_routes/1", r#""server_port":9100"#),
        ("/secrets/vault/1", r#""uri":"http://127.0.0.1:8200","prefix":"kv","token":"t""#),
        ("/services/s/graphql_cost_decorations/1", r#""field_path":"a.b""#),
    ] {
        for name in ["create_time", "update_time"] {
            let message = format!("the property is forbidden:  {name}");
            gw.refused(&format!(r#"PUT {path} {{{body},"{name}":1}}"#), 400, &message).await;
        }
    }
    for line in [
        r#"POST /upstreams {"nodes":{},"create_time":1}"#,
        r#"POST /services {"create_time":1}"#,
        r#"POST /services/s/graphql_cost_decorations {"field_path":"a.b","create_time":1}"#,
    ] {
        gw.refused(line, 400, "the property is forbidden:  create_time").await;
    }
    gw.refused(
        r#"PUT /services/1 {"upstream":{"nodes":{},"update_time":1}}"#,
        400,
        "the property is forbidden:  upstream.update_time",
    )
    .await;
}

async fn s6_8_timestamps_are_kept_by_the_server(gw: Gateway) {
    let times =
        |value: serde_json::Value| (value["create_time"].as_u64().unwrap(), value["update_time"].as_u64().unwrap());
    assert_eq!(times(gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await), (T, T));
    gw.advance(10);
    assert_eq!(times(gw.done(r#"PUT /upstreams/1 {"nodes":{},"retries":1}"#).await), (T, T + 10));
    gw.advance(10);
    assert_eq!(times(gw.done(r#"PATCH /upstreams/1 {"retries":2}"#).await), (T, T + 20));
    assert_eq!(times(gw.done(r#"PATCH /upstreams/1 {"retries":3,"update_time":7}"#).await), (T, 7));
    assert_eq!(times(gw.done(r#"PATCH /upstreams/1 {"retries":4,"create_time":null}"#).await), (T + 20, T + 20));
}

async fn s6_9_missing_id_or_body(gw: Gateway) {
    gw.refused("DELETE /routes", 400, "missing route id").await;
    gw.refused("PATCH /plugin_configs {}", 400, "missing plugin config id").await;
    gw.refused("DELETE /consumers/jack/credentials", 400, "missing credential id").await;
    gw.refused("PUT /routes/1", 400, "missing configurations").await;
    gw.refused("POST /routes", 400, "missing configurations").await;
}
