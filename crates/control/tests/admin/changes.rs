//! Revisions as wholes: what a group was, what lies between two, and the way back.

use crate::gateway::{Gateway, KEY, on_both};
use http::Method;
use milecastle_settings::{History, Time};
use milecastle_store::DEFAULT_GROUP;
use milecastle_testkit::{Answer, Call, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;

on_both!(
    differences_of_any_two_revisions,
    a_rollback_says_first_what_it_will_do,
    what_is_put_back_is_what_was_there_byte_for_byte,
    a_rollback_that_does_not_fit_changes_nothing,
    settings_come_back_with_the_objects_that_need_them,
    what_is_forgotten_is_said,
);

const REVISIONS: &str = "/api/gateway_groups/default/revisions";

async fn with(gw: &Gateway, method: Method, path: &str, tag: Option<&str>) -> Answer {
    let call = Call::new(method, path).header("x-api-key", KEY);
    let call = if let Some(tag) = tag { call.header("if-match", tag) } else { call };
    call.to(gw.address()).await.unwrap()
}

async fn get(gw: &Gateway, path: &str) -> Value {
    let answer = with(gw, Method::GET, &format!("{REVISIONS}/{path}"), None).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json().unwrap()
}

async fn rollback(gw: &Gateway, to: &str, arguments: &str, tag: Option<&str>) -> (u16, Value) {
    let answer = with(gw, Method::POST, &format!("{REVISIONS}/{to}/rollback?{arguments}"), tag).await;
    (answer.status, answer.json().unwrap())
}

/// The changes of an answer in short.
fn words(answer: &Value) -> Vec<String> {
    let word = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let changes = answer["changes"].as_array().unwrap().iter();
    changes.map(|one| ["op", "kind", "id"].map(|name| word(one, name)).join(" ")).collect()
}

/// The bodies of the default group as the store has them.
async fn bodies(gw: &Gateway) -> BTreeMap<String, Vec<u8>> {
    let objects = gw.store.load(DEFAULT_GROUP).await.unwrap().objects;
    objects.into_iter().map(|object| (object.key.path(), object.body.to_vec())).collect()
}

async fn differences_of_any_two_revisions(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1},"desc":"one"}"#).await;
    gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"canary-one"}}}"#).await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":2},"desc":"one"}"#).await;
    gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"canary-two"}}}"#).await;
    gw.send("DELETE /upstreams/1").await;
    let diff = get(&gw, "2/diff/4").await;
    assert_eq!(words(&diff), ["update upstream 1", "update consumer jack"]);
    assert_eq!(
        (&diff["from"], &diff["to"], &diff["updates"], &diff["total"]),
        (&json!(2), &json!(4), &json!(2), &json!(2))
    );
    let [upstream, consumer] = [&diff["changes"][0], &diff["changes"][1]];
    assert_eq!(
        (&upstream["before"], &upstream["after"]),
        (&json!({ "nodes": { "a:1": 1 } }), &json!({ "nodes": { "a:1": 2 } }))
    );
    let shown = |mask: &str| json!({ "plugins": { "key-auth": { "key": mask } } });
    assert_eq!((&consumer["before"], &consumer["after"]), (&shown("******"), &shown("****** (changed)")));
    // The other way round, from nothing, and to what is now.
    assert_eq!(words(&get(&gw, "4/diff/2").await), words(&diff));
    assert_eq!(words(&get(&gw, "0/diff/1").await), ["create upstream 1"]);
    assert_eq!(words(&get(&gw, "1/diff/head").await), ["delete upstream 1", "create consumer jack"]);
    assert_eq!(words(&get(&gw, "3/diff/3").await), [""; 0]);
    let page = get(&gw, "1/diff/head?limit=1&offset=1").await;
    assert_eq!((words(&page), &page["total"]), (vec!["create consumer jack".to_owned()], &json!(2)));
    // What there was at a revision, without secrets.
    let then = get(&gw, "2/objects").await;
    assert_eq!(
        (&then["revision"], &then["total"], &then["list"][0]["body"]["desc"]),
        (&json!(2), &json!(2), &json!("one"))
    );
    let jack = get(&gw, "4/objects?kind=consumer&id=jack").await;
    assert_eq!((&jack["total"], &jack["list"][0]["modified"]), (&json!(1), &json!(4)));
    assert!(!jack.to_string().contains("canary") && !diff.to_string().contains("canary"));
    for (path, status) in [("1/diff/99", 404), ("x/diff/1", 400), ("1/diff/2?limit=0", 400), ("1/objects?kind=x", 400)]
    {
        assert_eq!(with(&gw, Method::GET, &format!("{REVISIONS}/{path}"), None).await.status, status, "{path}");
    }
}

async fn a_rollback_says_first_what_it_will_do(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).await;
    gw.done(r#"PUT /routes/1 {"uri":"/a","upstream_id":"1"}"#).await;
    let kept = bodies(&gw).await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{"b:1":1}}"#).await;
    gw.send("DELETE /routes/1").await;
    gw.done(r#"PUT /routes/2 {"uri":"/b","upstream_id":"1"}"#).await;
    let (status, said) = rollback(&gw, "2", "dry_run=true", None).await;
    assert_eq!((status, &said["base"], &said["faults"], &said["dry_run"]), (200, &json!(5), &json!([]), &json!(true)));
    assert_eq!(words(&said), ["create route 1", "delete route 2", "update upstream 1"]);
    assert_eq!(gw.revision().await, 5, "nothing was done");
    // Only on top of what it was planned of.
    assert_eq!(rollback(&gw, "2", "", None).await.0, 428);
    let (status, stale) = rollback(&gw, "2", "", Some("\"4\"")).await;
    assert_eq!((status, &stale["code"], &stale["current"]), (412, &json!("stale_revision"), &json!(5)));
    assert_eq!(gw.revision().await, 5);
    let (status, done) = rollback(&gw, "2", "message=too%20early&wait=1ms", Some("\"5\"")).await;
    assert_eq!((status, &done["revision"], &done["receipt"]), (200, &json!(6), &json!("applied 0/0")), "{done}");
    assert_eq!((words(&done), bodies(&gw).await), (words(&said), kept));
    let listed = get(&gw, "6").await;
    assert_eq!(
        (&listed["message"], &listed["source"], &listed["author"]),
        (&json!("too early"), &json!("rollback"), &json!("admin"))
    );
    // Again, there is nothing to do; and back to before the rollback there is.
    let (_, again) = rollback(&gw, "2", "", Some("*")).await;
    assert_eq!((&again["revision"], &again["total"]), (&json!(6), &json!(0)));
    let (_, undone) = rollback(&gw, "5", "", Some("*")).await;
    assert_eq!(words(&undone), ["delete route 1", "create route 2", "update upstream 1"]);
    // It is in the audit log as any change.
    let audit = with(&gw, Method::GET, "/api/audit?kind=route&object=2", None).await.json().unwrap();
    assert_eq!((&audit["list"][0]["action"], &audit["list"][0]["revision"]), (&json!("create"), &json!(7)));
    assert_eq!(rollback(&gw, "99", "dry_run=true", None).await.0, 404);
    assert_eq!(rollback(&gw, "1", "dry_run=perhaps", None).await.0, 400);
}

async fn what_is_put_back_is_what_was_there_byte_for_byte(gw: Gateway) {
    // Members that no version knows, spaces, numbers as they were written, and secrets.
    let odd = br#"{ "id":"1","uri" : "/a",  "plugins":{"traffic-split":{"x-of-a-later-version":{"n":1.50,"big":12345678901234567890}}}, "upstream":{"nodes":{"a:1":1}} }"#;
    let put = milecastle_store::Put::new(milecastle_model::Key::new(milecastle_model::Kind::Route, "1"), &odd[..]);
    let set = milecastle_store::ChangeSet::new(milecastle_store::Source::Api, vec![milecastle_store::Op::Put(put)]);
    gw.by().publish(DEFAULT_GROUP, set).await.unwrap();
    gw.done(r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"canary"}}}"#).await;
    gw.done(r#"PUT /consumers/jack/credentials/c {"plugins":{"key-auth":{"key":"canary-two"}}}"#).await;
    let kept = bodies(&gw).await;
    gw.done(r#"PUT /routes/1 {"uri":"/b","upstream":{"nodes":{}}}"#).await;
    gw.send("DELETE /consumers/jack").await;
    let (status, said) = rollback(&gw, "3", "", Some("*")).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(words(&said), ["update route 1", "create consumer jack", "create credential jack/credentials/c"]);
    assert_eq!(bodies(&gw).await, kept);
    assert!(!said.to_string().contains("canary"));
    // The keys count again: nobody else may have them.
    let taken = gw.send(r#"PUT /consumers {"username":"jill","plugins":{"key-auth":{"key":"canary"}}}"#).await;
    assert_eq!(taken.status, 400, "{}", taken.text());
    // What lives below goes along, and is said to.
    let (_, back) = rollback(&gw, "5", "dry_run=true", None).await;
    assert_eq!(words(&back), ["update route 1", "delete consumer jack", "delete credential jack/credentials/c"]);
}

async fn a_rollback_that_does_not_fit_changes_nothing(gw: Gateway) {
    let fault = |answer: &Value| answer["faults"][0].clone();
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).await;
    gw.done(r#"PUT /routes/1 {"uri":"/a","upstream_id":"1"}"#).await;
    assert_eq!(gw.send("DELETE /upstreams/1?force=true").await.status, 200);
    gw.done(r#"PUT /routes/1 {"uri":"/b","upstream":{"nodes":{"a:1":1}}}"#).await;
    // The route of then names what was not there.
    let missing = json!({
        "kind": "route", "id": "1", "path": "/upstream_id",
        "message": "failed to fetch upstream info by upstream id [1], response code: 404",
    });
    let (status, said) = rollback(&gw, "3", "dry_run=true", None).await;
    assert_eq!((status, fault(&said), words(&said)), (200, missing.clone(), vec!["update route 1".to_owned()]));
    let (status, refused) = rollback(&gw, "3", "", Some("*")).await;
    assert_eq!((status, &refused["code"], fault(&refused)), (409, &json!("unfit_change_set"), missing));
    assert!(refused["message"].as_str().unwrap().contains("/routes/1: /upstream_id: failed to fetch"), "{refused}");
    assert_eq!(gw.revision().await, 4);
    let (status, forced) = rollback(&gw, "3", "force=true", Some("*")).await;
    assert_eq!((status, &forced["revision"]), (200, &json!(5)), "{forced}");
    // What would go is in use by what stays: only the database tells.
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).await;
    let used = json!({
        "kind": "upstream", "id": "1", "path": "",
        "message": "can not delete this upstream, route [1] is still using it now",
    });
    assert_eq!(fault(&rollback(&gw, "5", "dry_run=true", None).await.1), used);
    assert_eq!(fault(&rollback(&gw, "5", "", Some("*")).await.1), used);
    assert_eq!(gw.revision().await, 6);
}

async fn settings_come_back_with_the_objects_that_need_them(gw: Gateway) {
    let settings = async |arguments: &str, body: &str| {
        let path = format!("/api/gateway_groups/default/settings?{arguments}");
        let call = Call::new(Method::PUT, &path).header("x-api-key", KEY).body(body.to_owned());
        let answer = call.to(gw.address()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let counted = r#"{"uri":"/a","plugins":{"limit-count":{"count":1}},"upstream":{"nodes":{}}}"#;
    gw.done(&format!("PUT /routes/1 {counted}")).await;
    settings("force=true", r#"{"plugins":["key-auth"]}"#).await;
    gw.done(r#"PUT /routes/2 {"uri":"/b","upstream":{"nodes":{}}}"#).await;
    settings("", "{}").await;
    gw.done(&format!("PUT /routes/2 {counted}")).await;
    // The first route stays as it is, and could not be built under the settings of then.
    let (_, said) = rollback(&gw, "3", "dry_run=true", None).await;
    let unknown = json!([{ "kind": "route", "id": "1", "path": "/plugins/limit-count", "message": "unknown plugin [limit-count]" }]);
    assert_eq!(
        (&said["faults"], words(&said)),
        (&unknown, vec!["update route 2".to_owned(), "update group_settings group".to_owned()])
    );
    assert_eq!(rollback(&gw, "3", "force=true", Some("*")).await.0, 200);
    // Under the settings that it leads to, what needs them comes back with them.
    let (status, back) = rollback(&gw, "5", "", Some("*")).await;
    assert_eq!(
        (status, words(&back)),
        (200, vec!["update route 2".to_owned(), "update group_settings group".to_owned()])
    );
}

async fn what_is_forgotten_is_said(gw: Gateway) {
    gw.done(r#"PUT /upstreams/old {"nodes":{"a:1":1}}"#).await;
    for n in 0..8 {
        gw.done(&format!(r#"PUT /upstreams/1 {{"nodes":{{"a:1":{n}}}}}"#)).await;
    }
    let interval = Time::millis(50);
    let gw = gw.next_leader(History { changes: 4, min_changes: 1, interval, ..History::default() }).await;
    eventually("history is trimmed", async || gw.store.group_get(DEFAULT_GROUP).await.unwrap().floor == 5).await;
    let (status, said) = rollback(&gw, "4", "dry_run=true", None).await;
    assert_eq!((status, &said["code"], &said["floor"]), (410, &json!("revision_forgotten"), &json!(5)));
    assert_eq!(with(&gw, Method::GET, &format!("{REVISIONS}/1/diff/2"), None).await.status, 410);
    // What has not been touched since long before comes back all the same.
    let gw = gw.next_leader(History::default()).await;
    gw.send("DELETE /upstreams/old").await;
    let (status, said) = rollback(&gw, "5", "", Some("*")).await;
    assert_eq!((status, words(&said)), (200, vec!["update upstream 1".to_owned(), "create upstream old".to_owned()]));
    assert_eq!(gw.done("GET /upstreams/1").await["nodes"], json!({ "a:1": 3 }));
}
