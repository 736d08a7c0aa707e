//! §7: what is stored, and what of it is shown.

use crate::gateway::{Gateway, T, on_both};
use milecastle_testkit::tls::Authority;
use serde_json::{Value, json};

on_both!(
    s7_no_defaults_are_added,
    s7_numbers_and_order_survive,
    s7_private_keys_of_ssls,
    s7_private_keys_of_upstreams,
    s7_plugin_secrets_are_shown_decrypted,
    s7_private_keys_within_plugins_are_not_stored_in_clear,
);

async fn s7_no_defaults_are_added(gw: Gateway) {
    gw.done(r#"PUT /routes/1 {"uri":"/a","plugins":{"limit-count":{"count":1}}}"#).await;
    let expected = json!({
        "id": "1", "uri": "/a", "plugins": {"limit-count": {"count": 1}}, "create_time": T, "update_time": T,
    });
    assert_eq!(gw.send("GET /routes/1").await.json().unwrap()["value"], expected);
}

async fn s7_numbers_and_order_survive(gw: Gateway) {
    let body =
        r#"{"uri":"/z","plugins":{"b":0},"labels":{"z":"1","a":"2"},"timeout":{"connect":0.1,"send":2.50,"read":1e3}}"#;
    let body = body.replace(r#""plugins":{"b":0},"#, r#""plugins":{"traffic-split":{"n":12345678901234567}},"#);
    gw.done(&format!("PUT /routes/1 {body}")).await;
    let text = gw.send("GET /routes/1").await.text();
    let place = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} in {text}"));
    assert!(place(r#""uri""#) < place(r#""plugins""#) && place(r#""z":"1""#) < place(r#""a":"2""#), "{text}");
    assert!(text.contains("12345678901234567") && text.contains("0.1") && text.contains("2.5"), "{text}");
}

fn pair() -> (String, String) {
    let identity = Authority::new("tests").issue(&["a.example"]);
    (identity.cert.clone(), identity.key.clone())
}

async fn put(gw: &Gateway, path: &str, body: &Value) -> Value {
    gw.done(&format!("PUT {path} {body}")).await
}

async fn s7_private_keys_of_ssls(gw: Gateway) {
    let ((cert, key), (second, other)) = (pair(), pair());
    let body = json!({"sni": "a.example", "cert": cert, "key": key, "certs": [second], "keys": [other]});
    let written = put(&gw, "/ssls/1", &body).await;
    assert_eq!(written["cert"], json!(cert), "certificates come back byte for byte");
    let marks = [written["key"].as_str().unwrap(), written["keys"][0].as_str().unwrap()];
    assert!(marks.iter().all(|mark| mark.starts_with("sealed:sha256:")) && marks[0] != marks[1]);
    for line in ["GET /ssls/1", "GET /ssls"] {
        let text = gw.send(line).await.text();
        assert!(!text.contains("\"key\":\"-") && !text.contains("\"keys\"") && !text.contains("PRIVATE"), "{text}");
        assert!(text.contains("\"certs\""));
    }
    // What an answer showed may be sent back, and a PATCH that does not touch the keys keeps them.
    let before = gw.revision().await;
    let back = json!({"sni": "a.example", "cert": cert, "key": marks[0], "certs": [second], "keys": [marks[1]]});
    assert_eq!(put(&gw, "/ssls/1", &back).await, written);
    assert_eq!(gw.revision().await, before, "the same keys are no change");
    let patched = gw.done(r#"PATCH /ssls/1 {"sni":"b.example"}"#).await;
    assert_eq!((&patched["key"], &patched["sni"]), (&written["key"], &json!("b.example")));
    let swapped = json!({"sni": "a.example", "cert": cert, "key": marks[0].replace(':', ";")});
    assert_eq!(gw.send(&format!("PUT /ssls/1 {swapped}")).await.status, 400);
    let stolen = json!({"sni": "a.example", "cert": cert, "key": marks[0]});
    gw.refused(&format!("PUT /ssls/2 {stolen}"), 400, "failed to decrypt previous encrypted key").await;
}

async fn s7_private_keys_of_upstreams(gw: Gateway) {
    let (cert, key) = pair();
    let tls = json!({"nodes": {"a:1": 1}, "scheme": "https", "tls": {"client_cert": cert, "client_key": key}});
    for (path, body, at) in [
        ("/upstreams/1", tls.clone(), "/tls/client_key"),
        ("/services/1", json!({"upstream": tls}), "/upstream/tls/client_key"),
        ("/routes/1", json!({"uri": "/a", "upstream": tls}), "/upstream/tls/client_key"),
    ] {
        let written = put(&gw, path, &body).await;
        let shown = gw.send(&format!("GET {path}")).await.json().unwrap()["value"].clone();
        assert_eq!(written.pointer(at), shown.pointer(at), "{path}");
        assert!(shown.pointer(at).unwrap().as_str().unwrap().starts_with("sealed:sha256:"), "{path}");
        // Read, edited, sent back.
        let mut edited = shown;
        edited.as_object_mut().unwrap().retain(|name, _| !["create_time", "update_time"].contains(&name.as_str()));
        edited["desc"] = "edited".into();
        assert_eq!(put(&gw, path, &edited).await["desc"], "edited", "{path}");
    }
}

async fn s7_plugin_secrets_are_shown_decrypted(gw: Gateway) {
    let body = r#"{"username":"jack","plugins":{"basic-auth":{"username":"j","password":"hush-hush"}}}"#;
    gw.done(&format!("PUT /consumers {body}")).await;
    let shown = gw.send("GET /consumers/jack").await.json().unwrap();
    assert_eq!(shown["value"]["plugins"]["basic-auth"]["password"], "hush-hush");
    if let Some(database) = gw.database() {
        assert!(!database.dump().unwrap().contains(&hex("hush-hush")), "stored in clear");
    }
}

async fn s7_private_keys_within_plugins_are_not_stored_in_clear(gw: Gateway) {
    let (cert, key) = pair();
    let upstream = json!({"nodes": {"a:1": 1}, "scheme": "https", "tls": {"client_cert": cert, "client_key": key}});
    let split = json!({"rules": [{"weighted_upstreams": [{"weight": 1, "upstream": upstream}]}]});
    put(&gw, "/routes/1", &json!({"uri": "/a", "plugins": {"traffic-split": split}})).await;
    if let Some(database) = gw.database() {
        let line = key.lines().nth(1).unwrap();
        assert!(!database.dump().unwrap().contains(&hex(line)), "stored in clear");
    }
}

/// How a dump writes bytes.
pub(crate) fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
