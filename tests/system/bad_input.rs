//! Input that the Admin API of the real binary refuses on either database: nothing is stored, no revision is made.

use milecastle_testkit::bad_input::{BEFORE, REFUSED, refused_in_free_text};
use milecastle_testkit::{Answer, Call};
use milecastle_tests::{ADMIN_KEY, Cluster, Replica};
use serde_json::Value;

async fn send(dashboard: &Replica, line: &str) -> Answer {
    Call::admin(line).header("x-api-key", ADMIN_KEY).to(dashboard.http).await.unwrap()
}

/// All objects of the group, and its newest revision.
async fn stands(dashboard: &Replica) -> (Value, Value) {
    let group = "/api/gateway_groups/default/revisions";
    let objects = dashboard.get(&format!("{group}/head/objects")).await.json().unwrap()["list"].clone();
    let newest = dashboard.get(&format!("{group}?limit=1")).await.json().unwrap()["list"][0]["revision"].clone();
    (objects, newest)
}

/// What a plugin itself refuses, and a part of what it says.
const REFUSED_BY_PLUGINS: [(&str, u16, &str); 1] = [(
    r#"PUT /routes/1 {"uri":"/a","plugins":{"limit-count":{"count":1,"time_window":1,"policy":"redis-cluster","redis_cluster_name":"c","redis_cluster_nodes":["127.0.0.1:1"]}}}"#,
    400,
    "policy redis-cluster is not available in this version",
)];

async fn nothing_bad_is_stored(cluster: &Cluster) {
    let dashboard = cluster.dashboard("d");
    dashboard.ready().await;
    assert_eq!(send(&dashboard, BEFORE).await.status, 201);
    let before = stands(&dashboard).await;
    assert_eq!((before.0.as_array().unwrap().len(), &before.1), (1, &1.into()));
    for (line, status, message) in REFUSED {
        let answer = send(&dashboard, line).await;
        let said = answer.json().unwrap();
        assert_eq!((answer.status, said["error_msg"].as_str()), (status, Some(message)), "{line}");
    }
    let by_plugins = REFUSED_BY_PLUGINS.map(|(line, status, part)| (line.to_owned(), status, part));
    for (line, status, part) in refused_in_free_text().into_iter().chain(by_plugins) {
        let answer = send(&dashboard, &line).await;
        let said = answer.json().unwrap()["error_msg"].clone();
        let line: String = line.chars().take(200).collect();
        assert!(answer.status == status && said.as_str().unwrap().contains(part), "{line}: {} {said}", answer.status);
    }
    assert_eq!(stands(&dashboard).await, before);
    tokio::task::spawn_blocking(move || dashboard.stop()).await.unwrap();
}

#[tokio::test]
async fn nothing_bad_is_stored_on_sqlite() {
    nothing_bad_is_stored(&Cluster::on_sqlite()).await;
}

#[tokio::test]
async fn nothing_bad_is_stored_on_postgresql() {
    nothing_bad_is_stored(&Cluster::new()).await;
}
