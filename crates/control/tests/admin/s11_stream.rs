//! Stream routes: §2.6, §4, §11 and §12 where TCP and UDP are served.

use crate::gateway::{Gateway, on_both};
use serde_json::json;

on_both!(
    s2_6_and_4_methods_of_stream_routes,
    s8_5_lists_by_service_and_upstream,
    s11_1_addresses_of_stream_routes,
    s11_1_dangling_references_of_stream_routes,
    s11_1_plugins_of_stream_routes,
    s11_1_protocols_of_stream_routes,
    s11_1_superiors_of_stream_routes,
    s11_2_what_stream_routes_keep_from_being_deleted,
    s12_plugins_of_the_subsystem,
    s14_stream_routes_in_a_configuration,
);

async fn s2_6_and_4_methods_of_stream_routes(gw: Gateway) {
    let gw = gw.with_streams().await;
    gw.check("GET /stream_routes", 200, json!({"total": 0, "list": []})).await;
    let upstream = json!({"nodes": {"127.0.0.1:1995": 1}, "type": "roundrobin"});
    let value = gw.done(&format!(r#"PUT /stream_routes/1 {{"server_port":9100,"upstream":{upstream}}}"#)).await;
    assert_eq!((&value["id"], &value["server_port"]), (&json!("1"), &json!(9100)));
    let answer = gw.send(r#"POST /stream_routes {"sni":"*.a.test"}"#).await;
    let body = answer.json().unwrap();
    assert_eq!((answer.status, &body["value"]["sni"]), (201, &json!("*.a.test")));
    let id = body["value"]["id"].as_str().unwrap().to_owned();
    assert_eq!(body["key"], format!("/apisix/stream_routes/{id}"));
    assert_eq!(gw.send(&format!("GET /stream_routes/{id}")).await.status, 200);
    let refusal = "not supported `PATCH` method for stream route";
    gw.refused(r#"PATCH /stream_routes/1 {"server_port":9101}"#, 405, refusal).await;
    gw.done("DELETE /stream_routes/1").await;
    gw.check("GET /stream_routes/1", 404, json!({"message": "Key not found"})).await;
}

async fn s8_5_lists_by_service_and_upstream(gw: Gateway) {
    let gw = gw.with_streams().await;
    for line in [
        r#"PUT /upstreams/u {"nodes":{}}"#,
        "PUT /services/s {}",
        r#"PUT /stream_routes/1 {"service_id":"s"}"#,
        r#"PUT /stream_routes/2 {"upstream_id":"u"}"#,
        r#"PUT /stream_routes/3 {"service_id":"s","upstream_id":"u"}"#,
    ] {
        gw.done(line).await;
    }
    let ids = async |filter: &str| {
        let list = gw.send(&format!("GET /stream_routes?filter={filter}")).await.json().unwrap();
        let of = |item: &serde_json::Value| item["value"]["id"].as_str().unwrap().to_owned();
        let mut ids: Vec<String> = list["list"].as_array().unwrap().iter().map(of).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids("service_id%3Ds").await, ["1", "3"]);
    assert_eq!(ids("upstream_id%3Du").await, ["2", "3"]);
    assert_eq!(ids("service_id%3Ds%26upstream_id%3Du").await, ["3"]);
}

async fn s11_1_addresses_of_stream_routes(gw: Gateway) {
    let gw = gw.with_streams().await;
    for (name, value) in [("remote_addr", "10.0.0.0/33"), ("remote_addr", "a"), ("server_addr", "127.0.0.1:80")] {
        let line = format!(r#"PUT /stream_routes/1 {{"{name}":"{value}"}}"#);
        gw.refused(&line, 400, &format!("invalid {name}: {value}")).await;
    }
    for port in ["0", "65536", r#""80""#] {
        assert_eq!(gw.send(&format!(r#"PUT /stream_routes/1 {{"server_port":{port}}}"#)).await.status, 400, "{port}");
    }
}

async fn s11_1_dangling_references_of_stream_routes(gw: Gateway) {
    let gw = gw.with_streams().await;
    for word in ["upstream", "service"] {
        let line = format!(r#"PUT /stream_routes/1 {{"{word}_id":"9"}}"#);
        let text = format!("failed to fetch {word} info by {word} id [9], response code: 404");
        gw.refused(&line, 400, &text).await;
    }
    let line = r#"PUT /stream_routes/1 {"upstream":{"nodes":{},"tls":{"client_cert_id":"9"}}}"#;
    gw.refused(line, 400, "failed to fetch ssl info by ssl id [9], response code: 404").await;
}

async fn s11_1_plugins_of_stream_routes(gw: Gateway) {
    let gw = gw.with_streams().await;
    gw.done(r#"PUT /stream_routes/1 {"plugins":{"limit-conn":{"count":1},"ip-restriction":{}}}"#).await;
    let unknown = "unknown plugin [limit-count]; did you mean [limit-conn]?";
    gw.refused(r#"PUT /stream_routes/1 {"plugins":{"limit-count":{"count":1}}}"#, 400, unknown).await;
    let wrong = "failed to check the configuration of stream plugin [limit-conn]: property \"count\" validation failed: \
                 expected 0 to be at least 1";
    gw.refused(r#"PUT /stream_routes/1 {"plugins":{"limit-conn":{"count":0}}}"#, 400, wrong).await;
    gw.done(r#"PUT /stream_routes/1 {"plugins":{"limit-conn":{"count":0,"_meta":{"disable":true}}}}"#).await;
}

async fn s11_1_protocols_of_stream_routes(gw: Gateway) {
    let gw = gw.with_streams().await;
    gw.refused(r#"PUT /stream_routes/1 {"protocol":{"name":"nope"}}"#, 400, "unknown protocol [nope]").await;
    for line in [
        r#"PUT /stream_routes/1 {"protocol":{}}"#,
        r#"PUT /stream_routes/1 {"protocol":{"name":"redis","logger":[{"name":"syslog"}]}}"#,
        r#"PUT /stream_routes/1 {"protocol":{"name":"redis","more":1}}"#,
    ] {
        assert_eq!(gw.send(line).await.status, 400, "{line}");
    }
    gw.done(r#"PUT /stream_routes/1 {"protocol":{"name":"redis","conf":{"faults":[]},"logger":[{"name":"syslog","filter":[],"conf":{}}]}}"#).await;
}

async fn s11_1_superiors_of_stream_routes(gw: Gateway) {
    let gw = gw.with_streams().await;
    let subordinate = |id: &str, name: &str, superior: &str| {
        format!(r#"PUT /stream_routes/{id} {{"protocol":{{"name":"{name}","superior_id":"{superior}"}}}}"#)
    };
    gw.refused(&subordinate("1", "redis", "1"), 400, "stream route can not set itself as superior_id").await;
    gw.refused(&subordinate("1", "redis", "9"), 400, "failed to fetch stream routes[9], response code: 404").await;
    gw.done(r#"PUT /stream_routes/9 {"protocol":{"name":"redis"}}"#).await;
    let mismatch = "protocol mismatch: subordinate protocol [dubbo] does not match superior protocol [redis]";
    gw.refused(&subordinate("1", "dubbo", "9"), 400, mismatch).await;
    gw.done(&subordinate("1", "redis", "9")).await;
}

async fn s11_2_what_stream_routes_keep_from_being_deleted(gw: Gateway) {
    let gw = gw.with_streams().await;
    for line in [
        r#"PUT /upstreams/u {"nodes":{}}"#,
        "PUT /services/s {}",
        r#"PUT /stream_routes/9 {"protocol":{"name":"redis"},"upstream_id":"u","service_id":"s"}"#,
        r#"PUT /stream_routes/1 {"protocol":{"name":"redis","superior_id":"9"}}"#,
    ] {
        gw.done(line).await;
    }
    let used = "can not delete this service directly, stream_route [9] is still using it now";
    gw.refused("DELETE /services/s", 400, used).await;
    let used = "can not delete this stream route directly, stream route [1] is still using it as superior_id";
    gw.refused("DELETE /stream_routes/9", 400, used).await;
    // The upstream of a stream route is not looked after.
    gw.done("DELETE /upstreams/u").await;
    gw.done("DELETE /stream_routes/1").await;
    gw.done("DELETE /stream_routes/9").await;
    gw.done("DELETE /services/s").await;
}

async fn s12_plugins_of_the_subsystem(gw: Gateway) {
    let gw = gw.with_streams().await;
    gw.check("GET /plugins/list?subsystem=stream", 200, json!(["ip-restriction", "limit-conn"])).await;
    let all = gw.send("GET /plugins?all=true&subsystem=stream").await.json().unwrap();
    let names: Vec<&String> = all.as_object().unwrap().keys().collect();
    assert_eq!(names, ["ip-restriction", "limit-conn"]);
    assert_eq!(all["limit-conn"]["priority"], 1003);
    let schema = gw.send("GET /plugins/limit-conn?subsystem=stream").await.json().unwrap();
    assert_eq!(schema["properties"]["count"]["minimum"], 1);
    gw.refused("GET /plugins/limit-conn", 404, "plugin not found in subsystem http").await;
    gw.refused("GET /plugins/key-auth?subsystem=stream", 404, "plugin not found in subsystem stream").await;
}

async fn s14_stream_routes_in_a_configuration(gw: Gateway) {
    let gw = gw.with_streams().await;
    let good = json!({"stream_routes": [{"id": "1", "plugins": {"limit-conn": {"count": 1}}}]});
    gw.check(&format!("POST /configs/validate {good}"), 200, json!({})).await;
    let bad = json!({"stream_routes": [{"id": "1", "plugins": {"key-auth": {}}}]});
    let errors = json!([{
        "resource_type": "stream_routes", "resource_id": "1", "index": 0, "error": "unknown plugin [key-auth]",
    }]);
    let expected = json!({"error_msg": "Configuration validation failed", "errors": errors});
    gw.check(&format!("POST /configs/validate {bad}"), 400, expected).await;
}
