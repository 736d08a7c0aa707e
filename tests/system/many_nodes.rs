//! Many nodes at two DP managers: real streams over mutual TLS, of nodes that carry no traffic.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use milecastle_testkit::node::Follower;
use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_testkit::wait_for;
use milecastle_tests::{Cluster, Replica, free, full};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long anything here may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Writes a second.
const RATE: u32 = 20;

/// Nodes with which the database's work is compared.
const FEW: usize = 5;

/// Routes that are written again and again.
const CHANGING: usize = 50;

fn route(uri: &str) -> Value {
    json!({ "uri": uri, "upstream": { "nodes": { "127.0.0.1:1": 1 } } })
}

struct Size {
    nodes: usize,
    routes: usize,
    writes: usize,
}

fn size() -> Size {
    if full() { Size { nodes: 500, routes: 1000, writes: 1200 } } else { Size { nodes: 60, routes: 100, writes: 60 } }
}

/// The control plane: a dashboard and two DP managers, on a PostgreSQL that writes down every statement.
struct Bed {
    postgres: Postgres,
    cluster: Cluster,
    dashboard: Replica,
    managers: Vec<Replica>,
    written: usize,
}

impl Bed {
    async fn start() -> Self {
        let postgres = Postgres::start().unwrap();
        postgres.log_statements().unwrap();
        let cluster = Cluster::on(&postgres);
        let dashboard = cluster.dashboard("d");
        let managers = vec![cluster.dp_manager("m1", free()), cluster.dp_manager("m2", free())];
        dashboard.ready().await;
        for manager in &managers {
            manager.ready().await;
        }
        Self { postgres, cluster, dashboard, managers, written: 0 }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.managers.iter().map(|manager| manager.dp_manager).collect()
    }

    /// Nodes of these numbers, half of them at each DP manager.
    async fn nodes(&self, token: &str, numbers: std::ops::Range<usize>) -> Vec<Follower> {
        Follower::start_all(numbers.map(|n| format!("node-{n:03}")), &token.parse().unwrap(), &self.addresses()).await
    }

    /// Writes a route; gives its revision.
    async fn write(&mut self) -> u64 {
        self.written += 1;
        let body = route(&format!("/changing/{}", self.written));
        let id = self.written % CHANGING;
        self.dashboard.put(&format!("/routes/changing-{id}"), &body).await;
        self.head().await
    }

    async fn head(&self) -> u64 {
        let list = self.dashboard.get("/api/gateway_groups/default/revisions?limit=1").await.json().unwrap();
        list["list"][0]["revision"].as_u64().unwrap_or(0)
    }

    /// Writes at the rate of the test; gives how many statements there were for each of them.
    async fn statements_of_a_write(&mut self, writes: usize, nodes: &[Follower]) -> f64 {
        let before = self.postgres.statements().unwrap();
        let mut pace = interval(Duration::from_secs(1) / RATE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = Instant::now();
        for n in 0..writes {
            pace.tick().await;
            let body = route(&format!("/changing/{n}/{}", nodes.len()));
            self.dashboard.put(&format!("/routes/changing-{}", n % CHANGING), &body).await;
        }
        let (took, last) = (began.elapsed(), Instant::now());
        let head = self.head().await;
        fresh(nodes, head).await;
        let converged = last.elapsed();
        let statements = (self.postgres.statements().unwrap() - before) as f64 / writes as f64;
        eprintln!(
            "{} nodes, {writes} writes in {took:.1?}: all up to date {converged:.1?} after the last; {statements:.1} statements \
             a write, {} of memory",
            nodes.len(),
            self.memory(),
        );
        statements
    }

    /// Resident memory of the DP managers.
    fn memory(&self) -> String {
        let each: Vec<String> =
            self.managers.iter().map(|m| format!("{} MiB", m.process.resident_bytes() >> 20)).collect();
        each.join(" and ")
    }
}

/// Waits until every node is connected and runs this revision.
async fn fresh(nodes: &[Follower], revision: u64) {
    wait_for("every node is up to date", LONG, async || {
        nodes.iter().all(|node| node.seen().is_fresh(revision)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_follow_and_come_back_all_at_once() {
    let Size { nodes: count, routes, writes } = size();
    let mut bed = Bed::start().await;
    let token = bed.cluster.mint(&bed.dashboard, "default");
    for n in 0..routes {
        bed.dashboard.put(&format!("/routes/r{n}"), &route(&format!("/api/{n}/*"))).await;
    }
    let mut nodes = bed.nodes(&token, 0..FEW).await;
    fresh(&nodes, bed.head().await).await;
    let few = bed.statements_of_a_write(writes, &nodes).await;
    let began = Instant::now();
    nodes.extend(bed.nodes(&token, FEW..count).await);
    fresh(&nodes, bed.head().await).await;
    eprintln!("{count} nodes joined and up to date within {:.1?}", began.elapsed());
    let many = bed.statements_of_a_write(writes, &nodes).await;
    // One statement for each node and write would be `count - FEW` more.
    assert!(many < few * 2.0 + 1.0, "{few} statements a write with {FEW} nodes, {many} with {count}");

    // One DP manager dies: its nodes go to the other. Then both die.
    for dying in [1, 2] {
        let began = Instant::now();
        for manager in bed.managers.iter_mut().take(dying) {
            manager.process.kill();
        }
        let addresses = bed.addresses();
        if dying == bed.managers.len() {
            bed.managers = Vec::new();
            for (n, address) in addresses.into_iter().enumerate() {
                bed.managers.push(bed.cluster.dp_manager(&format!("again-{n}"), address));
            }
        }
        let started = began.elapsed();
        let head = bed.write().await;
        fresh(&nodes, head).await;
        let sent_away: u32 = nodes.iter().map(|node| node.seen().sent_away).sum();
        eprintln!(
            "{dying} of 2 DP managers killed: every node up to date within {:.1?} (15 s are the goal), {started:.1?} of which a \
             new start; {sent_away} calls put off so far",
            began.elapsed()
        );
        if dying == 1 {
            let address = bed.managers[0].dp_manager;
            bed.managers[0] = bed.cluster.dp_manager("back", address);
            bed.managers[0].ready().await;
        }
    }
    eprintln!("after that: {} of memory", bed.memory());
    // What they hold is the same everywhere, counted anew.
    let mut held = BTreeSet::new();
    for node in nodes {
        let reached = node.stop().await;
        assert_eq!(reached.objects.len(), routes + CHANGING);
        held.insert((reached.revision, reached.digest().to_string()));
    }
    assert_eq!(held.len(), 1, "{held:?}");
}
