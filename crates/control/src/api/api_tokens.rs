//! Tokens of machines that use the API (`docs/access.md`).

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use milecastle_settings::Time;
use milecastle_store::{ApiToken, NewApiToken, RoleGrant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::groups::done;
use super::roles::{granted, may_give};
use super::{Failure, List, Outcome, Site, Who, json};
use crate::callers::mint_token;
use crate::keys;
use crate::openapi::{Doc, Span};

/// Longest name, in bytes.
const LONGEST: usize = 64;

/// What is given to make one.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "ApiTokenGiven", extend("required" = ["name", "roles"]))]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// What people call it; histories name it.
    #[schemars(regex(pattern = "^[A-Za-z0-9._-]{1,64}$"))]
    name: String,
    /// What it may do.
    #[schemars(length(min = 1))]
    roles: Vec<RoleGrant>,
    /// How long it opens anything; without it, until it is revoked.
    #[schemars(with = "Option<Span>")]
    expires_in: Option<Time>,
}

/// A token as lists show it: everything but the token.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApiToken")]
struct Shown {
    id: String,
    name: String,
    roles: Vec<RoleGrant>,
    created_by: String,
    created_at: u64,
    expires_at: Option<u64>,
    revoked_at: Option<u64>,
    used_at: Option<u64>,
    used_from: Option<String>,
}

/// A token that was just made.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApiTokenMade")]
struct Made {
    id: String,
    name: String,
    roles: Vec<RoleGrant>,
    expires_at: Option<u64>,
    /// Shown this once.
    token: String,
}

impl From<ApiToken> for Shown {
    fn from(token: ApiToken) -> Self {
        let ApiToken { id, name, grants: roles, created_by, created_at, expires_at, .. } = token;
        let (revoked_at, used_at, used_from) = (token.revoked_at, token.used_at, token.used_from);
        Self { id, name, roles, created_by, created_at, expires_at, revoked_at, used_at, used_from }
    }
}

pub(super) const LIST: Doc = Doc::gives::<List<'static, Shown>>("Tokens of machines that use the API.");

/// `GET /api/tokens`: revoked ones included.
pub(super) async fn list(Shared(api): Site) -> Outcome {
    let tokens: Vec<Shown> = api.store().api_token_list().await?.into_iter().map(Shown::from).collect();
    Ok(super::list(&tokens))
}

pub(super) const CREATE: Doc = Doc::makes::<Made>("Makes a token, which is shown this once.").needs::<Given>();

/// `POST /api/tokens`: the one answer that shows the token.
pub(super) async fn create(Shared(api): Site, Extension(who): Who, body: Body) -> Outcome {
    let Given { name, roles, expires_in } = api.body(body).await?;
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=LONGEST).contains(&name.len()) || !name.bytes().all(fit) {
        let message = format!("the name of a token is 1 to {LONGEST} of A-Z a-z 0-9 . _ -");
        return Err(Failure::bad("invalid_body", message).at("/name"));
    }
    granted(&api, &who, &roles).await?;
    let now = api.store().now();
    let expires_at = expires_in.map(|life| now.saturating_add(life.get().as_secs()));
    let (token, hash) = mint_token();
    let id = keys::random_id();
    let new = NewApiToken { id, name, hash, grants: roles, created_by: who.name.clone(), expires_at };
    api.by(&who).api_token_create(&new).await?;
    tracing::info!(token = new.id, name = new.name, by = who.name, "API token minted");
    let NewApiToken { id, name, grants, .. } = new;
    Ok(json(StatusCode::CREATED, &Made { id, name, roles: grants, expires_at, token }))
}

pub(super) const REVOKE: Doc = Doc::done("Revokes a token.");

/// `DELETE /api/tokens/{token}`: it opens nothing any more, on any replica.
pub(super) async fn revoke(Shared(api): Site, Extension(who): Who, Path(token): Path<String>) -> Outcome {
    let missing = || Failure::missing("no_such_token", format!("there is no token `{token}` that is not revoked yet"));
    let found = api.store().api_token_get(&token).await?.filter(|found| found.revoked_at.is_none());
    may_give(&api, &who, &found.ok_or_else(missing)?.grants).await?;
    if !api.by(&who).api_token_revoke(&token).await? {
        return Err(missing());
    }
    tracing::info!(token, by = who.name, "API token revoked");
    Ok(done())
}
