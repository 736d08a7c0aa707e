//! A group as one file, and objects from one group to another: nothing is dropped on the way.

use crate::gateway::{Gateway, KEY, on_both};
use http::Method;
use milecastle_model::{Key, Kind};
use milecastle_store::{ChangeSet, DEFAULT_GROUP, Op, Put, Source};
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};
use std::collections::BTreeMap;

on_both!(
    a_group_goes_into_a_file_and_comes_out_of_it,
    private_keys_stay_at_home,
    objects_are_promoted_with_their_secrets,
    what_arrives_names_its_object,
    what_arrives_may_leave_what_is_there,
    no_path_drops_what_it_does_not_know,
);

async fn with(gw: &Gateway, line: &str, media: &str, body: &str, tag: Option<&str>) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let path = format!("/api/gateway_groups{path}");
    let call = Call::new(method, &path).header("x-api-key", KEY).header("content-type", media).body(body.to_owned());
    let call = if let Some(tag) = tag { call.header("if-match", tag) } else { call };
    call.to(gw.address()).await.unwrap()
}

async fn export(gw: &Gateway, group: &str, arguments: &str) -> String {
    let answer = with(gw, &format!("GET /{group}/export?{arguments}"), "", "", None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Has a file arrive in a group, or what another group has; gives the answer.
async fn arrive(gw: &Gateway, line: &str, media: &str, body: &str) -> (u16, Value) {
    let answer = with(gw, &format!("POST {line}"), media, body, Some("*")).await;
    (answer.status, answer.json().unwrap())
}

async fn group(gw: &Gateway, id: &str) {
    assert_eq!(with(gw, "POST ", "application/json", &json!({ "id": id }).to_string(), None).await.status, 201);
}

async fn bodies(gw: &Gateway, group: &str) -> BTreeMap<String, String> {
    let objects = gw.store.load(group).await.unwrap().objects;
    objects.into_iter().map(|object| (object.key.path(), String::from_utf8(object.body.to_vec()).unwrap())).collect()
}

/// The same without the times at which they were written, as values.
async fn said(gw: &Gateway, group: &str) -> BTreeMap<String, Value> {
    let value = |body: String| {
        let mut value: Value = serde_json::from_str(&body).unwrap();
        for time in ["create_time", "update_time"] {
            value.as_object_mut().unwrap().shift_remove(time);
        }
        value
    };
    bodies(gw, group).await.into_iter().map(|(path, body)| (path, value(body))).collect()
}

fn words(answer: &Value) -> Vec<String> {
    let word = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let changes = answer["changes"].as_array().unwrap_or_else(|| panic!("{answer}")).iter();
    changes.map(|one| ["op", "kind", "id"].map(|name| word(one, name)).join(" ")).collect()
}

async fn a_group_goes_into_a_file_and_comes_out_of_it(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).await;
    gw.done(
        r#"PUT /routes/1 {"uri":"/a","upstream_id":"1","plugins":{"traffic-split":{"x-later":[1.5,null,"a: b"]}}}"#,
    )
    .await;
    gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"k"}}}"#).await;
    gw.done(r#"PUT /consumers/jack/credentials/c {"plugins":{"key-auth":{"key":"l"}}}"#).await;
    gw.done(r#"PUT /plugin_metadata/http-logger {"log_format":{"a":"$host"}}"#).await;
    let kept = bodies(&gw, DEFAULT_GROUP).await;
    let (json, yaml) = (export(&gw, "default", "").await, export(&gw, "default", "format=yaml").await);
    assert!(yaml.contains("objects:\n  /routes/1:\n    id: \"1\"\n"), "{yaml}");
    for (id, media, file) in [("json", "application/json", &json), ("yaml", "application/yaml", &yaml)] {
        group(&gw, id).await;
        let (status, done) = arrive(&gw, &format!("/{id}/import?message=moved"), media, file).await;
        assert_eq!((status, &done["creates"], &done["revision"]), (200, &json!(5), &json!(1)), "{done}");
        assert_eq!(bodies(&gw, id).await, kept, "{id}");
        // Again, there is nothing to do.
        let (_, again) = arrive(&gw, &format!("/{id}/import?prune=true"), media, file).await;
        assert_eq!((&again["total"], &again["revision"]), (&json!(0), &json!(1)));
    }
    // A file is what the group is to be, if that is asked for.
    gw.done(r#"PUT /upstreams/2?gateway_group_id=json {"nodes":{}}"#).await;
    let plain = arrive(&gw, "/json/import?dry_run=true", "application/json", &json).await.1;
    assert_eq!(words(&plain), [""; 0]);
    let pruned = arrive(&gw, "/json/import?prune=true", "application/json", &json).await.1;
    assert_eq!(words(&pruned), ["delete upstream 2"]);
    let some = export(&gw, "default", "kinds=upstream,consumers&objects=/routes/1").await;
    let some: Value = serde_json::from_str(&some).unwrap();
    assert_eq!(
        some["objects"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["/routes/1", "/upstreams/1", "/consumers/jack"]
    );
    assert_eq!(with(&gw, "POST /json/import", "application/json", &json, None).await.status, 428);
    for (file, why) in [
        (r#"{"objects":{}}"#, "milecastle"),
        (r#"{"milecastle":2,"objects":{}}"#, "form 2"),
        (r#"{"milecastle":1,"objects":{"/nothing/1":{}}}"#, "/nothing/1"),
        (r#"{"milecastle":1,"objects":{"/routes/1":[]}}"#, "/routes/1"),
        (r#"{"milecastle":1,"objects":{},"later":1}"#, "later"),
    ] {
        let (status, refused) = arrive(&gw, "/json/import", "application/json", file).await;
        assert!(status == 400 && refused["message"].as_str().unwrap().contains(why), "{file}: {refused}");
    }
    for arguments in ["kinds=x", "objects=x", "existing=x", "prune=x"] {
        assert_eq!(
            arrive(&gw, &format!("/json/import?{arguments}"), "application/json", &json).await.0,
            400,
            "{arguments}"
        );
    }
}

async fn private_keys_stay_at_home(gw: Gateway) {
    let authority = milecastle_testkit::tls::Authority::new("test");
    let identity = authority.issue(&["a.test"]);
    let ssl = json!({ "snis": ["a.test"], "cert": identity.cert, "key": identity.key });
    gw.done(&format!("PUT /ssls/1 {ssl}")).await;
    let kept = bodies(&gw, DEFAULT_GROUP).await;
    let file = export(&gw, "default", "").await;
    assert!(file.contains("sealed:sha256:") && !file.contains("PRIVATE KEY"));
    // Where the key is, the mark stands for it; elsewhere it is refused, with its place.
    let (_, same) = arrive(&gw, "/default/import", "application/json", &file).await;
    assert_eq!((&same["total"], bodies(&gw, DEFAULT_GROUP).await), (&json!(0), kept));
    group(&gw, "prod").await;
    let (status, refused) = arrive(&gw, "/prod/import", "application/json", &file).await;
    assert_eq!((status, &refused["faults"][0]["path"]), (409, &json!("/key")), "{refused}");
    // Within the cluster it goes along.
    let (status, done) = arrive(&gw, "/prod/promote?from=default", "", "").await;
    assert_eq!((status, words(&done)), (200, vec!["create ssl 1".to_owned()]));
    assert_eq!(bodies(&gw, "prod").await, bodies(&gw, DEFAULT_GROUP).await);
    assert!(!done.to_string().contains("PRIVATE KEY"));
}

async fn objects_are_promoted_with_their_secrets(gw: Gateway) {
    group(&gw, "prod").await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).await;
    gw.done(r#"PUT /routes/1 {"uri":"/a","upstream_id":"1"}"#).await;
    gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"canary"}}}"#).await;
    gw.done(r#"PUT /upstreams/9?gateway_group_id=prod {"nodes":{}}"#).await;
    // Secrets go along, so reading there is not enough.
    let roles = json!([{ "role": "operator", "groups": ["prod"] }, { "role": "viewer", "groups": [DEFAULT_GROUP] }]);
    let token = Call::post("/api/tokens", json!({ "name": "t", "roles": roles }).to_string());
    let token = token.header("x-api-key", KEY).to(gw.address()).await.unwrap().json().unwrap();
    let promotion = Call::post("/api/gateway_groups/prod/promote?from=default", String::new()).header("if-match", "*");
    let refused = promotion.header("x-api-key", token["token"].as_str().unwrap()).to(gw.address()).await.unwrap();
    assert_eq!((refused.status, &refused.json().unwrap()["missing"]["group"]), (403, &json!(DEFAULT_GROUP)));
    // What is chosen names what is not: said with its place, and nothing is done.
    let (status, refused) = arrive(&gw, "/prod/promote?from=default&kinds=route", "", "").await;
    assert_eq!((status, &refused["faults"][0]["path"]), (409, &json!("/upstream_id")), "{refused}");
    let (_, some) = arrive(&gw, "/prod/promote?from=default&kinds=consumer&objects=/upstreams/1", "", "").await;
    assert_eq!(words(&some), ["create upstream 1", "create consumer jack"]);
    let (_, rest) = arrive(&gw, "/prod/promote?from=default&dry_run=true&prune=true", "", "").await;
    assert_eq!(words(&rest), ["create route 1", "delete upstream 9"]);
    assert_eq!(arrive(&gw, "/prod/promote?from=default&prune=true", "", "").await.0, 200);
    assert_eq!(bodies(&gw, "prod").await, bodies(&gw, DEFAULT_GROUP).await);
    assert!(!rest.to_string().contains("canary") && !some.to_string().contains("canary"));
    for (arguments, status) in [("", 400), ("from=none", 404)] {
        assert_eq!(arrive(&gw, &format!("/prod/promote?{arguments}"), "", "").await.0, status, "{arguments}");
    }
    // Settings go along only where they are named.
    let settings = with(&gw, "PUT /default/settings", "", r#"{"router":{"http":"radixtree_uri"}}"#, None).await;
    assert_eq!(settings.status, 200);
    assert_eq!(words(&arrive(&gw, "/prod/promote?from=default", "", "").await.1), [""; 0]);
    let named = arrive(&gw, "/prod/promote?from=default&kinds=group_settings", "", "").await.1;
    assert_eq!(words(&named), ["create group_settings group"]);
}

async fn what_arrives_names_its_object(gw: Gateway) {
    let file = |body: &str| format!(r#"{{"milecastle":1,"objects":{{"/upstreams/1":{body}}}}}"#);
    let import = async |body: &str| arrive(&gw, "/default/import", "application/json", &file(body)).await;
    let (status, refused) = import(r#"{"id":"2","nodes":{}}"#).await;
    assert_eq!((status, &refused["faults"][0]["path"]), (409, &json!("/id")), "{refused}");
    let (status, _) = import(r#"{"nodes":{}}"#).await;
    assert_eq!((status, &gw.done("GET /upstreams/1").await["id"]), (200, &json!("1")));
}

async fn what_arrives_may_leave_what_is_there(gw: Gateway) {
    group(&gw, "prod").await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).await;
    gw.done(r#"PUT /upstreams/2 {"nodes":{"a:1":1}}"#).await;
    gw.done(r#"PUT /upstreams/1?gateway_group_id=prod {"nodes":{"b:1":1}}"#).await;
    let promote = async |existing: &str| {
        arrive(&gw, &format!("/prod/promote?from=default&dry_run=true&existing={existing}"), "", "").await.1
    };
    assert_eq!(words(&promote("keep").await), ["create upstream 2"]);
    assert_eq!(words(&promote("overwrite").await), ["update upstream 1", "create upstream 2"]);
    assert_eq!(promote("refuse").await["faults"][0]["id"], "1");
    assert_eq!(arrive(&gw, "/prod/promote?from=default&existing=refuse", "", "").await.0, 409);
    assert_eq!(bodies(&gw, "prod").await.len(), 1);
}

/// Whatever a body holds, every path by which it can go brings all of it along.
async fn no_path_drops_what_it_does_not_know(gw: Gateway) {
    let mut seed = 11_u64;
    let mut next = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..12 {
        // A plugin's configuration may hold anything, in any order and however deep.
        let odd = value(&mut next, 4);
        let spaces = " ".repeat(usize::try_from(next(3)).unwrap());
        let body = format!(
            r#"{{{spaces}"uri":"/a{round}","plugins":{{"traffic-split":{{"x":{odd}}}}},"id":"1","upstream":{{"nodes":{{}}}}}}"#
        );
        let from = format!("from-{round}");
        group(&gw, &from).await;
        let put = Put::new(Key::new(Kind::Route, "1"), body.clone());
        gw.by().publish(&from, ChangeSet::new(Source::Api, vec![Op::Put(put)])).await.unwrap();
        let kept = BTreeMap::from([("/routes/1".to_owned(), body.clone())]);
        let value = said(&gw, &from).await;
        // Into a file and out of it: byte for byte as JSON.
        let (json, yaml) = (export(&gw, &from, "").await, export(&gw, &from, "format=yaml").await);
        let to = |way: &str| format!("{way}-{round}");
        for way in ["json", "yaml", "promoted"] {
            group(&gw, &to(way)).await;
        }
        assert_eq!(arrive(&gw, &format!("/{}/import", to("json")), "application/json", &json).await.0, 200);
        assert_eq!(bodies(&gw, &to("json")).await, kept);
        assert_eq!(arrive(&gw, &format!("/{}/import", to("yaml")), "application/yaml", &yaml).await.0, 200);
        assert_eq!(said(&gw, &to("yaml")).await, value, "{yaml}");
        assert_eq!(arrive(&gw, &format!("/{}/promote?from={from}", to("promoted")), "", "").await.0, 200);
        assert_eq!(bodies(&gw, &to("promoted")).await, kept);
        // Changed and brought back: byte for byte.
        gw.done(&format!(r#"PUT /routes/1?gateway_group_id={from} {{"uri":"/b","upstream":{{"nodes":{{}}}}}}"#)).await;
        assert_eq!(arrive(&gw, &format!("/{from}/revisions/1/rollback"), "", "").await.0, 200);
        assert_eq!(bodies(&gw, &from).await, kept);
        // Through a draft that merges something else into it.
        let patch =
            json!({ "edits": [{ "op": "patch", "kind": "route", "id": "1", "body": { "desc": "d" } }], "id": "d" });
        assert_eq!(with(&gw, &format!("POST /{from}/drafts"), "", &patch.to_string(), None).await.status, 201);
        assert_eq!(arrive(&gw, &format!("/{from}/drafts/d/publish"), "", "").await.0, 200);
        let mut expected = value;
        expected.get_mut("/routes/1").unwrap()["desc"] = "d".into();
        assert_eq!(said(&gw, &from).await, expected);
    }
}

/// A JSON value of some depth at most.
fn value(next: &mut impl FnMut(u64) -> u64, depth: u32) -> Value {
    let name = |n: u64| ["a", "A", "é", "x y", "null", "", "0", "~"][usize::try_from(n % 8).unwrap()];
    match next(if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => (next(2) == 0).into(),
        2 => (next(1 << 31) << 32).into(),
        3 => json!(-(i64::try_from(next(1 << 30)).unwrap())),
        4 => json!(1.0 / (1 + next(1000)) as f64),
        5 => ["", "no", "1", " a ", "a: b", "#", "é\n\"", "{"][usize::try_from(next(8)).unwrap()].into(),
        6 => (0..next(4)).map(|_| value(next, depth - 1)).collect(),
        _ => {
            let mut members = serde_json::Map::new();
            for _ in 0..next(5) {
                let name = name(next(8));
                members.insert(name.to_owned(), value(next, depth - 1));
            }
            members.into()
        }
    }
}
