//! §3: keys and roles.

use crate::gateway::{Gateway, KEY, VIEWER, bare, on_both};
use milecastle_control::{FirstKey, mint_admin_key, put_admin_key};
use milecastle_settings::{AdminKey, AdminRole};
use milecastle_store::Role;
use milecastle_testkit::{Call, eventually};
use serde_json::json;

on_both!(
    s3_the_first_place_that_has_a_key_counts,
    s3_wrong_and_missing_keys,
    s3_a_viewer_may_only_read,
    s3_keys_of_the_settings,
    s3_no_key_required,
    s3_head_needs_no_key,
    s3_the_first_key_is_made_once,
    s3_a_lost_key_is_made_anew,
    s3_keys_come_and_go_while_it_runs,
);

async fn status(gw: &Gateway, call: Call) -> u16 {
    call.to(gw.address()).await.unwrap().status
}

async fn s3_the_first_place_that_has_a_key_counts(gw: Gateway) {
    let query = |key: &str| bare(&format!("GET /routes?api_key={key}"));
    assert_eq!(status(&gw, query(KEY)).await, 200);
    assert_eq!(status(&gw, bare("GET /routes").header("X-API-KEY", KEY)).await, 200);
    assert_eq!(status(&gw, bare("GET /routes").header("x_api_key", KEY)).await, 200);
    assert_eq!(status(&gw, bare("GET /routes").header("cookie", &format!("a=b; x_api_key={KEY}"))).await, 200);
    assert_eq!(status(&gw, query("wrong").header("x-api-key", KEY)).await, 401);
    assert_eq!(status(&gw, query("").header("x-api-key", KEY)).await, 200);
    assert_eq!(status(&gw, bare("GET /routes").header("x-api-key", "wrong").header("cookie", KEY)).await, 401);
}

async fn s3_wrong_and_missing_keys(gw: Gateway) {
    for (call, description) in [
        (bare("PUT /routes/1 {}"), "missing apikey"),
        (bare("PUT /routes/1 {}").header("x-api-key", "nope"), "wrong apikey"),
    ] {
        let answer = call.to(gw.address()).await.unwrap();
        let body = json!({"error_msg": "failed to check token", "description": description});
        assert_eq!((answer.status, answer.json().unwrap()), (401, body));
    }
    assert_eq!(gw.revision().await, 0);
}

async fn s3_a_viewer_may_only_read(gw: Gateway) {
    let body = json!({"error_msg": "failed to check token", "description": "invalid method for role viewer"});
    for line in [
        r#"PUT /upstreams/1 {"nodes":{}}"#,
        r#"POST /upstreams {"nodes":{}}"#,
        "PATCH /upstreams/1 {}",
        "DELETE /upstreams/1",
        "POST /schema/validate/routes {}",
        "PUT /plugins/reload",
    ] {
        let answer = bare(line).header("x-api-key", VIEWER).to(gw.address()).await.unwrap();
        assert_eq!((answer.status, answer.json().unwrap()), (401, body.clone()), "{line}");
    }
    for line in ["GET /upstreams", "GET /plugins/list", "GET /schema/route"] {
        assert_eq!(status(&gw, bare(line).header("x-api-key", VIEWER)).await, 200, "{line}");
    }
    assert_eq!(gw.revision().await, 0);
}

async fn s3_keys_of_the_settings(_: Gateway) {
    let key = |key: &str, role| AdminKey { name: key.into(), key: key.to_owned().into(), role };
    let keys = vec![key("fixed", AdminRole::Admin), key("fixed-viewer", AdminRole::Viewer)];
    let gw = Gateway::configured(|settings| settings.admin.admin_key = keys).await;
    let put = || bare(r#"PUT /upstreams/1 {"nodes":{}}"#);
    assert_eq!(status(&gw, put().header("x-api-key", "fixed")).await, 201);
    assert_eq!(status(&gw, put().header("x-api-key", "fixed-viewer")).await, 401);
    assert_eq!(status(&gw, bare("GET /upstreams/1").header("x-api-key", "fixed-viewer")).await, 200);
}

async fn s3_no_key_required(_: Gateway) {
    let gw = Gateway::configured(|settings| settings.admin.admin_key_required = false).await;
    assert_eq!(status(&gw, bare(r#"PUT /upstreams/1 {"nodes":{}}"#)).await, 201);
    assert_eq!(status(&gw, bare("GET /upstreams/1").header("x-api-key", "wrong")).await, 200);
}

async fn s3_head_needs_no_key(gw: Gateway) {
    let answer = bare("HEAD ").to(gw.address()).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(answer.header("server").starts_with("Milecastle/"));
}

async fn s3_the_first_key_is_made_once(gw: Gateway) {
    // There are keys already: nothing is made, and a given one counts no more.
    let first = FirstKey::new(None);
    assert_eq!(first.record(&gw.store).await.unwrap(), None);
    assert_eq!(FirstKey::new(Some("late".to_owned())).record(&gw.store).await.unwrap(), None);
    for name in ["admin", "viewer"] {
        assert!(gw.by().admin_key_delete(name).await.unwrap());
    }
    let made = first.record(&gw.store).await.unwrap().unwrap().to_owned();
    // Whoever lost the answer is told again, and nobody else.
    assert_eq!(first.record(&gw.store).await.unwrap(), Some(&*made));
    assert_eq!(FirstKey::new(None).record(&gw.store).await.unwrap(), None);
    assert!(made.len() >= 40 && made.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
    let get = |key: &str| bare("GET /routes").header("x-api-key", key);
    eventually("the made key opens", async || status(&gw, get(&made)).await == 200).await;
    assert_eq!((status(&gw, get("late")).await, status(&gw, get(KEY)).await), (401, 401));
}

async fn s3_a_lost_key_is_made_anew(gw: Gateway) {
    let get = |key: &str| bare("GET /routes").header("x-api-key", key);
    assert_eq!(mint_admin_key(gw.by(), "admin", Role::Viewer, false).await.unwrap(), None);
    assert_eq!(status(&gw, get(KEY)).await, 200);
    let made = mint_admin_key(gw.by(), "admin", Role::Admin, true).await.unwrap().unwrap();
    eventually("the made key opens", async || status(&gw, get(&made)).await == 200).await;
    assert_eq!(status(&gw, get(KEY)).await, 401);
    let further = mint_admin_key(gw.by(), "further", Role::Viewer, false).await.unwrap().unwrap();
    assert_ne!(further, made);
    eventually("the further key opens", async || status(&gw, get(&further)).await == 200).await;
    assert_eq!(status(&gw, bare("DELETE /routes/1").header("x-api-key", &further)).await, 401);
}

async fn s3_keys_come_and_go_while_it_runs(gw: Gateway) {
    let get = || bare("GET /routes").header("x-api-key", "another");
    assert_eq!(status(&gw, get()).await, 401);
    put_admin_key(gw.by(), "other", Role::Viewer, "another").await.unwrap();
    eventually("the new key opens", async || status(&gw, get()).await == 200).await;
    gw.by().admin_key_delete("other").await.unwrap();
    eventually("the deleted key opens no more", async || status(&gw, get()).await == 401).await;
}
