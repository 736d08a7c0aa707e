//! Logging in through a provider of OpenID Connect.

mod provider;

use crate::gateway::{Gateway, KEY, on_both};
use crate::people::{PASSWORD, account};
use http::Method;
use milecastle_settings::{OidcRole, Time};
use milecastle_testkit::{Answer, Call, eventually};
use provider::{PUBLIC, Provider, Way};
use serde_json::{Value, json};

on_both!(
    somebody_begins_on_one_replica_and_ends_on_another,
    an_account_is_somebodys_by_what_the_provider_calls_him,
    a_login_ends_once_and_where_it_began,
    roles_are_those_of_the_provider,
    an_account_is_made_for_a_subject,
);

async fn send(gw: &Gateway, method: Method, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Call::new(method, path).header("x-api-key", KEY).body(body).to(gw.address()).await.unwrap()
}

/// A dashboard that knows a provider; and that.
async fn known(gw: Gateway) -> (Gateway, Provider) {
    let provider = Provider::start().await;
    let settings = provider.settings();
    (gw.with_settings(|dashboard| dashboard.oidc = settings).await, provider)
}

/// Makes an account whose owner logs in through the provider.
async fn awaited(gw: &Gateway, name: &str) {
    let body = json!({ "name": name, "roles": [{ "role": "viewer", "groups": ["*"] }], "provider": true });
    let made = send(gw, Method::POST, "/api/users", body).await;
    assert_eq!((made.status, &made.json().unwrap()["subject"]), (201, &Value::Null), "{}", made.text());
    assert!(made.json().unwrap().get("password").is_none());
}

/// Goes all the way.
async fn login(gw: &Gateway, provider: &Provider) -> Answer {
    let way = Way::begin(gw).await;
    way.back(gw, &provider.authorise(gw, &way.location)).await
}

/// The cookie of the session that an answer begins.
#[track_caller]
fn session(answer: &Answer) -> String {
    assert_eq!((answer.status, answer.header("location")), (303, format!("{PUBLIC}/")), "{}", answer.text());
    let cookies = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let cookies: Vec<&str> = cookies.collect();
    assert!(cookies[0].ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookies:?}");
    assert_eq!(cookies[1], "milecastle_login=; Max-Age=0; Path=/api/session/oidc/callback; HttpOnly; SameSite=Lax");
    cookies[0].split(';').next().unwrap().to_owned()
}

/// That nobody was let in, with this status and code.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    let told = answer.json().unwrap();
    assert_eq!((answer.status, told["code"].as_str()), (status, Some(code)), "{}", answer.text());
    assert!(!answer.header("set-cookie").contains("milecastle_session"), "{}", answer.header("set-cookie"));
}

async fn whose(gw: &Gateway, session: &str) -> (u16, Value) {
    let answer = Call::get("/api/session").header("cookie", session).to(gw.address()).await.unwrap();
    (answer.status, answer.json().unwrap())
}

async fn somebody_begins_on_one_replica_and_ends_on_another(gw: Gateway) {
    let (gw, provider) = known(gw).await;
    let settings = provider.settings();
    let other = gw.replica_with(|dashboard| dashboard.oidc = settings).await;
    awaited(&gw, "ann").await;
    let way = Way::begin(&gw).await;
    let answer = way.back(&other, &provider.authorise(&gw, &way.location)).await;
    let cookie = session(&answer);
    let (status, told) = whose(&gw, &cookie).await;
    assert_eq!((status, &told["name"], &told["kind"]), (200, &json!("ann"), &json!("account")));
    assert_eq!((&told["must_change_password"], &told["roles"][0]["role"]), (&json!(false), &json!("viewer")));
    let log = send(&gw, Method::GET, "/api/audit?kind=session&action=sign_in", Value::Null).await.json().unwrap();
    assert_eq!(log["list"][0]["after"], json!({ "issuer": provider.issuer(), "subject": "s-1" }));
    assert_eq!((&log["list"][0]["actor"], &log["list"][0]["outcome"]), (&json!("ann"), &json!("done")));
    let out = Call::new(Method::DELETE, "/api/session").header("cookie", &cookie);
    let out = out.header("x-csrf-token", told["csrf_token"].as_str().unwrap()).to(other.address()).await.unwrap();
    assert_eq!((out.status, whose(&gw, &cookie).await.0), (204, 401));
    // Nobody logs in to it with a password, not even with none.
    for password in ["", "p"] {
        let body = json!({ "name": "ann", "password": password }).to_string();
        let call = Call::new(Method::POST, "/api/session").header("content-type", "application/json").body(body);
        assert_eq!(call.to(gw.address()).await.unwrap().status, 401);
    }
    let methods = Call::get("/api/session/methods").to(gw.address()).await.unwrap().json().unwrap();
    assert_eq!(methods, json!({ "password": true, "oidc": true }));
}

async fn an_account_is_somebodys_by_what_the_provider_calls_him(gw: Gateway) {
    let (gw, provider) = known(gw).await;
    refused(&login(&gw, &provider).await, 403, "no_account");
    // A name alone opens no account of somebody who has a password.
    account(&gw, "root", "administrator").await;
    provider.conduct().claims = json!({ "preferred_username": "root" });
    refused(&login(&gw, &provider).await, 403, "no_account");
    awaited(&gw, "ann").await;
    provider.conduct().claims = json!({});
    session(&login(&gw, &provider).await);
    // He may be called otherwise by then, and whoever is called so later is not he.
    provider.conduct().claims = json!({ "preferred_username": "another name" });
    let cookie = session(&login(&gw, &provider).await);
    assert_eq!(whose(&gw, &cookie).await.1["name"], "ann");
    provider.conduct().claims = json!({ "sub": "s-2" });
    refused(&login(&gw, &provider).await, 403, "no_account");
    let shown = send(&gw, Method::GET, "/api/users/ann", Value::Null).await.json().unwrap();
    assert_eq!((&shown["issuer"], &shown["subject"]), (&json!(provider.issuer()), &json!("s-1")));
    // What ends an account ends this way in too.
    provider.conduct().claims = json!({});
    assert_eq!(send(&gw, Method::PATCH, "/api/users/ann", json!({ "disabled": true })).await.status, 200);
    assert_eq!(whose(&gw, &cookie).await.0, 401);
    refused(&login(&gw, &provider).await, 403, "no_account");
    let both = json!({ "name": "b", "roles": [{ "role": "viewer", "groups": ["*"] }], "provider": true, "password": PASSWORD });
    let both = send(&gw, Method::POST, "/api/users", both).await;
    assert_eq!((both.status, &both.json().unwrap()["path"]), (400, &json!("/provider")));
    // A password would be a second way in.
    let way = send(&gw, Method::PATCH, "/api/users/ann", json!({ "password": PASSWORD })).await;
    assert_eq!((way.status, &way.json().unwrap()["code"]), (409, &json!("provider_account")));
}

async fn a_login_ends_once_and_where_it_began(gw: Gateway) {
    let (gw, provider) = known(gw).await;
    let settings = provider.settings();
    let other = gw.replica_with(|dashboard| dashboard.oidc = settings).await;
    awaited(&gw, "ann").await;
    let (one, two) = (Way::begin(&gw).await, Way::begin(&gw).await);
    let path = provider.authorise(&gw, &one.location);
    // In another browser, in one that has begun nothing, and in one that makes something up.
    refused(&two.back(&gw, &path).await, 400, "wrong_state");
    refused(&Call::get(&path).to(gw.address()).await.unwrap(), 400, "wrong_state");
    let altered = Way { cookie: format!("{}A", one.cookie), location: String::new() };
    refused(&altered.back(&gw, &path).await, 400, "wrong_state");
    session(&one.back(&gw, &path).await);
    // Even where the provider would redeem another code of it.
    for gw in [&gw, &other] {
        refused(&one.back(gw, &provider.authorise(gw, &one.location)).await, 400, "wrong_state");
    }
    // A code of one login is of no use in another one, which knows another verifier.
    let code = provider.authorise(&gw, &one.location).split('&').next().unwrap().to_owned();
    let state = provider.authorise(&gw, &two.location).split_once('&').unwrap().1.to_owned();
    refused(&two.back(&gw, &format!("{code}&{state}")).await, 401, "wrong_login");
    let late = gw.with_settings(|dashboard| {
        dashboard.oidc = provider.settings();
        dashboard.oidc.login_timeout = Time::millis(0);
    });
    let late = late.await;
    refused(&two.back(&late, &provider.authorise(&late, &two.location)).await, 400, "wrong_state");
}

async fn roles_are_those_of_the_provider(gw: Gateway) {
    assert_eq!(send(&gw, Method::POST, "/api/gateway_groups", json!({ "id": "prod" })).await.status, 201);
    assert_eq!(send(&gw, Method::POST, "/api/roles", json!({ "name": "dev", "read": ["routes"] })).await.status, 201);
    let provider = Provider::start().await;
    let role = |value: &str, role: &str, groups: &[&str]| OidcRole {
        value: value.to_owned(),
        role: role.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    };
    let mut settings = provider.settings();
    settings.create_accounts = true;
    settings.roles = vec![
        role("devs", "dev", &["prod", "gone"]),
        role("ops", "operator", &["*"]),
        role("lost", "viewer", &["gone"]),
    ];
    let gw = gw.with_settings(|dashboard| dashboard.oidc = settings).await;
    let roles = async |groups: Value| {
        provider.conduct().claims = json!({ "groups": groups });
        let cookie = session(&login(&gw, &provider).await);
        whose(&gw, &cookie).await.1["roles"].clone()
    };
    let (dev, ops) = (json!({ "role": "dev", "groups": ["prod"] }), json!({ "role": "operator", "groups": ["*"] }));
    assert_eq!(roles(json!(["devs", "others"])).await, json!([dev]));
    assert_eq!(roles(json!(["ops", "devs"])).await, json!([dev, ops]));
    assert_eq!(roles(json!("ops")).await, json!([ops]));
    provider.conduct().claims = json!({ "groups": "ops" });
    let cookie = session(&login(&gw, &provider).await);
    for groups in [json!(["others"]), json!([]), json!(["lost"]), json!(null)] {
        provider.conduct().claims = json!({ "groups": groups });
        refused(&login(&gw, &provider).await, 403, "no_account");
        // What the provider gave is gone, in the session that he has as well.
        assert_eq!(whose(&gw, &cookie).await.1["roles"], json!([]), "{groups}");
    }
    // What is given by hand stays, whatever the provider says.
    let by_hand = json!({ "roles": [{ "role": "viewer", "groups": ["*"] }] });
    assert_eq!(send(&gw, Method::PATCH, "/api/users/ann", by_hand.clone()).await.status, 200);
    assert_eq!(roles(json!("ops")).await, json!([by_hand["roles"][0], ops]));
    assert_eq!(roles(json!("others")).await, by_hand["roles"]);
    let shown = send(&gw, Method::GET, "/api/users/ann", Value::Null).await.json().unwrap();
    assert_eq!(shown["roles_by_hand"], by_hand["roles"]);
    let told = send(&gw, Method::GET, "/api/audit?kind=account&object=ann", Value::Null).await.json().unwrap();
    let actions: Vec<_> = told["list"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["update", "update", "update", "update", "update", "update", "create"]);
}

async fn an_account_is_made_for_a_subject(gw: Gateway) {
    let (gw, provider) = known(gw).await;
    let made = async |name: &str, subject: &str, provider: bool| {
        let roles = json!([{ "role": "viewer", "groups": ["*"] }]);
        let body = json!({ "name": name, "roles": roles, "provider": provider, "subject": subject });
        let answer = send(&gw, Method::POST, "/api/users", body).await;
        (answer.status, answer.json().unwrap()["path"].clone())
    };
    assert_eq!(made("ann", "s-7", true).await, (201, Value::Null));
    assert_eq!(made("another", "s-7", true).await, (409, json!("/subject")));
    assert_eq!(made("bob", "", true).await, (400, json!("/subject")));
    // Whom a provider calls so logs in through it.
    assert_eq!(made("bob", "s-8", false).await, (201, Value::Null));
    // Whoever is called as the account is, is not its owner by that; whoever is its owner may be called anything.
    refused(&login(&gw, &provider).await, 403, "no_account");
    provider.conduct().claims = json!({ "sub": "s-7", "preferred_username": "somebody" });
    let cookie = session(&login(&gw, &provider).await);
    assert_eq!(whose(&gw, &cookie).await.1["name"], "ann");
}

#[tokio::test]
async fn roles_are_left_to_a_provider_that_gives_them() {
    let provider = Provider::start().await;
    let mut settings = provider.settings();
    let groups = vec!["*".to_owned()];
    settings.roles = vec![OidcRole { value: "ops".to_owned(), role: "operator".to_owned(), groups }];
    let gw = Gateway::configured(|dashboard| dashboard.oidc = settings).await;
    let body = |provider: bool| json!({ "name": "ann", "roles": [], "provider": provider });
    assert_eq!(send(&gw, Method::POST, "/api/users", body(false)).await.status, 400);
    assert_eq!(send(&gw, Method::POST, "/api/users", body(true)).await.status, 201);
    refused(&login(&gw, &provider).await, 403, "no_account");
    provider.conduct().claims = json!({ "groups": "ops" });
    session(&login(&gw, &provider).await);
}

#[tokio::test]
async fn what_the_token_lacks_is_asked_for() {
    let provider = Provider::start().await;
    let mut settings = provider.settings();
    (settings.userinfo, settings.create_accounts) = (true, true);
    let groups = vec!["*".to_owned()];
    settings.roles = vec![OidcRole { value: "ops".to_owned(), role: "operator".to_owned(), groups }];
    let gw = Gateway::configured(|dashboard| dashboard.oidc = settings.clone()).await;
    provider.conduct().told = json!({ "sub": "s-1", "groups": ["ops"], "preferred_username": "eve" });
    let cookie = session(&login(&gw, &provider).await);
    // What the token says stays.
    assert_eq!(whose(&gw, &cookie).await.1["name"], "ann");
    for told in [json!({ "sub": "s-2", "groups": ["ops"] }), json!({ "groups": ["ops"] }), json!([])] {
        provider.conduct().told = told;
        refused(&login(&gw, &provider).await, 401, "wrong_login");
    }
    provider.conduct().claims = json!({ "groups": "ops" });
    session(&login(&gw, &provider).await);
    // Without the key nobody asks.
    settings.userinfo = false;
    let gw = gw.with_settings(|dashboard| dashboard.oidc = settings).await;
    provider.bend(&json!({}), &json!({}), false);
    provider.conduct().told = json!({ "sub": "s-1", "groups": ["ops"] });
    refused(&login(&gw, &provider).await, 403, "no_account");
}

#[tokio::test]
async fn over_tls_the_cookie_of_a_login_is_of_this_host_alone() {
    let provider = Provider::start().await;
    let mut settings = provider.settings();
    settings.public_url = Some("https://gateways.example.com".to_owned());
    let gw = Gateway::configured(|dashboard| dashboard.oidc = settings).await;
    let begun = Call::get("/api/session/oidc").to(gw.address()).await.unwrap();
    let cookie = begun.header("set-cookie");
    assert!(cookie.starts_with("__Host-milecastle_login="), "{cookie}");
    assert!(cookie.ends_with("; Max-Age=600; Path=/; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    let location = begun.header("location");
    let state = location.split_once("&state=").unwrap().1.split('&').next().unwrap();
    let path = format!("/api/session/oidc/callback?error=access_denied&state={state}");
    let pair = cookie.split(';').next().unwrap();
    // What a neighbour can set, nobody takes for it.
    let planted = pair.strip_prefix("__Host-").unwrap();
    for (pair, status, code) in [(planted, 400, "wrong_state"), (pair, 401, "wrong_login")] {
        let answer = Call::get(&path).header("cookie", pair).to(gw.address()).await.unwrap();
        refused(&answer, status, code);
        let over = "__Host-milecastle_login=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure";
        assert_eq!(answer.header("set-cookie"), over);
    }
}

#[tokio::test]
async fn a_browser_is_led_to_where_the_provider_logs_it_out() {
    let provider = Provider::start().await;
    let settings = provider.settings();
    let (with, without) = (settings.clone(), settings);
    let gw = Gateway::configured(|dashboard| dashboard.oidc = with).await;
    let leave = async |gw: &Gateway| {
        let answer = Call::get("/api/session/oidc/logout").to(gw.address()).await.unwrap();
        (answer.status, answer.header("location"))
    };
    let home = "http%3A%2F%2F127.0.0.1%3A17080%2F";
    let there = format!("{}/leave?realm=main&client_id=milecastle&post_logout_redirect_uri={home}", provider.issuer());
    assert_eq!(leave(&gw).await, (303, there));
    provider.conduct().leads_out = false;
    let gw = gw.with_settings(|dashboard| dashboard.oidc = without).await;
    assert_eq!(leave(&gw).await, (303, format!("{PUBLIC}/")));
}

#[tokio::test]
async fn an_outage_of_the_provider_is_nobodys_failure() {
    let provider = Provider::start().await;
    let settings = provider.settings();
    let gw = Gateway::configured(|dashboard| {
        dashboard.oidc = settings;
        dashboard.access.login_failures_of_address = 1;
        dashboard.access.refusals_every = Time::millis(100);
    });
    let gw = gw.await;
    awaited(&gw, "ann").await;
    // It is known by then, and goes away between a login's beginning and its end.
    let ways = [Way::begin(&gw).await, Way::begin(&gw).await, Way::begin(&gw).await, Way::begin(&gw).await];
    provider.conduct().away = true;
    for way in &ways[1..] {
        refused(&way.back(&gw, &provider.authorise(&gw, &way.location)).await, 503, "provider_unavailable");
    }
    provider.conduct().away = false;
    session(&ways[0].back(&gw, &provider.authorise(&gw, &ways[0].location)).await);
    // One that is somebody's is counted, and with it all that were before.
    refused(&ways[0].back(&gw, "/api/session/oidc/callback?code=a&state=b").await, 400, "wrong_state");
    let failed = async || {
        let path = "/api/audit?kind=session&outcome=failed";
        let entries = send(&gw, Method::GET, path, Value::Null).await.json().unwrap()["list"].clone();
        entries.as_array().unwrap().iter().map(|entry| entry["times"].as_u64().unwrap()).sum::<u64>()
    };
    eventually("the failed login is noted", async || failed().await > 0).await;
    assert_eq!(failed().await, 1);
}

#[tokio::test]
async fn what_the_provider_says_has_to_count() {
    let (gw, provider) = known(Gateway::sqlite().await).await;
    awaited(&gw, "ann").await;
    let now = gw.store.now();
    for (claims, header, forged) in [
        (json!({ "nonce": "of another login" }), json!({}), false),
        (json!({ "aud": "another client" }), json!({}), false),
        (json!({ "aud": ["milecastle", "another"] }), json!({}), false),
        (json!({ "azp": "another" }), json!({}), false),
        (json!({ "iss": "https://id.example.com" }), json!({}), false),
        (json!({ "exp": now - 3600 }), json!({}), false),
        (json!({ "iat": now - 3600 }), json!({}), false),
        (json!({ "sub": "" }), json!({}), false),
        (json!({}), json!({ "alg": "none" }), false),
        (json!({}), json!({ "alg": "HS256" }), false),
        (json!({}), json!({ "alg": "RS256" }), false),
        (json!({}), json!({ "kid": "of nobody" }), false),
        (json!({}), json!({ "crit": ["b64"] }), false),
        (json!({}), json!({}), true),
    ] {
        provider.bend(&claims, &header, forged);
        let answer = login(&gw, &provider).await;
        assert!(answer.status == 401, "{claims} {header} {forged}: {} {}", answer.status, answer.text());
        refused(&answer, 401, "wrong_login");
    }
    provider.bend(&json!({}), &json!({}), false);
    let way = Way::begin(&gw).await;
    let path = provider.authorise(&gw, &way.location);
    let (by_another, _) = path.split_once("&iss=").unwrap();
    refused(&way.back(&gw, by_another).await, 401, "wrong_login");
    refused(&way.back(&gw, &format!("{by_another}&iss=https://id.example.com")).await, 401, "wrong_login");
    let denied = path.replace("code=", "error=access_denied&was=");
    let answer = way.back(&gw, &denied).await;
    assert!(answer.text().contains("access_denied"), "{}", answer.text());
    refused(&answer, 401, "wrong_login");
    session(&way.back(&gw, &path).await);
}

#[tokio::test]
async fn keys_of_the_provider_rotate() {
    let (gw, provider) = known(Gateway::sqlite().await).await;
    awaited(&gw, "ann").await;
    session(&login(&gw, &provider).await);
    session(&login(&gw, &provider).await);
    assert_eq!(provider.conduct().asked, (1, 1), "what it says is kept");
    for keep in [true, false] {
        provider.rotate(keep);
        session(&login(&gw, &provider).await);
    }
    assert_eq!(provider.conduct().asked, (1, 3));
}

#[tokio::test]
async fn a_provider_that_is_away_is_asked_less_often() {
    let provider = Provider::start().await;
    let mut settings = provider.settings();
    (settings.retry_min, settings.retry_max) = (Time::secs(3600), Time::secs(7200));
    let gw = Gateway::configured(|dashboard| dashboard.oidc = settings).await;
    provider.conduct().away = true;
    for _ in 0..3 {
        let answer = Call::get("/api/session/oidc").to(gw.address()).await.unwrap();
        refused(&answer, 503, "provider_unavailable");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
    }
    assert_eq!(provider.conduct().asked, (1, 0));
}

#[tokio::test]
async fn without_passwords_only_the_provider_lets_in() {
    let provider = Provider::start().await;
    let settings = provider.settings();
    let gw = Gateway::configured(|dashboard| {
        dashboard.oidc = settings;
        dashboard.access.password_login = false;
    });
    let gw = gw.await;
    account(&gw, "bob", "viewer").await;
    let body = json!({ "name": "bob", "password": PASSWORD }).to_string();
    let call = Call::new(Method::POST, "/api/session").header("content-type", "application/json").body(body);
    refused(&call.to(gw.address()).await.unwrap(), 403, "no_password_login");
    awaited(&gw, "ann").await;
    session(&login(&gw, &provider).await);
}

#[tokio::test]
async fn without_a_provider_nobody_is_sent_anywhere() {
    let gw = Gateway::sqlite().await;
    for path in ["/api/session/oidc", "/api/session/oidc/callback?code=a&state=b", "/api/session/oidc/logout"] {
        refused(&Call::get(path).to(gw.address()).await.unwrap(), 404, "no_provider");
    }
    let body = json!({ "name": "b", "roles": [{ "role": "viewer", "groups": ["*"] }], "provider": true });
    let made = send(&gw, Method::POST, "/api/users", body).await;
    assert_eq!((made.status, &made.json().unwrap()["path"]), (409, &json!("/provider")));
}
