//! A node's state directory, copied to other machines while the node runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use milecastle_testkit::{Echo, SOON, eventually};
use milecastle_tests::{Cluster, Gateway, Replica};
use serde_json::{Value, json};

const NO_UPDATES: &str = "this node gets no updates";

/// Starts a gateway on a copy of the state directory of `node`, and waits until it knows that it is one.
fn start_copy(cluster: &Cluster, name: &str, dp_manager: SocketAddr) -> Gateway {
    let (file, http) = cluster.gateway_file(name, &[dp_manager], Ipv4Addr::LOCALHOST);
    let home = file.parent().unwrap();
    let copied = Command::new("cp").arg("-a").args([home.join("node"), home.join(name)]).status().unwrap();
    assert!(copied.success());
    let mut copy = cluster.gateway_again(name, http);
    for expected in ["configuration stream lost", "no configuration stream", NO_UPDATES] {
        copy.process.announce(expected);
    }
    let told = |line: &str| line.contains(NO_UPDATES).then(|| line.to_owned());
    let told = copy.process.wait_for_line("what is the matter", SOON * 2, told);
    assert!(
        told.contains("another process runs with this node's identity") && told.contains("remove `node.pem`"),
        "{told}"
    );
    copy
}

async fn listed(control: &Replica) -> Value {
    control.get("/api/nodes").await.json().unwrap()["list"].clone()
}

#[tokio::test]
async fn of_a_node_and_its_copies_the_node_stays() {
    let (mut cluster, echo) = (Cluster::new(), Echo::start());
    // A heartbeat that is late on a busy machine is not what is tested here.
    cluster.for_control = vec![("MILECASTLE__MEMBERS__LOST_AFTER", "20s")];
    let (mut one, mut two) = (cluster.control("one"), cluster.control("two"));
    for control in [&mut one, &mut two] {
        control.process.announce("a second process has this node's identity");
        control.ready().await;
    }
    cluster.token(&one);
    let write = async |id: &str| {
        let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
        one.put(&format!("/routes/{id}?wait=20s"), &json!({ "uri": format!("/{id}"), "upstream": upstream })).await
    };
    let mut node = cluster.gateway("node", &[one.dp_manager]);
    // On a busy machine its answer may come late; then its place is taken for a moment.
    node.process.announce("configuration stream lost");
    node.ready().await;
    write("before").await;
    node.answers("/before", 200).await;
    let boot = listed(&one).await[0]["boot"].clone();

    let mut copies = Vec::new();
    for (name, at) in [("at-the-same", one.dp_manager), ("at-another", two.dp_manager)] {
        copies.push(start_copy(&cluster, name, at));
        for control in [&one, &two] {
            eventually("the operator sees the node, and each of its copies", async || {
                let list = listed(control).await;
                let alarms = list[0]["alarms"].as_array().unwrap();
                let named = alarms.iter().filter(|alarm| alarm.to_string().contains("was the state directory copied?"));
                (list[0]["state"] == "healthy" && list[0]["boot"] == boot) && named.count() == copies.len()
            })
            .await;
        }
    }
    assert_eq!(listed(&one).await.as_array().unwrap().len(), 1);
    write("after").await;
    node.answers("/after", 200).await;
    for copy in &copies {
        copy.answers("/before", 200).await;
    }

    // Without the node the copy that started first is it.
    tokio::task::spawn_blocking(move || node.stop()).await.unwrap();
    copies[0].answers("/after", 200).await;
    eventually("it is the node", async || {
        let list = listed(&one).await;
        list[0]["connected"] == true && list[0]["boot"] != boot
    })
    .await;
    tokio::task::spawn_blocking(move || {
        copies.into_iter().for_each(Gateway::stop);
        one.stop();
        two.stop();
    })
    .await
    .unwrap();
}
