//! How new revisions of a gateway group go out: the policy, and a rollout where there is no node.

use crate::gateway::{Gateway, KEY, on_both};
use crate::metrics::{join, token};
use milecastle_model::Key;
use milecastle_store::{ChangeSet, DEFAULT_GROUP, Op, Put, Source};
use milecastle_testkit::{Call, SOON, eventually, wait_for};
use serde_json::{Value, json};

on_both!(
    a_policy_is_read_and_written,
    a_policy_that_is_none_is_refused_with_its_places,
    where_there_is_no_node_a_rollout_ends_by_itself,
    what_has_lived_its_time_is_not_brought_back,
    whoever_aborts_is_not_outrun_by_those_who_write,
    what_a_later_version_set_is_taken_back_all_the_same,
    an_abort_takes_the_right_to_rollouts_and_gives_no_other,
    what_waits_for_long_says_what_to_do,
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
    // By RFC 7396 an empty object changes nothing.
    let (status, same) = send(&gw, "PATCH", PATH, &json!({ "canaries": {} })).await;
    assert_eq!((status, &same["policy"]), (200, policy));
    assert_eq!(policy["canaries"], json!({ "percent": 10 }));
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

/// A rollout that stays where it is: there is a node that may be about to serve, and the policy means another one.
async fn waiting(gw: &Gateway, policy: Value) {
    token(gw).await;
    join(gw, "n").await;
    let mut all = json!({ "strategy": "canary", "canaries": { "nodes": ["nobody"] } });
    all.as_object_mut().unwrap().extend(policy.as_object().cloned().unwrap_or_default());
    assert_eq!(send(gw, "PUT", PATH, &all).await.0, 200);
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
}

async fn whoever_aborts_is_not_outrun_by_those_who_write(gw: Gateway) {
    waiting(&gw, json!({})).await;
    let writers: Vec<_> = (0..4)
        .map(|n: u8| {
            let address = gw.address();
            tokio::spawn(async move {
                for round in 0.. {
                    let body = json!({ "nodes": {}, "desc": round.to_string() }).to_string();
                    let path = format!("/apisix/admin/upstreams/w{n}");
                    let call = Call::new(http::Method::PUT, &path).header("x-api-key", KEY).body(body);
                    call.to(address).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..5 {
        eventually("a rollout is on", async || send(&gw, "GET", PATH, &Value::Null).await.1["state"] == "starting")
            .await;
        let (status, shown) = send(&gw, "POST", &format!("{PATH}/abort"), &Value::Null).await;
        assert_eq!((status, &shown["outcomes"][0]["end"]), (200, &json!("aborted")), "{shown}");
    }
    writers.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn what_a_later_version_set_is_taken_back_all_the_same(gw: Gateway) {
    waiting(&gw, json!({})).await;
    // Settings that nobody here knows, as a later replica would have stored them.
    let settings = Op::Put(Put::new(Key::group_settings(), r#"{"of_a_later_version":true}"#));
    gw.by().publish(DEFAULT_GROUP, ChangeSet::new(Source::Api, vec![settings])).await.unwrap();
    eventually("nothing can be judged by them", async || {
        gw.send(r#"PUT /upstreams/2 {"nodes":{}}"#).await.status == 503
    })
    .await;
    let (status, shown) = send(&gw, "POST", &format!("{PATH}/abort"), &Value::Null).await;
    assert_eq!((status, &shown["state"]), (200, &json!("idle")), "{shown}");
    let (status, shown) = send(&gw, "GET", "/api/gateway_groups/default/settings", &Value::Null).await;
    assert_eq!((status, &shown["settings"]), (200, &json!({})));
}

async fn an_abort_takes_the_right_to_rollouts_and_gives_no_other(gw: Gateway) {
    waiting(&gw, json!({})).await;
    let role = json!({ "name": "releases", "read": ["rollout"], "write": ["rollout"] });
    assert_eq!(send(&gw, "POST", "/api/roles", &role).await.0, 201);
    let token = json!({ "name": "t", "roles": [{ "role": "releases", "groups": ["default"] }] });
    let (status, made) = send(&gw, "POST", "/api/tokens", &token).await;
    assert_eq!(status, 201, "{made}");
    let as_releaser = async |method: &str, path: &str, body: &Value| {
        let call = Call::new(method.parse().unwrap(), path);
        let call = call.header("x-api-key", made["token"].as_str().unwrap()).body(body.to_string());
        let answer = call.to(gw.address()).await.unwrap();
        (answer.status, answer.json().unwrap_or_default())
    };
    // What the candidate made is gone, and what was before is as it was, to the byte. Nothing else can be written or read.
    let (status, shown) = as_releaser("POST", &format!("{PATH}/abort"), &Value::Null).await;
    assert_eq!((status, &shown["outcomes"][0]["by"]), (200, &json!("token/t")), "{shown}");
    assert_eq!(gw.send("GET /upstreams/1").await.status, 404);
    for (method, path, body) in [
        ("PUT", "/apisix/admin/upstreams/1", json!({ "nodes": {} })),
        ("GET", "/apisix/admin/upstreams", Value::Null),
        ("GET", "/api/gateway_groups/default/revisions", Value::Null),
        ("POST", "/api/gateway_groups/default/revisions/1/rollback", json!({})),
    ] {
        assert_eq!(as_releaser(method, path, &body).await.0, 403, "{method} {path}");
    }
}

async fn what_waits_for_long_says_what_to_do(gw: Gateway) {
    waiting(&gw, json!({ "stalled_after": "0s" })).await;
    let current = wait_for("it waits", SOON, async || {
        let current = send(&gw, "GET", PATH, &Value::Null).await.1["current"].clone();
        current["advice"].is_string().then_some(current)
    })
    .await;
    assert_eq!(current["waits_for"], "none of the nodes that are to be canaries is connected");
    let alarm = wait_for("the alarm is raised", SOON, async || {
        let alarms = send(&gw, "GET", "/api/alarms", &Value::Null).await.1;
        alarms["list"].as_array().unwrap().iter().find(|alarm| alarm["alarm"] == "rollout_stalled").cloned()
    })
    .await;
    assert_eq!(
        (&alarm["group"], &alarm["candidate"], &alarm["reason"]),
        (&json!("default"), &json!(1), &current["waits_for"])
    );
    assert_eq!(alarm["advice"], current["advice"]);
    // Given up, it is taken back, and the alarm with it.
    assert_eq!(send(&gw, "PATCH", PATH, &json!({ "give_up_after": "0s" })).await.0, 200);
    let end = wait_for("it is given up", SOON, async || {
        Some(send(&gw, "GET", PATH, &Value::Null).await.1["outcomes"][0].clone()).filter(|end| !end.is_null())
    })
    .await;
    assert_eq!((&end["end"], &end["by"]), (&json!("rolled_back"), &json!("rollout")));
    assert_eq!(gw.send("GET /upstreams/1").await.status, 404);
    eventually("the alarm is cleared", async || {
        let alarms = send(&gw, "GET", "/api/alarms", &Value::Null).await.1;
        alarms["list"].as_array().unwrap().iter().all(|alarm| alarm["alarm"] != "rollout_stalled")
    })
    .await;
}
