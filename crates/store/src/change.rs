//! What a caller submits to [`crate::Acting::publish`] and what comes back.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use milecastle_model::{Key, Kind, Object};

use crate::declaration::NewDeclaration;

/// One atomic publish: all of it becomes one revision, or nothing does.
#[derive(Debug)]
pub struct ChangeSet {
    /// Why, in the author's words; may be empty.
    pub message: String,
    /// Which way it came.
    pub source: Source,
    /// Refuse with [`crate::PublishError::StaleRevision`] unless this is the group's revision.
    pub expected_revision: Option<u64>,
    /// Preconditions on objects that the set does not write.
    pub require: Vec<(Key, Expect)>,
    /// What the group is declared to be by it, where it is about all of the group.
    pub declaration: Option<NewDeclaration>,
    /// The draft that it publishes, by id and version: it is gone afterwards. Refused with [`crate::PublishError::StaleDraft`] if it is
    /// of another version.
    pub draft: Option<(String, u64)>,
    /// What to do; each key at most once. Order does not matter: checks look at the state after all of it.
    pub ops: Vec<Op>,
}

impl ChangeSet {
    /// A set of `ops` without message or preconditions.
    pub fn new(source: Source, ops: Vec<Op>) -> ChangeSet {
        ChangeSet {
            message: String::new(),
            source,
            expected_revision: None,
            require: Vec::new(),
            declaration: None,
            draft: None,
            ops,
        }
    }
}

/// Which way a change set came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The Admin API, compatible or ours.
    Api,
    /// The web console.
    Console,
    /// Declarative configuration from files.
    File,
    /// A return to an earlier revision.
    Rollback,
    /// The end of objects with a time to live.
    Expiry,
}

impl Source {
    const ALL: [Source; 5] = [Source::Api, Source::Console, Source::File, Source::Rollback, Source::Expiry];

    /// Stable name for storage and interfaces.
    pub fn name(self) -> &'static str {
        match self {
            Source::Api => "api",
            Source::Console => "console",
            Source::File => "file",
            Source::Rollback => "rollback",
            Source::Expiry => "expiry",
        }
    }

    /// Inverse of [`Source::name`].
    pub fn from_name(name: &str) -> Option<Source> {
        Source::ALL.into_iter().find(|source| source.name() == name)
    }
}

/// One step of a change set.
#[derive(Debug)]
pub enum Op {
    /// Create or replace.
    Put(Put),
    /// Remove.
    Delete(Delete),
}

/// Creates or replaces one object.
///
/// An object that lives below another ([`Key::parent`]: a credential, a decoration) needs that one to exist.
#[derive(Debug)]
pub struct Put {
    /// Which object.
    pub target: Target,
    /// Its new form.
    pub body: Body,
    /// The body holds something secret: it is stored sealed.
    pub sealed: bool,
    /// What must be there now.
    pub expect: Expect,
    /// All objects that the body names.
    pub references: Vec<Reference>,
    /// Lookup keys that no other owner in the group may have for the same plugin.
    pub keys: Vec<UniqueKey>,
    /// Unix time in seconds at which the object disappears (`docs/spec/admin-api.md` §10); `None` keeps it for good.
    pub expires_at: Option<u64>,
    /// What it replaces lives as long as it would have; [`Put::expires_at`] is that of a new object alone.
    pub keeps_lifetime: bool,
}

impl Put {
    /// A plain last-writer-wins write of `body` to `key`; set the other fields as needed.
    pub fn new(key: Key, body: impl Into<Bytes>) -> Put {
        Put {
            target: Target::Key(key),
            body: Body::Ready(body.into()),
            sealed: false,
            expect: Expect::Any,
            references: Vec::new(),
            keys: Vec::new(),
            expires_at: None,
            keeps_lifetime: false,
        }
    }
}

/// Removes one object, and those that live below it ([`Key::parent`]). Absent already: [`Outcome::Absent`].
#[derive(Debug)]
pub struct Delete {
    /// Which object.
    pub key: Key,
    /// What must be there now.
    pub expect: Expect,
    /// Remove it even if others refer to it and their references hinder that; these then dangle.
    pub force: bool,
}

impl Delete {
    /// Removes `key`, whatever its revision, unless a reference hinders it.
    pub fn new(key: Key) -> Delete {
        Delete { key, expect: Expect::Any, force: false }
    }
}

/// Which object a [`Put`] writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The one named.
    Key(Key),
    /// A new one of this kind whose id is the revision that this change set makes, as 20 decimal digits
    /// (`docs/spec/admin-api.md` §6.3). At most one of a kind and parent in a set.
    NextRevision {
        /// The kind.
        kind: Kind,
        /// Id of the object that it lives below; for kinds without [`Kind::parent`] it is ignored.
        parent: Option<Arc<str>>,
    },
}

/// The new form of an object.
pub enum Body {
    /// These bytes.
    Ready(Bytes),
    /// Made inside the transaction, where id, revision and the stored object are certain. Must not block and must give
    /// references and lookup keys as the [`Put`] names them.
    Make(Box<dyn FnOnce(&Slot<'_>) -> Bytes + Send>),
}

impl Body {
    /// [`Body::Make`] from a closure.
    pub fn make(make: impl FnOnce(&Slot<'_>) -> Bytes + Send + 'static) -> Body {
        Body::Make(Box::new(make))
    }
}

/// Shows no content: bodies may hold secrets.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Ready(bytes) => write!(f, "Ready({} bytes)", bytes.len()),
            Body::Make(_) => f.write_str("Make"),
        }
    }
}

/// The place that a body is made for.
#[derive(Debug)]
pub struct Slot<'a> {
    /// The object's identity; the generated one for [`Target::NextRevision`].
    pub key: &'a Key,
    /// The revision that the change set will make, unless it changes nothing.
    pub revision: u64,
    /// What is stored under the key now.
    pub stored: Option<&'a Object>,
}

/// What must be stored under a key for a change set to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything or nothing.
    Any,
    /// Nothing.
    Absent,
    /// Something.
    Present,
    /// The object in the form that this revision gave it.
    ModifiedAt(u64),
}

impl Expect {
    /// Whether `stored` is as expected.
    pub fn holds(self, stored: Option<&Object>) -> bool {
        match self {
            Expect::Any => true,
            Expect::Absent => stored.is_none(),
            Expect::Present => stored.is_some(),
            Expect::ModifiedAt(revision) => stored.is_some_and(|object| object.modified == revision),
        }
    }
}

/// One object names another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The object named.
    pub to: Key,
    /// The plugin whose configuration holds the reference; `None` for an attribute of the object itself.
    pub plugin: Option<String>,
    /// Refuse the write if `to` does not exist afterwards.
    pub must_exist: bool,
    /// Refuse a later deletion of `to` that is not forced.
    pub hinders: bool,
}

/// A credential's lookup key. Only its keyed hash is stored.
#[derive(Clone)]
pub struct UniqueKey {
    /// The plugin that looks consumers up by it; more generally the scope within which it is unique.
    pub plugin: String,
    /// The key itself.
    pub value: Vec<u8>,
}

/// Leaves the value out.
impl fmt::Debug for UniqueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UniqueKey").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

/// What a publish did.
#[derive(Debug)]
pub struct Published {
    /// The group's revision now: the one made, or the one that stood if nothing changed.
    pub revision: u64,
    /// As in [`crate::Head`], of the revision made; empty if nothing changed.
    pub mark: String,
    /// Whether a revision was made.
    pub changed: bool,
    /// One for each op, in their order.
    pub outcomes: Vec<Outcome>,
    /// Objects removed because they lived below a deleted one.
    pub cascaded: Vec<Key>,
}

/// What became of one op.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Put: there was nothing before.
    Created(Object),
    /// Put: this stands now in place of another form.
    Replaced(Object),
    /// Put: what was stored, which is the same but for `create_time` and `update_time`, and stays as it was. A different
    /// [`Put::expires_at`] is taken over all the same.
    Unchanged(Object),
    /// Delete: it is gone.
    Deleted,
    /// Delete: there was nothing.
    Absent,
}
