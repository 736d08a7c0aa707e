//! Upgrades from every schema that programs may still run on, while such a program writes on.
//!
//! What a release of before leaves is made of what this one leaves: a store is filled and set aside, and each table of the older schema
//! gets the rows of its namesake. The program of before is its publish, in the statements of then.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use milecastle_model::{Key, Kind};
use milecastle_store::{
    AuditFilter, AuditScope, DEFAULT_GROUP, DraftLimits, DraftUpdate, NewApiToken, NewPassword, Op, Put, Role,
    RoleGrant, RoleUpdate, SessionLimits, Store,
};
use milecastle_testkit::SOON;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqlSafeStr as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::home::{Home, ann, body, delete, nodes, on_both, put, revision, route, state, upstream};

on_both!(every_version_is_upgraded_while_it_writes);

/// Programs of before that write, and what this one writes beside them.
const WRITERS: usize = 2;
const WRITES: usize = 4;
/// After each write of a writer: on a slow disk two that never pause may keep SQLite's lock from all others.
const PAUSE: Duration = Duration::from_millis(5);
/// The first schema with an audit log.
const AUDIT: i64 = 11;
/// The table whose rows writers change.
const GROUPS: &str = "gateway_group";

async fn every_version_is_upgraded_while_it_writes(home: Home) {
    let store = home.open().await;
    let filled = fill(&store).await;
    store.close().await;
    let mut older = Older::connect(&home).await;
    let oldest: i64 = older.strings("SELECT CAST(oldest AS TEXT) FROM schema_rule").await[0].parse().unwrap();
    older.set_aside().await;
    older.close().await;
    let migrator = migrator(&home);
    let versions: Vec<i64> = migrator.iter().map(|migration| migration.version).collect();
    let (_, before) = versions.split_last().unwrap();
    for &version in before.iter().filter(|&&version| version >= oldest) {
        Box::pin(upgrade(&home, &migrator, version, filled)).await;
    }
}

/// A row or more in most tables; gives the revision that it comes to.
async fn fill(store: &Store) -> u64 {
    let sealed = Put { sealed: true, ..Put::new(Key::new(Kind::Ssl, "1"), body("sealed")) };
    revision(store, vec![Op::Put(sealed), put(upstream("1"), "a"), put(route("kept"), "a")]).await;
    let filled = revision(store, vec![put(route("kept"), "b"), delete(upstream("1"))]).await;
    store.secret_put("ca", b"authority").await.unwrap();
    nodes(store, &["n"]).await;
    let (by, grants) = (store.by(ann()), vec![RoleGrant::everywhere("viewer")]);
    by.admin_key_put("key", Role::Admin, &[2; 32]).await.unwrap();
    let password = NewPassword { hash: "p".to_owned(), must_change: false };
    assert!(by.account_create("ann", &password, &grants).await.unwrap());
    let limits = SessionLimits { idle: Duration::from_secs(3600), max: Duration::from_secs(43_200) };
    assert!(by.session_create(&[3; 32], "ann", "p", "192.0.2.1", limits).await.unwrap());
    let (id, name, created_by) = ("t".to_owned(), "ci".to_owned(), "ann".to_owned());
    let token = NewApiToken { id, name, hash: [4; 32], grants, created_by, expires_at: None };
    by.api_token_create(&token).await.unwrap();
    let role = RoleUpdate { description: "reads".to_owned(), allows: [("read".to_owned(), BTreeSet::new())].into() };
    by.role_create("dev", &role).await.unwrap();
    let limits = DraftLimits { drafts: 1, objects: 1, bytes: 1 };
    by.draft_create(DEFAULT_GROUP, "d", &DraftUpdate::default(), limits).await.unwrap();
    filled
}

/// Goes from one version to this one.
async fn upgrade(home: &Home, migrator: &Migrator, version: i64, filled: u64) {
    for name in ["store.db", "store.db-wal", "store.db-shm"].map(|name| home.path(name)) {
        if name.exists() {
            fs::remove_file(name).unwrap();
        }
    }
    let mut older = Older::connect(home).await;
    older.begin_at(migrator, version).await;
    let tables = older.tables().await;
    older.copy(&tables).await;
    let (done, mut acknowledged) = unbounded_channel();
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        writers.spawn(write_on(Older::connect(home).await, version, format!("old{n}"), done.clone()));
    }
    drop(done);
    hear(&mut acknowledged).await;
    // Replicas of this version start, two at once.
    let (store, other) = tokio::join!(home.open(), home.open());
    assert_eq!(older.lost(&tables).await, Vec::<String>::new(), "rows of version {version}");
    // Both versions write.
    let mut words = Vec::new();
    for n in 0..WRITES {
        let word = format!("new-{n}");
        revision(&store, vec![put(route("new"), &word)]).await;
        words.push(word);
    }
    while acknowledged.try_recv().is_ok() {}
    hear(&mut acknowledged).await;
    drop(acknowledged);
    let mut objects = vec![format!("/routes/new={}", body(words.last().unwrap()))];
    let mut audited = WRITES;
    for written in writers.join_all().await {
        let last = written.last().unwrap();
        let (id, _) = last.split_once('-').unwrap();
        objects.push(format!("/routes/{id}={}", body(last)));
        audited += if version >= AUDIT { written.len() } else { 0 };
        words.extend(written);
    }

    // What was acknowledged was done, once, and nothing else.
    let head = other.head(DEFAULT_GROUP).await.unwrap().revision;
    let made: Vec<u64> =
        other.history_list(DEFAULT_GROUP, None, head).await.unwrap().iter().map(|made| made.revision).collect();
    assert!(made.iter().rev().copied().eq(1..=head), "a gap after version {version}: {made:?}");
    let mut bodies = older.bodies_after(filled).await;
    bodies.sort();
    let mut written: Vec<String> = words.iter().map(|word| body(word)).collect();
    written.sort();
    assert_eq!(bodies, written, "writes at version {version}");
    let all = AuditScope { groups: None, access: true };
    let entries = other.audit_list(&AuditFilter::default(), &all, u64::MAX).await.unwrap();
    let entries: Vec<u64> = entries.iter().filter_map(|entry| entry.revision).filter(|&made| made > filled).collect();
    assert_eq!(entries.len(), audited, "audit log of version {version}");
    // And is what both replicas read.
    objects.extend([format!("/routes/kept={}", body("b")), format!("/ssls/1={}", body("sealed"))]);
    objects.sort();
    for store in [store, other] {
        let mut read = state(&store).await;
        read.sort();
        assert_eq!(read, objects, "state after version {version}");
        store.close().await;
    }
    older.close().await;
}

/// Writes until nobody listens any more; gives all that was acknowledged. Nothing may be refused.
async fn write_on(mut older: Older, version: i64, id: String, done: UnboundedSender<()>) -> Vec<String> {
    let mut words = Vec::new();
    loop {
        let word = format!("{id}-{}", words.len());
        let published = older.publish(version, &id, &word).await;
        published.unwrap_or_else(|refused| panic!("{word} at version {version} was refused: {refused}"));
        words.push(word);
        if done.send(()).is_err() {
            older.close().await;
            return words;
        }
        sleep(PAUSE).await;
    }
}

/// Waits until writers had some more writes acknowledged.
async fn hear(acknowledged: &mut UnboundedReceiver<()>) {
    for _ in 0..2 * WRITERS {
        acknowledged.recv().await.expect("a writer goes on");
    }
}

fn migrator(home: &Home) -> Migrator {
    let side = if home.database().is_some() { "postgres" } else { "sqlite" };
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations").join(side)).unwrap();
    let migrations = files.map(|file| {
        let path = file.unwrap().path();
        let (version, name) = path.file_stem().unwrap().to_str().unwrap().split_once('_').unwrap();
        let sql = AssertSqlSafe(fs::read_to_string(&path).unwrap()).into_sql_str();
        Migration::new(version.parse().unwrap(), name.to_owned().into(), MigrationType::Simple, sql, false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name("schema_migration");
    migrator.set_locking(false);
    migrator
}

/// A connection as a program of before has it.
enum Older {
    Pg(PgConnection),
    /// With the file in which the filled store is set aside.
    Lite(SqliteConnection, String),
}

impl Older {
    async fn connect(home: &Home) -> Older {
        if home.database().is_some() {
            // As long as those wait for a group.
            let options = PgConnectOptions::from_str(&home.dsn).unwrap().options([("lock_timeout", "10s")]);
            return Older::Pg(PgConnection::connect_with(&options).await.unwrap());
        }
        let options = SqliteConnectOptions::from_str(&home.dsn).unwrap().create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(SOON);
        let filled = home.path("filled.db").display().to_string();
        Older::Lite(SqliteConnection::connect_with(&options).await.unwrap(), filled)
    }

    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Older::Pg(connection) => connection.execute(sql).await.map(drop),
            Older::Lite(connection, _) => connection.execute(sql).await.map(drop),
        }
    }

    async fn strings(&mut self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Older::Pg(connection) => sqlx::query_scalar(sql).fetch_all(connection).await.unwrap(),
            Older::Lite(connection, _) => sqlx::query_scalar(sql).fetch_all(connection).await.unwrap(),
        }
    }

    /// To be awaited: the file of a connection that is only dropped may be in use for a while.
    async fn close(self) {
        match self {
            Older::Pg(connection) => connection.close().await.unwrap(),
            Older::Lite(connection, _) => connection.close().await.unwrap(),
        }
    }

    /// Sets aside all that the database has, as the schema `filled`.
    async fn set_aside(&mut self) {
        let sql = match self {
            Older::Pg(_) => "ALTER SCHEMA public RENAME TO filled".to_owned(),
            Older::Lite(_, filled) => format!("VACUUM INTO '{filled}'"),
        };
        self.run(&sql).await.unwrap();
    }

    /// Makes the database anew, with the schema of a version and no content.
    async fn begin_at(&mut self, migrator: &Migrator, version: i64) {
        match self {
            Older::Pg(connection) => {
                connection.execute("DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public").await.unwrap();
                migrator.run_direct(Some(version), connection, false).await.unwrap();
            }
            Older::Lite(connection, filled) => {
                let attach = AssertSqlSafe(format!("ATTACH '{filled}' AS filled"));
                connection.execute(attach).await.unwrap();
                migrator.run_direct(Some(version), connection, false).await.unwrap();
            }
        }
    }

    /// The tables and their columns, without numbers that PostgreSQL gives by itself.
    async fn tables(&mut self) -> Vec<(String, String)> {
        let sql = match self {
            Older::Pg(_) => {
                "SELECT table_name::text || ' ' || string_agg(column_name::text, ', ') FROM information_schema.columns \
                 WHERE table_schema = 'public' AND table_name <> 'schema_migration' AND is_identity = 'NO' \
                 GROUP BY table_name"
            }
            Older::Lite(..) => {
                "SELECT t.name || ' ' || group_concat(c.name, ', ') FROM main.sqlite_schema t, pragma_table_info(t.name) c \
                 WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name <> 'schema_migration' GROUP BY t.name"
            }
        };
        let tables = self.strings(sql).await;
        let names = tables.iter().map(|table| table.split_once(' ').unwrap());
        names.map(|(table, columns)| (table.to_owned(), columns.to_owned())).collect()
    }

    /// Gives the tables the rows that were set aside.
    async fn copy(&mut self, tables: &[(String, String)]) {
        let (unchecked, checked) = match self {
            Older::Pg(_) => ("SET session_replication_role = replica", "RESET session_replication_role"),
            Older::Lite(..) => ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON"),
        };
        self.run(unchecked).await.unwrap();
        for (table, columns) in tables {
            let insert = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM filled.{table}");
            self.run(&format!("DELETE FROM {table}; {insert}")).await.unwrap();
        }
        self.run(checked).await.unwrap();
    }

    /// The tables that have not all rows any more.
    async fn lost(&mut self, tables: &[(String, String)]) -> Vec<String> {
        let mut lost = Vec::new();
        for (table, columns) in tables.iter().filter(|(table, _)| table != GROUPS) {
            let gone = format!("SELECT {columns} FROM filled.{table} EXCEPT SELECT {columns} FROM {table}");
            let some = format!("SELECT '{table}' WHERE EXISTS ({gone})");
            lost.extend(self.strings(&some).await);
        }
        lost
    }

    /// The bodies that revisions after one put.
    async fn bodies_after(&mut self, revision: u64) -> Vec<String> {
        let body = match self {
            Older::Pg(_) => "convert_from(body, 'UTF8')",
            Older::Lite(..) => "CAST(body AS TEXT)",
        };
        self.strings(&format!("SELECT {body} FROM change WHERE revision > {revision}")).await
    }

    /// Puts a route, as programs of this version do.
    async fn publish(&mut self, version: i64, id: &str, word: &str) -> Result<(), sqlx::Error> {
        let body = body(word);
        let (begin, hold, body) = match self {
            Older::Pg(_) => ("BEGIN", "FOR NO KEY UPDATE", format!("convert_to('{body}', 'UTF8')")),
            Older::Lite(..) => ("BEGIN IMMEDIATE", "", format!("CAST('{body}' AS BLOB)")),
        };
        let group = format!("FROM {GROUPS} WHERE id = '{DEFAULT_GROUP}'");
        let object = format!("group_id = '{DEFAULT_GROUP}' AND kind = 'route' AND id = '{id}'");
        let audit = if version >= AUDIT {
            format!(
                "INSERT INTO audit (actor_kind, actor, actor_id, group_id, kind, object, action, outcome, revision) \
                 SELECT 'key', 'ann', 'ann', id, 'route', '{id}', 'update', 'done', head {group};"
            )
        } else {
            String::new()
        };
        self.run(&format!(
            "{begin}; SELECT lineage, head, floor {group} {hold}; \
             INSERT INTO resource (group_id, kind, id, body, sealed, created, modified) \
             SELECT id, 'route', '{id}', {body}, FALSE, head + 1, head + 1 {group} \
             ON CONFLICT (group_id, kind, id) DO UPDATE SET body = excluded.body, modified = excluded.modified; \
             INSERT INTO change_set (group_id, revision, author, message, source, at, puts, deletes, mark) \
             SELECT id, head + 1, 'ann', '', 'api', 1, 1, 0, '{word}' {group}; \
             INSERT INTO change (group_id, revision, kind, id, body, sealed, created) \
             SELECT group_id, modified, kind, id, body, sealed, created FROM resource WHERE {object}; \
             UPDATE {GROUPS} SET head = head + 1 WHERE id = '{DEFAULT_GROUP}'; {audit} COMMIT"
        ))
        .await
    }
}
