//! Registries as settings of a gateway group: real processes on a real PostgreSQL, a real dnsmasq.

use milecastle_testkit::registry::{Consul, Dnsmasq};
use milecastle_testkit::{Call, Echo, eventually};
use milecastle_tests::{Cluster, Gateway, Replica, Said, free};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A name server that knows one web server, on a port of its own.
fn dns(echo: &Echo) -> Dnsmasq {
    let service = format!("srv-host=_web._tcp.shop.test,node.shop.test,{}", echo.port());
    Dnsmasq::start(1, &[service, "host-record=node.shop.test,127.0.0.1".to_owned()])
}

fn at(dns: &Dnsmasq) -> Value {
    json!({ "servers": [dns.address().to_string()], "timeout": "300ms", "tries": 2 })
}

/// Merges registries into the settings of the group, and waits until the nodes have them.
fn set(cluster: &Cluster, control: &Replica, registries: &Value) -> Said {
    let file = cluster.dir.write("registries.yaml", registries.to_string());
    let file = file.to_str().unwrap();
    cluster.operator(control, &["group", "settings", "set", "--discovery", file, "--wait", "20s"])
}

/// The server that answers a request; the status of an answer that is none of a server.
async fn served_by(http: SocketAddr, target: &str) -> Result<String, u16> {
    let answer = Call::get(target).to(http).await.unwrap();
    if answer.status != 200 {
        return Err(answer.status);
    }
    Ok(answer.json().unwrap()["server"].as_str().unwrap().to_owned())
}

async fn route(control: &Replica, registry: &str, service: &str) {
    let upstream = json!({ "discovery_type": registry, "service_name": service, "retries": 0 });
    let route = json!({ "uri": format!("/{registry}"), "upstream": upstream });
    control.put(&format!("/routes/{registry}?wait=20s"), &route).await;
}

/// Sends requests until it is told to end; each is answered by a server. Gives how many there were.
fn client(http: SocketAddr, target: &'static str, ends: &Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let ends = ends.clone();
    tokio::spawn(async move {
        let mut sent = 0;
        while !ends.load(Ordering::Relaxed) {
            served_by(http, target).await.unwrap_or_else(|status| panic!("{target} was answered with {status}"));
            sent += 1;
        }
        sent
    })
}

async fn stop(processes: (Vec<Gateway>, Option<Replica>)) {
    let (gateways, control) = processes;
    let stop = move || {
        gateways.into_iter().for_each(Gateway::stop);
        control.into_iter().for_each(Replica::stop);
    };
    tokio::task::spawn_blocking(stop).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_come_change_and_go_and_no_request_fails_for_it() {
    let (cluster, manager) = (Cluster::new(), free());
    let (a, b, c) = (Echo::named("a"), Echo::named("b"), Echo::named("c"));
    let (dns_a, dns_b) = (dns(&a), dns(&b));
    let consul = Consul::start(Some("sesame"));
    consul.set("web", &[(c.address(), true)]);
    let control = cluster.control_at("one", manager);
    control.ready().await;
    cluster.token(&control);
    let mut gateway = cluster.gateway("node", &[manager]);
    gateway.process.announce("discovery is uninitialized");
    gateway.process.announce("discovery dns is uninitialized");
    gateway.process.announce("no configuration stream");
    gateway.ready().await;
    route(&control, "dns", "_web._tcp.shop.test").await;
    route(&control, "consul", "web").await;
    assert_eq!(served_by(gateway.http, "/dns").await, Err(503), "nobody has named a registry yet");

    // From the receipt on, requests are served.
    let said = set(&cluster, &control, &json!({ "dns": at(&dns_a) }));
    assert_eq!((said.code, &*said.text), (0, "settings of group default are of revision 3, applied 1/1"));
    assert_eq!(served_by(gateway.http, "/dns").await.as_deref(), Ok("a"));
    let ends = Arc::new(AtomicBool::new(false));
    let of_dns = client(gateway.http, "/dns", &ends);

    // Another registry beside it, with a secret that is shown to nobody.
    let said = set(&cluster, &control, &json!({ "consul": { "servers": [consul.url()], "token": "sesame" } }));
    assert!(said.code == 0 && said.text.ends_with("applied 1/1"), "{}", said.text);
    assert_eq!(served_by(gateway.http, "/consul").await.as_deref(), Ok("c"));
    let shown = cluster.operator(&control, &["group", "settings", "get", "default", "-o", "json"]).json();
    assert_eq!(shown["settings"]["discovery"]["consul"]["token"], "******");
    assert_eq!(shown["effective"]["discovery"]["consul"]["weight"], 1);

    // Another name server: the instances that the former one has told are used until it has answered.
    let said = set(&cluster, &control, &json!({ "dns": at(&dns_b) }));
    assert!(said.code == 0 && said.text.ends_with("applied 1/1"), "{}", said.text);
    eventually("b answers", async || served_by(gateway.http, "/dns").await.as_deref() == Ok("b")).await;
    let of_consul = client(gateway.http, "/consul", &ends);
    // What nothing depends on is refused or taken, and makes no difference to anybody.
    let bad = set(&cluster, &control, &json!({ "dns": { "servers": ["dns.test"] } }));
    assert!(bad.code == 1 && bad.text.contains("/discovery/dns/servers/0"), "{} {}", bad.code, bad.text);
    let said = cluster.operator(&control, &["group", "settings", "set", "--router", "radixtree_uri", "--wait", "20s"]);
    assert!(said.code == 0 && said.text.ends_with("applied 1/1"), "{}", said.text);
    ends.store(true, Ordering::Relaxed);
    let (of_dns, of_consul) = (of_dns.await.unwrap(), of_consul.await.unwrap());
    drop((dns_a, a));
    assert_eq!(served_by(gateway.http, "/dns").await.as_deref(), Ok("b"));
    eprintln!("{of_dns} requests to services of dns and {of_consul} to those of consul, each was answered by one");

    // Taken away, a registry is none from the receipt on; the other one stays.
    let said = set(&cluster, &control, &json!({ "dns": null }));
    assert!(said.code == 0 && said.text.ends_with("applied 1/1"), "{}", said.text);
    assert_eq!(served_by(gateway.http, "/dns").await, Err(503));
    assert_eq!(served_by(gateway.http, "/consul").await.as_deref(), Ok("c"));

    // A node that starts without the control plane has the registries of its group, secrets included.
    stop((Vec::new(), Some(control))).await;
    let log = gateway.process.log().join("\n");
    gateway.process.kill();
    // What it had been told before shall not help; it may not have written it yet.
    std::fs::remove_file(cluster.dir.path().join("node/instances.json")).ok();
    let mut again = cluster.gateway_again("node", gateway.http);
    again.process.announce("no configuration stream");
    again.process.announce("discovery dns is uninitialized");
    again.ready().await;
    assert_eq!(served_by(again.http, "/consul").await.as_deref(), Ok("c"));
    assert!(!log.contains("sesame"), "{log}");
    stop((vec![again], None)).await;
    drop((dns_b, b));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_file_comes_before_the_settings_of_its_group() {
    let (mut cluster, manager) = (Cluster::new(), free());
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let (dns_a, dns_b) = (dns(&a), dns(&b));
    let control = cluster.control_at("one", manager);
    control.ready().await;
    cluster.token(&control);
    let of_group = cluster.gateway("of-group", &[manager]);
    let own = json!({ "dns": at(&dns_b) }).to_string();
    cluster.for_gateways.push(("MILECASTLE__DISCOVERY", own.leak()));
    let mut of_file = cluster.gateway("of-file", &[manager]);
    of_group.ready().await;
    of_file.ready().await;
    route(&control, "dns", "_web._tcp.shop.test").await;
    assert_eq!(served_by(of_file.http, "/dns").await.as_deref(), Ok("b"));
    let said = set(&cluster, &control, &json!({ "dns": at(&dns_a) }));
    assert!(said.code == 0 && said.text.ends_with("applied 2/2"), "{}", said.text);
    assert_eq!(served_by(of_group.http, "/dns").await.as_deref(), Ok("a"));
    assert_eq!(served_by(of_file.http, "/dns").await.as_deref(), Ok("b"));
    let said = |line: &str| line.contains("discovery.dns is that of this node's file").then_some(());
    of_file.process.wait_for_line("that it is the file's", milecastle_testkit::SOON, said);
    stop((vec![of_group, of_file], Some(control))).await;
}
