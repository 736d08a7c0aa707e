//! What happens, as an operator follows it, whichever replicas die.

use std::process::Command;

use milecastle_testkit::process::binary;
use milecastle_testkit::{Process, eventually};
use milecastle_tests::{ADMIN_KEY, Cluster, Replica};
use serde_json::{Value, json};

/// `milecastle events --follow` against these dashboards, in this order.
fn follow(dashboards: &[&Replica], args: &[&str]) -> Process {
    let servers: Vec<String> = dashboards.iter().map(|replica| format!("http://{}", replica.http)).collect();
    let mut command = Command::new(binary());
    command.args(["events", "--follow", "--json"]).args(args);
    command.env("MILECASTLE_SERVER", servers.join(",")).env("MILECASTLE_ADMIN_KEY", ADMIN_KEY);
    Process::start("events", command)
}

/// The events that it has shown.
fn shown(follower: &Process) -> Vec<Value> {
    follower.log().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Of a kind, this member of each.
fn of_kind(follower: &Process, kind: &str, member: &str) -> Vec<Value> {
    let events = shown(follower).into_iter().filter(|event| event["kind"] == kind);
    events.map(|event| event[member].clone()).collect()
}

/// Waits until it has shown an event like this.
async fn shows(follower: &Process, what: &str, like: &Value) {
    let is_like = |event: &Value| like.as_object().unwrap().iter().all(|(name, value)| event[name] == *value);
    eventually(what, async || shown(follower).iter().any(is_like)).await;
}

/// Writes through the dashboards in turn.
async fn write(dashboards: &[&Replica], writes: std::ops::Range<u64>) {
    for n in writes {
        let dashboard = dashboards[usize::try_from(n).unwrap() % dashboards.len()];
        dashboard.put("/upstreams/1", &json!({ "nodes": {}, "desc": n.to_string() })).await;
    }
}

/// Whether a replica leads.
async fn leads(replica: &Replica, name: &str) -> bool {
    let members = replica.get("/api/members").await.json().unwrap();
    members["list"].as_array().unwrap().iter().any(|member| member["name"] == name && member["leads"] == true)
}

#[tokio::test]
async fn whoever_follows_misses_nothing_when_a_replica_is_killed() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.control("one"), cluster.control("two"));
    one.ready().await;
    two.ready().await;
    cluster.token(&one);
    let mut gateway = cluster.gateway("g1", &[one.dp_manager, two.dp_manager]);
    // When one of them is killed.
    gateway.process.announce("configuration stream");
    one.put("/upstreams/1", &json!({ "nodes": {} })).await;
    gateway.ready().await;
    // The one that dies leads, and is the one that is followed.
    let (name, mut doomed, left) = match leads(&one, "one").await {
        true => ("one", one, two),
        false => ("two", two, one),
    };
    let follower = follow(&[&doomed, &left], &["--after", "0"]);
    shows(&follower, "somebody leads", &json!({ "kind": "leader" })).await;
    write(&[&doomed, &left], 0..20).await;
    // In the middle of writes.
    let survivor = [&left];
    tokio::join!(write(&survivor, 20..60), async { doomed.process.kill() });
    shows(&follower, "it is lost", &json!({ "kind": "member", "state": "lost", "name": name })).await;
    write(&survivor, 60..70).await;
    let last = 71;
    shows(&follower, "the last change", &json!({ "kind": "change", "revision": last })).await;
    // The first one may have been there before anything was told.
    let expected: Vec<Value> = (2..=last).map(Value::from).collect();
    let mut heard = of_kind(&follower, "change", "revision");
    heard.retain(|revision| *revision != 1);
    assert_eq!(heard, expected, "each change once, in its order");
    shows(&follower, "the node has it", &json!({ "kind": "receipt", "revision": last, "applied": 1, "total": 1 }))
        .await;
    let ids: Vec<u64> = shown(&follower).iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    // Whoever asks later reads the same, from the replica that is left.
    let later = left.get("/api/events?kind=change&limit=500").await.json().unwrap();
    let later: Vec<Value> = later["list"].as_array().unwrap().iter().map(|event| event["revision"].clone()).collect();
    assert!(later.ends_with(&expected), "{later:?}");
    drop(follower);
    gateway.stop();
    left.stop();
}

#[tokio::test]
async fn a_node_that_comes_goes_and_comes_back_is_told() {
    let cluster = Cluster::new();
    let control = cluster.control("one");
    control.ready().await;
    cluster.token(&control);
    let follower = follow(&[&control], &["--kind", "node,receipt,alarm,change"]);
    shows_beginning(&control).await;
    let gateway = cluster.gateway("g1", &[control.dp_manager]);
    control.put("/upstreams/1", &json!({ "nodes": {} })).await;
    gateway.ready().await;
    shows(&follower, "it is well", &json!({ "kind": "node", "state": "healthy" })).await;
    shows(&follower, "it has the change", &json!({ "kind": "receipt", "revision": 1, "applied": 1, "total": 1 })).await;
    let http = gateway.http;
    gateway.stop();
    shows(&follower, "it is lost", &json!({ "kind": "node", "state": "lost", "before": "healthy" })).await;
    shows(&follower, "an alarm", &json!({ "kind": "alarm", "alarm": "node_lost", "state": "raised" })).await;
    let alarms = control.get("/api/alarms").await.json().unwrap();
    assert_eq!((&alarms["total"], &alarms["list"][0]["alarm"]), (&json!(1), &json!("node_lost")), "{alarms}");
    let gateway = cluster.gateway_again("g1", http);
    shows(&follower, "it is back", &json!({ "kind": "node", "before": "lost", "state": "healthy" })).await;
    shows(&follower, "the alarm is over", &json!({ "kind": "alarm", "alarm": "node_lost", "state": "cleared" })).await;
    let table = cluster.operator(&control, &["events", "--since", "1h", "--group", "default"]);
    assert!(table.text.contains("revision 1 by admin: ") && table.text.contains("node_lost cleared"), "{}", table.text);
    assert_eq!(cluster.operator(&control, &["events", "--kind", "nothing"]).code, 1);
    drop(follower);
    gateway.stop();
    control.stop();
}

/// Waits until somebody leads and tells.
async fn shows_beginning(control: &Replica) {
    eventually("something was told", async || {
        let events = control.get("/api/events").await.json().unwrap();
        !events["list"].as_array().unwrap().is_empty()
    })
    .await;
}
