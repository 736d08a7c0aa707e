//! A disk that is full, and a commit that fails: what cannot be brought about from outside a SQLite store.

use milecastle_model::{Key, Kind};
use milecastle_testkit::TempDir;

use crate::{ChangeSet, DEFAULT_GROUP, KeySource, Op, PublishError, Put, Source, Store, StoreError, open};

async fn store(dir: &TempDir) -> Store {
    let dsn = format!("sqlite:{}", dir.path().join("store.db").display());
    open(&dsn, &KeySource::File(dir.path().join("sealing.key"))).await.unwrap()
}

async fn publish(store: &Store, body: String) -> Result<u64, PublishError> {
    let op = Op::Put(Put::new(Key::new(Kind::Route, "1"), body));
    let published = store.publish(DEFAULT_GROUP, ChangeSet::new("ann", Source::Api, vec![op])).await?;
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
