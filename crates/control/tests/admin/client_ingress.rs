//! What the ingress controller of APISIX has adc write, what its first generation asked for itself, and how servers are named
//! (`docs/spec/clients.md` §5, §8).

use crate::gateway::{Gateway, bare, on_both};
use serde_json::{Value, json};

on_both!(
    c5_3_labels_say_whose_objects_are,
    c5_4_objects_have_these_attributes,
    c5_5_what_the_first_generation_asked_for,
    c8_the_server_has_its_own_name_or_the_one_that_is_set,
);

/// Writes an object that must come back as it was sent.
async fn kept(gw: &Gateway, path: &str, body: Value) {
    gw.done(&format!("PUT {path} {body}")).await;
    assert_eq!(gw.read(path).await, body, "{path}");
}

async fn c5_3_labels_say_whose_objects_are(gw: Gateway) {
    let labels = json!({
        "k8s/kind": "HTTPRoute", "k8s/namespace": "default", "k8s/name": "web", "k8s/controller-name": "apisix.apache.org/x",
        "manager-by": "apisix-ingress-controller",
    });
    kept(&gw, "/services/s", json!({"id": "s", "labels": labels})).await;
    kept(&gw, "/consumers/jack", json!({"username": "jack", "labels": labels})).await;
}

async fn c5_4_objects_have_these_attributes(gw: Gateway) {
    let gw = gw.with_streams().await;
    let nodes = json!([{"host": "127.0.0.1", "port": 80, "weight": 1}]);
    kept(&gw, "/upstreams/u", json!({"id": "u", "nodes": nodes})).await;
    let split = json!({"traffic-split": {"rules": [{"weighted_upstreams": [{"upstream_id": "u", "weight": 1}]}]}});
    let service = json!({"id": "s", "hosts": ["a.example"], "plugins": split, "upstream_id": "u"});
    kept(&gw, "/services/s", service).await;
    let route = json!({
        "id": "r", "service_id": "s", "uris": ["/a/*"], "hosts": ["a.example"], "methods": ["GET"],
        "vars": [["http_x", "==", "1"]], "priority": 1, "timeout": {"connect": 60, "send": 60, "read": 60},
        "enable_websocket": true,
    });
    kept(&gw, "/routes/r", route).await;
    kept(&gw, "/stream_routes/t", json!({"id": "t", "service_id": "s", "server_port": 9100, "sni": "a.example"})).await;
}

async fn c5_5_what_the_first_generation_asked_for(gw: Gateway) {
    let gw = gw.with_streams().await;
    for (collection, body) in [
        ("upstreams", r#"{"nodes":{}}"#),
        ("services", "{}"),
        ("routes", r#"{"uri":"/a","plugins":{}}"#),
        ("stream_routes", r#"{"server_port":9100}"#),
        ("global_rules", r#"{"plugins":{"limit-count":{"count":1}}}"#),
        ("plugin_configs", r#"{"plugins":{}}"#),
    ] {
        let object = format!("/{collection}/1");
        for (line, status) in [
            (format!("GET /{collection}"), 200),
            (format!("PUT {object} {body}"), 201),
            (format!("PUT {object} {body}"), 200),
            (format!("GET {object}"), 200),
            (format!("DELETE {object}"), 200),
            (format!("GET {object}"), 404),
        ] {
            assert_eq!(gw.send(&line).await.status, status, "{line}");
        }
    }
    for path in ["/schema/route", "/schema/plugins/limit-count", "/plugins/list"] {
        assert_eq!(gw.send(&format!("GET {path}")).await.status, 200, "{path}");
    }
}

async fn c8_the_server_has_its_own_name_or_the_one_that_is_set(gw: Gateway) {
    let name = async |gw: &Gateway| bare("HEAD ").to(gw.address()).await.unwrap().header("server");
    assert!(name(&gw).await.starts_with("Milecastle/"));
    let named = gw.replica_with(|settings| settings.admin.server_header = "APISIX/3.18.0".into()).await;
    assert_eq!(name(&named).await, "APISIX/3.18.0");
}
