//! A database that is gone for a while, or says nothing: reads are answered from memory and say so, writes are refused and leave
//! nothing behind, and all recovers by itself.

use std::time::{Duration, Instant};

use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_testkit::{Answer, eventually};
use milecastle_tests::{Cluster, Replica, full};
use serde_json::{Value, json};

const SETTINGS: &str = "/api/gateway_groups/default/settings";

/// How a database is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// It does not run: who asks is refused at once.
    Stopped,
    /// It stands still: nothing is refused, and nothing is answered.
    Silent,
}

impl Outage {
    fn begin(self, postgres: &mut Postgres) {
        match self {
            Outage::Stopped => postgres.stop().unwrap(),
            Outage::Silent => postgres.freeze(true).unwrap(),
        }
    }

    fn end(self, postgres: &mut Postgres) {
        match self {
            Outage::Stopped => postgres.resume().unwrap(),
            Outage::Silent => postgres.freeze(false).unwrap(),
        }
    }
}

fn route(uri: &str) -> Value {
    json!({ "uri": uri, "upstream": { "nodes": { "127.0.0.1:80": 1 } } })
}

/// By how many seconds an answer says that it may be late; `None` if it does not say that it is stale.
fn age(answer: &Answer) -> Option<u64> {
    Some(answer.header("milecastle-stale")).filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

/// What is read from memory, by both APIs.
const READS: [&str; 6] = [
    "/apisix/admin/routes/1",
    "/apisix/admin/routes",
    "/apisix/admin/stream_routes",
    "/apisix/admin/plugins/list",
    "/apisix/admin/plugins/limit-count",
    SETTINGS,
];

/// Reads everything; gives the answers without what headers say.
async fn bodies(replica: &Replica) -> Vec<(u16, String)> {
    let mut bodies = Vec::new();
    for path in READS {
        let answer = replica.get(path).await;
        bodies.push((answer.status, answer.text()));
    }
    bodies
}

/// Waits until each read says that it may be late, or that none does.
async fn reads_are_stale(replica: &Replica, stale: bool) {
    for path in READS.into_iter().filter(|path| !path.ends_with("stream_routes")) {
        eventually(&format!("{path} says whether it is stale: {stale}"), async || {
            age(&replica.get(path).await).is_some() == stale
        })
        .await;
    }
}

/// Expects each write to be refused as one that may be tried again.
async fn writes_are_refused(replica: &Replica) {
    let change = json!({ "desc": "changed" });
    for (method, path, body) in [
        ("PUT", "/apisix/admin/routes/2", Some(route("/2"))),
        ("POST", "/apisix/admin/routes", Some(route("/3"))),
        ("PATCH", "/apisix/admin/routes/1", Some(change)),
        ("DELETE", "/apisix/admin/routes/1", None),
        ("PUT", SETTINGS, Some(json!({ "proxy_mode": "http&stream" }))),
        ("POST", "/api/gateway_groups/default/tokens", Some(json!({ "name": "t" }))),
    ] {
        let answer = replica.call(method, path, body.as_ref()).await;
        let said = answer.text();
        assert_eq!((answer.status, answer.header("retry-after").as_str()), (503, "1"), "{method} {path}: {said}");
        assert!(said.contains("the database is not available"), "{method} {path}: {said}");
    }
}

async fn head(replica: &Replica) -> u64 {
    replica.get("/api/gateway_groups/default/revisions").await.json().unwrap()["head"].as_u64().unwrap()
}

async fn comes_and_goes(how: Outage) {
    let mut postgres = Postgres::start().unwrap();
    let mut cluster = Cluster::on(&postgres);
    // How long is waited for a server that stands still; their defaults are longer than this test should take.
    cluster.for_control.push(("MILECASTLE__DATABASE__STATEMENT_TIMEOUT", "1s"));
    cluster.for_control.push(("MILECASTLE__DATABASE__ACQUIRE_TIMEOUT", "1s"));
    let mut replicas = [cluster.dashboard("one"), cluster.dashboard("two")];
    for replica in &mut replicas {
        // Whatever it says of the database is what this is about.
        replica.process.announce("database");
        replica.process.announce("answered with 503");
        replica.process.announce("terminating connection");
        replica.ready().await;
    }
    replicas[0].put("/routes/1", &route("/1")).await;
    let before = head(&replicas[0]).await;
    let mut shown = Vec::new();
    for replica in &replicas {
        reads_are_stale(replica, false).await;
        shown.push(bodies(replica).await);
    }

    how.begin(&mut postgres);
    let began = Instant::now();
    for (replica, shown) in replicas.iter().zip(&shown) {
        reads_are_stale(replica, true).await;
        assert_eq!(&bodies(replica).await, shown, "what memory has is what was there");
        let first = age(&replica.get(READS[0]).await).unwrap();
        eventually("its age grows", async || age(&replica.get(READS[0]).await) > Some(first)).await;
        assert_eq!(replica.get("/readyz").await.status, 503);
    }
    loop {
        tokio::join!(writes_are_refused(&replicas[0]), writes_are_refused(&replicas[1]));
        for (replica, shown) in replicas.iter().zip(&shown) {
            assert_eq!(&bodies(replica).await, shown);
        }
        if !full() || began.elapsed() > Duration::from_secs(60) {
            break;
        }
    }

    how.end(&mut postgres);
    for (replica, shown) in replicas.iter().zip(&shown) {
        replica.ready().await;
        reads_are_stale(replica, false).await;
        assert_eq!(&bodies(replica).await, shown, "nothing of what was refused was done");
        assert_eq!(head(replica).await, before);
        assert_eq!(replica.get("/api/gateway_groups/default/tokens").await.json().unwrap()["total"], 0);
    }
    replicas[1].put("/routes/2", &route("/2")).await;
    let written = replicas[0].get("/apisix/admin/routes/2").await;
    assert_eq!((written.status, age(&written)), (200, None));
    assert_eq!(head(&replicas[0]).await, before + 1);
    let all = move || replicas.into_iter().for_each(Replica::stop);
    tokio::task::spawn_blocking(all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_answered_while_the_database_is_stopped() {
    comes_and_goes(Outage::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_answered_while_the_database_stands_still() {
    comes_and_goes(Outage::Silent).await;
}
