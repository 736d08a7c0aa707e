//! Roles that were made: what they allow, and that nobody comes to allow more than he may do himself.

use crate::gateway::{Gateway, KEY, on_both};
use crate::people::{Browser, PASSWORD, account};
use http::Method;
use milecastle_model::Key;
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};

on_both!(
    a_role_is_made_changed_and_deleted,
    a_change_counts_at_once_on_every_replica,
    roles_that_are_none,
    built_in_roles_stay_as_they_are,
    nobody_makes_roles_that_allow_more_than_his_own,
    nobody_changes_a_role_that_he_has,
    a_role_in_use_is_not_deleted,
    a_change_names_the_version_that_it_follows,
    who_may_do_what_is_told_to_few,
    settings_are_a_right_of_their_own_by_whatever_way_they_come,
);

async fn with(gw: &Gateway, key: &str, method: Method, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Call::new(method, path).header("x-api-key", key).body(body).to(gw.address()).await.unwrap()
}

async fn send(gw: &Gateway, method: Method, path: &str, body: Value) -> Answer {
    with(gw, KEY, method, path, body).await
}

/// Status and code of an answer.
fn told(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json().unwrap()["code"].as_str().unwrap_or_default().to_owned())
}

async fn make(gw: &Gateway, name: &str, read: &[&str], write: &[&str]) {
    let body = json!({ "name": name, "read": read, "write": write });
    let made = send(gw, Method::POST, "/api/roles", body).await;
    assert_eq!(made.status, 201, "{}", made.text());
}

/// A token with a role in all groups; and its id.
async fn token(gw: &Gateway, role: &str) -> (String, String) {
    let body = json!({ "name": role, "roles": [{ "role": role, "groups": ["*"] }] });
    let made = send(gw, Method::POST, "/api/tokens", body).await.json().unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

async fn a_role_is_made_changed_and_deleted(gw: Gateway) {
    let body =
        json!({ "name": "dev", "description": "who develops", "read": ["routes"], "write": ["upstreams", "routes"] });
    let made = send(&gw, Method::POST, "/api/roles", body).await;
    assert_eq!((made.status, &*made.header("etag")), (201, "\"1\""), "{}", made.text());
    let shown = made.json().unwrap();
    assert_eq!((&shown["name"], &shown["built_in"], &shown["version"]), (&json!("dev"), &json!(false), &json!(1)));
    assert_eq!((&shown["read"], &shown["write"]), (&json!(["routes"]), &json!(["routes", "upstreams"])));
    let change = json!({ "write": ["services"] });
    let changed = send(&gw, Method::PATCH, "/api/roles/dev", change).await.json().unwrap();
    assert_eq!((&changed["read"], &changed["write"]), (&json!(["routes"]), &json!(["services"])));
    assert_eq!((&changed["description"], &changed["version"]), (&json!("who develops"), &json!(2)));
    let listed = send(&gw, Method::GET, "/api/roles", Value::Null).await.json().unwrap();
    assert_eq!((&listed["total"], &listed["list"][4]), (&json!(5), &changed));
    assert_eq!(send(&gw, Method::GET, "/api/roles/dev", Value::Null).await.json().unwrap(), changed);
    assert_eq!(send(&gw, Method::DELETE, "/api/roles/dev", Value::Null).await.status, 204);
    let gone = send(&gw, Method::DELETE, "/api/roles/dev", Value::Null).await;
    assert_eq!(told(&gone), (404, "no_such_role".to_owned()));
}

async fn a_change_counts_at_once_on_every_replica(gw: Gateway) {
    let other = gw.replica().await;
    make(&gw, "dev", &["routes"], &[]).await;
    let (token, _) = token(&gw, "dev").await;
    account(&gw, "ann", "dev").await;
    let ann = Browser::of(&other, "ann", PASSWORD).await;
    let statuses = async || {
        let put = with(&other, &token, Method::PUT, "/apisix/admin/upstreams/1", json!({ "nodes": {} })).await;
        (put.status, ann.get(&other, "/apisix/admin/routes").await, ann.get(&other, "/apisix/admin/upstreams").await)
    };
    assert_eq!(statuses().await, (403, 200, 403));
    let change = json!({ "read": ["upstreams"], "write": ["upstreams"] });
    assert_eq!(send(&gw, Method::PATCH, "/api/roles/dev", change).await.status, 200);
    assert_eq!(statuses().await, (201, 403, 200));
}

async fn roles_that_are_none(gw: Gateway) {
    for (body, path) in [
        (json!({ "read": ["routes"] }), "/name"),
        (json!({ "name": "a b" }), "/name"),
        (json!({ "name": "dev", "description": "x".repeat(513) }), "/description"),
        (json!({ "name": "dev", "read": ["routes", "spells"] }), "/read/1"),
        (json!({ "name": "dev", "write": ["audit"] }), "/write/0"),
        (json!({ "name": "dev", "delete": ["routes"] }), "/delete"),
    ] {
        let answer = send(&gw, Method::POST, "/api/roles", body.clone()).await;
        let shown = answer.json().unwrap();
        assert_eq!(
            (answer.status, &shown["code"], &shown["path"]),
            (400, &json!("invalid_body"), &json!(path)),
            "{body}"
        );
    }
    make(&gw, "dev", &["routes"], &[]).await;
    let again = send(&gw, Method::POST, "/api/roles", json!({ "name": "dev" })).await;
    assert_eq!(told(&again), (409, "role_exists".to_owned()));
    for (body, path) in [(json!({ "read": ["spells"] }), "/read/0"), (json!({ "drop": [] }), "/drop")] {
        let answer = send(&gw, Method::PATCH, "/api/roles/dev", body).await;
        assert_eq!((answer.status, &answer.json().unwrap()["path"]), (400, &json!(path)));
    }
    assert_eq!(send(&gw, Method::GET, "/api/roles", Value::Null).await.json().unwrap()["total"], 5);
}

async fn built_in_roles_stay_as_they_are(gw: Gateway) {
    for name in ["administrator", "operator", "api_owner", "viewer"] {
        let path = format!("/api/roles/{name}");
        let change = send(&gw, Method::PATCH, &path, json!({ "write": [] })).await;
        let delete = send(&gw, Method::DELETE, &path, Value::Null).await;
        for answer in [change, delete] {
            assert_eq!(told(&answer), (409, "built_in_role".to_owned()));
        }
        let made = send(&gw, Method::POST, "/api/roles", json!({ "name": name })).await;
        assert_eq!(told(&made), (409, "role_exists".to_owned()));
        assert_eq!(send(&gw, Method::GET, &path, Value::Null).await.json().unwrap()["built_in"], true);
    }
}

async fn nobody_makes_roles_that_allow_more_than_his_own(gw: Gateway) {
    // Says who may do what, and may write nothing else than routes.
    make(&gw, "clerk", &["roles", "users", "routes"], &["roles", "users", "api_tokens", "routes"]).await;
    make(&gw, "mighty", &[], &["ssls"]).await;
    make(&gw, "plain", &["routes"], &[]).await;
    let (clerk, _) = token(&gw, "clerk").await;
    account(&gw, "root", "administrator").await;
    let refused = async |method: Method, path: &str, body: Value| {
        let answer = with(&gw, &clerk, method, path, body.clone()).await;
        assert_eq!(told(&answer), (403, "not_allowed".to_owned()), "{path} {body}: {}", answer.text());
    };
    let given = |role: &str| json!([{ "role": role, "groups": ["*"] }]);
    // By making one, changing one, deleting one, or giving one; nor by taking over who has more.
    refused(Method::POST, "/api/roles", json!({ "name": "more", "write": ["routes", "ssls"] })).await;
    refused(Method::PATCH, "/api/roles/plain", json!({ "write": ["ssls"] })).await;
    refused(Method::PATCH, "/api/roles/clerk", json!({ "write": ["ssls"] })).await;
    refused(Method::PATCH, "/api/roles/mighty", json!({ "write": [] })).await;
    refused(Method::DELETE, "/api/roles/mighty", Value::Null).await;
    refused(Method::POST, "/api/users", json!({ "name": "eve", "roles": given("mighty") })).await;
    refused(Method::POST, "/api/tokens", json!({ "name": "t", "roles": given("administrator") })).await;
    refused(Method::PATCH, "/api/users/root", json!({ "password": "another-one" })).await;
    let (mighty, id) = token(&gw, "administrator").await;
    refused(Method::DELETE, &format!("/api/tokens/{id}"), Value::Null).await;
    assert_eq!(with(&gw, &mighty, Method::GET, "/api/users", Value::Null).await.status, 200, "it is not revoked");
    // What he may do himself he may give, and take away.
    let (_, plain) = token(&gw, "plain").await;
    let revoked = with(&gw, &clerk, Method::DELETE, &format!("/api/tokens/{plain}"), Value::Null).await;
    assert_eq!(revoked.status, 204, "{}", revoked.text());
    let made = with(&gw, &clerk, Method::POST, "/api/roles", json!({ "name": "some", "write": ["routes"] })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let eve = with(&gw, &clerk, Method::POST, "/api/users", json!({ "name": "eve", "roles": given("some") })).await;
    assert_eq!(eve.status, 201, "{}", eve.text());
    // Who may do all of it in one group may not make what counts in all of them.
    let body = json!({ "name": "t", "roles": [{ "role": "administrator", "groups": ["default"] }] });
    let local = send(&gw, Method::POST, "/api/tokens", body).await.json().unwrap();
    let answer = with(&gw, local["token"].as_str().unwrap(), Method::POST, "/api/roles", json!({ "name": "x" })).await;
    assert_eq!(told(&answer), (403, "not_allowed".to_owned()));
}

async fn nobody_changes_a_role_that_he_has(gw: Gateway) {
    let all = send(&gw, Method::GET, "/api/roles/administrator", Value::Null).await.json().unwrap();
    let body = json!({ "name": "chief", "read": all["read"], "write": all["write"] });
    assert_eq!(send(&gw, Method::POST, "/api/roles", body).await.status, 201);
    account(&gw, "ann", "chief").await;
    let ann = Browser::of(&gw, "ann", PASSWORD).await;
    for (method, body) in [(Method::PATCH, json!({ "write": [] })), (Method::DELETE, Value::Null)] {
        let answer = ann.send(&gw, method, "/api/roles/chief", body).await;
        assert_eq!(told(&answer), (409, "own_role".to_owned()));
    }
    let viewer = ann.send(&gw, Method::POST, "/api/roles", json!({ "name": "other", "read": ["nodes"] })).await;
    assert_eq!(viewer.status, 201, "{}", viewer.text());
}

async fn a_role_in_use_is_not_deleted(gw: Gateway) {
    make(&gw, "dev", &["routes"], &[]).await;
    account(&gw, "ann", "dev").await;
    let (_, id) = token(&gw, "dev").await;
    let refused = send(&gw, Method::DELETE, "/api/roles/dev", Value::Null).await;
    assert_eq!(told(&refused), (409, "role_in_use".to_owned()));
    let shown = refused.json().unwrap();
    assert_eq!(shown["by"], json!(["account `ann`", format!("token `dev` ({id})")]));
    let message = format!("the role `dev` is in use: take it from account `ann`, token `dev` ({id}) first");
    assert_eq!(shown["message"], message);
    assert_eq!(send(&gw, Method::DELETE, &format!("/api/tokens/{id}"), Value::Null).await.status, 204);
    assert_eq!(send(&gw, Method::DELETE, "/api/users/ann", Value::Null).await.status, 204);
    assert_eq!(send(&gw, Method::DELETE, "/api/roles/dev", Value::Null).await.status, 204);
}

async fn a_change_names_the_version_that_it_follows(gw: Gateway) {
    make(&gw, "dev", &["routes"], &[]).await;
    let send = async |method: Method, tag: &str, body: &str| {
        let call = Call::new(method, "/api/roles/dev").header("x-api-key", KEY).header("if-match", tag);
        call.body(body.to_owned()).to(gw.address()).await.unwrap()
    };
    let change = r#"{"read":["nodes"]}"#;
    let done = send(Method::PATCH, "\"1\"", change).await;
    assert_eq!((done.status, &*done.header("etag")), (200, "\"2\""));
    for (method, body) in [(Method::PATCH, change), (Method::DELETE, "")] {
        let stale = send(method, "\"1\"", body).await;
        assert_eq!(told(&stale), (412, "stale_role".to_owned()));
        assert_eq!((&stale.json().unwrap()["expected"], &stale.json().unwrap()["current"]), (&json!(1), &json!(2)));
    }
    assert_eq!(told(&send(Method::PATCH, "yesterday", change).await), (400, "invalid_argument".to_owned()));
    assert_eq!(send(Method::DELETE, "\"2\"", "").await.status, 204);
}

async fn who_may_do_what_is_told_to_few(gw: Gateway) {
    make(&gw, "dev", &["routes"], &[]).await;
    assert_eq!(send(&gw, Method::PATCH, "/api/roles/dev", json!({ "write": ["ssls"] })).await.status, 200);
    let entries = send(&gw, Method::GET, "/api/audit?kind=role", Value::Null).await.json().unwrap();
    let short = |entry: &Value| format!("{} {} {}", entry["actor"], entry["action"], entry["object"]);
    let told: Vec<_> = entries["list"].as_array().unwrap().iter().map(short).collect();
    assert_eq!(told, [r#""admin" "update" "dev""#, r#""admin" "create" "dev""#]);
    assert_eq!(entries["list"][0]["after"]["allows"]["write"], json!(["ssls"]));
    let (operator, _) = token(&gw, "operator").await;
    let seen = with(&gw, &operator, Method::GET, "/api/audit?kind=role", Value::Null).await.json().unwrap();
    assert_eq!(seen["list"], json!([]));
}

async fn settings_are_a_right_of_their_own_by_whatever_way_they_come(gw: Gateway) {
    make(&gw, "deployer", &["configs"], &["configs"]).await;
    let (token, _) = token(&gw, "deployer").await;
    let group = "/api/gateway_groups/default";
    let arrive = async |key: &str, path: &str, body: &Value| {
        let call = Call::new(Method::POST, &format!("{group}/{path}")).header("x-api-key", key).header("if-match", "*");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        call.body(body).to(gw.address()).await.unwrap()
    };
    let file = |objects: Value| json!({ "milecastle": 1, "objects": objects });
    let routes = file(json!({ "/routes/1": { "uri": "/a", "upstream": { "nodes": {} } } }));
    assert_eq!(arrive(&token, "import", &routes).await.status, 200);
    let settings = file(json!({ Key::group_settings().path(): { "plugins": ["key-auth"] } }));
    let refused = arrive(&token, "import", &settings).await;
    assert_eq!(told(&refused), (403, "not_allowed".to_owned()), "{}", refused.text());
    assert_eq!(arrive(KEY, "import", &settings).await.status, 200);
    let back = arrive(&token, "revisions/1/rollback", &Value::Null).await;
    assert_eq!(told(&back), (403, "not_allowed".to_owned()), "{}", back.text());
}
