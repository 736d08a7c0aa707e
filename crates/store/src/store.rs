//! The handle on an open store.

use std::sync::{Arc, OnceLock};

use crate::audit::Bodies;
use crate::clock::DatabaseClock;
use crate::connect::Tuning;
use crate::error::{OpenError, StoreError};
use crate::seal::{KeySource, Sealer, SealingKey};
use crate::server::Usage;
use crate::sql::Db;
use crate::watch::Watcher;
use crate::writability::Writability;
use crate::{bootstrap, connect};

/// The gateway group that the first start makes and that requests without a group mean.
pub const DEFAULT_GROUP: &str = "default";

/// An open store. Cloning is cheap and shares everything; its background work ends with the last clone.
///
/// A future given up half-way undoes what it began, unless its transaction was already being committed.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) sealer: Sealer,
    pub(crate) clock: DatabaseClock,
    pub(crate) watcher: Watcher,
    pub(crate) bodies: OnceLock<Bodies>,
    pub(crate) writability: Writability,
}

/// Opens the database that `dsn` names: `postgres://USER:PASSWORD@HOST:PORT/DATABASE` or `sqlite:/path/to/file.db`.
///
/// An empty database is readied: schema, data key and group [`DEFAULT_GROUP`]; an older one is migrated, and one that is
/// ready only read. Any number of processes may do this at once. Must be called within a tokio runtime, which then runs the watching.
pub async fn open(dsn: &str, sealing_key: &KeySource) -> Result<Store, OpenError> {
    open_with(dsn, sealing_key, &Tuning::default()).await
}

/// As [`open`], using PostgreSQL as `tuning` says.
pub async fn open_with(dsn: &str, sealing_key: &KeySource, tuning: &Tuning) -> Result<Store, OpenError> {
    let db = connect::connect(dsn, tuning).await?;
    let clock = DatabaseClock::of(&db).await?;
    let sealer = bootstrap::bootstrap(&db, sealing_key, clock.now()).await?;
    let watcher = Watcher::start(&db, &clock).await?;
    let writability = Writability::default();
    Ok(Store(Arc::new(Inner { db, sealer, clock, watcher, bodies: OnceLock::new(), writability })))
}

/// Seals the database that `dsn` names with another sealing key: what `current` opens, `next` opens from then on, and `current` no
/// more. `false`: it was done before. Processes that have the database open go on as they are; whichever opens it later needs the
/// new key ([`KeySource::Replaced`]). What is sealed stays as it is, under data keys that are wrapped anew.
pub async fn reseal(dsn: &str, current: &KeySource, next: &SealingKey) -> Result<bool, OpenError> {
    let db = connect::connect(dsn, &Tuning::default()).await?;
    let done = bootstrap::reseal(&db, current, next).await;
    db.close().await;
    done
}

impl Store {
    /// Asks the database for a sign of life; fails too while it refuses writes ([`Store::takes_writes`]).
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.0.db.check_files()?;
        self.0.db.rows("SELECT 1", &[]).await?;
        self.takes_writes()
    }

    /// The database's time, Unix time in whole seconds: what all replicas agree on, whatever their own clocks say. It is read
    /// every second and carried on in between; nobody is asked.
    pub fn now(&self) -> u64 {
        self.0.clock.now()
    }

    /// How PostgreSQL is used; `None` on SQLite.
    pub fn usage(&self) -> Option<Usage> {
        match &self.0.db {
            Db::Pg(server) => Some(server.usage()),
            Db::Lite { .. } => None,
        }
    }

    /// How many that can wait, of however many gateway groups, may ask the database at once: half of its connections, so that whoever else asks
    /// finds one.
    pub fn background(&self) -> usize {
        let connections = match &self.0.db {
            Db::Pg(server) => server.connections(),
            Db::Lite { read, .. } => read.options().get_max_connections(),
        };
        connections.div_ceil(2) as usize
    }

    /// Closes the connections after the work under way; whatever is asked later fails. Not needed for safety: it spares
    /// the database the clean-up.
    pub async fn close(&self) {
        self.0.watcher.stop();
        self.0.db.close().await;
    }

    /// Whether it is being closed ([`Store::close`]): what failed then is no trouble of the database.
    pub fn is_closed(&self) -> bool {
        self.0.db.is_closed()
    }
}
