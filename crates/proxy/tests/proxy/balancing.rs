//! How nodes are chosen, through the gateway (`docs/spec/upstream-balancing.md` §3, §4).

use crate::support::{Bed, Scripted, object, read_head, route_to};
use milecastle_model::{Kind, Object};
use milecastle_testkit::{Call, Echo, nowhere};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// A route of everything to these nodes, each with a weight and a priority.
fn tiers(nodes: &[(SocketAddr, u32, i32)], upstream: Value) -> Vec<Object> {
    let node = |(addr, weight, priority): &(SocketAddr, u32, i32)| json!({ "host": addr.ip().to_string(), "port": addr.port(), "weight": weight, "priority": priority });
    let mut body = json!({ "nodes": nodes.iter().map(node).collect::<Vec<_>>() });
    body.as_object_mut().unwrap().extend(upstream.as_object().unwrap().clone());
    vec![
        object(Kind::Upstream, "u", body),
        object(Kind::Route, "r", json!({ "uri": "/*", "upstream_id": "u", "enable_websocket": true })),
    ]
}

fn echoes(names: &[&str]) -> Vec<Echo> {
    names.iter().map(|name| Echo::named(name)).collect()
}

fn addresses(echoes: &[Echo]) -> Vec<SocketAddr> {
    echoes.iter().map(Echo::address).collect()
}

/// The name of the node that answers.
fn served_by(bed: &Bed, call: Call) -> String {
    let answer = bed.call(call);
    assert_eq!(answer.status, 200);
    answer.json().unwrap()["server"].as_str().unwrap().to_owned()
}

/// How many of so many requests each node answers.
fn shares(bed: &Bed, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        *shares.entry(served_by(bed, Call::get("/"))).or_default() += 1;
    }
    shares
}

#[test]
fn rule_3_2_a_lower_tier_serves_only_when_the_higher_was_tried() {
    let echoes = echoes(&["first", "second", "backup"]);
    let at = addresses(&echoes);
    for kind in ["roundrobin", "least_conn", "ewma", "chash"] {
        let upstream = json!({ "type": kind, "key": "arg_id" });
        let bed = Bed::new(tiers(&[(at[2], 9, -1), (at[0], 1, 0), (at[1], 1, 0)], upstream.clone()));
        for n in 0..8 {
            assert_ne!(served_by(&bed, Call::get(&format!("/?id={n}"))), "backup", "{kind}");
        }
        let bed = Bed::new(tiers(&[(at[2], 1, -1), (nowhere(), 1, 0), (nowhere(), 1, 7)], upstream));
        assert_eq!(served_by(&bed, Call::get("/")), "backup", "{kind}");
        assert_eq!(bed.lines(1)[0].attempts, [502, 502, 200], "{kind}");
    }
}

#[test]
fn rule_4_1_round_robin_shares_by_weight() {
    let echoes = echoes(&["light", "heavy", "out"]);
    let at = addresses(&echoes);
    let bed = Bed::new(tiers(&[(at[0], 10, 0), (at[1], 30, 0), (at[2], 0, 0)], json!({})));
    assert_eq!(shares(&bed, 12), [("heavy".to_owned(), 9), ("light".to_owned(), 3)].into());
}

#[test]
fn rule_4_2_keys_keep_their_nodes() {
    let echoes = echoes(&["a", "b", "c"]);
    let at = addresses(&echoes);
    #[rustfmt::skip]
    let table = [
        json!({ "key": "uri" }), json!({ "key": "arg_id" }), json!({ "hash_on": "header", "key": "X-Id" }),
        json!({ "hash_on": "cookie", "key": "id" }), json!({ "hash_on": "vars_combinations", "key": "$http_x_id/$uri" }),
    ];
    for mut upstream in table {
        upstream["type"] = "chash".into();
        let bed = Bed::new(route_to(&at, json!({ "upstream": upstream })));
        let call = |n: usize| {
            let call = Call::get(&format!("/{n}?id={n}"));
            call.header("x-id", &n.to_string()).header("cookie", &format!("x=1; id={n}"))
        };
        let first: Vec<String> = (0..24).map(|n| served_by(&bed, call(n))).collect();
        let second: Vec<String> = (0..24).map(|n| served_by(&bed, call(n))).collect();
        assert_eq!(first, second, "{upstream}");
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "{upstream}");
    }
    // Without a key, the client's address is the same for all.
    let by_header = json!({ "type": "chash", "hash_on": "header", "key": "absent" });
    let bed = Bed::new(route_to(&at, json!({ "upstream": by_header })));
    assert_eq!(shares(&bed, 9).len(), 1);
}

#[test]
fn rule_4_2_5_a_retry_goes_on_round_the_ring_and_other_keys_stay() {
    let echoes = echoes(&["a", "b"]);
    let chash = json!({ "type": "chash", "key": "arg_id" });
    let call = |n: usize| Call::get(&format!("/?id={n}"));
    let dead = nowhere();
    let nodes = [echoes[0].address(), dead, echoes[1].address()];
    let bed = Bed::new(route_to(&nodes, json!({ "upstream": chash })));
    let first: Vec<String> = (0..24).map(|n| served_by(&bed, call(n))).collect();
    let lines = bed.lines(24);
    assert!(lines.iter().any(|line| line.attempts == [502, 200]), "the dead node has keys");
    assert!(lines.iter().any(|line| line.attempts == [200]), "others have not its keys");
    assert_eq!(first, (0..24).map(|n| served_by(&bed, call(n))).collect::<Vec<_>>());
}

#[test]
fn rule_4_2_1_an_empty_ring_is_502() {
    let echoes = echoes(&["a", "b"]);
    let at = addresses(&echoes);
    let bed = Bed::new(tiers(&[(at[0], 0, 0), (at[1], 0, 0)], json!({ "type": "chash", "key": "uri" })));
    assert_eq!(bed.get("/").status, 502);
    assert!(bed.lines(1)[0].attempts.is_empty());
}

#[test]
fn a_ring_has_its_cap_and_is_counted() {
    let echoes = echoes(&["a", "b"]);
    let at = addresses(&echoes);
    let heavy = tiers(&[(at[0], 1_000_000, 0), (at[1], 999_999, 0)], json!({ "type": "chash", "key": "arg_id" }));
    let bed = Bed::with(heavy, |file| file.limits.hash_ring_points = 10_000);
    let served = (0..40).map(|n| served_by(&bed, Call::get(&format!("/?id={n}"))));
    assert_eq!(served.collect::<BTreeSet<_>>().len(), 2);
    assert_eq!(bed.totals().hash_rings_cut, 1);
}

/// Answers `/free` at once, and everything else when the connection has ended.
fn holding() -> Scripted {
    Scripted::new(|stream, _| {
        while let Some(head) = read_head(stream) {
            if head.starts_with("GET /free") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
        }
    })
}

#[test]
fn rule_4_3_busy_nodes_get_fewer_requests() {
    let (busy, idle) = (holding(), Echo::named("idle"));
    let nodes = [(busy.addr, 1, 0), (idle.address(), 1, 0)];
    let mut bed = Bed::new(tiers(&[(busy.addr, 1, 0)], json!({ "type": "least_conn" })));
    // Requests that hang with the only node are counted, and the count stays when a second node comes.
    let held: Vec<_> = (0..3)
        .map(|_| {
            bed.run(async {
                let mut client = milecastle_testkit::raw::Raw::connect(bed.http).await.unwrap();
                client.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
                client
            })
        })
        .collect();
    bed.wait_totals("requests to be held", |totals| totals.upstream_connects == 3);
    bed.publish(tiers(&nodes, json!({ "type": "least_conn" })));
    assert_eq!(shares(&bed, 12), [("idle".to_owned(), 12)].into());
    let before = busy.connections.load(Ordering::SeqCst);
    drop(held);
    bed.wait_totals("nothing to be held", |totals| totals.in_flight == 0);
    // Now it has its turn among equals again.
    let answers: Vec<String> = (0..6).map(|_| bed.get("/free").text()).collect();
    assert!(answers.iter().any(|text| text == "ok"), "{answers:?}");
    assert!(busy.connections.load(Ordering::SeqCst) > before);
}

#[test]
fn rule_4_4_the_faster_of_two_is_preferred() {
    let echoes = echoes(&["a", "b"]);
    let at = addresses(&echoes);
    let bed = Bed::new(route_to(&at, json!({ "upstream": { "type": "ewma" } })));
    // Both unknown: one of them. Its time makes the other, still unknown, the better one; then the smaller time wins.
    let first = served_by(&bed, Call::get("/delay/500"));
    let second = served_by(&bed, Call::get("/"));
    assert_ne!(first, second);
    assert_eq!(shares(&bed, 20), [(second, 20)].into());
}

#[test]
fn rule_4_4_averages_survive_an_unrelated_change() {
    let echoes = echoes(&["a", "b", "c"]);
    let at = addresses(&echoes);
    let ewma = json!({ "upstream": { "type": "ewma" } });
    let mut bed = Bed::new(route_to(&at[..2], ewma.clone()));
    let slow = served_by(&bed, Call::get("/delay/500"));
    let fast = served_by(&bed, Call::get("/"));
    let mut objects = route_to(&at[..2], ewma.clone());
    objects.push(object(Kind::Route, "other", json!({ "uri": "/other", "upstream_id": "u" })));
    bed.publish(objects);
    assert_eq!(shares(&bed, 10), [(fast, 10)].into());
    // Also where the nodes change.
    bed.publish(route_to(&at, ewma));
    assert_eq!(shares(&bed, 20).get(&slow), None);
}

#[test]
fn an_algorithm_that_is_not_known_is_502() {
    let echoes = echoes(&["a", "b"]);
    let bed = Bed::new(route_to(&addresses(&echoes), json!({ "upstream": { "type": "none" } })));
    assert_eq!(bed.get("/").status, 502);
    assert!(echoes.iter().all(|echo| echo.received().is_empty()));
}
