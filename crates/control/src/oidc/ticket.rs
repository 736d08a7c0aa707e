//! What a browser carries along while its user is with the provider, sealed so that only replicas of this installation can read it.
//!
//! What must stay true: it tells its holder nothing, and what was altered does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use milecastle_store::{Store, StoreError};
use tokio::sync::OnceCell;

use super::Attempt;
use crate::keys;

/// Name of the secret in the store.
const SECRET: &str = "oidc-tickets";

/// What is sealed with it, so that it is never taken for something else.
const PURPOSE: &[u8] = b"milecastle oidc login 1";

/// Seals and opens tickets, with a key that all replicas share.
#[derive(Default)]
pub(crate) struct Tickets(OnceCell<RandomizedNonceKey>);

impl Tickets {
    /// What a browser is to bring back.
    pub(crate) async fn seal(&self, store: &Store, attempt: &Attempt) -> Result<String, StoreError> {
        let mut sealed = serde_json::to_vec(attempt).expect("texts and numbers have a JSON form");
        let key = self.key(store).await?;
        let nonce = key.seal_in_place_append_tag(Aad::from(PURPOSE), &mut sealed).expect("a ticket is short");
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    /// What it has brought; `None` if that is none of ours.
    pub(crate) async fn open(&self, store: &Store, text: &str) -> Result<Option<Attempt>, StoreError> {
        let key = self.key(store).await?;
        let opened = || {
            let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let plain = key.open_in_place(nonce, Aad::from(PURPOSE), sealed).ok()?;
            serde_json::from_slice(plain).ok()
        };
        Ok(opened())
    }

    async fn key(&self, store: &Store) -> Result<&RandomizedNonceKey, StoreError> {
        // Boxed: it is large, and all but the first request need it not.
        let read = Box::pin(async {
            let bytes = store.secret_get_or_create(SECRET, || keys::random_bytes().to_vec()).await?;
            RandomizedNonceKey::new(&AES_256_GCM, bytes.expose())
                .map_err(|_| StoreError::Corrupt("the key of logins through a provider".to_owned()))
        });
        self.0.get_or_try_init(|| read).await
    }
}
