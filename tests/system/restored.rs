//! A database that was restored from an older dump, with the programs that operators use for that; and one that lost its last
//! commits under running replicas.

use milecastle_testkit::{Echo, eventually};
use milecastle_tests::{Cluster, Gateway, Replica, free};
use serde_json::{Value, json};

async fn nodes(control: &Replica) -> Vec<Value> {
    control.get("/api/nodes").await.json().unwrap()["list"].as_array().unwrap().clone()
}

/// Waits until so many nodes keep revision 3 of a history that the database no longer has.
async fn apart(control: &Replica, count: usize) {
    eventually("the nodes keep what they have, and raise an alarm", async || {
        let nodes = nodes(control).await;
        let apart = |node: &&Value| {
            node["state"] == "rejected"
                && node["refused"]["fault"] == "backwards"
                && node["revision"] == 3
                && node["alarms"].to_string().contains("was set back")
        };
        nodes.iter().filter(apart).count() == count
    })
    .await;
}

/// What the operator sees of nodes that hold revision 3 of a history that the database, at revision 4, does not have; and confirms.
fn confirm(cluster: &Cluster, control: &Replica) {
    let seen = cluster.operator(control, &["group", "lineage", "default", "-o", "json"]).json();
    assert_eq!((&seen["revision"], &seen["unknown"][0]["revision"]), (&json!(4), &json!(3)));
    assert_eq!(seen["unknown"][0]["nodes"].as_array().unwrap().len(), 2);
    let confirmed = cluster.operator(control, &["group", "lineage", "default", "--confirm"]);
    assert_eq!(confirmed.code, 0, "{}", confirmed.text);
}

fn gateway(cluster: &Cluster, name: &str, control: &Replica) -> Gateway {
    let mut gateway = cluster.gateway(name, &[control.dp_manager]);
    for expected in ["configuration refused", "configuration stream lost", "no configuration stream"] {
        gateway.process.announce(expected);
    }
    gateway
}

#[tokio::test]
async fn nodes_keep_what_they_have_until_an_operator_confirms_a_restored_database() {
    let (cluster, echo, address) = (Cluster::new(), Echo::start(), free());
    let control = cluster.control_at("one", address);
    control.ready().await;
    cluster.token(&control);
    let mut g1 = gateway(&cluster, "g1", &control);
    g1.ready().await;
    let write = async |control: &Replica, id: &str| {
        let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
        let body = json!({ "uri": format!("/{id}"), "upstream": upstream });
        control.put(&format!("/routes/{id}?wait=20s"), &body).await.header("milecastle-receipt")
    };
    assert_eq!(write(&control, "old").await, "applied 1/1");
    let nothing = cluster.operator(&control, &["group", "lineage", "default", "--confirm"]);
    assert_eq!(nothing.code, 4, "{}", nothing.text);
    let database = cluster.database.as_ref().unwrap();
    let dump = database.dump().unwrap();

    // Of what comes now the dump knows nothing: two writes, and a node.
    let g2 = gateway(&cluster, "g2", &control);
    g2.ready().await;
    for id in ["new", "newer"] {
        assert_eq!(write(&control, id).await, "applied 2/2");
    }
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
    database.restore(&dump).unwrap();
    let mut control = cluster.control_at("two", address);
    control.process.announce("a node keeps what it has");
    control.process.announce("the nodes take over what the database holds");
    control.ready().await;
    apart(&control, 2).await;
    let lineage_alarms = async || {
        let told = control.get("/api/alarms").await.json().unwrap()["list"].clone();
        told.as_array().unwrap().iter().filter(|alarm| alarm["alarm"] == "lineage").cloned().collect::<Vec<_>>()
    };
    eventually("an alarm for each of them", async || {
        let alarms = lineage_alarms().await;
        alarms.len() == 2 && alarms.iter().all(|alarm| alarm["fault"] == "backwards" && alarm["group"] == "default")
    })
    .await;

    // The database goes on from there, up to the nodes' own number and past it. That changes nothing.
    for id in ["other", "another", "further"] {
        assert_eq!(write(&control, id).await, "applied 0/2, rejected 2");
    }
    apart(&control, 2).await;
    g1.process.kill();
    let g1 = gateway(&cluster, "g1", &control);
    g1.ready().await;
    apart(&control, 2).await;
    for gateway in [&g1, &g2] {
        gateway.answers("/newer", 200).await;
        gateway.answers("/further", 404).await;
    }

    confirm(&cluster, &control);
    for gateway in [&g1, &g2] {
        gateway.answers("/newer", 404).await;
        gateway.answers("/old", 200).await;
        gateway.answers("/further", 200).await;
    }
    eventually("the nodes are healthy again", async || {
        nodes(&control).await.iter().all(|node| node["state"] == "healthy" && node["alarms"] == json!([]))
    })
    .await;
    eventually("the alarms are over, and the other lineage was told", async || {
        let told = control.get("/api/events?kind=lineage").await.json().unwrap();
        lineage_alarms().await.is_empty()
            && told["list"].as_array().unwrap().iter().any(|event| event["group"] == "default")
    })
    .await;
    // From here on all is as before.
    assert_eq!(write(&control, "next").await, "applied 2/2");
    let page = control.get("/metrics").await.text();
    for metric in [r#"database_connections{state="idle"}"#, r#"database_statements_total{result="done"}"#] {
        assert!(page.contains(metric), "{metric}\n{page}");
    }
    let nothing = cluster.operator(&control, &["group", "lineage", "default", "--confirm"]);
    assert_eq!(nothing.code, 4, "{}", nothing.text);
    tokio::task::spawn_blocking(move || (g1.stop(), g2.stop(), control.stop())).await.unwrap();
}

/// While nobody looked the database was set back, and went past what the nodes hold: no head stands below theirs, and no replica
/// remembers. Only the mark of their revision tells, which they keep on their disk too.
#[tokio::test]
async fn a_restored_database_that_went_past_the_nodes_unseen_is_found_out_by_them() {
    let (cluster, echo, address) = (Cluster::new(), Echo::start(), free());
    let write = async |control: &Replica, id: &str| {
        let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
        let body = json!({ "uri": format!("/{id}"), "upstream": upstream });
        assert_eq!(control.put(&format!("/routes/{id}"), &body).await.status, 201);
    };
    let control = cluster.control_at("one", address);
    control.ready().await;
    cluster.token(&control);
    let (mut g1, g2) = (gateway(&cluster, "g1", &control), gateway(&cluster, "g2", &control));
    for gateway in [&g1, &g2] {
        gateway.ready().await;
    }
    write(&control, "old").await;
    let database = cluster.database.as_ref().unwrap();
    let dump = database.dump().unwrap();
    for id in ["new", "newer"] {
        write(&control, id).await;
    }
    for gateway in [&g1, &g2] {
        gateway.answers("/newer", 200).await;
    }
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
    database.restore(&dump).unwrap();
    // Where no node looks for it.
    let elsewhere = cluster.control("elsewhere");
    elsewhere.ready().await;
    for id in ["other", "another", "further"] {
        write(&elsewhere, id).await;
    }
    tokio::task::spawn_blocking(move || elsewhere.stop()).await.unwrap();
    g1.process.kill();
    let mut control = cluster.control_at("two", address);
    control.process.announce("a node keeps what it has");
    control.process.announce("the nodes take over what the database holds");
    control.ready().await;
    let g1 = gateway(&cluster, "g1", &control);
    apart(&control, 2).await;
    for gateway in [&g1, &g2] {
        gateway.answers("/newer", 200).await;
        gateway.answers("/further", 404).await;
    }
    confirm(&cluster, &control);
    for gateway in [&g1, &g2] {
        gateway.answers("/newer", 404).await;
        gateway.answers("/further", 200).await;
    }
    tokio::task::spawn_blocking(move || (g1.stop(), g2.stop(), control.stop())).await.unwrap();
}

/// What a standby that was promoted before it had the last commits does to replicas that run on.
#[tokio::test]
async fn a_database_that_lost_its_last_commits_is_found_out_by_the_replicas() {
    let (cluster, echo) = (Cluster::new(), Echo::start());
    let mut one = cluster.control("one");
    one.process.announce("the database lost revisions that were in force");
    one.process.announce("a node keeps what it has");
    one.process.announce("the nodes take over what the database holds");
    one.ready().await;
    cluster.token(&one);
    let g1 = gateway(&cluster, "g1", &one);
    g1.ready().await;
    let write = async |id: &str| {
        let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
        let body = json!({ "uri": format!("/{id}"), "upstream": upstream });
        one.put(&format!("/routes/{id}?wait=20s"), &body).await.header("milecastle-receipt")
    };
    for id in ["kept", "lost"] {
        assert_eq!(write(id).await, "applied 1/1");
    }
    let database = cluster.database.as_ref().unwrap();
    let lost = "DELETE FROM change_set WHERE revision > 1; DELETE FROM resource WHERE created > 1; \
                UPDATE gateway_group SET head = 1";
    database.query(lost).unwrap();
    // What is written now uses the numbers of what was lost, and goes past them.
    for id in ["new", "newer"] {
        assert_eq!(write(id).await, "applied 0/1, rejected 1");
        assert_eq!(one.get(&format!("/apisix/admin/routes/{id}")).await.status, 200);
    }
    assert_eq!(one.get("/apisix/admin/routes/lost").await.status, 404);
    g1.answers("/lost", 200).await;
    g1.answers("/newer", 404).await;
    let confirmed = cluster.operator(&one, &["group", "lineage", "default", "--confirm"]);
    assert_eq!(confirmed.code, 0, "{}", confirmed.text);
    g1.answers("/lost", 404).await;
    for id in ["/kept", "/new", "/newer"] {
        g1.answers(id, 200).await;
    }
    tokio::task::spawn_blocking(move || (g1.stop(), one.stop())).await.unwrap();
}
