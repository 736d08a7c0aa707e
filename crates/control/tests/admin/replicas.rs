//! Several dashboards on one database.

use crate::gateway::{Gateway, KEY, T};
use http::Method;
use milecastle_settings::Time;
use milecastle_testkit::postgres::Cluster;
use milecastle_testkit::{Call, eventually};
use serde_json::{Value, json};

/// Sends a line until the answer is not the one that a lost race gets; gives how often it was lost.
async fn insist(gw: &Gateway, line: &str) -> u32 {
    let mut lost = 0;
    loop {
        let answer = gw.send(line).await;
        match answer.status {
            200 | 201 => return lost,
            503 => {
                assert_eq!(answer.json().unwrap(), json!({"error_msg": "value changed before overwritten"}));
                lost += 1;
            }
            other => panic!("{line}: {other} {}", answer.text()),
        }
    }
}

#[tokio::test]
async fn parallel_patches_from_two_replicas_lose_no_write() {
    const EACH: usize = 20;
    let one = Gateway::postgres().await;
    let two = one.replica().await;
    one.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    let write = async |gw: &Gateway, who: &str| {
        for n in 0..EACH {
            insist(gw, &format!(r#"PATCH /upstreams/1 {{"labels":{{"{who}{n}":"x"}}}}"#)).await;
        }
    };
    tokio::join!(write(&one, "a"), write(&one, "b"), write(&two, "c"), write(&two, "d"));
    let stored: Value = serde_json::from_slice(&one.store.load("default").await.unwrap().objects[0].body).unwrap();
    assert_eq!(stored["labels"].as_object().unwrap().len(), 4 * EACH);
    // Every write that was answered with success is a revision of its own.
    assert_eq!(one.revision().await, 1 + 4 * EACH as u64);
}

#[tokio::test]
async fn parallel_puts_are_never_refused() {
    let one = Gateway::postgres().await;
    let two = one.replica().await;
    let write = async |gw: &Gateway, who: &str| {
        for n in 0..20 {
            let line = format!(r#"PUT /upstreams/1 {{"nodes":{{}},"desc":"{who}{n}"}}"#);
            assert!(matches!(gw.send(&line).await.status, 200 | 201));
        }
    };
    tokio::join!(write(&one, "a"), write(&two, "b"));
    assert_eq!(one.revision().await, 40);
}

#[tokio::test]
async fn a_patch_that_loses_the_race_is_told_so() {
    let one = Gateway::postgres().await;
    one.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    let lines: Vec<String> = (0..24).map(|n| format!(r#"PATCH /upstreams/1 {{"retries":{n}}}"#)).collect();
    let answers = futures_util::future::join_all(lines.iter().map(|line| one.send(line))).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count() as u64;
    let lost = answers.iter().filter(|answer| answer.status == 503).count() as u64;
    assert_eq!((won + lost, one.revision().await), (24, 1 + won));
    assert!(lost > 0, "two dozen at once, and none of them met another");
}

#[tokio::test]
async fn what_one_replica_has_answered_is_read_from_another_at_once() {
    let one = Gateway::postgres().await;
    let two = one.replica_with(|settings| settings.admin.max_read_wait = Time::secs(60)).await;
    for n in 0..50 {
        one.done(&format!(r#"PUT /upstreams/1 {{"nodes":{{}},"desc":"{n}"}}"#)).await;
        // Readers that come at once ask the database together.
        let readers = ["GET /upstreams/1", "GET /upstreams"].map(|line| two.send(line));
        for answer in futures_util::future::join_all(readers).await {
            assert!(answer.text().contains(&format!(r#""desc":"{n}""#)), "{n}: {}", answer.text());
        }
        one.done("DELETE /upstreams/1").await;
        assert_eq!(two.send("GET /upstreams/1").await.status, 404, "{n}");
    }
}

#[tokio::test]
async fn a_replica_hears_of_the_others_writes() {
    let one = Gateway::postgres().await;
    let two = one.replica().await;
    one.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    eventually("the other replica shows it", async || two.send("GET /upstreams/1").await.status == 200).await;
    two.done("DELETE /upstreams/1").await;
    eventually("and that it is gone", async || one.send("GET /upstreams/1").await.status == 404).await;
}

#[tokio::test]
async fn a_group_that_one_replica_has_deleted_is_read_from_no_other() {
    let one = Gateway::postgres().await;
    let two = one.replica_with(|settings| settings.admin.max_read_wait = Time::secs(60)).await;
    let call = async |gw: &Gateway, method: Method, path: &str, body: &str| {
        let call = Call::new(method, path).header("x-api-key", KEY).body(body.to_owned());
        call.to(gw.address()).await.unwrap().status
    };
    for _ in 0..10 {
        assert_eq!(call(&one, Method::POST, "/api/gateway_groups", r#"{"id":"prod"}"#).await, 201);
        one.done(r#"PUT /upstreams/1?gateway_group_id=prod {"nodes":{}}"#).await;
        assert_eq!(two.send("GET /upstreams/1?gateway_group_id=prod").await.status, 200);
        assert_eq!(call(&one, Method::DELETE, "/api/gateway_groups/prod?force=true", "").await, 204);
        for line in ["GET /upstreams/1?gateway_group_id=prod", "GET /upstreams?gateway_group_id=prod"] {
            let gone = json!({ "error_msg": "gateway group [prod] not found" });
            two.check(line, 404, gone).await;
        }
        for path in ["", "/settings", "/export", "/revisions/head/objects", "/drafts", "/nodes"] {
            let status = call(&two, Method::GET, &format!("/api/gateway_groups/prod{path}"), "").await;
            assert_eq!(status, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn writes_are_judged_by_what_other_replicas_wrote_a_moment_ago() {
    let one = Gateway::postgres().await;
    let two = one.replica().await;
    // Each step follows the one before at once, on the other replica, whose memory may still be behind.
    for n in 0..10 {
        one.done(&format!(r#"PUT /upstreams/{n} {{"nodes":{{}}}}"#)).await;
        two.done(&format!(r#"PUT /routes/{n} {{"uri":"/a","upstream_id":"{n}"}}"#)).await;
        one.done(&format!(r#"PATCH /routes/{n} {{"priority":1}}"#)).await;
        let used = format!("can not delete this upstream, route [{n}] is still using it now");
        two.refused(&format!("DELETE /upstreams/{n}"), 400, &used).await;
        one.done(&format!("DELETE /routes/{n}")).await;
        two.done(&format!("DELETE /upstreams/{n}")).await;
        one.done(&format!(r#"PUT /consumers {{"username":"c{n}","plugins":{{"key-auth":{{"key":"{n}"}}}}}}"#)).await;
        let line = format!(r#"PUT /consumers/c{n}/credentials/x {{"plugins":{{"key-auth":{{"key":"{n}"}}}}}}"#);
        two.refused(&line, 400, &format!("duplicate key of plugin key-auth found with consumer: c{n}")).await;
        one.done(&format!(r#"PUT /consumers {{"username":"c{n}"}}"#)).await;
        two.done(&line).await;
    }
}

#[tokio::test]
async fn a_change_of_certificate_type_meets_its_use_in_the_transaction() {
    let one = Gateway::postgres().await;
    let two = one.replica().await;
    let identity = milecastle_testkit::tls::Authority::new("tests").issue(&["a.example"]);
    let ssl = |kind: &str| json!({"type": kind, "sni": "a.example", "cert": identity.cert, "key": identity.key});
    let wrong = "failed to fetch ssl info by ssl id [1], wrong ssl type";
    let line = r#"PUT /upstreams/1 {"nodes":{},"tls":{"client_cert_id":"1"}}"#;
    for _ in 0..5 {
        one.done(&format!("PUT /ssls/1 {}", ssl("server"))).await;
        two.refused(line, 400, wrong).await;
        one.done(&format!("PUT /ssls/1 {}", ssl("client"))).await;
        two.done(line).await;
        two.done("DELETE /upstreams/1").await;
    }
}

#[tokio::test]
async fn an_outage_of_the_database_refuses_writes_and_leaves_reads() {
    let mut cluster = Cluster::start().unwrap();
    let gw = Gateway::on_cluster(&cluster).await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    cluster.stop().unwrap();
    for line in [r#"PUT /upstreams/2 {"nodes":{}}"#, r#"PATCH /upstreams/1 {"retries":1}"#, "DELETE /upstreams/1"] {
        let answer = gw.send(line).await;
        let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
        assert!(answer.status == 503 && text.starts_with("the database is not available"), "{} {text}", answer.status);
    }
    assert_eq!(gw.send("GET /upstreams/1").await.status, 200);
    assert_eq!(gw.send("GET /upstreams/2").await.status, 404);
    cluster.resume().unwrap();
    eventually("writes go through again", async || {
        matches!(gw.send(r#"PUT /upstreams/2 {"nodes":{}}"#).await.status, 200 | 201)
    })
    .await;
    let ids: Vec<_> = gw.store.load("default").await.unwrap().objects.into_iter().map(|o| o.key.to_string()).collect();
    assert_eq!(ids, ["/upstreams/1", "/upstreams/2"]);
    assert_eq!(gw.send("GET /upstreams/2").await.status, 200);
}

#[tokio::test]
async fn the_order_of_creation_holds_across_replicas() {
    let one = Gateway::postgres().await;
    let two = one.replica().await;
    for (gw, id) in [(&one, "c"), (&two, "a"), (&one, "b")] {
        gw.done(&format!(r#"PUT /upstreams/{id} {{"nodes":{{}}}}"#)).await;
    }
    let shown = one.send("GET /upstreams?page=1&page_size=10").await.json().unwrap();
    let ids: Vec<&str> =
        shown["list"].as_array().unwrap().iter().map(|item| item["value"]["id"].as_str().unwrap()).collect();
    assert_eq!((ids, &shown["list"][0]["value"]["create_time"]), (vec!["c", "a", "b"], &json!(T)));
}
