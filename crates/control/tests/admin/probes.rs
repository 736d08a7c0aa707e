//! Addresses that are probed, and what was up and what was down.

use http::Method;
use milecastle_testkit::{Answer, Call, Echo, eventually};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::gateway::{Gateway, KEY, VIEWER, on_both};

on_both!(
    what_is_down_is_seen_on_every_replica_and_is_an_alarm,
    what_a_query_says_is_shown_nowhere,
    probes_that_are_none,
);

async fn send(gw: &Gateway, key: &str, method: Method, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Call::new(method, path).header("x-api-key", key).body(body).to(gw.address()).await.unwrap()
}

async fn got(gw: &Gateway, path: &str) -> Value {
    send(gw, VIEWER, Method::GET, path, &Value::Null).await.json().unwrap()
}

/// Names, states and words of what is known of a kind.
async fn states(gw: &Gateway, kind: &str) -> Vec<Value> {
    let found = got(gw, &format!("/api/availability?window=1h&kind={kind}")).await;
    let short = |one: &Value| json!([one["name"], one["state"], one["detail"]]);
    found["list"].as_array().unwrap().iter().map(short).collect()
}

/// What alarms say of what is down: of what, and which.
async fn alarms(gw: &Gateway) -> Vec<Value> {
    let raised = got(gw, "/api/alarms").await;
    let all = raised["list"].as_array().unwrap().iter().filter(|alarm| alarm["alarm"] == "unavailable");
    all.map(|alarm| json!([alarm["what"], alarm["name"]])).collect()
}

async fn what_is_down_is_seen_on_every_replica_and_is_an_alarm(gw: Gateway) {
    let (other, echo) = (gw.replica().await, Echo::start());
    let url = format!("http://{}/status", echo.address());
    let made = send(&gw, KEY, Method::PUT, "/api/probes/echo", &json!({ "name": "Echo", "url": url })).await;
    assert_eq!((made.status, made.json().unwrap()), (200, json!({ "id": "echo", "name": "Echo", "url": url })));
    // Nobody else gets its port, and nobody listens.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let gone = json!({ "url": format!("tcp://{}", closed.local_addr().unwrap()) });
    assert_eq!(send(&gw, KEY, Method::PUT, "/api/probes/gone", &gone).await.status, 200);
    let expected = [json!(["echo", "up", "status 200"]), json!(["gone", "down", "no connection"])];
    for replica in [&gw, &other] {
        eventually("both probes are known", async || states(replica, "probe").await == expected).await;
        eventually("the cluster", async || states(replica, "cluster").await == [json!(["", "up", "up"])]).await;
        eventually("a replica", async || states(replica, "member").await.iter().all(|one| one[1] == "up")).await;
        eventually("alarms", async || alarms(replica).await == [json!(["probe", "gone"])]).await;
    }
    eventually("a share of the time", async || {
        let found = got(&other, "/api/availability?kind=probe").await;
        let shares = [0, 1].map(|place| found["list"][place]["percent"].as_f64());
        shares == [Some(100.0), Some(0.0)] && found["list"][1]["outages_total"] == 1
    })
    .await;
    assert_eq!(send(&gw, KEY, Method::DELETE, "/api/probes/gone", &Value::Null).await.status, 204);
    eventually("the alarm is cleared", async || alarms(&other).await.is_empty()).await;
    assert_eq!(got(&gw, "/api/probes").await["total"], 1);
}

async fn what_a_query_says_is_shown_nowhere(gw: Gateway) {
    let echo = Echo::start();
    let at = |query: &str| format!("http://{}/status?{query}", echo.address());
    let put = async |url: &str, status: u16| {
        let answer = send(&gw, KEY, Method::PUT, "/api/probes/echo", &json!({ "name": "Echo", "url": url })).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        answer.json().unwrap()["url"].clone()
    };
    let masked = at("token=******&v=******");
    let shown = json!(masked);
    assert_eq!(put(&at("token=canary-one&v=1"), 200).await, shown);
    eventually("it is asked", async || states(&gw, "probe").await == [json!(["echo", "up", "status 200"])]).await;
    // As it is shown it stands for what is stored, and for nothing else.
    assert_eq!(put(&masked, 200).await, shown);
    assert_eq!(gw.store.probe_get("echo").await.unwrap().unwrap().url, at("token=canary-one&v=1"));
    put(&at("token=******"), 400).await;
    assert_eq!(put(&at("token=canary-two&v=1"), 200).await, shown);
    assert_eq!(got(&gw, "/api/probes/echo").await["url"], shown);
    let log = send(&gw, KEY, Method::GET, "/api/audit?kind=probe", &Value::Null).await.json().unwrap();
    let entries = log["list"].as_array().unwrap();
    let changed = format!("{} (changed)", shown.as_str().unwrap());
    assert_eq!((entries.len(), &entries[0]["after"]["url"]), (2, &json!(changed)));
    for path in ["/api/probes", "/api/audit", "/api/availability", "/api/alarms"] {
        let answer = send(&gw, KEY, Method::GET, path, &Value::Null).await;
        assert!(answer.status == 200 && !answer.text().contains("canary"), "{path}: {}", answer.text());
    }
}

async fn probes_that_are_none(gw: Gateway) {
    for (body, path) in [
        (json!({}), "/url"),
        (json!({ "url": "https://a.test/" }), "/url"),
        (json!({ "url": "http://user:pass@a.test/" }), "/url"),
        (json!({ "url": "file:///etc/passwd" }), "/url"),
        (json!({ "url": "tcp://a.test" }), "/url"),
        (json!({ "url": "http://a.test/", "name": "x".repeat(200) }), "/name"),
    ] {
        let answer = send(&gw, KEY, Method::PUT, "/api/probes/1", &body).await;
        assert_eq!((answer.status, answer.json().unwrap()["path"].as_str()), (400, Some(path)), "{body}");
    }
    let put = async |id: &str| {
        send(&gw, KEY, Method::PUT, &format!("/api/probes/{id}"), &json!({ "url": "tcp://a.test:1" })).await
    };
    assert_eq!(put("a%20b").await.json().unwrap()["code"], "invalid_id");
    let statuses = [put("1").await.status, put("2").await.status, put("3").await.status];
    assert_eq!(statuses, [200, 200, 409], "no more than the settings of this test allow");
    assert_eq!(
        send(&gw, KEY, Method::DELETE, "/api/probes/9", &Value::Null).await.json().unwrap()["code"],
        "no_such_probe"
    );
    for wrong in ["window=2h", "kind=pod"] {
        let answer = send(&gw, KEY, Method::GET, &format!("/api/availability?{wrong}"), &Value::Null).await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
}
