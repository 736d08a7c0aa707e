//! §2: the order of checks.

use crate::gateway::{Gateway, bare, on_both};
use milecastle_settings::Declarative;
use serde_json::json;

on_both!(
    s2_1_a_peer_outside_the_list_gets_403,
    s2_2_options_is_answered_before_anything_is_looked_at,
    s2_3_what_the_route_table_lacks_gets_the_default_page,
    s2_3_exact_paths_fall_through_by_method,
    s2_4_the_key_comes_before_the_type,
    s2_5_types_and_sub_resources,
    s2_5_paths_that_name_no_object,
    s2_6_stream_routes_need_stream_mode,
    s2_7_unknown_type,
    s2_8_methods_that_a_type_lacks,
    s2_9_a_body_that_is_too_large,
    s2_9_a_body_that_is_no_json,
    s2_9_the_body_is_json_whatever_its_type,
    s2_10_ttl_must_be_a_number,
    s2_11_the_handler_looks_last,
    s2_groups_are_apart,
);

async fn s2_1_a_peer_outside_the_list_gets_403(_: Gateway) {
    let gw = Gateway::configured(|settings| {
        settings.admin.enable = true;
        settings.admin.allow_admin = vec!["192.0.2.0/24".parse().unwrap()];
    })
    .await;
    let outside = gw.dashboard.admin_address().unwrap();
    for line in ["GET /routes", "OPTIONS /routes", "HEAD ", "GET /nope"] {
        let answer = gw.call(line).to(outside).await.unwrap();
        assert_eq!((answer.status, answer.header("content-type").as_str()), (403, "text/html"), "{line}");
        assert_ne!(gw.call(line).to(gw.address()).await.unwrap().status, 403, "{line}");
    }
}

async fn s2_2_options_is_answered_before_anything_is_looked_at(gw: Gateway) {
    let without_cors = gw.replica_with(|settings| settings.admin.enable_admin_cors = false).await;
    for line in ["OPTIONS /routes", "OPTIONS /nope/1?ttl=x", "OPTIONS /routes {", "OPTIONS /routes?api_key=wrong"] {
        assert_eq!(bare(line).to(gw.address()).await.unwrap().status, 200, "{line}");
        assert_eq!(bare(line).to(without_cors.address()).await.unwrap().status, 404, "{line}");
    }
}

async fn s2_3_what_the_route_table_lacks_gets_the_default_page(gw: Gateway) {
    for line in ["GET ", "PUT ", "HEAD /routes", "TRACE /routes", "DELETE /"] {
        let answer = bare(line).to(gw.address()).await.unwrap();
        assert_eq!((answer.status, answer.header("content-type").as_str()), (404, "text/html"), "{line}");
        assert!(answer.json().is_err());
    }
}

async fn s2_3_exact_paths_fall_through_by_method(gw: Gateway) {
    gw.refused("PUT /plugins/list {}", 404, "not found").await;
    gw.refused("GET /configs/validate", 404, "Unsupported resource type: configs").await;
    gw.refused("DELETE /configs", 404, "Unsupported resource type: configs").await;
    let gw = Gateway::configured(|settings| settings.admin.declarative = Declarative::Off).await;
    gw.refused("GET /configs", 404, "Unsupported resource type: configs").await;
    gw.refused("PUT /configs {}", 404, "Unsupported resource type: configs").await;
}

async fn s2_4_the_key_comes_before_the_type(gw: Gateway) {
    for line in ["GET /nope", "PUT /routes/1 {", "GET /plugins/list", "POST /schema/validate/routes {}"] {
        assert_eq!(bare(line).to(gw.address()).await.unwrap().status, 401, "{line}");
    }
}

async fn s2_5_types_and_sub_resources(gw: Gateway) {
    let by_alias = gw.send("GET /schema/plugins/key-auth").await.json().unwrap();
    assert_eq!(by_alias, gw.send("GET /plugins/key-auth").await.json().unwrap());
    gw.done(r#"PUT /consumers {"username":"jack"}"#).await;
    let answer = gw.send(r#"PUT /consumers/jack/credentials/c1 {"plugins":{"key-auth":{"key":"a"}}}"#).await;
    assert_eq!(answer.json().unwrap()["key"], "/apisix/consumers/jack/credentials/c1");
}

async fn s2_5_paths_that_name_no_object(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    gw.done(r#"PUT /consumers {"username":"jack"}"#).await;
    let before = gw.revision().await;
    let secret = r#"{"uri":"http://a","prefix":"p","token":"t"}"#;
    for line in [
        "DELETE /upstreams/1/nodes",
        r#"PUT /upstreams/1/nodes {"nodes":{"a:1":1}}"#,
        "GET /upstreams/1/nodes",
        r#"PUT /consumers/jack%2Fcredentials%2Fx/credentials/y {"plugins":{"key-auth":{"key":"k"}}}"#,
        &format!("PUT /secrets/vault/a%2Fb {secret}"),
        r#"PATCH /services/s/graphql_cost_decorations/d/name "x""#,
    ] {
        gw.check(line, 404, json!({"message": "Key not found"})).await;
    }
    assert_eq!(gw.revision().await, before);
}

async fn s2_6_stream_routes_need_stream_mode(gw: Gateway) {
    for line in ["GET /stream_routes", "PUT /stream_routes/1 {}", "DELETE /stream_routes/1", "PATCH /stream_routes/1 {"]
    {
        gw.refused(line, 400, "stream mode is disabled, can not add stream routes").await;
    }
}

async fn s2_7_unknown_type(gw: Gateway) {
    gw.refused("PUT /nope/1 {}", 404, "Unsupported resource type: nope").await;
    gw.refused("GET /credentials/1", 404, "Unsupported resource type: credentials").await;
    // The type comes before the body.
    gw.refused("PUT /nope/1 {", 404, "Unsupported resource type: nope").await;
}

async fn s2_8_methods_that_a_type_lacks(gw: Gateway) {
    gw.refused("POST /schema/route {}", 404, "not found").await;
    gw.refused("DELETE /plugins/key-auth", 404, "not found").await;
    // The body comes before the method of a resource.
    let answer = gw.send("POST /consumers {").await;
    assert_eq!(answer.status, 400);
    gw.refused("POST /consumers {}", 405, "not supported `POST` method for consumer").await;
}

async fn s2_9_a_body_that_is_too_large(gw: Gateway) {
    let large = " ".repeat(2 << 20);
    let message = "invalid request body: request size 2097152 is greater than the maximum size 1572864 allowed";
    for method in ["PUT", "GET", "DELETE"] {
        let answer = gw.call(&format!("{method} /routes/1")).body(large.clone()).to(gw.address()).await.unwrap();
        assert_eq!((answer.status, answer.json().unwrap()), (400, json!({ "error_msg": message })));
    }
    let fits = format!(r#"{{"nodes":{{"a:1":1}},"desc":"{}"}}"#, "d".repeat(256));
    let fits = format!("{}{fits}", " ".repeat(1_572_864 - fits.len()));
    let answer = gw.call("PUT /upstreams/1").body(fits).to(gw.address()).await.unwrap();
    assert_eq!(answer.status, 201);
}

async fn s2_9_a_body_that_is_no_json(gw: Gateway) {
    for method in ["PUT", "POST", "GET", "DELETE", "PATCH"] {
        let answer = gw.send(&format!(r#"{method} /routes/1 {{"uri":"#)).await;
        let body = answer.json().unwrap();
        assert_eq!((answer.status, &body["req_body"]), (400, &json!(r#"{"uri":"#)));
        assert!(body["error_msg"].as_str().unwrap().starts_with("invalid request body: "), "{body}");
    }
    assert_eq!(gw.revision().await, 0);
}

async fn s2_9_the_body_is_json_whatever_its_type(gw: Gateway) {
    let call = gw.call(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#);
    let call = call.header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(call.to(gw.address()).await.unwrap().status, 201);
}

async fn s2_10_ttl_must_be_a_number(gw: Gateway) {
    for ttl in ["x", "", "1s", "0", "-1"] {
        let line = format!(r#"PUT /upstreams/1?ttl={ttl} {{"nodes":{{"a:1":1}}}}"#);
        gw.refused(&line, 400, "invalid argument ttl: should be a number").await;
    }
    // After the body, before the method of a resource.
    let answer = gw.send("POST /consumers?ttl=x {").await;
    assert!(answer.text().contains("invalid request body"));
    gw.refused("POST /consumers?ttl=x {}", 400, "invalid argument ttl: should be a number").await;
}

async fn s2_11_the_handler_looks_last(gw: Gateway) {
    // What only a handler finds, alone and beside what is found before.
    gw.refused("PUT /routes {}", 400, "missing route id").await;
    gw.refused("POST /consumers {}", 405, "not supported `POST` method for consumer").await;
    for line in ["PUT /routes?ttl=x {}", "POST /consumers?ttl=x {}"] {
        gw.refused(line, 400, "invalid argument ttl: should be a number").await;
    }
    for line in ["PUT /routes?ttl=x {", "POST /consumers?ttl=x {"] {
        let answer = gw.send(line).await;
        assert_eq!((answer.status, answer.json().unwrap()["req_body"].as_str()), (400, Some("{")), "{line}");
    }
}

async fn s2_groups_are_apart(gw: Gateway) {
    gw.by().group_create(&milecastle_store::NewGroup::named("test")).await.unwrap();
    milecastle_testkit::eventually("the new group is followed", async || gw.state.group("test").is_some()).await;
    gw.done(r#"PUT /upstreams/1?gateway_group_id=test {"nodes":{"a:1":1}}"#).await;
    assert_eq!(gw.send("GET /upstreams/1").await.status, 404);
    let by_header = gw.call("GET /upstreams/1").header("gateway_group_id", "test").to(gw.address()).await.unwrap();
    assert_eq!(by_header.status, 200);
    gw.refused("GET /routes?gateway_group_id=nope", 404, "gateway group [nope] not found").await;
}
