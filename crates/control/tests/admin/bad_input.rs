//! Everything that must be refused: status and message exact, nothing stored, no revision made.

use crate::gateway::{Gateway, on_both};
use milecastle_settings::Size;
use milecastle_testkit::Call;
use serde_json::json;

on_both!(nothing_bad_is_stored, faults_show_no_secret);

async fn nothing_bad_is_stored(gw: Gateway) {
    gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"taken"}}}"#).await;
    let before = gw.revision().await;
    let count = "failed to check the configuration of plugin limit-count err: ";
    for (line, status, message) in [
        (
            r#"PUT /routes/1 {"uri":1,"plugins":{}}"#,
            400,
            r#"invalid configuration: property "uri" validation failed: wrong type: expected string, got number"#,
        ),
        (r#"PUT /routes/1 {"uri":"/a","plugins":{"nope":{}}}"#, 400, "unknown plugin [nope]"),
        (
            r#"PUT /routes/1 {"uri":"/a","plugins":{"limit_count":{}}}"#,
            400,
            "unknown plugin [limit_count]; did you mean [limit-count]?",
        ),
        (
            r#"PUT /routes/1 {"uri":"/a","plugins":{"limit-count":{"count":-1}}}"#,
            400,
            &format!(r#"{count}property "count" validation failed: expected -1 to be at least 1"#),
        ),
        (
            r#"PUT /routes/1 {"uri":"/a","upstream_id":"9"}"#,
            400,
            "failed to fetch upstream info by upstream id [9], response code: 404",
        ),
        (
            r#"PUT /routes/1 {"uri":"/a","service_id":"9"}"#,
            400,
            "failed to fetch service info by service id [9], response code: 404",
        ),
        (
            r#"PUT /consumers {"username":"zoe","plugins":{"key-auth":{"key":"taken"}}}"#,
            400,
            "duplicate key of plugin key-auth found with consumer: jack",
        ),
        (r#"PUT /consumers/nobody/credentials/c {"plugins":{"key-auth":{"key":"k"}}}"#, 404, "consumer not found"),
        (r#"PUT /routes {"uri":"/a","plugins":{}}"#, 400, "missing route id"),
        (r#"PUT /routes/1"#, 400, "missing configurations"),
        (r#"PUT /routes/1?gateway_group_id=nope {"uri":"/a","plugins":{}}"#, 404, "gateway group [nope] not found"),
        (r#"PUT /nope/1 {}"#, 404, "Unsupported resource type: nope"),
    ] {
        gw.refused(line, status, message).await;
    }
    // Those with free text, and the large one, stand in §2 and §11; here it is what they leave behind.
    let large = gw.call("PUT /upstreams/1").body(vec![b' '; 2 << 20]).to(gw.address()).await.unwrap();
    let junk = format!("-----BEGIN CERTIFICATE-----\\n{}\\n-----END CERTIFICATE-----", "A".repeat(200));
    let ssl = gw.send(&format!(r#"PUT /ssls/1 {{"sni":"a.b","cert":"{junk}","key":"{junk}"}}"#)).await;
    let malformed = gw.send(r#"PUT /routes/1 {"uri":"/a",}"#).await;
    let deep = gw.send(&format!("PUT /routes/1 {}", "[".repeat(100_000))).await;
    let id = gw.send(r#"PUT /upstreams/a%00b {"nodes":{}}"#).await;
    let key = gw.call(r#"PUT /upstreams/1?api_key=wrong {"nodes":{}}"#).to(gw.address()).await.unwrap();
    let statuses = [large, ssl, malformed, deep, id, key].map(|answer| answer.status);
    assert_eq!(statuses, [400, 400, 400, 400, 400, 401]);
    let objects = gw.store.load("default").await.unwrap().objects;
    assert_eq!((gw.revision().await, objects.len()), (before, 1));
}

async fn faults_show_no_secret(gw: Gateway) {
    let key = format!("-----BEGIN PRIVATE KEY-----\\n{}\\n-----END PRIVATE KEY-----", "S3CR3T".repeat(20));
    for line in [
        format!(r#"PUT /ssls/1 {{"sni":"a.b","cert":"{key}","key":"{key}"}}"#),
        format!(r#"PUT /upstreams/1 {{"nodes":{{}},"tls":{{"client_cert":"{key}","client_key":"{key}"}}}}"#),
    ] {
        let answer = gw.send(&line).await;
        assert_eq!(answer.status, 400);
        assert!(!answer.text().contains("S3CR3T"), "{}", answer.text());
    }
}

#[tokio::test]
async fn what_is_larger_than_nodes_take_is_stored_by_no_path() {
    let gw = Gateway::configured(|settings| settings.admin.max_body = Size::kib(64 << 10)).await;
    gw.done(r#"PUT /routes/1 {"uri":"/a","plugins":{}}"#).await;
    let before = gw.revision().await;
    let large = json!({ "response-rewrite": { "body": "x".repeat(17 << 20) } });
    let route = json!({ "id": "1", "uri": "/a", "plugins": large });
    let expected = "invalid configuration: an object has at most 16711680 bytes, this one has ";
    for (line, body) in [
        ("PUT /routes/1", &route),
        ("PATCH /routes/1", &json!({ "plugins": large })),
        ("PATCH /routes/1/plugins", &large),
        ("POST /routes", &json!({ "uri": "/a", "plugins": large })),
        ("PUT /configs", &json!({ "routes": [route] })),
    ] {
        let call = gw.call(line).header("x-digest", "d").body(body.to_string());
        let answer = call.to(gw.address()).await.unwrap();
        let message = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400, "{line}: {message}");
        assert!(message.starts_with(expected) && message.ends_with(", most of them in plugins"), "{line}: {message}");
    }
    let large = json!({ "nothing": "x".repeat(17 << 20) });
    let settings = Call::new(http::Method::PUT, "/api/gateway_groups/default/settings").body(large.to_string());
    let refused = settings.header("x-api-key", crate::gateway::KEY).to(gw.address()).await.unwrap();
    let faults = refused.json().unwrap()["faults"].clone();
    assert!(faults.as_array().unwrap().iter().any(|fault| fault["path"] == "/nothing"), "{faults}");
    assert_eq!((refused.status, gw.revision().await), (400, before));
}
