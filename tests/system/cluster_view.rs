//! The cluster in one view: what nodes complain of and how much they do, the same on any replica.

use std::time::Duration;

use milecastle_testkit::{Call, eventually, wait_for};
use milecastle_tests::{Cluster, Gateway, Replica, free, full};
use serde_json::{Value, json};

/// What a node logs of an upstream that is not there.
const COMPLAINT: &str = "an upstream node gave no answer";

/// In the long form, time for nodes to be sampled twice.
const TWO_SAMPLES: Duration = Duration::from_secs(150);

async fn got(replica: &Replica, path: &str) -> Value {
    let answer = replica.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json().unwrap()
}

/// A request that ends in a 502, with secrets in it.
async fn fails(gateway: &Gateway) {
    let call = Call::get("/dead?token=canary-in-query").header("authorization", "canary-in-header");
    assert_eq!(call.body("canary-in-body").to(gateway.http).await.unwrap().status, 502);
}

/// Kind, state and word of all whose availability is known.
async fn states(replica: &Replica) -> Vec<String> {
    let found = got(replica, "/api/availability?window=1h").await;
    let word = |one: &Value, member: &str| one[member].as_str().unwrap().to_owned();
    let short = |one: &Value| ["kind", "state", "detail"].map(|member| word(one, member)).join(" ");
    found["list"].as_array().unwrap().iter().map(short).collect()
}

/// Answers in a second of the class 5xx of each node at the times of a chart.
fn failures(chart: &Value) -> Vec<(u64, Vec<Value>)> {
    let times = chart["at"].as_array().unwrap().iter().map(|at| at.as_u64().unwrap());
    let lines = chart["series"].as_array().unwrap();
    let point = |place: usize| lines.iter().map(|line| line["responses"]["5xx"][place].clone()).collect();
    times.enumerate().map(|(place, at)| (at, point(place))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn complaints_and_charts_of_all_nodes_are_the_same_on_any_replica() {
    let mut cluster = Cluster::new();
    cluster.for_control.extend([
        ("MILECASTLE__AVAILABILITY__LOOK", "1s"),
        ("MILECASTLE__AVAILABILITY__TIMEOUT", "900ms"),
        ("MILECASTLE__AVAILABILITY__DENY", "[]"),
    ]);
    let (one, two) = (cluster.control("one"), cluster.control("two"));
    one.ready().await;
    two.ready().await;
    cluster.token(&one);
    let gateways = [("g1", &one), ("g2", &two)].map(|(name, replica)| {
        let mut gateway = cluster.gateway(name, &[replica.dp_manager]);
        gateway.process.announce(COMPLAINT);
        gateway
    });
    let upstream = json!({ "nodes": { free().to_string(): 1 } });
    one.put("/routes/1", &json!({ "uri": "/*", "upstream": upstream })).await;
    for gateway in &gateways {
        gateway.ready().await;
        gateway.answers("/dead", 502).await;
        fails(gateway).await;
    }
    let mut seen = Value::Null;
    for replica in [&one, &two] {
        eventually("both nodes' complaints", async || {
            seen = got(replica, "/api/warnings?level=warn&group=default&text=gave+no+answer").await;
            seen["list"].as_array().unwrap().iter().filter(|line| line["times"].as_u64() >= Some(2)).count() == 2
        })
        .await;
        let all = got(replica, "/api/warnings?limit=1000").await;
        assert!(!all.to_string().contains("canary"), "{all}");
    }
    let line = &seen["list"][0];
    assert!(line["text"].as_str().unwrap().starts_with(COMPLAINT), "{line}");
    assert_ne!(line["node"], seen["list"][1]["node"]);
    let node = line["node"].as_str().unwrap();
    assert_eq!(got(&one, &format!("/api/warnings?node={node}&text={}", "gave+no+answer")).await["total"], 1);
    assert_eq!(got(&one, "/api/warnings?level=error&text=gave+no+answer").await["total"], 0);
    let table = cluster.operator(&two, &["nodes", "warnings", "--text", "gave no answer", "--since", "1h"]);
    assert!(table.code == 0 && table.text.contains(COMPLAINT) && table.text.contains(node), "{}", table.text);
    if full() {
        let path = "/api/metrics?window=15m&by=node";
        let mut charts = [Vec::new(), Vec::new()];
        wait_for("a point of both nodes on both replicas", TWO_SAMPLES, async || {
            for gateway in &gateways {
                fails(gateway).await;
            }
            for (chart, replica) in charts.iter_mut().zip([&one, &two]) {
                *chart = failures(&got(replica, path).await);
            }
            let known =
                |(_, lines): &&(u64, Vec<Value>)| lines.iter().filter(|rate| rate.as_f64() > Some(0.0)).count() == 2;
            let at = charts[0].iter().find(known)?.0;
            let of = |chart: &[(u64, Vec<Value>)]| chart.iter().find(|point| point.0 == at).cloned();
            (of(&charts[0]) == of(&charts[1])).then_some(())
        })
        .await;
    }
    let probe = json!({ "url": format!("http://{}/readyz", two.http) });
    assert_eq!(one.call("PUT", "/api/probes/two", Some(&probe)).await.status, 200);
    let up = [
        "cluster up up",
        "member up alive",
        "member up alive",
        "node up connected",
        "node up connected",
        "probe up status 200",
    ];
    for replica in [&one, &two] {
        eventually("all is up", async || states(replica).await == up).await;
    }
    let [gateway, gone] = gateways;
    gone.stop();
    for replica in [&one, &two] {
        eventually("a node is down, and the cluster is not", async || {
            let states = states(replica).await;
            states.contains(&"node down lost".to_owned()) && states.contains(&up[0].to_owned())
        })
        .await;
    }
    gateway.stop();
    one.stop();
    two.stop();
}
