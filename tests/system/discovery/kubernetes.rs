//! The registry `kubernetes`.

use super::{dump, fails, route, served_by, serving, up};
use milecastle_testkit::registry::{Fault, Kubernetes};
use milecastle_testkit::{Echo, TempDir, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;

fn slice(namespace: &str, name: &str, service: &str, echo: &Echo, ready: bool) -> Value {
    let labels = json!({ "kubernetes.io/service-name": service });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": namespace, "name": name, "labels": labels },
        "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": ready } }],
        "ports": [{ "name": "http", "port": echo.port(), "protocol": "TCP" }],
    })
}

fn endpoints(namespace: &str, name: &str, echoes: &[&Echo]) -> Value {
    let subset = |echo: &&Echo| json!({ "addresses": [{ "ip": "127.0.0.1" }], "ports": [{ "name": "http", "port": echo.port() }] });
    let subsets: Vec<Value> = echoes.iter().map(subset).collect();
    json!({ "kind": "Endpoints", "metadata": { "namespace": namespace, "name": name }, "subsets": subsets })
}

fn settings(address: SocketAddr, more: Value) -> Value {
    let service = json!({ "schema": "http", "host": address.ip().to_string(), "port": address.port() });
    let mut own = json!({ "service": service, "timeout": "500ms" });
    own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "kubernetes": own })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_14_kubernetes_slices_are_listed_and_watched() {
    let cluster = Kubernetes::start("token 1");
    let (a, b, c) = (Echo::named("a"), Echo::named("b"), Echo::named("c"));
    let kind = "endpointslices";
    cluster.put(kind, slice("shop", "web-1", "web", &a, true));
    cluster.put(kind, slice("shop", "other-1", "other", &c, true));
    let dir = TempDir::new();
    let token = dir.write("token", "token 1\n");
    let client = json!({ "token_file": token.to_str().unwrap() });
    let up =
        up(&settings(cluster.address(), json!({ "watch_endpoint_slices": true, "watch_for": "1s", "client": client })));
    route(&up, "kubernetes", "shop/web:http", json!({})).await;
    up.answers("/", 200).await;
    served_by(&up, &["a"]).await;
    cluster.put(kind, slice("shop", "web-2", "web", &b, true));
    served_by(&up, &["a", "b"]).await;
    cluster.put(kind, slice("shop", "web-1", "web", &a, false));
    served_by(&up, &["b"]).await;
    drop(a);
    assert_eq!(serving(&up, 20).await.len(), 1);
    // Watches end and go on from the last version; one whose version is gone is followed by a list.
    let lists = || cluster.asked().iter().filter(|asked| !asked.parameters().contains_key("watch")).count();
    let listed = lists();
    let watches = || cluster.asked().len() - lists();
    let watched = watches();
    eventually("further watches", async || watches() > watched + 1).await;
    assert_eq!(lists(), listed);
    cluster.compact();
    cluster.put(kind, slice("shop", "web-1", "web", &c, true));
    served_by(&up, &["b", "c"]).await;
    eventually("a list", async || lists() > listed).await;
    // Tokens are renewed: the file is read again.
    cluster.set_token("token 2");
    fails(&up, "kubernetes", "shop/web:http", true).await;
    assert_eq!(serving(&up, 10).await.len(), 2);
    dir.write("token", "token 2\n");
    fails(&up, "kubernetes", "shop/web:http", false).await;
    cluster.delete(kind, "shop", "web-1");
    served_by(&up, &["b"]).await;
    let shown = json!([{ "host": "127.0.0.1", "port": b.port(), "weight": 50 }]);
    assert_eq!(dump(&up, "kubernetes").await["services"], json!({ "shop/web:http": shown }));
    cluster.delete(kind, "shop", "web-2");
    up.answers("/", 503).await;
    assert!(up.process.log().iter().all(|line| !line.contains("token 1") && !line.contains("token 2")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_of_chosen_namespaces_are_read_and_failures_take_nothing_away() {
    let mut cluster = Kubernetes::start("t");
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    cluster.put("endpoints", endpoints("shop", "web", &[&a]));
    cluster.put("endpoints", endpoints("test", "web", &[&b]));
    let more = json!({ "client": { "token": "t" }, "namespace_selector": { "match": ["sh.p", "s"] } });
    let up = up(&settings(cluster.address(), more));
    route(&up, "kubernetes", "shop/web:http", json!({})).await;
    up.answers("/", 200).await;
    served_by(&up, &["a"]).await;
    for fault in [Fault::Garbage, Fault::Long(10 << 20), Fault::Status(500), Fault::Silence] {
        cluster.fail(Some(fault));
        // The watch that is open ends with the server.
        cluster.stop();
        cluster.start();
        fails(&up, "kubernetes", "shop/web:http", true).await;
        assert_eq!(serving(&up, 10).await.len(), 1, "{fault:?}");
        cluster.fail(None);
        fails(&up, "kubernetes", "shop/web:http", false).await;
    }
    cluster.stop();
    fails(&up, "kubernetes", "shop/web:http", true).await;
    assert_eq!(serving(&up, 10).await.len(), 1);
    cluster.put("endpoints", endpoints("shop", "web", &[&b]));
    cluster.start();
    served_by(&up, &["b"]).await;
    route(&up, "kubernetes", "test/web:http", json!({})).await;
    up.answers("/", 503).await;
    route(&up, "kubernetes", "web", json!({})).await;
    eventually("the name to be refused", async || {
        assert_eq!(up.get("/").await.status, 503);
        let error = dump(&up, "kubernetes").await["state"]["web"]["error"].clone();
        error.as_str().is_some_and(|error| error.ends_with("expected `namespace/name:port`"))
    })
    .await;
}
