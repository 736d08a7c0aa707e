//! Time limits, kept connections, and what the upstream gets (§6 to §9, §11, §12).

use super::{Scripted, in_order, nodes, received, route_to, site, with};
use crate::rules::{Shared, Site};
use crate::tunnels::{CLOSE, TEXT, chat, frame};
use milecastle_testkit::raw::{self, Raw};
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, eventually, nowhere};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_6_1_time_limits_are_taken_whole_from_the_route_or_else_the_upstream() {
    let (site, silent) = (site().await, Scripted::silent());
    let patience = |read: f64| json!({ "timeout": { "connect": 60, "send": 60, "read": read } });
    let of_upstream = |read: f64| with(json!({ "nodes": nodes(&[silent.address]) }), patience(read));
    let (path, route) = route_to("u61", of_upstream(60.0));
    site.put([(path, with(route, patience(0.1))), route_to("u61-upstream", of_upstream(0.1))]).await;
    assert_eq!(site.up.get("/u61/x").await.status, 504);
    assert_eq!(site.up.get("/u61-upstream/x").await.status, 504);
    // A part of one cannot be written, so there is nothing to mix.
    let (path, route) = route_to("u61-part", of_upstream(60.0));
    let said = site.refusal(&path, with(route, json!({ "timeout": { "read": 0.1 } }))).await;
    assert!(said.contains("timeout"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_6_2_fractions_of_seconds_between_two_reads() {
    const LIMIT: Duration = Duration::from_millis(500);
    let site = site().await;
    // Longer than the limit as a whole, and far shorter from piece to piece.
    let flows = Scripted::new(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let began = Instant::now();
        while began.elapsed() < 3 * LIMIT {
            stream.write_all(b"1\r\nx\r\n")?;
            std::thread::yield_now();
        }
        stream.write_all(b"3\r\nend\r\n0\r\n\r\n")
    });
    let stalls = Scripted::new(|stream, _| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\npart"));
    let of = |upstream: &Scripted| {
        let limits = json!({ "connect": 5, "send": 5, "read": LIMIT.as_secs_f64() });
        json!({ "nodes": nodes(&[upstream.address]), "timeout": limits })
    };
    site.put([route_to("u62", of(&flows)), route_to("u62-stalls", of(&stalls))]).await;
    assert!(site.up.get("/u62/x").await.text().ends_with("xxxend"));
    let cut = raw::exchange(site.up.http, "GET /u62-stalls/x HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert!(cut.ends_with("\r\n\r\npart"), "{cut}");
}

const ASK: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_6_3_a_tunnel_ends_when_it_has_been_silent_for_so_long() {
    let site = site().await;
    let limits = json!({ "connect": 5, "send": 0.3, "read": 0.3 });
    let (path, route) = route_to("u63", json!({ "nodes": nodes(&[chat()]), "timeout": limits }));
    let rewrite = json!({ "proxy-rewrite": { "uri": "/ws?room=1" } });
    site.put([(path, with(route, json!({ "enable_websocket": true, "plugins": rewrite })))]).await;
    let mut client = Raw::connect(site.up.http).await.unwrap();
    client.send(format!("GET /u63/x HTTP/1.1\r\nHost: h\r\n{ASK}")).await.unwrap();
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let welcome = client.read_exact(9).await.unwrap();
    assert_eq!(welcome, frame(TEXT, b"welcome", false));
    let rest = client.read_to_end().await.unwrap();
    assert!(rest.is_empty() || rest[0] == CLOSE, "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_7_connections_are_kept_by_address_name_and_certificate() {
    let (site, plain) = (site().await, Echo::start());
    let pool = |requests: u32| json!({ "keepalive_pool": { "size": 5, "idle_timeout": 60, "requests": requests } });
    let here = json!({ "nodes": nodes(&[plain.address()]) });
    site.put([route_to("u7", with(here.clone(), pool(3))), route_to("u7-other", here)]).await;
    for _ in 0..6 {
        assert_eq!(site.up.get("/u7/x").await.status, 200);
    }
    assert_eq!(plain.connections(), 2, "three requests on each");
    let authority = Authority::new("clients");
    let secure = Echo::mutual_tls("secure", &Authority::new("u7").issue(&["a.test"]), &authority.pem());
    let shown = ["one", "two"].map(|name| authority.issue(&[name]));
    let upstream = |host: &str, n: usize| {
        json!({ "scheme": "https", "nodes": nodes(&[secure.address()]), "pass_host": "rewrite", "upstream_host": host,
            "tls": { "client_cert": shown[n].cert, "client_key": shown[n].key } })
    };
    site.put([
        route_to("u7-a", upstream("a.test", 0)),
        route_to("u7-b", upstream("b.test", 0)),
        route_to("u7-c", upstream("a.test", 1)),
    ])
    .await;
    for _ in 0..2 {
        for (rule, name, client) in [("u7-a", "a.test", "one"), ("u7-b", "b.test", "one"), ("u7-c", "a.test", "two")] {
            let told = site.up.get(&format!("/{rule}/x")).await.json().unwrap();
            assert_eq!([&told["sni"], &told["client"]], [name, client], "{rule}");
        }
    }
    assert_eq!(secure.connections(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_7_so_many_connections_are_kept_and_for_so_long() {
    let site = site().await;
    let pool =
        |size: u32, idle: f64| json!({ "keepalive_pool": { "size": size, "idle_timeout": idle, "requests": 1000 } });
    for (rule, size, expected) in [("u7-one", 1, 4), ("u7-two", 2, 2)] {
        // Answers two requests once both are there, each on a connection of its own.
        let (both, seen) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(BTreeSet::new())));
        let noted = seen.clone();
        let pairs = Scripted::new(move |stream, _| {
            noted.lock().unwrap().insert(stream.peer_addr()?);
            both.wait();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        });
        site.put([route_to(rule, with(json!({ "nodes": nodes(&[pairs.address]) }), pool(size, 60.0)))]).await;
        let target = format!("/{rule}/x");
        for _ in 0..3 {
            let (one, other) = tokio::join!(site.up.get(&target), site.up.get(&target));
            assert_eq!((one.status, other.status), (200, 200), "{rule}");
        }
        assert_eq!(seen.lock().unwrap().len(), expected, "connections of {rule}");
    }
    let (short, long) = (Echo::start(), Echo::start());
    site.put([
        route_to("u7-short", with(json!({ "nodes": nodes(&[short.address()]) }), pool(5, 0.1))),
        route_to("u7-long", with(json!({ "nodes": nodes(&[long.address()]) }), pool(5, 60.0))),
    ])
    .await;
    for target in ["/u7-long/x", "/u7-short/x"] {
        assert_eq!(site.up.get(target).await.status, 200);
    }
    eventually("one that has rested for long enough is closed", async || short.open_connections() == 0).await;
    assert_eq!((short.connections(), long.open_connections()), (1, 1));
    assert_eq!(site.up.get("/u7-short/x").await.status, 200);
    assert_eq!(short.connections(), 2);
}

/// The same site, whose peers are believed, and one whose are not.
async fn trusting(peers: &'static str) -> Arc<Site> {
    static SITES: [Shared<Site>; 2] = [Shared::new(), Shared::new()];
    let settings = [
        ("MILECASTLE__GATEWAY__APISIX__TRUSTED_ADDRESSES", peers),
        ("MILECASTLE__GATEWAY__APISIX__SHOW_UPSTREAM_STATUS_IN_RESPONSE_HEADER", "true"),
    ];
    SITES[usize::from(peers == "[127.0.0.0/8]")].get(async || Site::start(&settings, &[], &[]).await).await
}

/// What a client says about proxies before it.
fn forwarded(target: &str) -> Call {
    Call::get(target)
        .header("host", "Client.test:8443")
        .header("x-forwarded-for", "10.8.0.1")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "outer.test")
        .header("x-forwarded-port", "443")
        .header("forwarded", "for=10.8.0.1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_8_the_request_that_the_upstream_gets() {
    let site = site().await;
    let originals = "${original_x_forwarded_proto} ${original_x_forwarded_host} ${original_x_forwarded_port} \
        ${original_x_forwarded_for} ${original_forwarded}";
    let shows = json!({ "plugins": { "response-rewrite": { "headers": { "set": { "X-Seen": originals } } } } });
    let route = ("/routes/u8", with(json!({ "uri": "/u8/*", "upstream_id": "echo" }), shows));
    site.put([route.clone()]).await;
    let call = |target: &str| {
        forwarded(target).header("x_under_score", "kept").header("connection", "x-hop").header("x-hop", "1")
    };
    let answer = site.call(call("/u8/a%20b?x=%2F").body("text")).await;
    let told = answer.json().unwrap();
    assert_eq!([&told["line"], &told["body"]], ["GET /u8/a%20b?x=%2F HTTP/1.1", "text"]);
    for (name, values) in [
        ("host", vec!["Client.test:8443"]),
        ("connection", vec![]),
        ("x-hop", vec![]),
        ("upgrade", vec![]),
        ("x-real-ip", vec!["127.0.0.1"]),
        ("x-forwarded-for", vec!["10.8.0.1, 127.0.0.1"]),
        ("x-forwarded-proto", vec!["http"]),
        ("x-forwarded-host", vec!["Client.test:8443"]),
        ("x-forwarded-port", vec!["8443"]),
        ("forwarded", vec![]),
        ("x_under_score", vec!["kept"]),
    ] {
        assert_eq!(received(&answer, name), values, "{name}");
    }
    assert_eq!(answer.header("x-seen"), "https outer.test 443 10.8.0.1 for=10.8.0.1");
    let plain = site.call(Call::get("/u8/x").header("host", "client.test")).await;
    assert_eq!(received(&plain, "x-forwarded-port"), [site.up.http.port().to_string()]);
    assert_eq!(received(&plain, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(plain.header("server"), "Milecastle");
    let dated = Scripted::saying(
        "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: other\r\nContent-Length: 0\r\n\r\n",
    );
    site.put([route_to("u8-dated", json!({ "nodes": nodes(&[dated.address]) }))]).await;
    let answer = site.up.get("/u8-dated/x").await;
    assert_eq!([answer.header("date"), answer.header("server")], ["Thu, 01 Jan 1970 00:00:00 GMT", "Milecastle"]);
    assert_eq!(answer.header("x-apisix-upstream-status"), "");
    // Peers in the list are believed, others lose all that they say.
    for (peers, expected) in [
        ("[127.0.0.0/8]", ["10.8.0.1, 127.0.0.1", "https", "outer.test", "443", "for=10.8.0.1"]),
        ("[10.0.0.0/8]", ["127.0.0.1", "http", "Client.test:8443", "8443", ""]),
    ] {
        let site = trusting(peers).await;
        site.put([route.clone()]).await;
        let answer = site.call(forwarded("/u8/x")).await;
        let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded"];
        assert_eq!(names.map(|name| received(&answer, name).join(" and ")), expected, "{peers}");
        assert_eq!(answer.header("x-seen"), "https outer.test 443 10.8.0.1 for=10.8.0.1", "{peers}");
        assert_eq!(answer.header("x-apisix-upstream-status"), "200");
        // An empty field says nothing.
        let empty = Call::get("/u8/x").header("host", "c.test").header("x-forwarded-proto", "");
        assert_eq!(received(&site.call(empty).await, "x-forwarded-proto"), ["http"], "{peers}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_8_1_the_host_that_the_upstream_gets() {
    let (site, echo) = (site().await, Echo::start());
    let identity = Authority::new("u81").issue(&["u81.test"]);
    let secure = Echo::tls("secure", &identity);
    let named = |at: &Echo| json!({ "nodes": { format!("one.node.test:{}", at.port()): 1 } });
    let node = format!("one.node.test:{}", echo.port());
    let by_address = echo.address().to_string();
    let rewrite = json!({ "pass_host": "rewrite", "upstream_host": "rewritten.test:81" });
    let table = [
        (named(&echo), json!({}), "Client.test:8443"),
        (named(&echo), json!({ "pass_host": "pass" }), "Client.test:8443"),
        (named(&echo), json!({ "pass_host": "node" }), &*node),
        (json!({ "nodes": nodes(&[echo.address()]) }), json!({ "pass_host": "node" }), &*by_address),
        (named(&echo), rewrite.clone(), "rewritten.test:81"),
    ];
    let secure_node = format!("one.node.test:{}", secure.port());
    let over_tls = [
        (json!({ "pass_host": "pass" }), "Client.test:8443", "Client.test"),
        (json!({ "pass_host": "node" }), &*secure_node, "one.node.test"),
        (rewrite, "rewritten.test:81", "rewritten.test"),
    ];
    let plain = table.iter().map(|(nodes, mode, _)| with(nodes.clone(), mode.clone()));
    let https =
        over_tls.iter().map(|(mode, ..)| with(with(named(&secure), json!({ "scheme": "https" })), mode.clone()));
    site.put(plain.chain(https).enumerate().map(|(n, upstream)| route_to(&format!("u81-{n}"), upstream))).await;
    let ask = async |n: usize| site.call(Call::get(&format!("/u81-{n}/x")).header("host", "Client.test:8443")).await;
    for (n, (_, mode, host)) in table.iter().enumerate() {
        assert_eq!(received(&ask(n).await, "host"), [*host], "{mode}");
    }
    for (n, (mode, host, name)) in (table.len()..).zip(&over_tls) {
        let answer = ask(n).await;
        let sni = answer.json().unwrap()["sni"].as_str().unwrap().to_owned();
        assert_eq!(
            (received(&answer, "host"), sni.to_ascii_lowercase()),
            (vec![(*host).to_owned()], name.to_ascii_lowercase()),
            "{mode}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_8_variables_show_the_host_and_the_upgrade_that_were_sent() {
    let (site, echo) = (site().await, Echo::start());
    let sent = "$upstream_host|${upstream_upgrade ?? none}|${upstream_connection ?? none}";
    let shows = json!({ "plugins": { "response-rewrite": { "headers": { "set": { "X-Sent": sent } } } } });
    let rewrite = json!({ "pass_host": "rewrite", "upstream_host": "inner.test" });
    let node = json!({ "pass_host": "node" });
    let (dead, alive) = (nowhere(), echo.address());
    let route = |rule: &str, nodes: Value, mode: &Value| {
        let (path, route) = route_to(rule, with(json!({ "nodes": nodes }), mode.clone()));
        (path, with(route, shows.clone()))
    };
    let (path, websocket) = route("u8v-websocket", nodes(&[alive]), &json!({}));
    site.put([
        route("u8v-pass", nodes(&[alive]), &json!({})),
        route("u8v-rewrite", nodes(&[alive]), &rewrite),
        route("u8v-node", nodes(&[alive]), &node),
        route("u8v-retry", in_order(&[dead, alive]), &node),
        (path, with(websocket, json!({ "enable_websocket": true }))),
    ])
    .await;
    let by_address = alive.to_string();
    for (rule, upgrade, host, upgraded) in [
        ("u8v-pass", "h2c", "client.test", "none|none"),
        ("u8v-rewrite", "h2c", "inner.test", "none|none"),
        ("u8v-node", "websocket", &*by_address, "none|none"),
        ("u8v-retry", "websocket", &*by_address, "none|none"),
        ("u8v-websocket", "h2c, websocket", "client.test", "websocket|Upgrade"),
    ] {
        let call = Call::get(&format!("/{rule}/x")).header("host", "client.test");
        let answer = site.call(call.header("connection", "upgrade").header("upgrade", upgrade)).await;
        assert_eq!(answer.header("x-sent"), format!("{host}|{upgraded}"), "{rule}");
        assert_eq!(received(&answer, "host"), [host], "{rule}");
        assert_eq!(received(&answer, "upgrade").is_empty(), upgraded == "none|none", "{rule}");
        let logged = format!("\"http://{host}/{rule}/x\"");
        eventually("the log shows the host that was sent", async || {
            let log = site.up.data.path().join("data/gateway/logs/access.log");
            std::fs::read_to_string(log).unwrap_or_default().contains(&logged)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_9_an_upgrade_passes_only_where_the_route_allows_it() {
    let site = site().await;
    let upstream = json!({ "nodes": nodes(&[chat()]) });
    let rewrite = json!({ "plugins": { "proxy-rewrite": { "uri": "/ws?room=1" } } });
    let echoes = Echo::start();
    let (on, off) = (json!({ "enable_websocket": true }), json!({ "enable_websocket": false }));
    let of_service = |id: &str, service: &str, more: Value| {
        let route = json!({ "uri": format!("/{id}/*"), "service_id": service });
        (format!("/routes/{id}"), with(with(route, rewrite.clone()), more))
    };
    let here = json!({ "nodes": nodes(&[echoes.address()]) });
    site.put([
        ("/services/u9", with(json!({ "upstream": upstream }), on.clone())),
        ("/services/u9-echo", with(json!({ "upstream": here }), on.clone())),
    ])
    .await;
    let (path, route) = route_to("u9-route", upstream);
    site.put([
        (path, with(with(route, rewrite.clone()), on)),
        of_service("u9-service", "u9", json!({})),
        of_service("u9-not", "u9-echo", off),
        route_to("u9-plain", here),
    ])
    .await;
    for (rule, status) in [("u9-route", 101), ("u9-service", 101), ("u9-not", 200), ("u9-plain", 200)] {
        let mut client = Raw::connect(site.up.http).await.unwrap();
        client.send(format!("GET /{rule}/x HTTP/1.1\r\nHost: h\r\n{ASK}")).await.unwrap();
        let head = client.read_head().await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{rule}: {head}");
        if status == 101 {
            assert_eq!(client.read_exact(9).await.unwrap(), frame(TEXT, b"welcome", false));
            client.send(frame(TEXT, b"hello", true)).await.unwrap();
            assert_eq!(client.read_exact(7).await.unwrap(), frame(TEXT, b"hello", false));
        }
    }
    let got = echoes.take();
    assert_eq!(got.len(), 2);
    assert!(got.iter().all(|got| got.header("upgrade").is_empty() && got.header("connection").is_empty()), "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_11_client_certificates_of_upstreams() {
    let (site, authority) = (site().await, Authority::new("clients"));
    let secure = Echo::mutual_tls("secure", &Authority::new("u11").issue(&["u11.test"]), &authority.pem());
    let [own, named] = ["own", "named"].map(|name| authority.issue(&[name]));
    site.put([("/ssls/u11", json!({ "type": "client", "cert": named.cert, "key": named.key }))]).await;
    let upstream = |tls: Value| json!({ "scheme": "https", "nodes": nodes(&[secure.address()]), "tls": tls });
    site.put([
        route_to("u11-own", upstream(json!({ "client_cert": own.cert, "client_key": own.key }))),
        route_to("u11-named", upstream(json!({ "client_cert_id": "u11" }))),
        route_to("u11-without", json!({ "scheme": "https", "nodes": nodes(&[secure.address()]) })),
    ])
    .await;
    for (rule, client) in [("u11-own", "own"), ("u11-named", "named")] {
        assert_eq!(site.up.get(&format!("/{rule}/x")).await.json().unwrap()["client"], client);
    }
    assert_eq!(site.up.get("/u11-without/x").await.status, 502);
}

/// The protocol is not spoken, so nothing that asks for it is served (docs/compatibility.md).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_12_a_route_to_kafka_is_502() {
    let (site, echo) = (site().await, Echo::start());
    let upstream = json!({ "scheme": "kafka", "type": "none", "nodes": nodes(&[echo.address()]) });
    let (path, route) = route_to("u12-kafka", upstream);
    site.put([(path, with(route, json!({ "enable_websocket": true })))]).await;
    assert_eq!(site.up.get("/u12-kafka/x").await.status, 502);
    assert_eq!(echo.connections(), 0);
}
