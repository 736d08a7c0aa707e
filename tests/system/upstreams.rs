//! Balancing and health of upstreams over the workers of a process (`docs/upstreams.md`).

use milecastle_testkit::registry::Dnsmasq;
use milecastle_testkit::{Call, Echo, eventually};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The names of the nodes that answer so many requests, each on a connection of its own: workers take turns.
async fn serving(up: &Up, requests: usize, target: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..requests {
        let answer = up.get(target).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        names.insert(answer.json().unwrap()["server"].as_str().unwrap().to_owned());
    }
    names
}

fn nodes(echoes: &[&Echo]) -> Value {
    echoes.iter().map(|echo| (echo.address().to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_one_for_all_workers_and_survives_changes() {
    let (up, a, b) = (Up::start(), Echo::named("a"), Echo::named("b"));
    let pace = |more: Value| {
        let mut side = json!({ "interval": 1 });
        side.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        side
    };
    let active = json!({ "http_path": "/probe", "healthy": pace(json!({ "successes": 1 })),
        "unhealthy": pace(json!({ "http_failures": 2 })) });
    let upstream = json!({ "nodes": nodes(&[&a, &b]), "checks": { "active": active } });
    up.put("/upstreams/u", upstream).await;
    up.put("/routes/r", json!({ "uri": "/*", "upstream_id": "u" })).await;
    up.answers("/", 200).await;
    assert_eq!(serving(&up, 20, "/").await.len(), 2);
    let status = async || {
        let shown = Call::get("/v1/healthcheck/upstreams/u").to(up.control).await.unwrap().json().unwrap();
        let status = |port: u16| {
            let of = |node: &&Value| node["port"] == port;
            shown["nodes"].as_array().unwrap().iter().find(of).unwrap()["status"].as_str().unwrap().to_owned()
        };
        [status(a.port()), status(b.port())]
    };
    a.always(Some(500));
    eventually("a to be unhealthy", async || status().await == ["unhealthy", "healthy"]).await;
    assert_eq!(serving(&up, 20, "/").await, ["b".to_owned()].into());
    up.put("/routes/other", json!({ "uri": "/other", "upstream_id": "u" })).await;
    up.answers("/other", 200).await;
    assert_eq!(serving(&up, 20, "/").await, ["b".to_owned()].into());
    let metric =
        format!("apisix_upstream_status{{name=\"/apisix/upstreams/u\",ip=\"127.0.0.1\",port=\"{}\"}} 0", a.port());
    eventually("the metric", async || {
        let page = Call::get("/apisix/prometheus/metrics").to(up.prometheus).await.unwrap().text();
        page.lines().any(|line| line == metric)
    })
    .await;
    a.always(None);
    eventually("a to be healthy", async || status().await == ["healthy", "healthy"]).await;
    assert_eq!(serving(&up, 20, "/").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_the_same_node_on_every_worker() {
    let (up, echoes) = (Up::start(), [Echo::named("a"), Echo::named("b"), Echo::named("c")]);
    let upstream = json!({ "type": "chash", "key": "arg_id", "nodes": nodes(&echoes.each_ref()) });
    up.put("/routes/r", json!({ "uri": "/*", "upstream": upstream })).await;
    up.answers("/", 200).await;
    let mut all = BTreeSet::new();
    // Where keys fall depends on the ports of the nodes: of 12 keys none may be for one of them, of 200 that happens to nobody.
    for id in 0..200 {
        let names = serving(&up, 8, &format!("/?id={id}")).await;
        assert_eq!(names.len(), 1, "{id}: {names:?}");
        all.extend(names);
        if id >= 12 && all.len() == 3 {
            break;
        }
    }
    assert_eq!(all.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_3_a_name_is_asked_for_again_when_its_time_is_over() {
    let on = |name: &str, last: u8, port: u16| Echo::on(name, (Ipv4Addr::new(127, 0, 0, last), port).into());
    let record = |ip: &str| [format!("host-record=node.test,{ip}"), "cname=alias.test,node.test".to_owned()];
    // The time is the answer's, or where it is set that one.
    for (ttl, valid) in [(1, None), (3600, Some("1s"))] {
        let a = on("a", 21, 0);
        let b = on("b", 22, a.port());
        let mut dns = Dnsmasq::start(ttl, &record("127.0.0.21"));
        let resolver = format!("['{}']", dns.address());
        let resolver = ("MILECASTLE__GATEWAY__APISIX__DNS_RESOLVER", &*resolver);
        let valid = valid.map(|time| ("MILECASTLE__GATEWAY__APISIX__DNS_RESOLVER_VALID", time));
        let up = Up::start_with(&[resolver].into_iter().chain(valid).collect::<Vec<_>>());
        let upstream = json!({ "nodes": { format!("alias.test:{}", a.port()): 1 }, "retries": 0, "pass_host": "node" });
        up.put("/routes/r", json!({ "uri": "/*", "upstream": upstream })).await;
        up.answers("/", 200).await;
        assert_eq!(serving(&up, 8, "/").await, ["a".to_owned()].into());
        assert_eq!(a.take().pop().unwrap().header("host"), [format!("alias.test:{}", a.port())]);
        dns.set(ttl, &record("127.0.0.22"));
        eventually("the other address", async || serving(&up, 4, "/").await == ["b".to_owned()].into()).await;
        // While no resolver answers, the last answer is used.
        dns.stop();
        drop(a);
        assert_eq!(serving(&up, 8, "/").await, ["b".to_owned()].into());
        drop(b);
    }
}
