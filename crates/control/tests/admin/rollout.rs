//! How new revisions of a gateway group go out: the policy, and a rollout where there is no node.

use crate::gateway::{Gateway, KEY, on_both};
use crate::metrics::{join, token};
use milecastle_testkit::{Call, SOON, eventually, wait_for};
use serde_json::{Value, json};

on_both!(
    a_policy_is_read_and_written,
    a_policy_that_is_none_is_refused_with_its_places,
    where_there_is_no_node_a_rollout_ends_by_itself,
    what_has_lived_its_time_is_not_brought_back,
);

const PATH: &str = "/api/gateway_groups/default/rollout";

async fn send(gw: &Gateway, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let call = Call::new(method.parse().unwrap(), path).header("x-api-key", KEY).body(body.to_string());
    let answer = call.to(gw.address()).await.unwrap();
    (answer.status, answer.json().unwrap_or_default())
}

async fn a_policy_is_read_and_written(gw: Gateway) {
    let (status, first) = send(&gw, "GET", PATH, &Value::Null).await;
    assert_eq!((status, &first["policy"]["strategy"], &first["state"]), (200, &json!("all"), &json!("idle")));
    assert_eq!((&first["current"], &first["outcomes"]), (&Value::Null, &json!([])));
    let given = json!({ "strategy": "canary", "soak": "5m", "canaries": { "percent": 10 } });
    let (_, put) = send(&gw, "PUT", PATH, &given).await;
    assert_eq!(put["policy"]["canaries"], json!({ "percent": 10 }));
    let (_, patched) = send(&gw, "PATCH", PATH, &json!({ "soak": null, "min_requests": 7 })).await;
    let policy = &patched["policy"];
    assert_eq!(
        (&policy["strategy"], &policy["soak"], &policy["min_requests"]),
        (&json!("canary"), &json!("1m"), &json!(7))
    );
    let replica = gw.replica().await;
    assert_eq!(&send(&replica, "GET", PATH, &Value::Null).await.1["policy"], policy);
    for hand in ["pause", "resume", "promote", "abort"] {
        let (status, refused) = send(&gw, "POST", &format!("{PATH}/{hand}"), &Value::Null).await;
        assert_eq!((status, &refused["code"]), (409, &json!("no_rollout")), "{hand}");
    }
    assert_eq!(gw.revision().await, 0, "a policy is no configuration");
}

async fn a_policy_that_is_none_is_refused_with_its_places(gw: Gateway) {
    let bad = json!({ "max_5xx_rise": 101, "canaries": { "count": 0 } });
    let (status, refused) = send(&gw, "PUT", PATH, &bad).await;
    let places: Vec<&Value> = refused["faults"].as_array().unwrap().iter().map(|fault| &fault["path"]).collect();
    assert_eq!((status, &refused["code"], &refused["path"]), (400, &json!("invalid_policy"), &json!("/max_5xx_rise")));
    assert_eq!(places, ["/max_5xx_rise", "/canaries/count"]);
    for unknown in [
        json!({ "sock": "1s" }),
        json!({ "strategy": "some" }),
        json!({ "soak": "soon" }),
        json!({ "canaries": [] }),
        json!([]),
    ] {
        assert_eq!(send(&gw, "PUT", PATH, &unknown).await.0, 400, "{unknown}");
    }
    assert_eq!(send(&gw, "GET", PATH, &Value::Null).await.1["policy"]["strategy"], "all");
}

async fn where_there_is_no_node_a_rollout_ends_by_itself(gw: Gateway) {
    assert_eq!(send(&gw, "PUT", PATH, &json!({ "strategy": "canary" })).await.0, 200);
    let (status, _) = send(&gw, "PUT", "/apisix/admin/upstreams/1", &json!({ "nodes": {} })).await;
    assert_eq!(status, 201);
    let outcome = wait_for("the rollout ends", SOON, async || {
        let shown = send(&gw, "GET", PATH, &Value::Null).await.1;
        (shown["state"] == "idle").then(|| shown["outcomes"][0].clone()).filter(|outcome| !outcome.is_null())
    })
    .await;
    assert_eq!(
        (&outcome["end"], &outcome["base"], &outcome["candidate"], &outcome["by"]),
        (&json!("promoted"), &json!(0), &json!(1), &json!("rollout"))
    );
}

async fn what_has_lived_its_time_is_not_brought_back(gw: Gateway) {
    // A node that may be about to serve, and is no canary: nothing goes on by itself.
    token(&gw).await;
    join(&gw, "n").await;
    gw.done(r#"PUT /upstreams/1?ttl=60 {"nodes":{}}"#).await;
    let policy = json!({ "strategy": "canary", "canaries": { "nodes": ["nobody"] } });
    assert_eq!(send(&gw, "PUT", PATH, &policy).await.0, 200);
    gw.advance(61);
    let status = async |id: u8| gw.send(&format!("GET /upstreams/{id}")).await.status;
    eventually("its life has ended", async || status(1).await == 404).await;
    gw.done(r#"PUT /upstreams/2 {"nodes":{}}"#).await;
    let (aborted, shown) = send(&gw, "POST", &format!("{PATH}/abort"), &Value::Null).await;
    assert_eq!((aborted, &shown["state"]), (200, &json!("idle")), "{shown}");
    assert_eq!((status(1).await, status(2).await), (404, 404));
}
