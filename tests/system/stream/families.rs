//! IPv4, IPv6 and both, at every listener of a gateway.

use super::{Gateway, echo, talk, udp};
use crate::http3::client::Client;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, Target, eventually, hosts_of_each_family};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_listener_takes_either_family() {
    // Those of traffic are listed, one for each family; of those beside it there is one, at an address that is of both.
    let (both, ips) = hosts_of_each_family("listeners of a gateway at").last().unwrap();
    let at = |ip: &str| json!({ "ip": ip, "port": 0 }).to_string();
    let plain: Value = ips.iter().map(|ip| json!({ "ip": ip, "port": 0 })).collect();
    let secure: Value = ips.iter().map(|ip| json!({ "ip": ip, "port": 0, "enable_http3": true })).collect();
    let sessions: Vec<Value> = ips.iter().map(|ip| SocketAddr::new(*ip, 0).to_string().into()).collect();
    let settings = [
        ("MILECASTLE__GATEWAY__APISIX__NODE_LISTEN", plain.to_string()),
        ("MILECASTLE__GATEWAY__APISIX__SSL__LISTEN", secure.to_string()),
        ("MILECASTLE__GATEWAY__APISIX__STATUS", at(both)),
        ("MILECASTLE__GATEWAY__APISIX__CONTROL", at(both)),
        ("MILECASTLE__GATEWAY__PLUGIN_ATTR__PROMETHEUS__EXPORT_ADDR", at(both)),
    ];
    let settings = settings.each_ref().map(|(key, value)| (*key, value.as_str()));
    let gateway = Gateway::start(&sessions, &sessions, &settings);
    let all = |what: &str| {
        let all = gateway.all(what);
        assert!(all.iter().map(SocketAddr::ip).eq(ips.iter().copied()), "{what}: {all:?}");
        all
    };
    let (up, upstream, authority) = (&gateway.up, Echo::start(), Authority::new("test"));
    let identity = authority.issue(&["localhost"]);
    let node = json!({ "nodes": { upstream.address().to_string(): 1 } });
    up.put("/routes/1", json!({ "uri": "/*", "upstream": node })).await;
    up.put("/ssls/1", json!({ "sni": "localhost", "cert": identity.cert, "key": identity.key })).await;
    let stored = up.admin("GET", "/ssls/1", None).await.json().unwrap();
    let revision = stored["modifiedIndex"].as_f64();
    eventually("both are in force", async || up.metric("apisix_config_revision").await >= revision).await;

    for at in all("HTTP") {
        assert_eq!(Call::get("/").to(at).await.unwrap().status, 200, "{at}");
        let heard = upstream.take().pop().unwrap();
        assert_eq!(heard.header("x-forwarded-for"), [at.ip().to_string()], "the upstream hears of the client itself");
    }
    for at in all("HTTPS") {
        let mut connection = Target::tls(at, "localhost", &authority.pem()).connect().await.unwrap();
        assert_eq!(Call::get("/").send(&mut connection).await.unwrap().status, 200, "{at}");
    }
    for at in all("HTTP/3") {
        let asked = json!({ "host": at.ip(), "port": at.port(), "name": "localhost" });
        let mut client = Client::connect_with(asked, &authority.pem(), None);
        assert_eq!(client.request("/", json!({}))["status"], 200, "{at}");
    }
    for (n, at) in all("TCP").into_iter().enumerate() {
        gateway.route(&format!("tcp-{n}"), echo("said: "), json!({ "server_port": at.port() })).await;
        eventually("a session", async || talk(at, b"x").is_ok_and(|said| said == b"said: x")).await;
    }
    for (n, at) in all("UDP").into_iter().enumerate() {
        let upstream = json!({ "nodes": { udp::echo("u:").to_string(): 1 }, "scheme": "udp" });
        let route = json!({ "server_port": at.port(), "upstream": upstream });
        up.put(&format!("/stream_routes/udp-{n}"), route).await;
        udp::until_answered(at, b"u:x").await;
    }
    for (listener, path) in
        [(up.status, "/status"), (up.control, "/v1/routes"), (up.prometheus, "/apisix/prometheus/metrics")]
    {
        assert_eq!(listener.ip(), both.parse::<IpAddr>().unwrap());
        for ip in ips {
            let answer = Call::get(path).to(SocketAddr::new(*ip, listener.port())).await.unwrap();
            assert_eq!(answer.status, 200, "{path} at {ip}");
        }
    }
}
