//! Who may do what: every endpoint, with every role.

use crate::gateway::{Gateway, KEY, VIEWER, on_both};
use http::Method;
use milecastle_control::{Declared, api7_paths, endpoints};
use milecastle_store::DEFAULT_GROUP;
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

on_both!(
    every_endpoint_with_every_role,
    every_endpoint_with_a_role_that_was_made,
    below_api7_the_same_rights_are_asked_for,
    a_role_in_one_group_ends_there,
    what_is_missing_is_said,
    a_token_opens_until_it_is_revoked_on_any_replica,
    a_token_opens_until_it_expires,
    nobody_gives_more_than_he_may_do,
    tokens_that_are_none,
);

/// Built-in roles, the mightiest first: each may do all that those after it may.
const ROLES: [&str; 4] = ["administrator", "operator", "api_owner", "viewer"];

/// Each endpoint, and the least of the roles that may call it. `anybody` is whoever is known; `own` is about a session, which
/// the tokens of this walk have none of.
const WALK: &str = "
HEAD /apisix/admin anybody
GET /apisix/admin/{unknown} anybody
GET /apisix/admin/plugins viewer
GET /apisix/admin/plugins/list viewer
GET /apisix/admin/plugins/{name} viewer
PUT /apisix/admin/plugins/reload operator
GET /apisix/admin/schema/plugins/{name} viewer
GET /apisix/admin/schema/{kind} viewer
POST /apisix/admin/schema/validate/{collection} viewer
HEAD /apisix/admin/configs viewer
GET /apisix/admin/configs viewer
PUT /apisix/admin/configs operator
POST /apisix/admin/configs/validate viewer
GET /apisix/admin/routes viewer
POST /apisix/admin/routes api_owner
GET /apisix/admin/routes/{id} viewer
PUT /apisix/admin/routes/{id} api_owner
PATCH /apisix/admin/routes/{id} api_owner
PATCH /apisix/admin/routes/{id}/{inside} api_owner
DELETE /apisix/admin/routes/{id} api_owner
GET /apisix/admin/services viewer
POST /apisix/admin/services api_owner
GET /apisix/admin/services/{id} viewer
PUT /apisix/admin/services/{id} api_owner
PATCH /apisix/admin/services/{id} api_owner
PATCH /apisix/admin/services/{id}/{inside} api_owner
DELETE /apisix/admin/services/{id} api_owner
GET /apisix/admin/services/{parent}/graphql_cost_decorations viewer
POST /apisix/admin/services/{parent}/graphql_cost_decorations api_owner
GET /apisix/admin/services/{parent}/graphql_cost_decorations/{id} viewer
PUT /apisix/admin/services/{parent}/graphql_cost_decorations/{id} api_owner
PATCH /apisix/admin/services/{parent}/graphql_cost_decorations/{id} api_owner
DELETE /apisix/admin/services/{parent}/graphql_cost_decorations/{id} api_owner
GET /apisix/admin/upstreams viewer
POST /apisix/admin/upstreams api_owner
GET /apisix/admin/upstreams/{id} viewer
PUT /apisix/admin/upstreams/{id} api_owner
PATCH /apisix/admin/upstreams/{id} api_owner
PATCH /apisix/admin/upstreams/{id}/{inside} api_owner
DELETE /apisix/admin/upstreams/{id} api_owner
GET /apisix/admin/consumers viewer
GET /apisix/admin/consumers/{id} viewer
PUT /apisix/admin/consumers/{id} api_owner
DELETE /apisix/admin/consumers/{id} api_owner
GET /apisix/admin/consumers/{parent}/credentials viewer
GET /apisix/admin/consumers/{parent}/credentials/{id} viewer
PUT /apisix/admin/consumers/{parent}/credentials/{id} api_owner
DELETE /apisix/admin/consumers/{parent}/credentials/{id} api_owner
GET /apisix/admin/consumer_groups viewer
GET /apisix/admin/consumer_groups/{id} viewer
PUT /apisix/admin/consumer_groups/{id} api_owner
PATCH /apisix/admin/consumer_groups/{id} api_owner
PATCH /apisix/admin/consumer_groups/{id}/{inside} api_owner
DELETE /apisix/admin/consumer_groups/{id} api_owner
GET /apisix/admin/plugin_configs viewer
GET /apisix/admin/plugin_configs/{id} viewer
PUT /apisix/admin/plugin_configs/{id} api_owner
PATCH /apisix/admin/plugin_configs/{id} api_owner
PATCH /apisix/admin/plugin_configs/{id}/{inside} api_owner
DELETE /apisix/admin/plugin_configs/{id} api_owner
GET /apisix/admin/stream_routes viewer
POST /apisix/admin/stream_routes api_owner
GET /apisix/admin/stream_routes/{id} viewer
PUT /apisix/admin/stream_routes/{id} api_owner
DELETE /apisix/admin/stream_routes/{id} api_owner
GET /apisix/admin/protos viewer
POST /apisix/admin/protos api_owner
GET /apisix/admin/protos/{id} viewer
PUT /apisix/admin/protos/{id} api_owner
DELETE /apisix/admin/protos/{id} api_owner
GET /apisix/admin/ssls viewer
POST /apisix/admin/ssls operator
GET /apisix/admin/ssls/{id} viewer
PUT /apisix/admin/ssls/{id} operator
PATCH /apisix/admin/ssls/{id} operator
PATCH /apisix/admin/ssls/{id}/{inside} operator
DELETE /apisix/admin/ssls/{id} operator
GET /apisix/admin/global_rules viewer
GET /apisix/admin/global_rules/{id} viewer
PUT /apisix/admin/global_rules/{id} operator
PATCH /apisix/admin/global_rules/{id} operator
PATCH /apisix/admin/global_rules/{id}/{inside} operator
DELETE /apisix/admin/global_rules/{id} operator
GET /apisix/admin/plugin_metadata viewer
GET /apisix/admin/plugin_metadata/{id} viewer
PUT /apisix/admin/plugin_metadata/{id} operator
DELETE /apisix/admin/plugin_metadata/{id} operator
GET /apisix/admin/secrets viewer
GET /apisix/admin/secrets/{manager}/{id} viewer
PUT /apisix/admin/secrets/{manager}/{id} operator
PATCH /apisix/admin/secrets/{manager}/{id} operator
PATCH /apisix/admin/secrets/{manager}/{id}/{inside} operator
DELETE /apisix/admin/secrets/{manager}/{id} operator
GET /api/gateway_groups viewer
POST /api/gateway_groups operator
GET /api/gateway_groups/{group} viewer
PATCH /api/gateway_groups/{group} operator
DELETE /api/gateway_groups/{group} operator
GET /api/gateway_groups/{group}/lineage viewer
POST /api/gateway_groups/{group}/lineage/confirm operator
PUT /api/gateway_groups/{group}/maintenance operator
DELETE /api/gateway_groups/{group}/maintenance operator
GET /api/gateway_groups/{group}/settings viewer
PUT /api/gateway_groups/{group}/settings operator
PATCH /api/gateway_groups/{group}/settings operator
GET /api/gateway_groups/{group}/rollout viewer
PUT /api/gateway_groups/{group}/rollout operator
PATCH /api/gateway_groups/{group}/rollout operator
POST /api/gateway_groups/{group}/rollout/pause operator
POST /api/gateway_groups/{group}/rollout/resume operator
POST /api/gateway_groups/{group}/rollout/promote operator
POST /api/gateway_groups/{group}/rollout/abort operator
GET /api/gateway_groups/{group}/tokens viewer
POST /api/gateway_groups/{group}/tokens operator
DELETE /api/gateway_groups/{group}/tokens/{token} operator
GET /api/gateway_groups/{group}/nodes viewer
GET /api/gateway_groups/{group}/nodes/{node} viewer
DELETE /api/gateway_groups/{group}/nodes/{node} operator
POST /api/gateway_groups/{group}/nodes/{node}/revoke operator
PUT /api/gateway_groups/{group}/nodes/{node}/maintenance operator
DELETE /api/gateway_groups/{group}/nodes/{node}/maintenance operator
GET /api/gateway_groups/{group}/revisions viewer
GET /api/gateway_groups/{group}/revisions/{revision} viewer
GET /api/gateway_groups/{group}/revisions/{revision}/receipt viewer
GET /api/gateway_groups/{group}/revisions/{revision}/objects viewer
GET /api/gateway_groups/{group}/revisions/{revision}/diff/{other} viewer
POST /api/gateway_groups/{group}/revisions/{revision}/rollback operator
POST /api/gateway_groups/{group}/changes api_owner
GET /api/gateway_groups/{group}/drafts viewer
POST /api/gateway_groups/{group}/drafts api_owner
GET /api/gateway_groups/{group}/drafts/{draft} viewer
PATCH /api/gateway_groups/{group}/drafts/{draft} api_owner
DELETE /api/gateway_groups/{group}/drafts/{draft} api_owner
POST /api/gateway_groups/{group}/drafts/{draft}/publish api_owner
GET /api/gateway_groups/{group}/export viewer
POST /api/gateway_groups/{group}/import operator
POST /api/gateway_groups/{group}/promote operator
GET /api/changes viewer
GET /api/nodes viewer
GET /api/metrics viewer
GET /api/metrics/routes viewer
GET /api/metrics/top_routes viewer
GET /api/warnings viewer
GET /api/events viewer
GET /api/alarms viewer
GET /api/members viewer
PUT /api/members/{name}/maintenance operator
DELETE /api/members/{name}/maintenance operator
GET /api/links viewer
GET /api/links/{link} viewer
PUT /api/links/{link} operator
DELETE /api/links/{link} operator
GET /api/availability viewer
GET /api/probes viewer
GET /api/probes/{probe} viewer
PUT /api/probes/{probe} operator
DELETE /api/probes/{probe} operator
GET /api/version anybody
GET /api/openapi.json anybody
POST /api/session anybody
GET /api/session/methods anybody
GET /api/session/oidc anybody
GET /api/session/oidc/callback anybody
GET /api/session/oidc/logout anybody
GET /api/session anybody
DELETE /api/session own
PUT /api/session/password own
GET /api/users administrator
POST /api/users administrator
GET /api/users/{name} administrator
PATCH /api/users/{name} administrator
DELETE /api/users/{name} administrator
GET /api/roles viewer
POST /api/roles administrator
GET /api/roles/{name} viewer
PATCH /api/roles/{name} administrator
DELETE /api/roles/{name} administrator
GET /api/tokens administrator
POST /api/tokens administrator
DELETE /api/tokens/{token} administrator
GET /api/audit operator
GET /api/audit/export operator
GET /api/audit/{entry} operator
";

/// What there is below `/api7` beside the paths of the Admin API, which take there what they take without it.
const WALK_OF_API7: &str = "
GET /api7/api/version anybody
GET /api7/api/gateway_groups viewer
GET /api7/api/schema/core viewer
GET /api7/apisix/admin/services/{parent}/upstreams viewer
PUT /api7/apisix/admin/services/{parent}/upstreams/{id} api_owner
DELETE /api7/apisix/admin/services/{parent}/upstreams/{id} api_owner
";

/// Method, path, and least role of each line of a walk.
fn lines(walk: &'static str) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    walk.trim().lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0], words[1], words[2])
    })
}

/// Whether a role may call what takes this one at least.
fn may(role: &str, least: &str) -> bool {
    ROLES.iter().position(|one| *one == least).is_none_or(|least| ROLES[..=least].contains(&role))
}

/// A call of the API with the admin's key.
async fn send(gw: &Gateway, method: Method, path: &str, body: Value) -> Answer {
    with(gw, KEY, method, path, &body).await
}

async fn with(gw: &Gateway, key: &str, method: Method, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Call::new(method, path).header("x-api-key", key).body(body).to(gw.address()).await.unwrap()
}

/// Makes a token; gives it and its id.
async fn token(gw: &Gateway, roles: Value) -> (String, String) {
    let body = json!({ "name": "t", "roles": roles });
    let answer = send(gw, Method::POST, "/api/tokens", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made = answer.json().unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

fn everywhere(role: &str) -> Value {
    json!([{ "role": role, "groups": ["*"] }])
}

/// A path with something in place of its parameters.
fn filled(path: &str) -> String {
    let words = path.split('/').map(|segment| match segment {
        "{group}" => DEFAULT_GROUP,
        "{manager}" => "vault",
        "{kind}" => "route",
        "{collection}" => "routes",
        _ if segment.starts_with('{') => "x",
        _ => segment,
    });
    words.collect::<Vec<_>>().join("/")
}

async fn every_endpoint_with_every_role(gw: Gateway) {
    let walk: BTreeMap<(&str, &str), &str> = lines(WALK).map(|(method, path, least)| ((method, path), least)).collect();
    let declared = endpoints();
    let known: BTreeSet<(&str, &str)> = declared.iter().map(|one| (one.method.as_str(), &*one.path)).collect();
    assert_eq!(known.len(), declared.len(), "an endpoint is declared twice");
    assert_eq!(known, walk.keys().copied().collect(), "each endpoint needs a line in the walk");
    for role in ROLES {
        let (token, _) = token(&gw, everywhere(role)).await;
        for Declared { method, path, right, .. } in &declared {
            let least = walk[&(method.as_str(), &**path)];
            if least == "own" {
                let answer = with(&gw, &token, method.clone(), path, &json!({})).await;
                assert_eq!((right, answer.json().unwrap()["code"].as_str()), (&None, Some("no_session")), "{path}");
                continue;
            }
            let may = may(role, least);
            assert_eq!(right.is_none(), least == "anybody", "{method} {path}");
            // Nothing is found or fits in what is sent, and so nothing is done.
            let answer = with(&gw, &token, method.clone(), &filled(path), &json!("unfit")).await;
            let refused = answer.status == 403;
            assert_eq!(refused, !may, "{role}: {method} {path}: {} {}", answer.status, answer.text());
            assert_ne!(answer.status, 401, "{role}: {method} {path}");
            if refused && *method != Method::HEAD {
                assert!(
                    answer.text().contains(&format!("`token/t` may not {}", right.as_ref().unwrap())),
                    "{}",
                    answer.text()
                );
            }
        }
    }
    assert_eq!(gw.revision().await, 0, "what was refused or unfit changed nothing");
}

async fn every_endpoint_with_a_role_that_was_made(gw: Gateway) {
    // Every other right, so that for each endpoint that is let in there is one that is not.
    let rights: BTreeSet<String> = endpoints().into_iter().filter_map(|one| one.right).collect();
    let given: BTreeSet<&str> = rights.iter().step_by(2).map(String::as_str).collect();
    let of = |action: &str| -> Vec<&str> {
        given.iter().filter_map(|right| right.strip_prefix(action)?.strip_prefix(' ')).collect()
    };
    let role = json!({ "name": "half", "read": of("read"), "write": of("write") });
    assert_eq!(send(&gw, Method::POST, "/api/roles", role).await.status, 201);
    let (token, _) = token(&gw, everywhere("half")).await;
    for Declared { method, path, right, .. } in endpoints() {
        let Some(right) = right else { continue };
        let answer = with(&gw, &token, method.clone(), &filled(&path), &json!("unfit")).await;
        let may = given.contains(&*right);
        assert_eq!(answer.status == 403, !may, "{right}: {method} {path}: {} {}", answer.status, answer.text());
        assert_ne!(answer.status, 401, "{method} {path}");
    }
    assert_eq!(gw.revision().await, 0, "what was refused or unfit changed nothing");
}

async fn below_api7_the_same_rights_are_asked_for(gw: Gateway) {
    const GROUPS: &str = "/api7/api/gateway_groups";
    assert_eq!(send(&gw, Method::POST, "/api/gateway_groups", json!({ "id": "prod" })).await.status, 201);
    let beside = lines(WALK_OF_API7).map(|(_, path, _)| path).filter(|path| !path.starts_with("/api7/apisix/admin"));
    assert_eq!(beside.collect::<Vec<_>>(), api7_paths(), "each path needs a line in the walk");
    let admin = lines(WALK).filter(|(_, path, _)| path.starts_with("/apisix/admin"));
    let admin = admin.map(|(method, path, least)| (method, format!("/api7{path}"), least));
    let own = lines(WALK_OF_API7).map(|(method, path, least)| (method, path.to_owned(), least));
    let walk: Vec<_> = admin.chain(own).collect();
    let elsewhere = ("operator elsewhere", json!([{ "role": "operator", "groups": ["prod"] }]));
    for (role, grants) in ROLES.map(|role| (role, everywhere(role))).into_iter().chain([elsewhere]) {
        let (token, _) = token(&gw, grants).await;
        for (method, path, least) in &walk {
            // Whoever may see any group is shown those.
            let may = may(role, least) || path == GROUPS;
            let answer = with(&gw, &token, method.parse().unwrap(), &filled(path), &json!("unfit")).await;
            assert_eq!(answer.status == 403, !may, "{role}: {method} {path}: {} {}", answer.status, answer.text());
            assert_ne!(answer.status, 401, "{role}: {method} {path}");
        }
        let groups = with(&gw, &token, Method::GET, GROUPS, &Value::Null).await.json().unwrap();
        let seen = if ROLES.contains(&role) { json!(["default", "prod"]) } else { json!(["prod"]) };
        let ids: Value = groups["list"].as_array().unwrap().iter().map(|group| group["id"].clone()).collect();
        assert_eq!(ids, seen, "{role}");
    }
    assert_eq!(gw.revision().await, 0, "what was refused or unfit changed nothing");
}

async fn a_role_in_one_group_ends_there(gw: Gateway) {
    assert_eq!(send(&gw, Method::POST, "/api/gateway_groups", json!({ "id": "prod" })).await.status, 201);
    let (token, _) = token(&gw, json!([{ "role": "api_owner", "groups": ["prod"] }])).await;
    let status = async |method, path: &str| with(&gw, &token, method, path, &json!({ "nodes": {} })).await.status;
    assert_eq!(status(Method::PUT, "/apisix/admin/upstreams/1?gateway_group_id=prod").await, 201);
    assert_eq!(status(Method::GET, "/apisix/admin/upstreams/1?gateway_group_id=prod").await, 200);
    for path in ["/apisix/admin/upstreams/1", "/apisix/admin/upstreams/1?gateway_group_id=default"] {
        assert_eq!((status(Method::PUT, path).await, status(Method::GET, path).await), (403, 403), "{path}");
    }
    assert_eq!(status(Method::GET, "/api/gateway_groups/prod/nodes").await, 200);
    assert_eq!(status(Method::GET, "/api/gateway_groups/default/nodes").await, 403);
    // A group that is not there is no less refused: nobody learns which there are.
    assert_eq!(status(Method::GET, "/api/gateway_groups/none/nodes").await, 403);
    assert_eq!(status(Method::GET, "/api/members").await, 403);
    let groups = with(&gw, &token, Method::GET, "/api/gateway_groups", &Value::Null).await.json().unwrap();
    assert_eq!((&groups["total"], &groups["list"][0]["id"]), (&json!(1), &json!("prod")));
    assert_eq!(with(&gw, &token, Method::GET, "/api/nodes", &Value::Null).await.status, 200);
}

async fn what_is_missing_is_said(gw: Gateway) {
    let (token, _) = token(&gw, everywhere("viewer")).await;
    let answer = with(&gw, &token, Method::PUT, "/api/gateway_groups/default/maintenance", &Value::Null).await;
    let told = answer.json().unwrap();
    assert_eq!((answer.status, told["code"].as_str()), (403, Some("not_allowed")));
    assert_eq!(told["missing"], json!({ "action": "write", "resource": "maintenance", "group": "default" }));
    let message =
        "`token/t` may not write maintenance in gateway group `default`; roles that allow it: administrator, operator";
    assert_eq!(told["message"], message);
    let answer = with(&gw, &token, Method::PUT, "/apisix/admin/ssls/1", &json!({})).await;
    let message =
        "`token/t` may not write ssls in gateway group `default`; roles that allow it: administrator, operator";
    assert_eq!((answer.status, answer.json().unwrap()), (403, json!({ "error_msg": message })));
    // A key that reads is refused as ever, before what it asks for is looked at.
    let answer = with(&gw, VIEWER, Method::PUT, "/api/nowhere", &Value::Null).await;
    assert_eq!((answer.status, answer.json().unwrap()["code"].as_str()), (403, Some("read_only_key")));
}

async fn a_token_opens_until_it_is_revoked_on_any_replica(gw: Gateway) {
    let other = gw.replica().await;
    let (token, id) = token(&gw, everywhere("operator")).await;
    let bearer = |gw: &Gateway| {
        let call = Call::get("/apisix/admin/routes").header("authorization", &format!("Bearer {token}"));
        call.to(gw.address())
    };
    assert_eq!((bearer(&gw).await.unwrap().status, bearer(&other).await.unwrap().status), (200, 200));
    let put = with(&other, &token, Method::PUT, "/apisix/admin/upstreams/1", &json!({ "nodes": {} })).await;
    assert_eq!(put.status, 201);
    let history = send(&gw, Method::GET, "/api/gateway_groups/default/revisions", Value::Null).await.json().unwrap();
    assert_eq!(history["list"][0]["author"], "token/t");
    let listed = send(&other, Method::GET, "/api/tokens", Value::Null).await;
    let shown = &listed.json().unwrap()["list"][0];
    assert_eq!(
        (&shown["id"], &shown["used_from"], &shown["created_by"]),
        (&json!(id), &json!("127.0.0.1"), &json!("admin"))
    );
    assert!(shown["used_at"].is_u64() && !listed.text().contains(&token), "{shown}");
    let revoke = async || send(&gw, Method::DELETE, &format!("/api/tokens/{id}"), Value::Null).await.status;
    assert_eq!((revoke().await, revoke().await), (204, 404));
    assert_eq!((bearer(&gw).await.unwrap().status, bearer(&other).await.unwrap().status), (401, 401));
}

async fn a_token_opens_until_it_expires(gw: Gateway) {
    let body = json!({ "name": "short", "roles": everywhere("viewer"), "expires_in": "0s" });
    let made = send(&gw, Method::POST, "/api/tokens", body).await.json().unwrap();
    let over = with(&gw, made["token"].as_str().unwrap(), Method::GET, "/api/nodes", &Value::Null).await;
    assert_eq!((over.status, over.json().unwrap()["code"].as_str()), (401, Some("wrong_key")));
    let body = json!({ "name": "long", "roles": everywhere("viewer"), "expires_in": "1d" });
    let made = send(&gw, Method::POST, "/api/tokens", body).await.json().unwrap();
    assert!(made["expires_at"].as_u64().unwrap() > gw.store.now() + 86_000);
    assert_eq!(with(&gw, made["token"].as_str().unwrap(), Method::GET, "/api/nodes", &Value::Null).await.status, 200);
}

async fn nobody_gives_more_than_he_may_do(gw: Gateway) {
    // An administrator of one group makes tokens nowhere: they are the cluster's.
    let (token, _) = token(&gw, json!([{ "role": "administrator", "groups": ["default"] }])).await;
    let body = json!({ "name": "n", "roles": everywhere("viewer") });
    let answer = with(&gw, &token, Method::POST, "/api/tokens", &body).await;
    assert_eq!((answer.status, answer.json().unwrap()["missing"]["resource"].as_str()), (403, Some("api_tokens")));
}

async fn tokens_that_are_none(gw: Gateway) {
    for (body, path) in [
        (json!({ "roles": everywhere("viewer") }), "/name"),
        (json!({ "name": "a b", "roles": everywhere("viewer") }), "/name"),
        (json!({ "name": "n" }), "/roles"),
        (json!({ "name": "n", "roles": everywhere("god") }), "/roles/0/role"),
        (json!({ "name": "n", "roles": [{ "role": "viewer", "groups": [] }] }), "/roles/0/groups"),
        (json!({ "name": "n", "roles": [{ "role": "viewer", "groups": ["default", "none"] }] }), "/roles/0/groups/1"),
    ] {
        let answer = send(&gw, Method::POST, "/api/tokens", body.clone()).await;
        assert_eq!((answer.status, answer.json().unwrap()["path"].as_str()), (400, Some(path)), "{body}");
    }
    assert_eq!(send(&gw, Method::GET, "/api/tokens", Value::Null).await.json().unwrap()["total"], 0);
    let answer = with(&gw, "mcat_none", Method::GET, "/apisix/admin/routes", &Value::Null).await;
    let body = json!({ "error_msg": "failed to check token", "description": "wrong apikey" });
    assert_eq!((answer.status, answer.json().unwrap()), (401, body));
}
