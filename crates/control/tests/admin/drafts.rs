//! Change sets of edits: at once, and prepared as drafts.

use crate::gateway::{Gateway, KEY, VIEWER, on_both};
use http::Method;
use milecastle_settings::{History, Time};
use milecastle_store::DEFAULT_GROUP;
use milecastle_testkit::{Answer, Call, eventually};
use serde_json::{Value, json};

on_both!(
    edits_of_any_kinds_are_one_revision_or_none,
    a_draft_is_prepared_here_and_published_there,
    what_others_have_changed_meanwhile_is_not_overwritten,
    two_who_edit_a_draft_do_not_overwrite_each_other,
    patches_merge_into_every_kind_and_keep_what_they_do_not_name,
    drafts_hold_their_secrets_sealed_and_show_none,
    whoever_may_not_write_a_kind_publishes_none_of_it,
    drafts_are_bounded_and_forgotten,
    what_is_published_to_all_groups_is_one_list,
);

const GROUP: &str = "/api/gateway_groups/default";

async fn with(gw: &Gateway, key: &str, line: &str, body: &Value, tag: Option<&str>) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let path = if path.starts_with("/api") { path.to_owned() } else { format!("{GROUP}{path}") };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let call = Call::new(method, &path).header("x-api-key", key).body(body);
    let call = if let Some(tag) = tag { call.header("if-match", tag) } else { call };
    call.to(gw.address()).await.unwrap()
}

/// Sends what must be answered with this status; gives the answer.
async fn send(gw: &Gateway, line: &str, body: Value, status: u16) -> Value {
    let answer = with(gw, KEY, line, &body, None).await;
    assert_eq!(answer.status, status, "{line}: {}", answer.text());
    answer.json().unwrap_or_default()
}

fn edit(op: &str, kind: &str, id: &str, body: Value) -> Value {
    json!({ "op": op, "kind": kind, "id": id, "body": body })
}

fn words(answer: &Value) -> Vec<String> {
    let word = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let changes = answer["changes"].as_array().unwrap().iter();
    changes.map(|one| ["op", "kind", "id"].map(|name| word(one, name)).join(" ")).collect()
}

async fn edits_of_any_kinds_are_one_revision_or_none(gw: Gateway) {
    // In whatever order: references are looked at in the end.
    let edits = json!({ "edits": [
        edit("put", "route", "1", json!({ "uri": "/a", "upstream_id": "1" })),
        edit("put", "upstream", "1", json!({ "nodes": { "a:1": 1 } })),
        edit("put", "consumer", "jack", json!({ "plugins": {} })),
        edit("put", "credential", "jack/credentials/c", json!({ "plugins": { "key-auth": { "key": "canary" } } })),
    ] });
    let said = send(&gw, "POST /changes?dry_run=true", edits.clone(), 200).await;
    assert_eq!(
        words(&said),
        ["create route 1", "create upstream 1", "create consumer jack", "create credential jack/credentials/c"]
    );
    assert_eq!((&said["faults"], gw.revision().await), (&json!([]), 0));
    let done = send(&gw, "POST /changes?message=first&wait=1ms", edits, 200).await;
    assert_eq!((&done["revision"], &done["receipt"], gw.revision().await), (&json!(1), &json!("applied 0/0"), 1));
    let route = gw.done("GET /routes/1").await;
    assert!(route["create_time"].is_u64() && route["id"] == "1", "{route}");
    let listed = send(&gw, "GET /revisions/1", Value::Null, 200).await;
    assert_eq!((&listed["message"], &listed["puts"]), (&json!("first"), &json!(4)));
    // One that does not fit keeps all of them out.
    let unfit = json!({ "edits": [
        edit("delete", "route", "1", Value::Null),
        edit("put", "route", "2", json!({ "uri": "/b", "upstream_id": "9" })),
    ] });
    let refused = send(&gw, "POST /changes", unfit.clone(), 409).await;
    assert_eq!((&refused["code"], &refused["faults"][0]["path"]), (&json!("unfit_change_set"), &json!("/upstream_id")));
    assert_eq!(send(&gw, "POST /changes?dry_run=true", unfit, 200).await["faults"], refused["faults"]);
    assert_eq!(gw.revision().await, 1);
    let stale = with(&gw, KEY, "POST /changes", &json!({ "edits": [] }), Some("\"0\"")).await;
    assert_eq!(stale.status, 412, "{}", stale.text());
    for (edit, path) in [
        (edit("put", "routes", "1", json!({})), "/edits/0"),
        (edit("put", "credential", "c", json!({})), "/edits/0"),
        (edit("put", "group_settings", "group", json!({})), "/edits/0"),
        (edit("put", "route", "1", json!({ "id": "2" })), "/edits/0/body/id"),
        (edit("put", "route", "1", json!({ "create_time": 1 })), "/edits/0/body/create_time"),
        (edit("patch", "route", "1", Value::Null), "/edits/0/body"),
    ] {
        let refused = send(&gw, "POST /changes", json!({ "edits": [edit] }), 400).await;
        assert_eq!(refused["path"], path, "{edit}: {refused}");
    }
    // It is well-formed: only there is nothing that it could be merged into.
    let nothing = json!({ "edits": [edit("patch", "route", "9", json!({ "uri": "/a" }))] });
    let refused = send(&gw, "POST /changes", nothing, 409).await;
    assert_eq!((&refused["code"], &refused["path"]), (&json!("unfit_change_set"), &json!("/edits/0/body")));
    assert_eq!(
        send(&gw, "POST /changes", json!({ "edits": [edit("leave", "route", "1", json!({}))] }), 400).await["code"],
        "invalid_body"
    );
}

async fn a_draft_is_prepared_here_and_published_there(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).await;
    let begun = json!({ "id": "summer", "name": "Summer sale", "message": "more nodes", "edits": [
        edit("patch", "upstream", "1", json!({ "nodes": { "b:1": 1 } })),
    ] });
    let made = send(&gw, "POST /drafts", begun.clone(), 201).await;
    assert_eq!((&made["version"], &made["objects"], &made["author"]), (&json!(1), &json!(1), &json!("admin")));
    assert_eq!(send(&gw, "POST /drafts", begun, 409).await["code"], "draft_exists");
    // Another replica has it too.
    let other = gw.replica().await;
    let edits = json!({ "edits": [
        edit("put", "route", "1", json!({ "uri": "/a", "upstream_id": "1" })),
        edit("patch", "route", "1", json!({ "desc": "merged into what is drafted" })),
        edit("put", "route", "2", json!({ "uri": "/b", "upstream_id": "1" })),
    ] });
    assert_eq!(send(&other, "PATCH /drafts/summer", edits, 200).await["objects"], 3);
    let left = json!({ "edits": [edit("leave", "route", "2", Value::Null)], "name": "Sale" });
    assert_eq!(send(&other, "PATCH /drafts/summer", left, 200).await["version"], 3);
    let shown = send(&gw, "GET /drafts/summer", Value::Null, 200).await;
    assert_eq!(words(&shown), ["create route 1", "update upstream 1"]);
    assert_eq!(
        (&shown["draft"]["name"], &shown["faults"], &shown["clashes"]),
        (&json!("Sale"), &json!([]), &json!([]))
    );
    assert_eq!(shown["changes"][1]["after"]["nodes"], json!({ "b:1": 1 }));
    assert_eq!(send(&gw, "GET /drafts", Value::Null, 200).await["total"], 1);
    assert_eq!(gw.revision().await, 1, "a draft is no configuration");
    assert_eq!(gw.send("GET /routes/1").await.status, 404);
    let done = send(&other, "POST /drafts/summer/publish", Value::Null, 200).await;
    assert_eq!(done["revision"], 2, "{done}");
    assert_eq!(gw.done("GET /routes/1").await["desc"], "merged into what is drafted");
    assert_eq!(gw.done("GET /upstreams/1").await["nodes"], json!({ "a:1": 1, "b:1": 1 }));
    assert_eq!(send(&gw, "GET /revisions/2", Value::Null, 200).await["message"], "more nodes");
    // Published once, it is gone.
    assert_eq!(send(&gw, "POST /drafts/summer/publish", Value::Null, 404).await["code"], "no_such_draft");
    let audit = send(&gw, "GET /api/audit?kind=draft", Value::Null, 200).await;
    let actions: Vec<_> = audit["list"].as_array().unwrap().iter().map(|one| one["action"].clone()).collect();
    assert_eq!(actions, ["update", "update", "create"]);
    assert_eq!(audit["list"][2]["after"]["puts"], json!(["/upstreams/1"]));
    // One that is not wanted any more.
    send(&gw, "POST /drafts", json!({ "id": "other" }), 201).await;
    assert_eq!(with(&gw, KEY, "DELETE /drafts/other", &Value::Null, None).await.status, 204);
    send(&gw, "DELETE /drafts/other", Value::Null, 404).await;
}

async fn what_others_have_changed_meanwhile_is_not_overwritten(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1 {"nodes":{"a:1":1}}"#).await;
    gw.done(r#"PUT /upstreams/2 {"nodes":{"a:1":1}}"#).await;
    let edits = json!({ "id": "d", "edits": [
        edit("patch", "upstream", "1", json!({ "desc": "mine" })),
        edit("delete", "upstream", "2", Value::Null),
        edit("put", "upstream", "3", json!({ "nodes": { "a:1": 1 } })),
        edit("put", "upstream", "4", json!({ "nodes": {} })),
    ] });
    send(&gw, "POST /drafts", edits, 201).await;
    gw.done(r#"PATCH /upstreams/1 {"desc":"theirs"}"#).await;
    gw.done(r#"PATCH /upstreams/2 {"desc":"theirs"}"#).await;
    gw.done(r#"PUT /upstreams/3 {"nodes":{"b:1":1}}"#).await;
    // The same was made meanwhile: no harm.
    gw.done(r#"PUT /upstreams/4 {"nodes":{}}"#).await;
    let clashes = json!([
        { "kind": "upstream", "id": "1", "seen": 1, "current": 3 },
        { "kind": "upstream", "id": "2", "seen": 2, "current": 4 },
        { "kind": "upstream", "id": "3", "seen": null, "current": 5 },
    ]);
    assert_eq!(send(&gw, "POST /drafts/d/publish?dry_run=true", Value::Null, 200).await["clashes"], clashes);
    let refused = send(&gw, "POST /drafts/d/publish?force=true", Value::Null, 409).await;
    assert_eq!((&refused["code"], &refused["clashes"]), (&json!("clashing_draft"), &clashes));
    assert!(
        refused["message"].as_str().unwrap().contains("/upstreams/1 is of revision 3 by now, and was of revision 1"),
        "{refused}"
    );
    assert_eq!(gw.done("GET /upstreams/1").await["desc"], "theirs");
    // Edited again, they are of what is there now.
    let again = json!({ "edits": [
        edit("leave", "upstream", "2", Value::Null),
        edit("put", "upstream", "3", json!({ "nodes": { "c:1": 1 } })),
        edit("leave", "upstream", "1", Value::Null),
        edit("patch", "upstream", "1", json!({ "retries": 2 })),
    ] });
    send(&gw, "PATCH /drafts/d", again, 200).await;
    let done = send(&gw, "POST /drafts/d/publish", Value::Null, 200).await;
    assert_eq!(words(&done), ["update upstream 1", "update upstream 3"]);
    let upstream = gw.done("GET /upstreams/1").await;
    assert_eq!((&upstream["desc"], &upstream["retries"]), (&json!("theirs"), &json!(2)));
}

async fn two_who_edit_a_draft_do_not_overwrite_each_other(gw: Gateway) {
    send(&gw, "POST /drafts", json!({ "id": "d" }), 201).await;
    let edits = |id: &str| json!({ "edits": [edit("put", "upstream", id, json!({ "nodes": {} }))] });
    let shown = with(&gw, KEY, "GET /drafts/d", &Value::Null, None).await;
    let tag = shown.header("etag");
    assert_eq!(tag, "\"1\"");
    assert_eq!(with(&gw, KEY, "PATCH /drafts/d", &edits("1"), Some(&tag)).await.status, 200);
    let late = with(&gw, KEY, "PATCH /drafts/d", &edits("2"), Some(&tag)).await;
    assert_eq!((late.status, late.json().unwrap()["code"].as_str()), (412, Some("stale_draft")));
    // Whoever does not say what he has seen adds to what there is, however many do at once.
    let all = (10..20).map(|n| {
        let (gw, edits) = (&gw, edits(&n.to_string()));
        async move { with(gw, KEY, "PATCH /drafts/d", &edits, None).await.status }
    });
    assert!(futures_util::future::join_all(all).await.iter().all(|status| *status == 200));
    assert_eq!(send(&gw, "GET /drafts/d", Value::Null, 200).await["draft"]["objects"], 11);
    // Nor does whoever has seen an earlier one discard it.
    let discard = async |lines: &[&str]| {
        let call = Call::new(Method::DELETE, &format!("{GROUP}/drafts/d")).header("x-api-key", KEY);
        let call = lines.iter().fold(call, |call, line| call.header("if-match", line));
        let answer = call.to(gw.address()).await.unwrap();
        (answer.status, answer.json().map(|told| told["current"].clone()).ok())
    };
    for lines in [&["\"1\""][..], &["\"1\"", "\"11\""], &["W/\"12\""], &["\"another's\""]] {
        assert_eq!(discard(lines).await, (412, Some(json!(12))), "{lines:?}");
    }
    assert_eq!(discard(&["yesterday"]).await.0, 400);
    assert_eq!(discard(&["\"1\", \"2\"", "\"12\""]).await, (204, None));
    send(&gw, "POST /drafts", json!({ "id": "d" }), 201).await;
    assert_eq!(discard(&["*"]).await.0, 204);
}

async fn patches_merge_into_every_kind_and_keep_what_they_do_not_name(gw: Gateway) {
    let gw = gw.with_streams().await;
    let upstream = json!({ "nodes": { "a:1": 1 }, "labels": { "a": "1", "b": "2" } });
    // Of each kind one object, a patch, and what comes of it beside the rest.
    let cases = [
        (
            "upstream",
            "1",
            upstream,
            json!({ "labels": { "a": null, "c": "3" } }),
            json!({ "labels": { "b": "2", "c": "3" } }),
        ),
        (
            "service",
            "1",
            json!({ "upstream_id": "1", "name": "s" }),
            json!({ "desc": "d" }),
            json!({ "desc": "d", "name": "s" }),
        ),
        (
            "route",
            "1",
            json!({ "uri": "/a", "service_id": "1", "plugins": { "traffic-split": { "x-later": 1 } } }),
            // By RFC 7396: an empty object changes nothing, and what was not there cannot be taken away.
            json!({ "desc": "d", "plugins": {}, "labels": { "a": null } }),
            json!({ "desc": "d", "plugins": { "traffic-split": { "x-later": 1 } }, "labels": {} }),
        ),
        (
            "consumer_group",
            "1",
            json!({ "plugins": { "traffic-split": { "x": 1 } } }),
            json!({ "desc": "d" }),
            json!({ "plugins": { "traffic-split": { "x": 1 } } }),
        ),
        (
            "consumer",
            "jack",
            json!({ "plugins": { "key-auth": { "key": "k" } } }),
            json!({ "group_id": "1" }),
            json!({ "username": "jack", "plugins": { "key-auth": { "key": "k" } } }),
        ),
        (
            "credential",
            "jack/credentials/c",
            json!({ "plugins": { "key-auth": { "key": "l" } } }),
            json!({ "desc": "d" }),
            json!({ "id": "c", "plugins": { "key-auth": { "key": "l" } } }),
        ),
        (
            "global_rule",
            "1",
            json!({ "plugins": { "traffic-split": { "x": 1 } } }),
            json!({ "plugins": { "traffic-split": { "y": 2 } } }),
            json!({ "plugins": { "traffic-split": { "x": 1, "y": 2 } } }),
        ),
        (
            "plugin_config",
            "1",
            json!({ "plugins": {}, "desc": "d" }),
            json!({ "labels": { "a": "1" } }),
            json!({ "desc": "d" }),
        ),
        (
            "plugin_metadata",
            "http-logger",
            json!({ "log_format": { "a": "$host" } }),
            json!({ "log_format": { "b": "$uri" } }),
            json!({ "log_format": { "a": "$host", "b": "$uri" } }),
        ),
        (
            "stream_route",
            "1",
            json!({ "upstream_id": "1", "desc": "a" }),
            json!({ "server_port": 9100 }),
            json!({ "desc": "a", "server_port": 9100 }),
        ),
        (
            "proto",
            "1",
            json!({ "content": "syntax = \"proto3\"; message A {}" }),
            json!({ "desc": "d" }),
            json!({ "desc": "d" }),
        ),
        (
            "secret",
            "vault/1",
            json!({ "uri": "http://127.0.0.1:8200", "prefix": "p", "token": "t" }),
            json!({ "prefix": "q" }),
            json!({ "prefix": "q", "token": "t", "id": "vault/1" }),
        ),
    ];
    let puts: Vec<Value> = cases.iter().map(|(kind, id, body, ..)| edit("put", kind, id, body.clone())).collect();
    let done = send(&gw, "POST /changes", json!({ "edits": puts }), 200).await;
    assert_eq!(done["creates"], cases.len(), "{done}");
    let patches: Vec<Value> =
        cases.iter().map(|(kind, id, _, patch, _)| edit("patch", kind, id, patch.clone())).collect();
    let done = send(&gw, "POST /changes", json!({ "edits": patches }), 200).await;
    assert_eq!(done["updates"], cases.len(), "{done}");
    let objects = gw.store.load(DEFAULT_GROUP).await.unwrap().objects;
    for (kind, id, _, _, expected) in cases {
        let object = objects.iter().find(|object| object.key.kind.name() == kind && &*object.key.id == id).unwrap();
        let body: Value = serde_json::from_slice(&object.body).unwrap();
        for (member, value) in expected.as_object().unwrap() {
            assert_eq!(&body[member], value, "{kind}: {body}");
        }
    }
}

async fn drafts_hold_their_secrets_sealed_and_show_none(gw: Gateway) {
    let body = json!({ "plugins": { "key-auth": { "key": "canary-of-a-draft" } } });
    let made = json!({ "id": "d", "edits": [edit("put", "consumer", "jack", body)] });
    let mut seen = vec![send(&gw, "POST /drafts", made, 201).await];
    seen.push(send(&gw, "GET /drafts/d", Value::Null, 200).await);
    seen.push(send(&gw, "GET /drafts", Value::Null, 200).await);
    seen.push(send(&gw, "POST /drafts/d/publish?dry_run=true", Value::Null, 200).await);
    seen.push(send(&gw, "GET /api/audit?kind=draft", Value::Null, 200).await);
    assert_eq!(seen[1]["changes"][0]["after"]["plugins"]["key-auth"]["key"], "******");
    assert!(!json!(seen).to_string().contains("canary"));
    let stored = gw.store.draft_get(DEFAULT_GROUP, "d").await.unwrap().unwrap().1;
    assert!(String::from_utf8_lossy(stored[0].body.as_ref().unwrap()).contains("canary"));
    if let Some(database) = gw.database() {
        let dump = database.dump().unwrap();
        assert!(dump.contains("draft_change") && !dump.contains("canary"));
    }
    send(&gw, "POST /drafts/d/publish", Value::Null, 200).await;
    assert_eq!(gw.done("GET /consumers/jack").await["plugins"]["key-auth"]["key"], "canary-of-a-draft");
}

async fn whoever_may_not_write_a_kind_publishes_none_of_it(gw: Gateway) {
    let owner = json!({ "name": "owner", "roles": [{ "role": "api_owner", "groups": ["default"] }] });
    let token = send(&gw, "POST /api/tokens", owner, 201).await["token"].as_str().unwrap().to_owned();
    let call = async |line: &str, body: Value| {
        let answer = with(&gw, &token, line, &body, None).await;
        (answer.status, answer.json().unwrap_or_default())
    };
    let own = edit("put", "route", "1", json!({ "uri": "/a", "upstream": { "nodes": {} } }));
    let rule = edit("put", "global_rule", "1", json!({ "plugins": {} }));
    assert_eq!(call("POST /changes", json!({ "edits": [own] })).await.0, 200);
    let (status, refused) = call("POST /changes", json!({ "edits": [own, rule] })).await;
    assert_eq!((status, &refused["missing"]["resource"]), (403, &json!("global_rules")));
    // Also of what turns out to change nothing: it is asked for before anything is judged.
    let nothing = json!({ "op": "delete", "kind": "global_rule", "id": "1" });
    assert_eq!(call("POST /changes?dry_run=true", json!({ "edits": [nothing] })).await.0, 403);
    assert_eq!(call("POST /drafts", json!({ "id": "d", "edits": [rule] })).await.0, 403);
    // Nor what somebody else has drafted.
    send(&gw, "POST /drafts", json!({ "id": "d", "edits": [rule] }), 201).await;
    assert_eq!(call("POST /drafts/d/publish", Value::Null).await.0, 403);
    // Nor takes any of it out.
    assert_eq!(
        call("PATCH /drafts/d", json!({ "edits": [{ "op": "leave", "kind": "global_rule", "id": "1" }] })).await.0,
        403
    );
    assert_eq!(call("DELETE /drafts/d", Value::Null).await.0, 403);
    // Who has looked at one version publishes no other.
    send(&gw, "PATCH /drafts/d", json!({ "message": "new" }), 200).await;
    let stale = send(&gw, "POST /drafts/d/publish?version=1", Value::Null, 412).await;
    assert_eq!((&stale["code"], &stale["current"]), (&json!("stale_draft"), &json!(2)));
    send(&gw, "POST /drafts/d/publish?version=x", Value::Null, 400).await;
    send(&gw, "POST /drafts/d/publish?version=2&dry_run=true", Value::Null, 200).await;
    assert_eq!(call("POST /revisions/0/rollback?dry_run=true", Value::Null).await.0, 403);
    assert_eq!(gw.send("GET /global_rules/1").await.status, 404);
}

async fn drafts_are_bounded_and_forgotten(gw: Gateway) {
    let gw = gw
        .with_settings(|settings| {
            settings.admin.max_drafts = 2;
            settings.admin.max_draft_objects = 3;
            settings.admin.max_configs_body = "4k".parse().unwrap();
        })
        .await;
    let edits = |ids: std::ops::Range<u32>| {
        let edits: Vec<Value> =
            ids.map(|id| edit("put", "upstream", &id.to_string(), json!({ "nodes": {} }))).collect();
        json!({ "edits": edits })
    };
    for id in ["a", "b"] {
        // A name is as long as it has characters.
        send(&gw, "POST /drafts", json!({ "id": id, "name": "ü".repeat(64) }), 201).await;
    }
    assert_eq!(send(&gw, "POST /drafts", json!({}), 409).await["code"], "too_many_drafts");
    send(&gw, "PATCH /drafts/a", edits(0..3), 200).await;
    assert_eq!(send(&gw, "PATCH /drafts/a", edits(2..4), 413).await["code"], "draft_too_large");
    assert_eq!(send(&gw, "GET /drafts/a", Value::Null, 200).await["draft"]["version"], 2, "nothing of it was written");
    // Nor more bytes than a group's configuration may be put with at once, in however many steps.
    let heavy =
        |id: &str| json!({ "edits": [edit("put", "upstream", id, json!({ "nodes": {}, "desc": "d".repeat(1500) }))] });
    for id in ["0", "1"] {
        send(&gw, "PATCH /drafts/b", heavy(id), 200).await;
    }
    assert_eq!(send(&gw, "PATCH /drafts/b", heavy("2"), 413).await["code"], "draft_too_large");
    for (body, code) in
        [(json!({ "id": "a b" }), "invalid_id"), (json!({ "id": "c", "name": "n".repeat(65) }), "invalid_body")]
    {
        assert_eq!(send(&gw, "POST /drafts", body, 400).await["code"], code);
    }
    // Whatever nobody has edited for so long goes: here everything does, once a second has passed by the database's clock.
    let history = History { drafts: Time::millis(1), interval: Time::millis(50), ..History::default() };
    let gw = gw.next_leader(history).await;
    eventually("they are forgotten", async || gw.store.draft_list(DEFAULT_GROUP).await.unwrap().is_empty()).await;
}

async fn what_is_published_to_all_groups_is_one_list(gw: Gateway) {
    send(&gw, "POST /api/gateway_groups", json!({ "id": "prod" }), 201).await;
    for n in 0..3 {
        gw.done(&format!(r#"PUT /upstreams/1 {{"nodes":{{"a:1":{n}}}}}"#)).await;
        gw.done(&format!(r#"PUT /upstreams/1?gateway_group_id=prod {{"nodes":{{"a:1":{n}}}}}"#)).await;
    }
    let mut seen = Vec::new();
    let mut before = String::new();
    loop {
        let page = send(&gw, &format!("GET /api/changes?limit=4{before}"), Value::Null, 200).await;
        let list = page["list"].as_array().unwrap();
        seen.extend(
            list.iter().map(|one| (one["group"].as_str().unwrap().to_owned(), one["revision"].as_u64().unwrap())),
        );
        let Some(next) = page["next"].as_str() else { break };
        before = format!("&before={next}");
    }
    seen.sort();
    let expected = ["default", "prod"].into_iter().flat_map(|group| (1..=3).map(move |n| (group.to_owned(), n)));
    assert_eq!(seen, expected.collect::<Vec<_>>());
    assert_eq!(send(&gw, "GET /api/changes?group=prod", Value::Null, 200).await["list"].as_array().unwrap().len(), 3);
    send(&gw, "GET /api/changes?before=x", Value::Null, 400).await;
}

#[tokio::test]
async fn what_is_only_looked_at_has_an_end() {
    let gw = Gateway::configured(|settings| settings.admin.validation_time = Time::millis(0)).await;
    let edits = [edit("put", "route", "1", json!({ "uri": "/a", "plugins": {} }))];
    send(&gw, "POST /drafts", json!({ "id": "d", "edits": edits }), 201).await;
    let set = json!({ "edits": edits });
    assert_eq!(send(&gw, "GET /drafts/d", Value::Null, 400).await["code"], "takes_too_long");
    // A dry run fails in no way in which the write would not.
    send(&gw, "POST /changes?dry_run=true", set.clone(), 200).await;
    send(&gw, "POST /changes", set, 200).await;
}

#[tokio::test]
async fn whoever_may_write_waits_for_nobody_who_only_reads() {
    let gw = Gateway::configured(|settings| {
        settings.admin.max_validations = 0;
        settings.admin.validation_time = Time::secs(1);
    })
    .await;
    let edits = [edit("put", "route", "1", json!({ "uri": "/a", "plugins": {} }))];
    send(&gw, "POST /drafts", json!({ "id": "d", "edits": edits }), 201).await;
    send(&gw, "GET /drafts/d", Value::Null, 200).await;
    send(&gw, "POST /changes?dry_run=true", json!({ "edits": edits }), 200).await;
    let refused = with(&gw, VIEWER, "GET /drafts/d", &Value::Null, None).await;
    assert_eq!((refused.status, refused.header("retry-after").as_str()), (503, "1"), "{}", refused.text());
}
