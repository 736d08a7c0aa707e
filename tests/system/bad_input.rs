//! Input that the Admin API refuses: nothing is stored, no revision is made.

use milecastle_testkit::Call;
use milecastle_tests::{ADMIN_KEY, Up};
use serde_json::{Value, json};

/// Index of the newest revision, as seen on an object written for the purpose.
async fn next_revision(up: &Up) -> u64 {
    let answer = up.admin("POST", "/upstreams", Some(&json!({ "nodes": {} }))).await;
    let id = answer.json().unwrap()["value"]["id"].as_str().unwrap().to_owned();
    id.trim_start_matches('0').parse().unwrap()
}

#[tokio::test]
async fn refused_writes_store_nothing_and_make_no_revision() {
    let up = Up::start();
    up.put("/consumers/amy", json!({ "username": "amy", "plugins": { "key-auth": { "key": "taken" } } })).await;
    let before = next_revision(&up).await;
    let upstream = json!({ "nodes": { "127.0.0.1:1": 1 } });
    let refused = [
        (
            "/routes/1",
            json!({ "uri": 123, "upstream": upstream }),
            "invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number",
        ),
        (
            "/routes/1",
            json!({ "uri": "/a", "nope": 1, "upstream": upstream }),
            "invalid configuration: additional properties forbidden, found nope",
        ),
        ("/routes/1", json!({ "uri": "/a", "plugins": { "nope": {} } }), "unknown plugin [nope]"),
        ("/routes/1", json!({ "uri": "/a", "plugins": { "limit-count": { "count": 0, "time_window": 1 } } }), ""),
        (
            "/routes/1",
            json!({ "uri": "/a", "plugins": { "limit-count": { "count": 1, "time_window": 1, "policy": "redis-cluster", "redis_cluster_name": "c", "redis_cluster_nodes": ["127.0.0.1:1"] } } }),
            "",
        ),
        (
            "/routes/1",
            json!({ "uri": "/a", "upstream_id": "9" }),
            "failed to fetch upstream info by upstream id [9], response code: 404",
        ),
        (
            "/routes/1",
            json!({ "uri": "/a", "service_id": "9" }),
            "failed to fetch service info by service id [9], response code: 404",
        ),
        ("/routes/bad!id", json!({ "uri": "/a", "upstream": upstream }), ""),
        (
            "/consumers/bob",
            json!({ "username": "bob", "plugins": { "key-auth": { "key": "taken" } } }),
            "duplicate key of plugin key-auth found with consumer: amy",
        ),
        ("/ssls/1", json!({ "sni": "a.test", "cert": "x".repeat(128), "key": "y".repeat(64) }), ""),
    ];
    for (path, body, message) in &refused {
        let answer = up.admin("PUT", path, Some(body)).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
        let said = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
        assert!(!said.is_empty() && (message.is_empty() || said == *message), "{path} {body}: {said}");
    }
    let raw = |body: Vec<u8>, key: &'static str| {
        Call::new("PUT".parse().unwrap(), "/apisix/admin/routes/1").header("X-API-KEY", key).body(body).to(up.admin)
    };
    assert_eq!(raw(b"{\"uri\":".to_vec(), ADMIN_KEY).await.unwrap().status, 400);
    let large = raw(vec![b' '; 2 << 20], ADMIN_KEY).await.unwrap();
    assert_eq!(large.status, 400);
    assert!(large.text().contains("is greater than the maximum size 1572864 allowed"), "{}", large.text());
    let wrong = raw(b"{}".to_vec(), "wrong").await.unwrap();
    assert_eq!(wrong.status, 401);
    let said: Value = wrong.json().unwrap();
    assert_eq!(said["description"], "wrong apikey");
    assert_eq!(next_revision(&up).await, before + 1, "a refused write made a revision");
    assert_eq!(up.admin("GET", "/routes", None).await.json().unwrap(), json!({ "list": [], "total": 0 }));
}
