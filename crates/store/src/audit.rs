//! The audit log: who changed what, when, from where, what it was before and what it is now (`docs/audit.md`).
//!
//! All that people and machines change goes through [`Acting`], so that a change without somebody who made it does not compile.
//!
//! What must stay true:
//! - An entry is written in the transaction of its change: neither is there without the other.
//! - No entry holds a secret. Bodies of objects are recorded only as [`Mask`] leaves them, and not at all where there is none.
//! - Entries are never changed; they go only when they are old ([`Store::audit_trim`]).

mod body;
mod read;

use std::sync::Arc;

use milecastle_model::{Key, Object};
use serde_json::Value as Json;

use crate::error::StoreError;
use crate::once::Once;
use crate::sql::{BATCH, Tx, args, tuples};
use crate::store::Store;

pub use body::masked;
pub use read::{AuditFilter, AuditScope, Entry};

/// Values of one entry in [`record`].
const COLUMNS: usize = 13;

/// By what somebody is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActorKind {
    /// Nothing: the settings ask for no key, or who it was is not known.
    Anonymous,
    /// A key of the Admin API.
    AdminKey,
    /// A token of a machine.
    ApiToken,
    /// An account.
    Account,
    /// The database's own files: a command on a machine of the control plane.
    Machine,
    /// Milecastle itself.
    System,
}

/// Who does something, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actor {
    /// By what the actor is known.
    pub kind: ActorKind,
    /// What histories call the actor.
    pub name: String,
    /// Tells those of one name and kind apart; the name, where there are none.
    pub id: String,
    /// The actor's address, that of a client behind trusted proxies.
    pub address: Option<String>,
    /// The client's name for the request.
    pub request: Option<String>,
}

/// What became of what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// A right was missing.
    Refused,
    /// It failed, as a login with a wrong password.
    Failed,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditAction {
    /// It was not there before.
    Create,
    /// It is another one.
    Update,
    /// It is gone.
    Delete,
    /// It opens nothing any more.
    Revoke,
    /// An operator confirmed something.
    Confirm,
    /// Somebody logged in, or tried to.
    SignIn,
    /// Somebody logged out.
    SignOut,
    /// Somebody tried to look.
    Read,
    /// Somebody tried to change something.
    Write,
}

/// What is audited beside the objects of a group, which go by the name of their kind.
pub mod audited {
    /// A gateway group.
    pub const GROUP: &str = "gateway_group";
    /// The configuration of a group as a whole.
    pub const CONFIGS: &str = "configs";
    /// A change set that is being prepared.
    pub const DRAFT: &str = "draft";
    /// A token with which nodes join.
    pub const JOIN_TOKEN: &str = "join_token";
    /// How the revisions of a group go out.
    pub const ROLLOUT: &str = "rollout";
    /// A gateway node.
    pub const NODE: &str = "node";
    /// A replica of the control plane.
    pub const MEMBER: &str = "member";
    /// A link to another system.
    pub const LINK: &str = "link";
    /// An address that is probed.
    pub const PROBE: &str = "probe";
    /// An account.
    pub const ACCOUNT: &str = "account";
    /// A login of an account.
    pub const SESSION: &str = "session";
    /// A token of a machine.
    pub const API_TOKEN: &str = "api_token";
    /// A key of the Admin API.
    pub const ADMIN_KEY: &str = "admin_key";
    /// A role that is not built in.
    pub const ROLE: &str = "role";
    /// A request, whatever it was about.
    pub const REQUEST: &str = "request";

    /// Those that say who may do what: not everybody who may read the log may read these.
    pub const OF_ACCESS: [&str; 5] = [ACCOUNT, SESSION, API_TOKEN, ADMIN_KEY, ROLE];
}

/// Replaces the secrets in the body of an object.
pub trait Mask: Send + Sync {
    /// Replaces every secret by something that does not tell it.
    fn mask(&self, key: &Key, body: &mut Json);
}

/// How bodies are recorded.
pub(crate) struct Bodies {
    mask: Arc<dyn Mask>,
    most: usize,
}

/// A store in somebody's hands. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Acting<'a> {
    pub(crate) store: &'a Store,
    pub(crate) actor: &'a Actor,
    /// The write, if it is to be done once ([`Acting::once`]).
    pub(crate) once: Option<&'a Once>,
}

/// Something that was tried in vain; the log counts how often.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Who tried.
    pub actor: Actor,
    /// In which gateway group.
    pub group: Option<String>,
    /// On what: one of [`audited`], or the name of a kind.
    pub kind: &'static str,
    /// Which one; may be empty.
    pub object: String,
    /// What it was.
    pub action: AuditAction,
    /// What became of it.
    pub outcome: AuditOutcome,
}

/// An entry to write.
#[derive(Debug)]
pub(crate) struct NewEntry {
    pub(crate) group: Option<String>,
    pub(crate) kind: &'static str,
    pub(crate) object: String,
    pub(crate) action: AuditAction,
    pub(crate) revision: Option<u64>,
    pub(crate) before: Option<Json>,
    pub(crate) after: Option<Json>,
}

impl ActorKind {
    /// Stable name for storage and interfaces.
    pub fn name(self) -> &'static str {
        match self {
            ActorKind::Anonymous => "anonymous",
            ActorKind::AdminKey => "key",
            ActorKind::ApiToken => "token",
            ActorKind::Account => "account",
            ActorKind::Machine => "machine",
            ActorKind::System => "system",
        }
    }
}

impl AuditOutcome {
    /// Stable name for storage and interfaces.
    pub fn name(self) -> &'static str {
        match self {
            AuditOutcome::Done => "done",
            AuditOutcome::Refused => "refused",
            AuditOutcome::Failed => "failed",
        }
    }
}

impl AuditAction {
    /// Stable name for storage and interfaces.
    pub fn name(self) -> &'static str {
        match self {
            AuditAction::Create => "create",
            AuditAction::Update => "update",
            AuditAction::Delete => "delete",
            AuditAction::Revoke => "revoke",
            AuditAction::Confirm => "confirm",
            AuditAction::SignIn => "sign_in",
            AuditAction::SignOut => "sign_out",
            AuditAction::Read => "read",
            AuditAction::Write => "write",
        }
    }
}

impl Actor {
    /// Milecastle itself.
    pub fn system() -> Self {
        Self::new(ActorKind::System, "milecastle")
    }

    /// Somebody who is known by name alone, without an address.
    pub fn new(kind: ActorKind, name: impl Into<String>) -> Self {
        let name = name.into();
        Self { kind, id: name.clone(), name, address: None, request: None }
    }
}

impl NewEntry {
    /// That something is another one than before; `None` if it is not. Of a change only what differs is recorded.
    pub(crate) fn of(kind: &'static str, object: &str, before: Option<Json>, after: Option<Json>) -> Option<Self> {
        let (action, before, after) = match (before, after) {
            (None, None) => return None,
            (None, after) => (AuditAction::Create, None, after),
            (before, None) => (AuditAction::Delete, before, None),
            (Some(before), Some(after)) => {
                let (before, after) = body::differing(&before, &after)?;
                (AuditAction::Update, Some(before), Some(after))
            }
        };
        Some(Self { group: None, kind, object: object.to_owned(), action, revision: None, before, after })
    }

    /// That another thing stands in the place of one, even if both look the same.
    pub(crate) fn replaced(kind: &'static str, object: &str, before: Json, after: Option<Json>) -> Self {
        let (object, action) = (object.to_owned(), AuditAction::Update);
        Self { group: None, kind, object, action, revision: None, before: Some(before), after }
    }

    /// The same of something in a group.
    pub(crate) fn within(self, group: &str) -> Self {
        Self { group: Some(group.to_owned()), ..self }
    }

    /// The same under another name.
    pub(crate) fn called(self, action: AuditAction) -> Self {
        Self { action, ..self }
    }
}

impl Store {
    /// The store in the hands of `actor`: whatever is changed by it is in the audit log under that name.
    pub fn by<'a>(&'a self, actor: &'a Actor) -> Acting<'a> {
        Acting { store: self, actor, once: None }
    }

    /// Has the audit log record bodies of objects as `mask` leaves them, and of any value no more than `most` bytes. Without it
    /// the log says which objects were changed, and not how. To be called once, before anything is written.
    pub fn audit_bodies(&self, mask: Arc<dyn Mask>, most: usize) {
        // Whoever comes second is another role of the same process.
        let _already = self.0.bodies.set(Bodies { mask, most });
    }

    /// Records attempts, and how often each was made.
    pub async fn audit_attempts(&self, attempts: &[(Attempt, u64)]) -> Result<(), StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        for attempts in attempts.chunks(BATCH) {
            let mut values = Vec::with_capacity(attempts.len() * COLUMNS);
            for (Attempt { actor, group, kind, object, action, outcome }, times) in attempts {
                values.extend_from_slice(args![actor.kind.name(), &actor.name, &actor.id]);
                values.extend_from_slice(args![actor.address.as_deref(), actor.request.as_deref(), group.as_deref()]);
                values.extend_from_slice(args![*kind, object, action.name(), outcome.name(), None::<u64>]);
                values.extend_from_slice(args![None::<&str>, None::<&str>, *times]);
            }
            tx.run(insert(attempts.len(), COLUMNS + 1), &values).await?;
        }
        tx.commit().await
    }
}

impl<'a> Acting<'a> {
    /// The store itself.
    pub fn store(self) -> &'a Store {
        self.store
    }

    /// Records what was done in the transaction that does it.
    pub(crate) async fn record(
        self,
        tx: &mut Tx,
        entries: impl IntoIterator<Item = NewEntry>,
    ) -> Result<(), StoreError> {
        let entries: Vec<NewEntry> = entries.into_iter().collect();
        let most = self.store.0.bodies.get().map_or(usize::MAX, |bodies| bodies.most);
        let Actor { kind, name, id, address, request } = self.actor;
        for entries in entries.chunks(BATCH) {
            let bodies: Vec<[Option<String>; 2]> = entries
                .iter()
                .map(|one| [&one.before, &one.after].map(|side| body::written(side.as_ref(), most)))
                .collect();
            let mut values = Vec::with_capacity(entries.len() * COLUMNS);
            for (entry, [before, after]) in entries.iter().zip(&bodies) {
                values.extend_from_slice(args![kind.name(), name, id, address.as_deref(), request.as_deref()]);
                values.extend_from_slice(args![entry.group.as_deref(), entry.kind, &entry.object, entry.action.name()]);
                values.extend_from_slice(args![AuditOutcome::Done.name(), entry.revision]);
                values.extend_from_slice(args![before.as_deref(), after.as_deref()]);
            }
            tx.run(insert(entries.len(), COLUMNS), &values).await?;
        }
        Ok(())
    }

    /// What became of an object of a group in a revision; `None` if it is as it was.
    pub(crate) fn of_object(
        self,
        group: &str,
        revision: u64,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Option<NewEntry> {
        let key = &before.or(after)?.key;
        let action = match (before, after) {
            (None, _) => AuditAction::Create,
            (_, None) => AuditAction::Delete,
            _ => AuditAction::Update,
        };
        let bodies = self.store.0.bodies.get().map(|bodies| {
            let [before, after] = [before, after].map(|object| object.map(|object| object.body.as_ref()));
            body::masked(&*bodies.mask, key, before, after)
        });
        let (before, after) = bodies.unwrap_or_default();
        let (group, object) = (Some(group.to_owned()), key.id.to_string());
        Some(NewEntry { group, kind: key.kind.name(), object, action, revision: Some(revision), before, after })
    }
}

/// Inserts entries with so many of the columns; the database says when.
fn insert(rows: usize, columns: usize) -> String {
    let times = if columns > COLUMNS { ", times" } else { "" };
    format!(
        "INSERT INTO audit (actor_kind, actor, actor_id, address, request, group_id, kind, object, action, outcome, revision, \
         before, after{times}) VALUES {}",
        tuples(rows, columns, 1)
    )
}
