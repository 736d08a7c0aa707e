//! §5: envelopes and indices.

use crate::gateway::{Gateway, T, on_both};
use serde_json::json;

on_both!(
    s5_envelopes_of_each_operation,
    s5_absent_objects,
    s5_lists_without_children_are_404,
    s5_indices_are_revisions,
    s5_a_write_that_changes_nothing_makes_no_revision,
    s5_a_storage_failure_is_503,
);

const UPSTREAM: &str = r#"{"nodes":{"a:1":1}}"#;

async fn s5_envelopes_of_each_operation(gw: Gateway) {
    let value = json!({"id": "u", "nodes": {"a:1": 1}, "create_time": T, "update_time": T});
    let written = json!({"key": "/apisix/upstreams/u", "value": value});
    gw.check(&format!("PUT /upstreams/u {UPSTREAM}"), 201, written.clone()).await;
    gw.check(&format!("PUT /upstreams/u {UPSTREAM}"), 200, written).await;
    let shown = json!({"key": "/apisix/upstreams/u", "value": value, "createdIndex": 1, "modifiedIndex": 1});
    gw.check("GET /upstreams/u", 200, shown.clone()).await;
    gw.check("GET /upstreams", 200, json!({"total": 1, "list": [shown]})).await;
    gw.check("DELETE /upstreams/u", 200, json!({"key": "/apisix/upstreams/u", "deleted": "1"})).await;
    gw.check("GET /upstreams", 200, json!({"total": 0, "list": []})).await;
}

async fn s5_absent_objects(gw: Gateway) {
    let not_found = json!({"message": "Key not found"});
    for line in ["GET /routes/1", r#"PATCH /routes/1 {"a":1}"#, "DELETE /routes/1", "DELETE /consumers/a/credentials/b"]
    {
        gw.check(line, 404, not_found.clone()).await;
    }
    assert_eq!(gw.revision().await, 0);
}

async fn s5_lists_without_children_are_404(gw: Gateway) {
    let not_found = json!({"message": "Key not found"});
    gw.done(r#"PUT /consumers {"username":"jack"}"#).await;
    gw.check("GET /consumers/jack/credentials", 404, not_found.clone()).await;
    gw.check("GET /consumers/nobody/credentials", 404, not_found.clone()).await;
    gw.check("GET /services/1/graphql_cost_decorations", 404, not_found).await;
    gw.done(r#"PUT /consumers/jack/credentials/c {"plugins":{"key-auth":{"key":"k"}}}"#).await;
    assert_eq!(gw.send("GET /consumers/jack/credentials").await.json().unwrap()["total"], 1);
}

async fn s5_indices_are_revisions(gw: Gateway) {
    gw.done(&format!("PUT /upstreams/a {UPSTREAM}")).await;
    gw.done(&format!("PUT /upstreams/b {UPSTREAM}")).await;
    gw.done(r#"PUT /upstreams/a {"nodes":{"b:1":1}}"#).await;
    let indices = async |id: &str| {
        let shown = gw.send(&format!("GET /upstreams/{id}")).await.json().unwrap();
        (shown["createdIndex"].as_u64().unwrap(), shown["modifiedIndex"].as_u64().unwrap())
    };
    assert_eq!((indices("a").await, indices("b").await), ((1, 3), (2, 2)));
}

async fn s5_a_write_that_changes_nothing_makes_no_revision(gw: Gateway) {
    let created = gw.done(r#"PUT /routes/1 {"uri":"/a","plugins":{}}"#).await;
    gw.advance(100);
    for line in [
        r#"PUT /routes/1 {"uri":"/a","plugins":{}}"#,
        r#"PUT /routes/1 {"plugins":{},"uri":"/a","id":"1"}"#,
        r#"PATCH /routes/1 {"uri":"/a"}"#,
        r#"PATCH /routes/1/uri "/a""#,
        "PATCH /routes/1 {}",
    ] {
        assert_eq!(gw.done(line).await, created, "{line}");
    }
    assert_eq!(gw.revision().await, 1);
}

async fn s5_a_storage_failure_is_503(gw: Gateway) {
    gw.done(&format!("PUT /upstreams/u {UPSTREAM}")).await;
    gw.store.close().await;
    for line in
        [r#"PUT /upstreams/u {"nodes":{"b:1":1}}"#, "DELETE /upstreams/u", r#"PATCH /upstreams/u {"retries":1}"#]
    {
        let answer = gw.send(line).await;
        let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 503, "{line}: {text}");
        assert!(text.starts_with("the database is not available"), "{text}");
    }
    // Reads need no database.
    assert_eq!(gw.send("GET /upstreams/u").await.json().unwrap()["value"]["nodes"], json!({"a:1": 1}));
}
