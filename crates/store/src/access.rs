//! Who may come in: join tokens of gateway groups and keys of the Admin API. Both are long random strings made elsewhere;
//! the store has hashes of them alone: of a token its SHA-256, of an admin key a hash that the caller chooses.

use serde_json::{Value as Json, json};

use crate::audit::{Acting, ActorKind, AuditAction, NewEntry, audited};
use crate::error::StoreError;
use crate::grant::RoleGrant;
use crate::sql::{Row, Tx, args};
use crate::store::Store;
use crate::{group, role};

const TOKEN: &str = "SELECT id, group_id, name, created_at, expires_at, revoked_at FROM token";

/// All keys of the Admin API.
const KEYS: &str = "SELECT name, role, hash, created_at FROM admin_key \
                    UNION ALL SELECT name, role, hash, created_at FROM role_key";

/// A token with which nodes join a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Identity, not secret.
    pub id: String,
    /// The group that it opens.
    pub group: String,
    /// What people call it.
    pub name: String,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds from which on nobody joins with it; nodes that did stay. `None`: never.
    pub expires_at: Option<u64>,
    /// Unix time in seconds since when neither it nor any node that joined with it is welcome.
    pub revoked_at: Option<u64>,
}

/// A token to record.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Identity, not secret; must not be taken.
    pub id: String,
    /// The group that it opens.
    pub group: String,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// As in [`Token::expires_at`].
    pub expires_at: Option<u64>,
}

/// What a key of the Admin API allows (`docs/spec/admin-api.md` §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Reading, with GET alone.
    Viewer,
    /// What the role of this name allows, built in or made, in all gateway groups.
    Named(String),
}

impl Role {
    /// Stable name for storage and interfaces.
    pub fn name(&self) -> &str {
        match self {
            Role::Admin => "admin",
            Role::Viewer => "viewer",
            Role::Named(name) => name,
        }
    }

    /// Inverse of [`Role::name`].
    pub fn from_name(name: &str) -> Role {
        let known = [Role::Admin, Role::Viewer].into_iter().find(|role| role.name() == name);
        known.unwrap_or_else(|| Role::Named(name.to_owned()))
    }

    /// Where keys of such a role are: programs of before the others were let every key in that they found in theirs.
    fn tables(&self) -> (&'static str, &'static str) {
        match self {
            Role::Admin | Role::Viewer => ("admin_key", "role_key"),
            Role::Named(_) => ("role_key", "admin_key"),
        }
    }

    /// Holds a role that may be deleted until the end of the transaction.
    async fn hold(&self, tx: &mut Tx) -> Result<(), StoreError> {
        match self {
            Role::Admin | Role::Viewer => Ok(()),
            Role::Named(name) => role::hold(tx, &[RoleGrant::everywhere(name)]).await,
        }
    }
}

/// A key of the Admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminKey {
    /// Identity.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// The hash by which it is known.
    pub hash: [u8; 32],
    /// Unix time in seconds.
    pub created_at: u64,
}

impl Store {
    /// The token with this SHA-256, expired and revoked ones included.
    pub async fn token_find(&self, hash: &[u8; 32]) -> Result<Option<Token>, StoreError> {
        let row = self.0.db.row(format!("{TOKEN} WHERE hash = $1"), args![&hash[..]]).await?;
        row.as_ref().map(token).transpose()
    }

    /// All tokens of a group, by id.
    pub async fn token_list(&self, group: &str) -> Result<Vec<Token>, StoreError> {
        let rows = self.0.db.rows(format!("{TOKEN} WHERE group_id = $1 ORDER BY id"), args![group]).await?;
        rows.iter().map(token).collect()
    }

    /// All admin keys, by name.
    pub async fn admin_key_list(&self) -> Result<Vec<AdminKey>, StoreError> {
        self.0.db.rows(format!("{KEYS} ORDER BY name"), &[]).await?.iter().map(admin_key).collect()
    }
}

impl Acting<'_> {
    /// Records a join token.
    pub async fn token_create(self, token: &NewToken) -> Result<(), StoreError> {
        let sql = "INSERT INTO token (id, group_id, name, hash, created_at, expires_at) \
                   SELECT $1, g.id, $3, $4, $5, $6 FROM gateway_group g WHERE g.id = $2";
        let NewToken { id, group, name, hash, expires_at } = token;
        let mut tx = self.begin().await?;
        let args = args![id, group, name, &hash[..], self.store.now(), *expires_at];
        if tx.run(sql, args).await? == 0 {
            return Err(StoreError::UnknownGroup(group.clone()));
        }
        let made = json!({ "name": name, "expires_at": expires_at });
        let entry = NewEntry::of(audited::JOIN_TOKEN, id, None, Some(made));
        self.record(&mut tx, entry.map(|entry| entry.within(group))).await?;
        tx.commit().await
    }

    /// Revokes a token for good, and with it every node that joined with it; the group's epoch grows. `false`: the group has
    /// no such token that is not revoked yet.
    pub async fn token_revoke(self, group: &str, id: &str) -> Result<bool, StoreError> {
        let _turn = self.store.0.db.turn(group).await?;
        let mut tx = self.begin().await?;
        // Before the token's own row: whoever deletes the group holds them in this order too.
        let lock = tx.lock_group_sql();
        tx.row(lock, args![group]).await?;
        let now = self.store.now();
        let sql = "UPDATE token SET revoked_at = $3 WHERE group_id = $1 AND id = $2 AND revoked_at IS NULL";
        if tx.run(sql, args![group, id, now]).await? == 0 {
            return Ok(false);
        }
        group::touch(&mut tx, group).await?;
        self.record(&mut tx, revocation(audited::JOIN_TOKEN, id, now).map(|entry| entry.within(group))).await?;
        tx.commit().await?;
        self.store.0.watcher.hint();
        Ok(true)
    }

    /// Records the hash of an admin key under `name`, in place of the key that had this name.
    pub async fn admin_key_put(self, name: &str, role: Role, hash: &[u8; 32]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        role.hold(&mut tx).await?;
        let before = stored_key(&mut tx, name).await?;
        let (table, other) = role.tables();
        let sql = format!(
            "INSERT INTO {table} (name, role, hash, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (name) \
             DO UPDATE SET role = excluded.role, hash = excluded.hash, created_at = excluded.created_at"
        );
        tx.run(sql, args![name, role.name(), &hash[..], self.store.now()]).await?;
        tx.run(format!("DELETE FROM {other} WHERE name = $1"), args![name]).await?;
        let after = Some(key_shown(&role));
        let replaced = before.map(|before| NewEntry::replaced(audited::ADMIN_KEY, name, before, after.clone()));
        let entry = replaced.or_else(|| NewEntry::of(audited::ADMIN_KEY, name, None, after));
        self.record(&mut tx, entry).await?;
        tx.commit().await
    }

    /// As [`Acting::admin_key_put`], but only while there is no key of this name: `false` if there is one.
    pub async fn admin_key_create(self, name: &str, role: Role, hash: &[u8; 32]) -> Result<bool, StoreError> {
        let (table, other) = role.tables();
        let sql = format!(
            "INSERT INTO {table} (name, role, hash, created_at) SELECT $1, $2, $3, $4 \
             WHERE NOT EXISTS (SELECT 1 FROM {other} WHERE name = $1) ON CONFLICT (name) DO NOTHING"
        );
        let mut tx = self.begin().await?;
        role.hold(&mut tx).await?;
        let made = tx.run(sql, args![name, role.name(), &hash[..], self.store.now()]).await? > 0;
        self.key_made(&mut tx, made, name, &role).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// As [`Acting::admin_key_put`], but only while there is no admin key at all: `false` if there is one. Of several who
    /// start at once, one is told `true`.
    pub async fn admin_key_put_first(self, name: &str, role: Role, hash: &[u8; 32]) -> Result<bool, StoreError> {
        let mut tx = self.store.0.db.begin_alone().await?;
        role.hold(&mut tx).await?;
        let sql = format!(
            "INSERT INTO {} (name, role, hash, created_at) SELECT $1, $2, $3, $4 WHERE NOT EXISTS ({KEYS})",
            role.tables().0
        );
        let first = tx.run(sql, args![name, role.name(), &hash[..], self.store.now()]).await? > 0;
        self.key_made(&mut tx, first, name, &role).await?;
        tx.commit().await?;
        Ok(first)
    }

    /// Deletes an admin key; `false` if there is none of this name.
    pub async fn admin_key_delete(self, name: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let before = stored_key(&mut tx, name).await?;
        if before.is_none() {
            return Ok(false);
        }
        for table in ["admin_key", "role_key"] {
            tx.run(format!("DELETE FROM {table} WHERE name = $1"), args![name]).await?;
        }
        // A key that is made of that name later is somebody else's.
        self.forget_answers(&mut tx, ActorKind::AdminKey, name).await?;
        self.record(&mut tx, NewEntry::of(audited::ADMIN_KEY, name, before, None)).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn key_made(self, tx: &mut Tx, made: bool, name: &str, role: &Role) -> Result<(), StoreError> {
        let after = made.then(|| key_shown(role));
        self.record(tx, NewEntry::of(audited::ADMIN_KEY, name, None, after)).await
    }
}

/// What the audit log shows of a key of the Admin API.
fn key_shown(role: &Role) -> Json {
    json!({ "role": role.name() })
}

/// The same of the one of this name.
async fn stored_key(tx: &mut Tx, name: &str) -> Result<Option<Json>, StoreError> {
    let row = tx
        .row(format!("SELECT name, role, hash, created_at FROM ({KEYS}) AS keys WHERE name = $1"), args![name])
        .await?;
    Ok(row.as_ref().map(admin_key).transpose()?.map(|key| key_shown(&key.role)))
}

/// That a token opens nothing any more from `now` on (Unix seconds).
pub(crate) fn revocation(kind: &'static str, id: &str, now: u64) -> Option<NewEntry> {
    let [before, after] = [None, Some(now)].map(|at| Some(json!({ "revoked_at": at })));
    Some(NewEntry::of(kind, id, before, after)?.called(AuditAction::Revoke))
}

fn token(row: &Row) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.text(0)?,
        group: row.text(1)?,
        name: row.text(2)?,
        created_at: row.int(3)?,
        expires_at: row.int_opt(4)?,
        revoked_at: row.int_opt(5)?,
    })
}

fn admin_key(row: &Row) -> Result<AdminKey, StoreError> {
    let role = Role::from_name(&row.text(1)?);
    let hash = row.blob(2)?.try_into().map_err(|_| StoreError::corrupt("the hash of an admin key"))?;
    Ok(AdminKey { name: row.text(0)?, role, hash, created_at: row.int(3)? })
}
