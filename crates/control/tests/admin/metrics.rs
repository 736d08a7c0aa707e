//! Charts of the traffic of nodes.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use milecastle_control::watch_database;
use milecastle_store::{DEFAULT_GROUP, Lease, NewNode, NewToken, NodeReport, Sampling, Term};
use milecastle_telemetry::metrics::Registry;
use milecastle_testkit::{Answer, Call, eventually};
use serde_json::{Value, json};

use crate::gateway::{Gateway, KEY, on_both};

on_both!(every_replica_draws_the_same_chart, charts_that_are_none, what_is_asked_of_the_database_is_counted);

/// Steps in which nodes are sampled, in seconds.
const STEP: u64 = 30;

/// What a node has counted: so many good answers and half as many that upstreams failed, each within 10 ms.
fn counted(good: u64) -> Value {
    let mut times = [0; 16];
    times[3] = good + good / 2;
    json!({
        "responses": [0, good, 0, 0, good / 2], "upstream_5xx": good / 2, "times": times,
        "connections": 7, "upstream_targets": 4, "unhealthy_targets": 1,
    })
}

/// Nodes have said this much at a step, and it was sampled.
async fn sampled(gw: &Gateway, lease: &Lease, at: u64, nodes: &[(&str, u64)]) {
    let report = |good: u64| NodeReport {
        host: "h".to_owned(),
        version: "v".to_owned(),
        boot: "b".to_owned(),
        reported_at: at,
        lineage: String::new(),
        revision: 0,
        digest: Vec::new(),
        rejected: json!({}),
        traffic: Some(counted(good)),
        connected: true,
        member: gw.member().to_owned(),
    };
    let reports = nodes.iter().map(|(node, good)| (DEFAULT_GROUP.to_owned(), (*node).to_owned(), report(*good)));
    gw.store.node_report(&reports.collect::<Vec<_>>()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let sampling = Sampling { silence: Duration::from_secs(STEP - 1), fine: hour, coarse: hour, coarse_step: 300 };
    let term = Term { lease: "leader", holder: &lease.holder, epoch: lease.epoch };
    assert_eq!(gw.store.node_sample_take(term, at, &sampling).await.unwrap(), nodes.len() as u64);
}

/// The token that nodes join with.
pub(crate) async fn token(gw: &Gateway) {
    let token = NewToken {
        id: "t".to_owned(),
        group: DEFAULT_GROUP.to_owned(),
        name: "t".to_owned(),
        hash: [1; 32],
        expires_at: None,
    };
    gw.by().token_create(&token).await.unwrap();
}

pub(crate) async fn join(gw: &Gateway, node: &str) {
    let new = NewNode {
        group: DEFAULT_GROUP.to_owned(),
        id: node.to_owned(),
        token: "t".to_owned(),
        certificate: String::new(),
        host: String::new(),
        version: String::new(),
    };
    assert!(gw.store.node_join(&new).await.unwrap());
}

async fn get(gw: &Gateway, path: &str) -> Answer {
    Call::new(Method::GET, path).header("x-api-key", KEY).to(gw.address()).await.unwrap()
}

/// Where a time is in a chart.
fn place(chart: &Value, at: u64) -> usize {
    chart["at"].as_array().unwrap().iter().position(|one| *one == json!(at)).unwrap()
}

async fn every_replica_draws_the_same_chart(gw: Gateway) {
    let other = gw.replica().await;
    token(&gw).await;
    join(&gw, "a").await;
    join(&gw, "b").await;
    eventually("somebody leads", async || gw.store.lease_get("leader").await.unwrap().is_some()).await;
    let lease = gw.store.lease_get("leader").await.unwrap().unwrap();
    // Steps that are over: whoever leads samples none of them.
    let first = gw.store.now() / STEP * STEP - 4 * STEP;
    sampled(&gw, &lease, first, &[("a", 0), ("b", 0)]).await;
    sampled(&gw, &lease, first + STEP, &[("a", 60), ("b", 600)]).await;
    sampled(&gw, &lease, first + 2 * STEP, &[("a", 60)]).await;
    for replica in [&gw, &other] {
        let chart = get(replica, "/api/metrics?window=15m&group=default").await.json().unwrap();
        assert_eq!(chart["step"], json!(30));
        let place = place(&chart, first + STEP);
        let [line] = &chart["series"].as_array().unwrap()[..] else { panic!("one line: {chart}") };
        let points = |figure: &str| line.pointer(figure).unwrap().as_array().unwrap()[place - 1..place + 3].to_vec();
        assert_eq!(points("/nodes"), [0, 2, 1, 0].map(Value::from));
        assert_eq!(points("/requests"), [Value::Null, json!(33.0), json!(0.0), Value::Null]);
        assert_eq!(points("/responses/2xx"), [Value::Null, json!(22.0), json!(0.0), Value::Null]);
        assert_eq!(points("/responses/5xx"), [Value::Null, json!(11.0), json!(0.0), Value::Null]);
        assert_eq!(points("/responses_5xx_upstream"), [Value::Null, json!(11.0), json!(0.0), Value::Null]);
        for figure in ["/p50_ms", "/p95_ms", "/p99_ms"] {
            assert_eq!(points(figure), [Value::Null, json!(10), Value::Null, Value::Null], "{figure}");
        }
        assert_eq!(points("/connections"), [Value::Null, json!(14), json!(7), Value::Null]);
        assert_eq!(points("/unhealthy_targets"), [Value::Null, json!(2), json!(1), Value::Null]);
        let by_node = get(replica, "/api/metrics?by=node").await.json().unwrap();
        let names: Vec<_> = by_node["series"].as_array().unwrap().iter().map(|line| &line["node"]).collect();
        assert_eq!(names, ["a", "b"]);
        let of_b = get(replica, "/api/metrics?by=group&node=b").await.json().unwrap();
        assert_eq!(of_b["series"][0]["group"], "default");
        assert_eq!(of_b["series"][0]["requests"][self::place(&of_b, first + STEP)], json!(30.0));
    }
}

async fn charts_that_are_none(gw: Gateway) {
    for wrong in ["window=2h", "step=7", "step=0", "window=24h&step=30", "step=1800", "by=route", "step=x"] {
        let answer = get(&gw, &format!("/api/metrics?{wrong}")).await;
        assert_eq!((answer.status, &answer.json().unwrap()["code"]), (400, &json!("invalid_argument")), "{wrong}");
    }
    for (window, points) in
        [("15m", 30), ("1h", 60), ("6h", 72), ("24h", 96), ("1h&step=30", 120), ("24h&step=300", 288)]
    {
        let chart = get(&gw, &format!("/api/metrics?window={window}")).await.json().unwrap();
        assert_eq!((chart["at"].as_array().unwrap().len(), &chart["series"]), (points, &json!([])), "{window}");
    }
}

async fn what_is_asked_of_the_database_is_counted(gw: Gateway) {
    let registry = Arc::new(Registry::new("control_", 1));
    let watch = watch_database(gw.store.clone(), &registry).unwrap();
    if gw.database().is_none() {
        watch.await;
        assert!(!registry.render().contains("control_database_statements_total{"), "a file is no server");
        return;
    }
    let watch = tokio::spawn(watch);
    let value = |sample: &str| -> f64 {
        let page = registry.render();
        let shown = page.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
        shown.unwrap_or_default()
    };
    let done = || value(r#"control_database_statements_total{result="done"}"#);
    let took = || value("control_database_statement_seconds_total ");
    eventually("what was asked at the start is counted", async || done() > 0.0 && took() > 0.0).await;
    let (before, took_before) = (done(), took());
    for n in 0..5 {
        gw.done(&format!(r#"PUT /upstreams/{n} {{"nodes":{{}}}}"#)).await;
    }
    eventually("the writes are counted", async || done() >= before + 5.0 && took() > took_before).await;
    let states = ["used", "idle"].map(|state| value(&format!(r#"control_database_connections{{state="{state}"}}"#)));
    let [used, idle] = states;
    assert!((1.0..=10.0).contains(&(used + idle)), "{used} used, {idle} idle");
    watch.abort();
}
