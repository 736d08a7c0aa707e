//! The 24 conformance examples of §18, in their order.

use crate::gateway::{Gateway, T, bare, on_both};
use serde_json::{Value, json};

on_both!(s18_conformance_examples);

async fn s18_conformance_examples(gw: Gateway) {
    let t = T;
    let upstream = json!({
        "key": "/apisix/upstreams/1",
        "value": {"id": "1", "nodes": {"127.0.0.1:1980": 1}, "type": "roundrobin", "create_time": t, "update_time": t},
    });
    let put = r#"PUT /upstreams/1 {"nodes":{"127.0.0.1:1980":1},"type":"roundrobin"}"#;
    let key_not_found = json!({"message": "Key not found"});
    let error = |text: &str| json!({ "error_msg": text });
    let route = |members: Value| {
        let mut value = json!({"id": "1", "uri": "/hello", "upstream_id": "1", "create_time": t, "update_time": t});
        value.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        json!({"key": "/apisix/routes/1", "value": value})
    };

    // 1–6
    gw.check("GET /routes", 200, json!({"list": [], "total": 0})).await;
    gw.check(put, 201, upstream.clone()).await;
    gw.check(put, 200, upstream).await;
    let missing = error("failed to fetch upstream info by upstream id [9], response code: 404");
    gw.check(r#"PUT /routes/1 {"uri":"/hello","upstream_id":"9"}"#, 400, missing).await;
    gw.check(r#"PUT /routes/1 {"uri":"/hello","upstream_id":"1"}"#, 201, route(json!({}))).await;
    let used = error("can not delete this upstream, route [1] is still using it now");
    gw.check("DELETE /upstreams/1", 400, used).await;
    // 7–10
    let merged = route(json!({"methods": ["GET"], "priority": 3}));
    gw.check(r#"PATCH /routes/1 {"methods":["GET"],"priority":3}"#, 200, merged).await;
    let replaced = route(json!({"methods": ["POST"], "priority": 3}));
    gw.check(r#"PATCH /routes/1/methods ["POST"]"#, 200, replaced).await;
    gw.check(r#"PATCH /routes/1 {"priority":null}"#, 200, route(json!({"methods": ["POST"]}))).await;
    gw.check(r#"PATCH /routes/404 {"priority":1}"#, 404, key_not_found.clone()).await;
    // 11–13
    let wrong = r#"invalid configuration: property "uri" validation failed: wrong type: expected string, got number"#;
    gw.check(r#"PUT /routes/2 {"uri":123,"upstream_id":"1"}"#, 400, error(wrong)).await;
    let unwanted = error("wrong route id, do not need it");
    gw.check(r#"POST /routes/3 {"uri":"/x","upstream_id":"1"}"#, 400, unwanted).await;
    let answer = gw.send(r#"POST /routes {"uri":"/x","upstream_id":"1"}"#).await;
    let body = answer.json().unwrap();
    let id = body["value"]["id"].as_str().unwrap();
    assert_eq!((answer.status, id.len(), id.bytes().all(|b| b.is_ascii_digit())), (201, 20, true));
    assert_eq!(body["key"], format!("/apisix/routes/{id}"));
    // 14–18
    gw.check(r#"POST /consumers {"username":"jack"}"#, 405, error("not supported `POST` method for consumer")).await;
    let jack = json!({
        "username": "jack", "plugins": {"key-auth": {"key": "k1"}}, "create_time": t, "update_time": t,
    });
    let created = json!({"key": "/apisix/consumers/jack", "value": jack});
    gw.check(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"k1"}}}"#, 201, created).await;
    gw.check(r#"PUT /consumers/jack {"username":"bob"}"#, 400, error("wrong username")).await;
    gw.check("GET /consumers/jack/credentials", 404, key_not_found).await;
    let orphan = r#"PUT /consumers/nobody/credentials/c1 {"plugins":{"key-auth":{"key":"z"}}}"#;
    gw.check(orphan, 404, error("consumer not found")).await;
    // 19–24
    let answer = gw.send("GET /routes?page=1&page_size=5").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, "page_size must be between 10 and 500"));
    gw.check("GET /nope", 404, error("Unsupported resource type: nope")).await;
    let answer = bare("GET /routes").to(gw.address()).await.unwrap();
    let refused = json!({"error_msg": "failed to check token", "description": "missing apikey"});
    assert_eq!((answer.status, answer.json().unwrap()), (401, refused));
    gw.check("DELETE /routes/1", 200, json!({"key": "/apisix/routes/1", "deleted": "1"})).await;
    let answer = gw.send("GET /plugins/list?subsystem=x").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, "invalid subsystem passed"));
    let reload = error("please use PUT method to reload the plugins, GET method is not allowed.");
    gw.check("GET /plugins/reload", 405, reload).await;
}
