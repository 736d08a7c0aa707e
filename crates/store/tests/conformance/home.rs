//! A database of a test's own, on either side, and the words that tests share.

use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;
use std::{env, fs};

use milecastle_model::{Key, Kind};
use milecastle_store::{
    Actor, ActorKind, ChangeSet, DEFAULT_GROUP, Delete, KeySource, NewNode, NewToken, Op, Outcome, PublishError,
    Published, Put, Source, Store, Term, Tuning, open_with,
};
use milecastle_testkit::postgres::Database;
use milecastle_testkit::{SOON, TempDir};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::process::{Child, Command};

/// The environment of a process that a test started from its own program: connection string, key file and role.
const CHILD: [&str; 3] = ["MILECASTLE_STORE_TEST_DSN", "MILECASTLE_STORE_TEST_KEY", "MILECASTLE_STORE_TEST_ROLE"];

/// Makes each of the functions a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let test = concat!(module_path!(), "::", stringify!($name));
                Box::pin(super::$name($crate::home::Home::sqlite(test))).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let test = concat!(module_path!(), "::", stringify!($name));
                Box::pin(super::$name($crate::home::Home::postgres(test))).await;
            })+
        }
    };
}
pub(crate) use on_both;

/// Where a store lives.
pub(crate) struct Home {
    pub(crate) dsn: String,
    pub(crate) key: KeySource,
    /// What this process is to do, if a test started it.
    pub(crate) role: Option<String>,
    test: String,
    dir: TempDir,
    database: Option<Database>,
}

impl Home {
    pub(crate) fn sqlite(test: &str) -> Home {
        Home::new(test, |dir| (format!("sqlite:{}/store.db", dir.path().display()), None))
    }

    pub(crate) fn postgres(test: &str) -> Home {
        Home::new(test, |_| {
            let database = Database::create().unwrap();
            (database.dsn().to_owned(), Some(database))
        })
    }

    fn new(test: &str, make: impl FnOnce(&TempDir) -> (String, Option<Database>)) -> Home {
        let dir = TempDir::new();
        let test = test.split_once("::").unwrap().1.to_owned();
        if let [Ok(dsn), Ok(key), Ok(role)] = CHILD.map(env::var) {
            return Home { dsn, key: KeySource::File(key.into()), role: Some(role), test, dir, database: None };
        }
        let (dsn, database) = make(&dir);
        Home { dsn, key: KeySource::File(dir.path().join("sealing.key")), role: None, test, dir, database }
    }

    pub(crate) async fn open(&self) -> Store {
        // Many writers queue here, on machines that are busy with other things.
        let tuning = Tuning { acquire_timeout: SOON, ..Tuning::default() };
        open_with(&self.dsn, &self.key, &tuning).await.unwrap()
    }

    /// The path of a file of this test.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Starts this very test in another process, where [`Home::role`] is `role`. It is killed when dropped.
    pub(crate) fn spawn(&self, role: &str) -> Child {
        let KeySource::File(key) = &self.key else { unreachable!("tests seal with a file") };
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", &self.test, "--nocapture"]).kill_on_drop(true);
        command.env(CHILD[0], &self.dsn).env(CHILD[1], key).env(CHILD[2], role);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Everything that reached the disk: SQLite's files as they are, a dump of PostgreSQL.
    pub(crate) fn on_disk(&self) -> Vec<u8> {
        if let Some(database) = &self.database {
            return database.dump().unwrap().into_bytes();
        }
        let files = ["store.db", "store.db-wal"].map(|name| fs::read(self.path(name)).unwrap_or_default());
        files.concat()
    }

    /// Does something behind the store's back.
    pub(crate) async fn sql(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        if self.database.is_some() {
            sqlx::PgConnection::connect(&self.dsn).await.unwrap().execute(sql).await.unwrap();
        } else {
            sqlx::SqliteConnection::connect(&self.dsn).await.unwrap().execute(sql).await.unwrap();
        }
    }

    /// The database itself, if it is PostgreSQL.
    pub(crate) fn database(&self) -> Option<&Database> {
        self.database.as_ref()
    }
}

pub(crate) fn route(id: &str) -> Key {
    Key::new(Kind::Route, id)
}

pub(crate) fn upstream(id: &str) -> Key {
    Key::new(Kind::Upstream, id)
}

/// A body unlike those for other words.
pub(crate) fn body(word: &str) -> String {
    format!(r#"{{"desc":"{word}"}}"#)
}

pub(crate) fn put(key: Key, word: &str) -> Op {
    Op::Put(Put::new(key, body(word)))
}

pub(crate) fn delete(key: Key) -> Op {
    Op::Delete(Delete::new(key))
}

/// Who does what these tests do.
pub(crate) fn ann() -> &'static Actor {
    static ANN: LazyLock<Actor> = LazyLock::new(|| Actor::new(ActorKind::AdminKey, "ann"));
    &ANN
}

pub(crate) fn set(ops: Vec<Op>) -> ChangeSet {
    ChangeSet::new(Source::Api, ops)
}

/// Publishes to the default group.
pub(crate) async fn publish(store: &Store, ops: Vec<Op>) -> Result<Published, PublishError> {
    store.by(ann()).publish(DEFAULT_GROUP, set(ops)).await
}

/// The revision that publishing makes; it must make one.
pub(crate) async fn revision(store: &Store, ops: Vec<Op>) -> u64 {
    let published = publish(store, ops).await.unwrap();
    assert!(published.changed);
    published.revision
}

/// An outcome in short: a letter, and for an object created and modified revision.
pub(crate) fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Created(object) => format!("C{}/{}", object.created, object.modified),
        Outcome::Replaced(object) => format!("R{}/{}", object.created, object.modified),
        Outcome::Unchanged(object) => format!("U{}/{}", object.created, object.modified),
        Outcome::Deleted => "D".to_owned(),
        Outcome::Absent => "A".to_owned(),
    }
}

/// The objects of the default group as `path=body`.
pub(crate) async fn state(store: &Store) -> Vec<String> {
    let objects = store.load(DEFAULT_GROUP).await.unwrap().objects;
    objects.iter().map(|object| format!("{}={}", object.key, String::from_utf8_lossy(&object.body))).collect()
}

/// Nodes that have joined the default group.
pub(crate) async fn nodes(store: &Store, ids: &[&str]) {
    let token = NewToken {
        id: "t".to_owned(),
        group: DEFAULT_GROUP.to_owned(),
        name: "t".to_owned(),
        hash: [1; 32],
        expires_at: None,
    };
    store.by(ann()).token_create(&token).await.unwrap();
    for id in ids {
        let node = NewNode {
            group: DEFAULT_GROUP.to_owned(),
            id: (*id).to_owned(),
            token: "t".to_owned(),
            certificate: String::new(),
            host: String::new(),
            version: String::new(),
        };
        assert!(store.node_join(&node).await.unwrap());
    }
}

/// A term of office that outlasts the test.
pub(crate) async fn office(store: &Store) -> Term<'static> {
    let epoch = store.lease_take("leader", "test", Duration::from_secs(600)).await.unwrap().unwrap();
    Term { lease: "leader", holder: "test", epoch }
}
