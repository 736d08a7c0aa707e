//! Upstreams of stream routes whose nodes are asked of registries (`docs/discovery.md`).

use super::tls::{liner, s_client, ssl};
use super::{Gateway, connect, echo, talk, udp};
use crate::discovery::{dump, fails, quick};
use milecastle_testkit::registry::{Consul, Dnsmasq};
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{eventually, nowhere};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

/// A gateway with these listeners and registries.
fn gateway(tcp: &[Value], udp: &[Value], registries: &Value) -> Gateway {
    Gateway::start(tcp, udp, &[("MILECASTLE__GATEWAY__DISCOVERY", &quick(registries))])
}

/// One with a plain TCP listener, and everything that comes there passed to a service of Consul without a second try.
async fn with_consul(url: &str, more: Value) -> (Gateway, SocketAddr) {
    let gateway = gateway(&[json!("127.0.0.1:0")], &[], &json!({ "consul": { "servers": [url] } }));
    let at = gateway.at("TCP");
    let mut upstream = json!({ "discovery_type": "consul", "service_name": "echo", "scheme": "tcp", "retries": 0 });
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
    gateway.eventually_passes(at).await;
    (gateway, at)
}

/// Who has answered eight sessions; a session that was closed without an answer is an empty name.
fn serving(at: SocketAddr) -> BTreeSet<String> {
    (0..8).map(|_| String::from_utf8(talk(at, b".").unwrap_or_default()).unwrap()).collect()
}

/// Waits until exactly these nodes answer; no session fails meanwhile.
async fn served_by(at: SocketAddr, names: &[&str]) {
    let wanted: BTreeSet<String> = names.iter().map(|name| format!("{name}.")).collect();
    eventually(&format!("only {names:?} to answer"), async || {
        let answered = serving(at);
        assert!(!answered.contains(""), "a session was closed without an answer");
        answered == wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_come_and_go_without_a_failed_session() {
    let mut consul = Consul::start(None);
    let (a, b) = (echo("a"), echo("b"));
    consul.set("echo", &[(a, true)]);
    let (gateway, at) = with_consul(&consul.url(), json!({})).await;
    served_by(at, &["a"]).await;
    // The settings of the group, and the route.
    let built = Some(2.0);
    eventually("the revision to be shown", async || gateway.metric("apisix_config_revision").await == built).await;
    let mut open = connect(at);
    let mut said = [0; 2];
    open.write_all(b"1").unwrap();
    open.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"a1");
    consul.set("echo", &[(a, true), (b, true)]);
    served_by(at, &["a", "b"]).await;
    consul.set("echo", &[(a, false), (b, true)]);
    served_by(at, &["b"]).await;
    let shown = json!([{ "host": "127.0.0.1", "port": b.port(), "weight": 1 }]);
    assert_eq!(dump(&gateway.up, "consul").await["services"], json!({ "echo": shown }));
    open.write_all(b"2").unwrap();
    open.read_exact(&mut said[..1]).unwrap();
    assert_eq!(said[0], b'2', "a session stays with the node that it is with");
    consul.stop();
    fails(&gateway.up, "consul", "echo", true).await;
    served_by(at, &["b"]).await;
    consul.set("echo", &[]);
    consul.start();
    eventually("sessions to be closed", async || serving(at) == BTreeSet::from([String::new()])).await;
    consul.set("echo", &[(a, true)]);
    eventually("sessions to be passed on", async || serving(at) == BTreeSet::from(["a.".to_owned()])).await;
    assert_eq!(gateway.metric("apisix_config_revision").await, built, "no configuration was built");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_of_instances_is_watched() {
    let consul = Consul::start(None);
    let (a, b) = (echo("a"), echo("b"));
    consul.set("echo", &[(a, true)]);
    let side = |counted: &str| json!({ "interval": 1, counted: 1 });
    let active = json!({ "type": "tcp", "healthy": side("successes"), "unhealthy": side("tcp_failures") });
    let (gateway, at) = with_consul(&consul.url(), json!({ "checks": { "active": active } })).await;
    // An instance that the registry holds for good, and that cannot be connected.
    consul.set("echo", &[(a, true), (nowhere(), true)]);
    eventually("both instances", async || {
        dump(&gateway.up, "consul").await["services"]["echo"].as_array().is_some_and(|shown| shown.len() == 2)
    })
    .await;
    eventually("the dead one to be left alone", async || serving(at) == BTreeSet::from(["a.".to_owned()])).await;
    consul.set("echo", &[(a, true), (b, true)]);
    served_by(at, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_and_sessions_over_tls_follow_the_records_of_a_name() {
    let records = |datagrams: SocketAddr, sessions: SocketAddr| {
        let service = |proto: &str, node: SocketAddr| {
            format!("srv-host=_echo._{proto}.shop.test,node.shop.test,{},0,10", node.port())
        };
        [service("udp", datagrams), service("tcp", sessions), "host-record=node.shop.test,127.0.0.1".to_owned()]
    };
    let mut dns = Dnsmasq::start(1, &records(udp::echo("old:"), liner("old")));
    let registries = json!({ "dns": { "servers": [dns.address().to_string()], "timeout": "300ms", "tries": 2 } });
    let tls = json!({ "addr": "127.0.0.1:0", "tls": true });
    let gateway = gateway(&[tls], &[json!("127.0.0.1:0")], &registries);
    let (datagrams, sessions) = (gateway.at("UDP"), gateway.at("TLS"));
    gateway.up.put("/ssls/1", ssl(&Authority::new("tests").issue(&["a.test"]), &["a.test"])).await;
    for (id, at, scheme, name) in
        [("1", datagrams, "udp", "_echo._udp.shop.test"), ("2", sessions, "tcp", "_echo._tcp.shop.test")]
    {
        let upstream = json!({ "discovery_type": "dns", "service_name": name, "scheme": scheme });
        let route = json!({ "server_port": at.port(), "upstream": upstream });
        gateway.up.put(&format!("/stream_routes/{id}"), route).await;
    }
    let ask = || s_client(sessions, "a.test", "hello\n", &[]).unwrap_or_default();
    udp::until_answered(datagrams, b"old:x").await;
    eventually("a session over TLS", async || ask() == "old:hello\n").await;
    dns.set(1, &records(udp::echo("new:"), liner("new")));
    udp::until_answered(datagrams, b"new:x").await;
    eventually("a session at the new instance", async || ask() == "new:hello\n").await;
}
