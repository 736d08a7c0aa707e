//! What must survive: the configuration of every gateway group with its history, keys, tokens and nodes, which replicas of the
//! control plane there are, who changed what, and what happened; in PostgreSQL or SQLite.
//!
//! [`open`] gives a [`Store`]. One implementation speaks to both databases; they differ only in how a connection is made,
//! how a transaction begins and how a notice travels, all of it in `sql`, `connect` and `watch`. One conformance suite
//! (`tests/`) runs on both.
//!
//! Invariants:
//! - **A publish is one transaction** that holds the group's row from its first statement on. So revisions of a group start
//!   at 1 and grow by exactly 1, and whatever [`Acting::publish`] checks is still true when it commits: expected revision,
//!   preconditions, references, uniqueness of lookup keys.
//! - **Whatever people and machines change is done by [`Acting`]**, and recorded in the audit log in the same transaction.
//! - **A write that changes nothing makes no revision** (timestamps aside, see [`Outcome::Unchanged`]).
//! - **Work for each commit grows with the change set**, never with the number of objects in the group.
//! - **No plain byte of a sealed body, a private key or a token reaches the disk.** Bodies marked [`Put::sealed`] and all
//!   [`Store::secret_get`] values are AES-256-GCM blobs under a data key, which the sealing key wraps; of tokens, admin keys
//!   and lookup keys only hashes are stored.
//! - **What is acknowledged is in the database that is at the path.** A SQLite file that was deleted or replaced while it is
//!   open takes no more writes ([`StoreError::Unavailable`] says so).
//! - **A connection is used again only outside of any transaction**, however the last one on it ended.
//! - **Time is the database's**, in what is kept and in what is decided by it; no clock of a process is.
//! - **Notices are hints.** [`Store::watch`] reads heads from the database, at the latest one second after a change.
//! - Racing first starts make schema, data key and secrets once, under one lock. A sealing key that does not fit refuses to
//!   open.
//!
//! Deliberately absent: HTTP, JSON schemas, what a reference or a secret attribute is (callers say so in each [`Put`]), and
//! any cache of objects.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod account;
mod api_token;
mod audit;
mod availability;
mod backup;
mod bootstrap;
mod change;
mod clock;
mod connect;
mod declaration;
mod draft;
mod error;
mod event;
mod file;
mod grant;
mod group;
mod history;
mod lease;
mod link;
mod login;
mod maintenance;
mod member;
mod node;
mod once;
mod past;
mod probe;
mod provider;
mod publish;
mod read;
mod role;
mod rollout;
mod route_sample;
mod rule;
mod sample;
mod seal;
mod secret;
mod server;
mod sql;
mod store;
#[cfg(test)]
mod tests;
mod warning;
mod watch;
mod writability;

pub use access::{AdminKey, NewToken, Role, Token};
pub use account::{Account, AccountUpdate, NewPassword, Session, SessionLimits};
pub use api_token::{ApiToken, NewApiToken};
pub use audit::{
    Acting, Actor, ActorKind, Attempt, AuditAction, AuditFilter, AuditOutcome, AuditScope, Entry, Mask, audited, masked,
};
pub use availability::{Observation, Span, Watched};
pub use backup::{OUR_TABLES, copy_sqlite, is_empty, is_ours, sqlite_file};
pub use change::{
    Body, ChangeSet, Delete, Expect, Op, Outcome, Published, Put, Reference, Slot, Source, Target, UniqueKey,
};
pub use connect::Tuning;
pub use declaration::{Declaration, NewDeclaration};
pub use draft::{Draft, DraftChange, DraftLimits, DraftUpdate};
pub use error::{DraftError, GroupError, Holder, OpenError, PublishError, RoleError, StoreError};
pub use event::{Event, EventPage, NewEvent, Recorded, Told, Topic};
pub use grant::RoleGrant;
pub use group::{Group, GroupUpdate, NewGroup};
pub use history::{ChangeSetInfo, Fate, Publication, Retention, Touched};
pub use lease::{Lease, Term};
pub use link::Link;
pub use login::{Backoff, Subject};
pub use maintenance::Maintenance;
pub use member::{Forgotten, Member, NewMember};
pub use node::{NewNode, Node, NodeReport};
pub use once::{Answered, Done, Kept, Once};
pub use past::Past;
pub use probe::Probe;
pub use provider::{ProviderLogin, SignedIn};
pub use publish::says_the_same;
pub use read::{Changes, Snapshot};
pub use role::{BUILT_IN_ROLES, CustomRole, RoleHolder, RoleUpdate};
pub use rollout::{Advance, HeldRollout, Rollout, Rollouts, Step};
pub use route_sample::{RouteSample, RouteSampleFilter};
pub use sample::{NodeSample, SampleFilter, Sampling};
pub use seal::{KeySource, SealingKey, SealingKeyError, warn_if_open_to_others};
pub use secret::SecretBytes;
pub use server::Usage;
pub use store::{DEFAULT_GROUP, Store, open, open_with, reseal};
pub use warning::{NodeWarning, WarningFilter};
pub use watch::{Gate, Head, Heads, Heard, Watch};
