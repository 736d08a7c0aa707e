//! A gateway that is killed (SIGKILL) right before one step after the other that it takes on its disk: while it joins, keeps
//! changes, begins generations of its last good configuration and removes old ones. strace counts the steps.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use milecastle_testkit::process::binary;
use milecastle_testkit::{Echo, wait_for};
use milecastle_tests::{Cluster, Gateway, Replica, full};
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// System calls that are steps on the disk.
const STEPS: [&str; 6] = ["mkdir", "unlink", "write", "rename", "fsync", "fdatasync"];

/// Changes that each node gets; every other one begins a generation.
const CHANGES: u64 = 5;

/// The most of one kind of step, in one thread, that is looked at: more than a node takes here.
const MOST: usize = 200;

struct Bed {
    cluster: Cluster,
    control: Replica,
    echo: Echo,
}

/// The latest revision that a node of the group is known to have acknowledged.
async fn reached(control: &Replica, group: &str) -> u64 {
    let list = control.get(&format!("/api/gateway_groups/{group}/nodes")).await.json().unwrap();
    list["list"].as_array().unwrap().iter().filter_map(|node| node["revision"].as_u64()).max().unwrap_or(0)
}

/// The revision that a node began with.
fn began_with(gateway: &Gateway) -> Option<u64> {
    let log = gateway.process.log();
    let line = log.iter().find_map(|line| line.split_once("starting with the last good configuration"))?.1;
    line.split_once("revision=")?.1.split_whitespace().next()?.parse().ok()
}

impl Bed {
    async fn start() -> Self {
        let mut cluster = Cluster::new();
        cluster.for_gateways.extend([("MILECASTLE__STATE__FOLD_AT", "1k"), ("MILECASTLE__STATE__SYNC_DELAY", "1ms")]);
        let control = cluster.control("one");
        control.ready().await;
        Self { cluster, control, echo: Echo::start() }
    }

    fn route(&self, uri: &str) -> Value {
        // As long as a generation may be until the next one begins.
        let upstream = json!({ "nodes": { self.echo.address().to_string(): 1 } });
        json!({ "uri": uri, "upstream": upstream, "desc": "x".repeat(200), "labels": { "l": "y".repeat(200) } })
    }

    async fn put(&self, group: &str, n: u64) {
        let path = format!("/routes/{n}?gateway_group_id={group}");
        self.control.put(&path, &self.route(&format!("/{n}"))).await;
    }

    /// Starts a node of a group of its own that is killed before the `nth` such step of any of its threads, and looks at what its
    /// next process makes of what it left. Whether there was such a step.
    async fn killed_before(&self, step: &str, nth: usize) -> bool {
        let group = format!("{step}-{nth}");
        let made = self.cluster.operator(&self.control, &["group", "create", &group]);
        assert_eq!(made.code, 0, "{}", made.text);
        self.cluster.hand_out(&self.cluster.mint(&self.control, &group));
        let (config, http) = self.cluster.gateway_file(&group, &[self.control.dp_manager], Ipv4Addr::LOCALHOST);
        let mut traced = Command::new("strace");
        // With -D the node is the child, and strace its grandchild, which ends with it.
        traced.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"]);
        traced.args([format!("trace={step}"), "-e".to_owned(), format!("inject={step}:signal=KILL:when={nth}")]);
        traced.arg(binary()).args(["gateway", "-c"]).arg(config);
        let mut process = self.cluster.gateway_process(&group, traced);
        let (mut written, mut acknowledged) = (0, 0);
        while process.is_running() && written < CHANGES {
            written += 1;
            self.put(&group, written).await;
            wait_for("the change is acknowledged, or the node is killed", LONG, async || {
                acknowledged = acknowledged.max(reached(&self.control, &group).await);
                (acknowledged == written || !process.is_running()).then_some(())
            })
            .await;
        }
        let was_killed = !process.is_running();
        process.kill();
        drop(process);
        let gateway = self.cluster.gateway_again(&group, http);
        gateway.ready().await;
        let began = began_with(&gateway);
        assert!(began.unwrap_or(0) >= acknowledged, "{step} {nth}: began with {began:?}, acknowledged {acknowledged}");
        self.put(&group, CHANGES + 1).await;
        for n in (1..=written).chain([CHANGES + 1]) {
            gateway.answers(&format!("/{n}"), 200).await;
        }
        eprintln!("killed before {step} {nth}: {was_killed}; {acknowledged} acknowledged, began with {began:?}");
        // It has nothing to complain of: no half file, no second certificate.
        tokio::task::spawn_blocking(move || gateway.stop()).await.unwrap();
        was_killed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_be_killed_before_any_step_on_its_disk() {
    let bed = Bed::start().await;
    for step in STEPS {
        // In short: the first ones, in which a node joins and keeps what it has for the first time.
        let mut nth = 1;
        while bed.killed_before(step, nth).await {
            nth += 1;
            assert!(nth < MOST, "{step}: this node takes no end of steps");
            if !full() && nth > 3 {
                break;
            }
        }
        assert!(nth > 1, "no node takes a step {step}");
    }
    tokio::task::spawn_blocking(move || bed.control.stop()).await.unwrap();
}
