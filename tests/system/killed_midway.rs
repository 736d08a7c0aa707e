//! Processes that are killed (SIGKILL) in the middle of what the cluster does by itself: certificates are rotated, history is
//! trimmed. Afterwards everything converges, nothing is lost, and nobody needs a hand.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use milecastle_testkit::postgres::{Database, Held};
use milecastle_testkit::process::binary;
use milecastle_testkit::{Cutter, Echo, Process, eventually, wait_for};
use milecastle_tests::{Cluster, Gateway, Replica, free, full};
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// System calls by which a node keeps its certificate, in this order.
const STEPS: [&str; 5] = ["unlink", "openat", "write", "fsync", "rename"];

/// Certificates of nodes are renewed after ten seconds.
const SHORT_LIVED: &[(&str, &str)] = &[("MILECASTLE__DP_MANAGER__CERTIFICATES__NODE_LIFE", "15s")];

/// Two replicas that share a database, each on addresses of its own that outlive it.
struct Bed {
    cluster: Cluster,
    replicas: Vec<Replica>,
    echo: Echo,
}

async fn list(replica: &Replica, path: &str) -> Vec<Value> {
    replica.get(path).await.json().unwrap()["list"].as_array().unwrap().clone()
}

impl Bed {
    async fn start(settings: &[(&'static str, &'static str)]) -> Self {
        let mut bed = Self { cluster: Cluster::new(), replicas: Vec::new(), echo: Echo::start() };
        for n in 0..2 {
            let replica = bed.replica(settings, n, free()).await;
            bed.replicas.push(replica);
        }
        bed.cluster.token(&bed.replicas[0]);
        bed
    }

    /// Starts replica `n`, whose connections to the database bear its name.
    async fn replica(&mut self, settings: &[(&'static str, &'static str)], n: usize, at: SocketAddr) -> Replica {
        let dsn = format!("{}?application_name=c{n}", self.cluster.dsn());
        self.cluster.for_control = [settings, &[("MILECASTLE__DATABASE__DSN", dsn.leak())]].concat();
        let replica = self.cluster.control_at(&format!("c{n}"), at);
        replica.ready().await;
        replica
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.replicas.iter().map(|replica| replica.dp_manager).collect()
    }

    /// Starts a gateway that joins one of these replicas.
    async fn gateway(&self, name: &str, replicas: &[SocketAddr]) -> Gateway {
        let gateway = expecting(self.cluster.gateway(name, replicas));
        gateway.ready().await;
        gateway
    }

    /// The place of the replica that leads.
    async fn leader(&self, asked: usize) -> usize {
        let name = wait_for("one leads", LONG, async || {
            let members = list(&self.replicas[asked], "/api/members").await;
            members.into_iter().find(|member| member["leads"] == true)
        })
        .await["name"]
            .clone();
        usize::from(name == "c1")
    }

    /// Starts anew what was killed.
    async fn again(&mut self, settings: &[(&'static str, &'static str)], killed: usize) {
        let address = self.replicas[killed].dp_manager;
        self.replicas[killed] = self.replica(settings, killed, address).await;
    }

    fn database(&self) -> &Database {
        self.cluster.database.as_ref().unwrap()
    }

    async fn put(&self, at: usize, id: u64) {
        let upstream = json!({ "nodes": { self.echo.address().to_string(): 1 } });
        self.replicas[at]
            .put(&format!("/routes/{id}"), &json!({ "uri": format!("/{id}"), "upstream": upstream }))
            .await;
    }

    /// Waits until a statement of replica `n` that begins like this waits for a lock.
    async fn waits(&self, n: usize, statement: &str) {
        let sql = format!(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'c{n}' AND wait_event_type = 'Lock' \
             AND query LIKE '{statement}%'"
        );
        let waiting = async || (self.database().query(&sql).unwrap().trim() != "0").then_some(());
        wait_for(&format!("c{n} waits for a lock: {statement}"), LONG, waiting).await;
    }

    /// Waits until a statement of a replica that begins like this waits for a lock; says which replica's.
    async fn who_waits(&self, statement: &str) -> usize {
        let sql = format!(
            "SELECT MIN(application_name) FROM pg_stat_activity WHERE application_name IN ('c0', 'c1') \
             AND wait_event_type = 'Lock' AND query LIKE '{statement}%'"
        );
        wait_for(&format!("a replica waits for a lock: {statement}"), LONG, async || {
            self.database().query(&sql).unwrap().trim().strip_prefix('c')?.parse().ok()
        })
        .await
    }

    /// Waits until each of these nodes is known once, healthy, without an alarm, and on the newest revision; gives their ids.
    async fn all_well(&self, nodes: usize) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for replica in &self.replicas {
            let mut seen = Vec::new();
            ids = wait_for("all is well", LONG, async || {
                let shown = ["id", "state", "alarms", "revision", "head"];
                let listed = list(replica, "/api/nodes").await;
                let now: Vec<_> = listed.iter().map(|node| shown.map(|member| node[member].clone())).collect();
                if now != seen {
                    eprintln!("nodes: {now:?}");
                    seen = now;
                }
                let well = |[_, state, alarms, revision, head]: &[Value; 5]| {
                    state == "healthy" && *alarms == json!([]) && revision == head
                };
                let all = seen.len() == nodes && seen.iter().all(well);
                all.then(|| listed.iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect())
            })
            .await;
        }
        ids
    }

    async fn stop(self, gateways: Vec<Gateway>) {
        tokio::task::spawn_blocking(move || {
            gateways.into_iter().for_each(Gateway::stop);
            for mut replica in self.replicas {
                // What waited for a lock that the test held.
                for expected in ["what nodes run cannot be written", "a node's call could not be answered"] {
                    replica.process.announce(expected);
                }
                replica.stop();
            }
        })
        .await
        .unwrap();
    }
}

/// A gateway that loses DP managers.
fn expecting(mut gateway: Gateway) -> Gateway {
    for expected in ["configuration stream", "certificate was not renewed yet", "certificate is over"] {
        gateway.process.announce(expected);
    }
    gateway
}

/// When the certificates of all nodes end, by their ids.
async fn ends(replica: &Replica) -> Vec<(Value, u64)> {
    let nodes = list(replica, "/api/nodes").await;
    let end = |node: &Value| Some((node["id"].clone(), node["figures"]["certificate_not_after"].as_u64()?));
    nodes.iter().filter_map(end).collect()
}

/// Waits until every node has a certificate that ends later.
async fn renewed(replica: &Replica, before: &[(Value, u64)]) {
    wait_for("every node has a newer certificate", LONG, async || {
        let now = ends(replica).await;
        let newer = |(id, end): &(Value, u64)| now.iter().any(|(known, later)| known == id && later > end);
        before.iter().all(newer).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_may_be_killed_while_certificates_are_renewed() {
    let mut bed = Bed::start(SHORT_LIVED).await;
    let addresses = bed.addresses();
    let mut gateways = Vec::new();
    // Each replica has one that comes to it alone, and a third node may go to the other one.
    for (name, replicas) in [("g0", &addresses[..1]), ("g1", &addresses[1..]), ("g2", &addresses[..])] {
        gateways.push(bed.gateway(name, replicas).await);
    }
    let ids = bed.all_well(3).await;
    for round in 0..if full() { 6 } else { 2 } {
        // The leader and the other one in turn.
        let leader = bed.leader(0).await;
        let victim = if round % 2 == 0 { leader } else { 1 - leader };
        let before = ends(&bed.replicas[0]).await;
        let held = bed.database().hold("SELECT 1 FROM node FOR UPDATE").unwrap();
        // It has signed a certificate, and neither the database nor the node has it yet.
        bed.waits(victim, "UPDATE node SET certificate").await;
        bed.replicas[victim].process.kill();
        drop(held);
        bed.put(1 - victim, round).await;
        bed.again(SHORT_LIVED, victim).await;
        for gateway in &gateways {
            gateway.answers(&format!("/{round}"), 200).await;
        }
        renewed(&bed.replicas[0], &before).await;
        assert_eq!(bed.all_well(3).await, ids, "each node is who it was");
        eprintln!("round {round}: killed c{victim}, which {}", if victim == leader { "led" } else { "did not lead" });
    }
    bed.stop(gateways).await;
}

/// Two replicas whose answers to nodes can be kept back.
struct Answers {
    bed: Bed,
    lines: [Cutter; 2],
}

impl Answers {
    async fn start(settings: &[(&'static str, &'static str)]) -> Self {
        let bed = Bed::start(settings).await;
        let [one, other] = [&bed.replicas[0], &bed.replicas[1]].map(|replica| Cutter::start(replica.dp_manager));
        let lines = [one.await, other.await];
        Self { bed, lines }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.lines.iter().map(Cutter::address).collect()
    }

    /// Kills the replica whose statement that begins like this waits for a lock: once the database has done it, and before the
    /// node hears of it. Gives the replica's place, and what the database then knows of nodes.
    async fn kill_before_the_answer(&mut self, held: Held, statement: &str) -> (usize, Vec<String>) {
        let before = self.nodes();
        let victim = self.bed.who_waits(statement).await;
        self.lines[victim].hold_answers();
        drop(held);
        let after = wait_for("the database has done it", LONG, async || {
            let now = self.nodes();
            (now != before).then_some(now)
        })
        .await;
        self.bed.replicas[victim].process.kill();
        self.lines[victim].cut_all();
        (victim, after)
    }

    /// Id and certificate of each node, as the database knows them.
    fn nodes(&self) -> Vec<String> {
        let rows = self.bed.database().query("SELECT id, certificate FROM node ORDER BY id").unwrap();
        rows.lines().map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_recorded_and_never_arrived_is_renewed_by_another_replica() {
    let mut answers = Answers::start(SHORT_LIVED).await;
    let gateway = answers.bed.gateway("g0", &answers.addresses()).await;
    let ids = answers.bed.all_well(1).await;
    for round in 0..if full() { 6 } else { 2 } {
        let held = answers.bed.database().hold("SELECT 1 FROM node FOR UPDATE").unwrap();
        let (victim, lost) = answers.kill_before_the_answer(held, "UPDATE node SET certificate").await;
        // Only the other replica is there to give another one.
        let next = wait_for("the node has one that arrived", LONG, async || {
            let now = answers.nodes();
            (now != lost).then_some(now)
        })
        .await;
        assert_eq!(next.len(), 1, "{next:?}");
        answers.bed.put(1 - victim, round).await;
        gateway.answers(&format!("/{round}"), 200).await;
        answers.bed.again(SHORT_LIVED, victim).await;
        assert_eq!(answers.bed.all_well(1).await, ids, "the node is who it was");
        eprintln!("round {round}: c{victim} had recorded {lost:?}; c{} recorded {next:?}", 1 - victim);
    }
    answers.bed.stop(vec![gateway]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_join_was_recorded_and_not_answered_joins_as_the_same_node() {
    let rounds = if full() { 6 } else { 2 };
    let mut answers = Answers::start(&[]).await;
    answers.bed.put(0, 1).await;
    let mut gateways = Vec::new();
    for round in 1..=rounds {
        // A node is entered with a reference to its token.
        let held = answers.bed.database().hold("SELECT 1 FROM token FOR UPDATE").unwrap();
        let gateway = expecting(answers.bed.cluster.gateway(&format!("g{round}"), &answers.addresses()));
        let (victim, entered) = answers.kill_before_the_answer(held, "INSERT INTO node").await;
        gateway.ready().await;
        gateway.answers("/1", 200).await;
        answers.bed.again(&[], victim).await;
        let ids: Vec<String> = answers.bed.all_well(round).await.into_iter().collect();
        let known: Vec<&str> = entered.iter().map(|row| row.split('|').next().unwrap()).collect();
        assert_eq!(ids, known, "the node is the one that was entered, and nobody else is left");
        eprintln!("round {round}: c{victim} had entered a node");
        gateways.push(gateway);
    }
    answers.bed.stop(gateways).await;
}

/// Starts a node that has joined before; it is killed before this step that it takes on the file of its next certificate.
fn killed_before(bed: &Bed, step: &str) -> Process {
    let mut traced = Command::new("strace");
    // With -D the node is the child, and strace its grandchild, which ends with it.
    traced.args(["-D", "-f", "-qq", "-o", "/dev/null", "-P"]);
    traced.arg(bed.cluster.dir.path().join(step).join("node.pem.new"));
    traced.args([format!("--trace={step}"), format!("--inject={step}:signal=KILL:when=1")]);
    traced.arg(binary()).args(["gateway", "-c", &bed.cluster.file(step)]);
    bed.cluster.gateway_process(step, traced)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_be_killed_before_each_step_of_keeping_its_new_certificate() {
    let bed = Bed::start(SHORT_LIVED).await;
    bed.put(0, 1).await;
    let mut nodes = Vec::new();
    for step in STEPS {
        let mut gateway = bed.gateway(step, &bed.addresses()).await;
        gateway.process.kill();
        nodes.push((step, gateway.http, killed_before(&bed, step)));
    }
    let mut gateways = Vec::new();
    for (step, http, process) in &mut nodes {
        wait_for(&format!("killed before {step}"), LONG, async || (!process.is_running()).then_some(())).await;
        gateways.push(expecting(bed.cluster.gateway_again(step, *http)));
    }
    for gateway in &gateways {
        gateway.ready().await;
        gateway.answers("/1", 200).await;
    }
    let ids = bed.all_well(STEPS.len()).await;
    let before = ends(&bed.replicas[0]).await;
    renewed(&bed.replicas[0], &before).await;
    assert_eq!(bed.all_well(STEPS.len()).await, ids, "each node is who it was");
    bed.stop(gateways).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_may_be_killed_while_it_trims_the_history() {
    const KEPT: usize = 20;
    const TRIMMED: &[(&str, &str)] = &[
        ("MILECASTLE__HISTORY__CHANGES", "20"),
        ("MILECASTLE__HISTORY__MIN_CHANGES", "1"),
        ("MILECASTLE__HISTORY__INTERVAL", "200ms"),
    ];
    let mut bed = Bed::start(TRIMMED).await;
    let gateway = bed.gateway("g0", &bed.addresses()).await;
    let history = async |replica: &Replica| -> Vec<u64> {
        let kept = list(replica, "/api/gateway_groups/default/revisions?limit=500").await;
        kept.iter().map(|change| change["revision"].as_u64().unwrap()).collect()
    };
    bed.put(0, 1).await;
    let mut written = 1;
    for round in 0..if full() { 10 } else { 2 } {
        let leader = bed.leader(0).await;
        let other = 1 - leader;
        let missing = KEPT + 1 - history(&bed.replicas[other]).await.len();
        // The leader raises the floor of the history and cannot go on: somebody else holds what it is to forget.
        let held = bed.database().hold("SELECT 1 FROM change_set ORDER BY revision LIMIT 1 FOR UPDATE").unwrap();
        for _ in 0..missing {
            written += 1;
            bed.put(other, written).await;
        }
        bed.waits(leader, "DELETE FROM change_set").await;
        bed.replicas[leader].process.kill();
        drop(held);
        written += 1;
        bed.put(other, written).await;
        eventually("the next leader trims it", async || history(&bed.replicas[other]).await.len() <= KEPT).await;
        let kept = history(&bed.replicas[other]).await;
        assert!(kept.windows(2).all(|pair| pair[0] == pair[1] + 1), "newest first, without a gap: {kept:?}");
        assert_eq!(kept.first(), Some(&written), "every write is a revision");
        bed.again(TRIMMED, leader).await;
        bed.all_well(1).await;
        for id in 1..=written {
            gateway.answers(&format!("/{id}"), 200).await;
        }
        eprintln!("round {round}: killed c{leader}; {} of {written} changes are kept", kept.len());
    }
    bed.stop(vec![gateway]).await;
}
