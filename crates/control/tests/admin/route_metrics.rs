//! Charts of routes, and the routes with most of something.

use http::Method;
use milecastle_store::RouteSample;
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};

use crate::gateway::{Gateway, KEY, VIEWER, on_both};

on_both!(every_replica_draws_the_same_of_routes, routes_of_other_groups_are_not_seen, what_cannot_be_drawn);

/// Steps for charts of up to an hour, in seconds.
const STEP: u64 = 30;

/// Good answers of the upstream, and as many failures of it, within 10 ms or above all bounds.
fn counted(good: u64, failed: u64, targets: (u64, u64)) -> Value {
    let mut times = [0; 16];
    (times[3], times[15]) = (good, failed);
    json!({
        "responses": [0, good, 0, 0, failed], "upstream_5xx": failed, "times": times,
        "upstream_targets": targets.0, "unhealthy_targets": targets.1,
    })
}

/// What a node told a member in the step that ends then.
async fn sampled(gw: &Gateway, at: u64, group: &str, member: &str, routes: Value) {
    let (group, member) = (group.to_owned(), member.to_owned());
    let sample = RouteSample { span: STEP, at, group, member, nodes: 1, covered_ms: STEP * 1000, routes };
    gw.store.route_sample_put(&[sample]).await.unwrap();
}

async fn get(gw: &Gateway, key: &str, path: &str) -> Answer {
    Call::new(Method::GET, path).header("x-api-key", key).to(gw.address()).await.unwrap()
}

async fn got(gw: &Gateway, path: &str) -> Value {
    let answer = get(gw, VIEWER, path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json().unwrap()
}

/// A step that is over, with some of the last quarter of an hour before and after it.
fn middle(gw: &Gateway) -> u64 {
    gw.store.now() / STEP * STEP - 4 * STEP
}

async fn every_replica_draws_the_same_of_routes(gw: Gateway) {
    let other = gw.replica().await;
    let first = middle(&gw);
    let calm = json!({ "a": counted(60, 0, (2, 0)), "b": counted(0, 30, (1, 1)) });
    sampled(&gw, first, "default", "m1", calm).await;
    sampled(&gw, first, "default", "m2", json!({ "a": counted(30, 0, (2, 1)), "(unmatched)": counted(0, 0, (0, 0)) }))
        .await;
    sampled(
        &gw,
        first + STEP,
        "default",
        "m1",
        json!({ "b": counted(30, 0, (1, 1)), "(other)": counted(3, 0, (0, 0)) }),
    )
    .await;
    for replica in [&gw, &other] {
        let chart = got(replica, "/api/metrics/routes?window=15m&group=default&route=a").await;
        let place = chart["at"].as_array().unwrap().iter().position(|at| *at == json!(first)).unwrap();
        let [line] = &chart["series"].as_array().unwrap()[..] else { panic!("one line: {chart}") };
        let of = |figure: &str| line.pointer(figure).unwrap().as_array().unwrap()[place - 1..=place + 1].to_vec();
        assert_eq!((&line["group"], &line["node"], &line["route"]), (&json!("default"), &Value::Null, &json!("a")));
        // Then it may be among the others.
        assert_eq!(of("/nodes"), [0, 2, 0].map(Value::from));
        assert_eq!(of("/requests"), [Value::Null, json!(3.0), Value::Null]);
        assert_eq!(of("/responses/5xx"), [Value::Null, json!(0.0), Value::Null]);
        assert_eq!(of("/p99_ms"), [Value::Null, json!(10), Value::Null]);
        assert_eq!(of("/upstream_targets"), [Value::Null, json!(4), Value::Null]);
        assert_eq!(of("/unhealthy_targets"), [Value::Null, json!(1), Value::Null]);
        assert_eq!(of("/connections"), [Value::Null, Value::Null, Value::Null]);
        let all = got(replica, "/api/metrics/routes").await;
        let names: Vec<_> = all["series"].as_array().unwrap().iter().map(|line| &line["route"]).collect();
        assert_eq!(names, ["(other)", "(unmatched)", "a", "b"]);

        let order = async |query: &str| {
            let found = got(replica, &format!("/api/metrics/top_routes?{query}")).await;
            let names =
                found["list"].as_array().unwrap().iter().map(|route| route["route"].as_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(order("").await, ["a", "b", "(other)", "(unmatched)"]);
        assert_eq!(order("sort=errors&limit=1").await, ["b"]);
        assert_eq!(order("sort=p99&limit=2").await, ["b", "a"]);
        let worst = got(replica, "/api/metrics/top_routes?sort=errors&limit=1&group=default&window=1h").await;
        let expected = json!({
            "group": "default", "route": "b", "requests": 60, "responses": [0, 30, 0, 0, 30], "errors": 30,
            "errors_upstream": 30, "p50_ms": 10, "p95_ms": 60_000, "p99_ms": 60_000,
            "upstream_targets": 1, "unhealthy_targets": 1,
        });
        assert_eq!(worst, json!({ "list": [expected], "total": 1 }));
    }
}

async fn routes_of_other_groups_are_not_seen(gw: Gateway) {
    let post = async |path: &str, body: Value| {
        let call = Call::new(Method::POST, path).header("x-api-key", KEY).body(body.to_string());
        let answer = call.to(gw.address()).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json().unwrap()
    };
    post("/api/gateway_groups", json!({ "id": "prod" })).await;
    let role = json!([{ "role": "viewer", "groups": ["prod"] }]);
    let token = post("/api/tokens", json!({ "name": "t", "roles": role })).await["token"].as_str().unwrap().to_owned();
    for group in ["default", "prod"] {
        sampled(&gw, middle(&gw), group, "m", json!({ "a": counted(1, 0, (0, 0)) })).await;
    }
    for (path, list) in [("/api/metrics/routes", "series"), ("/api/metrics/top_routes", "list")] {
        let groups = async |key: &str| {
            let found = get(&gw, key, path).await.json().unwrap();
            let groups = found[list].as_array().unwrap().iter().map(|line| line["group"].as_str().unwrap().to_owned());
            groups.collect::<Vec<_>>()
        };
        assert_eq!(groups(&token).await, ["prod"]);
        assert_eq!(groups(KEY).await, ["default", "prod"]);
        assert_eq!(get(&gw, &token, &format!("{path}?group=prod")).await.status, 200);
        assert_eq!(get(&gw, &token, &format!("{path}?group=default")).await.status, 403);
        // Nobody learns which groups there are.
        assert_eq!(get(&gw, &token, &format!("{path}?group=none")).await.status, 403);
    }
}

async fn what_cannot_be_drawn(gw: Gateway) {
    for wrong in [
        "/routes?window=2h",
        "/routes?step=7",
        "/top_routes?sort=name",
        "/top_routes?limit=0",
        "/top_routes?limit=501",
        // What would be drawn is of all nodes, and of all routes.
        "/routes?route=a&node=n",
        "/top_routes?node=n",
        "?node=n&route=a",
    ] {
        let answer = get(&gw, KEY, &format!("/api/metrics{wrong}")).await;
        assert_eq!((answer.status, &answer.json().unwrap()["code"]), (400, &json!("invalid_argument")), "{wrong}");
    }
    let many: serde_json::Map<String, Value> = (0..501).map(|n| (format!("r{n}"), counted(1, 0, (0, 0)))).collect();
    sampled(&gw, middle(&gw), "default", "m", Value::Object(many)).await;
    let answer = get(&gw, KEY, "/api/metrics/routes").await;
    assert!(answer.status == 400 && answer.text().contains("more than 500 routes"), "{}", answer.text());
    assert_eq!(got(&gw, "/api/metrics/top_routes?limit=500").await["total"], 500);
    assert_eq!(got(&gw, "/api/metrics/routes?route=r7").await["series"].as_array().unwrap().len(), 1);
}
