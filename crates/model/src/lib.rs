//! The resources of Milecastle, as the Admin API speaks them: kinds, ids, attributes, constraints.
//!
//! Source of truth: `docs/spec/resources.md` (attribute tables) and `docs/spec/admin-api.md` (§6 identifiers, §9 PATCH,
//! §11.1 local checks, §16 error texts).
//!
//! Invariants:
//! - A body is the bytes that were written. Nothing here re-encodes one or writes a default into it; defaults exist only
//!   in the typed forms ([`Route`], [`Upstream`], …) that the data plane compiles.
//! - Every check is a pure function of one object. It returns all faults (up to [`schema::MAX_FAULTS`]), each with the
//!   JSON pointer of the place, and never panics, whatever JSON it is given.
//! - The typed forms accept whatever [`check()`] accepts; a number too large for its type is clamped, not refused.
//! - Private keys never show in `Debug` output or in a fault's text.
//!
//! Deliberately absent: references to other objects are listed ([`references()`]), never followed; the `vars` language and
//! plugin configurations are opaque here; no I/O, no clock, no runtime.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod check;
#[cfg(test)]
mod examples;
mod fault;
mod id;
mod kind;
mod nearest;
mod object;
pub mod patch;
pub mod pointer;
mod references;
pub mod schema;
mod secrets;
mod server_url;
mod shapes;
mod types;

pub use check::{check, client_timestamps};
pub use fault::{Fault, FaultClass};
pub use id::{Id, IdError};
pub use kind::Kind;
pub use nearest::nearest;
pub use object::{Change, Key, Object};
pub use references::{Reference, references};
pub use secrets::{MASK, SECRET_MANAGER, is_reference, mask, secret_places, secrets};
pub use server_url::{ServerUrlError, check_server_url};
pub use shapes::{named_schema, schema_of};
pub use types::*;

/// The `plugins` attribute: plugin name to that plugin's configuration, in the order written.
pub type Plugins = serde_json::Map<String, serde_json::Value>;
