//! §15: the configuration of a group as a whole.

use crate::gateway::{Gateway, bare, on_both};
use crate::s07_stored::hex;
use milecastle_settings::Declarative;
use milecastle_testkit::Answer;
use milecastle_testkit::tls::Authority;
use serde_json::{Value, json};

on_both!(
    s15_before_the_first_put,
    s15_1_a_digest_is_needed,
    s15_2_bodies_that_are_none,
    s15_3_the_same_digest_changes_nothing,
    s15_4_the_first_fault_ends_it,
    s15_5_versions_of_collections,
    s15_6_what_was_put_is_shown,
    s15_6_yaml_in_both_directions,
    s15_7_objects_by_their_index,
    s15_8_credentials_are_members_of_consumers,
    s15_9_a_storage_failure_is_500,
    s15_a_dump_can_be_put_again,
    s15_references_are_not_checked,
    s15_keys_belong_to_one_consumer,
    s15_both_directions_with_other_paths,
    s15_declaring_alone,
    s15_groups_are_declared_apart,
    s15_what_is_kept_is_sealed,
    s15_a_large_configuration,
);

async fn put(gw: &Gateway, digest: &str, body: &Value) -> Answer {
    gw.call("PUT /configs").header("x-digest", digest).body(body.to_string()).to(gw.address()).await.unwrap()
}

/// Puts what must be taken.
#[track_caller]
fn taken(gw: &Gateway, digest: &str, body: Value) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    let (digest, gw) = (digest.to_owned(), gw);
    async move {
        let answer = put(gw, &digest, &body).await;
        assert_eq!((answer.status, answer.body.len()), (202, 0), "{} ({place})", answer.text());
        assert_eq!(answer.header("x-digest"), digest);
        assert!(answer.header("x-last-modified").parse::<u64>().unwrap() > 0);
    }
}

/// Puts what must be refused, and change nothing.
#[track_caller]
fn refused(gw: &Gateway, digest: &str, body: Value, message: &str) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    let (digest, message) = (digest.to_owned(), message.to_owned());
    async move {
        let before = (gw.revision().await, dump(gw).await);
        let answer = put(gw, &digest, &body).await;
        let expected = (400, json!({ "error_msg": message }));
        assert_eq!((answer.status, answer.json().unwrap()), expected, "{place}");
        assert_eq!((gw.revision().await, dump(gw).await), before, "{place}");
    }
}

async fn dump(gw: &Gateway) -> Value {
    let answer = gw.send("GET /configs").await;
    assert_eq!((answer.status, answer.header("content-type").as_str()), (200, "application/json"));
    assert_eq!(answer.header("x-api-version"), "");
    answer.json().unwrap()
}

fn versions() -> Value {
    json!({
        "routes_conf_version": 0, "services_conf_version": 0, "upstreams_conf_version": 0, "consumers_conf_version": 0,
        "ssls_conf_version": 0, "stream_routes_conf_version": 0, "plugin_metadata_conf_version": 0,
        "plugins_conf_version": 0, "global_rules_conf_version": 0, "protos_conf_version": 0,
        "plugin_configs_conf_version": 0, "consumer_groups_conf_version": 0, "secrets_conf_version": 0,
    })
}

async fn s15_before_the_first_put(gw: Gateway) {
    let answer = gw.check("GET /configs", 200, versions()).await;
    assert_eq!((answer.header("x-last-modified"), answer.header("x-digest")), (String::new(), String::new()));
    let answer = gw.send("HEAD /configs").await;
    assert_eq!((answer.status, answer.body.len(), answer.header("x-digest").as_str()), (200, 0, ""));
    for method in ["GET", "HEAD", "PUT"] {
        assert_eq!(bare(&format!("{method} /configs")).to(gw.address()).await.unwrap().status, 401);
    }
}

async fn s15_1_a_digest_is_needed(gw: Gateway) {
    gw.refused("PUT /configs {}", 400, "missing digest header").await;
    let empty = gw.call("PUT /configs {}").header("x-digest", "");
    assert_eq!(empty.to(gw.address()).await.unwrap().json().unwrap()["error_msg"], "missing digest header");
}

async fn s15_2_bodies_that_are_none(gw: Gateway) {
    let put = async |text: &str, yaml: bool| {
        let media = if yaml { "application/yaml; charset=utf-8" } else { "application/json" };
        let call = gw.call("PUT /configs").body(text.to_owned()).header("x-digest", "d").header("content-type", media);
        let answer = call.to(gw.address()).await.unwrap();
        (answer.status, answer.json().unwrap()["error_msg"].as_str().unwrap_or_default().to_owned())
    };
    let message = |words: &str| (400, format!("invalid request body: {words}"));
    assert_eq!(put("", false).await, message("empty request body"));
    assert_eq!(put("", true).await, message("empty request body"));
    assert_eq!(put("routes: [", true).await, message("invalid yaml request body"));
    let (status, text) = put("{", false).await;
    assert!(status == 400 && text.starts_with("invalid request body: "), "{text}");
}

async fn s15_3_the_same_digest_changes_nothing(gw: Gateway) {
    taken(&gw, "d1", json!({"upstreams": [{"id": "u", "nodes": {}}]})).await;
    let answer = put(&gw, "d1", &json!({"upstreams": []})).await;
    assert_eq!((answer.status, answer.body.len(), answer.header("x-digest").as_str()), (204, 0, "d1"));
    assert_eq!(gw.send("GET /upstreams/u").await.status, 200);
    taken(&gw, "d2", json!({"upstreams": []})).await;
    assert_eq!(gw.send("GET /upstreams/u").await.status, 404);
}

async fn s15_4_the_first_fault_ends_it(gw: Gateway) {
    refused(&gw, "d", json!({"routes_conf_version": "1"}), "routes_conf_version must be a number").await;
    let wrong = r#"invalid configuration: property "uri" validation failed: wrong type: expected string, got number"#;
    let route = |uri: Value| json!({"id": "r", "uri": uri, "plugins": {}});
    refused(&gw, "d", json!({"routes": [route(json!(1)), {"id": "s"}]}), wrong).await;
    let twice = json!({"routes": [route(json!("/a")), route(json!("/b"))]});
    refused(&gw, "d", twice, "found duplicate id r in routes").await;
    let unknown = json!({"routes": [{"id": "r", "uri": "/a", "plugins": {"nope": {}}}]});
    refused(&gw, "d", unknown, "unknown plugin [nope]").await;
    refused(&gw, "d", json!({"secrets": [{"id": "1"}]}), "invalid secret id: 1").await;
    let stream = json!({"stream_routes": [{"id": "1"}]});
    refused(&gw, "d", stream, "stream mode is disabled, can not add stream routes").await;
    let answer = put(&gw, "d", &json!({"plugins": [{"name": "key-auth"}]})).await;
    assert!(answer.status == 400 && answer.text().contains("a setting of the gateway group"), "{}", answer.text());
}

async fn s15_5_versions_of_collections(gw: Gateway) {
    let upstream = |id: &str| json!([{ "id": id, "nodes": {} }]);
    let ids = async || -> Vec<String> {
        let dump = dump(&gw).await;
        let all = dump["upstreams"].as_array().into_iter().flatten();
        all.map(|upstream| upstream["id"].as_str().unwrap().to_owned()).collect()
    };
    let version = async || dump(&gw).await["upstreams_conf_version"].as_u64().unwrap();
    taken(&gw, "1", json!({"upstreams": upstream("a")})).await;
    assert_eq!((ids().await, version().await), (vec!["a".to_owned()], 1));
    // A time in milliseconds needs more than 32 bits.
    let now = 1_790_000_000_123_u64;
    taken(&gw, "2", json!({"upstreams": upstream("b"), "upstreams_conf_version": now})).await;
    assert_eq!((ids().await, version().await), (vec!["b".to_owned()], now));
    let back = format!("upstreams_conf_version must be greater than or equal to ({now})");
    refused(&gw, "3", json!({"upstreams": upstream("c"), "upstreams_conf_version": now - 1}), &back).await;
    taken(&gw, "3", json!({"upstreams": upstream("c"), "upstreams_conf_version": now})).await;
    assert_eq!((ids().await, version().await), (vec!["b".to_owned()], now));
    taken(&gw, "4", json!({"upstreams_conf_version": now})).await;
    assert_eq!(ids().await, ["b"]);
    taken(&gw, "5", json!({})).await;
    assert_eq!((ids().await, version().await), (Vec::new(), now + 1));
}

async fn s15_6_what_was_put_is_shown(gw: Gateway) {
    let body = json!({
        "routes": [{"id": "r", "uri": "/a", "upstream_id": "u", "modifiedIndex": 12}],
        "upstreams": [{"id": "u", "nodes": {"127.0.0.1:80": 1}, "type": "roundrobin"}],
        "global_rules": [{"id": "g", "plugins": {"limit-count": {"count": 1}}}],
        "plugin_metadata": [{"id": "http-logger", "log_format": {"a": "$host"}}],
        "secrets": [{"id": "vault/1", "uri": "http://a", "prefix": "p", "token": "t"}],
        "protos": [{"id": "p", "content": "syntax = \"proto3\";"}],
        "routes_conf_version": 12,
        "theirs": {"kept": [1, 2]},
    });
    taken(&gw, "digest", body.clone()).await;
    let mut expected = versions();
    for (name, member) in body.as_object().unwrap() {
        expected[name] = member.clone();
    }
    let shown = dump(&gw).await;
    for (name, member) in expected.as_object().unwrap() {
        match name.strip_suffix("_conf_version") {
            Some("routes") => assert_eq!(shown[name], 12),
            Some(_) => assert_eq!(shown[name], 1, "{name}"),
            None => assert_eq!(&shown[name], member, "{name}"),
        }
    }
    assert_eq!(shown["X-Digest"], "digest");
    let answer = gw.send("HEAD /configs").await;
    assert_eq!(answer.header("x-last-modified"), shown["X-Last-Modified"].to_string());
    assert_eq!((answer.header("x-digest").as_str(), answer.body.len()), ("digest", 0));
}

async fn s15_6_yaml_in_both_directions(gw: Gateway) {
    let text =
        "upstreams:\n- id: u\n  nodes:\n    \"127.0.0.1:80\": 1\nroutes:\n- id: 1\n  uri: /a\n  upstream_id: u\n";
    let call = gw.call("PUT /configs").body(text.to_owned()).header("x-digest", "d1");
    assert_eq!(call.header("content-type", "application/yaml").to(gw.address()).await.unwrap().status, 202);
    let read = gw.call("GET /configs").header("accept", "application/yaml").to(gw.address()).await.unwrap();
    assert_eq!((read.status, read.header("content-type").as_str()), (200, "application/yaml"));
    let shown = read.text();
    assert!(shown.starts_with("routes:\n  - id: \"1\"\n    uri: /a\n    upstream_id: u\n"), "{shown}");
    assert!(shown.contains("\nX-Digest: d1\n") && !shown.contains("---") && !shown.ends_with("...\n"), "{shown}");
    assert_eq!(milecastle_settings::yaml(&shown).unwrap(), dump(&gw).await);
}

async fn s15_7_objects_by_their_index(gw: Gateway) {
    let upstream = |desc: &str, index: Value| json!({"upstreams": [{"id": "u", "nodes": {}, "desc": desc, "modifiedIndex": index}]});
    let desc = async || gw.send("GET /upstreams/u").await.json().unwrap()["value"]["desc"].clone();
    taken(&gw, "1", upstream("a", json!(5))).await;
    assert_eq!(desc().await, "a");
    taken(&gw, "2", upstream("b", json!(5))).await;
    assert_eq!(desc().await, "a", "the index says that it is the same");
    taken(&gw, "3", upstream("b", json!(6))).await;
    assert_eq!(desc().await, "b");
    // Somebody else has changed it: what the client knows by its index is gone.
    gw.done(r#"PATCH /upstreams/u {"desc":"c"}"#).await;
    assert_eq!(dump(&gw).await["upstreams"][0].get("modifiedIndex"), None);
    taken(&gw, "4", upstream("b", json!(6))).await;
    assert_eq!(desc().await, "b");
    assert_eq!(dump(&gw).await["upstreams"][0]["modifiedIndex"], 6);
    let wrong =
        r#"invalid configuration: property "modifiedIndex" validation failed: wrong type: expected integer, got table"#;
    refused(&gw, "5", upstream("b", json!([])), wrong).await;
    // Only here is it an attribute.
    let unknown = "invalid configuration: additional properties forbidden, found modifiedIndex";
    gw.refused(r#"PUT /upstreams/v {"nodes":{},"modifiedIndex":1}"#, 400, unknown).await;
}

async fn s15_8_credentials_are_members_of_consumers(gw: Gateway) {
    let credential = json!({"id": "jack/credentials/c1", "plugins": {"key-auth": {"key": "k"}}});
    let both = json!({"consumers": [{"username": "jack"}, credential]});
    taken(&gw, "1", both.clone()).await;
    let read = gw.send("GET /consumers/jack/credentials/c1").await.json().unwrap();
    assert_eq!(read["value"], json!({"id": "c1", "plugins": {"key-auth": {"key": "k"}}}));
    assert_eq!(gw.send("GET /consumers").await.json().unwrap()["total"], 1);
    assert_eq!(dump(&gw).await["consumers"], both["consumers"]);
    refused(&gw, "2", json!({"consumers": [credential]}), "consumer not found").await;
    let twice = json!({"consumers": [{"username": "jack"}, credential, credential]});
    refused(&gw, "2", twice, "found duplicate credential id c1 in consumers").await;
    taken(&gw, "2", json!({"consumers": [{"username": "jack"}]})).await;
    assert_eq!(gw.send("GET /consumers/jack/credentials").await.status, 404);
}

async fn s15_9_a_storage_failure_is_500(gw: Gateway) {
    gw.store.close().await;
    let answer = put(&gw, "1", &json!({"upstreams": []})).await;
    let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
    assert!(answer.status == 500 && text.starts_with("the database is not available"), "{text}");
}

async fn s15_a_dump_can_be_put_again(gw: Gateway) {
    let identity = Authority::new("tests").issue(&["a.example"]);
    let ssl = json!({"id": "s", "sni": "a.example", "cert": identity.cert.clone(), "key": identity.key.clone()});
    taken(&gw, "1", json!({"ssls": [ssl], "upstreams": [{"id": "u", "nodes": {}}], "theirs": 1})).await;
    let shown = dump(&gw).await;
    // Certificates as they came; private keys are not sent out, and what stands for them is taken back.
    assert_eq!(shown["ssls"][0]["cert"], identity.cert);
    assert!(shown["ssls"][0]["key"].as_str().unwrap().starts_with("sealed:"), "{shown}");
    let before = gw.revision().await;
    let mut again = shown.clone();
    for (name, version) in shown.as_object().unwrap() {
        if name.ends_with("_conf_version") {
            again[name] = (version.as_u64().unwrap() + 1).into();
        }
    }
    taken(&gw, "2", again).await;
    assert_eq!(gw.revision().await, before, "nothing has changed");
    let later = dump(&gw).await;
    assert_eq!((&later["ssls"], &later["theirs"]), (&shown["ssls"], &json!(1)));
}

async fn s15_references_are_not_checked(gw: Gateway) {
    let route = json!({"routes": [{"id": "r", "uri": "/a", "upstream_id": "nobody", "service_id": "nobody"}]});
    taken(&gw, "1", route).await;
    assert_eq!(gw.send("GET /routes/r").await.status, 200);
    // What is in use goes too, if it is left out.
    taken(
        &gw,
        "2",
        json!({
            "routes": [{"id": "r", "uri": "/a", "upstream_id": "u"}], "upstreams": [{"id": "u", "nodes": {}}],
        }),
    )
    .await;
    taken(&gw, "3", json!({"routes": [{"id": "r", "uri": "/a", "upstream_id": "u"}]})).await;
    assert_eq!((gw.send("GET /upstreams/u").await.status, gw.send("GET /routes/r").await.status), (404, 200));
}

async fn s15_keys_belong_to_one_consumer(gw: Gateway) {
    let consumer = |name: &str| json!({"username": name, "plugins": {"key-auth": {"key": "k"}}});
    let both = json!({"consumers": [consumer("jack"), consumer("zoe")]});
    let answer = put(&gw, "1", &both).await;
    let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
    assert!(
        answer.status == 400 && text.starts_with("duplicate key of plugin key-auth found with consumer: "),
        "{text}"
    );
    let rule = |id: &str| json!({"id": id, "plugins": {"limit-count": {"count": 1}}});
    let answer = put(&gw, "1", &json!({"global_rules": [rule("a"), rule("b")]})).await;
    let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
    assert!(answer.status == 400 && text.starts_with("plugin 'limit-count' already exists in global rule"), "{text}");
    assert_eq!(gw.revision().await, 0);
    // The key passes from one to the other in one step.
    taken(&gw, "1", json!({"consumers": [consumer("jack")]})).await;
    taken(&gw, "2", json!({"consumers": [consumer("zoe")]})).await;
}

async fn s15_both_directions_with_other_paths(gw: Gateway) {
    gw.done(r#"PUT /upstreams/mine {"nodes":{}}"#).await;
    let shown = dump(&gw).await;
    assert_eq!((&shown["upstreams"][0]["id"], &shown["upstreams_conf_version"]), (&json!("mine"), &json!(0)));
    taken(&gw, "1", json!({"upstreams": [{"id": "theirs", "nodes": {}}]})).await;
    assert_eq!(gw.send("GET /upstreams/mine").await.status, 404);
    let listed = gw.send("GET /upstreams").await.json().unwrap();
    assert_eq!(listed["list"][0]["value"], json!({"id": "theirs", "nodes": {}}));
    gw.done(r#"PUT /routes/r {"uri":"/a","upstream_id":"theirs"}"#).await;
    assert_eq!(dump(&gw).await["routes"][0]["id"], "r");
    // One revision for each change set, whatever it holds.
    let before = gw.revision().await;
    taken(&gw, "2", json!({"upstreams": [{"id": "a", "nodes": {}}, {"id": "b", "nodes": {}}]})).await;
    assert_eq!(gw.revision().await, before + 1);
}

async fn s15_declaring_alone(_: Gateway) {
    let gw = Gateway::configured(|settings| settings.admin.declarative = Declarative::Only).await;
    for line in ["GET /routes", "PUT /routes/1 {}", "GET /plugins/list", "GET /schema/route", "GET /nope"] {
        assert_eq!(gw.send(line).await.status, 404, "{line}");
    }
    assert_eq!(bare("HEAD ").to(gw.address()).await.unwrap().status, 200);
    assert_eq!(gw.send("POST /configs/validate {}").await.status, 200);
    taken(&gw, "1", json!({"upstreams": [{"id": "u", "nodes": {}}]})).await;
    assert_eq!(dump(&gw).await["upstreams"][0]["id"], "u");
}

async fn s15_groups_are_declared_apart(gw: Gateway) {
    gw.by().group_create(&milecastle_store::NewGroup::named("test")).await.unwrap();
    let there = gw.call(r#"PUT /configs?gateway_group_id=test {"upstreams":[{"id":"u","nodes":{}}]}"#);
    assert_eq!(there.header("x-digest", "1").to(gw.address()).await.unwrap().status, 202);
    assert_eq!(dump(&gw).await, versions());
    let shown = gw.send("GET /configs?gateway_group_id=test").await.json().unwrap();
    assert_eq!((&shown["upstreams"][0]["id"], &shown["X-Digest"]), (&json!("u"), &json!("1")));
    gw.refused("GET /configs?gateway_group_id=nope", 404, "gateway group [nope] not found").await;
}

async fn s15_what_is_kept_is_sealed(gw: Gateway) {
    taken(&gw, "1", json!({"theirs": {"password": "hush-hush"}})).await;
    assert_eq!(dump(&gw).await["theirs"]["password"], "hush-hush");
    if let Some(database) = gw.database() {
        assert!(!database.dump().unwrap().contains(&hex("hush-hush")), "stored in clear");
    }
}

async fn s15_a_large_configuration(gw: Gateway) {
    // Beyond the limit of all other bodies, and more than one statement's worth of objects.
    let upstream =
        |n: usize| json!({"id": format!("u{n}"), "nodes": {"127.0.0.1:80": 1}, "labels": {"pad": "x".repeat(250)}});
    let body = json!({"upstreams": (0..6000).map(upstream).collect::<Vec<Value>>()});
    assert!(body.to_string().len() > 1_572_864);
    taken(&gw, "1", body.clone()).await;
    assert_eq!(gw.revision().await, 1);
    assert_eq!(dump(&gw).await["upstreams"].as_array().unwrap().len(), 6000);
    let mut changed = body;
    changed["upstreams"][17]["retries"] = 1.into();
    taken(&gw, "2", changed).await;
    let history = gw.store.history_get(milecastle_store::DEFAULT_GROUP, 2).await.unwrap().unwrap();
    assert_eq!(history.changes.len(), 1);
}
