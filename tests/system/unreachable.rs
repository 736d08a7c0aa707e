//! Routes whose upstream is not there (docs/spec/upstream-balancing.md §1, §5).

use milecastle_testkit::{Answer, Call, Echo, nowhere};
use milecastle_tests::Up;
use serde_json::{Value, json};

/// Checks the default error page.
fn is_page(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert!(answer.text().contains(&format!("<center><h1>{status} {reason}</h1></center>")), "{}", answer.text());
}

#[tokio::test]
async fn a_dead_node_is_502_with_the_status_of_each_try() {
    let (mut up, echo) = (Up::start(), Echo::start());
    up.process.announce("an upstream node gave no answer");
    let nodes = |nodes: &[&str]| -> Value { nodes.iter().map(|node| ((*node).to_owned(), json!(1))).collect() };
    let (one, two, live) = (nowhere().to_string(), nowhere().to_string(), echo.address().to_string());
    up.put("/routes/one", json!({ "uri": "/one", "upstream": { "nodes": nodes(&[&one]) } })).await;
    up.put("/routes/two", json!({ "uri": "/two", "upstream": { "nodes": nodes(&[&one, &two]) } })).await;
    up.put("/routes/half", json!({ "uri": "/half", "upstream": { "nodes": nodes(&[&one, &live]) } })).await;
    up.answers("/half", 200).await;
    let answer = up.get("/one").await;
    is_page(&answer, 502, "Bad Gateway");
    assert_eq!(answer.header("x-apisix-upstream-status"), "502");
    let answer = Call::post("/two", "body").to(up.http).await.unwrap();
    is_page(&answer, 502, "Bad Gateway");
    assert_eq!(answer.header("x-apisix-upstream-status"), "502, 502");
    for n in 0..10 {
        let call = if n % 2 == 0 { Call::get("/half") } else { Call::post("/half", "body") };
        assert_eq!(call.to(up.http).await.unwrap().status, 200);
    }
    drop(up.stop());
}

#[tokio::test]
async fn what_a_route_names_and_is_gone_is_told_by_the_status() {
    let (up, echo) = (Up::start(), Echo::start());
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    up.put("/upstreams/u", upstream.clone()).await;
    up.put("/services/s", json!({ "upstream_id": "u" })).await;
    up.put("/plugin_configs/p", json!({ "plugins": {} })).await;
    up.put("/routes/u", json!({ "uri": "/upstream", "upstream_id": "u" })).await;
    up.put("/routes/s", json!({ "uri": "/service", "service_id": "s" })).await;
    up.put("/routes/p", json!({ "uri": "/config", "plugin_config_id": "p", "upstream_id": "u" })).await;
    up.put("/routes/e", json!({ "uri": "/empty", "upstream": { "nodes": {} } })).await;
    up.put("/routes/n", json!({ "uri": "/nothing", "plugins": {} })).await;
    for target in ["/upstream", "/service", "/config"] {
        up.answers(target, 200).await;
    }
    assert_eq!(up.admin("DELETE", "/upstreams/u", None).await.status, 400, "it is in use");
    // The service's own upstream goes as well.
    for path in ["/upstreams/u", "/plugin_configs/p"] {
        assert_eq!(up.admin("DELETE", &format!("{path}?force=true"), None).await.status, 200);
    }
    up.answers("/config", 503).await;
    is_page(&up.get("/upstream").await, 502, "Bad Gateway");
    is_page(&up.get("/service").await, 502, "Bad Gateway");
    is_page(&up.get("/config").await, 503, "Service Unavailable");
    is_page(&up.get("/empty").await, 503, "Service Unavailable");
    is_page(&up.get("/nothing").await, 503, "Service Unavailable");
    assert_eq!(up.get("/upstream").await.header("x-apisix-upstream-status"), "", "no node was tried");
    assert_eq!(up.admin("DELETE", "/services/s?force=true", None).await.status, 200);
    up.answers("/service", 404).await;
    is_page(&up.get("/service").await, 404, "Not Found");
    // What comes back is in force again.
    up.put("/upstreams/u", upstream).await;
    up.answers("/upstream", 200).await;
    drop(up.stop());
}
