//! What a secret manager is, and the choice among them (`docs/spec/resources.md` §13).
//!
//! Invariants:
//! - A fetch ends by itself within its timeout once it is its turn, and can be dropped at any moment.
//! - No error has a secret in it: neither what a manager is asked with, nor a text that it has answered, but for the names of errors.
//! - [`Trouble::nothing`] is said by the manager, in its own words; an answer of anybody else in its place is a failure.

use super::aws::Aws;
use super::breaker::Breaker;
use super::fields::Fields;
use super::gcp::{self, Gcp};
use super::http::{Client, Reach};
use super::trouble::{Found, Trouble};
use super::vault::{self, Vault};
use milecastle_export::Background;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A product that keeps secrets.
enum Product {
    Aws(Aws),
    Gcp(Gcp),
    Vault(Vault),
}

impl Product {
    fn new(kind: &str, fields: &Fields<'_>) -> Result<Self, String> {
        Ok(match kind {
            "vault" => Self::Vault(Vault::new(fields)?),
            "aws" => Self::Aws(Aws::new(fields)?),
            "gcp" => Self::Gcp(Gcp::new(fields)?),
            other => return Err(format!("`{other}` is no secret manager: expected `vault`, `aws` or `gcp`")),
        })
    }

    /// What stands at each of `paths`, which are of one [place](super::reference::place): the secret that they have in common is read
    /// once, so that its members fit together. There is no time limit; dropping the future ends it.
    async fn fetch(&self, client: &Client, paths: &[String]) -> Vec<Found> {
        let Some(first) = paths.first() else { return Vec::new() };
        match self {
            Self::Vault(vault) => {
                let secret = vault.read(client, first).await;
                paths.iter().map(|path| vault::pick(secret.as_ref().map_err(Clone::clone)?, path)).collect()
            }
            Self::Gcp(gcp) => {
                let secret = gcp.read(client, first).await;
                paths.iter().map(|path| gcp::pick(secret.as_ref().map_err(Clone::clone)?, path)).collect()
            }
            // Each reference to it is a place of its own.
            Self::Aws(aws) => vec![aws.find(client, first).await],
        }
    }
}

/// How patiently a manager is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For one question.
    pub(super) timeout: Duration,
    /// Questions under way at once.
    pub(super) concurrency: usize,
    /// So long after it was found out of reach it is asked again for what is known to be missing.
    pub(super) rest: Duration,
}

/// One secret manager: an object of the kind `secret`.
pub(super) struct Manager {
    product: Product,
    outlet: Arc<Background>,
    timeout: Duration,
    turns: Semaphore,
    breaker: Breaker,
}

impl Manager {
    /// The one of an object's id, such as `vault/1`, and body. It is asked over `outlet`, on whose runtime [`Manager::fetch`] is
    /// to be called.
    ///
    /// # Errors
    /// The object cannot be used: says why, with the attribute and without its value.
    pub(super) fn new(id: &str, body: &Value, outlet: Arc<Background>, patience: Patience) -> Result<Self, String> {
        let kind = id.split_once('/').map_or(id, |(kind, _)| kind);
        let Patience { timeout, concurrency, rest } = patience;
        let product = Product::new(kind, &Fields::of(body))?;
        Ok(Self { product, outlet, timeout, turns: Semaphore::new(concurrency), breaker: Breaker::new(rest) })
    }

    /// Whether it is within reach.
    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// What stands at each of `paths`, which are of this [`place`](super::reference::place): what follows `$secret://<manager>/<id>/` in
    /// references. Once it is its turn it takes no longer than the timeout, however many questions it needs. Where the manager has
    /// turned out to be out of reach meanwhile, those that waited for their turn are not asked any more: they have failed as well.
    pub(super) async fn fetch(&self, place: &str, paths: &[String]) -> Vec<Found> {
        let failed = |reason| vec![Err(Trouble::Failed(reason)); paths.len()];
        let came = Instant::now();
        // It is never closed.
        let _turn = self.turns.acquire().await;
        if let Some(reason) = self.breaker.failure_since(came) {
            return failed(reason);
        }
        let (asked, client) = (Instant::now(), Client::new(self.outlet.clone()));
        let Ok(fetched) = tokio::time::timeout(self.timeout, self.product.fetch(&client, paths)).await else {
            let late = format!("there is no answer within {:?}", self.timeout);
            self.breaker.late(asked, place, &late);
            return failed(late);
        };
        match client.reach() {
            Reach::Answered => self.breaker.answered(),
            Reach::NoConnection(reason) => self.breaker.failed(asked, &reason),
            Reach::Unknown => {}
        }
        fetched
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
pub(super) fn part(secret: &str, field: Option<&str>) -> Found {
    let Some(field) = field else { return Ok(secret.to_owned()) };
    let object: Option<Value> = serde_json::from_str(secret).ok();
    object.and_then(|object| member(&object, field)).ok_or_else(Trouble::nothing)
}
