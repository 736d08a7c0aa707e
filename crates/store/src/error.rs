//! Everything that can go wrong, in the operator's words.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use milecastle_model::{Key, Object};
use sqlx::error::DatabaseError;

use crate::change::Reference;
use crate::seal::SealingKeyError;

type Cause = Box<dyn StdError + Send + Sync>;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The connection string is not one.
    #[error(
        "database.dsn is not usable: {why}; write postgres://USER:PASSWORD@HOST:5432/DATABASE or sqlite:/path/to/file.db"
    )]
    BadDsn {
        /// What is wrong with it; never the string itself, which may hold a password.
        why: String,
    },
    /// Nobody answers there.
    #[error("no PostgreSQL answers at {at}: {cause}; is it running, and is the address right?")]
    Unreachable {
        /// Host and port, or the socket.
        at: String,
        /// The operating system's word.
        cause: Cause,
    },
    /// No TLS connection came about.
    #[error("no TLS with PostgreSQL at {at}: {cause}; check sslmode and sslrootcert in database.dsn")]
    Tls {
        /// Host and port.
        at: String,
        /// What went wrong.
        cause: Cause,
    },
    /// User or password refused.
    #[error(
        "PostgreSQL at {at} refuses user `{user}`: {message}; check user and password in database.dsn and pg_hba.conf"
    )]
    Refused {
        /// Host and port.
        at: String,
        /// The user tried.
        user: String,
        /// The server's word.
        message: String,
    },
    /// The server has no such database.
    #[error(
        "PostgreSQL at {at} has no database `{database}`; create it: CREATE DATABASE \"{database}\" OWNER \"{user}\""
    )]
    NoDatabase {
        /// Host and port.
        at: String,
        /// The database asked for.
        database: String,
        /// The user that should own it.
        user: String,
    },
    /// The SQLite file cannot be opened or made.
    #[error("SQLite file {} cannot be used: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Written by a later version, on whose schema this program may not run.
    #[error(
        "the database has schema version {found}, this program knows versions up to {known} and may not run on it; start \
         Milecastle {release} or newer"
    )]
    NewerSchema {
        /// Version in the database.
        found: i64,
        /// Greatest version known here.
        known: i64,
        /// The oldest release that may run on it.
        release: String,
    },
    /// The schema could not be brought up to date.
    #[error("the database schema could not be brought up to date: {cause}; nothing was changed")]
    Migration {
        /// What the database said.
        cause: Cause,
    },
    /// The sealing key is unusable.
    #[error(transparent)]
    SealingKey(#[from] SealingKeyError),
    /// The database was sealed with another key.
    #[error(
        "wrong sealing key: the database was sealed with key {sealed_with}, the one given is {given}; give this replica \
         the key file of the others"
    )]
    WrongSealingKey {
        /// Fingerprint of the key that the database needs.
        sealed_with: String,
        /// Fingerprint of the key given.
        given: String,
    },
    /// The key file is missing, and the database has been sealed before.
    #[error(
        "sealing key file {} does not exist, but the database is sealed with key {sealed_with}; copy the file from \
         another replica or from your backup", path.display()
    )]
    MissingSealingKey {
        /// Where it was looked for.
        path: PathBuf,
        /// Fingerprint of the key needed.
        sealed_with: String,
    },
    /// Anything else that the database said.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// Whether the same attempt may succeed later without any change to this program's configuration: the server is away, or
    /// its operator has yet to let us in.
    pub fn may_pass(&self) -> bool {
        use OpenError as E;
        match self {
            E::Unreachable { .. } | E::Tls { .. } | E::Refused { .. } | E::NoDatabase { .. } => true,
            E::Store(error) => error.may_pass(),
            E::BadDsn { .. } | E::File { .. } | E::NewerSchema { .. } | E::Migration { .. } => false,
            E::SealingKey(_) | E::WrongSealingKey { .. } | E::MissingSealingKey { .. } => false,
        }
    }
}

/// Why a store that had opened did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer, or not in time. A write may or may not have happened if it was being committed.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] Cause),
    /// The turn to write did not come in time, since others write. Nothing was written.
    #[error("{0}")]
    Busy(String),
    /// The database answered with an error.
    #[error("the database refused a statement: {0}")]
    Database(#[source] Cause),
    /// A newer release has changed the schema, and this one may not run on it any more. Nothing was written.
    #[error(
        "a newer release has changed the schema of the database, and this one may not run on it any more: start Milecastle \
         {release} or newer in its place"
    )]
    Outdated {
        /// The oldest release that may run on it.
        release: std::sync::Arc<str>,
    },
    /// It was done before, under the same name ([`crate::Once`]). Nothing was written.
    #[error("a write of this name was done before")]
    Repeated,
    /// There is no such gateway group.
    #[error("there is no gateway group `{0}`")]
    UnknownGroup(String),
    /// There is no such role, built in or made.
    #[error("there is no role `{0}`")]
    UnknownRole(String),
    /// Something read from the database is not what was written.
    #[error("the database holds something unreadable: {0}")]
    Corrupt(String),
}

/// SQLSTATE read_only_sql_transaction: a standby that is yet to be promoted, or a session that began as read only.
pub(crate) const READ_ONLY: &str = "25006";

/// SQLSTATE query_canceled: it took longer than `statement_timeout`.
pub(crate) const CANCELLED: &str = "57014";

/// Why a database that answers takes no writes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("it refuses writes: {message}; {advice}")]
pub(crate) struct Refusal {
    message: String,
    advice: &'static str,
}

impl Refusal {
    fn of(error: &dyn DatabaseError) -> Option<Self> {
        let advice = match error.code().as_deref()? {
            READ_ONLY => "does database.dsn lead to a standby, or is default_transaction_read_only set?",
            // disk_full, SQLITE_FULL
            "53100" | "13" => "make room on its disk",
            _ => return None,
        };
        Some(Self { message: error.message().to_owned(), advice })
    }
}

/// Why a change set was not published. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The group is at another revision than [`crate::ChangeSet::expected_revision`].
    #[error("the group is at revision {current}, not {expected}")]
    StaleRevision {
        /// What the caller expected.
        expected: u64,
        /// What is.
        current: u64,
    },
    /// An object is not in the state that an [`crate::Expect`] demands.
    #[error("{key} is not in the expected state")]
    PreconditionFailed {
        /// Which object.
        key: Key,
        /// What is stored there.
        current: Option<Object>,
    },
    /// An object would name one that does not exist. For the parent of a sub-resource `to` is `from.parent()` and
    /// `plugin` is `None`.
    #[error("{from} refers to {to}, which does not exist", to = reference.to)]
    MissingReference {
        /// The object written.
        from: Key,
        /// Its first reference that leads nowhere.
        reference: Reference,
    },
    /// An object to delete is still in use.
    #[error("{key} is still in use, by {}", by.first().map(|holder| holder.key.to_string()).unwrap_or_default())]
    StillReferenced {
        /// The object to delete.
        key: Key,
        /// Who holds it: for each kind and plugin the holder with the smallest id, ordered by kind name. Never empty.
        by: Vec<Holder>,
    },
    /// A lookup key belongs to another owner.
    #[error("{key}: the key of plugin {plugin} is in use by {holder}")]
    DuplicateDigest {
        /// The object written.
        key: Key,
        /// [`crate::UniqueKey::plugin`].
        plugin: String,
        /// The other one.
        holder: Key,
    },
    /// Another declaration came before this one ([`crate::NewDeclaration::after`]).
    #[error("the group has been declared anew meanwhile")]
    StaleDeclaration,
    /// The draft that it publishes ([`crate::ChangeSet::draft`]) has been edited, published or discarded meanwhile.
    #[error("the draft `{0}` has been edited, published or discarded meanwhile: look at it again")]
    StaleDraft(String),
    /// The change set names a key twice.
    #[error("the change set names {0} more than once")]
    RepeatedKey(Key),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One holder of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The object that refers.
    pub key: Key,
    /// [`Reference::plugin`].
    pub plugin: Option<String>,
}

/// Why a gateway group was not created or deleted.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The id is taken.
    #[error("gateway group `{0}` exists already")]
    Exists(String),
    /// It has objects or nodes, and the deletion was not forced.
    #[error("gateway group `{id}` still has {objects} objects and {nodes} nodes")]
    NotEmpty {
        /// Which group.
        id: String,
        /// Objects in it.
        objects: u64,
        /// Nodes that joined it.
        nodes: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a draft was not begun or edited. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// There is none of this id.
    #[error("there is no draft `{0}`: it may have been published, discarded or forgotten")]
    Missing(String),
    /// The id is taken.
    #[error("draft `{0}` exists already")]
    Exists(String),
    /// Somebody has edited it meanwhile.
    #[error("the draft is of version {current}, not {expected}: look at it again")]
    Stale {
        /// What the caller expected.
        expected: u64,
        /// What is.
        current: u64,
    },
    /// The group has as many as it may.
    #[error("the gateway group has {most} drafts already: publish or discard one (admin.max_drafts)")]
    TooMany {
        /// [`crate::DraftLimits::drafts`].
        most: u64,
    },
    /// It would change more objects than a draft may.
    #[error("a draft changes at most {most} objects (admin.max_draft_objects): make several")]
    TooLarge {
        /// [`crate::DraftLimits::objects`].
        most: u64,
    },
    /// Its bodies would have more bytes than those of a draft may.
    #[error("the objects of a draft have at most {most} bytes together (admin.max_configs_body): make several")]
    TooHeavy {
        /// [`crate::DraftLimits::bytes`].
        most: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Holders of a role that a message names.
const NAMED: usize = 5;

fn listed(by: &[crate::RoleHolder]) -> String {
    let mut named: Vec<String> = by.iter().take(NAMED).map(ToString::to_string).collect();
    if by.len() > NAMED {
        named.push(format!("{} more", by.len() - NAMED));
    }
    named.join(", ")
}

/// Why a role was not made, changed or deleted. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// There is none of this name that can be changed.
    #[error("there is no role `{0}` beside the built-in ones")]
    Missing(String),
    /// The name is taken.
    #[error("there is a role `{0}` already")]
    Exists(String),
    /// Somebody has changed it meanwhile.
    #[error("the role is of version {current}, not {expected}: look at it again")]
    Stale {
        /// What the caller expected.
        expected: u64,
        /// What is.
        current: u64,
    },
    /// Somebody has it. Never without a holder.
    #[error("the role `{name}` is in use: take it from {} first", listed(.by))]
    Held {
        /// Which role.
        name: String,
        /// Who has it.
        by: Vec<crate::RoleHolder>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// The database took longer for something than it may.
    pub fn late() -> StoreError {
        StoreError::Unavailable("it does not answer in time".into())
    }

    /// Others have held a group for as long as its row is waited for.
    pub(crate) fn busy_group(group: &str, patience: Duration) -> StoreError {
        let text = format!(
            "others have written to gateway group `{group}`, or held it, for {patience:?}: try again, or pause the writers"
        );
        StoreError::Busy(text)
    }

    /// Others have had all connections that are for writing to groups.
    pub(crate) fn busy(patience: Duration) -> StoreError {
        let text = format!(
            "writes to other gateway groups have had all connections that are for writing, for {patience:?}: try again; where \
             that lasts, raise database.max_connections"
        );
        StoreError::Busy(text)
    }

    /// Another process has had the whole database for longer than a statement may take.
    pub(crate) fn busy_schema() -> StoreError {
        let text = "another replica has been bringing the schema of the database up to date for longer than database.statement_timeout: \
                    try again once it is done";
        StoreError::Busy(text.to_owned())
    }

    /// Whether the same may succeed later without anything being done to this program.
    pub fn may_pass(&self) -> bool {
        matches!(self, StoreError::Unavailable(_) | StoreError::Busy(_))
    }

    /// Whether the database answers, and takes no writes.
    pub fn refuses_writes(&self) -> bool {
        self.refusal().is_some()
    }

    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            StoreError::Unavailable(cause) => cause.downcast_ref(),
            _ => None,
        }
    }

    /// Something stored that cannot be; `what` says what, without its content.
    pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
        StoreError::Corrupt(what.into())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        use sqlx::Error as E;
        match error {
            E::Database(e) if let Some(refusal) = Refusal::of(&*e) => StoreError::Unavailable(Box::new(refusal)),
            E::Database(e) if e.code().is_some_and(|code| is_passing(&code)) => StoreError::Unavailable(Box::new(e)),
            E::Database(_) | E::Encode(_) => StoreError::Database(Box::new(error)),
            E::Decode(_) | E::ColumnDecode { .. } => StoreError::corrupt(error.to_string()),
            // The pool does not say why: whether the server is away, or too slow for all that is asked of it.
            E::PoolTimedOut => StoreError::Unavailable(
                "it gives no connection within database.acquire_timeout; is it running, reachable and not overloaded?"
                    .into(),
            ),
            other => StoreError::Unavailable(Box::new(other)),
        }
    }
}

/// Whether an error code of either database says that the same statement may well succeed later.
fn is_passing(code: &str) -> bool {
    match code.len() {
        // SQLSTATE: shut down or cancelled by the operator, out of resources, rolled back for another transaction's sake, lock not
        // had in time.
        5 => ["57", "53", "40"].iter().any(|class| code.starts_with(class)) || code == "55P03",
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_CANTOPEN; the low byte of an extended code is the primary one.
        _ => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 14)),
    }
}
