//! Writes that are repeated under an idempotency key (`docs/api.md`).

use crate::gateway::{Gateway, KEY, T, on_both};
use futures_util::future::{Either, select};
use http::Method;
use milecastle_settings::Time;
use milecastle_testkit::{Answer, Call, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;

on_both!(
    a_repeated_write_is_done_once_and_answered_as_at_first,
    what_only_our_own_api_writes_is_repeated_too,
    of_writers_at_once_on_two_replicas_one_writes,
    one_key_means_one_request,
    what_was_refused_is_judged_again,
);

struct Write<'a> {
    method: Method,
    path: &'a str,
    key: &'a str,
    body: Value,
}

impl Write<'_> {
    async fn to(&self, address: SocketAddr) -> Answer {
        self.by(KEY, address).await
    }

    async fn by(&self, secret: &str, address: SocketAddr) -> Answer {
        let call = Call::new(self.method.clone(), self.path).header("x-api-key", secret);
        call.header("idempotency-key", self.key).body(self.body.to_string()).to(address).await.unwrap()
    }
}

fn upstream<'a>(method: Method, path: &'a str, key: &'a str) -> Write<'a> {
    Write { method, path, key, body: json!({ "nodes": { "127.0.0.1:80": 1 } }) }
}

#[track_caller]
fn same(first: &Answer, again: &Answer) {
    let told = |answer: &Answer| (answer.status, answer.header("etag"), answer.text());
    assert_eq!(told(first), told(again));
    assert_eq!(
        (first.header("idempotency-replayed"), again.header("idempotency-replayed")),
        (String::new(), "true".into())
    );
}

async fn a_repeated_write_is_done_once_and_answered_as_at_first(gw: Gateway) {
    let other = gw.replica().await;
    let post = upstream(Method::POST, "/apisix/admin/upstreams", "post");
    let first = post.to(gw.address()).await;
    assert_eq!(first.status, 201, "{}", first.text());
    gw.advance(60);
    same(&first, &post.to(gw.address()).await);
    same(&first, &post.to(other.address()).await);
    assert_eq!((gw.revision().await, gw.done("GET /upstreams").await), (1, Value::Null));
    let put = upstream(Method::PUT, "/apisix/admin/upstreams/1", "put");
    let made = put.to(gw.address()).await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{},"desc":"changed since"}"#).await;
    same(&made, &put.to(other.address()).await);
    assert_eq!(gw.done("GET /upstreams/1").await["desc"], "changed since", "a repeated write undoes nothing");
    let patch =
        Write { body: json!({ "desc": "patched" }), ..upstream(Method::PATCH, "/apisix/admin/upstreams/1", "patch") };
    let patched = patch.to(gw.address()).await;
    assert_eq!(patched.json().unwrap()["value"]["update_time"], T + 60);
    same(&patched, &patch.to(other.address()).await);
    let delete = Write { body: Value::Null, ..upstream(Method::DELETE, "/apisix/admin/upstreams/1", "delete") };
    let deleted = delete.to(gw.address()).await;
    assert_eq!(deleted.status, 200);
    same(&deleted, &delete.to(other.address()).await);
    assert_eq!(gw.revision().await, 5);
}

async fn what_only_our_own_api_writes_is_repeated_too(gw: Gateway) {
    let other = gw.replica().await;
    let roles = json!([{ "role": "viewer", "groups": ["*"] }]);
    for (method, path, body, status) in [
        (Method::POST, "/api/tokens", json!({ "name": "ci", "roles": roles }), 201),
        (Method::POST, "/api/gateway_groups", json!({ "id": "prod" }), 201),
        (Method::PATCH, "/api/gateway_groups/prod", json!({ "name": "Production" }), 200),
        (Method::PUT, "/api/gateway_groups/prod/settings", json!({ "proxy_mode": "stream" }), 200),
        (Method::POST, "/api/gateway_groups/prod/tokens", json!({ "name": "t" }), 201),
        (Method::DELETE, "/api/gateway_groups/prod?force=true", Value::Null, 204),
    ] {
        let key = format!("{method}-{}", path.len());
        let write = Write { method, path, key: &key, body };
        let first = write.to(gw.address()).await;
        assert_eq!(first.status, status, "{path}: {}", first.text());
        same(&first, &write.to(other.address()).await);
    }
    for path in ["/api/gateway_groups/default/drafts", "/api/roles"] {
        let write = Write { method: Method::POST, path, key: path, body: json!({ "name": "one" }) };
        let first = write.to(gw.address()).await;
        assert_eq!((first.status, &*first.header("etag")), (201, "\"1\""), "{path}: {}", first.text());
        same(&first, &write.to(other.address()).await);
    }
    let tokens = Call::get("/api/tokens").header("x-api-key", KEY).to(gw.address()).await.unwrap();
    assert_eq!(tokens.json().unwrap()["total"], 1);
}

async fn of_writers_at_once_on_two_replicas_one_writes(gw: Gateway) {
    let other = gw.replica().await;
    let token = json!({ "name": "ci", "roles": [{ "role": "viewer", "groups": ["*"] }] });
    for post in [
        upstream(Method::POST, "/apisix/admin/upstreams", "at-once"),
        Write { body: token, ..upstream(Method::POST, "/api/tokens", "at-once-too") },
    ] {
        let asked = (0..8).map(|n| post.to(if n % 2 == 0 { gw.address() } else { other.address() }));
        let answers = futures_util::future::join_all(asked).await;
        for answer in &answers {
            assert_eq!((answer.status, answer.text()), (201, answers[0].text()), "{}", post.path);
        }
    }
    assert_eq!(gw.revision().await, 1);
}

async fn one_key_means_one_request(gw: Gateway) {
    let put = upstream(Method::PUT, "/apisix/admin/upstreams/1", "k");
    assert_eq!(put.to(gw.address()).await.status, 201);
    let said = "this Idempotency-Key was used for another request: take a new one for each write, and the same only to repeat it";
    for write in [
        Write { body: json!({ "nodes": {} }), ..upstream(Method::PUT, "/apisix/admin/upstreams/1", "k") },
        upstream(Method::PUT, "/apisix/admin/upstreams/2", "k"),
        upstream(Method::POST, "/apisix/admin/upstreams", "k"),
    ] {
        let refused = write.to(gw.address()).await;
        assert_eq!((refused.status, refused.json().unwrap()), (422, json!({ "error_msg": said })));
    }
    let group = Write { body: json!({ "id": "g" }), ..upstream(Method::POST, "/api/gateway_groups", "k") };
    let refused = group.to(gw.address()).await;
    assert_eq!((refused.status, &refused.json().unwrap()["code"]), (422, &json!("key_reused")));
    let unfit = upstream(Method::PUT, "/apisix/admin/upstreams/2", "not a key").to(gw.address()).await;
    assert_eq!(unfit.status, 400, "{}", unfit.text());
    assert_eq!(gw.revision().await, 1);
    // Another caller's key of the same name is another key.
    let body = json!({ "name": "ci", "roles": [{ "role": "operator", "groups": ["*"] }] }).to_string();
    let made = Call::post("/api/tokens", body).header("x-api-key", KEY).to(gw.address()).await.unwrap().json().unwrap();
    let by_token = upstream(Method::PUT, "/apisix/admin/upstreams/2", "k");
    assert_eq!(by_token.by(made["token"].as_str().unwrap(), gw.address()).await.status, 201);
    // Whoever may not write is not answered either.
    let viewer = crate::gateway::VIEWER;
    assert_eq!(put.by(viewer, gw.address()).await.status, 401);
}

async fn what_was_refused_is_judged_again(gw: Gateway) {
    let body = json!({ "uri": "/a", "upstream_id": "1" });
    let route = Write { body, ..upstream(Method::PUT, "/apisix/admin/routes/1", "r") };
    assert_eq!(route.to(gw.address()).await.status, 400);
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    let done = route.to(gw.address()).await;
    assert_eq!(done.status, 201, "{}", done.text());
    same(&done, &route.to(gw.address()).await);
    // Nor is what found nothing to do.
    let gone = Write { body: Value::Null, ..upstream(Method::DELETE, "/api/tokens/none", "t") };
    let token = json!({ "name": "ci", "roles": [{ "role": "viewer", "groups": ["*"] }] });
    assert_eq!(gone.to(gw.address()).await.status, 404);
    let again = gone.to(gw.address()).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (404, String::new()));
    let made = Write { body: token, ..upstream(Method::POST, "/api/tokens", "m") }.to(gw.address()).await;
    let path = format!("/api/tokens/{}", made.json().unwrap()["id"].as_str().unwrap());
    let revoke = Write { body: Value::Null, ..upstream(Method::DELETE, &path, "r2") };
    let revoked = revoke.to(gw.address()).await;
    assert_eq!(revoked.status, 204, "{}", revoked.text());
    same(&revoked, &revoke.to(gw.address()).await);
}

#[tokio::test]
async fn a_client_that_left_finds_its_answer_when_it_comes_again() {
    let gw = Gateway::postgres().await;
    let address = gw.address();
    let post = || Write { body: json!({ "id": "prod" }), ..upstream(Method::POST, "/api/gateway_groups", "k") };
    let held = gw.database().unwrap().hold("LOCK TABLE idempotency IN SHARE MODE").unwrap();
    let left = tokio::spawn(async move { post().to(address).await });
    let waits = || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                   AND query LIKE 'INSERT INTO idempotency%'";
        gw.database().unwrap().query(sql).unwrap().trim() != "0"
    };
    eventually("the write is under way", async || waits()).await;
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    drop(held);
    let again = post().to(address).await;
    assert_eq!((again.status, &*again.header("idempotency-replayed")), (201, "true"), "{}", again.text());
}

#[tokio::test]
async fn so_many_repeated_writes_wait_for_their_answer() {
    let gw = Gateway::postgres().await;
    let gw = gw
        .with_settings(|settings| {
            settings.admin.max_repeat_wait = Time::secs(30);
            settings.admin.max_repeat_waits_of_a_caller = 1;
        })
        .await;
    let group = Write { body: json!({ "id": "prod" }), ..upstream(Method::POST, "/api/gateway_groups", "k") };
    for write in [group, upstream(Method::PUT, "/apisix/admin/upstreams/1", "k2")] {
        let first = write.to(gw.address()).await;
        assert_eq!(first.status, 201, "{}", first.text());
        // As if its answer had yet to be kept.
        let (database, of_it) = (gw.database().unwrap(), format!("WHERE key = '{}'", write.key));
        database.query(&format!("CREATE TABLE kept AS SELECT status, answer FROM idempotency {of_it}")).unwrap();
        database.query(&format!("UPDATE idempotency SET status = NULL, answer = NULL {of_it}")).unwrap();
        let repeat = || Box::pin(write.to(gw.address()));
        let first_of =
            timeout(Duration::from_secs(60), select(repeat(), repeat())).await.expect("one is refused at once");
        let (Either::Left((refused, waits)) | Either::Right((refused, waits))) = first_of;
        assert_eq!((refused.status, refused.header("retry-after").is_empty()), (409, false), "{}", refused.text());
        assert!(refused.text().contains("admin.max_repeat_waits_of_a_caller"), "{}", refused.text());
        let kept = "(SELECT status, answer FROM kept)";
        database.query(&format!("UPDATE idempotency SET (status, answer) = {kept} {of_it}")).unwrap();
        same(&first, &waits.await);
        database.query("DROP TABLE kept").unwrap();
    }
    let page = Call::get("/metrics").to(gw.address()).await.unwrap().text();
    assert!(page.contains("control_repeats_refused_total 2\n"), "{page}");
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_done_again() {
    let gw = Gateway::postgres().await;
    let gw = gw.with_settings(|settings| settings.admin.max_repeat_wait = Time::millis(0)).await;
    let group = Write { body: json!({ "id": "prod" }), ..upstream(Method::POST, "/api/gateway_groups", "k") };
    for write in [group, upstream(Method::PUT, "/apisix/admin/upstreams/1", "k2")] {
        let first = write.to(gw.address()).await;
        assert_eq!(first.status, 201, "{}", first.text());
        // As a replica leaves it that dies before it keeps the answer.
        gw.database().unwrap().query("UPDATE idempotency SET status = NULL, answer = NULL").unwrap();
        let again = write.to(gw.address()).await;
        assert_eq!((again.status, again.header("retry-after").is_empty()), (409, false), "{}", again.text());
    }
    assert_eq!(gw.revision().await, 1);
}
