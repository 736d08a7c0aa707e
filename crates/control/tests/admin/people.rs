//! People: logging in, sessions, passwords, accounts.

use crate::gateway::{Gateway, KEY, on_both};
use http::Method;
use milecastle_control::{FirstAccount, generate_password, hash_password};
use milecastle_settings::Time;
use milecastle_store::{AccountUpdate, NewPassword, RoleGrant};
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};

on_both!(
    a_session_on_any_replica,
    a_session_changes_nothing_by_the_cookie_alone,
    the_cookie_keeps_to_itself,
    the_first_account_has_to_change_its_password,
    another_password_ends_other_sessions,
    accounts_are_made_changed_and_deleted,
    logins_that_fail_are_slowed_down,
    an_address_that_tries_many_names_is_slowed_down,
    nobody_learns_which_accounts_there_are,
    addresses_behind_a_trusted_proxy_are_told_apart,
);

pub(crate) const PASSWORD: &str = "correct-horse";

/// A browser.
pub(crate) struct Browser {
    cookie: String,
    csrf: String,
}

impl Browser {
    /// After a login that must succeed.
    pub(crate) async fn of(gw: &Gateway, name: &str, password: &str) -> Self {
        let answer = login(gw, name, password).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        Self { cookie, csrf: answer.json().unwrap()["csrf_token"].as_str().unwrap().to_owned() }
    }

    pub(crate) async fn send(&self, gw: &Gateway, method: Method, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let call = Call::new(method, path).header("cookie", &self.cookie).header("x-csrf-token", &self.csrf);
        call.body(body).to(gw.address()).await.unwrap()
    }

    pub(crate) async fn get(&self, gw: &Gateway, path: &str) -> u16 {
        self.send(gw, Method::GET, path, Value::Null).await.status
    }
}

async fn login(gw: &Gateway, name: &str, password: &str) -> Answer {
    let body = json!({ "name": name, "password": password }).to_string();
    let call = Call::new(Method::POST, "/api/session").header("content-type", "application/json").body(body);
    call.to(gw.address()).await.unwrap()
}

async fn by_key(gw: &Gateway, method: Method, path: &str, body: Value) -> Answer {
    Call::new(method, path).header("x-api-key", KEY).body(body.to_string()).to(gw.address()).await.unwrap()
}

/// An account whose password is [`PASSWORD`], and need not be changed.
pub(crate) async fn account(gw: &Gateway, name: &str, role: &str) {
    let hash = hash_password(PASSWORD.to_owned().into()).await;
    let password = NewPassword { hash, must_change: false };
    assert!(gw.by().account_create(name, &password, &[RoleGrant::everywhere(role)]).await.unwrap());
}

async fn a_session_on_any_replica(gw: Gateway) {
    let other = gw.replica().await;
    account(&gw, "ann", "operator").await;
    let browser = Browser::of(&gw, "ann", PASSWORD).await;
    let told = browser.send(&other, Method::GET, "/api/session", Value::Null).await.json().unwrap();
    assert_eq!((&told["name"], &told["kind"]), (&json!("ann"), &json!("account")));
    assert_eq!(told["roles"], json!([{ "role": "operator", "groups": ["*"] }]));
    let put = browser.send(&other, Method::PUT, "/apisix/admin/upstreams/1", json!({ "nodes": {} })).await;
    assert_eq!(put.status, 201, "{}", put.text());
    let history = by_key(&gw, Method::GET, "/api/gateway_groups/default/revisions", json!("")).await.json().unwrap();
    assert_eq!(history["list"][0]["author"], "ann");
    assert_eq!(browser.get(&other, "/api/users").await, 403);
    assert_eq!(browser.send(&gw, Method::DELETE, "/api/session", Value::Null).await.status, 204);
    assert_eq!((browser.get(&gw, "/api/nodes").await, browser.get(&other, "/api/nodes").await), (401, 401));
}

async fn a_session_changes_nothing_by_the_cookie_alone(gw: Gateway) {
    account(&gw, "ann", "administrator").await;
    let mut browser = Browser::of(&gw, "ann", PASSWORD).await;
    browser.csrf = "guessed".to_owned();
    assert_eq!(browser.get(&gw, "/apisix/admin/routes").await, 200);
    for path in ["/apisix/admin/upstreams/1", "/api/gateway_groups/default/maintenance"] {
        let answer = browser.send(&gw, Method::PUT, path, json!({ "nodes": {} })).await;
        assert!(answer.status == 403 && answer.text().contains("X-CSRF-Token"), "{path}: {}", answer.text());
    }
    assert_eq!(gw.revision().await, 0);
    let body = json!({ "name": "ann", "password": PASSWORD }).to_string();
    let form = Call::new(Method::POST, "/api/session").header("content-type", "text/plain").body(body);
    assert_eq!(form.to(gw.address()).await.unwrap().status, 400);
}

async fn the_cookie_keeps_to_itself(gw: Gateway) {
    account(&gw, "ann", "viewer").await;
    let plain = login(&gw, "ann", PASSWORD).await;
    assert!(
        plain.header("set-cookie").ends_with("; Path=/; HttpOnly; SameSite=Strict"),
        "{}",
        plain.header("set-cookie")
    );
    assert_eq!(plain.header("cache-control"), "no-store");
    let body = json!({ "name": "ann", "password": PASSWORD }).to_string();
    let call = Call::new(Method::POST, "/api/session").header("content-type", "application/json");
    let tls = call.header("x-forwarded-proto", "https").body(body).to(gw.address()).await.unwrap();
    assert!(tls.header("set-cookie").ends_with("; HttpOnly; SameSite=Strict; Secure"), "{}", tls.header("set-cookie"));
    let value = tls.header("set-cookie").split(['=', ';']).nth(1).unwrap().to_owned();
    assert!(value.len() >= 40 && !tls.text().contains(&value));
    // One that a neighbour has planted counts for nothing beside it.
    let pair = format!("__Host-milecastle_session={value}");
    assert!(tls.header("set-cookie").starts_with(&pair), "{}", tls.header("set-cookie"));
    for cookies in [&pair, &format!("milecastle_session=planted; {pair}")] {
        let answer = Call::get("/api/session").header("cookie", cookies).to(gw.address()).await.unwrap();
        assert_eq!((answer.status, &answer.json().unwrap()["name"]), (200, &json!("ann")), "{cookies}");
    }
    // Nor does it by itself, however good the session is; without TLS nobody else could have set it.
    let value = plain.header("set-cookie").split(';').next().unwrap().to_owned();
    for (proto, status) in [("https", 401), ("http", 200)] {
        let call = Call::get("/api/session").header("cookie", &value).header("x-forwarded-proto", proto);
        assert_eq!(call.to(gw.address()).await.unwrap().status, status, "{proto}");
    }
}

async fn the_first_account_has_to_change_its_password(gw: Gateway) {
    let first = FirstAccount::new();
    let made = first.record(&gw.store).await.unwrap().unwrap().clone();
    // Whoever lost the answer is told again, and nobody else.
    assert_eq!(first.record(&gw.store).await.unwrap().unwrap().reveal(), made.reveal());
    assert!(FirstAccount::new().record(&gw.store).await.unwrap().is_none());
    let browser = Browser::of(&gw, "admin", made.reveal()).await;
    let refused = browser.send(&gw, Method::GET, "/api/users", Value::Null).await;
    assert_eq!((refused.status, refused.json().unwrap()["code"].as_str()), (403, Some("password_change_required")));
    assert_eq!(browser.get(&gw, "/apisix/admin/routes").await, 403);
    let change = async |old: &str, new: &str| {
        let body = json!({ "old": old, "new": new });
        browser.send(&gw, Method::PUT, "/api/session/password", body).await
    };
    for (old, new, status) in
        [("wrong", PASSWORD, 401), (made.reveal(), "short", 400), (made.reveal(), "lettersonly", 400)]
    {
        assert_eq!(change(old, new).await.status, status, "{new}");
    }
    assert_eq!(change(made.reveal(), made.reveal()).await.status, 400);
    assert_eq!(change(made.reveal(), PASSWORD).await.status, 204);
    assert_eq!(browser.get(&gw, "/api/users").await, 200);
    assert_eq!(
        (login(&gw, "admin", made.reveal()).await.status, login(&gw, "admin", PASSWORD).await.status),
        (401, 201)
    );
}

async fn another_password_ends_other_sessions(gw: Gateway) {
    account(&gw, "ann", "viewer").await;
    let (one, other) = (Browser::of(&gw, "ann", PASSWORD).await, Browser::of(&gw, "ann", PASSWORD).await);
    let body = json!({ "old": PASSWORD, "new": "another-one" });
    assert_eq!(one.send(&gw, Method::PUT, "/api/session/password", body).await.status, 204);
    assert_eq!((one.get(&gw, "/api/nodes").await, other.get(&gw, "/api/nodes").await), (200, 401));
    // As `milecastle user passwd` does.
    let password = NewPassword { hash: hash_password(generate_password()).await, must_change: true };
    let update = AccountUpdate { password: Some(password), ..AccountUpdate::default() };
    gw.by().account_update("ann", &update, None).await.unwrap();
    assert_eq!(one.get(&gw, "/api/nodes").await, 401);
}

async fn accounts_are_made_changed_and_deleted(gw: Gateway) {
    account(&gw, "root", "administrator").await;
    let root = Browser::of(&gw, "root", PASSWORD).await;
    let viewer = json!([{ "role": "viewer", "groups": ["*"] }]);
    let made = root.send(&gw, Method::POST, "/api/users", json!({ "name": "bob", "roles": viewer })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let password = made.json().unwrap()["password"].as_str().unwrap().to_owned();
    assert_eq!(root.send(&gw, Method::POST, "/api/users", json!({ "name": "bob", "roles": viewer })).await.status, 409);
    let listed = root.send(&gw, Method::GET, "/api/users", Value::Null).await;
    assert_eq!(listed.json().unwrap()["total"], 2);
    assert!(!listed.text().contains(&password) && !listed.text().contains("argon2"));
    for (body, path) in [
        (json!({ "name": "a b", "roles": viewer }), "/name"),
        (json!({ "name": "eve", "roles": [] }), "/roles"),
        (json!({ "name": "eve", "roles": [{ "role": "viewer", "groups": ["none"] }] }), "/roles/0/groups/0"),
        (json!({ "name": "eve", "roles": viewer, "password": "short" }), "/password"),
    ] {
        let answer = root.send(&gw, Method::POST, "/api/users", body).await;
        assert_eq!((answer.status, answer.json().unwrap()["path"].as_str()), (400, Some(path)));
    }
    let of_nobody = json!({ "name": "eve", "roles": viewer, "provider": true });
    let refused = root.send(&gw, Method::POST, "/api/users", of_nobody).await;
    assert_eq!((refused.status, &refused.json().unwrap()["code"]), (409, &json!("no_provider")));
    let bob = Browser::of(&gw, "bob", &password).await;
    let change = json!({ "old": password, "new": PASSWORD });
    assert_eq!(bob.send(&gw, Method::PUT, "/api/session/password", change).await.status, 204);
    // New roles count at once.
    assert_eq!(bob.get(&gw, "/api/tokens").await, 403);
    let roles = json!({ "roles": [{ "role": "administrator", "groups": ["*"] }] });
    assert_eq!(root.send(&gw, Method::PATCH, "/api/users/bob", roles.clone()).await.status, 200);
    assert_eq!(bob.get(&gw, "/api/tokens").await, 200);
    for (method, body) in
        [(Method::PATCH, json!({ "disabled": true })), (Method::PATCH, roles), (Method::DELETE, json!(""))]
    {
        let own = root.send(&gw, method, "/api/users/root", body).await;
        assert_eq!((own.status, own.json().unwrap()["code"].as_str()), (409, Some("own_account")));
    }
    assert_eq!(root.send(&gw, Method::PATCH, "/api/users/bob", json!({ "disabled": true })).await.status, 200);
    assert_eq!((bob.get(&gw, "/api/nodes").await, login(&gw, "bob", PASSWORD).await.status), (401, 401));
    assert_eq!(root.send(&gw, Method::DELETE, "/api/users/bob", Value::Null).await.status, 204);
    assert_eq!(root.get(&gw, "/api/users/bob").await, 404);
}

async fn logins_that_fail_are_slowed_down(gw: Gateway) {
    let other = gw.replica().await;
    account(&gw, "ann", "viewer").await;
    let gw = gw.with_settings(|settings| settings.access.login_failures = 2).await;
    let other = other.with_settings(|settings| settings.access.login_failures = 2).await;
    assert_eq!((login(&gw, "ann", "wrong-1").await.status, login(&other, "ann", "wrong-2").await.status), (401, 401));
    let mut last = login(&gw, "ann", "wrong-3").await;
    // On a slow machine the wait may be over by then; each failure after it doubles the next one.
    for at in [&other, &gw].into_iter().cycle().take(8) {
        if last.status == 429 {
            break;
        }
        last = login(at, "ann", "wrong-3").await;
    }
    assert_eq!((last.status, last.json().unwrap()["code"].as_str()), (429, Some("too_many_logins")));
    assert!(last.header("retry-after").parse::<u64>().unwrap() >= 1);
}

async fn an_address_that_tries_many_names_is_slowed_down(gw: Gateway) {
    let gw = gw
        .with_settings(|settings| {
            settings.access.login_failures_of_address = 2;
            (settings.access.login_wait_min, settings.access.login_wait_max) = (Time::secs(600), Time::secs(600));
            settings.access.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        })
        .await;
    account(&gw, "ann", "viewer").await;
    let from = async |address: &str, name: &str, password: &str| {
        let body = json!({ "name": name, "password": password }).to_string();
        let call = Call::new(Method::POST, "/api/session").header("content-type", "application/json").body(body);
        call.header("x-forwarded-for", address).to(gw.address()).await.unwrap()
    };
    for name in ["one", "two"] {
        assert_eq!(from("203.0.113.7", name, "wrong").await.status, 401, "{name}");
    }
    // No name is tried a second time: it is the address that waits, whatever it knows.
    for (name, password) in [("three", "wrong"), ("ann", PASSWORD)] {
        let refused = from("203.0.113.7", name, password).await;
        assert_eq!((refused.status, &refused.json().unwrap()["code"]), (429, &json!("too_many_logins")), "{name}");
        assert!((1..=600).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    }
    assert_eq!(from("203.0.113.8", "ann", PASSWORD).await.status, 201);
}

async fn nobody_learns_which_accounts_there_are(gw: Gateway) {
    account(&gw, "ann", "viewer").await;
    let told = async |name: &str| {
        let answer = login(&gw, name, "wrong-one").await;
        let told = answer.json().unwrap();
        (answer.status, told["code"].clone(), told["message"].clone())
    };
    assert_eq!(told("ann").await, told("nobody").await);
    assert_eq!(told("ann").await, told("no such name at all").await);
}

async fn addresses_behind_a_trusted_proxy_are_told_apart(gw: Gateway) {
    account(&gw, "ann", "viewer").await;
    let gw = gw.with_settings(|settings| settings.access.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let token = by_key(
        &gw,
        Method::POST,
        "/api/tokens",
        json!({ "name": "t", "roles": [{ "role": "viewer", "groups": ["*"] }] }),
    );
    let token = token.await.json().unwrap()["token"].as_str().unwrap().to_owned();
    let call = Call::get("/api/nodes")
        .header("x-api-key", &token)
        .header("x-forwarded-for", "nonsense, 203.0.113.7, 127.0.0.2");
    assert_eq!(call.to(gw.address()).await.unwrap().status, 200);
    let listed = by_key(&gw, Method::GET, "/api/tokens", json!("")).await.json().unwrap();
    assert_eq!(listed["list"][0]["used_from"], "203.0.113.7");
}
