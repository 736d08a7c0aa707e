//! Algorithms (§4).

use super::{Balancing, in_order, nodes, route_to, server, site, tried, with};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo, eventually, nowhere};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// How many of so many requests each node answers.
async fn shares(site: &Balancing, rule: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        *shares.entry(server(&site.up.get(&format!("/{rule}/x")).await)).or_default() += 1;
    }
    shares
}

fn weighted(echoes: &[(&Echo, u32)]) -> Value {
    echoes
        .iter()
        .map(|(echo, weight)| (echo.address().to_string(), json!(weight)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_no_node_is_tried_twice_and_none_left_is_502() {
    let site = site().await;
    let away: Vec<SocketAddr> = (0..4).map(|_| nowhere()).collect();
    for kind in ["roundrobin", "least_conn", "ewma", "chash"] {
        let tier = |at: &[SocketAddr], priority: i32| {
            let node = move |at: &SocketAddr| json!({ "host": at.ip().to_string(), "port": at.port(), "weight": 1, "priority": priority });
            at.iter().map(node).collect::<Vec<_>>()
        };
        let all = [tier(&away[..2], 0), tier(&away[2..], 1)].concat();
        site.put([route_to("u4", json!({ "type": kind, "key": "uri", "nodes": all }))]).await;
        let answer = site.up.get("/u4/x").await;
        let tried = tried(&answer);
        let names = |at: &[SocketAddr]| at.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let seen = |tried: &[String]| tried.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!((answer.status, tried.len()), (502, 4), "{kind}");
        assert_eq!((seen(&tried[..2]), seen(&tried[2..])), (names(&away[2..]), names(&away[..2])), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_1_round_robin_gives_shares_by_weight() {
    let (site, echoes) = (site().await, ["a", "b", "c"].map(Echo::named));
    let [a, b, c] = echoes.each_ref();
    let of = |shares: [(&str, usize); 2]| BTreeMap::from(shares.map(|(name, share)| (name.to_owned(), share)));
    site.put([route_to("u41", json!({ "nodes": weighted(&[(a, 10), (b, 30), (c, 0)]) }))]).await;
    // 40 / 10 picks are a round, from wherever it starts.
    for _ in 0..3 {
        assert_eq!(shares(&site, "u41", 4).await, of([("a", 1), ("b", 3)]));
    }
    site.put([route_to("u41", json!({ "nodes": weighted(&[(a, 0), (b, 0)]) }))]).await;
    assert_eq!(shares(&site, "u41", 4).await, of([("a", 2), ("b", 2)]));
}

/// CRC-32 as IEEE 802.3 has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// The order in which the ring of §4.2 gives nodes for a key; weights are reduced already.
pub(crate) fn ring(nodes: &[(&str, usize)], key: &str) -> Vec<String> {
    let mut points: Vec<(u32, &str)> = Vec::new();
    for &(node, weight) in nodes {
        let identity = node.replace(':', "\0").into_bytes();
        let mut last = 0_u32;
        for _ in 0..160 * weight {
            last = crc32(&[&identity[..], &last.to_le_bytes()].concat());
            points.push((last, node));
        }
    }
    points.sort_unstable();
    let start = points.partition_point(|(value, _)| *value < crc32(key.as_bytes()));
    points.rotate_left(start);
    let mut order: Vec<String> = Vec::new();
    for (_, node) in points {
        if !order.iter().any(|known| known == node) {
            order.push(node.to_owned());
        }
    }
    order
}

/// Nobody listens at these nodes, so that each request shows the whole order. It has to be the ring's.
async fn follows_the_ring(site: &Balancing, rule: &str, nodes: &[(&str, usize)], by: usize) {
    let weights: serde_json::Map<String, Value> =
        nodes.iter().map(|(node, weight)| ((*node).to_owned(), json!(weight * by))).collect();
    site.put([route_to(rule, json!({ "type": "chash", "key": "arg_k", "nodes": weights }))]).await;
    for key in ["a", "b", "jack", "10.0.0.7", "hello", "session-42", "another", "one-more"] {
        let answer = site.up.get(&format!("/{rule}/x?k={key}")).await;
        assert_eq!(tried(&answer), ring(nodes, key), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_2_1_points_follow_the_reduced_weight() {
    let site = site().await;
    follows_the_ring(&site, "u421", &[("127.77.42.1:9", 1), ("127.77.42.2:9", 2), ("127.77.42.3:9", 5)], 50).await;
    let none = json!({ "127.77.42.1:9": 0, "127.77.42.2:9": 0 });
    site.put([route_to("u421-none", json!({ "type": "chash", "key": "arg_k", "nodes": none }))]).await;
    let answer = site.up.get("/u421-none/x?k=a").await;
    assert_eq!((answer.status, tried(&answer).len()), (502, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_2_2_a_node_is_its_host_and_port() {
    let site = site().await;
    follows_the_ring(&site, "u422", &[("127.77.42.4:9", 1), ("127.77.42.4:10", 1), ("[::1]:9", 1)], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_2_3_points_are_chained_checksums() {
    // The vectors of the specification hold for what this test compares with.
    let chain = |node: &str| {
        let identity = node.replace(':', "\0").into_bytes();
        let next = |last: u32| crc32(&[&identity[..], &last.to_le_bytes()].concat());
        [next(0), next(next(0)), next(next(next(0)))]
    };
    assert_eq!(chain("127.0.0.1:1980"), [3_877_489_599, 4_277_466_901, 444_920_549]);
    assert_eq!(chain("127.0.0.1:1981"), [3_665_682_959, 3_572_484_838, 3_976_795_795]);
    follows_the_ring(&*site().await, "u423", &[("127.77.42.5:1", 1), ("127.77.42.5:2", 1), ("127.77.42.5:3", 1)], 1)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_2_4_a_key_falls_on_the_next_point() {
    let nodes = [("127.0.0.1:1980", 1), ("127.0.0.1:1981", 1), ("127.0.0.1:1982", 2)];
    let weights: serde_json::Map<String, Value> =
        nodes.iter().map(|(node, weight)| ((*node).to_owned(), json!(weight))).collect();
    let site = site().await;
    // Whatever may listen there gets nothing but connections of a probe for TLS.
    let upstream = json!({ "type": "chash", "key": "arg_k", "scheme": "https", "nodes": weights });
    site.put([route_to("u424", upstream)]).await;
    for (key, chosen, next) in [
        ("a", 1981, 1980),
        ("b", 1981, 1982),
        ("jack", 1982, 1981),
        ("10.0.0.7", 1982, 1981),
        ("%2Fhello", 1982, 1981),
        ("session-42", 1980, 1981),
    ] {
        let answer = site.up.get(&format!("/u424/x?k={key}")).await;
        assert_eq!(tried(&answer)[..2], [format!("127.0.0.1:{chosen}"), format!("127.0.0.1:{next}")], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_2_5_a_retry_goes_on_clockwise() {
    let site = site().await;
    let (dead, echoes) = (nowhere(), ["a", "b"].map(Echo::named));
    let at = [dead, echoes[0].address(), echoes[1].address()];
    site.put([route_to("u425", json!({ "type": "chash", "key": "arg_k", "nodes": nodes(&at) }))]).await;
    let names = at.map(|at| at.to_string());
    let equal = names.each_ref().map(|name| (name.as_str(), 1));
    let mut retried = 0;
    for key in 0..32 {
        let tried = tried(&site.up.get(&format!("/u425/x?k={key}")).await);
        let order = ring(&equal, &key.to_string());
        assert_eq!(tried[..], order[..tried.len()], "{key}");
        retried += tried.len() - 1;
    }
    assert!(retried > 0, "the dead node has keys of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_2_6_what_a_key_is_made_of() {
    let site = site().await;
    let consumer = json!({ "username": "u426", "plugins": { "key-auth": { "key": "u426" } } });
    site.put([("/consumers/u426", consumer)]).await;
    let at = ["127.77.42.6:1", "127.77.42.6:2", "127.77.42.6:3", "127.77.42.6:4"];
    let table = [
        (json!({ "key": "arg_k" }), "key"),
        (json!({ "hash_on": "vars", "key": "uri" }), "/n/key"),
        (json!({ "hash_on": "header", "key": "X-Key" }), "of a header"),
        (json!({ "hash_on": "cookie", "key": "k" }), "of a cookie"),
        (json!({ "hash_on": "consumer" }), "u426"),
        (
            json!({ "hash_on": "vars_combinations", "key": "$arg_k/${http_x_key}-${arg_none ?? else}" }),
            "key/of a header-else",
        ),
        // What is absent is replaced by the client's address.
        (json!({ "key": "arg_none" }), "127.0.0.1"),
        (json!({ "hash_on": "header", "key": "X-None" }), "127.0.0.1"),
        (json!({ "hash_on": "cookie", "key": "none" }), "127.0.0.1"),
        (json!({ "hash_on": "vars_combinations", "key": "$arg_none" }), "127.0.0.1"),
    ];
    let weights = at.map(|node| (node.to_owned(), json!(1)));
    let weights: serde_json::Map<String, Value> = weights.into_iter().collect();
    let route = |n: usize, key: &Value| {
        let (path, route) =
            route_to(&format!("u426-{n}"), with(json!({ "type": "chash", "nodes": weights }), key.clone()));
        let guarded = if key["hash_on"] == "consumer" { json!({ "key-auth": {} }) } else { json!({}) };
        (path, with(route, json!({ "plugins": guarded })))
    };
    site.put(table.iter().enumerate().map(|(n, (key, _))| route(n, key))).await;
    for (n, (upstream, key)) in table.iter().enumerate() {
        let call = Call::get(&format!("/u426-{n}/key?k=key")).header("x-key", "of a header");
        let answer = site.call(call.header("cookie", "a=b; k=of a cookie").header("apikey", "u426")).await;
        let key = key.replace("/n/", &format!("/u426-{n}/"));
        assert_eq!(tried(&answer), ring(&at.map(|node| (node, 1)), &key), "{upstream}");
    }
    // Without a consumer too.
    let (path, route) = route(4, &json!({ "hash_on": "consumer" }));
    site.put([(path, with(route, json!({ "plugins": {} })))]).await;
    let answer = site.up.get("/u426-4/x").await;
    assert_eq!(tried(&answer), ring(&at.map(|node| (node, 1)), "127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_3_the_least_loaded_node_for_its_weight() {
    let (site, light, heavy) = (site().await, Echo::named("light"), Echo::named("heavy"));
    let upstream = json!({ "type": "least_conn", "nodes": weighted(&[(&light, 1), (&heavy, 2)]) });
    site.put([route_to("u43", upstream)]).await;
    let mut held = Vec::new();
    for n in 1..=6 {
        let mut connection = Raw::connect(site.up.http).await.unwrap();
        connection.send(format!("GET /u43/hang/{n} HTTP/1.1\r\nHost: h\r\n\r\n")).await.unwrap();
        held.push(connection);
        eventually("it is with a node", async || light.received().len() + heavy.received().len() == n).await;
    }
    assert_eq!((light.received().len(), heavy.received().len()), (2, 4));
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_3_counts_stay_with_a_node_in_its_tier() {
    let site = site().await;
    let echoes = ["old", "new", "last"].map(Echo::named);
    let [old, new, last] = echoes.each_ref();
    let node = |echo: &Echo, priority: i32| json!({ "host": "127.0.0.1", "port": echo.port(), "weight": 1, "priority": priority });
    let put =
        async |nodes: Value| site.put([route_to("u43-change", json!({ "type": "least_conn", "nodes": nodes }))]).await;
    let got = || echoes.each_ref().map(|echo| echo.received().len());
    let mut held = Vec::new();
    let mut send = async |count: usize| {
        for _ in 0..count {
            let before: usize = got().iter().sum();
            let mut connection = Raw::connect(site.up.http).await.unwrap();
            connection.send("GET /u43-change/hang HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
            held.push(connection);
            eventually("it is with a node", async || got().iter().sum::<usize>() > before).await;
        }
    };
    // A single node is counted too.
    put(json!([node(old, 0)])).await;
    send(2).await;
    // What it has in flight counts beside a node that has come.
    put(json!([node(old, 0), node(new, 0)])).await;
    send(2).await;
    assert_eq!(got(), [2, 2, 0]);
    // In another tier it begins anew.
    put(json!([node(old, 1), node(last, 1), node(new, 0)])).await;
    send(2).await;
    assert_eq!(got(), [3, 2, 1]);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_4_4_the_faster_of_two_nodes() {
    let (site, slow, fast) = (site().await, Echo::named("slow"), Echo::named("fast"));
    let upstream = |nodes: Value| json!({ "type": "ewma", "nodes": nodes });
    site.put([
        route_to("u44-slow", upstream(nodes(&[slow.address()]))),
        route_to("u44-fast", upstream(nodes(&[fast.address()]))),
        // Weights do not count.
        route_to("u44", upstream(weighted(&[(&slow, 100), (&fast, 1)]))),
        // A tier of one has no choice.
        route_to("u44-tiers", upstream(in_order(&[slow.address(), fast.address()]))),
    ])
    .await;
    // What is measured is of the node, whatever upstream it is in.
    assert_eq!(server(&site.up.get("/u44-slow/delay/500").await), "slow");
    assert_eq!(server(&site.up.get("/u44-fast/x").await), "fast");
    assert_eq!(shares(&site, "u44", 20).await, BTreeMap::from([("fast".to_owned(), 20)]));
    assert_eq!(server(&site.up.get("/u44-tiers/x").await), "slow");
}
