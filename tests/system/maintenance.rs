//! Maintenance of nodes, groups and replicas of the control plane: nothing new comes, what comes all the same is served, and
//! it lasts until an operator ends it.

use milecastle_testkit::{Call, Echo, eventually};
use milecastle_tests::{Cluster, Gateway, Replica, free};
use serde_json::{Value, json};

/// What a node's status page says.
async fn said(gateway: &Gateway) -> (u16, Value) {
    let answer = Call::get("/status").to(gateway.status).await.unwrap();
    (answer.status, answer.json().unwrap()["error"].clone())
}

async fn is_out_of_service(gateway: &Gateway, why: &str) {
    eventually("the node is out of service", async || said(gateway).await == (503, json!(why))).await;
    // Whoever does not ask is served.
    gateway.answers("/hello", 200).await;
}

fn run(cluster: &Cluster, control: &Replica, args: &[&str]) -> String {
    let said = cluster.operator(control, args);
    assert_eq!(said.code, 0, "{args:?}: {}", said.text);
    said.text
}

/// The member of a list whose `name` is this.
async fn named(control: &Replica, path: &str, member: &str, name: &str) -> Value {
    let list = control.get(path).await.json().unwrap();
    let found = list["list"].as_array().unwrap().iter().find(|item| item[member] == name);
    found.cloned().unwrap_or_else(|| panic!("{name} is not in {list}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_and_a_group_are_out_of_service_until_they_are_put_back() {
    let (cluster, echo, address) = (Cluster::new(), Echo::start(), free());
    let control = cluster.control_at("c1", address);
    control.ready().await;
    cluster.token(&control);
    let mut gateway = cluster.gateway("g1", &[address]);
    gateway.process.announce("this node is in maintenance");
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    control.put("/routes/1", &json!({ "uri": "/*", "upstream": upstream })).await;
    gateway.answers("/hello", 200).await;
    gateway.ready().await;
    let node = control.get("/api/nodes").await.json().unwrap()["list"][0]["id"].as_str().unwrap().to_owned();

    let done = run(&cluster, &control, &["nodes", "maintenance", &node, "on", "--reason", "a new disk"]);
    assert!(done.contains(&node) && done.contains("until it is switched off"), "{done}");
    is_out_of_service(&gateway, "maintenance: a new disk").await;
    let listed = run(&cluster, &control, &["nodes"]);
    assert!(listed.contains("MAINTENANCE") && listed.contains("a new disk"), "{listed}");
    let shown = named(&control, "/api/nodes", "id", &node).await;
    assert_eq!((&shown["maintenance"]["reason"], &shown["maintenance"]["by"]), (&json!("a new disk"), &json!("admin")));
    assert_eq!((&shown["group_maintenance"], &shown["state"]), (&Value::Null, &json!("healthy")));
    // The node's own word, here and where it has no stream.
    let elsewhere = cluster.dashboard("d1");
    elsewhere.ready().await;
    for replica in [&control, &elsewhere] {
        eventually("the node has confirmed it", async || {
            named(replica, "/api/nodes", "id", &node).await["in_maintenance"] == true
        })
        .await;
    }
    assert!(!run(&cluster, &elsewhere, &["nodes"]).contains("not confirmed"));
    tokio::task::spawn_blocking(move || elsewhere.stop()).await.unwrap();
    // The configuration goes on, and knows nothing of it.
    let answer = control.put("/routes/2?wait=20s", &json!({ "uri": "/2", "upstream": upstream })).await;
    assert_eq!(answer.header("milecastle-receipt"), "applied 1/1");

    // The control plane is gone, and the node starts with what it has.
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
    gateway.process.kill();
    let mut gateway = cluster.gateway("g1", &[address]);
    gateway.process.announce("this node is in maintenance");
    gateway.process.announce("no configuration stream");
    is_out_of_service(&gateway, "maintenance: a new disk").await;
    // And when the control plane comes back, until somebody ends it.
    let control = cluster.control_at("c1", address);
    control.ready().await;
    eventually("the node is connected again", async || {
        named(&control, "/api/nodes", "id", &node).await["state"] == "healthy"
    })
    .await;
    assert_eq!(said(&gateway).await.0, 503);
    run(&cluster, &control, &["group", "maintenance", "default", "on"]);
    run(&cluster, &control, &["nodes", "maintenance", &node, "off"]);
    is_out_of_service(&gateway, "maintenance").await;
    let shown = named(&control, "/api/nodes", "id", &node).await;
    assert_eq!((&shown["maintenance"], &shown["group_maintenance"]["reason"]), (&Value::Null, &json!("")));
    // A node that joins meanwhile is no exception.
    let mut late = cluster.gateway("g2", &[address]);
    late.process.announce("this node is in maintenance");
    is_out_of_service(&late, "maintenance").await;
    run(&cluster, &control, &["group", "maintenance", "default", "off"]);
    gateway.ready().await;
    late.ready().await;
    eventually("the nodes have said so", async || {
        let listed = control.get("/api/nodes").await.json().unwrap();
        listed["list"].as_array().unwrap().iter().all(|node| node["in_maintenance"] == false)
    })
    .await;
    for (args, code) in [
        (["nodes", "maintenance", "none", "on"], 3),
        (["group", "maintenance", "none", "off"], 3),
        (["members", "maintenance", "none", "on"], 3),
        (["members", "maintenance", "none", "so"], 2),
    ] {
        assert_eq!(cluster.operator(&control, &args).code, code, "{args:?}");
    }
    let long = json!({ "reason": "x".repeat(600) });
    let refused = control.call("PUT", "/api/gateway_groups/default/maintenance", Some(&long)).await;
    assert_eq!((refused.status, &refused.json().unwrap()["path"]), (400, &json!("/reason")));
    tokio::task::spawn_blocking(move || (gateway.stop(), late.stop(), control.stop())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_out_of_service_has_no_nodes_and_does_not_lead() {
    let (cluster, echo) = (Cluster::new(), Echo::start());
    let mut one = cluster.control("c1");
    one.process.announce("this replica is in maintenance");
    one.ready().await;
    eventually("it leads", async || named(&one, "/api/members", "name", "c1").await["leads"] == true).await;
    let two = cluster.control("c2");
    two.ready().await;
    cluster.token(&two);
    let gateway = cluster.gateway("g1", &[one.dp_manager, two.dp_manager]);
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    two.put("/routes/1", &json!({ "uri": "/*", "upstream": upstream })).await;
    gateway.answers("/hello", 200).await;

    // Any replica takes the order.
    run(&cluster, &two, &["members", "maintenance", "c1", "on", "--reason", "a new kernel"]);
    eventually("it is not ready", async || {
        let ready = one.get("/readyz").await;
        ready.status == 503 && ready.text().contains("in maintenance: a new kernel")
    })
    .await;
    eventually("the other one leads", async || named(&two, "/api/members", "name", "c2").await["leads"] == true).await;
    let of_two = named(&two, "/api/members", "name", "c2").await["id"].clone();
    eventually("the node is with the other one", async || {
        let node = two.get("/api/nodes").await.json().unwrap()["list"][0].clone();
        node["connected"] == true && node["member"] == of_two
    })
    .await;
    // Who asks it all the same is served, and told that the connection ends.
    let answer = one.get("/apisix/admin/routes/1").await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close".to_owned()));
    assert_eq!(one.put("/routes/2?wait=20s", &json!({ "uri": "/2", "upstream": upstream })).await.status, 201);

    // It lasts over the end of the process, which is shown, and over its next start.
    tokio::task::spawn_blocking(move || one.stop()).await.unwrap();
    let stopped = named(&two, "/api/members", "name", "c1").await;
    assert_eq!((&stopped["state"], &stopped["maintenance"]["reason"]), (&json!("stopped"), &json!("a new kernel")));
    let mut one = cluster.control("c1");
    one.process.announce("this replica is in maintenance");
    eventually("it is not ready again", async || one.get("/readyz").await.text().contains("a new kernel")).await;
    let listed = run(&cluster, &one, &["members"]);
    assert!(listed.contains("a new kernel"), "{listed}");
    run(&cluster, &one, &["members", "maintenance", "c1", "off"]);
    one.ready().await;
    assert_eq!(named(&two, "/api/members", "name", "c1").await["maintenance"], Value::Null);
    tokio::task::spawn_blocking(move || (gateway.stop(), two.stop(), one.stop())).await.unwrap();
}
