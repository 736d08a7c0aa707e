//! Plugins of sessions, each where it matters that it is a real one: the others are in `servers`, `changes` and `proxy_protocol`.

use super::{Gateway, SOON, connect, echo, talk};
use milecastle_testkit::{eventually, nowhere};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::UdpSocket;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_conn_counts_over_all_workers_and_gives_places_back() {
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    let limit = json!({ "conn": 3, "burst": 0, "default_conn_delay": 0.1, "key": "server_port" });
    gateway.route("1", echo(""), json!({ "plugins": { "limit-conn": limit } })).await;
    gateway.eventually_passes(at).await;
    let speaks = |stream: &mut std::net::TcpStream| {
        let mut said = [0; 4];
        stream.write_all(b"ping").is_ok() && stream.read_exact(&mut said).is_ok() && &said == b"ping"
    };
    let mut open = Vec::new();
    eventually("three sessions at once", async || {
        let mut candidate = connect(at);
        if speaks(&mut candidate) {
            open.push(candidate);
        }
        open.len() == 3
    })
    .await;
    assert!(!(0..10).any(|_| speaks(&mut connect(at))), "a fourth one is closed");
    assert!(open.iter_mut().all(speaks));
    open.pop();
    eventually("a place is free again", async || {
        let mut candidate = connect(at);
        let free = speaks(&mut candidate);
        open.extend(free.then_some(candidate));
        free
    })
    .await;
    drop(open);
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_split_by_weight_among_inline_upstreams_and_objects() {
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    gateway.up.put("/upstreams/u", json!({ "nodes": { echo("object").to_string(): 1 } })).await;
    let inline = json!({ "nodes": { echo("inline").to_string(): 1 }, "type": "roundrobin" });
    let shares = json!([{ "upstream_id": "u", "weight": 2 }, { "upstream": inline, "weight": 1 }, { "weight": 1 }]);
    let plugins = json!({ "traffic-split": { "rules": [{ "weighted_upstreams": shares }] } });
    gateway.route("1", echo("own"), json!({ "plugins": plugins })).await;
    gateway.eventually_passes(at).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..20 {
        let said = String::from_utf8(talk(at, b".").unwrap()).unwrap();
        *counts.entry(said).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("object.".into(), 10), ("inline.".into(), 5), ("own.".into(), 5)]));
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syslog_and_prometheus_tell_how_sessions_ended() {
    let group = ["--proxy-mode", "stream", "--stream-plugins", "syslog,prometheus"];
    let mut gateway = Gateway::start_in(&group, &[json!("127.0.0.1:0"), json!("127.0.0.1:0")], &[], &[]);
    gateway.up.process.announce("could not be connected");
    let (good, bad) = (gateway.all("TCP")[0], gateway.all("TCP")[1]);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let format =
        json!({ "status": "$status", "got": "$bytes_received", "sent": "$bytes_sent", "node": "$upstream_addr" });
    let syslog = json!({ "host": "127.0.0.1", "port": server.local_addr().unwrap().port(), "sock_type": "udp",
        "flush_limit": 1, "batch_max_size": 1, "log_format": format });
    let plugins = json!({ "syslog": syslog, "prometheus": {} });
    let node = echo("");
    gateway.route("good", node, json!({ "plugins": plugins, "server_port": good.port() })).await;
    let away = nowhere();
    gateway.route("bad", away, json!({ "plugins": plugins, "server_port": bad.port() })).await;
    gateway.eventually_passes(good).await;
    eventually("the other route is in force too", async || {
        assert_eq!(talk(bad, b"x").unwrap_or_default(), b"");
        gateway.metric("apisix_upstream_connect_failures_total").await.is_some_and(|count| count >= 1.0)
    })
    .await;
    let passed = json!({ "status": "200", "got": "14", "sent": "14", "node": node.to_string(), "route_id": "good" });
    let failed = json!({ "status": "502", "got": "0", "sent": "0", "node": away.to_string(), "route_id": "bad" });
    // Each route has its own sender: what one says may overtake what the other one said first.
    let mut entries = Vec::new();
    let mut room = [0; 4096];
    while !(entries.contains(&passed) && entries.contains(&failed)) {
        let len = server.recv(&mut room).unwrap_or_else(|error| panic!("{error} after {entries:?}"));
        let line = std::str::from_utf8(&room[..len]).unwrap();
        assert!(line.starts_with("<46>1 ") && line.ends_with('\n'), "{line}");
        entries.push(serde_json::from_str(line.split_once(" - - ").unwrap().1).unwrap());
    }
    eventually("the metrics", async || {
        let status = |code: u16, listen, node| {
            format!("apisix_stream_status{{code=\"{code}\",listen_addr=\"{listen}\",node=\"{node}\"}}")
        };
        gateway.metric(&status(200, good, node)).await.is_some_and(|count| count >= 1.0)
            && gateway.metric(&status(502, bad, away)).await.is_some_and(|count| count >= 1.0)
            && gateway.metric("apisix_stream_connection_total{route=\"bad\"}").await.is_some_and(|count| count >= 1.0)
    })
    .await;
    gateway.up.stop();
}
