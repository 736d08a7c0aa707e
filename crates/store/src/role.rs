//! Roles beside the built-in ones, as they are stored. What actions and resources there are is the control plane's to know.
//!
//! What must stay true: nobody has a role that is not there. Whoever gives one holds it until the commit ([`hold`]), and it is
//! deleted only where nobody has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value as Json, json};

use crate::audit::{Acting, NewEntry, audited};
use crate::error::{RoleError, StoreError};
use crate::grant::{self, RoleGrant};
use crate::sql::{Row, Tx, Value, args, tuples};
use crate::store::Store;

/// Names of the roles that are always there, and that nobody makes, changes or deletes.
pub const BUILT_IN_ROLES: [&str; 4] = ["administrator", "operator", "api_owner", "viewer"];

const COLUMNS: &str = "SELECT name, description, allows, version, created_at, changed_at FROM role";

/// A role that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomRole {
    /// Identity.
    pub name: String,
    /// What it is for, in its maker's words.
    pub description: String,
    /// Names of resources, by the name of the action that is allowed on them.
    pub allows: BTreeMap<String, BTreeSet<String>>,
    /// Grows with each change, from 1.
    pub version: u64,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds of the last change.
    pub changed_at: u64,
}

/// What a role is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleUpdate {
    /// As in [`CustomRole::description`].
    pub description: String,
    /// As in [`CustomRole::allows`].
    pub allows: BTreeMap<String, BTreeSet<String>>,
}

/// Somebody who has a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleHolder {
    /// An account, by its name.
    Account(String),
    /// A token of a machine that still opens something, by its id.
    Token {
        /// Its id.
        id: String,
        /// What people call it.
        name: String,
    },
    /// A key of the Admin API, by its name.
    Key(String),
}

impl fmt::Display for RoleHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleHolder::Account(name) => write!(f, "account `{name}`"),
            RoleHolder::Token { id, name } => write!(f, "token `{name}` ({id})"),
            RoleHolder::Key(name) => write!(f, "Admin key `{name}`"),
        }
    }
}

impl Store {
    /// All roles that were made, by name.
    pub async fn role_list(&self) -> Result<Vec<CustomRole>, StoreError> {
        self.0.db.rows(format!("{COLUMNS} ORDER BY name"), &[]).await?.iter().map(role).collect()
    }

    /// One of them.
    pub async fn role_get(&self, name: &str) -> Result<Option<CustomRole>, StoreError> {
        let row = self.0.db.row(format!("{COLUMNS} WHERE name = $1"), args![name]).await?;
        row.as_ref().map(role).transpose()
    }

    /// Those that grants name. Nothing is asked where all that are named are built in.
    pub async fn roles_of(&self, grants: &[RoleGrant]) -> Result<Vec<CustomRole>, StoreError> {
        let names: Vec<Value<'_>> = made(grants).into_iter().map(Value::from).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!("{COLUMNS} WHERE name IN {}", tuples(1, names.len(), 1));
        self.0.db.rows(sql, &names).await?.iter().map(role).collect()
    }
}

impl Acting<'_> {
    /// Makes a role.
    pub async fn role_create(self, name: &str, role: &RoleUpdate) -> Result<(), RoleError> {
        let sql = "INSERT INTO role (name, description, allows, version, created_at, changed_at) \
                   VALUES ($1, $2, $3, 1, $4, $4) ON CONFLICT (name) DO NOTHING";
        let (RoleUpdate { description, allows }, now) = (role, self.store.now());
        let mut tx = self.begin().await?;
        let taken = BUILT_IN_ROLES.contains(&name);
        if taken || tx.run(sql, args![name, description, &written(allows), now]).await? == 0 {
            return Err(RoleError::Exists(name.to_owned()));
        }
        self.record(&mut tx, NewEntry::of(audited::ROLE, name, None, Some(shown(role)))).await?;
        Ok(tx.commit().await?)
    }

    /// Makes another one of a role that is of this version; it counts for all who have it.
    pub async fn role_update(self, name: &str, version: u64, role: &RoleUpdate) -> Result<(), RoleError> {
        let sql =
            "UPDATE role SET description = $2, allows = $3, version = version + 1, changed_at = $4 WHERE name = $1";
        let mut tx = self.begin().await?;
        let before = held(&mut tx, name, version).await?;
        tx.run(sql, args![name, &role.description, &written(&role.allows), self.store.now()]).await?;
        self.record(&mut tx, NewEntry::of(audited::ROLE, name, Some(shown(&before)), Some(shown(role)))).await?;
        Ok(tx.commit().await?)
    }

    /// Deletes a role that is of this version and that nobody has.
    pub async fn role_delete(self, name: &str, version: u64) -> Result<(), RoleError> {
        let mut tx = self.begin().await?;
        let before = held(&mut tx, name, version).await?;
        let by = holders(&mut tx, name, self.store.now()).await?;
        if !by.is_empty() {
            return Err(RoleError::Held { name: name.to_owned(), by });
        }
        tx.run("DELETE FROM role WHERE name = $1", args![name]).await?;
        self.record(&mut tx, NewEntry::of(audited::ROLE, name, Some(shown(&before)), None)).await?;
        Ok(tx.commit().await?)
    }
}

/// Holds the roles that grants name until the end of the transaction: none of them is deleted before.
pub(crate) async fn hold(tx: &mut Tx, grants: &[RoleGrant]) -> Result<(), StoreError> {
    // In one order by all, so that none waits for another in a circle.
    for name in made(grants) {
        if tx.run("UPDATE role SET name = name WHERE name = $1", args![name]).await? == 0 {
            return Err(StoreError::UnknownRole(name.to_owned()));
        }
    }
    Ok(())
}

/// A role of this version, held until the end of the transaction.
async fn held(tx: &mut Tx, name: &str, version: u64) -> Result<RoleUpdate, RoleError> {
    let missing = || RoleError::Missing(name.to_owned());
    if tx.run("UPDATE role SET name = name WHERE name = $1", args![name]).await? == 0 {
        return Err(missing());
    }
    let row = tx.row(format!("{COLUMNS} WHERE name = $1"), args![name]).await?.ok_or_else(missing)?;
    let CustomRole { description, allows, version: current, .. } = role(&row)?;
    if current != version {
        return Err(RoleError::Stale { expected: version, current });
    }
    Ok(RoleUpdate { description, allows })
}

/// Who has a role at `now` (Unix seconds).
async fn holders(tx: &mut Tx, name: &str, now: u64) -> Result<Vec<RoleHolder>, StoreError> {
    let has = |grants: &str| Ok::<_, StoreError>(grant::read(grants)?.iter().any(|grant| grant.role == name));
    let mut found = Vec::new();
    for row in tx.rows("SELECT name, grants FROM account ORDER BY name", &[]).await? {
        if has(&row.text(1)?)? {
            found.push(RoleHolder::Account(row.text(0)?));
        }
    }
    let good = "SELECT id, name, grants FROM api_token \
                WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1) ORDER BY id";
    for row in tx.rows(good, args![now]).await? {
        if has(&row.text(2)?)? {
            found.push(RoleHolder::Token { id: row.text(0)?, name: row.text(1)? });
        }
    }
    for row in tx.rows("SELECT name FROM role_key WHERE role = $1 ORDER BY name", args![name]).await? {
        found.push(RoleHolder::Key(row.text(0)?));
    }
    Ok(found)
}

/// Names of the roles in grants that are not built in, each once and in order.
fn made(grants: &[RoleGrant]) -> BTreeSet<&str> {
    grants.iter().map(|grant| &*grant.role).filter(|name| !BUILT_IN_ROLES.contains(name)).collect()
}

/// What the audit log shows of a role.
fn shown(role: &RoleUpdate) -> Json {
    json!({ "description": role.description, "allows": role.allows })
}

fn written(allows: &BTreeMap<String, BTreeSet<String>>) -> String {
    serde_json::to_string(allows).expect("texts have a JSON form")
}

fn role(row: &Row) -> Result<CustomRole, StoreError> {
    let allows = serde_json::from_str(&row.text(2)?).map_err(|_| StoreError::corrupt("what a role allows"))?;
    Ok(CustomRole {
        name: row.text(0)?,
        description: row.text(1)?,
        allows,
        version: row.int(3)?,
        created_at: row.int(4)?,
        changed_at: row.int(5)?,
    })
}
