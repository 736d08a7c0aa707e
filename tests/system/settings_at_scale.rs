//! What a change of the settings of a group takes where there are many routes, and that no request is harmed meanwhile.

use milecastle_testkit::{Call, Echo, Target, wait_for};
use milecastle_tests::{ADMIN_KEY, Cluster, Replica, free, full};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long one step may take on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(600);
const CLIENTS: usize = 2;

/// Declares so many routes at once; gives how many bytes that are.
async fn declare(control: &Replica, echo: &Echo, routes: usize) -> usize {
    let upstream = json!({ "id": "u", "nodes": { echo.address().to_string(): 1 } });
    let route = |n: usize| json!({ "id": n.to_string(), "uri": format!("/api/{n}/items"), "upstream_id": "u" });
    let all: Vec<Value> = (0..routes).map(route).collect();
    let body = json!({ "upstreams": [upstream], "routes": all }).to_string();
    let bytes = body.len();
    let call = Call::new("PUT".parse().unwrap(), "/apisix/admin/configs").header("X-API-KEY", ADMIN_KEY);
    let answer = call.header("X-Digest", "1").body(body).within(PATIENCE).to(control.http).await.unwrap();
    assert!(matches!(answer.status, 200 | 202), "{} {}", answer.status, answer.text());
    bytes
}

/// Waits until the one node has all that is written.
async fn applied(cluster: &Cluster, control: &Replica) {
    let applied = async || cluster.operator(control, &["config", "wait"]).text.ends_with(": applied 1/1").then_some(());
    wait_for("the node has it", PATIENCE, applied).await;
}

/// Sends requests on a connection of its own until it is told to end, each answered with 200; gives how long each took.
fn client(http: SocketAddr, routes: usize, ends: &Arc<AtomicBool>) -> tokio::task::JoinHandle<Vec<Duration>> {
    let ends = ends.clone();
    tokio::spawn(async move {
        let mut connection = Target::plain(http).connect().await.unwrap();
        let mut took = Vec::new();
        while !ends.load(Ordering::Relaxed) {
            let target = format!("/api/{}/items", fastrand::usize(..routes));
            let begun = Instant::now();
            let answer = Call::get(&target).send(&mut connection).await.unwrap();
            assert_eq!(answer.status, 200, "{target}: {}", answer.text());
            took.push(begun.elapsed());
        }
        took
    })
}

/// Makes a change under load; prints what it took, and what requests took meanwhile.
async fn change(
    cluster: &Cluster,
    control: &Replica,
    (http, routes): (SocketAddr, usize),
    what: &str,
    settings: Value,
) {
    let ends = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(http, routes, &ends)).collect();
    let path = "/api/gateway_groups/default/settings?wait=30s";
    let call = Call::new("PATCH".parse().unwrap(), path).header("X-API-KEY", ADMIN_KEY);
    let begun = Instant::now();
    let answer = call.body(settings.to_string()).within(PATIENCE).to(control.http).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    if answer.json().unwrap()["receipt"] != "applied 1/1" {
        applied(cluster, control).await;
    }
    let taken = begun.elapsed();
    ends.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    for client in clients {
        took.extend(client.await.unwrap());
    }
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or_default();
    eprintln!(
        "{routes} routes, {what}: in force on the node after {taken:?}; {} requests meanwhile, none failed, p99 {p99:?}, slowest {:?}",
        took.len(),
        took.last().copied().unwrap_or_default()
    );
    assert!(!took.is_empty(), "requests were served meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_settings_harms_no_request_however_many_routes_there_are() {
    let routes = if full() { 100_000 } else { 2_000 };
    let (cluster, echo, manager) = (Cluster::new(), Echo::named("a"), free());
    let control = cluster.control_at("one", manager);
    control.ready().await;
    cluster.token(&control);
    let gateway = cluster.gateway("node", &[manager]);
    gateway.ready().await;
    let begun = Instant::now();
    let bytes = declare(&control, &echo, routes).await;
    let written = begun.elapsed();
    applied(&cluster, &control).await;
    eprintln!("{routes} routes, {bytes} bytes: written after {written:?}, in force after {:?}", begun.elapsed());
    let to = (gateway.http, routes);
    let registries = json!({ "discovery": { "dns": { "servers": ["192.0.2.1"] } } });
    change(&cluster, &control, to, "a registry more", registries).await;
    change(&cluster, &control, to, "another router", json!({ "router": { "http": "radixtree_uri" } })).await;
    change(&cluster, &control, to, "fewer plugins", json!({ "plugins": ["key-auth"] })).await;
    change(&cluster, &control, to, "no registry", json!({ "discovery": null })).await;
    tokio::task::spawn_blocking(move || (gateway.stop(), control.stop())).await.unwrap();
}
