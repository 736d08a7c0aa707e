//! From a route to its nodes, names of nodes, tiers and health (§1 to §3).

use super::{in_order, nodes, route_to, server, site, tried, with};
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, eventually, nowhere};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

/// No plugin of this version chooses the upstream of a request; that of a session is in `stream_3_2`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_1_1_an_id_counts_before_what_is_inline() {
    let (site, echoes) = (site().await, ["id", "inline"].map(Echo::named));
    let [id, inline] = echoes.each_ref().map(|echo| json!({ "nodes": nodes(&[echo.address()]) }));
    site.put([("/upstreams/u11", id)]).await;
    let (path, route) = route_to("u11", inline);
    let alone = with(route.clone(), json!({ "uri": "/u11-alone/*" }));
    site.put([(&*path, with(route, json!({ "upstream_id": "u11" }))), ("/routes/u11-alone", alone)]).await;
    for (target, expected) in [("/u11/x", "id"), ("/u11-alone/x", "inline")] {
        assert_eq!(server(&site.up.get(target).await), expected, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_1_2_nodes_are_a_map_or_a_list_by_address_or_by_name_or_of_a_registry() {
    let (site, echo) = (site().await, Echo::named("node"));
    let port = echo.port();
    let by_name = |name: &str| json!({ "nodes": { format!("{name}:{port}"): 1 } });
    let found = json!({ "discovery_type": "dns", "service_name": format!("one.node.test:{port}") });
    let upstreams = [
        json!({ "nodes": nodes(&[echo.address()]) }),
        json!({ "nodes": [{ "host": "127.0.0.1", "port": port, "weight": 1 }] }),
        by_name("one.node.test"),
        by_name("alias.node.test"),
        found,
    ];
    let name = |n: usize| format!("u12-{n}");
    site.put(upstreams.iter().enumerate().map(|(n, upstream)| route_to(&name(n), upstream.clone()))).await;
    for n in 0..upstreams.len() {
        let answer = site.up.get(&format!("/u12-{n}/x")).await;
        assert_eq!((server(&answer), tried(&answer)), ("node".into(), vec![echo.address().to_string()]), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_1_3_ports_priorities_and_brackets() {
    let site = site().await;
    // Nobody listens there; what counts is where it was tried.
    let at = |scheme: &str, host: &str| json!({ "scheme": scheme, "nodes": { host: 1 } });
    let table = [
        (at("http", "127.77.0.13"), "127.77.0.13:80"),
        (at("https", "127.77.0.13"), "127.77.0.13:443"),
        (at("grpc", "127.77.0.13"), "127.77.0.13:80"),
        (at("grpcs", "127.77.0.13"), "127.77.0.13:443"),
        (at("http", "[::1]"), "[::1]:80"),
        (at("http", "[::1]:7"), "[::1]:7"),
    ];
    site.put(table.iter().enumerate().map(|(n, (upstream, _))| route_to(&format!("u13-{n}"), upstream.clone()))).await;
    for (n, (upstream, expected)) in table.iter().enumerate() {
        assert_eq!(tried(&site.up.get(&format!("/u13-{n}/x")).await), [*expected], "{upstream}");
    }
    let echo = Echo::named("no priority is 0");
    let low = json!({ "host": "127.0.0.1", "port": nowhere().port(), "weight": 9, "priority": -1 });
    let high = json!({ "host": "127.0.0.1", "port": echo.port(), "weight": 1 });
    site.put([route_to("u13", json!({ "nodes": [low, high] }))]).await;
    for _ in 0..4 {
        assert_eq!(server(&site.up.get("/u13/x").await), "no priority is 0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_1_4_nodes_that_stay_the_same_keep_their_state() {
    let (site, echoes) = (site().await, ["a", "b", "c"].map(Echo::named));
    let node = |echo: &Echo, weight: u32| json!({ "host": "127.0.0.1", "port": echo.port(), "weight": weight });
    let [a, b, c] = echoes.each_ref().map(|echo| node(echo, 1));
    // A turn of three goes on through changes of what is no node, and of the order in which they stand.
    let same = [json!([a, b, c]), json!([c, a, b]), json!([b, c, a])];
    let mut served = Vec::new();
    for (round, nodes) in same.iter().cycle().take(9).enumerate() {
        site.put([route_to("u14", json!({ "nodes": nodes, "desc": format!("{round}") }))]).await;
        served.push(server(&site.up.get("/u14/x").await));
    }
    for turn in served.chunks(3) {
        assert_eq!(turn.iter().collect::<BTreeSet<_>>().len(), 3, "{served:?}");
    }
    // Another weight is another set.
    site.put([route_to("u14", json!({ "nodes": [a, b, node(&echoes[2], 0)] }))]).await;
    let mut served = Vec::new();
    for _ in 0..4 {
        served.push(server(&site.up.get("/u14/x").await));
    }
    assert!(!served.contains(&"c".to_owned()), "{served:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_1_failures_before_any_connection() {
    let (site, echo) = (site().await, Echo::start());
    let (one, other) = (Authority::new("one").issue(&["one"]), Authority::new("other").issue(&["other"]));
    let here = json!({ "nodes": nodes(&[echo.address()]) });
    let https = |tls: Value| json!({ "scheme": "https", "nodes": nodes(&[echo.address()]), "tls": tls });
    let no_upstream = json!({ "uri": "/u1-none/*", "plugins": { "proxy-rewrite": { "uri": "/x" } } });
    let ssl = |kind: &str| json!({ "type": kind, "cert": one.cert, "key": one.key });
    site.put([
        ("/upstreams/u1-gone", here.clone()),
        ("/ssls/u1-gone", ssl("client")),
        ("/ssls/u1-server", ssl("client")),
        ("/routes/u1-none", no_upstream),
        ("/routes/u1-id", json!({ "uri": "/u1-id/*", "upstream_id": "u1-gone" })),
    ])
    .await;
    site.put([
        route_to("u1-certificate", https(json!({ "client_cert_id": "u1-gone" }))),
        route_to("u1-kind", https(json!({ "client_cert_id": "u1-server" }))),
        route_to("u1-registry", json!({ "discovery_type": "eureka", "service_name": "s" })),
        route_to("u1-empty", json!({ "nodes": {} })),
        route_to("u1-found", json!({ "discovery_type": "dns", "service_name": "none.node.test:1" })),
        route_to("u1-unresolved", json!({ "nodes": { "none.node.test:1": 1, "nor.node.test:1": 1 } })),
        route_to(
            "u1-weights",
            json!({ "type": "chash", "key": "uri", "nodes": { "127.0.0.1:1": 0, "127.0.0.2:1": 0 } }),
        ),
        route_to("u1-type", with(here, json!({ "type": "unheard-of" }))),
        route_to("u1-key", https(json!({ "client_cert": one.cert, "client_key": other.key }))),
    ])
    .await;
    site.put([("/ssls/u1-server", with(ssl("server"), json!({ "sni": "u1.test" })))]).await;
    site.delete("/upstreams/u1-gone").await;
    site.delete("/ssls/u1-gone").await;
    for (rule, status) in [
        ("u1-none", 503),
        ("u1-id", 502),
        ("u1-certificate", 502),
        ("u1-kind", 502),
        ("u1-registry", 503),
        ("u1-empty", 503),
        ("u1-found", 503),
        ("u1-unresolved", 503),
        ("u1-weights", 502),
        ("u1-type", 502),
        ("u1-key", 503),
    ] {
        let answer = site.up.get(&format!("/{rule}/x")).await;
        assert_eq!((answer.status, tried(&answer)), (status, Vec::new()), "{rule}");
        assert!(answer.text().contains(&format!("<center><h1>{status} ")), "{rule}: {}", answer.text());
    }
    assert_eq!(echo.connections(), 0);
}

fn on(name: &str, last: u8, port: u16) -> Echo {
    Echo::on(name, SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_1_addresses_of_version_4_come_before_those_of_version_6() {
    let site = site().await;
    let names = [("alias", "127.0.0.1:7"), ("both", "127.0.0.33:7"), ("six", "[::1]:7")];
    let named = |name: &str| json!({ "nodes": { format!("{name}.node.test:7"): 1 } });
    site.put(names.map(|(name, _)| route_to(&format!("u21-{name}"), named(name)))).await;
    for (name, expected) in names {
        assert_eq!(tried(&site.up.get(&format!("/u21-{name}/x")).await), [expected], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_2_the_hosts_file_is_asked_first() {
    let (site, echo) = (site().await, Echo::named("here"));
    // The resolver does not know the name.
    site.put([route_to("u22", json!({ "nodes": { format!("localhost:{}", echo.port()): 1 } }))]).await;
    let answer = site.up.get("/u22/x").await;
    assert_eq!((server(&answer), tried(&answer)), ("here".into(), vec![echo.address().to_string()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_4_a_node_has_one_of_its_addresses_at_a_time_and_keeps_its_name() {
    let site = site().await;
    let one = on("one", 31, 0);
    let other = on("other", 32, one.port());
    let name = format!("two.node.test:{}", one.port());
    let (path, route) = route_to("u24", json!({ "nodes": { &name: 1 }, "pass_host": "node" }));
    let shows = json!({ "response-rewrite": { "headers": { "set": { "X-Seen": "$upstream_unresolved_host" } } } });
    site.put([(path, with(route, json!({ "plugins": shows })))]).await;
    let mut served = BTreeSet::new();
    // Each is drawn with even chances.
    for _ in 0..64 {
        let answer = site.up.get("/u24/x").await;
        served.insert(server(&answer));
        assert_eq!((super::received(&answer, "host"), tried(&answer).len()), (vec![name.clone()], 1));
        assert_eq!(answer.header("x-seen"), "two.node.test");
    }
    assert_eq!(served.len(), 2, "{served:?}");
    drop((one, other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_5_a_name_that_fails_is_left_out_and_told_of() {
    let (site, echo) = (site().await, Echo::named("known"));
    let nodes = json!({ "u25.node.test:1": 1, echo.address().to_string(): 1 });
    site.put([route_to("u25", json!({ "nodes": nodes, "retries": 0 }))]).await;
    for _ in 0..8 {
        assert_eq!(server(&site.up.get("/u25/x").await), "known");
    }
    let told = |line: &String| line.contains("ERROR") && line.contains("a name ") && line.contains("u25.node.test");
    eventually("it is told of", async || site.up.process.log().iter().any(told)).await;
}

/// Checks that take a node out at the first answer of 500.
fn watched(upstream: Value) -> Value {
    let passive =
        json!({ "unhealthy": { "http_statuses": [500], "http_failures": 1, "tcp_failures": 1, "timeouts": 1 } });
    with(upstream, json!({ "checks": { "active": {}, "passive": passive } }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_3_1_usable_nodes_are_candidates_and_if_there_is_none_all_are() {
    let (site, a, b) = (site().await, Echo::named("a"), Echo::named("b"));
    site.put([route_to("u31", watched(json!({ "nodes": nodes(&[a.address(), b.address()]) })))]).await;
    // Unknown is usable.
    let serving = async || {
        let mut names = BTreeSet::new();
        for _ in 0..4 {
            names.insert(server(&site.up.get("/u31/x").await));
        }
        names
    };
    assert_eq!(serving().await.len(), 2);
    a.always(Some(500));
    eventually("a has failed, and is out", async || site.up.get("/u31/x").await.status == 500).await;
    a.always(None);
    eventually("b alone serves", async || serving().await == ["b".to_owned()].into()).await;
    b.always(Some(500));
    eventually("b has failed, and both serve", async || site.up.get("/u31/x").await.status == 500).await;
    b.always(None);
    eventually("health is ignored", async || serving().await.len() == 2).await;
    let told = |line: &String| line.contains("no node of this upstream is healthy") && line.contains("/routes/u31");
    eventually("it is told of", async || site.up.process.log().iter().any(told)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_3_2_a_lower_tier_serves_where_the_higher_has_no_candidate_or_was_tried() {
    let site = site().await;
    let (first, second) = (Echo::named("first"), Echo::named("second"));
    for kind in ["roundrobin", "least_conn", "ewma", "chash"] {
        let upstream = |nodes: Value| json!({ "type": kind, "key": "uri", "nodes": nodes });
        let both = watched(upstream(in_order(&[first.address(), second.address()])));
        let dead = upstream(in_order(&[nowhere(), second.address()]));
        let rule = format!("u32-{kind}");
        site.put([route_to(&rule, both), route_to("u32-dead", dead)]).await;
        for n in 0..4 {
            assert_eq!(server(&site.up.get(&format!("/{rule}/{n}")).await), "first", "{kind}");
        }
        // All of the higher tier were tried for this request.
        let answer = site.up.get("/u32-dead/x").await;
        assert_eq!((server(&answer), tried(&answer).len()), ("second".to_owned(), 2), "{kind}");
        // The higher tier has no candidate.
        first.always(Some(500));
        eventually("the lower tier serves", async || {
            let answer = site.up.get(&format!("/{rule}/x")).await;
            answer.status == 200 && server(&answer) == "second"
        })
        .await;
        first.always(None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_3_3_a_ring_keeps_the_places_of_nodes_that_are_out() {
    let (site, echoes) = (site().await, ["a", "b", "c"].map(Echo::named));
    let at = echoes.each_ref().map(Echo::address);
    let upstream = watched(json!({ "type": "chash", "key": "arg_k", "nodes": nodes(&at) }));
    site.put([route_to("u33", upstream)]).await;
    let serving = async || {
        let mut names = Vec::new();
        for k in 0..24 {
            names.push(server(&site.up.get(&format!("/u33/x?k={k}")).await));
        }
        names
    };
    let before = serving().await;
    echoes[0].always(Some(500));
    let of_a = before.iter().position(|name| name == "a").unwrap();
    let key = format!("/u33/x?k={of_a}");
    eventually("a is out", async || site.up.get(&key).await.status == 200).await;
    echoes[0].always(None);
    for (before, after) in before.iter().zip(serving().await) {
        assert!(if before == "a" { after != "a" } else { after == *before }, "{before} became {after}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_3_4_a_single_node_is_used_whatever_its_weight_and_health() {
    let (site, echo) = (site().await, Echo::named("only"));
    for kind in ["roundrobin", "least_conn", "ewma", "chash"] {
        let nodes = json!({ echo.address().to_string(): 0 });
        site.put([route_to("u34", watched(json!({ "type": kind, "key": "uri", "nodes": nodes })))]).await;
        echo.always(Some(500));
        for _ in 0..3 {
            assert_eq!(site.up.get("/u34/x").await.status, 500, "{kind}");
        }
        echo.always(None);
        assert_eq!(server(&site.call(Call::get("/u34/x")).await), "only", "{kind}");
    }
}
