//! Everything that must be refused: nothing stored, no revision made.

use crate::gateway::{Gateway, on_both};
use milecastle_settings::Size;
use milecastle_testkit::Call;
use milecastle_testkit::bad_input::{BEFORE, REFUSED, refused_in_free_text};
use serde_json::json;

on_both!(nothing_bad_is_stored, faults_show_no_secret);

async fn nothing_bad_is_stored(gw: Gateway) {
    gw.done(BEFORE).await;
    let before = gw.revision().await;
    for (line, status, message) in REFUSED {
        gw.refused(line, status, message).await;
    }
    for (line, status, part) in refused_in_free_text() {
        let answer = gw.send(&line).await;
        let said = answer.json().unwrap()["error_msg"].clone();
        let line: String = line.chars().take(200).collect();
        assert!(answer.status == status && said.as_str().unwrap().contains(part), "{line}: {} {said}", answer.status);
    }
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
