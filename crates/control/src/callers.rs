//! Who calls: keys of the Admin API and tokens of machines.
//!
//! What must stay true: keys are known in memory, so that the database need not answer; a token is asked of the database each
//! time, so that one which is revoked opens nothing from then on, on any replica.

use std::net::IpAddr;

use aws_lc_rs::digest;
use http::{HeaderMap, Method, header};
use milecastle_store::{Store, StoreError};

use crate::admin::access;
use crate::admin::query::Query;
use crate::keys::{self, Keyring};
use crate::rights::Principal;

/// With what a token of the API begins, so that it is told from a key, and found where it has no place to be.
const TOKEN: &str = "mcat_";

/// Finds out who calls.
pub(crate) struct Callers {
    pub(crate) store: Store,
    pub(crate) keyring: Keyring,
}

/// Why nobody is known to call.
#[derive(Debug)]
pub(crate) enum Stranger {
    /// There is neither key nor token.
    Nameless,
    /// The key or token is none, or none any more.
    Unknown,
    /// The key of this name may only GET.
    ReadsOnly(String),
    /// The database does not say.
    Unavailable(StoreError),
}

impl Callers {
    /// Whose request it is, by the first key or token that it carries.
    pub(crate) async fn who(
        &self,
        peer: IpAddr,
        method: &Method,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Principal, Stranger> {
        let Some(key) = access::key_of(query, headers).or_else(|| bearer(headers)) else {
            return Err(Stranger::Nameless);
        };
        let found = match key.starts_with(TOKEN) {
            true => self.token(&key, peer).await.map_err(Stranger::Unavailable)?,
            false => self.keyring.find(&key),
        };
        match found {
            None => Err(Stranger::Unknown),
            Some(principal) if !principal.may_use(method) => Err(Stranger::ReadsOnly(principal.name)),
            Some(principal) => Ok(principal),
        }
    }

    async fn token(&self, text: &str, peer: IpAddr) -> Result<Option<Principal>, StoreError> {
        let found = self.store.api_token_find(&hash_of(text)).await?;
        let Some(token) = found.filter(|token| token.is_good(self.store.now())) else { return Ok(None) };
        self.store.api_token_used(&token, &peer.to_canonical().to_string()).await?;
        Ok(Some(Principal::of_token(&token)))
    }
}

/// A token of the API that is new, and its hash.
pub(crate) fn mint_token() -> (String, [u8; 32]) {
    let token = format!("{TOKEN}{}", keys::random());
    let hash = hash_of(&token);
    (token, hash)
}

/// Of what is long and random a plain hash is enough.
fn hash_of(text: &str) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn bearers() {
        let check = |value: &'static str, expected: Option<&str>| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
            assert_eq!(bearer(&headers).as_deref(), expected, "{value}");
        };
        check("Bearer mcat_x", Some("mcat_x"));
        check("bearer  mcat_x ", Some("mcat_x"));
        check("Basic mcat_x", None);
        check("Bearer ", None);
        check("Bearer", None);
    }

    #[test]
    fn tokens_are_told_from_keys_and_from_each_other() {
        let ((one, hash), (other, _)) = (mint_token(), mint_token());
        assert!(one.starts_with(TOKEN) && one != other && hash == hash_of(&one));
    }
}
