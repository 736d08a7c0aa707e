//! Requests that wait for nodes, and what they leave to others.

use crate::gateway::{Gateway, KEY, VIEWER, on_both};
use http::Method;
use milecastle_settings::Dashboard;
use milecastle_store::DEFAULT_GROUP;
use milecastle_testkit::{Answer, Call, eventually};
use serde_json::json;
use tokio::task::JoinHandle;

on_both!(a_key_has_so_many_places_to_wait_in);

const RECEIPT: &str = "/api/gateway_groups/default/revisions/head/receipt";

fn ask(key: &str, wait: &str) -> Call {
    Call::new(Method::GET, &format!("{RECEIPT}?wait={wait}")).header("x-api-key", key)
}

async fn status(gw: &Gateway, key: &str) -> u16 {
    ask(key, "1ms").to(gw.address()).await.unwrap().status
}

fn wait(gw: &Gateway, key: &str) -> JoinHandle<Answer> {
    let call = ask(key, "30s").to(gw.address());
    tokio::spawn(async move { call.await.unwrap() })
}

async fn a_key_has_so_many_places_to_wait_in(gw: Gateway) {
    let gw = gw
        .with_settings(|settings: &mut Dashboard| {
            (settings.admin.max_waits, settings.admin.max_waits_of_a_key) = (3, 2);
        })
        .await;
    // A node that does not take what it is sent.
    let behind = json!([{ "lineage": null, "revision": 0, "quarantine": false, "refused": null, "nodes": 1 }]);
    gw.store.receipt_put(DEFAULT_GROUP, gw.member(), &behind).await.unwrap();
    let first = wait(&gw, KEY);
    let _second = wait(&gw, KEY);
    eventually("the key has no place left", async || status(&gw, KEY).await == 429).await;

    let refused = gw.send(r#"PUT /upstreams/1?wait=30s {"nodes":{}}"#).await;
    assert_eq!((refused.status, &*refused.header("retry-after")), (429, "1"));
    assert!(refused.text().contains("of the key `admin`") && refused.text().contains("nothing was done"));
    assert_eq!(gw.revision().await, 0, "what was refused is not written");
    // Who does not wait is served, and who has another key may wait.
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    let _third = wait(&gw, VIEWER);
    eventually("nobody has a place left", async || status(&gw, VIEWER).await == 503).await;
    let refused = ask(VIEWER, "30s").to(gw.address()).await.unwrap();
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.json().unwrap()["code"], "too_many_wait");
    gw.done("GET /upstreams/1").await;

    // Whoever leaves makes room.
    first.abort();
    eventually("there is a place again", async || status(&gw, KEY).await == 200).await;
}
