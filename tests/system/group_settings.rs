//! What can be built is a setting of the gateway group: two replicas, two groups, nodes that follow, and nodes that start without
//! the control plane.

use milecastle_testkit::{Answer, Call, Echo, SOON, eventually};
use milecastle_tests::{Cluster, Gateway, Replica, Said, free};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A route that counts requests, so far that none is refused.
fn counted(echo: &Echo, uri: &str) -> Value {
    let plugins = json!({ "limit-count": { "count": 1_000_000, "time_window": 600, "key": "remote_addr" } });
    json!({ "uri": uri, "plugins": plugins, "upstream": { "nodes": { echo.address().to_string(): 1 } } })
}

fn plain(echo: &Echo, uri: &str) -> Value {
    json!({ "uri": uri, "upstream": { "nodes": { echo.address().to_string(): 1 } } })
}

async fn get(gateway: &Gateway, target: &str) -> Answer {
    Call::get(target).to(gateway.http).await.unwrap()
}

/// A node of a group.
fn node(cluster: &Cluster, control: &Replica, group: &str, managers: &[std::net::SocketAddr]) -> Gateway {
    cluster.hand_out(&cluster.mint(control, group));
    cluster.gateway(&format!("node-of-{group}"), managers)
}

fn run(cluster: &Cluster, control: &Replica, args: &[&str]) -> Said {
    cluster.operator(control, &[&["group", "settings"], args].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_have_settings_of_their_own_and_nodes_never_serve_under_others() {
    let (cluster, echo) = (Cluster::new(), Echo::start());
    let managers = [free(), free()];
    let (one, two) = (cluster.control_at("one", managers[0]), cluster.control_at("two", managers[1]));
    one.ready().await;
    two.ready().await;
    for group in ["a", "b"] {
        assert_eq!(cluster.operator(&one, &["group", "create", group]).code, 0);
    }
    let mut in_a = node(&cluster, &one, "a", &managers);
    in_a.process.announce("object in quarantine");
    in_a.process.announce("no configuration stream");
    // It has joined before the file of the token holds that of the other group.
    in_a.ready().await;
    let mut in_b = node(&cluster, &one, "b", &managers);
    in_b.process.announce("no configuration stream");
    in_b.ready().await;
    for (replica, group) in [(&one, "a"), (&one, "b"), (&two, "a"), (&two, "b")] {
        eventually("the replica knows the node", async || {
            cluster.operator(replica, &["config", "wait", "-g", group]).text == "revision 0: applied 1/1"
        })
        .await;
    }

    let set = run(&cluster, &one, &["set", "a", "--plugins", "key-auth,prometheus", "--wait", "20s"]);
    assert_eq!((set.code, &*set.text), (0, "settings of group a are of revision 1, applied 1/1"));
    let shown = run(&cluster, &two, &["get", "a", "-o", "json"]).json();
    assert_eq!(shown["effective"]["plugins"], json!(["key-auth", "prometheus"]));
    // The other replica refuses in one group what it takes in the other.
    let body = counted(&echo, "/counted");
    let refused = two.call("PUT", "/apisix/admin/routes/1?gateway_group_id=a", Some(&body)).await;
    let expected = json!({ "error_msg": "unknown plugin [limit-count]" });
    assert_eq!((refused.status, refused.json().unwrap()), (400, expected));
    two.put("/routes/1?gateway_group_id=b&wait=20s", &body).await;
    assert_eq!(get(&in_b, "/counted").await.header("x-ratelimit-limit"), "1000000");

    // Enabled in A too: the node follows, and the same route is taken.
    let set = run(&cluster, &two, &["set", "a", "--all-plugins", "--wait", "20s"]);
    assert_eq!((set.code, &*set.text), (0, "settings of group a are of revision 2, applied 1/1"));
    one.put("/routes/1?gateway_group_id=a", &body).await;
    one.put("/routes/2?gateway_group_id=a&wait=20s", &plain(&echo, "/plain")).await;
    assert_eq!(get(&in_a, "/counted").await.header("x-ratelimit-limit"), "1000000");

    // In use, it is not disabled by mistake.
    let refused = run(&cluster, &one, &["set", "a", "--plugins", "key-auth"]);
    assert!(refused.code == 4 && refused.text.contains("/routes/1: unknown plugin [limit-count]"), "{}", refused.text);
    assert_eq!(get(&in_a, "/counted").await.status, 200);
    let stale = run(&cluster, &one, &["set", "a", "--plugins", "key-auth", "--force", "--expected-revision", "1"]);
    assert!(stale.code == 4 && stale.text.contains("revision 2, not 1"), "{}", stale.text);
    // Forced, what has it is not served without it; the rest goes on, and the other group knows nothing of it.
    let forced = run(&cluster, &one, &["set", "a", "--plugins", "key-auth", "--force", "--wait", "20s"]);
    assert_eq!((forced.code, &*forced.text), (0, "settings of group a are of revision 5, applied 1/1, rejected 1"));
    assert_eq!((get(&in_a, "/counted").await.status, get(&in_a, "/plain").await.status), (503, 200));
    assert_eq!(get(&in_b, "/counted").await.status, 200);
    eventually("the operator is told", async || {
        let listed = cluster.operator(&two, &["nodes", "-g", "a"]).text;
        listed.contains("rejected") && listed.contains("route 1: /plugins/limit-count: unknown plugin [limit-count]")
    })
    .await;

    // Its group is found by its id.
    let nodes = one.get("/api/nodes").await.json().unwrap();
    let node = nodes["list"].as_array().unwrap().iter().find(|node| node["group"] == "a").unwrap()["id"].clone();
    let node = node.as_str().unwrap();
    for (switch, is_on) in [("on", true), ("off", false)] {
        let said = cluster.operator(&two, &["nodes", "maintenance", node, switch]);
        assert!(said.code == 0 && said.text.contains(&format!("node {node} is ")), "{}", said.text);
        // It keeps what it was told last.
        eventually("it has said so", async || {
            let nodes = one.get("/api/nodes").await.json().unwrap();
            nodes["list"].as_array().unwrap().iter().any(|one| one["id"] == node && one["in_maintenance"] == is_on)
        })
        .await;
    }

    // Without any control plane the node starts with the settings that it had.
    tokio::task::spawn_blocking(move || (one.stop(), two.stop())).await.unwrap();
    in_a.process.kill();
    let mut in_a = cluster.gateway("node-of-a", &managers);
    in_a.process.announce("object in quarantine");
    in_a.process.announce("no configuration stream");
    in_a.answers("/plain", 200).await;
    assert_eq!(get(&in_a, "/counted").await.status, 503);

    // Meanwhile the settings are taken back: the node hears of it as soon as there is somebody to hear it from.
    let one = cluster.dashboard("three");
    one.ready().await;
    assert_eq!(run(&cluster, &one, &["set", "a", "--all-plugins"]).code, 0);
    assert_eq!(get(&in_a, "/counted").await.status, 503);
    let two = cluster.dp_manager("four", managers[1]);
    two.ready().await;
    in_a.answers("/counted", 200).await;
    eventually("it says so", async || {
        cluster.operator(&one, &["config", "wait", "-g", "a"]).text == "revision 6: applied 1/1"
    })
    .await;
    tokio::task::spawn_blocking(move || (in_a.stop(), in_b.stop(), one.stop(), two.stop())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_settings_fails_no_request_and_keeps_counters() {
    let (cluster, echo, manager) = (Cluster::new(), Echo::start(), free());
    let control = cluster.control_at("one", manager);
    control.ready().await;
    let gateway = node(&cluster, &control, "default", &[manager]);
    gateway.ready().await;
    control.put("/routes/1", &counted(&echo, "/counted")).await;
    control.put("/routes/2?wait=20s", &plain(&echo, "/users/:id")).await;
    let remaining = |answer: &Answer| answer.header("x-ratelimit-remaining").parse::<u64>().unwrap();
    let first = remaining(&get(&gateway, "/counted").await);
    let (ends, http) = (Arc::new(AtomicBool::new(false)), gateway.http);
    let client = tokio::spawn({
        let ends = ends.clone();
        async move {
            let mut sent = 0;
            while !ends.load(Ordering::Relaxed) {
                let answer = Call::get("/counted").to(http).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                sent += 1;
            }
            sent
        }
    });
    // Path parameters are a matter of the router.
    assert_eq!(get(&gateway, "/users/7").await.status, 404);
    for (mode, status) in
        [("radixtree_uri_with_parameter", 200), ("radixtree_uri", 404), ("radixtree_uri_with_parameter", 200)]
    {
        let set = run(&cluster, &control, &["set", "--router", mode, "--wait", "20s"]);
        assert!(set.code == 0 && set.text.ends_with("applied 1/1"), "{}", set.text);
        assert_eq!(get(&gateway, "/users/7").await.status, status, "{mode}");
    }
    ends.store(true, Ordering::Relaxed);
    let sent: u64 = client.await.unwrap();
    assert_eq!(remaining(&get(&gateway, "/counted").await), first - sent - 1, "the counters go on");
    tokio::task::spawn_blocking(move || (gateway.stop(), control.stop())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_later_version_are_not_taken() {
    let (cluster, echo, manager) = (Cluster::new(), Echo::start(), free());
    let mut control = cluster.control_at("one", manager);
    control.ready().await;
    let mut gateway = node(&cluster, &control, "default", &[manager]);
    gateway.ready().await;
    gateway.process.announce("configuration refused");
    control.process.announce("a node keeps what it has: an operator is needed");
    control.process.announce("an Admin API request was answered with 503");
    control.put("/routes/1?wait=20s", &plain(&echo, "/a")).await;
    // As a control plane of a later version would write it, together with what it judged by it.
    let database = cluster.database.as_ref().unwrap();
    let body = "convert_to('{\"of_tomorrow\":true}', 'UTF8')";
    for sql in [
        "INSERT INTO change_set (group_id, revision, author, message, source, at, puts, deletes) \
         VALUES ('default', 2, 'later', '', 'api', 0, 1, 0)"
            .to_owned(),
        format!(
            "INSERT INTO resource (group_id, kind, id, body, sealed, created, modified) \
             VALUES ('default', 'group_settings', 'group', {body}, FALSE, 2, 2)"
        ),
        format!(
            "INSERT INTO change (group_id, revision, kind, id, body, sealed, created) \
             VALUES ('default', 2, 'group_settings', 'group', {body}, FALSE, 2)"
        ),
        "UPDATE gateway_group SET head = 2 WHERE id = 'default'".to_owned(),
    ] {
        database.query(&sql).unwrap();
    }
    let refused = |line: &str| line.contains("settings of the group that this version does not know").then_some(());
    gateway.process.wait_for_line("that it does not take them", SOON, refused);
    assert_eq!(get(&gateway, "/a").await.status, 200);
    eventually("the operator is told", async || {
        let listed = cluster.operator(&control, &["nodes"]).text;
        listed.contains("1/2") && listed.contains("/of_tomorrow") && listed.contains("upgrade this node")
    })
    .await;
    // Nor does a replica of this version judge by what it does not know.
    let answer = control.call("PUT", "/apisix/admin/routes/2", Some(&plain(&echo, "/b"))).await;
    assert!(
        answer.status == 503 && answer.text().contains("upgrade this replica"),
        "{} {}",
        answer.status,
        answer.text()
    );
    tokio::task::spawn_blocking(move || (gateway.stop(), control.stop())).await.unwrap();
}
