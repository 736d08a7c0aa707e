//! Accounts of people, and the sessions in which they are logged in.
//!
//! What must stay true: a session ends with what it rests on. Disabling an account, giving it another password and deleting it
//! end its sessions in the same transaction.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::audit::{Acting, ActorKind, AuditAction, NewEntry, audited};
use crate::error::StoreError;
use crate::grant::{self, RoleGrant};
use crate::role;
use crate::sql::{Row, Tx, args};
use crate::store::Store;

pub(crate) const COLUMNS: &str =
    "SELECT name, grants, must_change, disabled_at, created_at, password_at, issuer, subject, by_hand FROM account";

/// A use of a session is noted once in this part of the time for which it may rest, and once a minute at the most.
const NOTES_WITHIN_IDLE: u64 = 10;
const NOTED_EVERY: u64 = 60;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Identity.
    pub name: String,
    /// What it may do.
    pub grants: Vec<RoleGrant>,
    /// Whether it may do nothing before its password is another one.
    pub must_change: bool,
    /// Unix time in seconds since when nobody logs in with it.
    pub disabled_at: Option<u64>,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds when its password was set; where there is none, when it was made.
    pub password_at: u64,
    /// The provider through which its owner logs in, if they do.
    pub issuer: Option<String>,
    /// The subject by which the provider knows the owner, after the first login, or once somebody has said so.
    pub subject: Option<String>,
    /// Of [`Account::grants`] those that the provider does not take away; of an account of no provider it says nothing.
    pub by_hand: Vec<RoleGrant>,
}

/// A password to record.
#[derive(Clone)]
pub struct NewPassword {
    /// What is kept of it: a PHC string.
    pub hash: String,
    /// As in [`Account::must_change`].
    pub must_change: bool,
}

/// What to change about an account; `None` leaves it.
#[derive(Clone, Default)]
pub struct AccountUpdate {
    /// All of its roles anew.
    pub grants: Option<Vec<RoleGrant>>,
    /// Whether nobody may log in with it.
    pub disabled: Option<bool>,
    /// Another password.
    pub password: Option<NewPassword>,
}

/// A session as it was when it was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// SHA-256 of what the client has.
    pub hash: [u8; 32],
    /// Whose it is.
    pub account: Account,
    /// Unix time in seconds when it ends, however much it is used.
    pub ends_at: u64,
}

/// How long sessions last.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Without a request.
    pub idle: Duration,
    /// From the login on.
    pub max: Duration,
}

impl Store {
    /// All accounts, by name.
    pub async fn account_list(&self) -> Result<Vec<Account>, StoreError> {
        let rows = self.0.db.rows(format!("{COLUMNS} ORDER BY name"), &[]).await?;
        rows.iter().map(|row| account(row, 0)).collect()
    }

    /// One account.
    pub async fn account_get(&self, name: &str) -> Result<Option<Account>, StoreError> {
        let row = self.0.db.row(format!("{COLUMNS} WHERE name = $1"), args![name]).await?;
        row.as_ref().map(|row| account(row, 0)).transpose()
    }

    /// [`NewPassword::hash`] of an account, if it has a password.
    pub async fn account_password_hash(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = self.0.db.row("SELECT password FROM account WHERE name = $1 AND password <> ''", args![name]).await?;
        row.map(|row| row.text(0)).transpose()
    }

    /// The session with this SHA-256, unless it has ended or its account is disabled; and notes that it is used.
    pub async fn session_find(&self, hash: &[u8; 32], limits: SessionLimits) -> Result<Option<Session>, StoreError> {
        let Some((session, used_at)) = self.session_read(hash, limits).await? else { return Ok(None) };
        let (now, idle) = (self.now(), limits.idle.as_secs());
        let stale = now.saturating_sub(NOTED_EVERY.min(idle / NOTES_WITHIN_IDLE));
        if used_at <= stale {
            let sql = "UPDATE session SET used_at = $2 WHERE hash = $1 AND used_at <= $3";
            self.0.db.run(sql, args![&hash[..], now, stale]).await?;
        }
        Ok(Some(session))
    }

    /// As [`Store::session_find`], for whoever only looks whether it lasts: that is no use of it.
    pub async fn session_look(&self, hash: &[u8; 32], limits: SessionLimits) -> Result<Option<Session>, StoreError> {
        Ok(self.session_read(hash, limits).await?.map(|(session, _)| session))
    }

    /// A session that lasts, and when it was used last (Unix seconds).
    async fn session_read(&self, hash: &[u8; 32], limits: SessionLimits) -> Result<Option<(Session, u64)>, StoreError> {
        let sql = "SELECT s.created_at, s.used_at, a.name, a.grants, a.must_change, a.disabled_at, a.created_at, a.password_at, \
                   a.issuer, a.subject, a.by_hand FROM session s JOIN account a ON a.name = s.account WHERE s.hash = $1";
        let Some(row) = self.0.db.row(sql, args![&hash[..]]).await? else { return Ok(None) };
        let (now, created_at, used_at, account) = (self.now(), row.int(0)?, row.int(1)?, account(&row, 2)?);
        let (idle, ends_at) = (limits.idle.as_secs(), created_at.saturating_add(limits.max.as_secs()));
        let is_over = now >= used_at.saturating_add(idle) || now >= ends_at || account.disabled_at.is_some();
        Ok((!is_over).then_some((Session { hash: *hash, account, ends_at }, used_at)))
    }
}

impl Acting<'_> {
    /// Makes an account. `false`: the name is taken.
    pub async fn account_create(
        self,
        name: &str,
        password: &NewPassword,
        grants: &[RoleGrant],
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        if !self.insert(&mut tx, name, password, grants).await? {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }

    /// As [`Acting::account_create`], but only while there is no account at all. Of several who start at once, one is told `true`.
    pub async fn account_create_first(
        self,
        name: &str,
        password: &NewPassword,
        grants: &[RoleGrant],
    ) -> Result<bool, StoreError> {
        let mut tx = self.store.0.db.begin_alone().await?;
        if tx.row("SELECT 1 FROM account LIMIT 1", &[]).await?.is_some() {
            return Ok(false);
        }
        let made = self.insert(&mut tx, name, password, grants).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Changes an account. Another password, and disabling it, ends its sessions, but for the one with the hash `keep`.
    /// `false`: there is no such account.
    pub async fn account_update(
        self,
        name: &str,
        update: &AccountUpdate,
        keep: Option<&[u8; 32]>,
    ) -> Result<bool, StoreError> {
        let now = self.store.now();
        let mut tx = self.begin().await?;
        // Held by a statement that changes nothing, so that no login comes in between.
        if tx.run("UPDATE account SET name = name WHERE name = $1", args![name]).await? == 0 {
            return Ok(false);
        }
        let before = stored(&mut tx, name).await?;
        let AccountUpdate { grants, disabled, password } = update;
        if let (Some(grants), Some(before)) = (grants, &before) {
            role::hold(&mut tx, grants).await?;
            // What the provider gave is its own to take away, also where whoever gives more repeats it.
            let by_provider = grant::without(&before.grants, &before.by_hand);
            set_grants(&mut tx, name, grants, &grant::without(grants, &by_provider)).await?;
        }
        if let Some(disabled) = disabled {
            let at = disabled.then_some(now);
            tx.run("UPDATE account SET disabled_at = $2 WHERE name = $1", args![name, at]).await?;
        }
        if let Some(NewPassword { hash, must_change }) = password {
            let sql = "UPDATE account SET password = $2, must_change = $3, password_at = $4 WHERE name = $1";
            tx.run(sql, args![name, hash, *must_change, now]).await?;
        }
        if password.is_some() || *disabled == Some(true) {
            let kept = keep.map(|hash| &hash[..]).unwrap_or_default();
            tx.run("DELETE FROM session WHERE account = $1 AND hash <> $2", args![name, kept]).await?;
        }
        let [before, mut after] = [before, stored(&mut tx, name).await?].map(|account| account.as_ref().map(shown));
        if let Some(after) = after.as_mut().filter(|_| password.is_some()) {
            // The time alone may be that of the one before.
            after["password"] = "changed".into();
        }
        self.record(&mut tx, NewEntry::of(audited::ACCOUNT, name, before, after)).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes an account with its sessions. `false`: there is none.
    pub async fn account_delete(self, name: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let before = stored(&mut tx, name).await?;
        if tx.run("DELETE FROM account WHERE name = $1", args![name]).await? == 0 {
            return Ok(false);
        }
        // An account that is made of that name later is somebody else's.
        self.forget_answers(&mut tx, ActorKind::Account, name).await?;
        let before = before.as_ref().map(shown);
        self.record(&mut tx, NewEntry::of(audited::ACCOUNT, name, before, None)).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Begins a session of an account from an address, and forgets those that have ended. `false`: the account is not there, is
    /// disabled, or has another password than this hash by now.
    pub async fn session_create(
        self,
        hash: &[u8; 32],
        account: &str,
        password: &str,
        address: &str,
        limits: SessionLimits,
    ) -> Result<bool, StoreError> {
        let now = self.store.now();
        let mut tx = self.begin().await?;
        let held = "UPDATE account SET name = name WHERE name = $1 AND password = $2 AND disabled_at IS NULL";
        if tx.run(held, args![account, password]).await? == 0 {
            return Ok(false);
        }
        begin_session(&mut tx, hash, account, address, now, limits).await?;
        self.record(&mut tx, [login(account, AuditAction::SignIn)]).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends a session, which is the actor's own.
    pub async fn session_delete(self, hash: &[u8; 32]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        if tx.run("DELETE FROM session WHERE hash = $1", args![&hash[..]]).await? > 0 {
            self.record(&mut tx, [login(&self.actor.name, AuditAction::SignOut)]).await?;
        }
        tx.commit().await
    }

    async fn insert(
        self,
        tx: &mut Tx,
        name: &str,
        password: &NewPassword,
        grants: &[RoleGrant],
    ) -> Result<bool, StoreError> {
        role::hold(tx, grants).await?;
        let sql = "INSERT INTO account (name, password, must_change, grants, created_at, password_at) \
                   VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (name) DO NOTHING";
        let (hash, must_change, now) = (&password.hash, password.must_change, self.store.now());
        let made = tx.run(sql, args![name, hash, must_change, &grant::written(grants), now]).await? > 0;
        if made {
            let made = stored(tx, name).await?.as_ref().map(shown);
            self.record(tx, NewEntry::of(audited::ACCOUNT, name, None, made)).await?;
        }
        Ok(made)
    }
}

/// Begins a session at `now` (Unix seconds), and forgets those that have ended.
pub(crate) async fn begin_session(
    tx: &mut Tx,
    hash: &[u8; 32],
    account: &str,
    address: &str,
    now: u64,
    limits: SessionLimits,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO session (hash, account, address, created_at, used_at) VALUES ($1, $2, $3, $4, $4)";
    tx.run(insert, args![&hash[..], account, address, now]).await?;
    let [rested, over] = [limits.idle, limits.max].map(|limit| now.saturating_sub(limit.as_secs()));
    tx.run("DELETE FROM session WHERE used_at <= $1 OR created_at <= $2", args![rested, over]).await?;
    Ok(())
}

/// One account, as the transaction sees it.
pub(crate) async fn stored(tx: &mut Tx, name: &str) -> Result<Option<Account>, StoreError> {
    let row = tx.row(format!("{COLUMNS} WHERE name = $1"), args![name]).await?;
    row.as_ref().map(|row| account(row, 0)).transpose()
}

/// Gives an account these roles, of which those `by_hand` are not the provider's.
pub(crate) async fn set_grants(
    tx: &mut Tx,
    name: &str,
    grants: &[RoleGrant],
    by_hand: &[RoleGrant],
) -> Result<(), StoreError> {
    let sql = "UPDATE account SET grants = $2, by_hand = $3 WHERE name = $1";
    tx.run(sql, args![name, &grant::written(grants), &grant::written(by_hand)]).await.map(drop)
}

/// What the audit log shows of an account.
pub(crate) fn shown(account: &Account) -> Json {
    let mut shown = json!({
        "roles": account.grants,
        "must_change_password": account.must_change,
        "disabled_at": account.disabled_at,
        "password_at": account.password_at,
    });
    if account.issuer.is_some() {
        shown["issuer"] = account.issuer.as_deref().into();
        shown["subject"] = account.subject.as_deref().into();
    }
    shown
}

/// That somebody logged in or out.
pub(crate) fn login(account: &str, action: AuditAction) -> NewEntry {
    let (group, object, revision) = (None, account.to_owned(), None);
    NewEntry { group, kind: audited::SESSION, object, action, revision, before: None, after: None }
}

/// An account whose columns begin at `first`.
pub(crate) fn account(row: &Row, first: usize) -> Result<Account, StoreError> {
    Ok(Account {
        name: row.text(first)?,
        grants: grant::read(&row.text(first + 1)?)?,
        must_change: row.flag(first + 2)?,
        disabled_at: row.int_opt(first + 3)?,
        created_at: row.int(first + 4)?,
        password_at: row.int(first + 5)?,
        issuer: row.text_opt(first + 6)?,
        subject: row.text_opt(first + 7)?,
        by_hand: grant::read(&row.text(first + 8)?)?,
    })
}
