//! §3: keys and roles.

use crate::gateway::{Gateway, KEY, VIEWER, bare, on_both};
use milecastle_control::{FirstKey, mint_admin_key, put_admin_key};
use milecastle_settings::AdminKey;
use milecastle_store::{Role, RoleUpdate};
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
    s3_keys_with_roles_of_ones_own,
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
    let cookie = |key: &str| format!("x_api_key={key}");
    let both = |header: &str, key: &str| bare("GET /routes").header("x-api-key", header).header("cookie", &cookie(key));
    assert_eq!(status(&gw, both("wrong", KEY)).await, 401);
    assert_eq!(status(&gw, both("", KEY)).await, 200);
    assert_eq!(status(&gw, both(KEY, "wrong")).await, 200);
    assert_eq!(status(&gw, query("wrong").header("cookie", &cookie(KEY))).await, 401);
    assert_eq!(status(&gw, query(KEY).header("cookie", &cookie("wrong"))).await, 200);
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

fn key(key: &str, role: &str) -> AdminKey {
    AdminKey { name: key.into(), key: key.to_owned().into(), role: role.into() }
}

async fn s3_keys_of_the_settings(_: Gateway) {
    let keys = vec![key("fixed", "admin"), key("fixed-viewer", "viewer")];
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

async fn s3_keys_with_roles_of_ones_own(gw: Gateway) {
    let send = async |gw: &Gateway, secret: &str, line: &str| {
        let answer = bare(line).header("x-api-key", secret).to(gw.address()).await.unwrap();
        (answer.status, answer.text())
    };
    let allows = |resource: &str| RoleUpdate {
        description: String::new(),
        allows: ["read", "write"].map(|action| (action.to_owned(), [resource.to_owned()].into())).into(),
    };
    // One that is not there is given to nobody, and a key of a dashboard's file that names it opens nothing.
    let named = || Role::Named("upstreams-only".to_owned());
    let refused = mint_admin_key(gw.by(), "made", named(), false).await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no role `upstreams-only`");
    let fixed = || vec![key("fixed", "upstreams-only")];
    let gw = gw.with_settings(|settings| settings.admin.admin_key = fixed()).await;
    let (status, why) = send(&gw, "fixed", "GET /upstreams").await;
    assert!(status == 403 && why.contains("there is no role `upstreams-only`, which the Admin key `fixed`"), "{why}");

    gw.by().role_create("upstreams-only", &allows("upstreams")).await.unwrap();
    let made = mint_admin_key(gw.by(), "made", named(), false).await.unwrap().unwrap();
    let operator = Role::Named("operator".to_owned());
    put_admin_key(gw.by(), "operator", operator, "key-of-the-operator").await.unwrap();
    for secret in ["fixed", &made] {
        eventually("the key opens", async || send(&gw, secret, "GET /upstreams").await.0 == 200).await;
        assert_eq!(send(&gw, secret, r#"PUT /upstreams/1 {"nodes":{}}"#).await.0 / 100, 2);
        let (status, text) = send(&gw, secret, "GET /routes").await;
        assert!(status == 403 && text.contains("may not read routes"), "{text}");
        let users = Call::get("/api/users").header("x-api-key", secret).to(gw.address()).await.unwrap();
        assert_eq!((users.status, &users.json().unwrap()["code"]), (403, &json!("not_allowed")));
    }
    assert_eq!(send(&gw, "key-of-the-operator", r#"PUT /upstreams/1 {"nodes":{}}"#).await.0, 200);
    // What the role allows counts as it is now, and one that somebody has is not deleted.
    gw.by().role_update("upstreams-only", 1, &allows("routes")).await.unwrap();
    assert_eq!(send(&gw, &made, "GET /routes").await.0, 200);
    assert_eq!(send(&gw, &made, "GET /upstreams").await.0, 403);
    let held = gw.by().role_delete("upstreams-only", 2).await.unwrap_err().to_string();
    assert!(held.contains("take it from Admin key `made` first"), "{held}");
    // Only the file of a dashboard may name one that is gone: whoever calls with it is told so.
    gw.by().admin_key_delete("made").await.unwrap();
    gw.by().role_delete("upstreams-only", 2).await.unwrap();
    let (status, text) = send(&gw, "fixed", "GET /routes").await;
    assert!(status == 403 && text.contains("there is no role `upstreams-only`"), "{text}");
    let ours = Call::get("/api/gateway_groups").header("x-api-key", "fixed").to(gw.address()).await.unwrap();
    assert_eq!((ours.status, &ours.json().unwrap()["code"]), (403, &json!("no_role")));
}
