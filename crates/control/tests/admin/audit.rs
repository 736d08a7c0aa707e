//! The audit log over the API: what calls leave in it, who may read it, and that no secret is in it.

use crate::gateway::{Gateway, KEY, VIEWER, on_both};
use crate::plugins;
use http::Method;
use milecastle_model::{Key, Kind, secret_places};
use milecastle_settings::Time;
use milecastle_store::{ChangeSet, DEFAULT_GROUP, Delete, Op, Put, Source};
use milecastle_testkit::{Answer, Call, eventually};
use serde_json::{Value, json};

on_both!(
    calls_leave_entries,
    a_declared_configuration_has_an_entry_for_each_object,
    who_may_read_sees_no_more_than_he_may,
    pages_and_exports,
    refusals_are_counted,
    no_secret_is_in_it,
    secrets_of_calls_are_not_in_it,
);

const PASSWORD: &str = "canary-of-a-password!";

async fn with(gw: &Gateway, key: &str, method: Method, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Call::new(method, path).header("x-api-key", key).body(body).to(gw.address()).await.unwrap()
}

/// Sends what must succeed.
async fn send(gw: &Gateway, method: Method, path: &str, body: Value) -> Value {
    let answer = with(gw, KEY, method, path, &body).await;
    assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
    answer.json().unwrap_or_default()
}

/// The entries of a query, newest first.
async fn entries(gw: &Gateway, query: &str) -> Vec<Value> {
    let answer = send(gw, Method::GET, &format!("/api/audit?{query}"), Value::Null).await;
    answer["list"].as_array().unwrap().clone()
}

async fn token(gw: &Gateway, roles: Value) -> Value {
    send(gw, Method::POST, "/api/tokens", json!({ "name": "t", "roles": roles })).await
}

async fn login(gw: &Gateway, name: &str, password: &str) -> Answer {
    let body = json!({ "name": name, "password": password }).to_string();
    let call = Call::new(Method::POST, "/api/session").header("content-type", "application/json").body(body);
    call.to(gw.address()).await.unwrap()
}

async fn calls_leave_entries(gw: Gateway) {
    gw.call(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).header("x-request-id", "r-1").to(gw.address()).await.unwrap();
    gw.done(r#"PATCH /upstreams/1 {"nodes":{"a:1":2}}"#).await;
    gw.send("DELETE /upstreams/1").await;
    gw.send("DELETE /upstreams/1").await;
    gw.send(r#"PUT /upstreams/1 {"nodes":7}"#).await;
    let told = entries(&gw, "kind=upstream").await;
    let words: Vec<_> = told.iter().rev().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(words, ["create", "update", "delete"]);
    let [deleted, updated, created] = told.as_slice() else { unreachable!("three entries") };
    assert_eq!(
        (&created["actor_kind"], &created["actor"], &created["outcome"]),
        (&json!("key"), &json!("admin"), &json!("done"))
    );
    assert_eq!((&created["address"], &created["request_id"]), (&json!("127.0.0.1"), &json!("r-1")));
    assert_eq!(
        (&created["group"], &created["object"], &created["revision"]),
        (&json!("default"), &json!("1"), &json!(1))
    );
    assert_eq!((&created["before"], &created["after"]["nodes"]), (&Value::Null, &json!({ "a:1": 1 })));
    assert_eq!(
        (&updated["before"], &updated["after"]),
        (&json!({ "nodes": { "a:1": 1 } }), &json!({ "nodes": { "a:1": 2 } }))
    );
    assert_eq!((&deleted["before"]["nodes"], &deleted["after"]), (&json!({ "a:1": 2 }), &Value::Null));
    let id = created["id"].as_u64().unwrap();
    assert_eq!(send(&gw, Method::GET, &format!("/api/audit/{id}"), Value::Null).await, *created);
    for missing in ["9999999", "none"] {
        let answer = with(&gw, KEY, Method::GET, &format!("/api/audit/{missing}"), &Value::Null).await;
        assert_eq!((answer.status, answer.json().unwrap()["code"].as_str()), (404, Some("no_such_entry")));
    }
    for method in [Method::DELETE, Method::PUT, Method::PATCH, Method::POST] {
        assert_eq!(with(&gw, KEY, method, &format!("/api/audit/{id}"), &json!({})).await.status, 405);
    }
    // A token is known by its id, whatever it is called.
    let made = token(&gw, json!([{ "role": "operator", "groups": ["*"] }])).await;
    with(&gw, made["token"].as_str().unwrap(), Method::PUT, "/apisix/admin/upstreams/2", &json!({ "nodes": {} })).await;
    let newest = entries(&gw, "limit=1").await.remove(0);
    assert_eq!(
        (&newest["actor_kind"], &newest["actor"], &newest["actor_id"]),
        (&json!("token"), &json!("token/t"), &made["id"])
    );
    send(&gw, Method::PUT, "/api/gateway_groups/default/settings", json!({ "plugins": ["key-auth"] })).await;
    let settings = entries(&gw, "kind=group_settings").await.remove(0);
    assert_eq!((&settings["action"], &settings["after"]), (&json!("create"), &json!({ "plugins": ["key-auth"] })));
}

async fn a_declared_configuration_has_an_entry_for_each_object(gw: Gateway) {
    gw.done(r#"PUT /upstreams/9 {"nodes":{}}"#).await;
    let upstreams: Vec<Value> = (0..300).map(|n| json!({ "id": format!("u{n}"), "nodes": {} })).collect();
    let call = gw.call("PUT /configs").header("x-digest", "d1").body(json!({ "upstreams": upstreams }).to_string());
    assert_eq!(call.to(gw.address()).await.unwrap().status, 202);
    let told = [
        entries(&gw, "kind=upstream&action=create&limit=500").await,
        entries(&gw, "kind=upstream&action=delete").await,
    ];
    assert_eq!(told.map(|entries| entries.len()), [301, 1]);
    let whole = entries(&gw, "kind=configs").await;
    assert_eq!((whole.len(), &whole[0]["after"]), (1, &json!({ "digest": "d1" })));
}

async fn who_may_read_sees_no_more_than_he_may(gw: Gateway) {
    send(&gw, Method::POST, "/api/gateway_groups", json!({ "id": "prod" })).await;
    send(&gw, Method::PUT, "/apisix/admin/upstreams/1?gateway_group_id=prod", json!({ "nodes": {} })).await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    let operator = token(&gw, json!([{ "role": "operator", "groups": ["*"] }])).await;
    let of_prod = token(&gw, json!([{ "role": "operator", "groups": ["prod"] }])).await;
    let kinds = async |made: &Value| {
        let key = made["token"].as_str().unwrap();
        let list = with(&gw, key, Method::GET, "/api/audit", &Value::Null).await.json().unwrap();
        let list = list["list"].as_array().unwrap().clone();
        list.iter().map(|one| format!("{} {}", one["kind"].as_str().unwrap(), one["group"])).collect::<Vec<_>>()
    };
    let all = entries(&gw, "").await;
    assert!(all.iter().any(|one| one["kind"] == "api_token") && all.iter().any(|one| one["kind"] == "admin_key"));
    let (default, prod, group) = ("upstream \"default\"", "upstream \"prod\"", "gateway_group \"prod\"");
    assert_eq!(kinds(&operator).await, [default, prod, group]);
    assert_eq!(kinds(&of_prod).await, [prod, group]);
    let hidden = all.iter().find(|one| one["group"] == "default").unwrap()["id"].as_u64().unwrap();
    let key = of_prod["token"].as_str().unwrap();
    assert_eq!(with(&gw, key, Method::GET, &format!("/api/audit/{hidden}"), &Value::Null).await.status, 404);
    let exported = with(&gw, key, Method::GET, "/api/audit/export", &Value::Null).await.json().unwrap();
    assert_eq!(exported.as_array().unwrap().len(), 2);
    assert_eq!(with(&gw, VIEWER, Method::GET, "/api/audit", &Value::Null).await.status, 403);
}

async fn pages_and_exports(gw: Gateway) {
    let upstreams: Vec<Value> = (0..700).map(|n| json!({ "id": format!("u{n}"), "nodes": {} })).collect();
    let call = gw.call("PUT /configs").header("x-digest", "d1").body(json!({ "upstreams": upstreams }).to_string());
    assert_eq!(call.to(gw.address()).await.unwrap().status, 202);
    gw.done(r#"PUT /upstreams/f {"name":"=1+1","desc":"say \"so\"","nodes":{}}"#).await;
    let mut query = "kind=upstream&limit=200".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = send(&gw, Method::GET, &format!("/api/audit?{query}"), Value::Null).await;
        seen.extend(page["list"].as_array().unwrap().iter().map(|one| one["id"].as_u64().unwrap()));
        let Some(next) = page["next"].as_u64() else { break };
        query = format!("kind=upstream&limit=200&before={next}");
    }
    assert_eq!(seen.len(), 701);
    assert!(seen.is_sorted_by(|newer, older| newer > older));
    let export =
        async |query: &str| with(&gw, KEY, Method::GET, &format!("/api/audit/export?{query}"), &Value::Null).await;
    let exported = export("kind=upstream&format=json").await;
    assert_eq!(exported.header("content-type"), "application/json");
    let ids: Vec<u64> =
        exported.json().unwrap().as_array().unwrap().iter().map(|one| one["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, seen);
    assert_eq!(export("kind=none").await.json().unwrap(), json!([]));
    let table = export("kind=upstream&format=csv").await;
    let text = table.text();
    assert_eq!((text.lines().count(), text.lines().next().unwrap().split(',').next()), (702, Some("id")));
    assert!(text.contains("\"\"desc\"\""), "{text}");
    assert_eq!(export("kind=none&format=csv").await.text().lines().count(), 1);
    for bad in ["format=xml", "since=soon", "before=x"] {
        assert_eq!(export(bad).await.status, 400, "{bad}");
    }
    for bad in ["limit=0", "limit=501", "limit=x", "until=-1"] {
        assert_eq!(with(&gw, KEY, Method::GET, &format!("/api/audit?{bad}"), &Value::Null).await.status, 400, "{bad}");
    }
}

async fn refusals_are_counted(gw: Gateway) {
    let gw = gw.with_settings(|settings| settings.access.refusals_every = Time::millis(100)).await;
    send(
        &gw,
        Method::POST,
        "/api/users",
        json!({ "name": "ann", "password": PASSWORD, "roles": [{ "role": "viewer", "groups": ["*"] }] }),
    )
    .await;
    let viewer = token(&gw, json!([{ "role": "viewer", "groups": ["*"] }])).await;
    let key = viewer["token"].as_str().unwrap();
    for _ in 0..7 {
        assert_eq!(with(&gw, key, Method::PUT, "/apisix/admin/routes/1", &json!({})).await.status, 403);
        assert_eq!(with(&gw, key, Method::PUT, "/api/members/m/maintenance", &json!({})).await.status, 403);
        assert_eq!(with(&gw, VIEWER, Method::DELETE, "/apisix/admin/routes/1", &json!({})).await.status, 401);
    }
    assert_eq!(login(&gw, "ann", "wrong-one").await.status, 401);
    assert_eq!(login(&gw, PASSWORD, "typed into the wrong field").await.status, 401);
    let times = async |query: &str| {
        let found = entries(&gw, query).await;
        (
            found.iter().map(|one| one["times"].as_u64().unwrap()).sum::<u64>(),
            found.first().cloned().unwrap_or_default(),
        )
    };
    for (query, expected) in [
        ("outcome=refused&kind=route", 7),
        ("outcome=refused&kind=maintenance", 7),
        ("outcome=refused&kind=request&actor=viewer", 7),
        ("outcome=failed&kind=session&actor=ann", 1),
        ("outcome=failed&kind=session&actor=unknown", 1),
    ] {
        eventually(query, async || times(query).await.0 == expected).await;
    }
    let (_, refused) = times("outcome=refused&kind=route").await;
    assert_eq!(
        (&refused["actor"], &refused["group"], &refused["action"]),
        (&json!("token/t"), &json!("default"), &json!("write"))
    );
    assert_eq!(login(&gw, "ann", PASSWORD).await.status, 201);
    let (_, signed_in) = times("action=sign_in&outcome=done").await;
    assert_eq!(
        (&signed_in["actor"], &signed_in["actor_kind"], &signed_in["address"]),
        (&json!("ann"), &json!("account"), &json!("127.0.0.1"))
    );
    let all = with(&gw, KEY, Method::GET, "/api/audit/export", &Value::Null).await.text();
    assert!(!all.contains(PASSWORD), "{all}");
}

/// An object that holds `value` where a JSON pointer says.
fn holding(pointer: &str, value: Value) -> Value {
    pointer.rsplit('/').filter(|name| !name.is_empty()).fold(value, |inner, name| json!({ name: inner }))
}

/// Every place of a secret that kinds and plugins declare, with an object that has this secret there.
fn all_secrets(canary: &str) -> Vec<(Key, Value)> {
    let mut all = Vec::new();
    for kind in Kind::ALL.iter().copied() {
        for (n, place) in secret_places(kind).iter().enumerate() {
            all.push((Key::new(kind, format!("k{n}")), holding(place, canary.into())));
            all.push((Key::new(kind, format!("l{n}")), holding(place, json!([canary, canary]))));
        }
    }
    for plugin in plugins::compiler().registry().plugins() {
        for path in plugin.encrypted {
            let config = holding(&path.replace('.', "/"), canary.into());
            for kind in [Kind::Route, Kind::Service, Kind::GlobalRule, Kind::PluginConfig, Kind::Consumer] {
                let body = json!({ "plugins": { plugin.name: config } });
                all.push((Key::new(kind, format!("{}-{}", plugin.name, path)), body));
            }
            all.push((Key::new(Kind::PluginMetadata, plugin.name), config));
        }
    }
    let inline =
        json!({ "plugins": { "traffic-split": { "rules": [{ "upstream": { "tls": { "client_key": canary } } }] } } });
    all.push((Key::new(Kind::Route, "inline"), inline));
    all.push((Key::new(Kind::Route, "unknown"), json!({ "plugins": { "of-a-later-version": { "any": canary } } })));
    let consul = json!({ "servers": [format!("http://user:{canary}@a")], "token": canary });
    all.push((Key::group_settings(), json!({ "discovery": { "consul": consul } })));
    all
}

async fn no_secret_is_in_it(gw: Gateway) {
    let publish = async |ops: Vec<Op>| gw.by().publish(DEFAULT_GROUP, ChangeSet::new(Source::Api, ops)).await.unwrap();
    let written = async |canary: &str| {
        let put = |(key, body): (Key, Value)| Op::Put(Put { sealed: true, ..Put::new(key, body.to_string()) });
        publish(all_secrets(canary).into_iter().map(put).collect()).await
    };
    let count = all_secrets("").len();
    assert!(count > 20);
    written("canary-one").await;
    written("canary-two").await;
    publish(
        all_secrets("").into_iter().map(|(key, _)| Op::Delete(Delete { force: true, ..Delete::new(key) })).collect(),
    )
    .await;
    let told = entries(&gw, "group=default&limit=500").await;
    assert_eq!(told.len(), 3 * count);
    for format in ["json", "csv"] {
        let all = with(&gw, KEY, Method::GET, &format!("/api/audit/export?format={format}"), &Value::Null).await.text();
        let found = all.lines().find(|line| line.contains("canary"));
        assert_eq!(found, None);
        assert!(all.contains("****** (changed)"), "that it changed is told");
    }
    // Of each update something is told, though what changed is a secret.
    for update in told.iter().filter(|one| one["action"] == "update") {
        assert!(update["after"].to_string().contains("(changed)"), "{update}");
    }
}

async fn secrets_of_calls_are_not_in_it(gw: Gateway) {
    let body = json!({ "name": "ann", "password": PASSWORD, "roles": [{ "role": "viewer", "groups": ["*"] }] });
    send(&gw, Method::POST, "/api/users", body).await;
    let another = format!("{PASSWORD}2");
    send(&gw, Method::PATCH, "/api/users/ann", json!({ "password": another })).await;
    let session = login(&gw, "ann", &another).await;
    let cookie = session.header("set-cookie").split(['=', ';']).nth(1).unwrap().to_owned();
    let csrf = session.json().unwrap()["csrf_token"].as_str().unwrap().to_owned();
    let made = token(&gw, json!([{ "role": "viewer", "groups": ["*"] }])).await;
    let joins = send(&gw, Method::POST, "/api/gateway_groups/default/tokens", json!({ "name": "rack" })).await;
    gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"canary-of-a-key"}}}"#).await;
    let texts = [made, joins].map(|made| made["token"].as_str().unwrap().to_owned());
    let all = with(&gw, KEY, Method::GET, "/api/audit/export", &Value::Null).await.text();
    for kind in ["account", "session", "api_token", "join_token", "consumer"] {
        assert!(all.contains(&format!("\"kind\":\"{kind}\"")), "{kind}: {all}");
    }
    for secret in [PASSWORD, "canary", "argon2", KEY, &cookie, &csrf, &texts[0], &texts[1]] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
}
