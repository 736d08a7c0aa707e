//! The way back, by the operator's commands: what was said is what is done, on each replica, and nodes follow.

use milecastle_testkit::{Call, Echo};
use milecastle_tests::{Cluster, Replica, Said, free};
use serde_json::{Value, json};

fn routed(echo: &Echo, uri: &str) -> Value {
    json!({ "uri": uri, "upstream": { "nodes": { echo.address().to_string(): 1 } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_change_is_compared_and_undone_on_postgres() {
    let (cluster, manager) = (Cluster::new(), free());
    let (one, two) = (cluster.control_at("one", manager), cluster.dashboard("two"));
    undo(&cluster, [&one, &two], manager).await;
    tokio::task::spawn_blocking(move || (one.stop(), two.stop())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_change_is_compared_and_undone_on_sqlite() {
    let (cluster, manager) = (Cluster::on_sqlite(), free());
    let one = cluster.control_at("one", manager);
    undo(&cluster, [&one, &one], manager).await;
    tokio::task::spawn_blocking(move || one.stop()).await.unwrap();
}

async fn undo(cluster: &Cluster, [one, two]: [&Replica; 2], manager: std::net::SocketAddr) {
    let echo = Echo::start();
    one.ready().await;
    two.ready().await;
    cluster.token(one);
    let gateway = cluster.gateway("g1", &[manager]);
    gateway.ready().await;
    let run = |at: &Replica, args: &[&str]| -> Said { cluster.operator(at, &[&["config"], args].concat()) };
    one.put("/routes/1", &routed(&echo, "/kept")).await;
    let consumer = json!({ "username": "jack", "plugins": { "key-auth": { "key": "canary-of-jack" } } });
    one.put("/consumers", &consumer).await;
    let keyed = |key: &str| json!({ "username": "jack", "plugins": { "key-auth": { "key": key } } });
    two.put("/consumers", &keyed("canary-of-another")).await;
    let mut guarded = routed(&echo, "/kept");
    guarded["plugins"] = json!({ "key-auth": {} });
    two.put("/routes/1?wait=20s", &guarded).await;
    let get = async |key: &str| {
        let call = Call::get("/kept").header("apikey", key);
        call.to(gateway.http).await.unwrap().status
    };
    assert_eq!((get("canary-of-jack").await, get("canary-of-another").await), (401, 200));

    let diff = run(one, &["diff", "2"]);
    assert_eq!(diff.code, 0, "{}", diff.text);
    for line in ["update route 1", "  + {\"plugins\":{\"key-auth\":{}}}", "update consumer jack", "****** (changed)"] {
        assert!(diff.text.contains(line), "{line}: {}", diff.text);
    }
    assert!(diff.text.ends_with("0 created, 2 updated, 0 deleted") && !diff.text.contains("canary"), "{}", diff.text);
    let said = run(two, &["rollback", "2"]);
    assert!(said.code == 0 && said.text.contains("--yes --expected-revision 4"), "{}", said.text);
    assert_eq!(get("canary-of-jack").await, 401, "nothing was done");
    // Somebody else was faster.
    one.put("/routes/2", &routed(&echo, "/new")).await;
    let stale = run(two, &["rollback", "2", "--yes", "--expected-revision", "4"]);
    assert!(stale.code == 4 && stale.text.contains("revision 5, not 4"), "{}", stale.text);
    let done = run(two, &["rollback", "2", "--yes", "-m", "jack was locked out", "--wait", "20s"]);
    assert!(done.code == 0 && done.text.ends_with("revision 6, applied 1/1"), "{}", done.text);
    assert_eq!((get("canary-of-jack").await, get("").await), (200, 200));
    assert_eq!(Call::get("/new").to(gateway.http).await.unwrap().status, 404);
    let history = run(one, &["history", "-n", "1"]).text;
    assert!(history.contains("rollback") && history.contains("jack was locked out"), "{history}");
    // The consumer has the key from before.
    one.put("/routes/1?wait=20s", &guarded).await;
    assert_eq!((get("canary-of-jack").await, get("canary-of-another").await), (200, 401));
    assert_eq!(run(one, &["rollback", "99"]).code, 3);
    for replica in [one, two] {
        assert!(!replica.process.log().iter().any(|line| line.contains("canary")));
    }
    tokio::task::spawn_blocking(move || gateway.stop()).await.unwrap();
}
