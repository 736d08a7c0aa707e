//! What happens when a store opens: schema, data key, default group; all in one transaction that no other opening overlaps,
//! so that racing first starts make each of them once.

use std::collections::BTreeMap;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use crate::error::{OpenError, StoreError};
use crate::group::{self, NewGroup};
use crate::seal::{KEY_LEN, KeySource, Sealer, SealingKey, random};
use crate::server::LOCK_TIMEOUT;
use crate::sql::{Db, Tx, args};
use crate::store::DEFAULT_GROUP;
use crate::{seal, secret};

/// Number, name, and SQL for PostgreSQL and SQLite. Never change one that was released: add another.
///
/// While replicas are upgraded one after the other, those before run on the schema of those after. So a migration adds, and
/// what it adds has a default; one that programs before it cannot live with raises `schema_rule`.
const MIGRATIONS: &[(i64, &str, &str, &str)] = &[
    (
        1,
        "spine",
        include_str!("../../../migrations/postgres/0001_spine.sql"),
        include_str!("../../../migrations/sqlite/0001_spine.sql"),
    ),
    (
        2,
        "members",
        include_str!("../../../migrations/postgres/0002_members.sql"),
        include_str!("../../../migrations/sqlite/0002_members.sql"),
    ),
    (
        3,
        "maintenance",
        include_str!("../../../migrations/postgres/0003_maintenance.sql"),
        include_str!("../../../migrations/sqlite/0003_maintenance.sql"),
    ),
    (
        4,
        "marks",
        include_str!("../../../migrations/postgres/0004_marks.sql"),
        include_str!("../../../migrations/sqlite/0004_marks.sql"),
    ),
    (
        5,
        "group settings",
        include_str!("../../../migrations/postgres/0005_group_settings.sql"),
        include_str!("../../../migrations/sqlite/0005_group_settings.sql"),
    ),
    (
        6,
        "rolling upgrades",
        include_str!("../../../migrations/postgres/0006_rolling_upgrades.sql"),
        include_str!("../../../migrations/sqlite/0006_rolling_upgrades.sql"),
    ),
    (
        7,
        "declarations",
        include_str!("../../../migrations/postgres/0007_declarations.sql"),
        include_str!("../../../migrations/sqlite/0007_declarations.sql"),
    ),
    (
        9,
        "what members know",
        include_str!("../../../migrations/postgres/0009_member_knows.sql"),
        include_str!("../../../migrations/sqlite/0009_member_knows.sql"),
    ),
    (
        10,
        "access",
        include_str!("../../../migrations/postgres/0010_access.sql"),
        include_str!("../../../migrations/sqlite/0010_access.sql"),
    ),
    (
        11,
        "audit",
        include_str!("../../../migrations/postgres/0011_audit.sql"),
        include_str!("../../../migrations/sqlite/0011_audit.sql"),
    ),
    (
        12,
        "changes",
        include_str!("../../../migrations/postgres/0012_changes.sql"),
        include_str!("../../../migrations/sqlite/0012_changes.sql"),
    ),
    (
        13,
        "events",
        include_str!("../../../migrations/postgres/0013_events.sql"),
        include_str!("../../../migrations/sqlite/0013_events.sql"),
    ),
    (
        14,
        "idempotency",
        include_str!("../../../migrations/postgres/0014_idempotency.sql"),
        include_str!("../../../migrations/sqlite/0014_idempotency.sql"),
    ),
    (
        15,
        "rollout",
        include_str!("../../../migrations/postgres/0015_rollout.sql"),
        include_str!("../../../migrations/sqlite/0015_rollout.sql"),
    ),
    (
        17,
        "cluster view",
        include_str!("../../../migrations/postgres/0017_cluster_view.sql"),
        include_str!("../../../migrations/sqlite/0017_cluster_view.sql"),
    ),
    (
        18,
        "roles",
        include_str!("../../../migrations/postgres/0018_roles.sql"),
        include_str!("../../../migrations/sqlite/0018_roles.sql"),
    ),
    (
        20,
        "samples of nodes",
        include_str!("../../../migrations/postgres/0020_node_samples.sql"),
        include_str!("../../../migrations/sqlite/0020_node_samples.sql"),
    ),
    (
        21,
        "availability",
        include_str!("../../../migrations/postgres/0021_availability.sql"),
        include_str!("../../../migrations/sqlite/0021_availability.sql"),
    ),
    (
        23,
        "grants by hand",
        include_str!("../../../migrations/postgres/0023_grants.sql"),
        include_str!("../../../migrations/sqlite/0023_grants.sql"),
    ),
    (
        24,
        "samples of routes",
        include_str!("../../../migrations/postgres/0024_route_samples.sql"),
        include_str!("../../../migrations/sqlite/0024_route_samples.sql"),
    ),
    (
        25,
        "filters of the audit log",
        include_str!("../../../migrations/postgres/0025_audit_filters.sql"),
        include_str!("../../../migrations/sqlite/0025_audit_filters.sql"),
    ),
];

/// The newest migration that this program knows.
pub(crate) fn newest_known() -> u64 {
    MIGRATIONS.iter().map(|migration| migration.0.cast_unsigned()).max().unwrap_or(0)
}

/// Name of the secret that keys lookup digests. It outlives data keys: digests cannot be made anew without the values.
const DIGEST_KEY: &str = "lookup-digest-key";

/// Readies the database at `now` (Unix seconds) and gives what seals and opens its values.
pub(crate) async fn bootstrap(db: &Db, source: &KeySource, now: u64) -> Result<Sealer, OpenError> {
    let mut tx = db.begin_alone().await?;
    migrate(&mut tx).await?;
    check_rule(&mut tx).await?;
    let stored = tx.rows("SELECT id, wrapped, master FROM data_key ORDER BY id", &[]).await?;
    let first_start = stored.is_empty();
    let mut keys = BTreeMap::new();
    if first_start {
        let key = random::<KEY_LEN>();
        let master = source.read_or_make()?;
        let (wrapped, fingerprint) = (master.wrap(1, &key), master.fingerprint());
        let insert = "INSERT INTO data_key (id, wrapped, master, created_at) VALUES ($1, $2, $3, $4)";
        tx.run(insert, args![1_u64, &wrapped[..], &fingerprint, now]).await?;
        keys.insert(1, key);
    }
    for row in stored {
        let (id, wrapped, sealed_with) = (row.int(0)?, row.blob(1)?, row.text(2)?);
        let id = u32::try_from(id).map_err(|_| StoreError::corrupt("the id of a data key"))?;
        keys.insert(id, unwrap(source, id, wrapped, sealed_with)?);
    }
    let sealer = Sealer::new(&keys);
    let make = || seal::random::<KEY_LEN>().to_vec();
    let digest_key = secret::get_or_create(&mut tx, &sealer, DIGEST_KEY, now, make).await?;
    if first_start {
        group::insert(&mut tx, &NewGroup::named(DEFAULT_GROUP), now).await?;
    }
    tx.commit().await?;
    Ok(sealer.with_digest_key(digest_key.expose()))
}

fn unwrap(source: &KeySource, id: u32, wrapped: Vec<u8>, sealed_with: String) -> Result<[u8; KEY_LEN], OpenError> {
    let Some(master) = source.find(&sealed_with)? else {
        let path = source.file().expect("a key that was given reads").to_owned();
        return Err(OpenError::MissingSealingKey { path, sealed_with });
    };
    master.unwrap(id, wrapped).ok_or_else(|| wrong_key(&master, sealed_with))
}

/// Wraps the data keys, which `source` opens, with another sealing key; `false`: they are already. All in one transaction.
pub(crate) async fn reseal(db: &Db, source: &KeySource, next: &SealingKey) -> Result<bool, OpenError> {
    let mut tx = db.begin_alone().await?;
    let fingerprint = next.fingerprint();
    let mut changed = false;
    for row in tx.rows("SELECT id, wrapped, master FROM data_key ORDER BY id", &[]).await? {
        let (number, wrapped, sealed_with) = (row.int(0)?, row.blob(1)?, row.text(2)?);
        if sealed_with == fingerprint {
            continue;
        }
        let id = u32::try_from(number).map_err(|_| StoreError::corrupt("the id of a data key"))?;
        let wrapped = next.wrap(id, &unwrap(source, id, wrapped, sealed_with)?);
        let sql = "UPDATE data_key SET wrapped = $2, master = $3 WHERE id = $1";
        tx.run(sql, args![number, &wrapped[..], &fingerprint]).await?;
        changed = true;
    }
    tx.commit().await?;
    Ok(changed)
}

fn wrong_key(given: &SealingKey, sealed_with: String) -> OpenError {
    OpenError::WrongSealingKey { sealed_with, given: given.fingerprint() }
}

/// Holds off whoever publishes, as soon as there is a table of groups; who reads goes on. A publish takes its group's row, then rows of
/// other tables: it and a migration that took the tables in another order would wait for each other, until one of them is refused.
const GROUPS_FIRST: &str = "DO $$ BEGIN IF to_regclass('gateway_group') IS NOT NULL THEN \
                            LOCK TABLE gateway_group IN EXCLUSIVE MODE; END IF; END $$";

async fn migrate(tx: &mut Tx) -> Result<(), OpenError> {
    let postgres = matches!(tx, Tx::Pg(..));
    let migrations = MIGRATIONS.iter().map(|&(version, name, pg, lite)| {
        let sql = if postgres { pg } else { lite };
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let migrations: Vec<_> = migrations.collect();
    // Not left to the migrator, which writes even if nothing is to be done: a database that is read only for now may be read.
    if is_migrated(tx, &migrations).await? {
        return Ok(());
    }
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.dangerous_set_table_name("schema_migration");
    // Whoever is here has the bootstrap lock.
    migrator.set_locking(false);
    // What is newer is judged by the rule of the schema.
    migrator.set_ignore_missing(true);
    if postgres {
        // The migrator makes its table unless it is there, and PostgreSQL tells so at each start.
        tx.run("SET LOCAL client_min_messages = warning", &[]).await?;
        // An index on a long history takes as long as it takes.
        tx.run("SET LOCAL statement_timeout = 0", &[]).await?;
        // Whoever waits for a table keeps all others waiting who come later. So it gives up before they do, and tries again.
        let patience = format!("{}ms", (LOCK_TIMEOUT / 2).as_millis());
        tx.rows("SELECT set_config('lock_timeout', $1, TRUE)", args![&patience]).await?;
        tx.run(GROUPS_FIRST, &[]).await?;
    }
    let done = match tx {
        Tx::Pg(tx, _) => migrator.run_direct(None, &mut **tx, false).await,
        Tx::Lite(tx, _) => migrator.run_direct(None, &mut **tx, false).await,
    };
    done.map_err(|error| match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => match StoreError::from(cause) {
            passing if passing.may_pass() => OpenError::Store(passing),
            lasting => OpenError::Migration { cause: Box::new(lasting) },
        },
        other => OpenError::Migration { cause: Box::new(other) },
    })
}

/// Whether all of these migrations were applied as they are.
async fn is_migrated(tx: &mut Tx, migrations: &[Migration]) -> Result<bool, StoreError> {
    let table = tx.row(tx.has_migrations_sql(), &[]).await?;
    if !table.map(|row| row.flag(0)).transpose()?.unwrap_or(false) {
        return Ok(false);
    }
    let rows = tx.rows("SELECT version, checksum FROM schema_migration WHERE success", &[]).await?;
    let applied = rows.iter().map(|row| Ok((row.int(0)?.cast_signed(), row.blob(1)?)));
    let applied = applied.collect::<Result<BTreeMap<_, _>, StoreError>>()?;
    Ok(migrations
        .iter()
        .all(|migration| applied.get(&migration.version).is_some_and(|checksum| **checksum == *migration.checksum)))
}

/// Refuses a schema on which only newer programs may run; what was done in the transaction is undone with it.
async fn check_rule(tx: &mut Tx) -> Result<(), OpenError> {
    let known = newest_known().cast_signed();
    let newest = tx.row("SELECT MAX(version) FROM schema_migration", &[]).await?;
    let found = newest.map(|row| row.int_opt(0)).transpose()?.flatten().unwrap_or(0).cast_signed();
    if found <= known {
        return Ok(());
    }
    let rule = tx.row("SELECT oldest, release FROM schema_rule", &[]).await?;
    let rule = rule.ok_or_else(|| StoreError::corrupt("the rule of the schema"))?;
    let (oldest, release) = (rule.int(0)?.cast_signed(), rule.text(1)?);
    if oldest > known {
        return Err(OpenError::NewerSchema { found, known, release });
    }
    tracing::info!(
        found,
        known,
        "the database has a newer schema than this program, which may run on it: upgrade this replica too"
    );
    Ok(())
}
