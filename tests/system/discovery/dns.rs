//! The registry `dns`, against a real dnsmasq.

use super::{dump, fails, measured, route, served_by, serving, up};
use milecastle_testkit::Echo;
use milecastle_testkit::registry::Dnsmasq;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};

fn settings(dns: &Dnsmasq) -> Value {
    json!({ "dns": { "servers": [dns.address().to_string()], "timeout": "300ms", "tries": 2 } })
}

fn service(echo: &Echo, priority: u16, weight: u16) -> String {
    format!("srv-host=_web._tcp.shop.test,node.shop.test,{},{priority},{weight}", echo.port())
}

const NODE: &str = "host-record=node.shop.test,127.0.0.1";

/// Every address of 127.0.0.0/8 is this machine.
fn on(name: &str, last: u8, port: u16) -> Echo {
    Echo::on(name, SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_14_dns_services_are_followed_as_their_records_change() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let mut dns = Dnsmasq::start(1, &[service(&a, 0, 10), NODE.to_owned()]);
    let up = up(&settings(&dns));
    route(&up, "dns", "_web._tcp.shop.test", json!({})).await;
    up.answers("/", 200).await;
    served_by(&up, &["a"]).await;
    dns.set(1, &[service(&a, 0, 10), service(&b, 0, 30), NODE.to_owned()]);
    served_by(&up, &["a", "b"]).await;
    let node = |echo: &Echo, weight: u32| json!({ "host": "127.0.0.1", "port": echo.port(), "weight": weight });
    let mut nodes = [node(&a, 1), node(&b, 3)];
    nodes.sort_by_key(|node| node["port"].as_u64());
    assert_eq!(dump(&up, "dns").await["services"], json!({ "_web._tcp.shop.test": nodes }));
    // The lowest priority comes first.
    dns.set(1, &[service(&a, 5, 10), service(&b, 1, 30), NODE.to_owned()]);
    served_by(&up, &["b"]).await;
    drop(a);
    assert_eq!(serving(&up, 20).await.len(), 1);
    // While the resolver is away, the last answer is used.
    dns.stop();
    fails(&up, "dns", "_web._tcp.shop.test", true).await;
    assert_eq!(serving(&up, 10).await.len(), 1);
    dns.set(1, &[NODE.to_owned()]);
    up.answers("/", 503).await;
    measured(&up, "discovery_instances", "dns", "_web._tcp.shop.test", |instances| instances == 0.0).await;
    assert!(up.process.log().iter().any(|line| line.contains("no valid upstream node")));
    dns.set(1, &[service(&b, 0, 0), NODE.to_owned()]);
    up.answers("/", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_of_a_name_is_an_instance_and_aliases_are_followed() {
    let a = on("a", 11, 0);
    let b = on("b", 12, a.port());
    let records = |names: &[&str]| -> Vec<String> {
        let hosts = names.iter().map(|ip| format!("host-record=shop.test,{ip}"));
        hosts.chain(["cname=alias.test,shop.test".to_owned()]).collect()
    };
    let mut dns = Dnsmasq::start(1, &records(&["127.0.0.11", "127.0.0.12"]));
    let up = up(&settings(&dns));
    route(&up, "dns", &format!("alias.test:{}", a.port()), json!({})).await;
    up.answers("/", 200).await;
    served_by(&up, &["a", "b"]).await;
    dns.set(1, &records(&["127.0.0.12"]));
    served_by(&up, &["b"]).await;
    drop(a);
    assert_eq!(serving(&up, 20).await.len(), 1);
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_do_not_fit_come_by_tcp() {
    // More records than one UDP message of 1232 bytes holds.
    let echo = on("a", 77, 0);
    let records: Vec<String> = (1..=120).map(|last| format!("host-record=many.test,127.0.0.{last}")).collect();
    let dns = Dnsmasq::start(60, &records);
    let up = up(&settings(&dns));
    let service = format!("many.test:{}", echo.port());
    route(&up, "dns", &service, json!({ "retries": 200 })).await;
    up.answers("/", 200).await;
    assert_eq!(dump(&up, "dns").await["services"][&service].as_array().unwrap().len(), 120);
}
