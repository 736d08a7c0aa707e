//! Tokens of machines that use the API. A token is nobody's: it outlives whoever made it.

use serde_json::json;

use crate::access::revocation;
use crate::audit::{Acting, NewEntry, audited};
use crate::error::StoreError;
use crate::grant::{self, RoleGrant};
use crate::role;
use crate::sql::{Row, args};
use crate::store::Store;

const COLUMNS: &str =
    "SELECT id, name, grants, created_by, created_at, expires_at, revoked_at, used_at, used_from FROM api_token";

/// Seconds between two notes of the use of a token: so many requests cost one write.
const USE_NOTED_EVERY: u64 = 60;

/// A token of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Identity, not secret.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub grants: Vec<RoleGrant>,
    /// Name of whoever made it.
    pub created_by: String,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds from which on it opens nothing. `None`: never.
    pub expires_at: Option<u64>,
    /// Unix time in seconds since when it opens nothing.
    pub revoked_at: Option<u64>,
    /// Unix time in seconds when it was last used, to the minute; `None`: never.
    pub used_at: Option<u64>,
    /// The address from which it was last used.
    pub used_from: Option<String>,
}

/// A token to record.
#[derive(Debug, Clone)]
pub struct NewApiToken {
    /// Identity, not secret; must not be taken.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// What it may do.
    pub grants: Vec<RoleGrant>,
    /// Name of whoever makes it.
    pub created_by: String,
    /// As in [`ApiToken::expires_at`].
    pub expires_at: Option<u64>,
}

impl ApiToken {
    /// Whether it opens anything at `now` (Unix seconds).
    pub fn is_good(&self, now: u64) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

impl Acting<'_> {
    /// Records a token of the API.
    pub async fn api_token_create(self, token: &NewApiToken) -> Result<(), StoreError> {
        let sql = "INSERT INTO api_token (id, name, hash, grants, created_by, created_at, expires_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let NewApiToken { id, name, hash, grants, created_by, expires_at } = token;
        let (roles, now) = (grant::written(grants), self.store.now());
        let mut tx = self.begin().await?;
        role::hold(&mut tx, grants).await?;
        tx.run(sql, args![id, name, &hash[..], &roles, created_by, now, *expires_at]).await?;
        let made = json!({ "name": name, "roles": grants, "expires_at": expires_at });
        self.record(&mut tx, NewEntry::of(audited::API_TOKEN, id, None, Some(made))).await?;
        tx.commit().await
    }

    /// Revokes a token for good. `false`: there is none of this id that is not revoked yet.
    pub async fn api_token_revoke(self, id: &str) -> Result<bool, StoreError> {
        let now = self.store.now();
        let mut tx = self.begin().await?;
        let sql = "UPDATE api_token SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
        if tx.run(sql, args![id, now]).await? == 0 {
            return Ok(false);
        }
        self.record(&mut tx, revocation(audited::API_TOKEN, id, now)).await?;
        tx.commit().await?;
        Ok(true)
    }
}

impl Store {
    /// The token with this SHA-256, expired and revoked ones included.
    pub async fn api_token_find(&self, hash: &[u8; 32]) -> Result<Option<ApiToken>, StoreError> {
        let row = self.0.db.row(format!("{COLUMNS} WHERE hash = $1"), args![&hash[..]]).await?;
        row.as_ref().map(token).transpose()
    }

    /// The token of this id, expired and revoked ones included.
    pub async fn api_token_get(&self, id: &str) -> Result<Option<ApiToken>, StoreError> {
        let row = self.0.db.row(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
        row.as_ref().map(token).transpose()
    }

    /// All tokens, by id.
    pub async fn api_token_list(&self) -> Result<Vec<ApiToken>, StoreError> {
        let rows = self.0.db.rows(format!("{COLUMNS} ORDER BY id"), &[]).await?;
        rows.iter().map(token).collect()
    }

    /// Notes that a token was used from an address, unless that was noted less than a minute ago.
    pub async fn api_token_used(&self, token: &ApiToken, address: &str) -> Result<(), StoreError> {
        let now = self.now();
        let stale = now.saturating_sub(USE_NOTED_EVERY);
        if token.used_at.is_some_and(|used| used > stale) {
            return Ok(());
        }
        let sql =
            "UPDATE api_token SET used_at = $2, used_from = $3 WHERE id = $1 AND (used_at IS NULL OR used_at <= $4)";
        self.0.db.run(sql, args![&token.id, now, address, stale]).await.map(drop)
    }
}

fn token(row: &Row) -> Result<ApiToken, StoreError> {
    Ok(ApiToken {
        id: row.text(0)?,
        name: row.text(1)?,
        grants: grant::read(&row.text(2)?)?,
        created_by: row.text(3)?,
        created_at: row.int(4)?,
        expires_at: row.int_opt(5)?,
        revoked_at: row.int_opt(6)?,
        used_at: row.int_opt(7)?,
        used_from: row.text_opt(8)?,
    })
}
