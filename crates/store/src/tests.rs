//! A disk that is full, a commit that fails, and one that nobody waits for: what cannot be brought about from outside a store.

use std::io;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use milecastle_model::{Key, Kind};
use milecastle_testkit::TempDir;
use milecastle_testkit::postgres::Database;

use crate::sql::args;
use crate::{
    Actor, ActorKind, ChangeSet, DEFAULT_GROUP, KeySource, Op, PublishError, Put, Source, Store, StoreError, open,
};

async fn store(dir: &TempDir) -> Store {
    let dsn = format!("sqlite:{}", dir.path().join("store.db").display());
    open(&dsn, &KeySource::File(dir.path().join("sealing.key"))).await.unwrap()
}

async fn publish(store: &Store, body: String) -> Result<u64, PublishError> {
    let op = Op::Put(Put::new(Key::new(Kind::Route, "1"), body));
    let ann = Actor::new(ActorKind::AdminKey, "ann");
    let published = store.by(&ann).publish(DEFAULT_GROUP, ChangeSet::new(Source::Api, vec![op])).await?;
    assert!(published.changed);
    Ok(published.revision)
}

#[tokio::test]
async fn a_store_that_was_full_writes_again_when_there_is_room() {
    let dir = TempDir::new();
    let store = store(&dir).await;
    assert_eq!(publish(&store, "{}".into()).await.unwrap(), 1);
    for round in 0..3 {
        // SQLite then says what it says of a full disk. It holds for this connection alone, so a new one has room.
        store.0.db.run("PRAGMA max_page_count = 1", &[]).await.unwrap();
        let full = publish(&store, format!("{{\"desc\":\"{}\"}}", "x".repeat(1 << 20))).await.unwrap_err();
        assert!(matches!(full, PublishError::Store(StoreError::Unavailable(_))), "{full}");
        assert!(full.to_string().contains("full"), "{full}");
        assert_eq!(publish(&store, format!("{{\"desc\":\"{round}\"}}")).await.unwrap(), 2 + round);
    }
}

#[tokio::test]
async fn a_commit_that_fails_is_rolled_back() {
    let dir = TempDir::new();
    let store = store(&dir).await;
    for round in 0..3 {
        let mut tx = store.0.db.begin_write().await.unwrap();
        tx.run("PRAGMA defer_foreign_keys = ON", &[]).await.unwrap();
        let orphan = "INSERT INTO change_set (group_id, revision, author, message, source, at, puts, deletes) \
                      VALUES ('nowhere', 1, '', '', 'api', 0, 0, 0)";
        tx.run(orphan, &[]).await.unwrap();
        assert!(matches!(tx.commit().await, Err(StoreError::Database(_))));
        assert_eq!(publish(&store, format!("{{\"desc\":\"{round}\"}}")).await.unwrap(), 1 + round);
    }
}

/// What is logged at level WARN or above.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_is_carried_out_and_not_taken_back() {
    const COMMITS: usize = 10;
    let (database, dir, logged) = (Database::create().unwrap(), TempDir::new(), Logged::default());
    let written = logged.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(move || written.clone());
    let _capture = tracing::subscriber::set_default(subscriber.finish());
    let store = open(database.dsn(), &KeySource::File(dir.path().join("sealing.key"))).await.unwrap();
    for n in 0..COMMITS {
        let mut tx = store.0.db.begin_write().await.unwrap();
        let sql = "INSERT INTO admin_key (name, role, hash, created_at) VALUES ($1, 'viewer', $2, 0)";
        tx.run(sql, args![&n.to_string(), &[u8::try_from(n).unwrap(); 32][..]]).await.unwrap();
        let commit = tx.commit();
        tokio::pin!(commit);
        // On its way by now, and given up, as by a client that leaves.
        assert!(commit.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    milecastle_testkit::eventually("all are committed", async || {
        store.admin_key_list().await.unwrap().len() == COMMITS
    })
    .await;
    // Once every connection is back, all that the database said was read.
    store.close().await;
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    assert_eq!(logged, "");
}
