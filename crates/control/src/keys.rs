//! Keys of the Admin API (`docs/spec/admin-api.md` §3).
//!
//! A key is known by its HMAC under a secret of the installation, which the store keeps sealed: whoever reads the database
//! can neither use a key nor test guesses. Requests are checked in memory; a wrong key asks the database nothing.

use crate::rights::{Principal, PrincipalKind, Rights};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use milecastle_settings::AdminKey;
use milecastle_store::{Acting, Actor, Role, RoleGrant, Store, StoreError};
use std::sync::{Arc, PoisonError, RwLock};

/// Name of the secret in the store.
const SECRET: &str = "admin-key-hmac";
/// Name of the first key.
const FIRST: &str = "admin";

/// The first key of an installation, in the making: the same one however often its making is tried, so that a try whose answer
/// was lost is known again.
pub struct FirstKey {
    key: String,
    was_given: bool,
}

impl FirstKey {
    /// The one that was given (`MILECASTLE_ADMIN_KEY`), or a random one.
    pub fn new(given: Option<String>) -> Self {
        let was_given = given.is_some();
        Self { key: given.unwrap_or_else(random), was_given }
    }

    /// Records it unless the store has a key already; of several processes that start at once, one does. Gives the random one
    /// if it is recorded, so that it can be shown, once.
    ///
    /// # Errors
    /// What the store says. If that may pass, this may be tried again.
    pub async fn record(&self, store: &Store) -> Result<Option<&str>, StoreError> {
        let tag = Secret::of(store).await?.tag(&self.key);
        let mut keys = store.admin_key_list().await?;
        if keys.is_empty() {
            store.by(&Actor::system()).admin_key_put_first(FIRST, Role::Admin, &tag).await?;
            keys = store.admin_key_list().await?;
        }
        let is_recorded = keys.iter().any(|key| key.hash == tag);
        if self.was_given && !is_recorded {
            tracing::warn!(
                "MILECASTLE_ADMIN_KEY is none of the admin keys there are; it counts on the first start only"
            );
        }
        Ok((is_recorded && !self.was_given).then_some(&self.key))
    }
}

/// Records a key under a name, in place of the key that had this name. Replicas know it within a second.
///
/// # Errors
/// What the store says.
pub async fn put_admin_key(by: Acting<'_>, name: &str, role: Role, key: &str) -> Result<(), StoreError> {
    let tag = Secret::of(by.store()).await?.tag(key);
    by.admin_key_put(name, role, &tag).await
}

/// Makes a random key under a name and gives it, to be shown once; `None` if there is a key of this name and it is not to be
/// replaced. Replicas know it within a second.
///
/// # Errors
/// What the store says.
pub async fn mint_admin_key(
    by: Acting<'_>,
    name: &str,
    role: Role,
    replace: bool,
) -> Result<Option<String>, StoreError> {
    let key = random();
    if replace {
        put_admin_key(by, name, role, &key).await?;
        return Ok(Some(key));
    }
    let tag = Secret::of(by.store()).await?.tag(&key);
    Ok(by.admin_key_create(name, role, &tag).await?.then_some(key))
}

/// The secret under which keys are hashed.
#[derive(Clone)]
struct Secret(hmac::Key);

impl Secret {
    async fn of(store: &Store) -> Result<Self, StoreError> {
        let bytes = store.secret_get_or_create(SECRET, || random_bytes().to_vec()).await?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes.expose())))
    }

    fn tag(&self, key: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.0, key.as_bytes());
        tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
    }
}

/// Why a key opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It has a role that is not there.
    #[error(
        "there is no role `{role}`, which the Admin key `{key}` is to have: make it (`milecastle role create`, POST /api/roles), or give \
         the key another one"
    )]
    NoRole {
        /// Name of the key.
        key: String,
        /// Name of the role.
        role: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A key by its tag, and whose it is.
type Known = ([u8; 32], Principal);

/// The keys that open the Admin API: those of the settings and those of the store.
pub struct Keyring {
    store: Store,
    secret: Secret,
    fixed: Vec<Known>,
    stored: RwLock<Arc<[Known]>>,
}

impl Keyring {
    pub(crate) async fn load(store: Store, settings: &[AdminKey]) -> Result<Self, KeyError> {
        let secret = Secret::of(&store).await?;
        let fixed = settings.iter().map(|key| {
            let principal = Principal::of_key(key.name.clone(), Role::from_name(&key.role));
            (secret.tag(key.key.reveal()), principal)
        });
        let keyring = Self { fixed: fixed.collect(), store, secret, stored: RwLock::new([].into()) };
        for (_, principal) in &keyring.fixed {
            match keyring.allowed(principal.clone()).await {
                // Roles come and go while the file stays: that is for whoever calls with the key to hear, and ends nothing else.
                Err(missing @ KeyError::NoRole { .. }) => tracing::warn!("{missing}"),
                other => drop(other?),
            }
        }
        keyring.refresh().await?;
        Ok(keyring)
    }

    /// Takes over the store's keys as they are now.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let keys = self.store.admin_key_list().await?;
        let keys = keys.into_iter().map(|key| (key.hash, Principal::of_key(key.name, key.role))).collect();
        *self.stored.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Whose key it is. The database is asked where its role was made, and only there.
    pub(crate) async fn find(&self, key: &str) -> Result<Option<Principal>, KeyError> {
        match self.known(key) {
            Some(principal) => self.allowed(principal).await.map(Some),
            None => Ok(None),
        }
    }

    /// The holder of a key with what its role allows now.
    async fn allowed(&self, principal: Principal) -> Result<Principal, KeyError> {
        let role = match &principal.kind {
            PrincipalKind::AdminKey(Role::Named(role)) if principal.rights.is_empty() => role,
            _ => return Ok(principal),
        };
        let grants = [RoleGrant::everywhere(role)];
        let rights = Rights::of(&grants, &self.store.roles_of(&grants).await?);
        if rights.is_empty() {
            return Err(KeyError::NoRole { role: role.clone(), key: principal.name });
        }
        Ok(Principal { rights, ..principal })
    }

    fn known(&self, key: &str) -> Option<Principal> {
        let tag = self.secret.tag(key);
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = None;
        for (known, principal) in self.fixed.iter().chain(stored.iter()) {
            if verify_slices_are_equal(known, &tag).is_ok() {
                found = Some(principal);
            }
        }
        found.cloned()
    }
}

pub(crate) fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// 256 random bits, as text that fits everywhere.
pub(crate) fn random() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes())
}

/// An id of its own, 12 hexadecimal digits.
pub(crate) fn random_id() -> String {
    random_bytes().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
