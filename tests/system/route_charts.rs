//! What routes do, as every replica tells it of all nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use milecastle_testkit::{Call, Echo, eventually, wait_for};
use milecastle_tests::{Cluster, Gateway, Replica, free};
use serde_json::{Value, json};

/// What a node logs of an upstream that is not there: to which it sent a request, and which it probed.
const COMPLAINTS: [&str; 2] = ["an upstream node gave no answer", "an upstream node is unhealthy"];

/// Time for a step of 30 seconds to end and to be written.
const A_STEP: Duration = Duration::from_secs(90);

/// By route, requests and errors.
type Tally = BTreeMap<String, (u64, u64)>;

async fn got(replica: &Replica, path: &str) -> Value {
    let answer = replica.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json().unwrap()
}

/// Sends a request and takes it down.
async fn ask(gateway: &Gateway, path: &str, tally: &mut Tally) -> u16 {
    let Ok(answer) = Call::get(path).to(gateway.http).await else { return 0 };
    let route = if answer.status == 404 { "(unmatched)" } else { path.trim_start_matches('/') };
    let (requests, errors) = tally.entry(route.to_owned()).or_default();
    *requests += 1;
    *errors += u64::from(answer.status >= 500);
    answer.status
}

/// Requests of all kinds, once the node knows the routes.
async fn load(gateway: &Gateway, tally: &mut Tally) {
    gateway.ready().await;
    while ask(gateway, "/mixed", tally).await != 200 {}
    for path in ["/good", "/good", "/good", "/bad", "/bad", "/nowhere"] {
        ask(gateway, path, tally).await;
    }
}

/// The run of a node's process and how long it runs, as the replica was told that it is connected to.
async fn told(replica: &Replica, node: usize) -> Option<(String, u64)> {
    let nodes = got(replica, "/api/nodes").await;
    let told = nodes["list"].as_array()?.iter().filter(|node| !node["figures"].is_null()).nth(node)?;
    Some((told["boot"].as_str()?.to_owned(), told["figures"]["uptime_ms"].as_u64()?))
}

/// By route, what the list of the busiest has; of `mixed` also how its upstream does.
async fn top(replica: &Replica) -> (Tally, Value) {
    let found = got(replica, "/api/metrics/top_routes?group=default&window=15m").await;
    let list = found["list"].as_array().unwrap();
    let count = |line: &Value, name: &str| line[name].as_u64().unwrap();
    let tally = list
        .iter()
        .map(|line| (line["route"].as_str().unwrap().to_owned(), (count(line, "requests"), count(line, "errors"))));
    let mixed = list.iter().find(|line| line["route"] == "mixed");
    let health = mixed.map(|line| json!([line["upstream_targets"], line["unhealthy_targets"]])).unwrap_or_default();
    (tally.collect(), health)
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_all_nodes_are_told_alike_by_any_replica_also_when_a_node_starts_anew() {
    let (cluster, echo) = (Cluster::new(), Echo::start());
    let (one, two) = (cluster.control("one"), cluster.control("two"));
    one.ready().await;
    two.ready().await;
    cluster.token(&one);
    let (here, gone) = (echo.address().to_string(), free().to_string());
    let probes = json!({ "active": { "type": "tcp", "healthy": { "interval": 1, "successes": 1 },
        "unhealthy": { "interval": 1, "tcp_failures": 1 } } });
    for (id, upstream) in [
        ("good", json!({ "nodes": { &here: 1 } })),
        ("bad", json!({ "nodes": { &gone: 1 } })),
        ("mixed", json!({ "nodes": { &here: 1, &gone: 1 }, "checks": probes })),
    ] {
        one.put(&format!("/routes/{id}"), &json!({ "uri": format!("/{id}"), "upstream": upstream })).await;
    }
    let start = |mut gateway: Gateway| {
        COMPLAINTS.iter().for_each(|complaint| gateway.process.announce(complaint));
        gateway
    };
    let mut tally = Tally::new();
    let mut first = start(cluster.gateway("g1", &[one.dp_manager]));
    let second = start(cluster.gateway("g2", &[two.dp_manager]));
    load(&first, &mut tally).await;
    load(&second, &mut tally).await;
    // What is over by now is told with the report after the one under way.
    let (boot, uptime) = wait_for("a report", A_STEP, async || told(&one, 0).await).await;
    for after in [uptime, uptime + 1500] {
        eventually("another report", async || told(&one, 0).await.is_some_and(|(_, uptime)| uptime > after)).await;
    }
    let http = first.http;
    first.stop();
    first = start(cluster.gateway_again("g1", http));
    load(&first, &mut tally).await;
    eventually("its new process is heard", async || told(&one, 0).await.is_some_and(|(now, _)| now != boot)).await;
    for replica in [&one, &two] {
        // Each of two nodes watches two addresses, of which one is not there.
        wait_for("what all nodes counted, and how their upstreams do", A_STEP, async || {
            (top(replica).await == (tally.clone(), json!([4, 2]))).then_some(())
        })
        .await;
        let chart = got(replica, "/api/metrics/routes?group=default&route=bad").await;
        let [line] = &chart["series"].as_array().unwrap()[..] else { panic!("one line: {chart}") };
        let rates = |figure: &str| line.pointer(figure).unwrap().as_array().unwrap().clone();
        let known = rates("/requests").iter().filter_map(Value::as_f64).filter(|rate| *rate > 0.0).count();
        assert!(known > 0 && rates("/requests") == rates("/responses/5xx"), "{line}");
        assert!(rates("/responses_5xx_upstream").iter().filter_map(Value::as_f64).all(|rate| rate == 0.0), "{line}");
    }
    first.stop();
    second.stop();
    one.stop();
    two.stop();
}
