//! Processes whose clock is hours or weeks off. Of the control plane: what is decided goes by the clock of the database, whichever
//! replica decides it. Of nodes: where no certificate holds, both sides say so.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milecastle_testkit::{Echo, SOON, eventually, wait_for};
use milecastle_tests::{Cluster, Replica, full};
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// By how much what a right clock says may differ here, in seconds: by far less than the wrong ones are off.
const NEAR: u64 = 1800;

/// The library by which faketime deceives a process. The monotonic clock stays as it is: it tells how long something takes.
fn deceiver() -> &'static str {
    let asked = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().unwrap();
    String::from_utf8(asked.stdout).unwrap().trim().to_owned().leak()
}

fn is_near(then: u64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    then.abs_diff(now) < NEAR
}

/// Day and hour at which a replica's log begins, by its own clock.
fn hour(replica: &Replica) -> String {
    let log = replica.process.log();
    log.iter().find_map(|line| line.split_once(':')).unwrap().0.to_owned()
}

async fn list(replica: &Replica, path: &str) -> Vec<Value> {
    replica.get(path).await.json().unwrap()["list"].as_array().unwrap().clone()
}

/// The name of the replica that leads.
async fn leader(replica: &Replica) -> Option<Value> {
    list(replica, "/api/members").await.into_iter().find(|member| member["leads"] == true).map(|it| it["name"].clone())
}

/// Waits until a replica sees all members alive and all nodes healthy, heard of lately.
async fn all_well(replica: &Replica, members: usize, nodes: usize) {
    eventually("all is well", async || {
        let alive = list(replica, "/api/members").await;
        let healthy = list(replica, "/api/nodes").await;
        alive.iter().filter(|member| member["state"] == "alive").count() == members
            && healthy.iter().filter(|node| node["state"] == "healthy").count() == nodes
            && healthy.iter().all(|node| {
                is_near(node["heard_at"].as_u64().unwrap_or(0)) && is_near(node["joined_at"].as_u64().unwrap_or(0))
            })
    })
    .await;
}

async fn beside_a_right_one(offset: &'static str) {
    let (mut cluster, echo) = (Cluster::new(), Echo::start());
    // Longer than a busy machine keeps a replica from its heartbeat: who leads does not change but where it is meant to.
    let patient = ("MILECASTLE__MEMBERS__LOST_AFTER", "10s");
    cluster.for_control =
        vec![patient, ("LD_PRELOAD", deceiver()), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let mut wrong = cluster.control("wrong");
    wrong.ready().await;
    cluster.for_control = vec![patient];
    eventually("it leads", async || leader(&wrong).await == Some(json!("wrong"))).await;
    let right = cluster.control("right");
    right.ready().await;
    assert_ne!(hour(&wrong), hour(&right), "{offset}: faketime does not deceive it");

    // Of each node all that it needs comes from one of them: token, certificate, stream.
    let mut gateways = Vec::new();
    for (name, replica) in [("at-wrong", &wrong), ("at-right", &right)] {
        let minted = cluster.operator(replica, &["token", "create", "default", "--expires-in", "1h"]);
        assert_eq!(minted.code, 0, "{}", minted.text);
        cluster.hand_out(minted.line());
        let gateway = cluster.gateway(name, &[replica.dp_manager]);
        // Before the next token takes the place of the one that it joins with.
        gateway.ready().await;
        gateways.push(gateway);
    }
    for replica in [&wrong, &right] {
        all_well(replica, 2, 2).await;
    }

    // Each takes writes, says when in the database's time, and lifetimes are neither cut short nor drawn out, whoever leads.
    let served = async |uri: &str, status: u16| {
        for gateway in &gateways {
            gateway.answers(uri, status).await;
        }
    };
    let write = async |replica: &Replica, id: &str, ttl: &str| {
        let body = json!({ "uri": format!("/{id}"), "upstream": { "nodes": { echo.address().to_string(): 1 } } });
        let answer = replica.put(&format!("/routes/{id}?wait=20s{ttl}"), &body).await;
        assert_eq!(answer.header("milecastle-receipt"), "applied 2/2");
        let made = answer.json().unwrap()["value"]["create_time"].as_u64().unwrap();
        assert!(is_near(made), "{offset}: {id} was made at {made}");
    };
    for (name, replica) in [("w", &wrong), ("r", &right)] {
        write(replica, &format!("{name}-stays"), "").await;
        write(replica, &format!("{name}-hour"), "&ttl=3600").await;
        write(replica, &format!("{name}-brief"), "&ttl=1").await;
        served(&format!("/{name}-brief"), 404).await;
    }
    assert_eq!(leader(&right).await, Some(json!("wrong")));

    // The lease of one that is gone ends by the database's clock: not before its time, which would make two leaders, and not
    // hours later.
    wrong.process.kill();
    eventually("the right one leads", async || leader(&right).await == Some(json!("right"))).await;
    write_alone(&right, &echo, "alone").await;
    gateways[1].answers("/alone", 200).await;
    gateways[1].answers("/r-hour", 200).await;
    gateways[1].answers("/w-hour", 200).await;
    let revisions = list(&right, "/api/gateway_groups/default/revisions").await;
    assert!(!revisions.is_empty());
    for revision in &revisions {
        assert!(is_near(revision["at"].as_u64().unwrap()), "{offset}: {revision}");
    }
    for mut gateway in gateways {
        gateway.process.announce("configuration stream");
        tokio::task::spawn_blocking(move || gateway.stop()).await.unwrap();
    }
    tokio::task::spawn_blocking(move || right.stop()).await.unwrap();
}

/// A write that nobody waits for.
async fn write_alone(replica: &Replica, echo: &Echo, id: &str) {
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    wait_for("the write is taken", LONG, async || {
        let path = format!("/apisix/admin/routes/{id}");
        let body = json!({ "uri": format!("/{id}"), "upstream": upstream });
        let answer = replica.call("PUT", &path, Some(&body)).await;
        matches!(answer.status, 200 | 201).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_clock_is_wrong_decides_as_one_whose_clock_is_right() {
    let offsets: &[&str] = if full() { &["-5h", "+5h", "-40d", "+40d"] } else { &["-5h", "+40d"] };
    for offset in offsets {
        beside_a_right_one(offset).await;
    }
}

#[tokio::test]
async fn a_node_whose_clock_is_days_ahead_says_so_on_both_sides() {
    let (mut cluster, echo) = (Cluster::new(), Echo::start());
    let mut control = cluster.control("one");
    control.process.announce("a node cannot join again");
    control.ready().await;
    cluster.token(&control);
    let mut node = cluster.gateway("node", &[control.dp_manager]);
    node.ready().await;
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    control.put("/routes/1?wait=20s", &json!({ "uri": "/before", "upstream": upstream })).await;
    node.answers("/before", 200).await;
    let http = node.http;
    node.process.kill();

    // By its clock the certificate, which lasts seven days, is over.
    cluster.for_gateways =
        vec![("LD_PRELOAD", deceiver()), ("FAKETIME", "+10d"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let mut node = cluster.gateway_again("node", http);
    for expected in ["no configuration stream", "this node gets no updates"] {
        node.process.announce(expected);
    }
    let told = |line: &str| line.contains("this node gets no updates").then(|| line.to_owned());
    let told = node.process.wait_for_line("what is the matter", SOON * 2, told);
    assert!(told.contains("ahead of the control plane's") && told.contains("set the clock"), "{told}");
    let shown = async || list(&control, "/api/nodes").await.remove(0);
    eventually("the operator sees it", async || {
        let node = shown().await;
        node["state"] == "lost" && node["alarms"].to_string().contains("set the clock")
    })
    .await;
    node.answers("/before", 200).await;
    let joined = |line: &&String| line.contains("a node joined");
    assert_eq!(control.process.log().iter().filter(joined).count(), 1, "each try cost a certificate");

    node.process.kill();
    cluster.for_gateways.clear();
    let node = cluster.gateway_again("node", http);
    eventually("it is well", async || {
        let node = shown().await;
        node["state"] == "healthy" && node["alarms"] == json!([])
    })
    .await;
    tokio::task::spawn_blocking(move || (node.stop(), control.stop())).await.unwrap();
}
