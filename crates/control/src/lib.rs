//! The control plane: state of every gateway group in memory, the dashboard's listeners with the compatible Admin API, and
//! the DP manager that brings the configuration to the gateway nodes.
//!
//! - [`State`] follows the store; reads are answered from it and never ask the database.
//! - [`Dashboard`] serves `/apisix/admin` (`docs/spec/admin-api.md`), `/api`, health, metrics, and later the
//!   console.
//! - [`dpm`] lets nodes join, streams to them, and knows what they run.
//! - What happens is told as events, by whoever leads, and followed on any replica (`docs/events.md`).
//! - [`FirstKey`] and [`FirstAccount`] are how a new installation is opened.
//!
//! Invariants:
//! - A write is accepted by the compiler that gateways build with, under the settings of its group, and by the store's
//!   transaction that it rests on; what a replica has in memory is never the reason for accepting one.
//! - A client reads its own writes from the replica that took them.
//! - No answer, log line, metric, error or entry of the audit log shows a private key or a key of the Admin API.
//!
//! Deliberately absent: the data plane, any single plugin (the registry is handed in), SQL.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod api;
mod api7;
mod availability;
mod callers;
mod charts;
mod chores;
mod clock;
mod dashboard;
mod database;
pub mod dpm;
mod efforts;
mod events;
mod health;
mod keys;
mod listen;
mod masks;
mod members;
mod oidc;
mod once;
mod openapi;
mod pages;
mod passwords;
mod refusals;
mod revisions;
mod rights;
mod rollout;
pub mod state;
mod terms;
#[cfg(test)]
mod testing;
mod traffic;
mod waits;

use http::{HeaderName, HeaderValue};
use milecastle_store::{Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use api::Declared;
pub use clock::Clock;
pub use dashboard::{Dashboard, Opening, Parts, StartError};
pub use database::watch_database;
pub use health::{Probes, Readiness};
pub use keys::{FirstKey, KeyError, Keyring, mint_admin_key, put_admin_key};
pub use members::{MemberSettings, Membership, Role};
pub use oidc::TrustError;
pub use passwords::{FIRST_ACCOUNT, FirstAccount, generate_password, hash_password};
pub use rollout::watch_rollouts;
pub use state::State;
pub use traffic::Traffic;

/// Whether an account may be called so: 1 to 64 of `A-Z a-z 0-9 . _ @ -`.
pub fn is_account_name(name: &str) -> bool {
    api::is_account_name(name)
}

/// Whether a role may be called so: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub fn is_role_name(name: &str) -> bool {
    api::is_role_name(name)
}

/// Whether there is a role of this name, built in or made.
///
/// # Errors
/// What the store says.
pub async fn is_role(store: &Store, name: &str) -> Result<bool, StoreError> {
    Ok(rights::Role::find(name).is_some() || store.role_get(name).await?.is_some())
}

/// What a role that may read and write these resources allows, as the store has it.
///
/// # Errors
/// A resource that there is not, in the operator's words.
pub fn role_allows(
    read: Vec<String>,
    write: Vec<String>,
) -> Result<BTreeMap<String, BTreeSet<String>>, impl std::error::Error + Send + Sync + 'static> {
    let named = [(rights::Action::Read, read), (rights::Action::Write, write)];
    rights::Role::of("", &named).map(|role| role.stored())
}

/// Every endpoint of the Admin API and of `/api`, with the right that it takes.
pub fn endpoints() -> Vec<Declared> {
    [admin::declared(), api::declared()].concat()
}

/// The paths below `/api7` beside those of the Admin API, all for GET.
pub fn api7_paths() -> Vec<String> {
    api7::beside()
}

/// Seconds after which whoever cannot be served at the moment is told to try again (`Retry-After`).
pub(crate) const RETRY_AFTER: u64 = 1;

/// The header of answers from memory while the database says nothing: by how many seconds they may be late (`docs/api.md`).
pub(crate) const STALE: HeaderName = HeaderName::from_static("milecastle-stale");

/// What [`STALE`] says of an answer of this age: whole seconds, rounded up.
pub(crate) fn staleness(age: Duration) -> HeaderValue {
    age.as_secs().saturating_add(u64::from(age.subsec_nanos() > 0)).into()
}

/// What the control plane calls itself in the header `Server`; tools read the version from it.
pub const SERVER: &str = concat!("Milecastle/", env!("CARGO_PKG_VERSION"));
