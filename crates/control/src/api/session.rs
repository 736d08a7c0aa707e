//! Logging in and out, and one's own password (`docs/access.md`).
//!
//! What must stay true: no answer tells whether it was the name or the password that was wrong, and none takes longer for it.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State as Shared};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use milecastle_store::{AccountUpdate, ActorKind, NewPassword, RoleGrant};
use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::groups::done;
use super::{Api, Failure, Outcome, Site, Who, json};
use crate::callers::{self, HOST_SESSION, SESSION};
use crate::listen::{Encrypted, Peer};
use crate::openapi::Doc;
use crate::passwords::check_password;
use crate::rights::{Login, Principal, PrincipalKind};

/// Media type of a login.
const JSON: &[u8] = b"application/json";

/// What is given to log in.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "LoginGiven", extend("required" = ["name", "password"]))]
#[serde(deny_unknown_fields, default)]
struct Given {
    name: String,
    #[schemars(with = "String")]
    password: Secret<String>,
}

/// What is given to change one's password.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "PasswordGiven", extend("required" = ["old", "new"]))]
#[serde(deny_unknown_fields, default)]
struct Change {
    #[schemars(with = "String")]
    old: Secret<String>,
    #[schemars(with = "String")]
    new: Secret<String>,
}

/// Who asks, as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Caller")]
struct Shown {
    name: String,
    /// `account`, `key`, `token` or `anonymous`.
    kind: &'static str,
    roles: Vec<RoleGrant>,
    #[serde(flatten)]
    login: Option<ShownLogin>,
}

/// What belongs to a session.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Login")]
struct ShownLogin {
    must_change_password: bool,
    ends_at: u64,
    csrf_token: String,
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("Who asks.");

/// `GET /api/session`: who asks, and what they may do.
pub(super) async fn show(Extension(who): Who) -> Outcome {
    Ok(json(StatusCode::OK, &shown(&who)))
}

fn shown(who: &Principal) -> Shown {
    let login = match &who.kind {
        PrincipalKind::Account(login) => Some(ShownLogin {
            must_change_password: login.must_change,
            ends_at: login.ends_at,
            csrf_token: login.csrf.clone(),
        }),
        _ => None,
    };
    Shown { name: who.name.clone(), kind: who.kind.name(), roles: who.rights.grants(), login }
}

pub(super) const LOGIN: Doc =
    Doc::makes::<Shown>("Logs in; the answer sets the cookie of the session.").needs::<Given>().refuses(&[401, 429]);

/// `POST /api/session`: logs in; the answer sets the cookie of the session.
pub(super) async fn login(
    Shared(api): Site,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(encrypted): Extension<Encrypted>,
    headers: HeaderMap,
    body: Body,
) -> Outcome {
    // No other site's page can send this type unasked, and so log a browser in as somebody else.
    if !headers.get(header::CONTENT_TYPE).is_some_and(|given| given.as_bytes().starts_with(JSON)) {
        return Err(Failure::bad("invalid_body", "logging in takes the header Content-Type: application/json"));
    }
    if !api.callers.access.password_login {
        let message = "nobody logs in with a password here (access.password_login): GET /api/session/methods";
        return Err(Failure::new(StatusCode::FORBIDDEN, "no_password_login", message));
    }
    let Given { name, password } = api.body(body).await?;
    let address = api.callers.address(peer, &headers).to_string();
    let kept = checked(&api, &name, password, (peer, &headers)).await?;
    let text = callers::mint_session();
    let hash = callers::hash_of(&text);
    let limits = api.callers.session_limits();
    let actor = api.callers.actor(ActorKind::Account, &name, peer, &headers);
    if !api.store().by(&actor).session_create(&hash, &name, &kept, &address, limits).await? {
        return Err(wrong());
    }
    let session = api.callers.session(&text).await?.ok_or_else(wrong)?;
    tracing::info!(account = name, address, "logged in");
    let response = json(StatusCode::CREATED, &shown(&session));
    Ok(with_session(response, &text, encrypted.told(&headers)))
}

pub(super) const LOGOUT: Doc = Doc::done("Logs out.");

/// `DELETE /api/session`: logs out.
pub(super) async fn logout(
    Shared(api): Site,
    Extension(who): Who,
    Extension(encrypted): Extension<Encrypted>,
    headers: HeaderMap,
) -> Outcome {
    api.by(&who).session_delete(&login_of(&who)?.hash).await?;
    Ok(with_session(done(), "; Max-Age=0", encrypted.told(&headers)))
}

pub(super) const CHANGE_PASSWORD: Doc =
    Doc::done("Changes one's own password; all other sessions of the account end.").needs::<Change>().refuses(&[429]);

/// `PUT /api/session/password`: another one for oneself; all other sessions of the account end.
pub(super) async fn change_password(
    Shared(api): Site,
    Extension(who): Who,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Outcome {
    let login = login_of(&who)?;
    let Change { old, new } = api.body(body).await?;
    if old == new {
        return Err(Failure::bad("invalid_body", "the new password is the old one").at("/new"));
    }
    let unfit = check_password(new.reveal(), api.callers.access.password_min_length);
    unfit.map_err(|error| Failure::bad("unfit_password", error.to_string()).at("/new"))?;
    checked(&api, &who.name, old, (peer, &headers)).await?;
    let password = NewPassword { hash: api.callers.hashing.hash(new).await, must_change: false };
    let update = AccountUpdate { password: Some(password), ..AccountUpdate::default() };
    api.by(&who).account_update(&who.name, &update, Some(&login.hash)).await?;
    tracing::info!(account = who.name, "password changed");
    Ok(done())
}

/// Looks whether a password is that of an account, as often as failures allow; gives what is kept of it.
async fn checked(
    api: &Api,
    name: &str,
    password: Secret<String>,
    (peer, headers): (IpAddr, &HeaderMap),
) -> Result<String, Failure> {
    // Somebody may have typed a password where the name belongs: only names of accounts that there are are kept.
    let failed = |name: Option<&str>| {
        let kind = if name.is_some() { ActorKind::Account } else { ActorKind::Anonymous };
        api.callers.refusals.of_login(api.callers.actor(kind, name.unwrap_or("unknown"), peer, headers));
    };
    if !super::users::is_name(name) {
        failed(None);
        return Err(wrong());
    }
    let address = &api.callers.address(peer, headers).to_string();
    let subjects = api.callers.subjects(name, address);
    if let Some(wait) = api.store().login_attempt(&subjects).await? {
        failed(None);
        return Err(too_many(wait));
    }
    let kept = api.store().account_password_hash(name).await?;
    if !api.callers.hashing.verify(password, kept.clone()).await {
        let known = kept.is_some().then_some(name);
        failed(known);
        tracing::info!(account = known.unwrap_or("unknown"), address, "a login failed");
        return Err(wrong());
    }
    api.store().login_succeeded(&subjects).await?;
    kept.ok_or_else(wrong)
}

fn wrong() -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "wrong_login", "name or password is wrong, or the account is disabled")
}

pub(super) fn too_many(wait: Duration) -> Failure {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let message = format!("too many logins failed: the next one may be tried in {seconds} s");
    Failure::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", message).after(seconds)
}

fn login_of(who: &Principal) -> Result<&Login, Failure> {
    match &who.kind {
        PrincipalKind::Account(login) => Ok(login),
        _ => {
            let message = "this is for people who have logged in: keys and tokens have neither session nor password";
            Err(Failure::new(StatusCode::FORBIDDEN, "no_session", message))
        }
    }
}

/// A cookie that is out of reach of scripts.
pub(super) struct Cookie<'a> {
    /// Name and value, and how long it lasts.
    pub(super) pair: &'a str,
    /// Below which it is sent.
    pub(super) path: &'a str,
    /// Of what requests that other sites make it is sent along.
    pub(super) same_site: &'a str,
}

impl Default for Cookie<'_> {
    /// Below all of this site, with no request that another one makes.
    fn default() -> Self {
        Self { pair: "", path: "/", same_site: "Strict" }
    }
}

/// Sets the cookie of a session.
pub(super) fn with_session(response: Response, text: &str, encrypted: bool) -> Response {
    let name = if encrypted { HOST_SESSION } else { SESSION };
    with_cookie(response, &Cookie { pair: &format!("{name}={text}"), ..Cookie::default() }, encrypted)
}

/// Sets a cookie beside others, for encrypted connections only where this is one.
pub(super) fn with_cookie(mut response: Response, cookie: &Cookie<'_>, encrypted: bool) -> Response {
    let Cookie { pair, path, same_site } = cookie;
    let secure = if encrypted { "; Secure" } else { "" };
    let value = HeaderValue::try_from(format!("{pair}; Path={path}; HttpOnly; SameSite={same_site}{secure}"));
    response.headers_mut().append(header::SET_COOKIE, value.expect("a cookie of letters, digits, - and _"));
    response
}
