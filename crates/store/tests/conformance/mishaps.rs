//! Writes that are given up, connections that break, files that go away under an open store.

use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::join_all;
use milecastle_store::{Body, DEFAULT_GROUP, Op, Put, Role, Slot, Store, Tuning, open, open_with};
use sqlx::{Connection as _, Executor as _};

use crate::home::{Home, ann, body, on_both, publish, put, revision, route, state};

on_both!(writes_given_up_half_way_leave_the_connections_sound);

/// Follows a future for so many polls, then drops it; `None` if it was not done by then.
async fn given_up<T>(future: impl Future<Output = T>, mut polls: u8) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

/// One connection beside that of the notices, so that a spoilt one is used again.
async fn open_narrow(home: &Home) -> Store {
    open_with(&home.dsn, &home.key, &Tuning { max_connections: 2, ..Tuning::default() }).await.unwrap()
}

async fn writes_given_up_half_way_leave_the_connections_sound(home: Home) {
    let (store, other) = (open_narrow(&home).await, home.open().await);
    let mut done = 0;
    for polls in 0..=u8::MAX {
        let word = format!("word {polls}");
        let op = put(route("1"), &word);
        done += usize::from(Box::pin(given_up(publish(&store, vec![op]), polls)).await.is_some());
        Box::pin(given_up(store.load(DEFAULT_GROUP), polls)).await.transpose().unwrap();
        // What is acknowledged is there for everybody, not just in a transaction left open.
        store.by(ann()).admin_key_put(&word, Role::Viewer, &[polls; 32]).await.unwrap();
        assert!(other.admin_key_list().await.unwrap().iter().any(|key| key.name == word), "{word} is lost");
        if done == 3 {
            break;
        }
    }
    assert_eq!(done, 3, "the writes were never let run to their end");
    let head = store.head(DEFAULT_GROUP).await.unwrap().revision;
    assert_eq!(revision(&store, vec![put(route("2"), "last")]).await, head + 1);
    for revision in 1..=head {
        assert!(store.history_get(DEFAULT_GROUP, revision).await.unwrap().is_some(), "{revision} of {head} is missing");
    }
}

/// A write during which something happens, while its transaction is open.
async fn publish_during(store: &Store, happens: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let make = move |_: &Slot<'_>| {
        happens();
        Bytes::from(body("during"))
    };
    let op = Op::Put(Put { body: Body::make(make), ..Put::new(route("during"), "") });
    publish(store, vec![op]).await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_connection_that_is_killed_in_a_transaction_is_replaced() {
    let home = Home::postgres("conformance::mishaps");
    let store = open_narrow(&home).await;
    revision(&store, vec![put(route("1"), "kept")]).await;
    let dsn = home.dsn.clone();
    let kill = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::spawn(move || runtime.block_on(kill_transactions(&dsn))).join().unwrap();
    };
    let broken = publish_during(&store, kill).await.unwrap_err();
    assert!(broken.starts_with("the database is not available: "), "{broken}");
    assert_eq!(state(&store).await, ["/routes/1={\"desc\":\"kept\"}"]);
    publish_during(&store, || ()).await.unwrap();
}

/// Ends every other connection to the database that is in a transaction.
async fn kill_transactions(dsn: &str) {
    let mut connection = sqlx::PgConnection::connect(dsn).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = current_database() AND state = 'idle in transaction'";
    assert_eq!(connection.execute(kill).await.unwrap().rows_affected(), 1);
}

fn refusal(refused: Result<(), String>, path: &Path) {
    let said = refused.expect_err("a write to a file that is gone was acknowledged");
    let expected =
        format!("the database is not available: {} was deleted or replaced while it was open", path.display());
    assert!(said.contains(&expected) && said.contains("put that very file back, or restart"), "{said}");
}

#[tokio::test]
async fn nothing_is_acknowledged_once_the_file_is_gone() {
    for (file, moved) in [("store.db", "aside.db"), ("store.db-wal", "aside.db-wal")] {
        let home = Home::sqlite("conformance::mishaps");
        let store = home.open().await;
        revision(&store, vec![put(route("1"), "kept")]).await;
        let (path, aside) = (home.path(file), home.path(moved));
        fs::rename(&path, &aside).unwrap();
        refusal(publish(&store, vec![put(route("2"), "lost")]).await.map(drop).map_err(|e| e.to_string()), &path);
        refusal(store.by(ann()).admin_key_put("a", Role::Admin, &[0; 32]).await.map_err(|e| e.to_string()), &path);
        refusal(store.ping().await.map_err(|e| e.to_string()), &path);
        fs::write(&path, fs::read(&aside).unwrap()).unwrap();
        refusal(publish(&store, vec![put(route("2"), "lost")]).await.map(drop).map_err(|e| e.to_string()), &path);
        // More readers at once than have ever read before.
        let states = join_all((0..8).map(|_| state(&store))).await;
        assert_eq!(states, vec![["/routes/1={\"desc\":\"kept\"}"]; 8], "what is open can still be read");
        fs::rename(&aside, &path).unwrap();
        revision(&store, vec![put(route("2"), "back")]).await;
        store.close().await;
        let again = open(&home.dsn, &home.key).await.unwrap();
        assert_eq!(state(&again).await, ["/routes/1={\"desc\":\"kept\"}", "/routes/2={\"desc\":\"back\"}"]);
    }
}

#[tokio::test]
async fn a_file_that_goes_while_a_write_is_under_way_takes_it_along() {
    let home = Home::sqlite("conformance::mishaps");
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "kept")]).await;
    let (path, aside) = (home.path("store.db"), home.path("aside.db"));
    let (from, to) = (path.clone(), aside.clone());
    refusal(publish_during(&store, move || fs::rename(from, to).unwrap()).await, &path);
    fs::rename(aside, path).unwrap();
    assert_eq!(state(&store).await, ["/routes/1={\"desc\":\"kept\"}"]);
    publish_during(&store, || ()).await.unwrap();
}
