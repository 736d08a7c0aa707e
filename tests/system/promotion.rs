//! Configuration on its way between groups, by the operator's commands: as a file, and within the database.

use milecastle_testkit::{Call, Echo};
use milecastle_tests::{Cluster, Said, free};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_promoted_on_postgres() {
    promote(Cluster::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_promoted_on_sqlite() {
    promote(Cluster::on_sqlite()).await;
}

async fn promote(cluster: Cluster) {
    let (echo, manager) = (Echo::start(), free());
    let control = cluster.control_at("one", manager);
    control.ready().await;
    let run = |args: &[&str]| -> Said { cluster.operator(&control, args) };
    for group in ["staging", "prod"] {
        assert_eq!(run(&["group", "create", group]).code, 0);
    }
    cluster.hand_out(&cluster.mint(&control, "prod"));
    let gateway = cluster.gateway("node-of-prod", &[manager]);
    gateway.ready().await;
    let route = json!({
        "uri": "/new", "plugins": { "key-auth": {} }, "upstream": { "nodes": { echo.address().to_string(): 1 } },
    });
    control.put("/routes/1?gateway_group_id=staging", &route).await;
    let jack = json!({ "username": "jack", "plugins": { "key-auth": { "key": "canary-of-jack" } } });
    control.put("/consumers?gateway_group_id=staging", &jack).await;
    control.put("/routes/own?gateway_group_id=prod", &route).await;
    let status = async |key: &str| Call::get("/new").header("apikey", key).to(gateway.http).await.unwrap().status;

    // First it is said, then done on top of what was seen, then undone.
    let said = run(&["config", "promote", "staging", "-g", "prod", "--prune"]);
    assert_eq!(said.code, 0, "{}", said.text);
    for line in ["create route 1", "delete route own", "create consumer jack", "2 created, 0 updated, 1 deleted"] {
        assert!(said.text.contains(line), "{line}: {}", said.text);
    }
    assert!(!said.text.contains("canary") && said.text.contains("--yes --expected-revision 1"), "{}", said.text);
    assert_eq!(run(&["config", "history", "-g", "prod"]).text.lines().count(), 2, "nothing was done");
    let done = run(&["config", "promote", "staging", "-g", "prod", "--prune", "--yes", "--wait", "20s"]);
    assert!(done.code == 0 && done.text.ends_with("revision 2, applied 1/1"), "{}", done.text);
    assert_eq!((status("canary-of-jack").await, status("wrong").await), (200, 401));
    let undone = run(&["config", "rollback", "1", "-g", "prod", "--yes", "--wait", "20s"]);
    assert!(undone.code == 0 && undone.text.ends_with("revision 3, applied 1/1"), "{}", undone.text);
    assert_eq!(status("canary-of-jack").await, 401);

    // The same as a file.
    let file = run(&["config", "export", "-g", "staging", "--kinds", "route,consumer"]);
    assert!(file.code == 0 && file.text.starts_with("milecastle: 1\ngroup: staging\nrevision: 2\n"), "{}", file.text);
    let path = cluster.dir.write("staging.yaml", &file.text).display().to_string();
    let said = run(&["config", "apply", "-g", "prod", "-f", &path]);
    assert!(said.code == 0 && said.text.contains("2 created, 0 updated, 0 deleted"), "{}", said.text);
    let stale = run(&["config", "apply", "-g", "prod", "-f", &path, "--yes", "--expected-revision", "2"]);
    assert!(stale.code == 4 && stale.text.contains("revision 3, not 2"), "{}", stale.text);
    let done = run(&["config", "apply", "-g", "prod", "-f", &path, "--yes", "-m", "from a file", "--wait", "20s"]);
    assert!(done.code == 0 && done.text.ends_with("revision 4, applied 1/1"), "{}", done.text);
    assert_eq!(status("canary-of-jack").await, 200);
    let again = run(&["config", "apply", "-g", "prod", "-f", &path]);
    assert!(again.text.ends_with("0 created, 0 updated, 0 deleted"), "{}", again.text);
    let wrong = cluster.dir.write("wrong.yaml", "milecastle: 1\nobjects:\n  /nothing/1: {}\n").display().to_string();
    let refused = run(&["config", "apply", "-g", "prod", "-f", &wrong]);
    assert!(refused.code == 1 && refused.text.contains("/nothing/1"), "{}", refused.text);
    tokio::task::spawn_blocking(move || (gateway.stop(), control.stop())).await.unwrap();
}
