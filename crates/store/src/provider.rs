//! Accounts of people whom a provider of OpenID Connect knows, and their logins.
//!
//! What must stay true:
//! - An account is somebody's by what the provider calls him (`subject`), never by its name alone: that stands for it only until he
//!   has logged in for the first time, and only where the account was made for the provider and for nobody in particular.
//! - Roles that the provider gave go with its word; those that were given by hand stay.
//! - A login comes to its end once, whichever replica is asked.

use std::time::Duration;

use serde_json::json;

use crate::account::{Account, COLUMNS, SessionLimits, account, begin_session, login, set_grants, shown, stored};
use crate::audit::{Acting, AuditAction, NewEntry, audited};
use crate::error::StoreError;
use crate::grant::{self, RoleGrant};
use crate::role;
use crate::sql::{Tx, args};
use crate::store::Store;

/// A login that a provider vouches for.
#[derive(Debug, Clone)]
pub struct ProviderLogin<'a> {
    /// SHA-256 of what names the login.
    pub hash: [u8; 32],
    /// How long a login may take: for so long it is remembered that this one came to its end.
    pub remembered: Duration,
    /// The provider.
    pub issuer: &'a str,
    /// What that calls whoever logs in.
    pub subject: &'a str,
    /// The roles that he has by its word, beside those that were given by hand; `None` leaves those of the account.
    pub grants: Option<&'a [RoleGrant]>,
    /// Whether the account is made if there is none.
    pub make: bool,
    /// SHA-256 of what the client has of the session.
    pub session: [u8; 32],
    /// From where.
    pub address: &'a str,
    /// How long the session lasts.
    pub limits: SessionLimits,
}

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedIn {
    /// The session has begun.
    Done,
    /// It had come to its end before.
    Repeated,
    /// There is no such account.
    Unknown,
    /// The account is somebody else's, or not the provider's.
    Taken,
    /// The account is disabled.
    Disabled,
    /// He has no role, neither by the provider's word nor by hand: those that he had by the provider's are taken away, where there is an
    /// account.
    Roleless,
}

impl Store {
    /// The account of somebody whom a provider calls so.
    pub async fn account_of(&self, issuer: &str, subject: &str) -> Result<Option<Account>, StoreError> {
        let row =
            self.0.db.row(format!("{COLUMNS} WHERE issuer = $1 AND subject = $2"), args![issuer, subject]).await?;
        row.as_ref().map(|row| account(row, 0)).transpose()
    }
}

impl Acting<'_> {
    /// Makes an account without a password, for whoever the provider calls `subject`; without that, for whoever it calls by the account's
    /// name at the first login. `false`: the name is taken, or somebody has an account already.
    pub async fn account_create_for(
        self,
        issuer: &str,
        subject: Option<&str>,
        name: &str,
        grants: &[RoleGrant],
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        if !self.insert_for(&mut tx, (issuer, subject), name, grants, grants).await? {
            return Ok(false);
        }
        let made = stored(&mut tx, name).await?.as_ref().map(shown);
        self.record(&mut tx, NewEntry::of(audited::ACCOUNT, name, None, made)).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Logs somebody in to the account of this name, which becomes his if it is nobody's yet.
    pub async fn session_create_by(self, name: &str, given: &ProviderLogin<'_>) -> Result<SignedIn, StoreError> {
        let ProviderLogin { issuer, subject, grants, .. } = *given;
        let now = self.store.now();
        let mut tx = self.begin().await?;
        if !once(&mut tx, given, now).await? {
            return Ok(SignedIn::Repeated);
        }
        let mut before = held(&mut tx, name).await?;
        if before.is_none() {
            if !given.make {
                return Ok(SignedIn::Unknown);
            }
            if grants.is_some_and(<[_]>::is_empty) {
                return Ok(SignedIn::Roleless);
            }
            if !self.insert_for(&mut tx, (issuer, Some(subject)), name, grants.unwrap_or_default(), &[]).await? {
                // Somebody has made it meanwhile, or another one for him.
                before = held(&mut tx, name).await?;
                if before.is_none() {
                    return Ok(SignedIn::Taken);
                }
            }
        }
        if let Some(account) = &before {
            let is_his = account.subject.as_deref().is_none_or(|his| his == subject);
            if account.issuer.as_deref() != Some(issuer) || !is_his {
                return Ok(SignedIn::Taken);
            }
            if account.disabled_at.is_some() {
                return Ok(SignedIn::Disabled);
            }
            // Whoever has a password for it goes on with that: it becomes nobody else's by its name alone.
            let bind = "UPDATE account SET subject = $2 WHERE name = $1 AND (subject IS NOT NULL OR password = '')";
            if tx.run(bind, args![name, subject]).await? == 0 {
                return Ok(SignedIn::Taken);
            }
            // A replica of the version before takes grants away without knowing which are by hand: what the account has no more is gone.
            let gone = grant::without(&account.by_hand, &account.grants);
            let by_hand = grant::without(&account.by_hand, &gone);
            let grants = grants.map(|grants| grant::with(&by_hand, grants));
            if let Some(grants) = grants.filter(|grants| *grants != account.grants) {
                role::hold(&mut tx, &grants).await?;
                set_grants(&mut tx, name, &grants, &by_hand).await?;
            }
        }
        let after = stored(&mut tx, name).await?;
        let is_roleless = after.as_ref().is_none_or(|account| account.grants.is_empty());
        let [before, after] = [before, after].map(|account| account.as_ref().map(shown));
        self.record(&mut tx, NewEntry::of(audited::ACCOUNT, name, before, after)).await?;
        if is_roleless {
            tx.commit().await?;
            return Ok(SignedIn::Roleless);
        }
        begin_session(&mut tx, &given.session, name, given.address, now, given.limits).await?;
        let by = Some(json!({ "issuer": issuer, "subject": subject }));
        self.record(&mut tx, [NewEntry { after: by, ..login(name, AuditAction::SignIn) }]).await?;
        tx.commit().await?;
        Ok(SignedIn::Done)
    }

    async fn insert_for(
        self,
        tx: &mut Tx,
        (issuer, subject): (&str, Option<&str>),
        name: &str,
        grants: &[RoleGrant],
        by_hand: &[RoleGrant],
    ) -> Result<bool, StoreError> {
        role::hold(tx, grants).await?;
        let sql = "INSERT INTO account (name, password, must_change, grants, created_at, password_at, issuer, subject, by_hand) \
                   VALUES ($1, '', $2, $3, $4, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
        let [roles, by_hand] = [grants, by_hand].map(grant::written);
        Ok(tx.run(sql, args![name, false, &roles, self.store.now(), issuer, subject, &by_hand]).await? > 0)
    }
}

/// An account, held until the end of the transaction by a statement that changes nothing, so that it is not disabled in between.
async fn held(tx: &mut Tx, name: &str) -> Result<Option<Account>, StoreError> {
    tx.run("UPDATE account SET name = name WHERE name = $1", args![name]).await?;
    stored(tx, name).await
}

/// Whether this is the first time that a login comes to its end, at `now` (Unix seconds).
async fn once(tx: &mut Tx, given: &ProviderLogin<'_>, now: u64) -> Result<bool, StoreError> {
    let forgotten = now.saturating_sub(given.remembered.as_secs());
    tx.run("DELETE FROM login_done WHERE at < $1", args![forgotten]).await?;
    let sql = "INSERT INTO login_done (hash, at) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING";
    Ok(tx.run(sql, args![&given.hash[..], now]).await? > 0)
}
