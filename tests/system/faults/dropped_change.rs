//! One change is dropped from a delta, between a real DP manager and a real node: who notices.

use super::record::commits;
use super::wire_tap::{Fault, Tap};
use super::writer::{Desk, Writer, object, path};
use milecastle_pki::Ca;
use milecastle_store::KeySource;
use milecastle_testkit::history::{Change, History, Sight, Sighting, Span, Violation, Write};
use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_testkit::{Call, Echo, eventually};
use milecastle_tests::{Cluster, Gateway, Replica};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Instant;

const GATEWAY: &str = "g1";

/// One replica, one node, and a tap between them.
struct Bed {
    start: Instant,
    /// Kept for as long as the nodes use it.
    _echo: Echo,
    tap: Tap,
    writer: Writer,
    gateway: Gateway,
    control: Replica,
    /// Kept for its files.
    _cluster: Cluster,
    postgres: Postgres,
    /// Of the node, from 0.
    process: u64,
    sightings: Vec<Sighting>,
}

impl Bed {
    /// Three routes are in force. Then, while the node is away, the first is changed and a fourth is made; when it comes back,
    /// both come in one delta, which is spoilt.
    async fn with(fault: Fault) -> Self {
        let postgres = Postgres::start().unwrap();
        let cluster = Cluster::on(&postgres);
        let (start, echo, mut control) = (Instant::now(), Echo::start(), cluster.control("c1"));
        control.ready().await;
        control.process.announce("a node refused a step");
        control.process.announce("a node holds something else than it should");
        cluster.token(&control);
        let tap = Tap::start(authority(&cluster).await, control.dp_manager, cluster.dir.path().join(GATEWAY)).await;
        let mut gateway = cluster.gateway(GATEWAY, &[tap.address]);
        gateway.ready().await;
        let mut writer = Writer::new(&Desk::new(start, echo.address()), "default", &[control.http], 0);
        for route in 0..3 {
            writer.put(route).await;
        }
        gateway.answers(&path(2), 200).await;
        gateway.process.kill();
        writer.put(3).await;
        writer.put(0).await;
        tap.spoil(fault);
        gateway = cluster.gateway(GATEWAY, &[tap.address]);
        gateway.process.announce("configuration refused");
        gateway.ready().await;
        eventually("the delta is spoilt", async || tap.has_spoilt()).await;
        let (process, sightings) = (1, Vec::new());
        Self { start, _echo: echo, tap, writer, gateway, control, _cluster: cluster, postgres, process, sightings }
    }

    /// The only node, as the control plane sees it.
    async fn node(&self) -> Value {
        self.control.get("/api/nodes").await.json().unwrap()["list"][0].clone()
    }

    /// Waits until the control plane knows that something is wrong with the node's digest.
    async fn is_known(&self) {
        eventually("the digest gives it away", async || self.node().await["refused"]["fault"] == "digest").await;
    }

    /// The version of a route that the node serves.
    async fn look(&mut self, route: usize) -> Option<u64> {
        let begun = self.start.elapsed();
        let answer = Call::get(&path(route)).to(self.gateway.http).await.unwrap();
        let span = Span { begun, ended: self.start.elapsed() };
        let version = (answer.status == 200).then(|| answer.header("x-version").parse().unwrap());
        let sight = Sight::Served(Change { object: object(route), version });
        self.sightings.push(Sighting { node: GATEWAY.to_owned(), process: self.process, span, sight });
        version
    }

    /// Waits until all is well, and looks at it.
    async fn heals(&mut self) {
        self.tap.let_pass();
        eventually("the node is healed", async || {
            let node = self.node().await;
            node["state"] == "healthy" && node["revision"] == 5
        })
        .await;
        let (begun, node) = (self.start.elapsed(), self.node().await);
        let span = Span { begun, ended: self.start.elapsed() };
        let sight = Sight::Acknowledged(5, node["digest"].as_str().unwrap().to_owned());
        self.sightings.push(Sighting { node: GATEWAY.to_owned(), process: self.process, span, sight });
        assert_eq!((self.look(0).await, self.look(3).await), (Some(5), Some(4)));
    }

    fn history(&self) -> History {
        let (writes, commits): (Vec<Write>, _) = (self.writer.log().to_vec(), commits(&self.postgres, "default"));
        History { writes, commits, sightings: self.sightings.clone(), journals: Vec::new() }
    }
}

/// The cluster's authority, from the database.
async fn authority(cluster: &Cluster) -> Ca {
    let key = KeySource::File(cluster.dir.path().join("sealing-key"));
    let store = milecastle_store::open(cluster.dsn(), &key).await.unwrap();
    let secret = store.secret_get("cluster-ca").await.unwrap().unwrap();
    let parts: Value = serde_json::from_slice(secret.expose()).unwrap();
    store.close().await;
    Ca::from_pem(parts["certificate"].as_str().unwrap(), parts["key"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_lost_on_the_way_is_refused_by_the_node_and_sent_again() {
    let mut bed = Bed::with(Fault::LostOnTheWay).await;
    bed.is_known().await;
    // Nothing of the step was taken.
    assert_eq!((bed.look(0).await, bed.look(3).await), (Some(1), None));
    assert!(
        bed.gateway.process.log().iter().any(|line| line.contains("configuration refused; what is in force stays"))
    );
    bed.heals().await;
    assert_eq!(bed.history().check(), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_forgotten_at_the_source_is_found_by_the_checker_and_by_the_digest() {
    let mut bed = Bed::with(Fault::ForgottenAtTheSource).await;
    // What came adds up to what it said, so the node took it: half of what was written.
    bed.gateway.answers(&path(0), 200).await;
    eventually("the other half is in force", async || {
        Call::get(&path(0)).to(bed.gateway.http).await.unwrap().header("x-version") == "5"
    })
    .await;
    assert_eq!((bed.look(0).await, bed.look(3).await), (Some(5), None));
    let half = Violation::WentBack { node: GATEWAY.to_owned(), reached: 5, then: 3 };
    assert!(bed.history().check().contains(&half), "{:?}", bed.history().check());
    // The DP manager knows what the node should add up to, and sends all of it.
    bed.is_known().await;
    bed.heals().await;
    // What was seen remains seen.
    assert_eq!(bed.history().check(), BTreeSet::from([half]));
}
