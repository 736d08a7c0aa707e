//! Links to other systems.

use crate::gateway::{Gateway, KEY, VIEWER, on_both};
use http::Method;
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};

on_both!(links_come_and_go, links_that_are_none);

async fn send(gw: &Gateway, key: &str, method: Method, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Call::new(method, path).header("x-api-key", key).body(body).to(gw.address()).await.unwrap()
}

async fn links_come_and_go(gw: Gateway) {
    let link = json!({ "name": "Runbook", "url": "https://wiki.test/run?a=1#b", "description": "what to do" });
    let put = async |body: &Value| send(&gw, KEY, Method::PUT, "/api/links/runbook", body).await;
    let made = put(&link).await;
    let mut shown = link.clone();
    shown["id"] = json!("runbook");
    assert_eq!((made.status, made.json().unwrap()), (200, shown.clone()));
    let get = async |path: &str| send(&gw, VIEWER, Method::GET, path, &Value::Null).await.json().unwrap();
    assert_eq!(get("/api/links/runbook").await, shown);
    assert_eq!(get("/api/links").await, json!({ "list": [shown], "total": 1 }));
    assert_eq!(put(&json!({ "name": "Runbook", "url": "http://wiki.test" })).await.status, 200);
    assert_eq!(get("/api/links/runbook").await["description"], "");
    let delete = async || send(&gw, KEY, Method::DELETE, "/api/links/runbook", &Value::Null).await.status;
    assert_eq!((delete().await, delete().await), (204, 404));
    assert_eq!(get("/api/links/runbook").await["code"], "no_such_link");
    let audit = send(&gw, KEY, Method::GET, "/api/audit?kind=link", &Value::Null).await.json().unwrap();
    let actions: Vec<&str> =
        audit["list"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["delete", "update", "create"]);
}

async fn links_that_are_none(gw: Gateway) {
    let long = "x".repeat(3000);
    for (body, path) in [
        (json!({ "url": "https://a.test" }), "/name"),
        (json!({ "name": "n" }), "/url"),
        (json!({ "name": "n", "url": "javascript:alert(1)" }), "/url"),
        (json!({ "name": "n", "url": "https://wiki.example@elsewhere.example/" }), "/url"),
        (json!({ "name": "n", "url": "//a.test" }), "/url"),
        (json!({ "name": "n", "url": format!("https://a.test/{long}") }), "/url"),
        (json!({ "name": "n", "url": "https://a.test", "description": long }), "/description"),
    ] {
        let answer = send(&gw, KEY, Method::PUT, "/api/links/1", &body).await;
        assert_eq!((answer.status, answer.json().unwrap()["path"].as_str()), (400, Some(path)), "{body}");
    }
    let body = json!({ "name": "n", "url": "https://a.test" });
    assert_eq!(send(&gw, KEY, Method::PUT, "/api/links/a%20b", &body).await.json().unwrap()["code"], "invalid_id");
    assert_eq!(send(&gw, KEY, Method::GET, "/api/links", &Value::Null).await.json().unwrap()["total"], 0);
}
