//! Tokens with which nodes join a group.

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use milecastle_settings::Time;
use milecastle_store::Token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::groups::done;
use super::{Failure, List, Outcome, Site, Who, json};
use crate::dpm::{AuthorityError, mint_group_token};
use crate::openapi::{Doc, Span};

/// A token as lists show it: everything but the token.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JoinToken")]
struct Shown {
    id: String,
    group: String,
    name: String,
    created_at: u64,
    expires_at: Option<u64>,
    revoked_at: Option<u64>,
}

/// A token that was just made.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JoinTokenMade")]
struct Made<'a> {
    id: &'a str,
    group: &'a str,
    name: &'a str,
    expires_at: Option<u64>,
    /// Shown this once.
    token: &'a str,
}

/// What is given to mint one.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "JoinTokenGiven")]
#[serde(deny_unknown_fields, default)]
pub(super) struct Given {
    /// What people call it.
    name: String,
    /// How long nodes may join with it; nodes that did stay.
    #[schemars(with = "Option<Span>")]
    expires_in: Option<Time>,
}

impl From<Token> for Shown {
    fn from(token: Token) -> Self {
        let Token { id, group, name, created_at, expires_at, revoked_at } = token;
        Self { id, group, name, created_at, expires_at, revoked_at }
    }
}

pub(super) const LIST: Doc = Doc::gives::<List<'static, Shown>>("The join tokens of a gateway group.");

/// `GET /api/gateway_groups/{group}/tokens`: revoked ones included.
pub(super) async fn list(Shared(api): Site, Path(group): Path<String>) -> Outcome {
    api.store().head(&group).await?;
    let tokens: Vec<Shown> = api.store().token_list(&group).await?.into_iter().map(Shown::from).collect();
    Ok(super::list(&tokens))
}

pub(super) const CREATE: Doc =
    Doc::makes::<Made<'static>>("Makes a join token, which is shown this once.").takes::<Given>();

/// `POST /api/gateway_groups/{group}/tokens`: the one answer that shows the token.
pub(super) async fn create(Shared(api): Site, Extension(who): Who, Path(group): Path<String>, body: Body) -> Outcome {
    let given: Given = api.body(body).await?;
    let expires_at = given.expires_in.map(|life| api.clock.now().saturating_add(life.get().as_secs()));
    let token = mint_group_token(api.by(&who), &group, &given.name, expires_at).await.map_err(|error| match error {
        AuthorityError::Store(error) => Failure::from(error),
        AuthorityError::Token(error) => Failure::bad("invalid_id", error.to_string()),
        AuthorityError::Pki(error) => {
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("the cluster's authority: {error}"))
        }
    })?;
    tracing::info!(group, token = token.id(), by = who.name, "group token minted");
    let made = Made { id: token.id(), group: &group, name: &given.name, expires_at, token: &token.expose() };
    Ok(json(StatusCode::CREATED, &made))
}

pub(super) const REVOKE: Doc = Doc::done("Revokes a join token; nodes that joined with it are cut off.");

/// `DELETE /api/gateway_groups/{group}/tokens/{token}`: nobody joins with it any more, and nodes that did are cut off.
pub(super) async fn revoke(
    Shared(api): Site,
    Extension(who): Who,
    Path((group, token)): Path<(String, String)>,
) -> Outcome {
    if !api.by(&who).token_revoke(&group, &token).await? {
        let message = format!("group `{group}` has no token `{token}` that is not revoked yet");
        return Err(Failure::missing("no_such_token", message));
    }
    tracing::info!(group, token, by = who.name, "group token revoked");
    Ok(done())
}
