//! What a secret manager is, and the choice among them (`docs/spec/resources.md` §13).
//!
//! Invariants:
//! - A fetch ends by itself within its timeout, and can be dropped at any moment.
//! - No error has a secret in it: neither what a manager is asked with, nor a text that it has answered, but for the names of errors.
//! - [`FetchError::Absent`] is said by the manager, in its own words; an answer of anybody else in its place is a failure.

use super::aws::Aws;
use super::fields::Fields;
use super::gcp::Gcp;
use super::http::Client;
use super::vault::Vault;
use milecastle_export::Background;
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Why a secret was not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// The manager has answered that there is no such secret, or the secret has no such member.
    #[error("there is no such secret")]
    Absent,
    /// The manager could not be asked, in words for operators.
    #[error("{0}")]
    Failed(String),
}

/// A secret on its way.
pub(super) type Fetching<'a> = Pin<Box<dyn Future<Output = Result<String, FetchError>> + Send + 'a>>;

/// A product that keeps secrets.
pub(super) trait Product: Send + Sync {
    /// The secret that stands at `path`. There is no time limit; dropping the future ends it.
    fn fetch<'a>(&'a self, path: &'a str) -> Fetching<'a>;
}

/// One secret manager: an object of the kind `secret`.
pub(super) struct Manager {
    product: Box<dyn Product>,
    timeout: Duration,
}

impl Manager {
    /// The one of an object's id, such as `vault/1`, and body. It is asked over `outlet`, on whose runtime [`Manager::fetch`] is
    /// to be called; one secret takes no longer than `timeout`, however many questions it needs.
    ///
    /// # Errors
    /// The object cannot be used: says why, with the attribute and without its value.
    pub(super) fn new(id: &str, body: &Value, outlet: Arc<Background>, timeout: Duration) -> Result<Self, String> {
        let (fields, client) = (Fields::of(body), Client(outlet));
        let product: Box<dyn Product> = match id.split_once('/').map_or(id, |(kind, _)| kind) {
            "vault" => Box::new(Vault::new(&fields, client)?),
            "aws" => Box::new(Aws::new(&fields, client)?),
            "gcp" => Box::new(Gcp::new(&fields, client)?),
            other => return Err(format!("`{other}` is no secret manager: expected `vault`, `aws` or `gcp`")),
        };
        Ok(Self { product, timeout })
    }

    /// The secret that stands at `path`: what follows `$secret://<manager>/<id>/` in a reference.
    ///
    /// # Errors
    /// There is none, or the manager could not be asked.
    pub(super) async fn fetch(&self, path: &str) -> Result<String, FetchError> {
        let late = |_| FetchError::Failed(format!("there is no answer within {:?}", self.timeout));
        tokio::time::timeout(self.timeout, self.product.fetch(path)).await.map_err(late)?
    }
}

/// A member of a JSON object as text: strings as they are, the rest as JSON. `null` is none.
pub(super) fn member(object: &Value, name: &str) -> Option<String> {
    match object.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A secret that a manager keeps as text, or a member of the JSON object that it is.
pub(super) fn part(secret: String, field: Option<&str>) -> Result<String, FetchError> {
    let Some(field) = field else { return Ok(secret) };
    let object: Option<Value> = serde_json::from_str(&secret).ok();
    object.and_then(|object| member(&object, field)).ok_or(FetchError::Absent)
}
