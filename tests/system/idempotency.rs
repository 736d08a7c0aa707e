//! Writes under an idempotency key, and replicas that are killed (SIGKILL) in the middle of them (docs/api.md).

use milecastle_testkit::{Call, eventually, postgres};
use milecastle_tests::{ADMIN_KEY, Cluster, Replica, full};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Writes under way when the replica is killed.
const AT_ONCE: usize = 8;

/// How long PostgreSQL is away in the long form.
const MINUTE: Duration = Duration::from_secs(60);

fn post(key: &str) -> Call {
    let body = json!({ "nodes": {}, "desc": key }).to_string();
    Call::post("/apisix/admin/upstreams", body).header("X-API-KEY", ADMIN_KEY).header("Idempotency-Key", key)
}

async fn upstreams(replica: &Replica) -> Vec<Value> {
    replica.get("/apisix/admin/upstreams").await.json().unwrap()["list"].as_array().unwrap().clone()
}

/// Kills a replica in the middle of writes, and repeats each of them at another one.
async fn killed_midway(cluster: &Cluster, other: &Replica, round: usize) {
    let mut victim = cluster.dashboard(&format!("victim-{round}"));
    victim.ready().await;
    let keys: Vec<String> = (0..AT_ONCE).map(|n| format!("{round}-{n}")).collect();
    let address = victim.http;
    let writes: Vec<_> = keys.iter().map(|key| tokio::spawn(post(key).to(address))).collect();
    // In a later round a later write is under way.
    let before = round * AT_ONCE;
    let wanted = before + round % AT_ONCE;
    eventually("some are written", async || upstreams(other).await.len() >= wanted).await;
    victim.process.kill();
    let mut answered = 0;
    for (key, write) in keys.iter().zip(writes) {
        let first = write.await.unwrap().ok().filter(|answer| answer.status == 201);
        answered += usize::from(first.is_some());
        let again = post(key).to(other.http).await.unwrap();
        assert_eq!(again.status, 201, "{key}: {}", again.text());
        let third = post(key).to(other.http).await.unwrap();
        assert_eq!((third.text(), third.header("idempotency-replayed")), (again.text(), "true".to_owned()), "{key}");
        if let Some(first) = first {
            assert_eq!(first.text(), again.text(), "{key} is answered as at first");
        }
    }
    let now = upstreams(other).await;
    assert_eq!(now.len(), before + AT_ONCE, "each is written once");
    eprintln!("round {round}: {answered} of {AT_ONCE} were answered before the kill");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgresql_is_away_writes_are_put_off_and_repeating_them_does_them_once() {
    let mut server = postgres::Cluster::start().unwrap();
    let cluster = Cluster::on(&server);
    let mut replica = cluster.dashboard("d");
    for expected in ["database", "answered with 503", "terminating connection"] {
        replica.process.announce(expected);
    }
    replica.ready().await;
    assert_eq!(post("before").to(replica.http).await.unwrap().status, 201);
    server.stop().unwrap();
    let started = Instant::now();
    let mut put_off = 0;
    loop {
        let refused = post(&format!("away-{}", put_off % AT_ONCE)).to(replica.http).await.unwrap();
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{:?}", refused.headers);
        put_off += 1;
        if put_off >= AT_ONCE && (!full() || started.elapsed() > MINUTE) {
            break;
        }
    }
    server.resume().unwrap();
    eventually("it recovers", async || post("away-0").to(replica.http).await.unwrap().status == 201).await;
    for _ in 0..2 {
        for n in 0..AT_ONCE {
            assert_eq!(post(&format!("away-{n}")).to(replica.http).await.unwrap().status, 201);
        }
    }
    assert_eq!(upstreams(&replica).await.len(), 1 + AT_ONCE, "each is written once");
    eprintln!("{put_off} writes were put off in {:?}", started.elapsed());
    tokio::task::spawn_blocking(move || replica.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_write_is_done_once_though_its_replica_is_killed() {
    let cluster = Cluster::new();
    let other = cluster.dashboard("other");
    other.ready().await;
    for round in 0..if full() { 24 } else { 4 } {
        killed_midway(&cluster, &other, round).await;
    }
    tokio::task::spawn_blocking(move || other.stop()).await.unwrap();
}
