//! Passwords: what they must be, and what is kept of them (Argon2id, RFC 9106, with the parameters that OWASP recommends).
//!
//! What must stay true: nothing shows a password, and to try one costs the same whether there is an account of that name or not.

use std::sync::{Arc, LazyLock};

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Argon2, Params};
use aws_lc_rs::rand;
use milecastle_store::{Actor, NewPassword, RoleGrant, Store, StoreError};
use milecastle_telemetry::Secret;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::rights::Role;

/// Longest password, in bytes.
const LONGEST: usize = 256;

/// Name of the first account.
pub const FIRST_ACCOUNT: &str = "admin";

/// Of passwords that are made: letters and digits that nobody takes for one another, five at a time.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const PARTS: usize = 4;
const LETTERS_OF_A_PART: usize = 5;

/// What stands for the password of an account that is not there.
static OF_NOBODY: LazyLock<String> = LazyLock::new(|| hashed(&generate_password()));

/// Why a password will not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnfitPassword {
    /// It is too short.
    #[error("a password has at least {0} characters (access.password_min_length)")]
    Short(u32),
    /// It is too long.
    #[error("a password has at most {LONGEST} bytes")]
    Long,
    /// It has letters and digits alone.
    #[error("a password has at least one character that is neither letter nor digit")]
    Plain,
}

/// Whether a password will do, if it takes so many characters.
///
/// # Errors
/// Why not.
pub(crate) fn check_password(password: &str, min_length: u32) -> Result<(), UnfitPassword> {
    if password.chars().count() < min_length as usize {
        return Err(UnfitPassword::Short(min_length));
    }
    if password.len() > LONGEST {
        return Err(UnfitPassword::Long);
    }
    match password.chars().all(char::is_alphanumeric) {
        true => Err(UnfitPassword::Plain),
        false => Ok(()),
    }
}

/// A new random password of 100 bits and 23 characters.
pub fn generate_password() -> Secret<String> {
    let mut bytes = [0; PARTS * LETTERS_OF_A_PART];
    rand::fill(&mut bytes).expect("the system's random source works");
    let letters = bytes.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    let parts: Vec<String> = letters.chunks(LETTERS_OF_A_PART).map(String::from_iter).collect();
    parts.join("-").into()
}

/// The first account of an installation, an administrator, in the making: with the same password however often its making is
/// tried, so that a try whose answer was lost is known again.
pub struct FirstAccount {
    password: Secret<String>,
    /// What is kept of it, once that was needed.
    hash: OnceCell<String>,
}

impl FirstAccount {
    /// With a random password.
    pub fn new() -> Self {
        Self { password: generate_password(), hash: OnceCell::new() }
    }

    /// Makes it unless there is an account already; of several processes that start at once, one does. Gives its password if it
    /// is made, so that it can be shown, once.
    ///
    /// # Errors
    /// What the store says. If that may pass, this may be tried again.
    pub async fn record(&self, store: &Store) -> Result<Option<&Secret<String>>, StoreError> {
        if store.account_list().await?.is_empty() {
            let hash = self.hash.get_or_init(|| hash_password(self.password.clone())).await;
            let kept = NewPassword { hash: hash.clone(), must_change: true };
            let grants = [RoleGrant::everywhere(Role::administrator().name)];
            store.by(&Actor::system()).account_create_first(FIRST_ACCOUNT, &kept, &grants).await?;
        }
        let Some(hash) = self.hash.get() else { return Ok(None) };
        let is_made = store.account_password_hash(FIRST_ACCOUNT).await?.as_ref() == Some(hash);
        Ok(is_made.then_some(&self.password))
    }
}

impl Default for FirstAccount {
    fn default() -> Self {
        Self::new()
    }
}

/// What is kept of a password: a PHC string. For whoever is not asked by strangers; requests have [`Hashing`].
pub async fn hash_password(password: Secret<String>) -> String {
    beside(None, move || hashed(&password)).await
}

/// Hashes the passwords that requests bring, for few of them at a time.
pub(crate) struct Hashing(Arc<Semaphore>);

impl Hashing {
    /// `at_once` is [`milecastle_settings::Access::password_hashes`].
    pub(crate) fn new(at_once: u32) -> Self {
        Self(Arc::new(Semaphore::new(at_once as usize)))
    }

    /// As [`hash_password`].
    pub(crate) async fn hash(&self, password: Secret<String>) -> String {
        beside(self.place().await, move || hashed(&password)).await
    }

    /// Whether a password is the one of which `kept` was kept; `None`: there is no such account.
    pub(crate) async fn verify(&self, password: Secret<String>, kept: Option<String>) -> bool {
        beside(self.place().await, move || {
            let kept = kept.as_deref();
            let matches = hasher().verify_password(password.reveal().as_bytes(), kept.unwrap_or(&OF_NOBODY)).is_ok();
            matches && kept.is_some()
        })
        .await
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Some(self.0.clone().acquire_owned().await.expect("the semaphore is never closed"))
    }
}

fn hashed(password: &Secret<String>) -> String {
    let mut salt = [0; 16];
    rand::fill(&mut salt).expect("the system's random source works");
    let hash = hasher().hash_password_with_salt(password.reveal().as_bytes(), &salt);
    hash.expect("parameters and salt are fit for it").to_string()
}

fn hasher() -> Argon2<'static> {
    Argon2::from(Params::default())
}

/// Does it off the runtime's threads. The place is taken until it is done, also where nobody waits for that any more.
async fn beside<T: Send + 'static>(
    place: Option<OwnedSemaphorePermit>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(place);
        done
    });
    done.await.expect("hashing does not panic, and the runtime ends after its requests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_password_must_be() {
        let check = |password: &str, expected| assert_eq!(check_password(password, 6), expected, "{password}");
        check("abc-1", Err(UnfitPassword::Short(6)));
        check("abcde1", Err(UnfitPassword::Plain));
        check("密码密码密码", Err(UnfitPassword::Plain));
        check("密码密码密!", Ok(()));
        check("abc de", Ok(()));
        check(&"-".repeat(257), Err(UnfitPassword::Long));
        assert_eq!(check_password("abcde-", 7), Err(UnfitPassword::Short(7)));
    }

    #[tokio::test]
    async fn made_passwords_will_do_and_are_known_again() {
        let (one, other) = (generate_password(), generate_password());
        assert_ne!(one.reveal(), other.reveal());
        assert_eq!(check_password(one.reveal(), 23), Ok(()));
        let hashing = Hashing::new(1);
        let kept = hashing.hash(one.clone()).await;
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(hashing.verify(one.clone(), Some(kept.clone())).await);
        assert!(!hashing.verify(other, Some(kept)).await);
        assert!(!hashing.verify(one, None).await);
    }
}
