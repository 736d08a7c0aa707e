//! Tokens of machines that use the API (`docs/access.md`).

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use milecastle_settings::Time;
use milecastle_store::{ApiToken, NewApiToken, RoleGrant};
use serde::Deserialize;
use serde_json::{Value, json};

use super::groups::done;
use super::roles::granted;
use super::{Failure, Outcome, Site, Who, json};
use crate::callers::mint_token;
use crate::keys;

/// Longest name, in bytes.
const LONGEST: usize = 64;

/// What is given to make one.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// What people call it; histories name it.
    name: String,
    /// What it may do.
    roles: Vec<RoleGrant>,
    /// How long it opens anything; without it, until it is revoked.
    expires_in: Option<Time>,
}

/// A token as lists show it: everything but the token.
fn shown(token: &ApiToken) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "roles": token.grants,
        "created_by": token.created_by,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "used_at": token.used_at,
        "used_from": token.used_from,
    })
}

/// `GET /api/tokens`: revoked ones included.
pub(super) async fn list(Shared(api): Site) -> Outcome {
    let tokens: Vec<Value> = api.store().api_token_list().await?.iter().map(shown).collect();
    Ok(super::list(&tokens))
}

/// `POST /api/tokens`: the one answer that shows the token.
pub(super) async fn create(Shared(api): Site, Extension(who): Who, body: Body) -> Outcome {
    let Given { name, roles, expires_in } = api.body(body).await?;
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=LONGEST).contains(&name.len()) || !name.bytes().all(fit) {
        let message = format!("the name of a token is 1 to {LONGEST} of A-Z a-z 0-9 . _ -");
        return Err(Failure::bad("invalid_body", message).at("/name"));
    }
    granted(&who, &roles)?;
    let now = api.store().now();
    let expires_at = expires_in.map(|life| now.saturating_add(life.get().as_secs()));
    let (token, hash) = mint_token();
    let id = keys::random_id();
    let new = NewApiToken { id, name, hash, grants: roles, created_by: who.name.clone(), expires_at };
    api.by(&who).api_token_create(&new).await?;
    tracing::info!(token = new.id, name = new.name, by = who.name, "API token minted");
    let NewApiToken { id, name, grants, .. } = new;
    let shown = json!({ "id": id, "name": name, "roles": grants, "expires_at": expires_at, "token": token });
    Ok(json(StatusCode::CREATED, &shown))
}

/// `DELETE /api/tokens/{token}`: it opens nothing any more, on any replica.
pub(super) async fn revoke(Shared(api): Site, Extension(who): Who, Path(token): Path<String>) -> Outcome {
    if !api.by(&who).api_token_revoke(&token).await? {
        let message = format!("there is no token `{token}` that is not revoked yet");
        return Err(Failure::missing("no_such_token", message));
    }
    tracing::info!(token, by = who.name, "API token revoked");
    Ok(done())
}
