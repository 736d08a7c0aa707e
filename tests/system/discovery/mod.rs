//! Service discovery (`docs/discovery.md`, `docs/spec/resources.md` §14): where the nodes of an upstream are is asked of
//! registries.

mod consul;
mod consul_kv;
mod dns;
mod eureka;
mod group;
mod kubernetes;
mod nacos;

use milecastle_testkit::{Call, Echo, eventually};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// These registries, asked again soon after a failure.
pub(crate) fn quick(registries: &Value) -> String {
    let mut discovery = json!({ "retry_min": "50ms", "retry_max": "200ms", "write_delay": "50ms" });
    discovery.as_object_mut().unwrap().extend(registries.as_object().unwrap().clone());
    discovery.to_string()
}

/// The product with these registries.
fn up(registries: &Value) -> Up {
    Up::start_with(&[("MILECASTLE__GATEWAY__DISCOVERY", &quick(registries))])
}

/// A route of everything to the service of a registry, without a second try.
async fn route(up: &Up, registry: &str, service: &str, more: Value) {
    let mut upstream = json!({ "discovery_type": registry, "service_name": service, "retries": 0 });
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    up.put("/upstreams/u", upstream).await;
    up.put("/routes/r", json!({ "uri": "/*", "upstream_id": "u" })).await;
}

/// The names of the nodes that answer so many requests; each is answered with 200.
async fn serving(up: &Up, requests: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..requests {
        let answer = up.get("/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        names.insert(answer.json().unwrap()["server"].as_str().unwrap().to_owned());
    }
    names
}

/// Waits until exactly these nodes answer; no request fails meanwhile.
async fn served_by(up: &Up, names: &[&str]) {
    let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    eventually(&format!("only {names:?} to answer"), async || serving(up, 8).await == wanted).await;
}

/// What the control API tells of a registry's services.
pub(crate) async fn dump(up: &Up, registry: &str) -> Value {
    let answer = Call::get(&format!("/v1/discovery/{registry}/dump")).to(up.control).await.unwrap();
    assert_eq!(answer.status, 200);
    answer.json().unwrap()
}

/// Waits until the control API says that the registry fails for a service, or that it does not.
pub(crate) async fn fails(up: &Up, registry: &str, service: &str, fails: bool) {
    eventually(&format!("{registry} to fail: {fails}"), async || {
        dump(up, registry).await["state"][service]["error"].is_null() != fails
    })
    .await;
}

/// Waits until a metric of a service has a value that is as wanted: the page is made anew each second.
async fn measured(up: &Up, name: &str, registry: &str, service: &str, wanted: impl Fn(f64) -> bool) {
    eventually(name, async || metric(up, name, registry, service).await.is_some_and(&wanted)).await;
}

/// The value of a metric of a service.
async fn metric(up: &Up, name: &str, registry: &str, service: &str) -> Option<f64> {
    up.metric(&format!("apisix_{name}{{type=\"{registry}\",service=\"{service}\"}}")).await
}

fn addresses(echoes: &[&Echo]) -> Vec<SocketAddr> {
    echoes.iter().map(|echo| echo.address()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_14_a_registry_that_is_not_configured_has_no_nodes() {
    let up = Up::start();
    route(&up, "consul", "web", json!({})).await;
    up.answers("/", 503).await;
    assert_eq!(Call::get("/v1/discovery/consul/dump").to(up.control).await.unwrap().status, 404);
    let said = up.process.log().into_iter().filter(|line| line.contains("discovery is uninitialized")).count();
    assert_eq!(said, 1, "it is said once, not for each request");
}
