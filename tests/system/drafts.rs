//! A change set that one operator prepares, and another looks at and publishes, on whichever replica (docs/changes.md).

use milecastle_tests::{Cluster, Replica, Said};
use serde_json::{Value, json};

#[tokio::test]
async fn a_draft_is_prepared_by_one_and_published_by_another() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.dashboard("one"), cluster.dashboard("two"));
    one.ready().await;
    two.ready().await;
    let run = |at: &Replica, args: &[&str]| cluster.operator(at, &[&["config", "draft"], args].concat());
    let edits = |name: &str, edits: Value| cluster.dir.write(name, edits.to_string()).display().to_string();
    let holds = |said: &Said, code: i32, texts: &[&str]| {
        assert!(said.code == code && texts.iter().all(|text| said.text.contains(text)), "{} {}", said.code, said.text);
    };
    one.put("/routes/1", &json!({ "uri": "/a", "plugins": {} })).await;
    let upstream = json!({ "op": "put", "kind": "upstream", "id": "u", "body": { "nodes": {} } });
    let first =
        edits("first", json!([{ "op": "patch", "kind": "route", "id": "1", "body": { "uri": "/b" } }, upstream]));

    let begun = run(&one, &["begin", "spring", "-f", &first, "-m", "spring prices"]);
    holds(&begun, 0, &["draft spring of ", "version 1, 2 objects"]);
    holds(&run(&two, &["list"]), 0, &["spring", "spring prices"]);
    holds(
        &run(&two, &["show", "spring"]),
        0,
        &["update route 1", "create upstream u", "1 created, 1 updated, 0 deleted"],
    );
    holds(&run(&two, &["publish", "spring"]), 0, &["1 created, 1 updated, 0 deleted", "nothing was done yet"]);

    // Somebody else changes what it is about: the draft is looked at again before it is published over that.
    one.put("/routes/1", &json!({ "uri": "/c", "plugins": {} })).await;
    holds(&run(&two, &["publish", "spring", "--yes"]), 4, &["nothing was changed"]);
    holds(&run(&two, &["show", "spring"]), 0, &["route 1: revision 1 was seen, it is revision 2 now"]);
    let body = json!({ "uri": "/b", "plugins": {} });
    let second = edits("second", json!([{ "op": "put", "kind": "route", "id": "1", "body": body }]));
    holds(&run(&two, &["edit", "spring", "-f", &second, "--draft-version", "9"]), 4, &[]);
    holds(&run(&two, &["edit", "spring", "-f", &second, "--draft-version", "1"]), 0, &["version 2"]);
    holds(&run(&one, &["publish", "spring", "--yes", "--draft-version", "1"]), 4, &[]);
    holds(&run(&one, &["publish", "spring", "--yes", "--draft-version", "2"]), 0, &["revision 3"]);
    holds(&cluster.operator(&two, &["config", "history"]), 0, &["spring prices"]);
    assert_eq!(two.get("/apisix/admin/routes/1").await.json().unwrap()["value"]["uri"], "/b");
    holds(&run(&two, &["show", "spring"]), 3, &[]);

    holds(&run(&one, &["begin", "autumn"]), 0, &["version 1, 0 objects"]);
    holds(&run(&two, &["discard", "autumn"]), 0, &["draft autumn discarded"]);
    holds(&run(&one, &["discard", "autumn"]), 3, &[]);
    tokio::task::spawn_blocking(move || (one.stop(), two.stop())).await.unwrap();
}
