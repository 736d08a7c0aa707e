//! Hearing of changes, by notice and without.

use milecastle_store::{DEFAULT_GROUP, GroupUpdate, NewGroup, PublishError, StoreError, Watch, open};
use milecastle_testkit::postgres::Cluster;
use milecastle_testkit::{SOON, wait_for};

use crate::home::{Home, ann, on_both, publish, put, revision, route};

on_both!(changes_of_another_store_are_heard, changes_without_a_notice_are_heard, groups_are_heard);

/// Waits until the default group is at `revision`.
async fn until(watch: &mut Watch, revision: u64) {
    while watch.heads()[DEFAULT_GROUP].revision < revision {
        watch.changed().await.unwrap();
    }
}

async fn changes_of_another_store_are_heard(home: Home) {
    let (one, other) = (home.open().await, home.open().await);
    let (mut here, mut there) = (one.watch(), other.watch());
    for n in 1..=5 {
        let revision = revision(&one, vec![put(route("1"), &n.to_string())]).await;
        until(&mut there, revision).await;
        until(&mut here, revision).await;
    }
    drop(one);
    assert_eq!(here.changed().await.map(|heads| heads.len()), None, "the watch ends with its store");
}

async fn changes_without_a_notice_are_heard(home: Home) {
    let store = home.open().await;
    let mut watch = store.watch();
    home.sql("UPDATE gateway_group SET head = 7").await;
    until(&mut watch, 7).await;
    // A database that went back is told as it is.
    home.sql("UPDATE gateway_group SET head = 3").await;
    while watch.heads()[DEFAULT_GROUP].revision != 3 {
        watch.changed().await.unwrap();
    }
}

async fn groups_are_heard(home: Home) {
    let store = home.open().await;
    let mut watch = store.watch();
    store.by(ann()).group_create(&NewGroup::named("test")).await.unwrap();
    assert!(watch.changed().await.unwrap().contains_key("test"));
    let epoch = watch.heads()["test"].epoch;
    store.by(ann()).group_update("test", &GroupUpdate::default()).await.unwrap();
    assert!(watch.changed().await.unwrap()["test"].epoch > epoch);
    store.by(ann()).group_delete("test", false).await.unwrap();
    assert!(!watch.changed().await.unwrap().contains_key("test"));
}

#[tokio::test]
async fn a_database_that_was_away_is_found_again() {
    let home = Home::sqlite("conformance::watching");
    let mut cluster = Cluster::start().unwrap();
    let dsn = cluster.dsn("postgres");
    let (one, other) = (open(&dsn, &home.key).await.unwrap(), open(&dsn, &home.key).await.unwrap());
    let mut watch = other.watch();
    revision(&one, vec![put(route("1"), "a")]).await;
    cluster.stop().unwrap();
    let refused = publish(&one, vec![put(route("1"), "b")]).await.unwrap_err();
    assert!(matches!(refused, PublishError::Store(StoreError::Unavailable(_))), "{refused}");
    cluster.resume().unwrap();
    let published = wait_for("a publish", SOON, async || publish(&one, vec![put(route("1"), "b")]).await.ok()).await;
    assert_eq!(published.revision, 2);
    until(&mut watch, 2).await;
}
