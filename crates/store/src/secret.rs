//! Named blobs that the control plane keeps for itself: the certificate authority, keys.

use std::fmt;

use bytes::Bytes;

use crate::error::StoreError;
use crate::seal::{Context, Sealer};
use crate::sql::{Tx, args};
use crate::store::Store;

/// Bytes that no log, error or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Bytes);

impl SecretBytes {
    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl Store {
    /// The secret called `name`, if there is one.
    pub async fn secret_get(&self, name: &str) -> Result<Option<SecretBytes>, StoreError> {
        get(&mut self.0.db.begin_read().await?, &self.0.sealer, name).await
    }

    /// The secret called `name`; `make` makes it if there is none. Of any number of processes that ask at once, one makes
    /// it and all get the same. `make` runs inside a transaction that holds up other first starts, so it may compute but
    /// not wait.
    pub async fn secret_get_or_create(
        &self,
        name: &str,
        make: impl FnOnce() -> Vec<u8> + Send,
    ) -> Result<SecretBytes, StoreError> {
        if let Some(secret) = self.secret_get(name).await? {
            return Ok(secret);
        }
        let mut tx = self.0.db.begin_alone().await?;
        let secret = get_or_create(&mut tx, &self.0.sealer, name, self.now(), make).await?;
        tx.commit().await?;
        Ok(secret)
    }

    /// Sets the secret called `name`, whatever it was.
    pub async fn secret_put(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let mut tx = self.0.db.begin_alone().await?;
        put(&mut tx, &self.0.sealer, name, value, self.now()).await?;
        tx.commit().await
    }
}

/// In a transaction that [`crate::sql::Db::begin_alone`] began, at `now` (Unix seconds).
pub(crate) async fn get_or_create(
    tx: &mut Tx,
    sealer: &Sealer,
    name: &str,
    now: u64,
    make: impl FnOnce() -> Vec<u8> + Send,
) -> Result<SecretBytes, StoreError> {
    if let Some(secret) = get(tx, sealer, name).await? {
        return Ok(secret);
    }
    let value = make();
    put(tx, sealer, name, &value, now).await?;
    Ok(SecretBytes(value.into()))
}

async fn get(tx: &mut Tx, sealer: &Sealer, name: &str) -> Result<Option<SecretBytes>, StoreError> {
    let Some(row) = tx.row("SELECT value FROM secret WHERE name = $1", args![name]).await? else { return Ok(None) };
    Ok(Some(SecretBytes(sealer.open(&context(name), row.blob(0)?)?)))
}

async fn put(tx: &mut Tx, sealer: &Sealer, name: &str, value: &[u8], now: u64) -> Result<(), StoreError> {
    let sealed = sealer.seal(&context(name), value);
    let upsert = "INSERT INTO secret (name, value, created_at) VALUES ($1, $2, $3) \
                  ON CONFLICT (name) DO UPDATE SET value = excluded.value, created_at = excluded.created_at";
    tx.run(upsert, args![name, &sealed[..], now]).await?;
    Ok(())
}

fn context(name: &str) -> Context {
    Context::of(&["secret", name])
}
