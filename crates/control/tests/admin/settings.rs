//! Settings of gateway groups: what they decide about writes, here and on other replicas.

use crate::gateway::{Gateway, KEY, VIEWER, on_both};
use crate::s07_stored::hex;
use milecastle_model::{Change, Key};
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

on_both!(
    settings_are_read_and_written,
    settings_that_are_none_are_refused_with_their_places,
    only_enabled_plugins_are_accepted_and_each_group_has_its_own,
    a_plugin_in_use_is_not_disabled_unless_forced,
    stream_routes_are_a_matter_of_the_settings,
    settings_are_no_resource_of_the_admin_api,
    secrets_of_registries_are_sealed_masked_and_kept,
);

const PATH: &str = "/api/gateway_groups/default/settings";

fn call(method: &str, path: &str, body: &str) -> Call {
    Call::new(method.parse().unwrap(), path).header("x-api-key", KEY).body(body.to_owned())
}

async fn send(gw: &Gateway, method: &str, path: &str, body: &str) -> (u16, Value) {
    let answer: Answer = call(method, path, body).to(gw.address()).await.unwrap();
    (answer.status, answer.json().unwrap_or_default())
}

/// Sets the settings of the default group; gives the revision.
async fn set(gw: &Gateway, settings: &Value) -> u64 {
    let (status, answer) = send(gw, "PUT", PATH, &settings.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    answer["revision"].as_u64().unwrap()
}

async fn settings_are_read_and_written(gw: Gateway) {
    let (status, first) = send(&gw, "GET", PATH, "").await;
    let expected = json!({ "http": "radixtree_host_uri" });
    assert_eq!((status, &first["revision"], &first["settings"]), (200, &json!(0), &json!({})));
    assert_eq!(first["effective"]["router"], expected);
    let all = first["effective"]["plugins"].as_array().unwrap().len();
    assert!(all > 2, "every built-in plugin is enabled");
    // What is as it was makes no revision.
    assert_eq!((set(&gw, &json!({})).await, gw.revision().await), (0, 0));
    assert_eq!(set(&gw, &json!({ "plugins": ["key-auth"], "router": { "http": "radixtree_uri" } })).await, 1);
    let (_, patched) = send(&gw, "PATCH", PATH, r#"{"plugins":null}"#).await;
    assert_eq!(
        (&patched["revision"], &patched["settings"]),
        (&json!(2), &json!({ "router": { "http": "radixtree_uri" } }))
    );
    assert_eq!(patched["effective"]["plugins"].as_array().unwrap().len(), all);
    // What is not there can be taken away too, whatever lies round it.
    assert_eq!(send(&gw, "PATCH", PATH, r#"{"router":null}"#).await.0, 200);
    let (status, patched) = send(&gw, "PATCH", PATH, r#"{"router":{"http":null}}"#).await;
    assert_eq!((status, &patched["settings"]), (200, &json!({ "router": {} })));
    assert_eq!(set(&gw, &json!({ "router": { "http": "radixtree_uri" } })).await, 5);
    // Only if they are still those that were read.
    let tagged = |tag: &str| call("PUT", PATH, "{}").header("if-match", tag).to(gw.address());
    let refused = tagged("\"1\"").await.unwrap();
    let body = refused.json().unwrap();
    assert_eq!((refused.status, &body["code"], &body["current"]), (412, &json!("stale_revision"), &json!(5)));
    for nothing in ["W/\"5\"", "\"abc\"", "\"\"", "99999999999999999999999"] {
        let refused = tagged(nothing).await.unwrap();
        let (status, body) = (refused.status, refused.json().unwrap());
        assert_eq!((status, &body["expected"], &body["current"]), (412, &Value::Null, &json!(5)), "{nothing}");
        let message = "If-Match names no revision or version, or by a weak tag: what is there has \"5\"";
        assert_eq!((&body["code"], &body["message"]), (&json!("stale_revision"), &json!(message)));
    }
    assert_eq!(tagged("soon").await.unwrap().status, 400);
    let done = tagged("\"5\"").await.unwrap();
    assert_eq!((done.status, done.header("etag").as_str()), (200, "\"6\""));
    // They are in the history, and who changed them.
    let (_, history) = send(&gw, "GET", "/api/gateway_groups/default/revisions/3", "").await;
    assert_eq!((&history["author"], &history["changes"][0]["kind"]), (&json!("admin"), &json!("group_settings")));
    let viewer = Call::new("PUT".parse().unwrap(), PATH).header("x-api-key", VIEWER).body("{}".to_owned());
    assert_eq!(viewer.to(gw.address()).await.unwrap().status, 403);
    assert_eq!(send(&gw, "GET", "/api/gateway_groups/none/settings", "").await.0, 404);
}

async fn settings_that_are_none_are_refused_with_their_places(gw: Gateway) {
    for (body, path, message) in [
        (
            r#"{"plugins":["key-auth","key-aut"]}"#,
            "/plugins/1",
            "there is no plugin [key-aut]; did you mean [key-auth]?",
        ),
        (
            r#"{"router":{"http":"fast"}}"#,
            "/router/http",
            "property \"http\" validation failed: matches none of the enum values",
        ),
        (
            r#"{"discovery":{"dns":{"servers":["dns.test"]}}}"#,
            "/discovery/dns/servers/0",
            "expected the address of a resolver",
        ),
        (
            r#"{"discovery":{"consul":{"servers":["http://a"],"tokn":"t"}}}"#,
            "/discovery/consul/tokn",
            "did you mean `token`?",
        ),
        (r#"{"discovery":[]}"#, "/discovery", "expected a mapping, found a list"),
        (
            r#"{"discovery":{"consul":{"servers":["http://a"],"token":"******"}}}"#,
            "/discovery/consul/token",
            "give the secret itself",
        ),
        (r#"{"plugin":[]}"#, "/plugin", "additional properties forbidden, found plugin"),
        ("[]", "", "wrong type: expected object, got table"),
    ] {
        let (status, answer) = send(&gw, "PUT", PATH, body).await;
        assert_eq!(
            (status, &answer["code"], &answer["path"]),
            (400, &json!("invalid_settings"), &json!(path)),
            "{answer}"
        );
        assert!(answer["message"].as_str().unwrap().contains(message), "{answer}");
    }
    assert_eq!(gw.revision().await, 0);
}

async fn only_enabled_plugins_are_accepted_and_each_group_has_its_own(gw: Gateway) {
    let (made, _) = send(&gw, "POST", "/api/gateway_groups", r#"{"id":"b"}"#).await;
    assert_eq!(made, 201);
    set(&gw, &json!({ "plugins": ["key-auth"] })).await;
    let route = r#"{"uri":"/a","plugins":{"limit-count":{"count":1,"time_window":60}}}"#;
    gw.refused(&format!("PUT /routes/1 {route}"), 400, "unknown plugin [limit-count]").await;
    gw.refused(r#"PUT /plugin_metadata/limit-count {}"#, 400, "invalid plugin name").await;
    gw.done(&format!("PUT /routes/1?gateway_group_id=b {route}")).await;
    gw.check("GET /plugins/list", 200, json!(["key-auth"])).await;
    let of_b = gw.send("GET /plugins/list?gateway_group_id=b").await.json().unwrap();
    assert!(of_b.as_array().unwrap().contains(&json!("limit-count")));
    let missing = json!({ "error_msg": "plugin not found in subsystem http" });
    gw.check("GET /plugins/limit-count", 404, missing).await;
    let config = format!(r#"{{"routes":[{}]}}"#, route.replacen('{', r#"{"id":"1","#, 1));
    assert_eq!(gw.send(&format!("POST /configs/validate {config}")).await.status, 400);
    assert_eq!(gw.send(&format!("POST /configs/validate?gateway_group_id=b {config}")).await.status, 200);
    assert_eq!(gw.send("GET /plugins/list?gateway_group_id=none").await.status, 404);
}

async fn a_plugin_in_use_is_not_disabled_unless_forced(gw: Gateway) {
    gw.done(
        r#"PUT /routes/1 {"uri":"/a","plugins":{"limit-count":{"count":1,"time_window":60}},"upstream":{"nodes":{}}}"#,
    )
    .await;
    gw.done(r#"PUT /routes/2 {"uri":"/b","upstream":{"nodes":{}}}"#).await;
    gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"k"}}}"#).await;
    let before = gw.revision().await;
    let (status, answer) = send(&gw, "PUT", PATH, r#"{"plugins":["key-auth"]}"#).await;
    assert_eq!((status, &answer["code"], &answer["total"]), (409, &json!("settings_in_use"), &json!(1)), "{answer}");
    let listed = json!([{ "kind": "route", "id": "1", "path": "/plugins/limit-count", "reason": "unknown plugin [limit-count]" }]);
    assert_eq!(answer["objects"], listed);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("/routes/1: unknown plugin [limit-count]") && message.contains("?force=true"),
        "{message}"
    );
    assert_eq!(gw.revision().await, before);
    let (status, _) = send(&gw, "PUT", &format!("{PATH}?force=true"), r#"{"plugins":["key-auth"]}"#).await;
    assert_eq!((status, gw.revision().await), (200, before + 1));
    // What is out of service already is no hindrance to another change, and can be deleted or mended.
    set(&gw, &json!({ "plugins": ["key-auth"], "router": { "http": "radixtree_uri" } })).await;
    gw.refused(r#"PATCH /routes/1 {"desc":"x"}"#, 400, "unknown plugin [limit-count]").await;
    gw.done(r#"PATCH /routes/1 {"plugins":null}"#).await;
}

async fn stream_routes_are_a_matter_of_the_settings(gw: Gateway) {
    const OFF: &str = "stream mode is disabled, can not add stream routes";
    gw.refused("PUT /stream_routes/1 {}", 400, OFF).await;
    set(&gw, &json!({ "proxy_mode": "http&stream", "stream_plugins": ["limit-conn"] })).await;
    gw.refused(r#"PUT /stream_routes/1 {"plugins":{"ip-restriction":{}}}"#, 400, "unknown plugin [ip-restriction]")
        .await;
    gw.done(r#"PUT /stream_routes/1 {"upstream":{"nodes":{}},"plugins":{"limit-conn":{"count":1}}}"#).await;
    gw.check("GET /plugins/list?subsystem=stream", 200, json!(["limit-conn"])).await;
    for body in [r#"{"proxy_mode":"http"}"#, r#"{"stream_plugins":[]}"#] {
        let (status, answer) = send(&gw, "PATCH", PATH, body).await;
        assert_eq!((status, &answer["objects"][0]["kind"]), (409, &json!("stream_route")), "{answer}");
    }
    gw.done("DELETE /stream_routes/1").await;
    set(&gw, &json!({})).await;
    gw.refused("GET /stream_routes", 400, OFF).await;
}

async fn settings_are_no_resource_of_the_admin_api(gw: Gateway) {
    set(&gw, &json!({ "plugins": [] })).await;
    for line in [
        "GET /group_settings",
        "GET /group_settings/group",
        "DELETE /group_settings/group",
        r#"PUT /group_settings/group {}"#,
    ] {
        gw.refused(line, 404, "Unsupported resource type: group_settings").await;
    }
}

async fn secrets_of_registries_are_sealed_masked_and_kept(gw: Gateway) {
    let consul = json!({ "servers": ["http://u:sesame@127.0.0.1:8500"], "token": "sesame" });
    let masked = json!({ "servers": ["http://u:******@127.0.0.1:8500"], "token": "******" });
    let (_, answer) = send(&gw, "PUT", PATH, &json!({ "discovery": { "consul": consul } }).to_string()).await;
    assert_eq!(answer["settings"], json!({ "discovery": { "consul": masked } }));
    let effective = &answer["effective"]["discovery"]["consul"];
    assert_eq!((&effective["token"], &effective["weight"]), (&json!("******"), &json!(1)));
    let (_, shown) = send(&gw, "GET", PATH, "").await;
    assert!(!shown.to_string().contains("sesame"), "{shown}");
    // What was shown is written back: nothing has changed.
    assert_eq!(set(&gw, &shown["settings"]).await, 1);
    assert_eq!(gw.revision().await, 1);
    let (_, patched) = send(&gw, "PATCH", PATH, r#"{"discovery":{"consul":{"weight":7},"nacos":null}}"#).await;
    assert_eq!(patched["settings"]["discovery"]["consul"]["weight"], 7);
    // By RFC 7396 an empty object changes nothing: no registry goes.
    for nothing in [r#"{"discovery":{}}"#, r#"{"discovery":{"consul":{}}}"#] {
        let (status, same) = send(&gw, "PATCH", PATH, nothing).await;
        assert_eq!((status, &same["revision"], &same["settings"]), (200, &json!(2), &patched["settings"]), "{nothing}");
    }
    let stored = gw.store.history_get("default", 2).await.unwrap().unwrap().changes;
    let Change::Put(stored) = &stored[0] else { panic!("{stored:?}") };
    let stored: Value = serde_json::from_slice(&stored.body).unwrap();
    let mut expected = consul;
    expected["weight"] = 7.into();
    assert_eq!(stored["discovery"]["consul"], expected, "the secrets themselves are what nodes are sent");
    let (_, history) = send(&gw, "GET", "/api/gateway_groups/default/revisions/2", "").await;
    assert!(!history.to_string().contains("sesame"), "{history}");
    if let Some(database) = gw.database() {
        let dump = database.dump().unwrap();
        assert!(!dump.contains("sesame") && !dump.contains(&hex("sesame")), "stored in clear");
    }
    // Nothing that is stored depends on registries: they may go, whoever names them.
    gw.done(r#"PUT /upstreams/u {"discovery_type":"consul","service_name":"web"}"#).await;
    let (status, gone) = send(&gw, "PATCH", PATH, r#"{"discovery":null}"#).await;
    assert_eq!((status, &gone["settings"], gone["effective"].get("discovery")), (200, &json!({}), None));
}

/// What another replica has heard of or not makes no difference to what is stored.
#[tokio::test]
async fn replicas_judge_by_the_settings_that_the_database_has() {
    let one = Gateway::postgres().await;
    let two = one.replica().await;
    let route = |id: &str| {
        format!(r#"PUT /routes/{id} {{"uri":"/a","plugins":{{"limit-count":{{"count":1,"time_window":60}}}}}}"#)
    };
    for round in 0..10 {
        let id = format!("r{round}");
        set(&one, &json!({ "plugins": ["key-auth"] })).await;
        two.refused(&route(&id), 400, "unknown plugin [limit-count]").await;
        two.refused(r#"PUT /plugin_metadata/limit-count {}"#, 400, "invalid plugin name").await;
        set(&one, &json!({})).await;
        two.done(&route(&id)).await;
        two.done(r#"PUT /plugin_metadata/limit-count {}"#).await;
        one.done(&format!("DELETE /routes/{id}")).await;
        one.done("DELETE /plugin_metadata/limit-count").await;
    }
}

/// However writes and changes of the settings meet, no revision holds an object that its settings do not allow.
#[tokio::test]
async fn no_revision_holds_what_its_settings_do_not_allow() {
    const SWITCHES: usize = 10;
    let one = Gateway::postgres().await;
    let two = one.replica().await;
    let ends = AtomicBool::new(false);
    let writer = async |gw: &Gateway, id: &str| {
        let line =
            format!(r#"PUT /routes/{id} {{"uri":"/a","plugins":{{"limit-count":{{"count":1,"time_window":60}}}}}}"#);
        let (mut taken, mut refused) = (0, 0);
        while !ends.load(Ordering::Relaxed) {
            match gw.send(&line).await.status {
                200 | 201 => taken += 1,
                400 => refused += 1,
                other => panic!("{line}: {other}"),
            }
            gw.send(&format!("DELETE /routes/{id}")).await;
            // While neither writer has a route there, the plugin can be disabled.
            for _ in 0..4 {
                gw.send("GET /routes").await;
            }
        }
        (taken, refused)
    };
    let switcher = async {
        let (mut off, mut kept) = (0, 0);
        while off < SWITCHES {
            match send(&two, "PUT", PATH, r#"{"plugins":["key-auth"]}"#).await {
                (200, _) => {
                    off += 1;
                    set(&two, &json!({})).await;
                }
                (409, answer) if answer["code"] == "settings_in_use" => kept += 1,
                (status, answer) => panic!("{status} {answer}"),
            }
        }
        ends.store(true, Ordering::Relaxed);
        kept
    };
    let ((a, refused_a), (b, refused_b), kept) = tokio::join!(writer(&one, "a"), writer(&two, "b"), switcher);
    let (taken, refused) = (a + b, refused_a + refused_b);
    eprintln!("routes taken {taken}, refused {refused}; the plugin disabled {SWITCHES} times, kept {kept} times");
    assert!(taken > 0);
    let (mut there, mut enabled) = (BTreeSet::new(), true);
    for revision in 1..=one.revision().await {
        let published = one.store.history_get("default", revision).await.unwrap().unwrap();
        for change in &published.changes {
            match change {
                Change::Put(object) if object.key == Key::group_settings() => {
                    enabled = !String::from_utf8_lossy(&object.body).contains("key-auth");
                }
                Change::Put(object) => drop(there.insert(object.key.clone())),
                Change::Delete { key, .. } => drop(there.remove(key)),
            }
        }
        assert!(enabled || there.is_empty(), "revision {revision} holds {there:?} without their plugin");
    }
}
